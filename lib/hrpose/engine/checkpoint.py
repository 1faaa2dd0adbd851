"""Checkpoints: whole, a checksum beside each, the last few kept, damaged ones passed by.

`name` is a series, last or best: its files are `name_<step>.pth` and `name_<step>.pth.sha256` (as
sha256sum writes it), and `name.pth` is the newest of them under a second name.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hrpose.ops.files import DiskFullError, naming_full_disk, write_whole


def save_checkpoint(folder: Path, name: str, step: int, state: dict[str, Any], keep: int) -> None:
    """Save `state` as the newest of its series, then forget all but the newest `keep`.

    state: tensors, plain numbers, texts, and lists and dicts of them
    OSError: it could not be written, for want of room perhaps; what was there is as it was.
    """
    path = folder / f"{name}_{step:09d}.pth"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = f"{hashlib.sha256(buffer.getbuffer()).hexdigest()}  {path.name}\n"
    try:
        with naming_full_disk(path):
            _checksum(path).unlink(missing_ok=True)  # at no moment may it be another file's
            write_whole(path, lambda file: file.write(buffer.getbuffer()))
            write_whole(_checksum(path), lambda file: file.write(digest.encode()))
            _name_also(path, folder / f"{name}.pth")
    except DiskFullError as error:
        raise DiskFullError(f"{error}. What was saved before stands") from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error}. What was saved before stands; mend the disk and "
            "start again"
        ) from error
    for old in series(folder, name)[keep:]:
        _checksum(old).unlink(missing_ok=True)
        old.unlink()


def series(folder: Path, name: str) -> list[Path]:
    """The checkpoints of a series, the newest first."""
    numbered = sorted(folder.glob(f"{name}_[0-9]*.pth"), reverse=True)
    alone = folder / f"{name}.pth"
    return numbered or [alone] * alone.is_file()


def load_newest(
    folder: Path, name: str, warn: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a series that is whole; damaged ones are set aside, with a warning.

    FileNotFoundError: there is none.   ValueError: none is whole.
    """
    found = series(folder, name)
    if not found:
        raise FileNotFoundError(f"no {name} checkpoint in {folder}")
    damaged: list[Path] = []
    for path in found:
        try:
            state = load_checkpoint(path)
        except Damaged as error:
            damaged.append(path)
            warn(f"{error}; set aside as {path.stem}.damaged, going back to the one before")
        else:
            _set_aside(damaged, folder / f"{name}.pth")
            _name_also(path, folder / f"{name}.pth")
            return path, state
    raise ValueError(f"no {name} checkpoint in {folder} is whole; TRAIN.RESUME never begins anew")


class Damaged(ValueError):
    """A file is not what was written."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote, on the CPU. Never runs what a file may hold.

    Damaged: where a checksum stands beside it, one bit is enough.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    checked = _checksum(path).is_file()
    if checked and not _is_as_written(path):
        raise Damaged(f"{path} is damaged: it is not what its checksum says")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if checked or isinstance(error, MemoryError):  # the file is not to blame
            raise
        raise Damaged(
            f"{path} is damaged or not a checkpoint of this program ({type(error).__name__})"
        ) from error


def _set_aside(damaged: Sequence[Path], newest: Path) -> None:
    for path in damaged:
        if newest.is_file() and newest.samefile(path):
            newest.unlink()
        if path.is_file():
            path.replace(path.with_suffix(".damaged"))


def _is_as_written(path: Path) -> bool:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest == _checksum(path).read_text()[: len(digest)]


def _checksum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _name_also(path: Path, other: Path) -> None:
    """Let `other` be the same file, or a copy where the disk knows no second names."""
    if other.is_file() and other.samefile(path):
        return
    beside = other.with_name(f".{other.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    with naming_full_disk(other):
        try:
            os.link(path, beside)
        except OSError:
            shutil.copyfile(path, beside)
        beside.replace(other)
