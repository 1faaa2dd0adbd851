"""Simulated GPUs: builds and loads backend.cpp, and lets torch see it as CUDA.

Import it before torch, which decides once whether there is CUDA, then call `install`. Kernels are
the CPU's. Tensors of two devices do not mix, none of a device becomes a NumPy array, and the
autograd engine has a thread for each device. Host syncs, copies and contexts are counted. Neither
speed nor cuDNN, Triton, NCCL or errors that a GPU reports late are simulated.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SOURCE = Path(__file__).with_name("backend.cpp")
TORCH = Path(importlib.util.find_spec("torch").origin).parent
COMPILER = os.environ.get("CXX", "c++")


def build() -> Path:
    """The shared library for this torch: built once, by the first process that needs it."""
    version = (TORCH / "version.py").read_bytes()
    key = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"hrpose_simulated_cuda_{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            _compile(library.with_suffix(".part"))
            library.with_suffix(".part").rename(library)
    return library


def _compile(target: Path) -> None:
    command = [COMPILER, "-std=c++20", "-O1", "-g0", "-fPIC", "-shared", "-w", str(SOURCE)]
    command += ["-o", str(target), "-isystem", f"{TORCH}/include"]
    command += ["-isystem", f"{TORCH}/include/torch/csrc/api/include"]
    command += [f"-L{TORCH}/lib", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{TORCH}/lib"]
    subprocess.run(command, check=True)


def _load() -> ctypes.CDLL:
    assert "torch" not in sys.modules, "import this first: torch decides once if there is CUDA"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(TORCH / "lib" / name), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)
    library.sim_stop_counting.restype = ctypes.c_char_p
    library.sim_peak_memory.restype = ctypes.c_int64
    return library


LIBRARY = _load()

import torch  # noqa: E402  after the library
import torch._utils  # noqa: E402
from torch.nn.parallel import comm, data_parallel  # noqa: E402


def contexts() -> list[int]:
    """The devices on which CUDA would have a context by now."""
    bits = LIBRARY.sim_contexts()
    return [i for i in range(32) if bits >> i & 1]


def start_counting() -> None:
    LIBRARY.sim_start_counting()


def stop_counting() -> dict[str, int]:
    """Operator, copy or sync -> how often, since the counting was started."""
    lines = LIBRARY.sim_stop_counting().decode().splitlines()
    return {name: int(times) for name, times in (line.split("\t") for line in lines)}


# torch.cuda and torch.accelerator ----------------------------------------------------------------


class Stream:
    """The only one of a device; it never lags behind."""

    def __init__(self, device: Any = None):
        self.device = torch.device("cuda", _index(device))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def is_capturing(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass


class CurrentDevice:
    """torch.accelerator.device_index"""

    def __init__(self, index: int | None):
        self.index = -1 if index is None else index

    def __enter__(self) -> None:
        self.before = LIBRARY.sim_exchange(self.index)

    def __exit__(self, *_: object) -> None:
        LIBRARY.sim_exchange(self.before)


PROPERTIES = SimpleNamespace(total_memory=80 * 2**30, multi_processor_count=132)


def install(count: int) -> None:
    """Let torch see `count` GPUs."""
    LIBRARY.sim_set_device_count(count)
    places = {torch.cuda: OF_CUDA, torch.accelerator: OF_ACCELERATOR, torch._C: OF_C}
    for module, functions in places.items():
        for name, function in functions.items():
            setattr(module, name, function if isinstance(function, type) else _own(function))
    torch.UntypedStorage.clone = _clone_storage
    _install_data_parallel()


def _own(function: Callable) -> Callable:
    """A function of its own: torch._dynamo has a rule for each, and ctypes' have no hash."""
    return lambda *given, **options: function(*given, **options)


def _nothing(*_: object, **__: object) -> None:
    pass


def _index(device: Any) -> int:
    if device is None:
        return LIBRARY.sim_current()
    index = device if isinstance(device, int) else torch.device(device).index
    return LIBRARY.sim_current() if index is None else index


def _set_device(device: Any) -> None:
    index = _index(device)
    if index >= LIBRARY.sim_device_count():
        raise RuntimeError("CUDA error: invalid device ordinal")
    LIBRARY.sim_exchange(index)


NOTHING = (
    *("_lazy_init", "init", "synchronize", "empty_cache"),
    *("manual_seed", "manual_seed_all", "set_rng_state"),
)
OF_BOTH = {
    "is_available": lambda: True,
    "device_count": LIBRARY.sim_device_count,
    "current_stream": Stream,
}
OF_CUDA = {
    **OF_BOTH,
    **dict.fromkeys(NOTHING, _nothing),
    "is_initialized": lambda: True,
    "current_device": LIBRARY.sim_current,
    "set_device": _set_device,
    "_exchange_device": LIBRARY.sim_exchange,
    "_maybe_exchange_device": LIBRARY.sim_exchange,
    "max_memory_allocated": lambda device=None: LIBRARY.sim_peak_memory(),
    "reset_peak_memory_stats": lambda device=None: LIBRARY.sim_reset_peak_memory(),
    "get_device_name": lambda device=None: f"simulated GPU {_index(device)}",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: PROPERTIES,
    "is_bf16_supported": lambda including_emulation=True: True,
    "is_current_stream_capturing": lambda: False,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
}
OF_ACCELERATOR = {
    **OF_BOTH,
    "current_accelerator": lambda check_available=False: torch.device("cuda"),
    "current_device_index": LIBRARY.sim_current,
    "set_device_index": _set_device,
    "device_index": CurrentDevice,
}
OF_C = {"_cuda_getDevice": LIBRARY.sim_current, "_cuda_setDevice": _set_device}


def _clone_storage(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """What copy.deepcopy needs of a storage."""
    copy = torch.empty(storage.nbytes(), dtype=torch.uint8, device=storage.device)
    return copy.untyped_storage().copy_(storage)


# nn.DataParallel: torch's own, but for the copies between GPUs, which are part of its C++ ---------


def _install_data_parallel() -> None:
    modules: tuple[ModuleType, ...] = (torch._utils, data_parallel)
    for module in modules:
        module._get_available_device_type = lambda: "cuda"
    data_parallel._get_devices_properties = lambda devices: [PROPERTIES for _ in devices]
    comm.scatter, comm.gather = _scatter, _gather
    comm.broadcast_coalesced, comm.reduce_add_coalesced = _broadcast, _reduce_add


def _to(tensor: torch.Tensor, index: int) -> torch.Tensor:
    return tensor.to(torch.device("cuda", index), non_blocking=True)


def _scatter(tensor, devices, chunk_sizes=None, dim=0, streams=None):
    parts = tensor.split(chunk_sizes, dim) if chunk_sizes else tensor.chunk(len(devices), dim)
    return tuple(_to(part, device) for part, device in zip(parts, devices))


def _gather(tensors, dim=0, destination=None):
    return torch.cat([_to(tensor, _index(destination)) for tensor in tensors], dim)


def _broadcast(tensors, devices, buffer_size=0):
    """The first device has the tensors themselves; all others have contiguous copies."""
    copies = [[_to(tensor.contiguous(), device) for tensor in tensors] for device in devices[1:]]
    return [list(tensors), *copies]


def _reduce_add(inputs, destination=None, buffer_size=0):
    return tuple(
        torch.stack([_to(part, destination) for part in parts]).sum(0) for parts in zip(*inputs)
    )
