"""Candidates -> people: laws, cheapest assignments, and the same in plain loops.

Our munkres equals the package whose ties the published figures have.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from hrpose.inference.decode import MATCHERS, group_by_tag
from hrpose.inference.munkres import munkres
from hrpose.inference.spec import PUBLISHED, DecoderConfig
from hrpose.skeletons import COCO
from reference import decoding as reference

ORDER = [2, 0, 3, 1]
matchers = pytest.mark.parametrize("matcher", ["munkres", "scipy"])


def scene(seed, people=4, kinds=4, values=1, gap=5.0, noise=0.1):
    """Candidates (K, M, 3 + T) of people with tags `gap` apart, some joints missing, some weak."""
    rng = np.random.default_rng(seed)
    peaks = np.zeros((kinds, people + 2, 3 + values), np.float32)
    for k in range(kinds):
        seen = [n for n in range(people) if rng.random() < 0.8]
        for m, n in enumerate(rng.permutation(seen)):
            tags = gap * n + rng.uniform(-noise, noise, values)
            peaks[k, m] = [*rng.uniform(0, 100, 2), rng.uniform(0.2, 1), *tags]
        peaks[k, len(seen)] = [*rng.uniform(0, 100, 2), 0.09, *rng.uniform(0, 20, values)]
    return peaks


def plain_people(peaks, config):
    """The reference's people (K, 3 + T), best first."""
    people = reference.group_by_tag(peaks, SimpleNamespace(grouping_indices=ORDER), config)
    return sorted(people, key=lambda person: -person[:, 2].mean())[: config.max_people]


def cheapest(cost):
    """Smallest total of a (rows, columns) assignment that leaves out as few as it must."""
    rows, columns = cost.shape
    if rows > columns:
        return cheapest(cost.T)
    ways = itertools.permutations(range(columns), rows)
    return min(sum(cost[row, way[row]] for row in range(rows)) for way in ways)


def people_of(*given):
    return group_by_tag(*given)[0]


def as_set(people):
    return {tuple(np.round(np.ravel(person), 4).tolist()) for person in people}


# Assignments ------------------------------------------------------------------------------------


@matchers
@pytest.mark.parametrize("rows", range(1, 7))
@pytest.mark.parametrize("columns", range(1, 7))
def test_cheapest_assignment_oracle(matcher, rows, columns, record_difference):
    rng = np.random.default_rng(rows * 10 + columns)
    cost = np.round(rng.uniform(0, 4, (rows, columns))) * 100 - rng.random((rows, 1))
    row, column = MATCHERS[matcher](cost.copy())
    assert len(set(row)) == len(set(column)) == len(row) == len(column) == min(rows, columns)
    total = cost[row, column].sum()
    record_difference(f"cost of assignment, {matcher}", abs(total - cheapest(cost)))
    assert total == pytest.approx(cheapest(cost), abs=1e-9)


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
        before = cost.copy()
        real = [(row, column) for row, column in reference.munkres(cost) if column < shape[1]]
        assert dict(zip(*munkres(cost))) == dict(real)
        assert np.array_equal(cost, before)


# Groups -----------------------------------------------------------------------------------------


@matchers
@pytest.mark.parametrize("values", [1, 2])
@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 6])  # none whose assignments cost the same
def test_grouping_oracle(matcher, values, seed, record_difference):
    peaks = scene(seed, values=values)
    people = people_of(peaks, ORDER, DecoderConfig(matcher=matcher))
    plain = np.array(plain_people(peaks, DecoderConfig(matcher=matcher)))
    assert people.shape == plain.shape
    assert len(people) >= 3
    record_difference(f"group_by_tag, {matcher}", abs(people - plain).max())
    assert np.array_equal(people, plain)


@matchers
@pytest.mark.parametrize("seed", range(6))
def test_grouping_oracle_of_close_people_and_few_places(matcher, seed):
    """Tags that the threshold cuts apart, and a limit on people; distances rounded differently."""
    peaks = scene(seed, people=4, gap=1.7, noise=0.45)
    config = DecoderConfig(
        matcher=matcher, max_people=2, tag_threshold=0.6, detection_threshold=0.3
    )
    _, scores = group_by_tag(peaks, ORDER, config)
    plain = plain_people(peaks, config)
    np.testing.assert_allclose(scores, [p[:, 2].mean() for p in plain], rtol=1e-6)


