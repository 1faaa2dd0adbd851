"""Heatmaps and tags of one image -> the people in it.

Four steps: peaks of the heatmaps are the candidates, candidates of similar tags are grouped into
people, the joints that people still miss are searched in the whole maps, and people are scored and
filtered. Maps in host memory (NumPy) are read without torch; maps on another device stay there,
and only candidates are copied. Both branches find the same people, to the last bit.

Source: Newell et al. 2017 (associative embedding), section 3.2; Cheng et al. 2020 (HigherHRNet).
The search for missing joints follows the released evaluation of HigherHRNet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from hrpose.inference.grouping import group_by_tag
from hrpose.inference.spec import PUBLISHED, DecoderConfig
from hrpose.ops.oks import oks_nms
from hrpose.ops.subpixel import gather_keypoints
from hrpose.skeletons import Skeleton
from hrpose.structures import Candidates, TopCells

ArrayOrTensor = Any
"""np.ndarray, or torch.Tensor on any device"""

Group = Callable[..., tuple[np.ndarray, np.ndarray]]  # as `group_by_tag`

BLOCK = 16
"""Side of the blocks of cells whose extremes bound the score of a missing joint."""

FIRST_BLOCKS = 16
"""Blocks of highest bound in which each missing joint is searched first."""

AT_ONCE = 32
"""Missing joints that are searched at once, so that their cells stay in the cache."""

FEW_BLOCKS = 1 / 8
"""Share of a map's blocks; where more stay open, as in noise, cells are selected by their heat."""

HIGH_CELLS = 1 / 64
"""Share of a map's cells, the highest, that are then searched first."""


def decode(
    heatmaps: ArrayOrTensor,
    tags: ArrayOrTensor,
    skeleton: Skeleton,
    config: DecoderConfig = PUBLISHED,
    candidates: Candidates | None = None,
    group: Group = group_by_tag,
) -> tuple[np.ndarray, np.ndarray]:
    """The people in one image, best first.

    heatmaps: (K, H, W)   tags: (K, H, W, T)   both NumPy or torch, on any device
    candidates: where they were found before   group: `group_by_tag`, or the same in another process
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
    people, scores = group(candidates.peaks, skeleton.grouping_indices, config)
    if config.refine:
        people = fill_missing(people, heatmaps, tags, config, candidates.top)
    return score_and_filter(people, scores, skeleton, config)


# Candidates -----------------------------------------------------------------------------------


def find_candidates(
    heatmaps: ArrayOrTensor, tags: ArrayOrTensor, config: DecoderConfig = PUBLISHED
) -> Candidates:
    """The highest local maxima of every joint, located within their cells.

    A cell is a local maximum if none in the window about it is higher; all cells of a plateau are,
    as in the authors' code. Of equally high ones the first in row order come first.

    heatmaps: (K, H, W) float32   tags: (K, H, W, T) float32
    """
    top = None
    if isinstance(heatmaps, np.ndarray):
        count = min(config.max_people, heatmaps[0].size)
        window = np.ones((config.nms_kernel, config.nms_kernel), np.uint8)
        cells = np.full((len(heatmaps), count), -1)
        highest = np.empty(heatmaps.shape[1:], np.float32)
        is_peak, is_high = np.empty((2, *heatmaps.shape[1:]), bool)
        for heat, row in zip(map(np.ascontiguousarray, heatmaps), cells):
            check_finite(heat)
            cv2.dilate(heat, window, dst=highest)
            np.equal(heat, highest, out=is_peak)
            is_peak &= np.greater(heat, config.detection_threshold, out=is_high)
            found = np.flatnonzero(is_peak)
            found = found[np.argsort(-heat.ravel()[found], kind="stable")][:count]
            row[: len(found)] = found
        joint = np.arange(len(cells))[:, None].repeat(count, 1)
        peaks = gather_keypoints(heatmaps, tags, joint, cells, config.subpixel)
    else:
        from hrpose.inference.decode_on_device import find_peaks_on_device

        peaks, top = find_peaks_on_device(heatmaps, tags, config)
    check_finite(peaks)
    if config.unique_peaks:
        peaks = drop_duplicate_peaks(peaks, config.nms_kernel // 2)
    return Candidates(peaks, top)


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


def check_finite(maps: np.ndarray) -> None:
    """FloatingPointError if any value is not finite.

    One dot product: a fifth of the time of testing every value.
    """
    flat = maps.ravel()
    if not np.isfinite(np.vdot(flat, flat)):
        raise FloatingPointError(
            "heatmaps or tags are not finite: the weights are broken, perhaps by a high TRAIN.LR"
        )


# Missing joints -------------------------------------------------------------------------------


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
        cell = _search_blocks(heatmaps, tags, joint, wanted)
        keypoints = gather_keypoints(heatmaps, tags, joint, cell, config.subpixel)
    else:
        from hrpose.inference.decode_on_device import search_on_device

        assert top is not None, "candidates of maps on a device come with their highest cells"
        keypoints = search_on_device(heatmaps, tags, top, joint, wanted, config.subpixel)
    take = keypoints[:, 2] > 0
    filled = people.copy()
    filled[person[take], joint[take]] = keypoints[take]
    return filled


def tag_distance(tags: Sequence[np.ndarray] | np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Euclidean distance of tags (T, ...) from tags (T, ...), rounded as a loop over T would."""
    squares = np.square(tags[0] - wanted[0])
    for value, mean in zip(tags[1:], wanted[1:]):
        squares += np.square(value - mean)
    return np.sqrt(squares, out=squares)


