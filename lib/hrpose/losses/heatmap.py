"""How far predicted heatmaps are from the drawn ones."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over all cells and joints of an image, masked cells counting as 0.

    The mean is over all cells, masked or not, as in the authors' code.

    predicted, target: (B, K, H, W)   mask: (B, H, W), 1 where supervised
    Returns (B,) in float32 or better, whatever the network's precision.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4.
    """
    return masked_mean((in_full(predicted) - target) ** 2, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all cells and joints of an image, masked cells counting as 0.

    values: (B, K, H, W)   mask: (B, H, W)
    Returns (B,).
    """
    return (values.sum(1) * mask).sum((1, 2)) / values[0].numel()


def in_full(values: Tensor) -> Tensor:
    """What a network says, in float32 at least and contiguous.

    A network computes in another memory format; mixing the two takes several times as long.
    """
    exact = torch.promote_types(values.dtype, torch.float32)
    return values.to(exact, memory_format=torch.contiguous_format)
