"""Heatmap regression loss: masked mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over all cells and joints of an image; masked cells contribute 0.

    The denominator is K * H * W, masked cells included, as in the authors' code.

    predicted, target: (B, K, H, W)   mask: (B, H, W), 1 where supervised
    Returns (B,) in float32 or better, whatever the network's precision.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4.
    """
    return masked_mean((to_float32(predicted) - target) ** 2, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over all cells and joints of an image; masked cells contribute 0.

    values: (B, K, H, W)   mask: (B, H, W)
    Returns (B,).
    """
    return (values.sum(1) * mask).sum((1, 2)) / values[0].numel()


def to_float32(values: Tensor) -> Tensor:
    """Cast to float32 (float64 stays) and to the contiguous memory format.

    Networks compute channels-last; mixing the two memory formats takes several times as long.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    return values.to(dtype, memory_format=torch.contiguous_format)
