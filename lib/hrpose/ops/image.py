"""Reading and writing image files, without torch."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from hrpose.ops.atomic_io import atomic_write

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".dib", ".webp", ".avif"),
    *(".tif", ".tiff", ".gif", ".pbm", ".pgm", ".ppm", ".pnm", ".ras", ".sr", ".hdr"),
)
"""Suffixes of the formats that OpenCV reads; some builds lack a few of them."""

ENCODED_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff")

STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""EXIF orientation -> from the stored pixels (H, W, 3) to the image as viewers show it."""

_INVERSE = {**{orientation: orientation for orientation in _TURNS}, 6: 8, 8: 6}

_DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG file")
"""How libjpeg warns."""

DAMAGED = "it is damaged, and its pixels may be shifted"
DARK = "of 16 bits it uses 12 or fewer: it is almost black"


def decode_image(
    data: bytes, name: str, size: tuple[int, int] | None = None, exif: str = "ignore"
) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB in the orientation that its labels refer to.

    size: annotated width and height, None: unknown
    exif: "apply" its EXIF orientation, "ignore" it, or "auto": where the file has one, whichever
        of the two gives the annotated size
    Errors: ValueError for a file that cannot be decoded, or whose size fits both or neither
    """
    orientation = exif_orientation(data)
    stored = _decode(data, name)
    if orientation == 1:
        return stored
    if data[:4] in _TIFF:  # whose orientation OpenCV always applies
        stored = _TURNS[_INVERSE[orientation]](stored)
    turned = _TURNS[orientation](stored)
    height, width = turned.shape[:2]
    only_turned_fits = orientation >= 5 and size == (width, height) and width != height
    if exif == "apply" or (exif == "auto" and only_turned_fits):
        return np.ascontiguousarray(turned)
    only_stored_fits = size == stored.shape[1::-1] != (width, height)
    if exif == "ignore" or only_stored_fits or np.array_equal(stored, turned):
        return np.ascontiguousarray(stored)
    raise OrientationError(
        f"{name} has an EXIF orientation ({orientation}): {stored.shape[1]} x {stored.shape[0]} as "
        f"stored, {width} x {height} as viewers show it, annotated as "
        f"{f'{size[0]} x {size[1]}' if size else 'of unknown size'}, so that which of them was "
        "labelled cannot be known. Set DATASET.EXIF to apply if it was labelled as viewers show "
        "it, to ignore if as stored"
    )


class OrientationError(ValueError):
    """An image may have been labelled as stored or as its EXIF orientation turns it."""


_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
"""Beginning of a TIFF file, and of a block of EXIF -> its byte order."""

_JPEG = b"\xff\xd8"

ORIENTATION_TAG = 274


def exif_orientation(data: bytes) -> int:
    """EXIF orientation 1 .. 8 of an encoded image of any format; 1 (as stored) if it has none.

    Source: Exif 2.32, section 4.6.4; JPEG APP1, PNG eXIf, RIFF (WebP) EXIF, and TIFF itself.
    """
    if data[4:8] == b"ftyp" and b"avif" in data[8:64]:
        return _avif_orientation(data)
    starts = [0] if data[:4] in _TIFF else []
    head = _before_scan(data) if data.startswith(_JPEG) else data
    for marker in (b"Exif\0\0", b"eXIf", b"EXIF"):
        found = head.find(marker)
        if found >= 0:
            starts += [at for at in range(found + 4, found + 16) if head[at : at + 4] in _TIFF]
    for start in starts:
        order = _TIFF[data[start : start + 4]]
        try:
            (offset,) = struct.unpack_from(f"{order}I", data, start + 4)
            (count,) = struct.unpack_from(f"{order}H", data, start + offset)
            for at in range(start + offset + 2, start + offset + 2 + 12 * count, 12):
                tag, value = struct.unpack_from(f"{order}H6xH", data, at)
                if tag == ORIENTATION_TAG and value in _TURNS:
                    return value
        except struct.error:  # a block that is cut short, or no EXIF
            continue
    return 1


_ROTATED = {0: 1, 1: 8, 2: 3, 3: 6}
"""Quarter turns against the clock -> EXIF orientation; mirrored in addition: `_MIRRORED`."""

_MIRRORED = {(0, 0): 4, (0, 1): 2, (1, 0): 5, (1, 1): 7, (2, 0): 2, (2, 1): 4, (3, 0): 7, (3, 1): 5}
"""(quarter turns, then the axis: 0 top and bottom, 1 left and right, change places) -> the same"""


def _avif_orientation(data: bytes) -> int:
    """EXIF orientation that is as the boxes irot and imir of an AVIF file say.

    They decide what viewers show; its block of EXIF does not. OpenCV reads that block only.
    Source: ISO/IEC 23008-12 (HEIF), sections 6.5.10 and 6.5.12.
    """
    head = data[: data.find(b"mdat") % (len(data) + 1)]
    turns, axis = (head.find(struct.pack(">I", 9) + kind) for kind in (b"irot", b"imir"))
    quarters = head[turns + 8] & 3 if 0 <= turns < len(head) - 8 else 0
    mirrored = 0 <= axis < len(head) - 8
    return _MIRRORED[quarters, head[axis + 8] & 1] if mirrored else _ROTATED[quarters]


def _before_scan(data: bytes) -> bytes:
    """A JPEG's segments before its pixels, which are most of the file."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # start of scan
        filler = data[at + 1 : at + 2] == b"\xff"
        at += 1 if filler else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data[:at]


