"""Cells of heatmaps on the host: which are peaks, and where about its cell a joint lies.

This file imports no torch: a shipped model decodes its heatmaps without it. On another device
ops/heatmaps.py finds the same cells.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Place = Callable[[np.ndarray], np.ndarray]
"""3 x 3 neighbourhoods of cells (..., 3, 3) -> steps from their middles (..., 2), in cells"""

FLAT = 1e-10
"""Heat below which a logarithm would speak of nothing but rounding."""


def find_peaks(heatmaps: np.ndarray, count: int, window: int = 5, above: float = 0.0) -> np.ndarray:
    """The highest local maxima of every joint, the highest first; of equal ones the first in order.

    A cell is a local maximum if none in the `window` x `window` cells about it is higher; all cells
    of a plateau are, as in the authors' code.

    heatmaps: (K, H, W) float32   above: heat that a peak must exceed, 0 or more
    Returns flat cells (K, count) int64, -1 where there are fewer.
    """
    peaks = np.full((len(heatmaps), count), -1)
    for heat, row in zip(heatmaps, peaks):
        found = _highest(heat.ravel(), _local_maxima(heat, window, above), count)
        row[: len(found)] = found
    return peaks


def _local_maxima(heat: np.ndarray, window: int, above: float) -> np.ndarray:
    summit = cv2.dilate(heat, np.ones((window, window), np.uint8))  # 50 times max-pool's speed
    high = np.flatnonzero(heat > above)
    return high[heat.ravel()[high] == summit.ravel()[high]]


def _highest(values: np.ndarray, cells: np.ndarray, count: int) -> np.ndarray:
    """The `count` cells of the highest values, in that order."""
    heat = values[cells]
    if len(cells) > count:
        least = np.partition(heat, -count)[-count]
        cells, heat = cells[heat >= least], heat[heat >= least]
    return cells[np.argsort(-heat, kind="stable")[:count]]


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
