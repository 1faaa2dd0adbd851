"""Files of weights, with metadata: read without executing code, written atomically.

A release is a .safetensors file with these text metadata:

format          "pt", as other readers of safetensors expect
hrpose_release  "1", the version of this list
hrpose          the version of hrpose that wrote it
tensors_sha256  `checksum` of its tensors; verified whenever the file is read
skeleton        JSON: joints, sigmas, grouping_order, limbs   } of a complete network;
convention      of coordinates                                } a backbone has
config          YAML: what the network is built from          } none of them

A .pth file is torch's own: {"model": tensors} with the same metadata beside it, as in the
checkpoints of a run, or bare tensors without metadata, as in the published files.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrpose.models.weight_cache import local_file, with_metadata
from hrpose.models.zoo import zoo_file
from hrpose.ops.atomic_io import (
    DiskFullError,
    atomic_write,
    check_writable,
    find_damage,
    parse_json,
)

STAND_INS = (
    ("mmengine.logging.history_buffer", "HistoryBuffer"),
    ("builtins", "getattr"),  # for the methods that a HistoryBuffer holds
    *(("numpy", name) for name in ("ndarray", "dtype")),  # beside the weights, in meta and perf
    *(("numpy.core.multiarray", name) for name in ("_reconstruct", "scalar")),  # NumPy 1
    *(("numpy._core.multiarray", name) for name in ("_reconstruct", "scalar")),  # NumPy 2
)
"""Modules and names in files of other programs, for which objects without effect are created."""

_RUNS_CODE = (
    "and unpickling runs code. If you trust it, load it with torch yourself and save only its "
    "state dict"
)

RELEASE = "1"
"""Version of the metadata above; files of another version are refused."""

Metadata = Mapping[str, Any]
"""name -> text, or JSON-serializable data"""


# Reading --------------------------------------------------------------------------------------


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The contents of a file of weights. No code in it is executed; checksums are compared: one
    beside the file (x.pth.sha256), those in a .pth, and that of a release.

    path: a file, or zoo:<name>, which is fetched if it is not at hand (models/weight_cache.py)
    Errors: FileNotFoundError; ValueError for another kind of file, or a damaged one
    """
    row, path = zoo_file(path), local_file(path)
    if not path.is_file():
        of_a_run = "output/<config>/<time>/checkpoints/best.pth"
        raise FileNotFoundError(f"there is no file of weights at {path} (a run's: {of_a_run})")
    damage = find_damage(path)
    if damage:
        raise ValueError(f"{path} is damaged: {damage}; fetch it again, or use another checkpoint")
    contents = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return with_metadata(row, contents) if row else contents


def _read_torch(path: Path) -> dict[str, Any]:
    """The contents; of a file with objects of STAND_INS the tensors alone."""
    if path.suffix == ".pdparams":
        raise ValueError(
            f"{path} is Paddle's: a pickle of arrays, under names of which no list of a real file "
            "is at hand to map them by. The same networks are published for PyTorch, by their "
            "authors and by mmpose (docs/weights.md): take those"
        )
    with _readable(path):
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # of an object that torch does not know
            inert: list[Any] = [
                type(name, (_Inert,), {"__module__": module}) for module, name in STAND_INS
            ]
            with torch.serialization.safe_globals(inert):  # which finds them by these names
                contents = torch.load(path, map_location="cpu", weights_only=True)
            contents = _tensors_alone(contents) or {}
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}, not named tensors")
    return dict(contents)


