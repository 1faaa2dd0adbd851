"""Heatmaps -> peaks: local maxima, the best of them, and where between the cells they lie."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def local_maxima(heatmaps: Tensor, window: int = 5) -> Tensor:
    """Heatmaps (K, H, W) with all but the local maxima set to 0.

    A cell stays if none in the `window` x `window` cells about it is higher; all cells of a
    plateau stay, as in the authors' code.
    """
    summit = F.max_pool2d(heatmaps[None], window, stride=1, padding=window // 2)[0]
    return heatmaps * (heatmaps == summit)


def find_peaks(heatmaps: Tensor, tags: Tensor, count: int, window: int = 5) -> Tensor:
    """The `count` highest local maxima of every joint, with the tags found there.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    Returns (K, min(count, H * W), 3 + T): column, row, score, tags.
    """
    count = min(count, heatmaps[0].numel())
    score, cell = local_maxima(heatmaps, window).flatten(1).topk(count)  # (K, M)
    tag = tags.flatten(1, 2).gather(1, cell[..., None].expand(-1, -1, tags.shape[-1]))
    width = heatmaps.shape[-1]
    column, row = cell % width, cell // width
    return torch.cat([torch.stack([column, row, score], -1), tag], -1)


def cell_centres(cells: Tensor) -> Tensor:
    """The middle of each cell (..., 2): half a cell right of and below its corner."""
    return cells + 0.5


def quarter_shift(heatmaps: Tensor, joint: Tensor, cells: Tensor) -> Tensor:
    """The middle of each cell, a quarter cell towards its higher neighbour, along x and along y.

    Where both neighbours are equal the step is to the left, or up; a neighbour outside the map is
    the cell itself. (Both as in the authors' code.)

    heatmaps: (K, H, W)   joint: (...) which heatmap   cells: (..., 2) column, row, whole numbers
    Returns (..., 2) float, in cells of the map.
    """
    height, width = heatmaps.shape[-2:]
    column, row = cells[..., 0].long(), cells[..., 1].long()
    right = heatmaps[joint, row, (column + 1).clamp(max=width - 1)]
    left = heatmaps[joint, row, (column - 1).clamp(min=0)]
    below = heatmaps[joint, (row + 1).clamp(max=height - 1), column]
    above = heatmaps[joint, (row - 1).clamp(min=0), column]
    towards = torch.stack([right > left, below > above], -1)
    return cell_centres(cells) + 0.5 * towards - 0.25


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, K, H, W) brought to `size` (H, W), bilinearly, pixel centres not corners aligned."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
