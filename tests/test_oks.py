"""Laws of object keypoint similarity, and its formula as a loop."""

import math
import subprocess
import sys

import numpy as np
import pytest

from hrpose.ops.oks import joint_areas, oks, oks_nms
from hrpose.skeletons import COCO


@pytest.fixture
def people():
    """Four people of 17 joints, some not labelled: joints, areas, visible."""
    rng = np.random.default_rng(0)
    joints = rng.uniform(0, 200, (4, 17, 3))
    return joints, rng.uniform(500, 20_000, 4), rng.integers(0, 3, (4, 17))


def plain_oks(truth, found, area, sigmas, visible):
    terms = []
    for (x, y, *_), (u, v, *_), sigma, flag in zip(truth, found, sigmas, visible):
        if flag > 0:
            squared = (x - u) ** 2 + (y - v) ** 2
            terms.append(math.exp(-squared / (2 * area * (2 * sigma) ** 2)))
    return sum(terms) / len(terms)


def test_a_person_is_like_itself(people):
    joints, areas, visible = people
    assert np.all(np.diag(oks(joints, joints, areas, COCO.sigmas, visible)) == 1)


def test_equals_the_formula(people):
    joints, areas, visible = people
    found = joints[:3] + np.random.default_rng(1).normal(0, 8, (3, 17, 3))
    result = oks(joints, found, areas, COCO.sigmas, visible)
    plain = [
        [plain_oks(a, b, area, COCO.sigmas, flags) for b in found]
        for a, area, flags in zip(joints, areas, visible)
    ]
    assert result.shape == (4, 3)
    np.testing.assert_allclose(result, plain, rtol=1e-12, atol=1e-300)


def test_falls_with_distance_and_rises_with_area_and_tolerance(people):
    joints, areas, visible = people
    sigmas = np.array(COCO.sigmas)
    steps = [
        oks(joints, joints + shift, areas, sigmas, visible).diagonal() for shift in (0, 2, 5, 9)
    ]
    assert np.all(np.diff(steps, axis=0) < 0)
    near = oks(joints, joints + 5, areas, sigmas, visible).diagonal()
    assert np.all(oks(joints, joints + 5, 2 * areas, sigmas, visible).diagonal() > near)
    assert np.all(oks(joints, joints + 5, areas, 2 * sigmas, visible).diagonal() > near)


def test_is_symmetric_between_0_and_1_and_moves_with_the_picture(people):
    joints, _, _ = people
    areas, everything = np.full(4, 3000.0), np.ones((4, 17))
    there, back = (
        oks(*pair, areas, COCO.sigmas, everything) for pair in ((joints, joints), (joints + 9,) * 2)
    )
    np.testing.assert_array_equal(there, there.T)
    assert (there > 0).all() and (there <= 1).all() and (np.diag(there) == 1).all()
    np.testing.assert_allclose(back, there, rtol=1e-9)


def test_the_size_of_the_picture_does_not_matter(people):
    joints, areas, visible = people
    once = oks(joints, joints[::-1] + 3, areas, COCO.sigmas, visible)
    twice = oks(2 * joints, 2 * (joints[::-1] + 3), 4 * areas, COCO.sigmas, visible)
    np.testing.assert_allclose(twice, once, rtol=1e-12)


def test_unlabelled_joints_and_the_third_column_do_not_count(people):
    joints, areas, visible = people
    moved = np.where(visible[..., None] > 0, joints, joints + 50)
    moved[..., 2] = -1
    assert np.all(oks(joints, moved, areas, COCO.sigmas, visible).diagonal() == 1)
    flags = oks(joints, moved[::-1], areas, COCO.sigmas, visible)
    np.testing.assert_array_equal(
        oks(joints[..., :2], moved[::-1, :, :2], areas, COCO.sigmas, visible > 0), flags
    )


def test_nothing_labelled_or_no_people(people):
    joints, areas, visible = people
    assert np.all(oks(joints, joints, areas, COCO.sigmas, 0 * visible) == 0)
    assert oks(joints, joints[:0], areas, COCO.sigmas, visible).shape == (4, 0)
    assert oks(joints[:0], joints, areas[:0], COCO.sigmas, visible[:0]).shape == (0, 4)
    assert np.isfinite(oks(joints, joints + 1, 0 * areas, COCO.sigmas, visible)).all()


