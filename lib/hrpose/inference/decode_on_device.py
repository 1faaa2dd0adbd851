"""The branches of inference/decode.py for maps on a device: only few cells are copied to the host.

They find the same people as the branches for host memory, to the last bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hrpose.inference.decode import NOT_FINITE
from hrpose.inference.spec import DecoderConfig
from hrpose.ops.peaks import find_peaks, gather_cells, highest_cells
from hrpose.ops.subpixel import unpack_keypoints
from hrpose.structures import Candidates, TopCells

TOP_CELLS = 2048
"""Cells of each joint that are copied from a device, to search missing joints in first."""

SEARCHES_AT_ONCE = 32
"""Missing joints searched in whole maps on a device at once: some 300 MB at 512 x 704."""


def find_candidates_on_device(
    heatmaps: Tensor, tags: Tensor, config: DecoderConfig
) -> list[Candidates]:
    """The peaks (K, M, 3 + T) of each image and its highest cells, in one copy to the host.

    heatmaps: (B, K, H, W) float32   tags: (B, K, H, W, T) float32
    """
    packed_on_device = []
    for maps, values in zip(heatmaps.split(1), tags.split(1)):  # together they need gigabytes
        peaks = find_peaks(maps, config.max_people, config.nms_kernel)
        highest = highest_cells(maps, TOP_CELLS if config.refine else 1)
        packed_on_device.append(gather_cells(maps, values, torch.cat([peaks, highest], -1)))
    count = peaks.shape[-1]
    candidates = []
    for packed in torch.cat(packed_on_device).cpu().numpy():  # (K, M + C, 10 + T)
        if not np.isfinite(np.vdot(packed, packed)):  # NaN counts as the highest of all
            raise FloatingPointError(NOT_FINITE)
        keypoints = unpack_keypoints(packed, heatmaps.shape[-1], config.subpixel)
        cells, top = packed[:, count:, 0].astype(int), keypoints[:, count:]
        is_whole_map = cells.shape[1] == heatmaps[0, 0].numel()
        floor = np.full(len(cells), -np.inf) if is_whole_map else top[:, -1, 2]
        candidates.append(Candidates(keypoints[:, :count], TopCells(cells, top, floor)))
    return candidates


def search_on_device(
    heatmaps: Tensor,
    tags: Tensor,
    top: TopCells,
    joint: np.ndarray,
    wanted: np.ndarray,
    subpixel: str,
) -> np.ndarray:
    """The best keypoints (L, 3 + T) of joints (L,) for tags (L, T).

    They are searched among the highest cells, on the host, and where these do not settle it in the
    whole maps, on the device.
    """
    keypoints, is_open = search_top_cells(top, joint, wanted)
    if is_open.any():
        given = joint[is_open], wanted[is_open], subpixel
        keypoints[is_open] = search_whole_maps(heatmaps, tags, *given)
    return keypoints


def search_top_cells(
    top: TopCells, joint: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best keypoints (L, 3 + T) among the highest cells, and which remain open (L,) bool.

    No other cell scores more than the floor of their heat: a score above it is the map's best.
    """
    keypoints = np.zeros((len(joint), top.keypoints.shape[-1]), np.float32)
    is_open = np.zeros(len(joint), bool)
    for k in np.unique(joint):
        mine, known = joint == k, top.keypoints[k]  # (C, 3 + T)
        pairs = zip(known.T[3:], wanted[mine].T[..., None])
        squares = sum(np.square(tag - mean) for tag, mean in pairs)  # (P, C)
        score = known[:, 2] - np.rint(np.sqrt(squares))
        best = score.max(1, keepdims=True)  # (P, 1)
        cell = np.where(score == best, top.cells[k], np.iinfo(int).max)
        keypoints[mine] = known[cell.argmin(1)]
        is_open[mine] = best[:, 0] <= top.floor[k]
    return keypoints, is_open


def search_whole_maps(
    heatmaps: Tensor, tags: Tensor, joint: np.ndarray, wanted: np.ndarray, subpixel: str
) -> np.ndarray:
    """The best keypoints (L, 3 + T) of each joint (L,) for tags (L, T), from every cell."""
    packed = []
    for start in range(0, len(joint), SEARCHES_AT_ONCE):
        part = slice(start, start + SEARCHES_AT_ONCE)
        joints = torch.from_numpy(joint[part]).to(heatmaps.device)
        means = torch.from_numpy(wanted[part]).to(heatmaps.device)
        heat, values = heatmaps[joints], tags[joints]  # (L, H, W), (L, H, W, T)
        squares = torch.zeros_like(heat)
        for value, mean in zip(values.unbind(-1), means.unbind(-1)):
            squares += (value - mean[:, None, None]) ** 2
        cell = (heat - squares.sqrt().round()).flatten(1).argmax(1)
        packed.append(gather_cells(heat[None], values[None], cell[None, :, None])[0, :, 0])
    return unpack_keypoints(torch.cat(packed).cpu().numpy(), heatmaps.shape[-1], subpixel)