def _search_blocks(
    heatmaps: np.ndarray, tags: np.ndarray, joint: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """The best cell (L,) of each joint (L,) for tags (L, T), from bounds of blocks of cells.

    No cell of a block scores more than the block's highest heat minus the rounded distance of the
    wanted tag to the block's range of tags: rounding in floating point keeps the order of operands.
    The range is that of the first tag only: more tags only add to a distance, and the tags of
    several views are nearly equal.
    """
    planes = [np.ascontiguousarray(tags[..., t]) for t in range(tags.shape[-1])]  # (K, H, W) each
    highest = _of_blocks(np.maximum, heatmaps)
    least, most = _of_blocks(np.minimum, planes[0]), _of_blocks(np.maximum, planes[0])
    for values in (least, most, *planes[1:]):  # a range is finite where all of its tags are
        check_finite(values)
    cells = []
    for start in range(0, len(joint), AT_ONCE):
        k, tag = joint[start : start + AT_ONCE], wanted[start : start + AT_ONCE]
        nearest = np.clip(tag[:, :1], least[k], most[k])
        bound = highest[k] - np.rint(tag_distance(nearest[None], tag[None, :, :1]))
        cells.append(_search_within(bound, [heatmaps, *planes], k, tag))
    return np.concatenate(cells)


def _of_blocks(ufunc: np.ufunc, maps: np.ndarray) -> np.ndarray:
    """The maximum or minimum of every block: (K, H, W) -> (K, blocks)."""
    joints, height, width = maps.shape
    rows = -(-height // BLOCK)
    padding = ((0, 0), (0, rows * BLOCK - height), (0, 0))
    whole = np.pad(maps, padding, mode="edge") if height % BLOCK else maps
    lines = ufunc.reduce(whole.reshape(joints, rows, BLOCK, width), axis=2)
    return ufunc.reduceat(lines, np.arange(0, width, BLOCK), axis=2).reshape(joints, -1)


def _search_within(
    bound: np.ndarray, maps: Sequence[np.ndarray], joint: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """The best cell (L,) of each joint (L,) for tags (L, T), given the bounds of blocks.

    The blocks of highest bound are searched first, then those whose bound is not below the score
    found there; in these, cells of less heat than that score are skipped, for no cell scores more
    than its heat.

    bound: (L, blocks)   maps: heat, then tags, (K, H, W) each
    """
    height, width = maps[0].shape[1:]
    shape = (min(BLOCK, height), min(BLOCK, width))
    row, column = np.divmod(np.arange(bound.shape[1]), -(-width // BLOCK))
    row = np.minimum(row * BLOCK, height - shape[0])  # the last blocks overlap those before
    column = np.minimum(column * BLOCK, width - shape[1])
    corner = row * width + column
    inside = (np.arange(shape[0])[:, None] * width + np.arange(shape[1])).ravel()
    blocks_of = [sliding_window_view(each, shape, (1, 2)) for each in maps]

    # Every cell of the blocks of highest bound.
    count = min(FIRST_BLOCKS, bound.shape[1])
    first = np.argpartition(bound, -count)[:, -count:]  # (L, count)
    place = joint[:, None], row[first], column[first]
    heat, *tags = (each[place].reshape(len(first), -1) for each in blocks_of)
    score = np.rint(tag_distance(tags, wanted.T[..., None]))  # (L, count * cells of a block)
    score = np.subtract(heat, score, out=score)
    best = score.max(1)
    cells = np.full(len(wanted), height * width)
    i, j = np.divmod(np.flatnonzero(score == best[:, None]), score.shape[1])
    block, j = np.divmod(j, inside.size)
    np.minimum.at(cells, i, corner[first[i, block]] + inside[j])

    # Of the other blocks, those that may hold as high a score.
    np.put_along_axis(bound, first, -np.inf, 1)
    is_open = bound >= best[:, None]
    is_many = is_open.sum(1) > FEW_BLOCKS * bound.shape[1]
    for k in np.unique(joint[is_many]):
        mine = is_many & (joint == k)
        cells[mine] = _search_by_heat([each[k] for each in maps], wanted[mine], best[mine])
    is_open[is_many] = False
    i, block = np.divmod(np.flatnonzero(is_open), bound.shape[1])
    heat = blocks_of[0][joint[i], row[block], column[block]].reshape(len(block), inside.size)
    pair, j = np.divmod(np.flatnonzero(heat >= best[i, None]), inside.size)
    i, cell = i[pair], corner[block[pair]] + inside[j]
    tags = [each.reshape(len(each), -1)[joint[i], cell] for each in maps[1:]]
    score = heat[pair, j] - np.rint(tag_distance(tags, wanted[i].T))
    known = best.copy()
    np.maximum.at(best, i, score)
    cells[best > known] = height * width
    equal = score == best[i]
    np.minimum.at(cells, i[equal], cell[equal])
    return cells


def _search_by_heat(maps: Sequence[np.ndarray], wanted: np.ndarray, best: np.ndarray) -> np.ndarray:
    """The best cell (P,) for tags (P, T) of which scores (P,) are known, among cells of such heat.

    A few of the highest cells are searched first, to raise the scores.
    """
    heat, *tags = (each.ravel() for each in maps)
    sample = heat[::16]
    rank = max(1, int(len(sample) * HIGH_CELLS))
    floor = max(np.partition(sample, -rank)[-rank], best.min())
    found = np.empty(len(wanted), int)
    for _ in range(2):
        cells = np.flatnonzero(heat >= floor)
        high, *values = (each[cells] for each in (heat, *tags))
        for i, tag in enumerate(wanted):
            score = high - np.rint(tag_distance(values, tag))
            first = score.argmax()
            best[i], found[i] = max(best[i], score[first]), cells[first]
        floor = best.min()
    return found


# Scores ---------------------------------------------------------------------------------------


def score_and_filter(
    people: np.ndarray, scores: np.ndarray, skeleton: Skeleton, config: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """The people (N, K, 3 + T) of at least `min_score`, less duplicates by OKS, best first."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= config.min_score]
    people, scores = people[order], scores[order]
    if config.oks_nms < 1:
        kept = oks_nms(people[..., :3], skeleton.sigmas, config.oks_nms)
        people, scores = people[kept], scores[kept]
    return people, scores
