"""Peaks and highest cells of heatmaps on any device and for a whole batch, and resizing.

`gather_cells` packs what lies in the cells into one tensor, so that one copy takes it to the host,
where ops/subpixel.py unpacks it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-290
"""So small that no float32 but 0 is smaller, and large enough to be multiplied in `_tie_broken`."""


def local_maxima(heatmaps: Tensor, window: int = 5) -> Tensor:
    """Heatmaps (..., H, W) with all cells but the local maxima set to 0.

    A cell stays if none in the `window` x `window` cells about it is higher; all cells of a
    plateau stay, as in the authors' code.
    """
    flat = heatmaps.flatten(0, -3)[None]
    highest = F.max_pool2d(flat, window, stride=1, padding=window // 2).view(heatmaps.shape)
    return heatmaps * (heatmaps == highest)


def find_peaks(heatmaps: Tensor, count: int, window: int = 5) -> Tensor:
    """The highest local maxima of every joint, highest first; equal ones in row order.

    heatmaps: (B, K, H, W) float32
    Returns flat cells (B, K, min(count, H * W)), -1 where there are fewer above 0.
    """
    maxima = local_maxima(heatmaps, window).flatten(2)
    cells = _tie_broken(maxima).topk(min(count, maxima.shape[-1])).indices
    return cells.where(maxima.gather(2, cells) > 0, -1)


def highest_cells(heatmaps: Tensor, count: int) -> Tensor:
    """The highest cells of every joint, in order: (B, K, H, W) -> (B, K, min(count, H * W))."""
    values = heatmaps.flatten(2)
    return _tie_broken(values).topk(min(count, values.shape[-1])).indices


def _tie_broken(values: Tensor) -> Tensor:
    """float64 (..., C) in the order of `values`, the first of equal ones being the highest.

    Two different float32 are further apart than 2^-25 of themselves; a float64 has room for the
    indices of 2^24 cells below that.
    """
    index = torch.arange(values.shape[-1], dtype=torch.float64, device=values.device)
    exact = values.double()
    return exact - exact.abs().clamp(min=TINY) * index * 2.0**-50


def gather_cells(heatmaps: Tensor, tags: Tensor, cells: Tensor) -> Tensor:
    """The contents of cells in one tensor: flat cell, its 3 x 3 neighbourhood of heat, its tags.

    Outside the map the nearest cell inside is repeated. Entries of cells -1 are undefined.

    heatmaps: (B, K, H, W)   tags: (B, K, H, W, T)   cells: (B, K, M)
    Returns (B, K, M, 10 + T) float32.
    """
    height, width = heatmaps.shape[-2:]
    row = cells // width
    column = cells - row * width  # torch's ONNX export knows % for fixed sizes only
    row = row.clamp(min=0)
    rows = [(row + step).clamp(0, height - 1) for step in (-1, 0, 1)]
    columns = [(column + step).clamp(0, width - 1) for step in (-1, 0, 1)]
    flat = heatmaps.flatten(2)
    patch = [flat.gather(2, r * width + c) for r in rows for c in columns]
    here = row * width + column
    values = [value.flatten(2).gather(2, here) for value in tags.unbind(-1)]
    return torch.stack([cells.float(), *(each.float() for each in (*patch, *values))], -1)


resize = partial(F.interpolate, mode="bilinear", align_corners=False)
"""Maps (B, K, H, W) and a size (H, W) -> the maps, resized bilinearly."""
