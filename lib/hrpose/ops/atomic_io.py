"""Atomic writing, named full disks, damaged files, and plain JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk without room and of a used-up quota."""


class DiskFullError(OSError):
    """A file could not be written for want of room; the message has its path and the cure."""


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Let a full disk end in a DiskFullError that names `path`, which is written in this block."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DiskFullError(
            f"{path} cannot be written: {error.strerror}; make room on its disk, then start again"
        ) from error


def with_cure(error: BaseException) -> str:
    """The message of an error; that of a full disk which named no cure, as of printing, has one."""
    full = isinstance(error, OSError) and error.errno in DISK_FULL
    return (
        f"{error}; make room on its disk, or on that of the printed output" if full else f"{error}"
    )


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a temporary file beside `path`, sync it to the disk, and rename it to `path`.

    Errors: DiskFullError; any other OSError as it comes.
    """
    # The name may have the greatest length already, so only its beginning is used.
    beside = path.with_name(f".{path.name[:40]}.{os.getpid()}.{threading.get_native_id()}")
    with naming_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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


def check_writable(path: Path) -> None:
    """Raise now the OSError that writing to `path` would raise later.

    A file is made and removed in its folder, or in the nearest that exists: permissions alone do
    not say whether root may write to a network disk.
    """
    folder = next(each for each in path.absolute().parents if each.exists())
    why = f"{path} is a folder" if path.is_dir() else ""
    why = why or ("" if folder.is_dir() else f"{folder} is no folder")
    if not why:
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                return
        except OSError as error:
            why = f"{folder}: {error.strerror}"
    raise OSError(f"{path} cannot be written: {why}; name a file in a folder that you may write to")


def _settle(folder: Path) -> None:
    """Sync a renaming to the disk, on POSIX."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checksum_path(path: Path) -> Path:
    """The file beside `path` with its SHA-256, as sha256sum writes it."""
    return path.with_name(f"{path.name}.sha256")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: str) -> str:
    """The checksum of a file by an algorithm of hashlib, in hexadecimal digits."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def find_damage(path: Path) -> str | None:
    """What shows that a file is not as it was written; None if nothing does.

    The checksum beside it is compared or, without one, those in a zip archive, which a .pth is.
    """
    beside = checksum_path(path)
    if beside.is_file():
        same = sha256(path) in beside.read_text(errors="replace").lower()
        return None if same else f"its SHA-256 is not the one in {beside.name}"
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # a damaged archive may raise any exception
        return f"its archive cannot be read ({type(error).__name__})"
    return part and f"the CRC of {part} in its archive does not match"


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Numbers as they are; NaN is refused, since COCO's own tools do not take it."""
    text = json.dumps(content, indent=indent, allow_nan=False)
    atomic_write(path, lambda file: file.write(text.encode()))


def read_json(path: Path, kind: str) -> Any:
    """The plain values (objects, lists, texts, numbers) of a JSON file, with a BOM or without.

    Whatever a file names, nothing is imported, built or run.
    kind: what the file holds, for messages   Errors: FileNotFoundError, ValueError
    """
    if not os.path.isfile(path):  # Path's own method fails at names that are too long
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); download or export it again"
        ) from None


def parse_json(text: str | bytes) -> Any:
    """JSON -> plain values; ValueError for what is no JSON, or is nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
