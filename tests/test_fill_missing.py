"""The best cell of a map, found by looking at a few: the same as by looking at all."""

import numpy as np
import pytest
from hrpose.ops.blocks import SIDE, heat_in_blocks, tags_in_blocks

from hrpose.inference import search

SIZES = [(16, 16), (64, 80), (33, 50), (7, 100), (1, 1), (128, 176)]


def plain_best(heat, tags, wanted):
    """The first of the best cells, all of them looked at."""
    return [
        (heat - np.round(np.sqrt(sum((t - w) ** 2 for t, w in zip(tags, tag))))).argmax()
        for tag in wanted
    ]


def best_cells(heat, tags, wanted):
    """heat: (H, W)   tags: (T, H, W)   wanted: (P, T)"""
    return search.best_cells(*known(heat, tags), 0, wanted)


def known(heat, tags):
    return heat_in_blocks(heat[None]), tags_in_blocks(np.moveaxis(tags, 0, -1)[None])


def peaked(rng, size, values):
    """Smooth heat about a few places, tags that change at borders."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    heat = rng.normal(0, 0.01, size)
    tags = np.zeros((values, *size))
    for n in range(6):
        y, x = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        heat = np.maximum(heat, np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18))
        tags[:, (rows - y) ** 2 + (columns - x) ** 2 < 200] = 1.5 * n
    return heat, tags + rng.normal(0, 0.1, tags.shape)


def noisy(rng, size, values):
    return rng.random(size), rng.random((values, *size)) * 10


def wide(rng, size, values):
    """Noise in which hardly two tags agree."""
    return rng.random(size), rng.random((values, *size)) * 300


def level(rng, size, values):
    """Few different numbers: many cells are equally good."""
    return rng.integers(-1, 3, size) / 2, rng.integers(0, 4, (values, *size)) / 2


def constant(rng, size, values):
    return np.full(size, rng.choice([-1.0, 0.0, 0.3])), np.full((values, *size), 2.0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", [peaked, noisy, wide, level, constant])
@pytest.mark.parametrize("values", [1, 2, 3])
def test_best_cells_oracle(size, kind, values):
    rng = np.random.default_rng(len(kind.__name__) + size[0])
    for people in (1, 2, 12):
        heat, tags = (np.asarray(x, np.float32) for x in kind(rng, size, values))
        wanted = rng.choice([0.0, 1.5, 2.0, 2.4, 5, -30], (people, values)).astype(np.float32)
        assert best_cells(heat, tags, wanted).tolist() == plain_best(heat, tags, wanted)


def test_of_many_equal_cells_far_apart_the_first_is_taken():
    """More blocks hold one than are looked into at first, and too few to look from above."""
    rng = np.random.default_rng(3)
    tags, wanted = np.zeros((1, 512, 704), np.float32), np.zeros((1, 1), np.float32)
    for count in range(9, 40, 6):
        heat = np.zeros((512, 704), np.float32)
        heat[rng.integers(0, 512, count), rng.integers(0, 704, count)] = 0.5
        assert best_cells(heat, tags, wanted).tolist() == plain_best(heat, tags, wanted)


def test_maps_need_not_lie_one_after_the_other():
    rng = np.random.default_rng(0)
    heat, tags = (x.astype(np.float32) for x in noisy(rng, (64, 80), 2))
    wanted = rng.random((3, 2)).astype(np.float32)
    together = np.moveaxis(np.moveaxis(tags, 0, -1).copy(), -1, 0)
    assert np.array_equal(best_cells(heat, together, wanted), best_cells(heat, tags, wanted))


def test_each_joint_is_looked_for_in_its_own_maps():
    rng = np.random.default_rng(1)
    heat, tags = (x.astype(np.float32) for x in noisy(rng, (3, 50, 70), 2))
    wanted = rng.random((4, 2)).astype(np.float32)
    blocks = heat_in_blocks(heat), tags_in_blocks(np.moveaxis(tags, 0, -1))
    for joint in range(3):
        found = search.best_cells(*blocks, joint, wanted)
        assert found.tolist() == plain_best(heat[joint], tags[:, joint], wanted)


@pytest.mark.parametrize("values", [1, 2])
def test_no_cell_of_a_block_exceeds_its_promise(values):
    rng = np.random.default_rng(1)
    for kind in (peaked, noisy, level):
        heat, tags = (np.asarray(x, np.float32) for x in kind(rng, (64, 80), values))
        maps = search._maps_of(*known(heat, tags), 0)
        wanted = rng.uniform(-1, 9, (5, values)).astype(np.float32)
        promise = search._promises(maps, wanted)
        for person, tag in zip(promise, wanted):
            score = heat - np.rint(search.tag_distance(tags, tag[:, None, None]))
            most = score.reshape(4, 16, 5, 16).max((1, 3)).ravel()
            assert (most <= person).all()
            assert (most == person).any() or kind is noisy or values > 1


def test_few_cells_are_looked_at(monkeypatch):
    """Of a map for each of three people, as many cells as in a quarter of it."""
    into, above = search._look_into, search._look_from_above
    cells = []

    def into_counted(maps, wanted, people, which, best):
        cells.append(len(which) * SIDE**2)
        return into(maps, wanted, people, which, best)

    def above_counted(maps, wanted, people, band, best):
        cells.append(len(people) * int(((maps.heat >= band[0]) & (maps.heat < band[1])).sum()))
        return above(maps, wanted, people, band, best)

    monkeypatch.setattr(search, "_look_into", into_counted)
    monkeypatch.setattr(search, "_look_from_above", above_counted)
    rng = np.random.default_rng(2)
    for kind in (peaked, noisy):
        cells.clear()
        heat, tags = (np.asarray(x, np.float32) for x in kind(rng, (128, 176), 2))
        wanted = np.float32([[1.5, 1.5], [3, 3], [4.5, 4.5]])
        best_cells(heat, tags, wanted)
        assert sum(cells) < 3 * heat.size / 4


@pytest.mark.parametrize(
    "broken, value", [(0, np.nan), (0, np.inf), (1, np.nan), (1, -np.inf), (2, np.nan), (2, np.inf)]
)
def test_maps_that_are_no_numbers_are_refused(broken, value):
    heat, *tags = maps = np.ones((3, 32, 32), np.float32)
    maps[broken, 3, 3] = value
    with pytest.raises(FloatingPointError, match="finite"):
        known(heat, np.array(tags))
