"""Reading and writing image files, without torch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from hrpose.ops.atomic_io import atomic_write

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB as stored: labels are in stored order, EXIF or not."""
    return _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_image(path: str | Path) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB rotated by its EXIF orientation."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}{': it is a folder' if path.is_dir() else ''}")
    return _decode(path.read_bytes(), str(path), cv2.IMREAD_COLOR)


def _decode(data: bytes, name: str, how: int) -> np.ndarray:
    """Grey, palette, CMYK and 16-bit images all become 8-bit colour."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if data else None
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


def write(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 RGB; the suffix of `path` chooses the format."""
    content = encode(image, path.suffix)
    atomic_write(path, lambda file: file.write(content))
