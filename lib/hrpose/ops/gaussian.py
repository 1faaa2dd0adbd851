"""Joints -> heatmaps and tag cells, for a whole batch, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def draw_heatmaps(
    joints: Tensor, size: tuple[int, int], sigma: float, variances: Tensor | None = None
) -> Tensor:
    """A Gaussian for every labelled joint; where people overlap, the higher value stands.

    exp(-d^2 / 2 sigma^2) about the joint's cell, 1 in its centre for every sigma, and 0 beyond
    +-(ceil(3 sigma) + 1) cells (for sigma = 2 that is 15 x 15 cells). A joint whose cell lies
    outside the map is not drawn, not even partly. Everybody is drawn, however many they are.

    joints: (B, N, K, 3) x, y in cells of the map (truncated here), visibility   size: (H, W)
    variances: (B, N), above 0: factors of sigma^2 for each person's Gaussians, on the same cells
    Returns (B, K, H, W) float32.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4; Luo et al. 2021 (SWAHR), equations 1, 2
    and, for variances, 6.
    """
    images, _, kinds, _ = joints.shape
    radius = math.ceil(3 * sigma) + 1
    height, width = size[0] + 2 * radius, size[1] + 2 * radius  # room for patches at the border
    column, row, inside = _cells(joints, size)  # (B, N, K) each

    reach = torch.arange(-radius, radius + 1, device=joints.device)
    square = (reach[:, None] ** 2 + reach**2).float()
    patch = torch.exp(-square / (2 * sigma**2))  # (P, P)
    corner = (row + radius) * width + column + radius
    place = corner[..., None, None] + reach[:, None] * width + reach  # (B, N, K, P, P)
    if variances is not None:
        patch = patch ** (1 / variances)[:, :, None, None, None]  # (B, N, 1, P, P)
    value = patch * inside[..., None, None]

    canvas = torch.zeros(images, kinds, height * width, device=joints.device)
    canvas.scatter_reduce_(2, _by_joint(place), _by_joint(value), "amax")
    canvas = canvas.view(images, kinds, height, width)
    return canvas[:, :, radius:-radius, radius:-radius].contiguous()


def joint_cells(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """The place of every joint in its flattened maps: k * H * W + y * W + x, or -1.

    -1 stands for a joint that is not labelled, or whose cell lies outside the map.

    joints: (B, N, K, 3) x, y in cells of the map (truncated here), visibility   size: (H, W)
    Returns (B, N, K) int64.
    """
    column, row, inside = _cells(joints, size)
    kind = torch.arange(joints.shape[2], device=joints.device)
    cell = (kind * size[0] + row) * size[1] + column
    return cell.where(inside, -1)


def _cells(joints: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row and whether there is a labelled joint there; column and row are 0 if not."""
    x, y = joints[..., 0].trunc(), joints[..., 1].trunc()
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]) & (joints[..., 2] > 0)
    return x.where(inside, 0).long(), y.where(inside, 0).long(), inside


def _by_joint(patches: Tensor) -> Tensor:
    """(B, N, K, P, P) -> (B, K, N * P * P)"""
    return patches.transpose(1, 2).flatten(2)
