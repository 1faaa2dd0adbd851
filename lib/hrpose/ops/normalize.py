"""Image normalization with the statistics of ImageNet."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """uint8 RGB (B, 3, H, W) -> float32 with zero mean and unit deviation over ImageNet."""
    mean, std = _statistics(images.device)
    return (images.float() / 255 - mean) / std


@lru_cache
@torch.inference_mode(False)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3, 1, 1), copied once per device: such a copy synchronises a GPU."""
    mean, std = (torch.tensor(each, device=device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return mean.view(3, 1, 1), std.view(3, 1, 1)
