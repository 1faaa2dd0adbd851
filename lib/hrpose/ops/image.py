"""Images: read them right, whatever they are, and bring them to the network's numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from hrpose.ops.files import write_whole

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def decode_annotated(data: bytes, name: str) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB as stored: labels are in stored order, EXIF or not."""
    return _decode(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def read_photo(path: Path) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB as a person sees it: turned as its EXIF tag says."""
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


def write(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 RGB; the suffix of `path` chooses the format."""
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_whole(path, lambda file: file.write(encoded.tobytes()))


def normalise(images: Tensor) -> Tensor:
    """uint8 RGB (B, 3, H, W) -> float32 with ImageNet's mean and deviation, on the same device."""
    mean, std = _statistics(images.device)
    return (images.float() / 255 - mean) / std


@lru_cache
@torch.inference_mode(False)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation, (3, 1, 1), sent once: a GPU stops its work for such a copy."""
    mean, std = (torch.tensor(each, device=device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return mean.view(3, 1, 1), std.view(3, 1, 1)