@matchers
def test_every_candidate_is_used_once(matcher):
    peaks = scene(3, people=8, gap=0.8, noise=0.6)
    people = people_of(peaks, ORDER, DecoderConfig(matcher=matcher))
    strong = sum(((p[:, 2] > 0.1).sum()) for p in peaks)
    for k in range(4):
        used = [tuple(person[k]) for person in people if person[k, 2] > 0]
        assert len(set(used)) == len(used)
        assert set(used) == {tuple(p) for p in peaks[k] if p[2] > 0.1}
    assert (people[..., 2] > 0).sum() == strong


@matchers
def test_order_of_candidates_and_of_people_does_not_matter(matcher):
    peaks = scene(1)
    config = DecoderConfig(matcher=matcher)
    wanted = as_set(people_of(peaks, ORDER, config))
    assert len(wanted) == 4
    for seed in range(5):
        shuffled = np.stack([np.random.default_rng(seed).permutation(row) for row in peaks])
        assert as_set(people_of(shuffled, ORDER, config)) == wanted


@matchers
@pytest.mark.parametrize("change", [lambda t: t + 12.5, lambda t: t * 3, lambda t: -t])
def test_only_differences_of_tags_matter(matcher, change):
    peaks, config = scene(2), DecoderConfig(matcher=matcher)
    changed = peaks.copy()
    changed[..., 3:] = change(peaks[..., 3:])
    kept = people_of(peaks, ORDER, config)[..., :3]
    assert as_set(people_of(changed, ORDER, config)[..., :3]) == as_set(kept)


@matchers
def test_tags_seen_twice_group_alike(matcher):
    """The plain and the mirrored view agreeing, for people well apart."""
    once = scene(4)
    twice = np.concatenate([once, once[..., 3:]], -1)
    config = DecoderConfig(matcher=matcher)
    people = people_of(twice, ORDER, config)
    assert as_set(people[..., :3]) == as_set(people_of(once, ORDER, config)[..., :3])


def test_two_views_make_the_threshold_tighter():
    """0.8 apart in one tag is together; in two it is 1.13, and apart."""
    once = np.array([[[0, 0, 1, 0.0]], [[0, 0, 1, 0.8]]], np.float32)
    twice = np.concatenate([once, once[..., 3:]], -1)
    assert len(people_of(once, [0, 1])) == 1
    assert len(people_of(twice, [0, 1])) == 2


@matchers
def test_people_of_equal_tags_remain_two(matcher):
    """The authors' code keyed people by their tag, and lost one of two."""
    peaks = np.array(
        [[[10, 10, 0.9, 2.0], [50, 10, 0.8, 2.0]], [[12, 30, 0.7, 2.0], [52, 30, 0.6, 2.0]]],
        np.float32,
    )
    people = people_of(peaks, [0, 1], DecoderConfig(matcher=matcher))
    assert len(people) == 2
    assert (people[..., 2] > 0).all()
    assert {tuple(joint) for joint in people.reshape(-1, 4)} == {
        tuple(joint) for joint in peaks.reshape(-1, 4)
    }


@pytest.mark.parametrize("distance, count", [(0.99, 1), (1.0, 2), (1.4, 2)])
def test_who_is_too_far_founds_a_new_person(distance, count):
    peaks = np.array([[[0, 0, 0.9, 0]], [[5, 5, 0.8, distance]]], np.float32)
    assert len(people_of(peaks, [0, 1])) == count


def test_the_distance_is_to_the_mean_of_all_tags_so_far():
    """0, 0.9, 1.3: the last is .85 from the mean, 1.3 from the first."""
    peaks = np.array([[[0, 0, 0.9, tag]] for tag in (0, 0.9, 1.3)], np.float32)
    assert len(people_of(peaks, [0, 1, 2])) == 1
    assert len(people_of(peaks, [0, 2, 1])) == 2


@pytest.mark.parametrize("score, count", [(0.1, 0), (0.11, 1)])
def test_weak_candidates_are_none(score, count):
    peaks = np.array([[[0, 0, np.float32(score), 0]]], np.float32)
    threshold = float(np.float32(0.1))
    people = people_of(peaks, [0], PUBLISHED._replace(detection_threshold=threshold))
    assert people.shape == (count, 1, 4)


