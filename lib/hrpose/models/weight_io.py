"""Files of weights: read without running code, written whole, with what a reader must know.

A release is a .safetensors file, whose metadata are texts under these names:

format          "pt", as other readers of safetensors expect
hrpose_release  "1", the version of this list
hrpose          the version of hrpose that wrote it
tensors_sha256  `checksum` of its tensors; compared whenever the file is read
skeleton        JSON: joints, sigmas, grouping_order, limbs   } of a whole network;
convention      of coordinates                                } a backbone alone
config          YAML: what the network is built from          } has none of them

A .pth file is torch's own: {"model": tensors} and the same facts beside them, as in the checkpoints
of a run, or bare tensors where there are no facts, as in the published files.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrpose.ops.atomic_io import DiskFullError, atomic_write, check_writable, parse_json

RELEASE = "1"
"""Version of the metadata above; another one is refused, not guessed at."""

Metadata = Mapping[str, Any]
"""name -> text, or what JSON can hold"""


# Reading --------------------------------------------------------------------------------------


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file of weights holds; no code in it is ever run, and a release is verified."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights at {path}")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_torch(path: Path) -> dict[str, Any]:
    with _readable(path):
        contents = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(contents, Mapping):
        raise ValueError(f"{path} holds a {type(contents).__name__}, not named tensors")
    return dict(contents)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors under `model`, and the metadata beside them."""
    safetensors = _safetensors(path)
    with _readable(path), safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    _refuse_other_release(path, metadata)
    _refuse_changed(path, metadata, tensors)
    return {**metadata, **_skeleton(path, metadata), "model": tensors}


def _refuse_other_release(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("hrpose_release", RELEASE) != RELEASE:
        raise ValueError(
            f"{path} is a release of format {metadata['hrpose_release']}, written by hrpose "
            f"{metadata.get('hrpose')}; this one reads format {RELEASE}: upgrade it"
        )


def _refuse_changed(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Files of other programs have no checksum; releases always have."""
    wanted = metadata.get("tensors_sha256")
    if (wanted or "hrpose_release" in metadata) and wanted != checksum(tensors):
        raise ValueError(
            f"{path} is damaged: its tensors are not those that were written, as its checksum "
            "shows; fetch it again"
        )


def _skeleton(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata say of the joints, read from their JSON."""
    if "skeleton" not in metadata:
        return {}
    try:
        skeleton = parse_json(metadata["skeleton"])
    except ValueError:
        skeleton = None
    if not isinstance(skeleton, dict) or not isinstance(skeleton.get("joints"), list):
        raise ValueError(
            f"{path}: `skeleton` in its metadata is {metadata['skeleton']!r:.60}; expected JSON "
            'such as {"joints": ["nose", ...], ...}. Write the file with tools/convert.py'
        )
    return {"skeleton": skeleton}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, in words for the user."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a damaged file may raise anything at all
        raise ValueError(_why_unreadable(path, error)) from error


def _why_unreadable(path: Path, error: Exception) -> str:
    whole = zipfile.is_zipfile(path) or "Unsupported global" in str(error)
    if whole and isinstance(error, pickle.UnpicklingError):
        return (
            f"{path} holds pickled objects beside its tensors, and unpickling runs code. Where you "
            "trust it, load it with torch yourself and save its state dict alone"
        )
    return (
        f"{path} ({path.stat().st_size} bytes) is cut short or is no file of weights "
        f"({type(error).__name__}); compare its size and checksum with the original, then fetch it "
        "again"
    )


def _safetensors(path: Path) -> Any:
    """The package, which only those need who have such files."""
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError:
        raise ValueError(
            f"{path}: files of this kind need a package that is not installed; "
            'pip install "safetensors>=0.4"'
        ) from None


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of every tensor in the order of their names: a line of JSON, then its bytes.

    The line is ["name", "float32", [sizes]]; the bytes are little-endian, the last index fastest.
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
    """Refuse a file that could not be written in the end, before anything is done for it."""
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: a file of weights ends in {' or '.join(WRITERS)}")
    if path.exists():
        raise FileExistsError(f"{path} exists, and is not overwritten; remove it, or name another")
    check_writable(path)
    if path.suffix == ".safetensors":
        _safetensors(path)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> str:
    """Write a file of weights, in the format of its suffix; returns its SHA-256."""
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
    package = importlib.import_module("safetensors.torch")
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    marks = {"format": "pt", "hrpose_release": RELEASE, "tensors_sha256": checksum(plain)}
    return _in_order(package.save(plain, {**texts, **marks}))


def _in_order(content: bytes) -> bytes:
    """The same file with its header sorted: safetensors writes metadata in any order, and a
    release that is made again should have the same SHA-256.

    A file: the header's length in 8 bytes, little-endian; the header, JSON; bytes of tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin where eight divides
    return len(header).to_bytes(8, "little") + header + content[end:]


WRITERS: dict[str, Callable[[Mapping[str, Tensor], Metadata], bytes]] = {
    ".safetensors": _safetensors_bytes,
    ".pth": _torch_bytes,
}
