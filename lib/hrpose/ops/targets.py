"""Target generation: heatmaps and tag cells of a whole batch of joints, on any device.

`draw_heatmaps` and `joint_cells` belong to the published coordinate convention,
`draw_unbiased_heatmaps` and `unbiased_joint_cells` to the unbiased one; see `TARGET_GENERATORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def draw_heatmaps(
    joints: Tensor, size: tuple[int, int], sigma: float, variances: Tensor | None = None
) -> Tensor:
    """A Gaussian for every labelled joint, with the maximum where people overlap.

    exp(-d^2 / 2 sigma^2) about the joint's cell, with peak value 1, truncated beyond
    +-(ceil(3 sigma) + 1) cells (15 x 15 cells for sigma = 2). A joint whose cell is outside the map
    is not drawn, not even partly. All people are drawn.

    joints: (B, N, K, 3) x, y in cells of the map (truncated here), visibility   size: (H, W)
    variances: (B, N), above 0: factors of sigma^2 for each person, on the same support
    Returns (B, K, H, W) float32.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4; Luo et al. 2021 (SWAHR), equations 1, 2
    and, for variances, 6.
    """
    reach = _reach(sigma, joints)
    square = (reach[:, None] ** 2 + reach**2).float()
    patch = torch.exp(-square / (2 * sigma**2))  # (P, P)
    if variances is not None:
        patch = patch ** (1 / variances)[:, :, None, None, None]  # (B, N, 1, P, P)
    return _paste(patch, _cells(joints, size, torch.trunc), size)


def draw_unbiased_heatmaps(
    joints: Tensor, size: tuple[int, int], sigma: float, variances: Tensor | None = None
) -> Tensor:
    """The same about the joint's fractional position, on a patch about the nearest cell.

    The highest cell is 1 only if the joint is at its centre, and at least exp(-1 / 4 sigma^2):
    .939 for sigma = 2.

    joints: (B, N, K, 3) x, y in cells of the map (the centre of cell i is i), visibility
    The rest is as in `draw_heatmaps`.
    """
    cells = _cells(joints, size, _nearest)
    variance = sigma**2 * (1 if variances is None else variances[:, :, None, None])

    def profile(place: Tensor, cell: Tensor) -> Tensor:
        """Gaussian along one axis, (B, N, K, P); joints that are not drawn may be NaN, so use 0."""
        away = (place - cell).where(cells.inside, 0)[..., None] - _reach(sigma, joints)
        return torch.exp(-(away**2) / (2 * variance))

    across, down = profile(joints[..., 0], cells.column), profile(joints[..., 1], cells.row)
    return _paste(down[..., :, None] * across[..., None, :], cells, size)


def joint_cells(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """Flat cell of every joint: k * H * W + y * W + x, or -1.

    -1: the joint is not labelled, or its cell is outside the map.

    joints: (B, N, K, 3) x, y in cells of the map (truncated here), visibility   size: (H, W)
    Returns (B, N, K) int64.
    """
    return _flatten(_cells(joints, size, torch.trunc), size)


def unbiased_joint_cells(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """The same with the nearest cell; ties go to the right and down."""
    return _flatten(_cells(joints, size, _nearest), size)


class TargetGenerator(NamedTuple):
    """Target generation of one convention, for joints in cells (ops/coordinates.py)."""

    heatmaps: Callable[..., Tensor]  # joints, size, sigma[, variances] -> (B, K, H, W)
    cells: Callable[[Tensor, tuple[int, int]], Tensor]  # joints, size -> (B, N, K)


TARGET_GENERATORS = {
    "published": TargetGenerator(draw_heatmaps, joint_cells),
    "unbiased": TargetGenerator(draw_unbiased_heatmaps, unbiased_joint_cells),
}


class _Cells(NamedTuple):
    """Integer cells of joints, and whether they are labelled and inside; 0, 0 if not."""

    column: Tensor  # (B, N, K), as the other two
    row: Tensor
    inside: Tensor


def _cells(joints: Tensor, size: tuple[int, int], whole: Callable[[Tensor], Tensor]) -> _Cells:
    """whole: rounding to integers, e.g. torch.trunc"""
    x, y = whole(joints[..., 0]), whole(joints[..., 1])
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]) & (joints[..., 2] > 0)
    return _Cells(x.where(inside, 0).long(), y.where(inside, 0).long(), inside)


def _nearest(places: Tensor) -> Tensor:
    return (places + 0.5).floor()


def _flatten(cells: _Cells, size: tuple[int, int]) -> Tensor:
    kind = torch.arange(cells.row.shape[2], device=cells.row.device)
    cell = (kind * size[0] + cells.row) * size[1] + cells.column
    return cell.where(cells.inside, -1)


def _reach(sigma: float, joints: Tensor) -> Tensor:
    """Offsets of a patch's cells from its centre along one axis, (P,)."""
    radius = math.ceil(3 * sigma) + 1
    return torch.arange(-radius, radius + 1, device=joints.device)


def _paste(patches: Tensor, cells: _Cells, size: tuple[int, int]) -> Tensor:
    """Paste patches (P, P) or (B, N, 1 | K, P, P) at the joints' cells, maximum: (B, K, H, W)."""
    side = patches.shape[-1]
    radius = side // 2
    height, width = size[0] + 2 * radius, size[1] + 2 * radius  # padded for patches at the border
    reach = torch.arange(side, device=patches.device)
    corner = cells.row * width + cells.column
    place = corner[..., None, None] + reach[:, None] * width + reach  # (B, N, K, P, P)
    value = patches * cells.inside[..., None, None]

    images, _, kinds = cells.row.shape
    canvas = torch.zeros(images, kinds, height * width, device=patches.device)
    canvas.scatter_reduce_(2, _by_joint(place), _by_joint(value.float()), "amax")
    canvas = canvas.view(images, kinds, height, width)
    return canvas[:, :, radius:-radius, radius:-radius].contiguous()


def _by_joint(patches: Tensor) -> Tensor:
    """(B, N, K, P, P) -> (B, K, N * P * P)"""
    return patches.transpose(1, 2).flatten(2)
