"""Joints -> heatmaps and tag cells, for a whole batch, on any device.

`draw_heatmaps` and `joint_cells` are the official convention's, `draw_exact_heatmaps` and
`exact_joint_cells` the exact one's; `DRAWINGS` has them by its name.
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
    reach = _reach(sigma, joints)
    square = (reach[:, None] ** 2 + reach**2).float()
    patch = torch.exp(-square / (2 * sigma**2))  # (P, P)
    if variances is not None:
        patch = patch ** (1 / variances)[:, :, None, None, None]  # (B, N, 1, P, P)
    return _laid_down(patch, _cells(joints, size, torch.trunc), size)


def draw_exact_heatmaps(
    joints: Tensor, size: tuple[int, int], sigma: float, variances: Tensor | None = None
) -> Tensor:
    """The same about the joint's true place, on the same cells about the one that is nearest.

    The middle of the peak lies between the cells, so that the highest of them is 1 only where a
    joint stands in its centre, and at least exp(-1 / 4 sigma^2): .939 for sigma = 2.

    joints: (B, N, K, 3) x, y in cells of the map (the centre of cell i is i), visibility
    The rest is as in `draw_heatmaps`.
    """
    cells = _cells(joints, size, _nearest)
    variance = sigma**2 * (1 if variances is None else variances[:, :, None, None])

    def profile(place: Tensor, cell: Tensor) -> Tensor:
        """(B, N, K, P), along one axis; what is not drawn is put in a centre, for it may be NaN."""
        away = (place - cell).where(cells.inside, 0)[..., None] - _reach(sigma, joints)
        return torch.exp(-(away**2) / (2 * variance))

    across, down = profile(joints[..., 0], cells.column), profile(joints[..., 1], cells.row)
    return _laid_down(down[..., :, None] * across[..., None, :], cells, size)


def joint_cells(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """The place of every joint in its flattened maps: k * H * W + y * W + x, or -1.

    -1 stands for a joint that is not labelled, or whose cell lies outside the map.

    joints: (B, N, K, 3) x, y in cells of the map (truncated here), visibility   size: (H, W)
    Returns (B, N, K) int64.
    """
    return _flat(_cells(joints, size, torch.trunc), size)


def exact_joint_cells(joints: Tensor, size: tuple[int, int]) -> Tensor:
    """The same, a joint's cell being the nearest one; of two as near, the one right or below."""
    return _flat(_cells(joints, size, _nearest), size)


class Drawing(NamedTuple):
    """How a convention makes targets of joints that `to_heatmap_coords` brought to cells."""

    heatmaps: Callable[..., Tensor]  # joints, size, sigma[, variances] -> (B, K, H, W)
    cells: Callable[[Tensor, tuple[int, int]], Tensor]  # joints, size -> (B, N, K)


DRAWINGS = {
    "official": Drawing(draw_heatmaps, joint_cells),
    "exact": Drawing(draw_exact_heatmaps, exact_joint_cells),
}


class _Cells(NamedTuple):
    """Where joints are, and whether they are labelled and in the map; 0, 0 if not."""

    column: Tensor  # (B, N, K), as the other two
    row: Tensor
    inside: Tensor


def _cells(joints: Tensor, size: tuple[int, int], whole: Callable[[Tensor], Tensor]) -> _Cells:
    """whole: numbers -> whole numbers"""
    x, y = whole(joints[..., 0]), whole(joints[..., 1])
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]) & (joints[..., 2] > 0)
    return _Cells(x.where(inside, 0).long(), y.where(inside, 0).long(), inside)


def _nearest(places: Tensor) -> Tensor:
    return (places + 0.5).floor()


def _flat(cells: _Cells, size: tuple[int, int]) -> Tensor:
    kind = torch.arange(cells.row.shape[2], device=cells.row.device)
    cell = (kind * size[0] + cells.row) * size[1] + cells.column
    return cell.where(cells.inside, -1)


def _reach(sigma: float, joints: Tensor) -> Tensor:
    """(P,): the cells of a patch along an axis, counted from its middle one."""
    radius = math.ceil(3 * sigma) + 1
    return torch.arange(-radius, radius + 1, device=joints.device)


def _laid_down(patches: Tensor, cells: _Cells, size: tuple[int, int]) -> Tensor:
    """Maps (B, K, H, W) of patches (P, P), or (B, N, 1 or K, P, P), about their joints' cells."""
    side = patches.shape[-1]
    radius = side // 2
    height, width = size[0] + 2 * radius, size[1] + 2 * radius  # room for patches at the border
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
