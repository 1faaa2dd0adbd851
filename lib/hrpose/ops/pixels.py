"""Pixels -> the numbers that networks take."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
