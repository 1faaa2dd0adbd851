"""Checkpoints: written atomically, with a checksum, the last few kept, corrupt ones skipped.

A series, `last` or `best`, is the files `<name>_<step>.pth` and `<name>_<step>.pth.sha256` (as
sha256sum writes it); `<name>.pth` is a hard link to the newest of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hrpose.ops.atomic_io import atomic_write, checksum_path, find_damage, naming_full_disk


class CorruptCheckpointError(ValueError):
    """The content of a checkpoint is not what was written."""


def save_checkpoint(folder: Path, name: str, step: int, state: dict[str, Any], keep: int) -> None:
    """Save `state` as the newest of its series, then delete all but the newest `keep`.

    state: tensors, numbers, strings, and lists and dicts of them
    OSError: it could not be written; the earlier checkpoints are unchanged.
    """
    path = folder / f"{name}_{step:09d}.pth"
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = f"{hashlib.sha256(buffer.getbuffer()).hexdigest()}  {path.name}\n"
    try:
        with naming_full_disk(path):
            checksum_path(path).unlink(missing_ok=True)  # must never be that of another file
            atomic_write(path, lambda file: file.write(buffer.getbuffer()))
            atomic_write(checksum_path(path), lambda file: file.write(digest.encode()))
            _hardlink(path, folder / f"{name}.pth")
    except OSError as error:
        raise type(error)(
            f"{path} was not saved: {error}. The earlier checkpoints are unchanged; start again "
            "when its disk can be written"
        ) from error
    for old in list_checkpoints(folder, name)[keep:]:
        checksum_path(old).unlink(missing_ok=True)
        old.unlink()


def list_checkpoints(folder: Path, name: str) -> list[Path]:
    """The checkpoints of a series, the newest first."""
    numbered = sorted(folder.glob(f"{name}_[0-9]*.pth"), reverse=True)
    single = folder / f"{name}.pth"
    return numbered or [single] * single.is_file()


def load_latest(
    folder: Path, name: str, warn: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """The newest intact checkpoint of a series; corrupt ones are renamed, with a warning.

    FileNotFoundError: there is none.   ValueError: none is intact.
    """
    paths = list_checkpoints(folder, name)
    if not paths:
        raise FileNotFoundError(f"no {name} checkpoint in {folder}")
    newest = folder / f"{name}.pth"
    for i, path in enumerate(paths):
        try:
            state = load_checkpoint(path)
        except CorruptCheckpointError as error:
            warn(f"{error}; renamed to {path.stem}.damaged, going back to the one before")
            continue
        for corrupt in paths[:i]:  # only now: without any intact one, the next start fails again
            if newest.is_file() and newest.samefile(corrupt):
                newest.unlink()
            if corrupt.is_file():
                corrupt.replace(corrupt.with_suffix(".damaged"))
        _hardlink(path, newest)
        return path, state
    raise ValueError(
        f"no {name} checkpoint in {folder} is intact; TRAIN.RESUME never starts a new run"
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote, on the CPU. Never executes what a file contains.

    CorruptCheckpointError: it does not match a checksum or, without one, cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    damage = find_damage(path)
    if damage:
        raise CorruptCheckpointError(f"{path} is damaged: {damage}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if checksum_path(path).is_file() or isinstance(error, MemoryError):  # the file is intact
            raise
        raise CorruptCheckpointError(
            f"{path} is damaged or not a checkpoint of hrpose ({type(error).__name__})"
        ) from error


def _hardlink(path: Path, link: Path) -> None:
    """Make `link` the same file as `path`, or a copy on disks without hard links."""
    if link.is_file() and link.samefile(path):
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with naming_full_disk(link):
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(link)
