"""Find the best cell of a large map for a tag, looking only where it may be. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SIDE = 16
"""Cells of a block's side: few blocks to bound, few cells to look at in each."""

FIRST = 8
"""Blocks that each person looks into before the others are judged by what was found there."""

RANKS = (1 / 128, 1 / 8)
"""Shares of a map's cells, the highest, that are looked at while too many blocks promise much."""

DEARER = 4
"""How much longer it takes to pick a cell by its heat than to look at it in a block."""


class Blocks(NamedTuple):
    """One joint's maps, and what is known of each of their R x C blocks without a look at it.

    A person's score in a cell is heat - round(tag distance). Each operation, as rounded in floating
    point, keeps the order of its operands; so the score of a block's highest heat at the least
    distance that its range of tags allows is not exceeded by any of its cells, to the last bit.

    The range is that of the first tag alone: more tags only add to a distance, the tags of several
    views are nearly equal, and to read them all takes longer than they save.
    """

    heat: np.ndarray  # (H, W), multiples of SIDE
    tags: np.ndarray  # (T, H, W)
    highest: np.ndarray  # (R * C,)
    least: np.ndarray  # (R * C,) of the first tag
    most: np.ndarray  # (R * C,)


class Best(NamedTuple):
    """The best cells found so far, of several the first."""

    score: np.ndarray  # (P,)
    cell: np.ndarray  # (P,) flat


def in_blocks(heat: np.ndarray, tags: np.ndarray) -> Blocks:
    """heat: (H, W)   tags: (T, H, W)"""
    heat, tags = _padded(heat, -np.inf), _padded(tags, 0.0)
    highest, most = _reduced(np.maximum, heat), _reduced(np.maximum, tags[0])
    least = _reduced(np.minimum, tags[0])
    others = sum(np.vdot(each, each) for each in tags[1:])  # no number if any of them is none
    if not np.isfinite(highest.sum() + least.sum() + most.sum() + others):
        raise FloatingPointError("heatmaps or tags are not finite: the weights are broken")
    return Blocks(heat, tags, highest, least, most)


def _padded(maps: np.ndarray, beyond: float) -> np.ndarray:
    """Maps (..., H, W) whose sides are multiples of SIDE; themselves if they were."""
    below, right = (-side % SIDE for side in maps.shape[-2:])
    if not below and not right:
        return maps
    around = [(0, 0)] * (maps.ndim - 2) + [(0, below), (0, right)]
    return np.pad(maps, around, constant_values=beyond)


def _cut(maps: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., R, C, SIDE, SIDE), without a copy."""
    *rest, height, width = maps.shape
    cut = maps.reshape(*rest, height // SIDE, SIDE, width // SIDE, SIDE)
    return cut.swapaxes(-3, -2)


def _reduced(how: np.ufunc, maps: np.ndarray) -> np.ndarray:
    """(H, W) -> (R * C,)"""
    height, width = maps.shape
    blocks = how.reduce(maps.reshape(height // SIDE, SIDE, width), axis=1)  # (R, W)
    while blocks.shape[1] > width // SIDE:  # along short rows a reduction would be slow
        blocks = how(blocks[:, ::2], blocks[:, 1::2])
    return blocks.ravel()


def tag_distance(tags: Sequence[np.ndarray] | np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How far tags (T, ...) are from means (T, ...), rounded as often as a plain loop would."""
    squares = np.square(tags[0] - mean[0])
    for value, centre in zip(tags[1:], mean[1:]):
        squares += np.square(value - centre)
    return np.sqrt(squares, out=squares)