def test_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import hrpose.ops.oks"
    subprocess.run([sys.executable, "-c", code], check=True)


def suppress(poses, threshold):
    """As bottom-up decoding does: the first is the best, and joints found count."""
    scores = np.arange(len(poses), 0, -1)
    found = poses[..., 2] > 0
    return oks_nms(poses, scores, joint_areas(poses), COCO.sigmas, threshold, found)


def test_a_pose_like_a_better_one_is_suppressed():
    rng = np.random.default_rng(0)
    first = np.concatenate([rng.uniform(0, 100, (17, 2)), np.ones((17, 1))], -1)
    near, far, nearer = first + [1, 1, 0], first + [80, 0, 0], first + [81, 1, 0]
    poses = np.stack([first, near, far, nearer])
    assert suppress(poses, 0.7).tolist() == [0, 2]
    assert suppress(poses, 1.0).tolist() == [0, 1, 2, 3]
    assert suppress(poses[:1], 0.7).tolist() == [0]
    assert suppress(poses[:0], 0.7).tolist() == []


def test_a_dropped_pose_drops_no_other():
    """A chain in which each is like the next: the second goes, and the third is like it alone."""
    first = np.concatenate(
        [np.random.default_rng(1).uniform(0, 100, (17, 2)), np.ones((17, 1))], -1
    )
    chain = np.stack([first + [step, 0, 0] for step in (0, 8, 16)])
    alike = oks(chain, chain, np.full(3, 1e4), COCO.sigmas, np.ones((3, 17)))
    threshold = (alike[0, 1] + alike[0, 2]) / 2
    assert suppress(chain, threshold).tolist() == [0, 2]


def test_only_joints_found_are_compared():
    pose = np.concatenate([np.random.default_rng(2).uniform(0, 100, (17, 2)), np.ones((17, 1))], -1)
    part = pose.copy()
    part[8:] = 0
    assert suppress(np.stack([part, pose]), 0.7).tolist() == [0]


@pytest.mark.parametrize("seed", range(10))
def test_suppression_oracle(seed):
    """Pair by pair: all joints count, and the mean of both areas; ties keep the lower index."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(0, 40, (1, 17, 3)) + rng.normal(0, 9, (30, 17, 3))
    scores, areas = rng.integers(0, 5, 30) / 4, rng.uniform(500, 5000, 30)
    kept = []
    for i in sorted(range(30), key=lambda i: (-scores[i], i)):
        pairs = [
            oks(
                joints[k : k + 1],
                joints[i : i + 1],
                areas[[k, i]].mean()[None],
                COCO.sigmas,
                np.ones((1, 17)),
            )
            for k in kept
        ]
        if all(pair <= 0.3 for pair in pairs):
            kept.append(i)
    found = oks_nms(joints, scores, areas, COCO.sigmas, 0.3)
    assert found.tolist() == kept and 1 < len(kept) < 30
    assert np.array_equal(
        oks_nms(joints[found], scores[found], areas[found], COCO.sigmas, 0.3), np.arange(len(kept))
    )
    assert len(oks_nms(joints, scores, areas, COCO.sigmas, 1.0)) == 30


def test_of_clusters_fewer_are_kept_at_lower_thresholds_and_the_best_always():
    """Four clusters far from each other, of five people each that are less and less alike."""
    rng = np.random.default_rng(3)
    centres = np.arange(4)[:, None, None, None] * 1000 + rng.uniform(0, 100, (1, 1, 17, 3))
    steps = np.array([0, 2, 5, 9, 14])[None, :, None, None]
    joints, scores = (centres + steps).reshape(20, 17, 3), rng.permutation(20) / 20
    kept = [
        oks_nms(joints, scores, np.full(20, 4000.0), COCO.sigmas, threshold)
        for threshold in (1, 0.95, 0.8, 0.5, 0.0)
    ]
    counts = [len(each) for each in kept]
    assert counts == sorted(counts, reverse=True) and counts[0] == 20 and len(set(counts)) > 2
    assert all(each[0] == scores.argmax() for each in kept)
    assert {i // 5 for i in oks_nms(joints, scores, np.full(20, 4000.0), COCO.sigmas, 0.2)} == {
        *range(4)
    }
