"""Missing joints: the best cell of a map from few of its cells; person by person in loops."""

import numpy as np
import pytest

from hrpose.inference import decode as module
from hrpose.inference.spec import PUBLISHED
from reference import decoding as reference

SIZES = [(16, 16), (64, 80), (33, 50), (7, 100), (1, 1), (128, 176)]


def plain_best(heat, tags, wanted):
    """The first of the best cells, by an exhaustive search."""
    return [
        (heat - np.round(np.sqrt(sum((t - w) ** 2 for t, w in zip(tags, tag))))).argmax()
        for tag in wanted
    ]


def best_cells(heat, tags, wanted):
    """heat: (H, W)   tags: (T, H, W)   wanted: (P, T)"""
    joint = np.zeros(len(wanted), int)
    return module.search_maps(heat[None], np.moveaxis(tags, 0, -1)[None], joint, wanted)


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
    """More blocks hold one than are searched first, and too few to search by heat."""
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


def test_each_joint_is_searched_in_its_own_maps():
    rng = np.random.default_rng(1)
    heat, tags = (x.astype(np.float32) for x in noisy(rng, (3, 50, 70), 2))
    wanted = rng.random((4, 2)).astype(np.float32)
    joint = np.arange(3).repeat(4)
    found = module.search_maps(heat, np.moveaxis(tags, 0, -1), joint, np.tile(wanted, (3, 1)))
    for k in range(3):
        assert found[joint == k].tolist() == plain_best(heat[k], tags[:, k], wanted)


