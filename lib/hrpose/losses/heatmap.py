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
    # A network computes in another memory format; mixing the two takes several times as long.
    exact = torch.promote_types(predicted.dtype, torch.float32)
    error = predicted.to(exact, memory_format=torch.contiguous_format) - target
    per_cell = (error**2).sum(1)  # (B, H, W)
    return (per_cell * mask).sum((1, 2)) / error[0].numel()
