"""The loss of offsets within the discs about joints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hrpose.losses.heatmap import to_float32

OFFSET_ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": partial(F.mse_loss, reduction="none"),
    "smooth_l1": partial(F.smooth_l1_loss, reduction="none"),
}
"""LOSS.OFFSET.KIND -> the error of every offset: e^2, or e^2 / 2 up to 1 and |e| - 1 / 2 beyond."""


def offset_loss(predicted: Tensor, target: Tensor, discs: Tensor, kind: str = "l2") -> Tensor:
    """Mean over joints and cells of half the errors along x and y, 0 outside of the joint's disc.

    Only the disc counts, not the weight of its joint: one that is not labelled has none. Cells
    outside count in the mean, as in the authors' code.

    predicted, target: (B, 2K, H, W), x of all joints, then y   discs: (B, K, H, W) of 0 and 1
    Returns (B,) in float32 or better.
    Source: Huang et al. 2020 (UDP), section 4.3, and its released code.
    """
    errors = OFFSET_ERRORS[kind](to_float32(predicted), target)
    masked = errors * torch.cat([discs, discs], 1)
    return 0.5 * masked.sum((1, 2, 3)) / discs[0].numel()
