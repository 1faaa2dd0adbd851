"""Our munkres against the package whose ties the published figures have; the other cost."""

import numpy as np
import pytest

from hrpose.inference.grouping import group_by_tag
from hrpose.inference.matching import MATCHING_COSTS
from hrpose.inference.munkres import munkres
from hrpose.inference.spec import PUBLISHED
from reference import decoding as plain


def rounded(rng, shape, spread):
    return np.round(rng.random(shape) * spread)


def on_a_line(rng, shape, spread):
    """Distances of scalar tags, among which equal sums are common."""
    rows, columns = rng.random((shape[0], 1)) * spread, rng.random((1, shape[1])) * spread
    return np.round(abs(rows - columns))


@pytest.mark.parametrize("distances", [rounded, on_a_line])
@pytest.mark.parametrize("spread", [0.4, 1, 3, 10, 40])
@pytest.mark.parametrize("scored", [True, False])
def test_munkres_finds_what_the_package_finds(distances, spread, scored):
    """Also where many assignments cost the same, and in float32, whose sums are not exact."""
    rng = np.random.default_rng(int(10 * spread))
    for shape in [*rng.integers(1, 9, (60, 2)), *rng.integers(10, 31, (6, 2))]:
        scores = rng.random((shape[0], 1)) * scored
        cost = (distances(rng, shape, spread) * 100 - scores).astype(np.float32)
        real = [(row, column) for row, column in plain.munkres(cost) if column < shape[1]]
        assert dict(munkres(cost)) == dict(real)


def test_munkres_changes_nothing_in_place():
    cost = np.random.default_rng(0).random((5, 7))
    before = cost.copy()
    munkres(cost)
    assert np.array_equal(cost, before)


def test_a_stranger_costs_no_candidate_its_person_where_the_cost_is_clipped():
    """People of tags 2.9 and 5.3; a candidate of 3.2 and a stranger of .7.

    The rounded distances are least, 2 + 2 instead of 0 + 5, if the candidate of 3.2 goes to the
    person at 5.3 and the stranger to the other; then both are too far, and found two people more.
    """
    peaks = np.zeros((2, 2, 4), np.float32)
    peaks[..., 2], peaks[..., 3] = 0.9, [[2.9, 5.3], [3.2, 0.7]]
    rounded, clipped = (
        group_by_tag(peaks, [0, 1], PUBLISHED._replace(matching_cost=cost))[0]
        for cost in MATCHING_COSTS
    )
    assert len(rounded) == 4
    tags = {tuple((10 * person[person[:, 2] > 0, 3]).round().tolist()) for person in clipped}
    assert tags == {(29, 32), (53,), (7,)}


def test_costs():
    distance = np.float32([[0.2, 0.6, 1.4, 30]])
    assert MATCHING_COSTS["rounded"](distance, 1.0).tolist() == [[0, 100, 100, 3000]]
    np.testing.assert_allclose(
        MATCHING_COSTS["clipped"](distance, 1.0), [[20, 60, 100, 100]], rtol=1e-6
    )
