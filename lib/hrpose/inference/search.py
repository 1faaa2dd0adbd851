"""Find the best cell of a large map for a tag, looking only where it may be. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hrpose.ops.blocks import SIDE, HeatBlocks, TagBlocks, cells_in, place_in, runs_of, unpadded

FIRST = 8
"""Blocks that each person looks into before the others are judged by what was found there."""

RANKS = (1 / 128, 1 / 8)
"""Shares of a map's cells, the highest, that are looked at while too many blocks promise much."""

DEARER = 4
"""How much longer it takes to pick a cell by its heat than to look at it in a block."""


class JointBlocks(NamedTuple):
    """One joint's maps, padded, and what is known of their blocks.

    A person's score in a cell is heat - round(tag distance). Each operation, as rounded in floating
    point, keeps the order of its operands; so the score of a block's highest heat at the least
    distance that its range of tags allows is not exceeded by any of its cells, to the last bit.

    The range is that of the first tag alone: more tags only add to a distance, the tags of several
    views are nearly equal, and to read them all takes longer than they save.
    """

    heat: np.ndarray  # (H, W)
    tags: np.ndarray  # (T, H, W)
    highest: np.ndarray  # (R * C,)
    least: np.ndarray  # (R * C,) of the first tag
    most: np.ndarray  # (R * C,)


class Best(NamedTuple):
    """The best cells found so far, of several the first."""

    score: np.ndarray  # (P,)
    cell: np.ndarray  # (P,) flat


def tag_distance(tags: Sequence[np.ndarray] | np.ndarray, mean: np.ndarray) -> np.ndarray:
    """How far tags (T, ...) are from means (T, ...), rounded as often as a plain loop would."""
    squares = np.square(tags[0] - mean[0])
    for value, centre in zip(tags[1:], mean[1:]):
        squares += np.square(value - centre)
    return np.sqrt(squares, out=squares)


def best_cells(heat: HeatBlocks, tags: TagBlocks, joint: int, wanted: np.ndarray) -> np.ndarray:
    """The flat cell of a joint's best score for each of the tags wanted (P, T).

    Of several equally good cells it is the first. The blocks that promise each person most are
    looked into first, then all that promise no less than was found there. Where these are many, as
    in noise, the highest cells of the map come before them.
    """
    maps = _maps_of(heat, tags, joint)
    promise = _promises(maps, wanted)  # (P, R * C)
    best = Best(np.full(len(wanted), -np.inf, np.float32), np.zeros(len(wanted), int))
    best = _look_into(maps, wanted, *_most_promising(promise), best)
    above = np.inf
    for floor, count in _floors(maps.heat):
        cells = (promise >= best.score[:, None]).sum(1) * SIDE**2
        busy = np.flatnonzero(cells > DEARER * count)
        if not len(busy):
            break
        best = _look_from_above(maps, wanted, busy, (floor, above), best)
        promise[busy[best.score[busy] >= floor]] = -np.inf  # whatever lies below has less heat
        above = floor
    open_ = np.flatnonzero(promise >= best.score[:, None])
    best = _look_into(maps, wanted, *np.divmod(open_, promise.shape[1]), best)
    return unpadded(best.cell, heat)


def _maps_of(heat: HeatBlocks, tags: TagBlocks, joint: int) -> JointBlocks:
    planes = heat.padded[joint], tags.padded[:, joint]
    return JointBlocks(*planes, heat.highest[joint], tags.least[joint], tags.most[joint])


def _promises(maps: JointBlocks, wanted: np.ndarray) -> np.ndarray:
    """What no cell of a block exceeds, for each of the tags wanted (P, T): (P, R * C)."""
    mean = wanted[:, :1]
    nearest = np.clip(mean, maps.least, maps.most)
    return maps.highest - np.rint(tag_distance(nearest[None], mean[None]))


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
    maps: JointBlocks, wanted: np.ndarray, people: np.ndarray, which: np.ndarray, best: Best
) -> Best:
    """The best, now that every cell of some blocks (L,) is known to one person each (L,)."""
    if not len(people):
        return best
    runs = runs_of(which, maps.heat.shape[1])
    heat, *tags = (cells_in(each, runs) for each in (maps.heat, *maps.tags))
    score = tag_distance(tags, wanted[people].T[..., None])  # (L, SIDE * SIDE)
    np.subtract(heat, np.rint(score, out=score), out=score)
    first = score.argmax(1) + np.arange(len(score)) * SIDE**2
    return _better(best, people, score.ravel()[first], place_in(runs, first))


def _look_from_above(
    maps: JointBlocks, wanted: np.ndarray, people: np.ndarray, band: tuple[float, float], best: Best
) -> Best:
    """The best, now that people (P,) know all cells whose heat is within a band."""
    floor, above = band
    runs = runs_of(np.flatnonzero(maps.highest >= floor), maps.heat.shape[1])
    heat = cells_in(maps.heat, runs).ravel()
    found = np.flatnonzero(heat >= floor)
    cell = np.sort(place_in(runs, found[heat[found] < above]))
    if not len(cell):
        return best
    heat, *tags = (each.ravel()[cell] for each in (maps.heat, *maps.tags))  # (C,) each
    away = tag_distance(tags, wanted[people].T[..., None])  # (P, C)
    score = np.subtract(heat, np.rint(away, out=away), out=away)
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
