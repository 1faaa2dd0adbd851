"""Heatmaps and tags -> people, on the host and without torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from hrpose.inference.grouping import PUBLISHED, Settings, group_by_tag, pose_scores
from hrpose.inference.refine import fill_from_cells, fill_from_maps
from hrpose.ops.affine import Affine
from hrpose.ops.blocks import (
    HeatBlocks,
    TagBlocks,
    heat_in_blocks,
    refuse_broken,
    tags_in_blocks,
)
from hrpose.ops.cells import STEPS, Place, describe, find_peaks, middle
from hrpose.ops.oks import distinct
from hrpose.ops.processes import begun
from hrpose.skeletons import Skeleton
from hrpose.structures import Candidates, Poses


class Grouped(NamedTuple):
    """People in the making, as they go from grouping to what is still to be filled in."""

    found: np.ndarray  # (N, K, 3 + T), before anything was filled in
    filled: np.ndarray  # (N, K, 3 + T)
    open: np.ndarray  # (N, K) bool: joints that only the whole maps can tell


def decode_maps(
    heatmaps: np.ndarray,
    tags: np.ndarray,
    skeleton: Skeleton,
    settings: Settings = PUBLISHED,
    peaks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The people of one image, best first; see inference.bottomup.decode.

    heatmaps: (K, H, W) float32   tags: (K, H, W, T) float32
    peaks: (K, M, 3 + T) where they are known already
    Returns (N, K, 3 + T), (N,).
    """
    read = begun if settings.refine else partial  # reading hardly ever holds Python's lock
    known_tags = read(tags_in_blocks, tags)
    heat = heat_in_blocks(heatmaps)
    if peaks is None:
        peaks = peaks_of(heat, tags, settings)
    return finished(grouped(peaks, skeleton, settings), heat, known_tags, skeleton, settings)


def finished(
    found: np.ndarray,
    heat: HeatBlocks,
    tags: Callable[[], TagBlocks],
    skeleton: Skeleton,
    settings: Settings,
) -> tuple[np.ndarray, np.ndarray]:
    """What `decode_maps` returns, of the people found; the tags are asked for if needed."""
    filled = found
    if settings.refine and len(found):
        filled = fill_from_maps(found, heat, tags(), place_of(settings))
    return judged(found, filled, skeleton, settings)


def brought_back(people: np.ndarray, scores: np.ndarray, to_maps: Affine) -> Poses:
    """People (N, K, 3 + T) found in maps, where `to_maps` began."""
    joints = to_maps.inverse().joints(people[..., :3]).astype(np.float32)
    joints[people[..., 2] <= 0] = 0
    return Poses(joints, scores)


def peaks_of(heat: HeatBlocks, tags: np.ndarray, settings: Settings = PUBLISHED) -> np.ndarray:
    """The highest peaks of every joint, each where it lies between the cells: (K, M, 3 + T)."""
    count = min(settings.max_people, heat.maps[0].size)
    cell = find_peaks(heat, count, settings.nms_kernel, settings.detection_threshold)
    joint = np.arange(len(cell))[:, None].repeat(count, 1)
    peaks = describe(heat.maps, tags, joint, cell, place_of(settings))
    refuse_broken(peaks)
    return peaks


def group(candidates: Candidates, skeleton: Skeleton, settings: Settings = PUBLISHED) -> Grouped:
    """The people that candidates make, filled in as far as the candidates tell."""
    refuse_broken(candidates.peaks)
    found = grouped(candidates.peaks, skeleton, settings)
    if not settings.refine or not len(found):
        return Grouped(found, found, np.zeros(found.shape[:2], bool))
    return Grouped(found, *fill_from_cells(found, candidates.highest))


def grouped(peaks: np.ndarray, skeleton: Skeleton, settings: Settings = PUBLISHED) -> np.ndarray:
    """The people (N, K, 3 + T) that peaks (K, M, 3 + T) make."""
    if settings.step == "taylor":
        peaks = _without_twins(peaks, settings.nms_kernel // 2)
    return group_by_tag(peaks, skeleton.grouping_indices, settings)


def _without_twins(peaks: np.ndarray, reach: int) -> np.ndarray:
    """Of peaks equally high in one window the first alone; the others get a score of 0.

    Exact heatmaps have such where a joint lies halfway between cells. Each would found a person.
    """
    xy, score = peaks[..., :2], peaks[..., 2]
    near = (abs(xy[:, :, None] - xy[:, None]) <= reach).all(-1)  # (K, M, M)
    earlier = np.tri(peaks.shape[1], k=-1, dtype=bool)
    twin = (near & earlier & (score[:, :, None] == score[:, None])).any(-1)
    peaks = peaks.copy()
    peaks[twin, 2] = 0
    return peaks


def judged(
    found: np.ndarray, filled: np.ndarray, skeleton: Skeleton, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """The people (N, K, 3 + T) worth reporting and their scores (N,), best first."""
    scores = SCORES[settings.score](found, filled)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= settings.min_score]
    people, scores = filled[order], scores[order]
    if settings.suppress < 1:
        kept = distinct(people[..., :3], skeleton.sigmas, settings.suppress)
        people, scores = people[kept], scores[kept]
    return people, scores


def _mean_of_found(found: np.ndarray, filled: np.ndarray) -> np.ndarray:
    return found[:, :, 2].sum(1) / np.maximum((found[:, :, 2] > 0).sum(1), 1)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "all": lambda found, filled: pose_scores(found),  # published
    "found": _mean_of_found,
    "filled": lambda found, filled: pose_scores(filled),
}
"""What a pose's score is the mean of: the heat of all joints, those not found counting 0; of those
found alone; of all once the missing ones are filled in."""


def place_of(settings: Settings) -> Place:
    return STEPS[settings.step] if settings.adjust else middle
