"""Heatmap regression losses: squared errors of whole images, and of the joints of one person."""

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


def joints_mse(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over all joints and cells of a crop of (w (p - t))^2 / 2; weights enter squared.

    Joints of weight 0 count in the mean, as in the authors' code: people with few labelled joints
    train less.

    predicted, target: (B, K, H, W)   weights: (B, K)
    Returns (B,) in float32 or better.
    Source: Sun et al. 2019 (HRNet), section 3, and its released code.
    """
    return _joint_errors(predicted, target, weights).mean(1)


def ohkm_mse(predicted: Tensor, target: Tensor, weights: Tensor, hardest: int = 8) -> Tensor:
    """The same over the `hardest` joints of each crop only, those of the largest error; or all K.

    Source: Chen et al. 2018 (CPN), online hard keypoint mining; released code of HRNet.
    """
    errors = _joint_errors(predicted, target, weights)
    return errors.topk(min(hardest, errors.shape[1]), dim=1).values.mean(1)


def _joint_errors(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """(B, K): mean over the cells of each joint's map of (w (p - t))^2 / 2."""
    step = (to_float32(predicted) - target) * weights[..., None, None]
    return 0.5 * step.square().mean((2, 3))


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
