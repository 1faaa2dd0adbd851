"""Target generation: heatmaps and tag cells of a whole batch of joints, on any device.

Joints are in cells of the map, as `Convention.to_heatmap_coords` gives them (ops/coordinates.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from hrpose.ops.coordinates import HIGHERHRNET, Convention


def draw_heatmaps(
    joints: Tensor,
    size: tuple[int, int],
    sigma: float,
    variances: Tensor | None = None,
    convention: Convention = HIGHERHRNET,
) -> Tensor:
    """A Gaussian for every labelled joint, with the maximum where people overlap.

    exp(-d^2 / 2 sigma^2) with peak value 1, on a square patch about the joint's cell. In the
    default convention it is centred in the cell (joints are truncated here), reaches
    +-(ceil(3 sigma) + 1) cells (15 x 15 for sigma = 2), and a joint whose cell is outside the map
    is not drawn, not even partly. All people are drawn.

    joints: (B, N, K, 3) x, y in cells of the map, visibility   size: (H, W)
    variances: (B, N), above 0: factors of sigma^2 for each person, on the same support
    Returns (B, K, H, W) float32.
    Source: Cheng et al. 2020 (HigherHRNet), section 3.4; Luo et al. 2021 (SWAHR), equations 1, 2
    and, for variances, 6.
    """
    radius, margin = convention.patch_radius(sigma), convention.patch_margin(sigma)
    column, row, drawn = _whole_cells(joints, size, convention, margin)
    offset = joints[..., :2] - torch.stack([column, row], -1)
    reach = torch.arange(-radius, radius + 1, device=joints.device)
    patches = convention.gaussian(offset.where(drawn[..., None], 0), reach, sigma, variances)
    values = patches * drawn[..., None, None]  # (B, N, K, P, P)

    # Pasted on a canvas that has room for patches at the border.
    before, after = (radius + each for each in margin)
    height, width = (before + side + after for side in size)
    centre = (row + before) * width + column + before
    places = centre[..., None, None] + (reach[:, None] * width + reach)  # (B, N, K, P, P)
    images, _, kinds = column.shape
    canvas = torch.zeros(images, kinds, height * width, device=joints.device)
    index, source = (each.transpose(1, 2).flatten(2) for each in (places, values.float()))
    canvas.scatter_reduce_(2, index, source, "amax")
    canvas = canvas.view(images, kinds, height, width)
    return canvas[:, :, before : before + size[0], before : before + size[1]].contiguous()


def joint_cells(
    joints: Tensor, size: tuple[int, int], convention: Convention = HIGHERHRNET
) -> Tensor:
    """Flat cell of every joint: k * H * W + y * W + x, or -1.

    -1: the joint is not labelled, or its cell is outside the map.

    joints: (B, N, K, 3) x, y in cells of the map, visibility   size: (H, W)
    Returns (B, N, K) int64.
    """
    column, row, inside = _whole_cells(joints, size, convention)
    kind = torch.arange(row.shape[2], device=row.device)
    return ((kind * size[0] + row) * size[1] + column).where(inside, -1)


def drawn_joints(
    joints: Tensor, size: tuple[int, int], sigma: float, convention: Convention = HIGHERHRNET
) -> Tensor:
    """Whether each joint is in the target, hence supervised: (B, N, K) bool.

    It is if it is labelled and its cell is in the map or, in the convention of top-down HRNet,
    within reach of a patch.
    """
    return _whole_cells(joints, size, convention, convention.patch_margin(sigma))[2]


def _whole_cells(
    joints: Tensor,
    size: tuple[int, int],
    convention: Convention,
    margin: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Column and row of joints, 0 if they are unlabelled or outside, and whether they are neither.

    margin: cells before the first and after the last of the map that count as inside
    Returns 3 times (B, N, K): int64, int64, bool.
    """
    x, y = (convention.nearest_cell(each) for each in joints[..., :2].unbind(-1))
    before, after = margin
    inside = (x >= -before) & (x < size[1] + after) & (y >= -before) & (y < size[0] + after)
    inside &= joints[..., 2] > 0
    return x.where(inside, 0).long(), y.where(inside, 0).long(), inside
