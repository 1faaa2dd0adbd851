"""Heatmaps and tags of one image -> the people in it.

The peaks of the heatmaps are the candidates; candidates of similar tags are grouped into people;
the joints that people still miss are searched in the whole maps; people are filtered by score.
Maps in host memory (NumPy) are read without torch. Maps on another device stay there, and only
candidates are copied (inference/decode_on_device.py); people are the same to the last bit.

Source: Newell et al. 2017 (associative embedding); Cheng et al. 2020 (HigherHRNet).
The search for missing joints follows the released evaluation of HigherHRNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from hrpose.inference.munkres import munkres
from hrpose.inference.spec import PUBLISHED, DecoderConfig
from hrpose.ops.oks import joint_areas, oks_nms
from hrpose.ops.subpixel import drop_duplicate_peaks, gather_keypoints
from hrpose.skeletons import Skeleton
from hrpose.structures import Candidates, TopCells

ArrayOrTensor = Any  # np.ndarray, or torch.Tensor on any device
Group = Callable[..., tuple[np.ndarray, np.ndarray]]  # as `group_by_tag`
MATCHERS = {"munkres": munkres, "scipy": linear_sum_assignment}
"""costs (M, P) -> rows and columns of the lowest sum; among equal sums each has its own order"""

NOT_FINITE = "heatmaps or tags are not finite: the weights are broken, perhaps by a high TRAIN.LR"
"""Found by the sum of squares: a dot product takes a fifth of the time of testing every value."""

# The search for missing joints: which cells, and how many at once. Speed only; never the result.
BLOCK = 16  # side of the blocks of cells whose extremes bound the score of a missing joint
FIRST_BLOCKS = 12  # blocks of highest bound, in which each missing joint is searched first
AT_ONCE = 32  # missing joints that are searched at once, so that their cells stay in the cache
FEW_BLOCKS = 1 / 8  # of a map; where more remain, as in noise, cells are selected by their heat
HIGH_CELLS = 1 / 64  # of a map, the highest, which are then searched first


def decode(
    heatmaps: ArrayOrTensor,
    tags: ArrayOrTensor,
    skeleton: Skeleton,
    config: DecoderConfig = PUBLISHED,
    candidates: Candidates | None = None,
    group: Group | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The people in one image, best first.

    heatmaps: (K, H, W)   tags: (K, H, W, T)   both NumPy or torch, on any device
    candidates: of these maps, if they are known   group: `group_by_tag`, or it in another process
    Returns people (N, K, 3 + T): x, y in cells counted from the map's edge (the centre of cell 0 is
    0.5), score, tags, a missing joint being all 0; and scores (N,), as published each the mean over
    all joints before the missing ones are filled in.
    Errors: FloatingPointError if the maps are not finite.
    """
    if not isinstance(heatmaps, np.ndarray):
        heatmaps, tags = heatmaps.float(), tags.float()
        if heatmaps.device.type == "cpu":
            heatmaps, tags = heatmaps.numpy(), tags.numpy()
    if candidates is None:
        candidates = find_candidates(heatmaps, tags, config)
    peaks = candidates.peaks
    if config.unique_peaks:
        peaks = drop_duplicate_peaks(peaks, config.nms_kernel // 2)
    people, scores = (group or group_by_tag)(peaks, skeleton.grouping_indices, config)
    if config.refine:
        people = fill_missing(people, heatmaps, tags, config, candidates.top)
    return score_and_filter(people, scores, skeleton, config)


def find_candidates(
    heatmaps: ArrayOrTensor, tags: ArrayOrTensor, config: DecoderConfig = PUBLISHED
) -> Candidates:
    """The highest local maxima of every joint, located within their cells.

    A cell is a local maximum if none in the window about it is higher; all cells of a plateau are,
    as in the authors' code. Of equally high ones the first in row order come first.

    heatmaps: (K, H, W) float32   tags: (K, H, W, T) float32
    """
    if not isinstance(heatmaps, np.ndarray):
        from hrpose.inference.decode_on_device import find_candidates_on_device

        return find_candidates_on_device(heatmaps[None], tags[None], config)[0]
    count = min(config.max_people, heatmaps[0].size)
    window = np.ones((config.nms_kernel, config.nms_kernel), np.uint8)
    cells = np.full((len(heatmaps), count), -1)
    highest = np.empty(heatmaps.shape[1:], np.float32)
    is_peak, is_high = np.empty((2, *heatmaps.shape[1:]), bool)
    square_sum = np.float32(0)
    for heat, row in zip(map(np.ascontiguousarray, heatmaps), cells):
        square_sum += np.vdot(heat, heat)
        cv2.dilate(heat, window, dst=highest)
        np.equal(heat, highest, out=is_peak)
        is_peak &= np.greater(heat, config.detection_threshold, out=is_high)
        found = np.flatnonzero(is_peak)
        heights = heat[is_peak]
        if len(found) > count:  # in noise, thousands: sort only those that may be kept
            is_high_enough = heights >= np.partition(heights, -count)[-count]
            found, heights = found[is_high_enough], heights[is_high_enough]
        found = found[np.argsort(-heights, kind="stable")][:count]
        row[: len(found)] = found
    joint = np.arange(len(cells))[:, None].repeat(count, 1)
    peaks = gather_keypoints(heatmaps, tags, joint, cells, config.subpixel)
    if not np.isfinite(square_sum + np.vdot(peaks, peaks)):
        raise FloatingPointError(NOT_FINITE)
    return Candidates(peaks)


def group_by_tag(
    peaks: np.ndarray, order: Sequence[int], config: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Assemble people joint by joint, matching candidates to the people of most similar tags.

    Each person gets at most one candidate of a joint, so that the sum of costs is lowest. A
    candidate left over, or too far from its person's mean tag, starts a new person.

    peaks: (K, M, 3 + T) x, y, score, tags   order: joints in the order in which they are assigned
    Returns the best `max_people` people (N, K, 3 + T), best first, a missing joint being all 0; and
    their scores (N,): the mean over all joints.
    Source: Newell et al. 2017; the rounded cost is that of the authors' code.
    """
    people: list[np.ndarray] = []  # (K, 3 + T) each
    tags: list[list[np.ndarray]] = []  # of each person's joints, in the order they were added
    means: list[np.ndarray] = []  # (T,) each
    # Clipped, a pair that is separated again below cannot cost a good pair its match.
    clipped = partial(np.minimum, config.tag_threshold)
    costs: dict[str, Callable] = {"rounded": np.round, "clipped": clipped}
    for joint in order:
        candidates = peaks[joint][peaks[joint, :, 2] > config.detection_threshold]  # (M, 3 + T)
        owners = np.full(len(candidates), -1)
        if people and len(candidates):
            known = np.array(means[: config.max_people])  # (P, T)
            distance = np.sqrt(((candidates[:, None, 3:] - known) ** 2).sum(-1))  # (M, P)
            # In float64 equal sums are equal; in float32 noise of 1e-8 would decide the matching.
            cost = costs[config.matching_cost](distance.astype(float)) * 100
            row, column = MATCHERS[config.matcher](cost - candidates[:, 2:3])
            near = distance[row, column] < config.tag_threshold
            owners[row[near]] = column[near]
        for candidate, person in zip(candidates, owners.tolist()):
            if person < 0:
                person = len(people)
                people.append(np.zeros(peaks.shape[::2], np.float32))
                tags.append([])
                means.append(candidate[3:])
            people[person][joint] = candidate
            tags[person].append(candidate[3:])
            means[person] = np.add.reduce(tags[person]) / len(tags[person])  # 5x faster than mean
    grouped = np.array(people, np.float32).reshape(-1, *peaks.shape[::2])
    scores = grouped[:, :, 2].mean(1)
    best = np.argsort(-scores, kind="stable")[: config.max_people]
    return grouped[best], scores[best]


def fill_missing(
    people: np.ndarray,
    heatmaps: ArrayOrTensor,
    tags: ArrayOrTensor,
    config: DecoderConfig = PUBLISHED,
    top: TopCells | None = None,
) -> np.ndarray:
    """Search the whole maps for the joints that people (N, K, 3 + T) miss.

    A missing joint is put into the cell where heat - round(tag distance to its person) is highest,
    the first in row order of several; it stays missing if the heat there is not above 0. Joints
    found before do not move. A person's tag is the mean over the joints found before.

    heatmaps: (K, H, W)   tags: (K, H, W, T)   top: of maps on a device
    """
    found = people[..., 2] > 0
    joint, person = np.nonzero(~found.T)  # (L,) each, joint after joint
    if not len(joint):
        return people
    means = [np.mean(each[seen, 3:], axis=0) for each, seen in zip(people, found)]
    wanted = np.array(means, np.float32)[person]  # (L, T)
    if isinstance(heatmaps, np.ndarray):
        cell = search_maps(heatmaps, tags, joint, wanted)
        keypoints = gather_keypoints(heatmaps, tags, joint, cell, config.subpixel)
    else:
        from hrpose.inference.decode_on_device import search_on_device

        assert top is not None, "candidates of maps on a device come with their highest cells"
        keypoints = search_on_device(heatmaps, tags, top, joint, wanted, config.subpixel)
    take = keypoints[:, 2] > 0
    filled = people.copy()
    filled[person[take], joint[take]] = keypoints[take]
    return filled


def search_maps(
    heatmaps: np.ndarray, tags: np.ndarray, joint: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """The best cell (L,) of each joint (L,) for tags (L, T), from bounds of blocks of cells.

    No cell of a block scores more than the block's highest heat minus the rounded distance of the
    wanted tag to the block's range of tags: rounding in floating point keeps the order of operands.
    The range is that of the first tag only: more tags only add to a distance, and the tags of
    several views are nearly equal.
    """
    joints, height, width = heatmaps.shape
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    maps = [heatmaps[..., None], tags]
    if height % BLOCK or width % BLOCK:  # what is added equals cells inside, and comes after them
        added = ((0, 0), (0, rows * BLOCK - height), (0, columns * BLOCK - width), (0, 0))
        maps = [np.pad(each, added, mode="edge") for each in maps]
    heat, tags = (each.reshape(joints, rows, BLOCK, columns * BLOCK, -1) for each in maps)
    extremes = [np.maximum.reduce(heat, 2), np.minimum.reduce(tags, 2), np.maximum.reduce(tags, 2)]
    if not all(np.isfinite(each).all() for each in extremes):
        raise FloatingPointError(NOT_FINITE)
    highest, least, most = (
        ufunc.reduceat(each[..., 0], np.arange(0, columns * BLOCK, BLOCK), axis=2)
        for ufunc, each in zip((np.maximum, np.minimum, np.maximum), extremes)
    )  # (K, rows, columns) each
    cells = np.empty(len(joint), int)
    for start in range(0, len(joint), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        k, tag = joint[part], wanted[part]
        away = np.clip(tag[:, :1, None], least[k], most[k]) - tag[:, :1, None]
        bound = highest[k] - np.rint(np.sqrt(np.square(away)))
        cells[part] = _search_blocks(bound, heat[..., 0], tags, k, tag)
    row, column = np.divmod(cells, columns * BLOCK)
    return row * width + column


def _search_blocks(
    bound: np.ndarray, heat: np.ndarray, tags: np.ndarray, joint: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """The best cell (L,) of each joint (L,) for tags (L, T), given the bounds of blocks.

    The blocks of highest bound are searched first, then those whose bound is not below the score
    found there.   bound: (L, rows, columns)   heat: (K, rows, BLOCK, W)   tags: (..., T)
    """
    width, views, bound = heat.shape[-1], tags.shape[-1], bound.reshape(len(bound), -1)
    row, column = np.divmod(np.arange(bound.shape[1]), width // BLOCK)
    corner = (row * width + column) * BLOCK
    inside = np.add.outer(np.arange(BLOCK) * width, np.arange(BLOCK)).ravel()
    heat_of = heat.reshape(*heat.shape[:3], -1, BLOCK)
    tags_of = tags.reshape(*heat_of.shape, -1)
    best, cells = np.full(len(joint), -np.inf, np.float32), np.zeros(len(joint), int)
    is_open = np.zeros(bound.shape, bool)
    first = np.argpartition(bound, -min(FIRST_BLOCKS, bound.shape[1]))[:, -FIRST_BLOCKS:]
    np.put_along_axis(is_open, first, True, 1)
    while is_open.any():
        i, block = np.divmod(np.flatnonzero(is_open), bound.shape[1])
        at = joint[i], row[block], slice(None), column[block]  # of a block, then (BLOCK, BLOCK)
        around, tag = tags_of[at], wanted[i, None, None]
        squares = sum(np.square(around[..., t] - tag[..., t]) for t in range(views))
        score = (heat_of[at] - np.rint(np.sqrt(squares))).reshape(len(i), -1)
        highest, known = score.max(1), best.copy()
        np.maximum.at(best, i, highest)
        cells[best > known] = heat[0].size
        equal = np.flatnonzero(highest == best[i])
        cell = corner[block[equal]] + inside[score[equal].argmax(1)]
        np.minimum.at(cells, i[equal], cell)
        bound[is_open] = -np.inf
        is_open = bound >= best[:, None]
        is_many = is_open.sum(1) > FEW_BLOCKS * bound.shape[1]
        for k in np.unique(joint[is_many]):
            mine = is_many & (joint == k)
            cells[mine] = _search_by_heat(heat[k], tags[k], wanted[mine], best[mine])
        bound[is_many], is_open[is_many] = -np.inf, False
    return cells


def _search_by_heat(
    heat: np.ndarray, tags: np.ndarray, wanted: np.ndarray, best: np.ndarray
) -> np.ndarray:
    """The best cell (P,) of one joint for tags (P, T), of which scores (P,) are known.

    No cell scores more than its heat: only cells of at least the least score are searched, after a
    few of the highest, which raise the scores.
    """
    heat, tags = heat.ravel(), tags.reshape(heat.size, -1)
    sample = heat[::16]
    rank = max(1, int(len(sample) * HIGH_CELLS))
    floor = max(np.partition(sample, -rank)[-rank], best.min())
    found = np.empty(len(wanted), int)
    for _ in range(2):
        cells = np.flatnonzero(heat >= floor)
        high, values = heat[cells], tags[cells]
        for i, tag in enumerate(wanted):
            squares = sum(np.square(value - mean) for value, mean in zip(values.T, tag))
            score = high - np.rint(np.sqrt(squares))
            first = score.argmax()
            best[i], found[i] = max(best[i], score[first]), cells[first]
        floor = best.min()
    return found


def score_and_filter(
    people: np.ndarray, scores: np.ndarray, skeleton: Skeleton, config: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """The people (N, K, 3 + T) of at least `min_score`, less duplicates by OKS, best first."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= config.min_score]
    people, scores = people[order], scores[order]
    if config.oks_nms < 1:
        found, areas = people[..., 2] > 0, joint_areas(people)
        kept = oks_nms(people, scores, areas, skeleton.sigmas, config.oks_nms, found)
        people, scores = people[kept], scores[kept]
    return people, scores
