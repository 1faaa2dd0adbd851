"""Filling in what a person misses: person by person, joint by joint, cell by cell."""

import numpy as np
import pytest
from hrpose.inference.refine import fill_from_maps
from hrpose.ops.blocks import heat_in_blocks, tags_in_blocks
from hrpose.ops.cells import middle, quarter_step

from oracles import refined


def scene(seed, count=4, kinds=3, values=1, size=(9, 12)):
    """People of whom some joints are missing; maps partly below 0."""
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


def fill(people, heatmaps, tags, place=quarter_step):
    people, heatmaps, tags = (array.astype(np.float32) for array in (people, heatmaps, tags))
    return fill_from_maps(people, heat_in_blocks(heatmaps), tags_in_blocks(tags), place)


@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_refine_oracle(seed, values, record_difference):
    people, heatmaps, tags = scene(seed, values=values)
    ours, plain = fill(people, heatmaps, tags), refined(people, heatmaps, tags)
    record_difference("fill_from_maps", abs(ours - plain).max())
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    assert (ours[..., 2] > 0).sum() > (people[..., 2] > 0).sum()


def test_what_was_found_does_not_move():
    people, heatmaps, tags = scene(7)
    before = people.copy()
    ours = fill(people, heatmaps, tags)
    assert np.array_equal(people, before)
    found = people[..., 2] > 0
    assert np.array_equal(ours[found], np.float32(people[found]))


def test_a_joint_is_filled_exactly_where_there_is_heat():
    people = np.zeros((1, 3, 4))
    people[0, 0] = [1, 1, 0.5, 0]
    heatmaps, tags = np.full((3, 4, 4), -1.0), np.zeros((3, 4, 4, 1))
    heatmaps[1, 2, 2] = 1e-6
    heatmaps[2, 2, 2] = 0
    ours = fill(people, heatmaps, tags)[0]
    assert ours[1, 2] == np.float32(1e-6)
    assert (ours[1, :2] == [2.25, 2.25]).all()
    assert not ours[2].any()


def test_a_tag_that_fits_beats_a_higher_peak():
    people = np.zeros((2, 2, 4))
    people[:, 0] = [[1, 1, 0.5, 0], [5, 1, 0.5, 4]]
    heatmaps, tags = np.zeros((2, 5, 9)), np.zeros((2, 5, 9, 1))
    heatmaps[1, 2, 2], tags[1, 2, 2] = 0.3, 0.2
    heatmaps[1, 2, 6], tags[1, 2, 6] = 0.9, 4.3
    ours = fill(people, heatmaps, tags, middle)
    wanted = np.float32([[2.5, 2.5, 0.3, 0.2], [6.5, 2.5, 0.9, 4.3]])
    assert np.array_equal(ours[:, 1], wanted)


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


def test_nobody_is_nobody():
    _, heatmaps, tags = scene(0)
    assert fill(np.zeros((0, 3, 4)), heatmaps, tags).shape == (0, 3, 4)
