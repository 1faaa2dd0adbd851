"""Where a joint lies within its heatmap cell: the offset rules, and reading keypoints from cells.

This module imports no torch: an exported model decodes its heatmaps without it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

OffsetRule = Callable[[np.ndarray], np.ndarray]
"""3 x 3 neighbourhoods of cells (..., 3, 3) -> offsets from their centres (..., 2) x, y in cells"""

LOG_FLOOR = 1e-10
"""Heat is clamped to this before its logarithm, which would otherwise be dominated by rounding."""


def no_offset(patches: np.ndarray) -> np.ndarray:
    """The centre of the cell."""
    return np.zeros((*patches.shape[:-2], 2), np.float32)


def quarter_offset(patches: np.ndarray) -> np.ndarray:
    """A quarter cell towards the higher neighbour, along x and along y.

    Where both neighbours are equal the offset is to the left, or up, as in the authors' code.
    """
    right = patches[..., 1, 2] > patches[..., 1, 0]
    down = patches[..., 2, 1] > patches[..., 0, 1]
    return np.stack([right, down], -1) * np.float32(0.5) - np.float32(0.25)


def signed_quarter_offset(patches: np.ndarray) -> np.ndarray:
    """A quarter cell towards the higher neighbour, along x and along y; 0 where both are equal."""
    dx = patches[..., 1, 2] - patches[..., 1, 0]
    dy = patches[..., 2, 1] - patches[..., 0, 1]
    return np.sign(np.stack([dx, dy], -1)) * np.float32(0.25)


def dark_offset(patches: np.ndarray) -> np.ndarray:
    """To the maximum of the second-order Taylor series of log heat.

    Exact for a Gaussian, whose logarithm is that series. At most half a cell along x and along y;
    0 where the series has no maximum, as on a ridge or a slope.

    Source: Zhang et al. 2020 (DARK), equations 3 to 9.
    """
    log = np.log(np.maximum(patches, LOG_FLOOR).astype(np.float64))
    dx, dy = (log[..., 1, 2] - log[..., 1, 0]) / 2, (log[..., 2, 1] - log[..., 0, 1]) / 2
    dxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    dyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    dxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy**2
    has_maximum = (dxx < 0) & (determinant > 0)
    determinant = np.where(has_maximum, determinant, 1)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / determinant[..., None]
    return np.where(has_maximum[..., None], step.clip(-0.5, 0.5), 0).astype(np.float32)


SUBPIXEL: dict[str, OffsetRule] = {
    "none": no_offset,
    "quarter": quarter_offset,
    "signed_quarter": signed_quarter_offset,
    "dark": dark_offset,
}


def gather_keypoints(
    heatmaps: np.ndarray, tags: np.ndarray, joint: np.ndarray, cell: np.ndarray, subpixel: str
) -> np.ndarray:
    """Keypoints at cells: (..., 3 + T) x, y in cells of the map, score, tags; all 0 for cell -1.

    heatmaps: (K, H, W)   tags: (K, H, W, T)   joint, cell: (...) heatmap index, flat cell in it
    subpixel: a name of SUBPIXEL
    """
    height, width = heatmaps.shape[-2:]
    row, column = np.divmod(np.maximum(cell, 0), width)
    reach = np.arange(-1, 2)  # outside the map the nearest cell inside is repeated
    rows = np.clip(row[..., None] + reach, 0, height - 1)[..., :, None]
    columns = np.clip(column[..., None] + reach, 0, width - 1)[..., None, :]
    patches = heatmaps[joint[..., None, None], rows, columns]
    return _keypoints(cell, width, patches, tags[joint, row, column], subpixel)


def unpack_keypoints(packed: np.ndarray, width: int, subpixel: str) -> np.ndarray:
    """What `gather_keypoints` returns, from the output of ops/peaks.gather_cells.

    packed: (..., 10 + T)   width: cells of a row of the maps
    """
    patches = packed[..., 1:10].reshape(*packed.shape[:-1], 3, 3)
    return _keypoints(packed[..., 0].astype(int), width, patches, packed[..., 10:], subpixel)


def _keypoints(
    cell: np.ndarray, width: int, patches: np.ndarray, tags: np.ndarray, subpixel: str
) -> np.ndarray:
    """The centre of cell 0 is 0.5.   cell: (...)   patches: (..., 3, 3)   tags: (..., T)"""
    row, column = np.divmod(np.maximum(cell, 0), width)
    xy = np.stack([column, row], -1) + np.float32(0.5) + SUBPIXEL[subpixel](patches)
    keypoints = np.concatenate([xy, patches[..., 1, 1, None], tags], -1, dtype=np.float32)
    return np.where((cell >= 0)[..., None], keypoints, np.float32(0))


def drop_duplicate_peaks(peaks: np.ndarray, reach: int) -> np.ndarray:
    """Of equally high peaks within one window only the first; the others get a score of 0.

    Unbiased heatmaps have such where a joint lies halfway between cells: each would start a person.
    """
    xy, score = peaks[..., :2], peaks[..., 2]
    near = (abs(xy[:, :, None] - xy[:, None]) <= reach).all(-1)  # (K, M, M)
    earlier = np.tri(peaks.shape[1], k=-1, dtype=bool)
    duplicate = (near & earlier & (score[:, :, None] == score[:, None])).any(-1)
    peaks = peaks.copy()
    peaks[duplicate, 2] = 0
    return peaks