@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("size", [(64, 80), (50, 70)], ids=str)
def test_no_cell_of_a_block_exceeds_its_bound(values, size, monkeypatch):
    bounds, search = [], module._search_blocks

    def kept(bound, *given):
        bounds.append(bound.copy())
        return search(bound, *given)

    monkeypatch.setattr(module, "_search_blocks", kept)
    rng = np.random.default_rng(1)
    for kind in (peaked, noisy, level):
        heat, tags = (np.asarray(x, np.float32) for x in kind(rng, size, values))
        wanted = rng.uniform(-1, 9, (5, values)).astype(np.float32)
        best_cells(heat, tags, wanted)
        for bound, tag in zip(bounds.pop(), wanted):
            score = heat - np.rint(np.sqrt(np.square(tags - tag[:, None, None]).sum(0)))
            below, right = (-side % 16 for side in size)
            score = np.pad(score, ((0, below), (0, right)), constant_values=-np.inf)
            blocks = score.reshape(len(score) // 16, 16, -1, 16)
            highest = blocks.max((1, 3)).ravel()
            bound = bound.ravel()
            assert (highest <= bound).all()
            assert (highest == bound).any() or kind is noisy or values > 1


def test_few_cells_are_searched(monkeypatch):
    """Of a map for each of three people, fewer tags are compared than in a quarter of it."""
    rint, cells = np.rint, []

    def counted(distances):
        cells.append(distances.size)
        return rint(distances)

    monkeypatch.setattr(np, "rint", counted)
    rng = np.random.default_rng(2)
    for kind in (peaked, noisy):
        cells.clear()
        heat, tags = (np.asarray(x, np.float32) for x in kind(rng, (256, 352), 2))
        wanted = np.float32([[1.5, 1.5], [3, 3], [4.5, 4.5]])
        best_cells(heat, tags, wanted)
        assert sum(cells) < 3 * heat.size / 4


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tags_that_are_not_finite_are_refused(broken, value):
    heat, *tags = np.ones((3, 32, 32), np.float32)
    tags[broken][3, 3] = value
    with pytest.raises(FloatingPointError, match="finite"):
        best_cells(heat, np.array(tags), np.ones((1, 2), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_heatmaps_that_are_not_finite_are_refused(value):
    heat = np.ones((2, 32, 32), np.float32)
    heat[1, 3, 3] = value
    with pytest.raises(FloatingPointError, match="finite"):
        module.find_candidates(heat, np.ones((2, 32, 32, 1), np.float32))


# People -------------------------------------------------------------------------------------------


def scene(seed, count=4, kinds=3, values=1, size=(9, 12)):
    """People with missing joints; maps partly below 0."""
    rng = np.random.default_rng(seed)
    heatmaps = rng.uniform(-0.4, 1, (kinds, *size))
    tags = rng.uniform(0, 6, (kinds, *size, values))
    people = np.zeros((count, kinds, 3 + values))
    for person in people:
        found = rng.choice(kinds, rng.integers(1, kinds + 1), replace=False)
        person[found, :2] = rng.uniform(0, 9, (len(found), 2))
        person[found, 2] = rng.uniform(0.2, 1, len(found))
        person[found, 3:] = rng.uniform(0, 6, (len(found), values))
    return people, heatmaps, tags


def fill(people, heatmaps, tags, subpixel="quarter"):
    maps = [array.astype(np.float32) for array in (people, heatmaps, tags)]
    return module.fill_missing(*maps, PUBLISHED._replace(subpixel=subpixel))


def refined(people, heatmaps, tags):
    """The same by the reference, person by person."""
    people = people.copy()
    for person in people:
        reference.fill_missing(person, np.flatnonzero(person[:, 2] == 0), heatmaps, tags)
    return people


@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_fill_missing_oracle(seed, values, record_difference):
    people, heatmaps, tags = scene(seed, values=values)
    result, plain = fill(people, heatmaps, tags), refined(people, heatmaps, tags)
    record_difference("fill_missing", abs(result - plain).max())
    np.testing.assert_allclose(result, plain, atol=1e-6)
    assert (result[..., 2] > 0).sum() > (people[..., 2] > 0).sum()


def test_what_was_found_does_not_move():
    people, heatmaps, tags = scene(7)
    before = people.copy()
    result = fill(people, heatmaps, tags)
    assert np.array_equal(people, before)
    found = people[..., 2] > 0
    assert np.array_equal(result[found], np.float32(people[found]))


def test_a_joint_is_filled_exactly_where_there_is_heat():
    people = np.zeros((1, 3, 4))
    people[0, 0] = [1, 1, 0.5, 0]
    heatmaps, tags = np.full((3, 4, 4), -1.0), np.zeros((3, 4, 4, 1))
    heatmaps[1, 2, 2] = 1e-6
    heatmaps[2, 2, 2] = 0
    result = fill(people, heatmaps, tags)[0]
    assert result[1, 2] == np.float32(1e-6)
    assert (result[1, :2] == [2.25, 2.25]).all()
    assert not result[2].any()


def test_a_tag_that_fits_beats_a_higher_peak():
    people = np.zeros((2, 2, 4))
    people[:, 0] = [[1, 1, 0.5, 0], [5, 1, 0.5, 4]]
    heatmaps, tags = np.zeros((2, 5, 9)), np.zeros((2, 5, 9, 1))
    heatmaps[1, 2, 2], tags[1, 2, 2] = 0.3, 0.2
    heatmaps[1, 2, 6], tags[1, 2, 6] = 0.9, 4.3
    result = fill(people, heatmaps, tags, "none")
    wanted = np.float32([[2.5, 2.5, 0.3, 0.2], [6.5, 2.5, 0.9, 4.3]])
    assert np.array_equal(result[:, 1], wanted)


def test_tag_distances_are_rounded_to_even():
    """A distance of 0.5 costs nothing, one of 1.5 costs 2."""
    people = np.zeros((1, 2, 4))
    people[0, 0] = [1, 1, 0.5, 0]
    heatmaps, tags = np.zeros((2, 1, 2)), np.zeros((2, 1, 2, 1))
    heatmaps[1, 0] = [0.3, 0.4]
    tags[1, 0, :, 0] = [0.4, 0.5]
    assert fill(people, heatmaps, tags)[0, 1, 2] == 0.4
    heatmaps[1, 0], tags[1, 0, :, 0] = [0.3, 1.9], [1.2, 1.5]
    assert fill(people, heatmaps, tags)[0, 1, 2] == 1.9
    heatmaps[1, 0] = [0.3, 1.2]
    assert fill(people, heatmaps, tags)[0, 1, 2] == 0.3


def test_no_people_stay_no_people():
    _, heatmaps, tags = scene(0)
    assert fill(np.zeros((0, 3, 4)), heatmaps, tags).shape == (0, 3, 4)
