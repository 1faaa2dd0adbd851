"""Heatmaps in blocks of cells, whose highest are known: few blocks need a look. Without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 16
"""Cells of a block's side: few blocks to bound, few cells to look at in each."""

RUN = 8
"""Cells that are read at once: 32 bytes, which numpy's `take` copies in a quarter of the time."""


class HeatBlocks(NamedTuple):
    """Heatmaps, and what is known of their blocks without a look at them."""

    maps: np.ndarray  # (K, H, W)
    padded: np.ndarray  # (K, 16R, 16C), -inf beyond the maps
    highest: np.ndarray  # (K, R * C)


class TagBlocks(NamedTuple):
    """Tags, and the range of the first of them in each block."""

    maps: np.ndarray  # (K, H, W, T)
    padded: np.ndarray  # (T, K, 16R, 16C), 0 beyond the maps
    least: np.ndarray  # (K, R * C)
    most: np.ndarray  # (K, R * C)


def heat_in_blocks(heatmaps: np.ndarray) -> HeatBlocks:
    """heatmaps: (K, H, W)

    Errors: FloatingPointError if any cell is no finite number.
    """
    heatmaps = np.ascontiguousarray(heatmaps, np.float32)
    flat = heatmaps.ravel()
    refuse_broken(np.vdot(flat, flat))  # a fifth of the time of asking every cell
    padded = _pad(heatmaps, -np.inf)
    return HeatBlocks(heatmaps, padded, _extremes(np.maximum, padded))


def tags_in_blocks(tags: np.ndarray) -> TagBlocks:
    """tags: (K, H, W, T), read at once where one map comes after the other in memory

    Errors: FloatingPointError if any tag is no finite number.
    """
    padded = _pad(np.ascontiguousarray(np.moveaxis(tags, -1, 0), np.float32), 0.0)
    for each in padded:
        refuse_broken(np.vdot(each, each))
    first = padded[0]
    return TagBlocks(tags, padded, _extremes(np.minimum, first), _extremes(np.maximum, first))


def refuse_broken(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "heatmaps or tags are not finite: the weights are broken, perhaps by a high TRAIN.LR"
        )


def _pad(maps: np.ndarray, beyond: float) -> np.ndarray:
    """Maps (..., H, W) whose sides are multiples of SIDE; themselves if they were."""
    below, right = (-side % SIDE for side in maps.shape[-2:])
    if not below and not right:
        return maps
    around = [(0, 0)] * (maps.ndim - 2) + [(0, below), (0, right)]
    return np.pad(maps, around, constant_values=beyond)


def _extremes(how: np.ufunc, padded: np.ndarray) -> np.ndarray:
    """The highest (np.maximum) or least (np.minimum) of blocks: (K, 16R, 16C) -> (K, R * C)."""
    count, height, width = padded.shape
    found = how.reduce(padded.reshape(count, height // SIDE, SIDE, width), axis=2)  # (K, R, 16C)
    while found.shape[2] > width // SIDE:  # along short rows a reduction would be slow
        found = how(found[..., ::2], found[..., 1::2])
    return found.reshape(count, -1)


def runs_of(block: np.ndarray, width: int) -> np.ndarray:
    """Where the cells of blocks (L,) lie in maps of a width: runs of RUN (L, SIDE * SIDE / RUN)."""
    row, column = np.divmod(block, width // SIDE)
    first = (row * SIDE * width + column * SIDE) // RUN
    steps = np.arange(SIDE)[:, None] * (width // RUN) + np.arange(SIDE // RUN)
    return first[:, None] + steps.ravel()


def cells_in(padded: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """What lies in blocks: (16R, 16C), runs (L, ...) -> (L, SIDE * SIDE)."""
    return padded.reshape(-1, RUN).take(runs, axis=0).reshape(len(runs), SIDE * SIDE)


def place_in(runs: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The flat cells of the map for places (M,) in what `cells_in` gave, flat as well: (M,)."""
    run, after = np.divmod(place, RUN)
    return runs.ravel()[run] * RUN + after


def unpadded(cell: np.ndarray, heat: HeatBlocks) -> np.ndarray:
    """Flat cells of padded maps as those of the maps."""
    row, column = np.divmod(cell, heat.padded.shape[-1])
    return row * heat.maps.shape[-1] + column
