"""What image files are, whatever the annotations say of them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

import cv2
import numpy as np

from hrpose.data.coco import Images
from hrpose.ops.image import decode_annotated

MISSING, UNREADABLE, TRUNCATED = "missing", "unreadable", "truncated"


class Seen(NamedTuple):
    """What reading one file showed."""

    trouble: str = ""  # MISSING, UNREADABLE, TRUNCATED, or none
    size: tuple[int, int] | tuple[()] = ()  # width and height in pixels as stored, if decoded
    turned: bool = False  # whether an EXIF tag asks viewers to turn it
    digest: str = ""  # the same for equal files


def look(images: Images, file_name: str) -> Seen:
    """Read and decode one file."""
    try:
        data = images.bytes(file_name)
    except FileNotFoundError:
        return Seen(MISSING)
    except (OSError, zipfile.BadZipFile):
        return Seen(UNREADABLE)
    cut = TRUNCATED if is_cut(data) else ""
    try:
        height, width = decode_annotated(data, file_name).shape[:2]
    except (ValueError, cv2.error):
        return Seen(cut or UNREADABLE)
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return Seen(cut, (width, height), is_turned(data), digest)


def look_at_all(images: Images, names: Sequence[str], processes: int = 0) -> Iterator[Seen]:
    """`look` at every file, in order; 0 processes: in this one."""
    if not processes:
        yield from map(partial(look, images), names)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(look, images), names, chunksize=16)


def is_cut(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; some versions of OpenCV fill it with grey."""
    if data.startswith(
        b"\xff\xd8"
    ):  # within a scan a byte FF is followed by 00, so no marker hides
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]


def is_turned(data: bytes) -> bool:
    """Whether a viewer that obeys EXIF shows another picture than the one stored."""
    if b"Exif" not in data[:65536]:
        return False
    pixels = np.frombuffer(data, np.uint8)
    small = cv2.IMREAD_REDUCED_GRAYSCALE_8
    obeyed = cv2.imdecode(pixels, small)
    stored = cv2.imdecode(pixels, small | cv2.IMREAD_IGNORE_ORIENTATION)
    if obeyed is None or stored is None:
        return False
    return not np.array_equal(obeyed, stored)
