"""Cells of heatmaps on the host: which are peaks, and where about its cell a joint lies.

This file imports no torch: a shipped model decodes its heatmaps without it. On another device
ops/heatmaps.py finds the same cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hrpose.ops.blocks import SIDE, HeatBlocks, cells_in, place_in, runs_of, unpadded

Place = Callable[[np.ndarray], np.ndarray]
"""3 x 3 neighbourhoods of cells (..., 3, 3) -> steps from their middles (..., 2), in cells"""

SOME = 4
"""Times as many blocks as peaks are wanted, the highest, are looked at first."""

FLAT = 1e-10
"""Heat below which a logarithm would speak of nothing but rounding."""


def find_peaks(heat: HeatBlocks, count: int, window: int = 5, above: float = 0.0) -> np.ndarray:
    """The highest local maxima of every joint, the highest first; of equal ones the first in order.

    A cell is a local maximum if none in the `window` x `window` cells about it is higher; all cells
    of a plateau are, as in the authors' code.

    above: heat that a peak must exceed, 0 or more
    Returns flat cells (K, count) int64, -1 where there are fewer.
    """
    peaks = np.full((len(heat.maps), count), -1)
    for padded, highest, row in zip(heat.padded, heat.highest, peaks):
        found = _find_peaks(padded, highest, count, window, above)
        row[: len(found)] = unpadded(found, heat)
    return peaks


def _find_peaks(
    heat: np.ndarray, highest: np.ndarray, count: int, window: int, above: float
) -> np.ndarray:
    """The flat cells of one heatmap's peaks, in order: (16R, 16C), of its blocks (R * C,) -> (M,)

    A peak is among the highest cells, and these in the highest blocks; ever more are looked at.
    """
    hot = np.flatnonzero(highest > above)
    some = SOME * count
    while True:
        floor = _of_rank(highest[hot], some)
        runs = runs_of(hot[highest[hot] >= floor], heat.shape[1])
        cells = _candidates(heat, runs, floor, above, window)
        few = cells[: SIDE * some]  # of a plateau there may be many
        peaks = few[_is_summit(heat, few, window // 2)]
        if len(peaks) >= count or (some >= len(hot) and len(few) == len(cells)):
            return peaks[:count]
        some *= SOME


def _of_rank(values: np.ndarray, rank: int) -> float:
    """What about so many of the values (C,) are not below; if there are fewer, none is below it."""
    return np.partition(values, -rank)[-rank] if len(values) > rank else -np.inf


def _candidates(
    heat: np.ndarray, runs: np.ndarray, floor: float, above: float, window: int
) -> np.ndarray:
    """Flat cells of blocks that may be peaks, of heat >= floor and > above, the highest first."""
    high = cells_in(heat, runs)
    may_be = (high >= floor) & (high > above)
    if window > 1:
        may_be &= _no_less_than_neighbours(high)
    cells = np.sort(place_in(runs, np.flatnonzero(may_be)))
    return cells[np.argsort(-heat.ravel()[cells], kind="stable")]


def _no_less_than_neighbours(cells: np.ndarray) -> np.ndarray:
    """Which cells of blocks (L, SIDE * SIDE) no cell beside them, in their block, exceeds."""
    heat, known = cells.ravel(), np.ones(cells.size, bool)
    higher = np.empty(cells.size, bool)
    for step in (1, SIDE):  # along x, along y
        line = higher.reshape(-1, SIDE, step)
        np.greater_equal(heat[step:], heat[:-step], out=higher[step:])
        line[:, 0] = True  # what lies before it is of another line
        known &= higher
        np.greater_equal(heat[:-step], heat[step:], out=higher[:-step])
        line[:, -1] = True
        known &= higher
    return known.reshape(cells.shape)


def _is_summit(heat: np.ndarray, cell: np.ndarray, reach: int) -> np.ndarray:
    """Whether no cell is higher that is `reach` cells away or less, along x and along y."""
    row, column = np.divmod(cell, heat.shape[1])
    steps = np.arange(-reach, reach + 1)
    rows = (row[:, None] + steps).clip(0, heat.shape[0] - 1)
    columns = (column[:, None] + steps).clip(0, heat.shape[1] - 1)
    around = heat[rows[:, :, None], columns[:, None, :]]
    return heat.ravel()[cell] == around.max((1, 2))


def describe(
    heatmaps: np.ndarray, tags: np.ndarray, joint: np.ndarray, cell: np.ndarray, place: Place
) -> np.ndarray:
    """What lies in cells: (..., 3 + T) x, y in cells of the map, score, tags; all 0 for cell -1.

    heatmaps: (K, H, W)   tags: (K, H, W, T)   joint, cell: (...) which heatmap, flat cell in it
    """
    row, column = np.divmod(np.maximum(cell, 0), heatmaps.shape[-1])
    patches = neighbourhoods(heatmaps, joint, row, column)
    said = located(row, column, patches, tags[joint, row, column], place)
    return np.where((cell >= 0)[..., None], said, np.float32(0))


def neighbourhoods(
    heatmaps: np.ndarray, joint: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """The 3 x 3 cells about each cell (..., 3, 3); outside the map stands the nearest inside."""
    height, width = heatmaps.shape[-2:]
    reach = np.arange(-1, 2)
    rows = np.clip(row[..., None] + reach, 0, height - 1)[..., :, None]
    columns = np.clip(column[..., None] + reach, 0, width - 1)[..., None, :]
    return heatmaps[joint[..., None, None], rows, columns]


def unpack(gathered: np.ndarray, width: int, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """What ops/heatmaps.gather_cells sent.

    gathered: (..., 10 + T)   width: cells of a row of the maps
    Returns flat cells (...), and (..., 3 + T) x, y, score, tags, all 0 for cell -1.
    """
    cell = gathered[..., 0].astype(int)
    row, column = np.divmod(np.maximum(cell, 0), width)
    patches = gathered[..., 1:10].reshape(*cell.shape, 3, 3)
    said = located(row, column, patches, gathered[..., 10:], place)
    return cell, np.where((cell >= 0)[..., None], said, np.float32(0))


def located(
    row: np.ndarray, column: np.ndarray, patches: np.ndarray, tags: np.ndarray, place: Place
) -> np.ndarray:
    """Cells with neighbourhoods (..., 3, 3) and tags (..., T): (..., 3 + T) x, y, score, tags.

    The middle of cell 0 is 0.5.
    """
    xy = np.stack([column, row], -1) + np.float32(0.5) + place(patches)
    return np.concatenate([xy, patches[..., 1, 1, None], tags], -1, dtype=np.float32)


# Where about its cell a joint lies -------------------------------------------------------------


def middle(patches: np.ndarray) -> np.ndarray:
    """In the middle of the cell."""
    return np.zeros((*patches.shape[:-2], 2), np.float32)


def quarter_step(patches: np.ndarray) -> np.ndarray:
    """A quarter cell towards the higher neighbour, along x and along y.

    Where both neighbours are equal the step is to the left, or up. (As in the authors' code.)
    """
    right_of = patches[..., 1, 2] > patches[..., 1, 0]
    below = patches[..., 2, 1] > patches[..., 0, 1]
    return np.stack([right_of, below], -1) * np.float32(0.5) - np.float32(0.25)


def taylor_step(patches: np.ndarray) -> np.ndarray:
    """To where the logarithm of heat is highest, by its Taylor series to the second order.

    Exact for a Gaussian, whose logarithm is that series. Half a cell at most along x and along y;
    none where the series has no highest place, as on a ridge or a slope.

    Source: Zhang et al. 2020 (DARK), equations 3 to 9.
    """
    log = np.log(np.maximum(patches, FLAT).astype(np.float64))
    dx, dy = (log[..., 1, 2] - log[..., 1, 0]) / 2, (log[..., 2, 1] - log[..., 0, 1]) / 2
    dxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    dyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    dxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    bend = dxx * dyy - dxy**2
    is_summit = (dxx < 0) & (bend > 0)
    bend = np.where(is_summit, bend, 1)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / bend[..., None]
    return np.where(is_summit[..., None], step.clip(-0.5, 0.5), 0).astype(np.float32)


STEPS: dict[str, Place] = {"quarter": quarter_step, "taylor": taylor_step}
