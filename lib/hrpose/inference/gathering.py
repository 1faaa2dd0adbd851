"""Maps on a device -> candidates on the host, in one copy; what they leave open, on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hrpose.inference.decoding import Grouped, place_of
from hrpose.inference.grouping import PUBLISHED, Settings
from hrpose.inference.refine import missing_joints
from hrpose.ops.blocks import refuse_broken
from hrpose.ops.cells import unpack
from hrpose.ops.heatmaps import find_peaks, gather_cells, highest_cells
from hrpose.structures import Candidates, Highest

HIGHEST = 2048
"""Cells of each joint that missing joints are looked for among."""

AT_ONCE = 32
"""Missing joints that are looked for on the whole maps at once: some 300 MB at 512 x 704."""


def gather(heatmaps: Tensor, tags: Tensor, settings: Settings = PUBLISHED) -> list[Candidates]:
    """The peaks and highest cells of every image of a batch, with what lies there.

    heatmaps: (B, K, H, W) float32   tags: (B, K, H, W, T) float32
    """
    # Image by image, since an order among equal cells takes several times a map's memory.
    cells = torch.cat([_cells(image[None], settings) for image in heatmaps])
    gathered = gather_cells(heatmaps, tags, cells).cpu().numpy()
    refuse_broken(gathered)  # no number is the highest of all
    size = heatmaps[0, 0].numel()
    count = min(settings.max_people, size)
    return [unpacked(image, count, heatmaps.shape[-1], size, settings) for image in gathered]


def _cells(heatmaps: Tensor, settings: Settings) -> Tensor:
    """The peaks of (1, K, H, W), and behind them the highest cells: (1, K, M)."""
    peaks = find_peaks(heatmaps, settings.max_people, settings.nms_kernel)
    return torch.cat([peaks, highest_cells(heatmaps, HIGHEST if settings.refine else 1)], -1)


def unpacked(
    gathered: np.ndarray, peaks: int, width: int, size: int, settings: Settings
) -> Candidates:
    """One image's candidates, of which the first are its peaks: (K, M, 10 + T).

    width, size: cells of a row of its maps, and of a map
    """
    cell, said = unpack(gathered, width, place_of(settings))
    complete = said.shape[1] - peaks == size
    floor = np.full(len(said), -np.inf) if complete else said[:, -1, 2]
    return Candidates(said[:, :peaks], Highest(cell[:, peaks:], said[:, peaks:], floor))


def fill_open(grouped: Grouped, heatmaps: Tensor, tags: Tensor, settings: Settings) -> np.ndarray:
    """The people (N, K, 3 + T) with everything filled in: what is open, from the whole maps.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    """
    missing = missing_joints(grouped.found)
    still = grouped.open[missing.person, missing.joint]
    if not still.any():
        return grouped.filled
    person, joint, wanted = (each[still] for each in missing)
    joints = torch.from_numpy(joint).to(heatmaps.device).split(AT_ONCE)
    means = torch.from_numpy(wanted).to(heatmaps.device).split(AT_ONCE)
    best = torch.cat([_best(heatmaps, tags, *part) for part in zip(joints, means)])
    _, said = unpack(best.cpu().numpy(), heatmaps.shape[-1], place_of(settings))
    filled, take = grouped.filled.copy(), said[:, 2] > 0
    filled[person[take], joint[take]] = said[take]
    return filled


def _best(heatmaps: Tensor, tags: Tensor, joint: Tensor, wanted: Tensor) -> Tensor:
    """The best cell for each joint (L,) of the tags wanted (L, T), as gathered: (L, 10 + T)."""
    heat, seen = heatmaps[joint], tags[joint]  # (L, H, W), (L, H, W, T)
    squares = torch.zeros_like(heat)
    for value, mean in zip(seen.unbind(-1), wanted.unbind(-1)):
        squares += (value - mean[:, None, None]) ** 2
    cell = (heat - squares.sqrt().round()).flatten(1).argmax(1)
    return gather_cells(heat[None], seen[None], cell[None, :, None])[0, :, 0]