def best_cells(heat: np.ndarray, tags: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The flat cell of the best score for each of the tags wanted (P, T); of several, the first.

    heat: (H, W)   tags: (T, H, W)
    Of each person the most promising blocks come first; then all that promise no less than was
    found there. Where these are many, as in noise, the highest cells of the map come before them.
    """
    blocks = in_blocks(heat, tags)
    promise = _promises(blocks, wanted)  # (P, R * C)
    best = Best(np.full(len(wanted), -np.inf, np.float32), np.zeros(len(wanted), int))
    best = _look_into(blocks, wanted, *_most_promising(promise), best)
    above = np.inf
    for floor, count in _floors(blocks.heat):
        open_ = (promise >= best.score[:, None]).sum(1) * SIDE**2
        busy = np.flatnonzero(open_ > DEARER * count)
        if not len(busy):
            break
        best = _look_from_above(blocks, wanted, busy, (floor, above), best)
        promise[busy[best.score[busy] >= floor]] = -np.inf  # whatever lies below has less heat
        above = floor
    people, which = np.nonzero(promise >= best.score[:, None])
    row, column = np.divmod(
        _look_into(blocks, wanted, people, which, best).cell, blocks.heat.shape[1]
    )
    return row * heat.shape[1] + column


def _promises(blocks: Blocks, wanted: np.ndarray) -> np.ndarray:
    """What no cell of a block exceeds, for each of the tags wanted (P, T): (P, R * C)."""
    mean = wanted[:, :1]
    nearest = np.clip(mean, blocks.least, blocks.most)
    return blocks.highest - np.rint(tag_distance(nearest[None], mean[None]))


def _most_promising(promise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each person (P, R * C) the FIRST blocks that promise most: whose (L,), which (L,)."""
    count = min(FIRST, promise.shape[1])
    which = np.argpartition(promise, -count)[:, -count:]
    return np.arange(len(promise)).repeat(count), which.ravel()


def _floors(heat: np.ndarray) -> list[tuple[float, float]]:
    """Heat that about so many cells have at least, for each of RANKS, by a look at some of them."""
    sample = np.sort(heat[::8, ::8].ravel())[::-1]
    return [(sample[int(rank * len(sample))], rank * heat.size) for rank in RANKS]


def _look_into(
    blocks: Blocks, wanted: np.ndarray, people: np.ndarray, which: np.ndarray, best: Best
) -> Best:
    """The best, now that every cell of some blocks (L,) is known to one person each (L,)."""
    if not len(people):
        return best
    width = blocks.heat.shape[1]
    row, column = np.divmod(which, width // SIDE)
    heat = _cut(blocks.heat)[row, column].reshape(len(which), -1)  # (L, SIDE * SIDE)
    tags = [_cut(tag)[row, column].reshape(heat.shape) for tag in blocks.tags]
    score = tag_distance(tags, wanted[people].T[..., None])
    np.subtract(heat, np.rint(score, out=score), out=score)
    first = score.argmax(1)
    cell = (row * SIDE + first // SIDE) * width + column * SIDE + first % SIDE
    return _better(best, people, score[np.arange(len(first)), first], cell)


def _look_from_above(
    blocks: Blocks, wanted: np.ndarray, people: np.ndarray, band: tuple[float, float], best: Best
) -> Best:
    """The best, now that people (P,) know all cells whose heat is within a band."""
    floor, above = band
    heat = blocks.heat.ravel()
    cell = np.flatnonzero(heat >= floor)
    cell = cell[heat[cell] < above]
    if not len(cell):
        return best
    tags = [tag.ravel()[cell] for tag in blocks.tags]  # (C,) each
    away = tag_distance(tags, wanted[people].T[..., None])  # (P, C)
    score = np.subtract(heat[cell], np.rint(away, out=away), out=away)
    first = score.argmax(1)
    return _better(best, people, score[np.arange(len(first)), first], cell[first])


def _better(best: Best, people: np.ndarray, score: np.ndarray, cell: np.ndarray) -> Best:
    """The best, now that people (L,) have found other cells of these scores (L,)."""
    highest = best.score.copy()
    np.maximum.at(highest, people, score)
    cells = np.where(best.score == highest, best.cell, np.iinfo(int).max)
    equal = score == highest[people]
    np.minimum.at(cells, people[equal], cell[equal])
    return Best(highest, cells)
