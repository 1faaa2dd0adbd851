"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a file beside `path`, bring it to the disk, then let it take its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _settle(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def refuse_unwritable(path: Path) -> None:
    """Say before the work, where it can be known, what would be said after it."""
    folder = next(each for each in path.absolute().parents if each.exists())
    reasons = {
        f"{path} is a folder": path.is_dir(),
        f"{folder} is no folder": not folder.is_dir(),
        f"{folder} is closed to you": not os.access(folder, os.W_OK),
    }
    why = [reason for reason, holds in reasons.items() if holds]
    if why:
        raise OSError(
            f"{path} cannot be written: {why[0]}; name a file in a folder that you may write to"
        )


def _settle(folder: Path) -> None:
    """Bring a renaming to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Numbers as they are; NaN is refused, since COCO's own tools do not take it."""
    text = json.dumps(content, indent=indent, allow_nan=False)
    write_whole(path, lambda file: file.write(text.encode()))