def decode_with_doubts(
    data: bytes, name: str, size: tuple[int, int] | None = None, exif: str = "ignore"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """What `decode_image` returns, and what may be wrong with it: DAMAGED, DARK, or neither.

    libjpeg decodes damaged files, and writes warnings to stderr only, which is read here instead:
    not for threads. Almost black images of 16 bits are decoded twice.
    """
    image, damaged = _with_damage(partial(decode_image, data, name, size, exif))
    holds = {DAMAGED: damaged, DARK: _uses_few_bits(data, image)}
    return image, tuple(doubt for doubt, true in holds.items() if true)


def _with_damage(decode: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """What `decode` returns, and whether libjpeg warned of damage."""
    with tempfile.TemporaryFile() as warnings:
        stderr = os.dup(2)
        os.dup2(warnings.fileno(), 2)
        try:
            image = decode()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        warnings.seek(0)
        text = warnings.read()
    return image, any(warning in text for warning in _DAMAGE)


def _uses_few_bits(data: bytes, image: np.ndarray) -> bool:
    """Whether a file of 16 bits holds values of 12 or fewer, which 8 bits show as almost black.

    image: the file, decoded
    """
    if data.startswith(_JPEG) or image.max() >= 16:  # a JPEG has 8 bits
        return False
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return deep is not None and deep.dtype == np.uint16 and 16 <= deep.max() < 4096


def read_image(path: str | Path) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB as viewers show it."""
    return decode_image(_read_bytes(Path(path)), str(path), exif="apply")


def read_with_doubts(path: str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """`read_image`, and what may be wrong with the image, as by `decode_with_doubts`."""
    return decode_with_doubts(_read_bytes(Path(path)), str(path), exif="apply")


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}{': it is a folder' if path.is_dir() else ''}")
    return path.read_bytes()


def _decode(data: bytes, name: str) -> np.ndarray:
    """The stored pixels. Grey, palette, CMYK and 16-bit images all become 8-bit colour."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), STORED) if data else None
    except cv2.error:  # larger than OpenCV takes, for one
        image = None
    if image is None:
        raise ValueError(
            f"{name} ({len(data)} bytes) is not a readable image; replace it or take it out"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def describe_error(path: Path, error: BaseException) -> str:
    """The message of an error, with the path of the photo."""
    return str(error) if str(path) in str(error) else f"{path}: {error}"


def encode(image: np.ndarray, suffix: str) -> bytes:
    """The content of an image file; image: (H, W, 3) uint8 RGB, suffix: .jpg, .png, ..."""
    _, encoded = cv2.imencode(suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def can_encode(suffix: str) -> bool:
    """Whether `encode` writes colour images of this suffix, without a loss of most colours."""
    return suffix.lower() in ENCODED_SUFFIXES and cv2.haveImageWriter(f"x{suffix.lower()}")


def write(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 RGB; the suffix of `path` chooses the format."""
    content = encode(image, path.suffix)
    atomic_write(path, lambda file: file.write(content))