class _Inert:
    """Takes whatever it is given, and keeps and does nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _tensors_alone(value: Any) -> Any:
    """The tensors in nested mappings, without all else; None if there are none."""
    if isinstance(value, Mapping):
        found = {name: _tensors_alone(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not None} or None
    return value if isinstance(value, Tensor) else None


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors under `model`, and the metadata beside them."""
    package = _safetensors(path)
    with _readable(path), package.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata: dict[str, Any] = file.metadata() or {}
    if metadata.get("hrpose_release", RELEASE) != RELEASE:
        raise ValueError(
            f"{path} is a release of format {metadata['hrpose_release']}, written by hrpose "
            f"{metadata.get('hrpose')}; this one reads format {RELEASE}: upgrade it"
        )
    expected = metadata.get("tensors_sha256")  # releases always have it, other files need not
    if (expected or "hrpose_release" in metadata) and expected != checksum(tensors):
        raise ValueError(
            f"{path} is damaged: its tensors are not those that were written, as its checksum "
            "shows; fetch it again"
        )
    if "skeleton" in metadata:
        metadata["skeleton"] = _parse_skeleton(path, metadata["skeleton"])
    return {**metadata, "model": tensors}


def _parse_skeleton(path: Path, text: str) -> dict[str, Any]:
    try:
        skeleton = parse_json(text)
    except ValueError:
        skeleton = None
    if not isinstance(skeleton, dict) or not isinstance(skeleton.get("joints"), list):
        raise ValueError(
            f"{path}: `skeleton` in its metadata is {text!r:.60}; expected JSON "
            'such as {"joints": ["nose", ...], ...}. Write the file with tools/convert.py'
        )
    return skeleton


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into a ValueError with the cause and the cure."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged file may raise any exception
        whole = zipfile.is_zipfile(path) or "unsupported global" in str(error).lower()
        if whole and isinstance(error, pickle.UnpicklingError):
            what = "holds pickled objects beside its tensors"
            raise ValueError(f"{path} {what}, {_RUNS_CODE}") from error
        if tarfile.is_tarfile(path):
            what = "is a tar archive. Unpack it, unless torch wrote it so: it is a pickle then"
            raise ValueError(f"{path} {what}, {_RUNS_CODE}") from error
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is cut short or is no file of weights "
            f"({type(error).__name__}); compare its size and checksum with the original, then "
            "fetch it again"
        ) from error


def _safetensors(path: Path) -> Any:
    """The package safetensors, which is optional."""
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise ValueError(
            f"{path}: files of this kind need a package that is not installed; "
            'pip install "safetensors>=0.4"'
        ) from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors in the order of their names.

    Each contributes a line of JSON, ["name", "float32", [sizes]], and its little-endian bytes, the
    last index fastest.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{json.dumps([name, kind, list(tensor.shape)])}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Writing --------------------------------------------------------------------------------------


def check_target(path: Path) -> None:
    """Raise an error for a file that could not be written, before the weights are computed."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: a file of weights ends in {' or '.join(WRITERS)}")
    if path.exists():
        raise FileExistsError(f"{path} exists, and is not overwritten; remove it, or name another")
    check_writable(path)
    if path.suffix == ".safetensors":
        _safetensors(path)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> str:
    """Write a file of weights in the format of its suffix; returns its SHA-256."""
    content = WRITERS[path.suffix](tensors, metadata)
    try:
        atomic_write(path, lambda file: file.write(content))
    except DiskFullError:
        raise
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error}; name a file in a folder that you may write to"
        ) from error
    return hashlib.sha256(content).hexdigest()


def _torch_bytes(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": dict(tensors), **metadata} if metadata else dict(tensors), buffer)
    return buffer.getvalue()


def _safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    """safetensors writes metadata in any order; its header is sorted here, so that the same release
    always has the same SHA-256.

    Layout: the header's length in 8 bytes, little-endian; the header, JSON; the tensors' bytes.
    """
    package = importlib.import_module("safetensors.torch")
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    marks = {"format": "pt", "hrpose_release": RELEASE, "tensors_sha256": checksum(plain)}
    content = package.save(plain, {**texts, **marks})
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + content[end:]


WRITERS: dict[str, Callable[[Mapping[str, Tensor], Metadata], bytes]] = {
    ".safetensors": _safetensors_bytes,
    ".pth": _torch_bytes,
}