def test_the_higher_peak_joins_when_two_fit_equally():
    peaks = np.array(
        [[[0, 0, 0.9, 0.0], [0, 0, 0, 0]], [[1, 1, 0.3, 0.0], [2, 2, 0.8, 0.0]]], np.float32
    )
    for matcher in MATCHERS:
        people = people_of(peaks, [0, 1], DecoderConfig(matcher=matcher))
        assert people[0, 1].tolist() == pytest.approx([2, 2, 0.8, 0])
        assert people[1, 1].tolist() == pytest.approx([1, 1, 0.3, 0])


@pytest.mark.parametrize(("cost", "people"), [("rounded", 4), ("clipped", 3)])
def test_an_unmatched_candidate_costs_no_other_its_person_where_the_cost_is_clipped(cost, people):
    """People of tags 2.9 and 5.3; candidates of 3.2 and .7, of which the second fits neither.

    The rounded distances are least, 2 + 2 instead of 0 + 5, if the candidate of 3.2 goes to the
    person at 5.3 and that of .7 to the other; then both are too far, and start two people more.
    """
    peaks = np.zeros((2, 2, 4), np.float32)
    peaks[..., 2], peaks[..., 3] = 0.9, [[2.9, 5.3], [3.2, 0.7]]
    found = people_of(peaks, [0, 1], PUBLISHED._replace(matching_cost=cost))
    tags = {tuple((10 * person[person[:, 2] > 0, 3]).round().tolist()) for person in found}
    assert len(found) == people
    assert ((29, 32) in tags) == (cost == "clipped")
    assert (7,) in tags


def test_among_tags_equally_far_when_rounded_the_higher_peak_is_matched():
    """Clipped, the nearer tag is."""
    peaks = np.zeros((2, 2, 4), np.float32)
    peaks[0, 0, 2:] = [0.9, 0]
    peaks[1, :, 2:] = [[0.5, 0.1], [0.8, 0.4]]
    for cost, tag in (("rounded", 0.4), ("clipped", 0.1)):
        config = PUBLISHED._replace(matching_cost=cost)
        (joined,) = [each for each in people_of(peaks, [0, 1], config) if each[0, 2] > 0]
        assert joined[1, 3] == np.float32(tag)


def test_the_best_people_are_kept_best_first():
    peaks = scene(5, people=6, noise=0)
    people, scores = group_by_tag(peaks, ORDER)
    np.testing.assert_allclose(scores, people[..., 2].mean(1))
    assert (np.diff(scores) <= 0).all()
    crowd = np.array(
        [[[n, 0, score, 5 * n] for n, score in enumerate((0.3, 0.9, 0.5))]], np.float32
    )
    kept = people_of(crowd, [0], DecoderConfig(max_people=2))
    assert kept[:, 0, 0].tolist() == [1, 2]


def test_many_people_are_cut_to_the_limit():
    """All tags different: 17 x 30 candidates would be 510 people."""
    peaks = np.ones((17, 30, 4), np.float32)
    peaks[..., 3] = np.arange(17 * 30).reshape(17, 30) * 3
    assert people_of(peaks, COCO.grouping_indices).shape == (30, 17, 4)


def test_the_first_joint_with_candidates_founds():
    peaks = np.array([[[0, 0, 0, 0.0]], [[3, 4, 0.5, 7.0]], [[5, 6, 0.4, 7.2]]], np.float32)
    (person,) = people_of(peaks, [0, 1, 2])
    np.testing.assert_allclose(person, [[0, 0, 0, 0], [3, 4, 0.5, 7], [5, 6, 0.4, 7.2]])


@pytest.mark.parametrize("candidates", [0, 3])
@pytest.mark.parametrize("values", [1, 2])
def test_no_people(candidates, values):
    people, scores = group_by_tag(np.zeros((4, candidates, 3 + values), np.float32), ORDER)
    assert people.shape == (0, 4, 3 + values)
    assert scores.shape == (0,)


def test_a_missing_joint_counts_as_0_in_the_score():
    peaks = np.zeros((4, 1, 4), np.float32)
    peaks[:2, 0, 2] = [0.8, 0.4]
    _, scores = group_by_tag(peaks, ORDER)
    assert scores.tolist() == pytest.approx([0.3])


def test_the_published_config():
    assert PUBLISHED[:7] == (0.1, 1.0, 30, 5, "quarter", False, True)
    assert PUBLISHED[7:] == ("munkres", "rounded", 0, 1)


def test_candidates_are_not_changed():
    peaks = scene(0)
    before = peaks.copy()
    people_of(peaks, ORDER)
    assert np.array_equal(peaks, before)
