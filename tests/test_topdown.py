"""Top-down prediction: laws, edge cases, and the same in plain loops, one box at a time."""

import weakref

import numpy as np
import pytest
import torch

from boxed_people import DOTS, SPEC, Edges, Lopsided, predictor, scattered_boxes, smooth_image
from hrpose.ops.coordinates import mirror_joints
from reference.topdown import ReferenceTopDown

BOTH = pytest.mark.parametrize("coordinates", ["hrnet", "unbiased"])
VIEWS = pytest.mark.parametrize("views", [("identity",), ("identity", "flip")], ids=len)


@BOTH
@VIEWS
@pytest.mark.parametrize("changes", [{}, {"oks_nms": 1.0, "min_score": 0.1}], ids=len)
def test_predictor_oracle(coordinates, views, changes, record_difference):
    predict = predictor(coordinates=coordinates, views=views, **changes)
    plain = ReferenceTopDown(Lopsided(), predict.spec)
    people = dropped = missing = 0
    for seed in range(6):
        image, (boxes, scores) = smooth_image(seed), scattered_boxes(seed, 40)
        poses, expected = predict(image, boxes, scores), plain(image, boxes, scores)
        assert poses.box_indices.tolist() == [index for *_, index in expected]
        assert np.array_equal(poses.boxes, boxes[poses.box_indices].astype(np.float32))
        joints = np.stack([each for each, *_ in expected])
        far = abs(poses.joints - joints)
        record_difference(f"top-down, {coordinates}, {len(views)} views (px)", far[..., :2].max())
        record_difference("top-down: values", far[..., 2].max())
        assert far.max() < 2e-3
        worst = abs(poses.scores - [score for _, score, _ in expected]).max()
        record_difference("top-down: scores", worst)
        assert worst < 1e-6
        people += len(expected)
        dropped += 40 - len(expected)
        missing += (joints[..., 2] == 0).sum()
    assert people > 60 and dropped > 10 and missing > 0


@VIEWS
def test_people_come_one_by_one_as_they_do_together(views):
    """Whatever the batch, and with one box: only suppression compares people."""
    image, (boxes, scores) = smooth_image(3), scattered_boxes(3, 40)
    together = predictor(views=views, oks_nms=1.0)
    poses = together(image, boxes, scores)
    assert together.model.batches == [16] * len(views) + [16] * len(views) + [8] * len(views)
    alone = predictor(views=views, batch=1)
    for joints, score, i in zip(poses.joints, poses.scores, poses.box_indices):
        one = alone(image, boxes[i : i + 1], scores[i : i + 1])
        assert np.array_equal(one.joints[0], joints) and one.scores[0] == score
        assert one.box_indices.tolist() == [0]


def test_the_best_come_first_and_ties_go_to_the_better_box_then_to_the_first():
    """No value of a grey image is above .2: all scores are 0."""
    image, (boxes, scores) = np.full((90, 120, 3), 128, np.uint8), scattered_boxes(1, 40)
    inside = [40, 30, 20, 20]
    boxes[:] = inside + np.random.default_rng(0).uniform(0, 5, boxes.shape)
    poses = predictor(oks_nms=1.0)(image, boxes, scores)
    assert not poses.scores.any() and len(set(scores)) < 10
    order = sorted(range(40), key=lambda i: (-scores[i], i))
    assert poses.box_indices.tolist() == order
    image = smooth_image(1)
    assert np.all(np.diff(predictor()(image, boxes, scores).scores) <= 0)


def test_scores_of_boxes_are_1_and_scale_those_of_poses():
    image, (boxes, _) = smooth_image(2), scattered_boxes(2, 10)
    poses = predictor()(image, boxes)
    assert poses.scores.max() > 0.2
    for factor in (0, 0.5, 1):
        scaled = predictor()(image, boxes, np.full(10, factor))
        np.testing.assert_allclose(scaled.scores, factor * poses.scores, rtol=1e-6)
    assert len(predictor(min_score=0.3)(image, boxes).scores) == (poses.scores >= 0.3).sum() > 0


def test_missing_joints_are_0_and_are_suppressed_where_the_crops_corners_are():
    """At 0, 0 they would make all people of black images one."""
    black, boxes = np.zeros((90, 120, 3), np.uint8), [[5, 5, 20, 20], [80, 40, 20, 20]]
    poses = predictor(Edges)(black, boxes)
    assert poses.joints.shape == (2, 3, 3) and not poses.joints.any()
    assert poses.box_indices.tolist() == [0, 1]
    assert predictor(Edges)(black, [boxes[0]] * 3).box_indices.tolist() == [0]


# Views ------------------------------------------------------------------------------------------


@BOTH
def test_a_symmetric_network_gains_nothing_from_the_flip_but_hrnets_shift(coordinates):
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    alone, both = (
        predictor(Edges, coordinates=coordinates, views=views).forward(crops)
        for views in (("identity",), ("identity", "flip"))
    )
    if coordinates == "hrnet":
        moved = torch.cat([alone[..., :1], alone[..., :-1]], -1)
        assert torch.allclose(both, (alone + moved) / 2, atol=1e-6)
        assert not torch.allclose(both, alone, atol=1e-2)
    else:
        assert torch.allclose(both, alone, atol=1e-6)
    skewed = predictor(coordinates=coordinates).forward(crops)
    assert not torch.allclose(skewed, both, atol=1e-2)


def test_unbiased_poses_of_a_flipped_image_are_flipped():
    """Of any network, with both views; crops differ by the rounding of grey levels."""
    image, (boxes, scores) = smooth_image(5), scattered_boxes(5, 12)
    turned = boxes.copy()
    turned[:, 0] = 119 - boxes[:, 0] - boxes[:, 2]
    predict = predictor(coordinates="unbiased", oks_nms=1.0)
    poses, other = (
        predict(np.ascontiguousarray(given), at, scores)
        for given, at in ((image, boxes), (image[:, ::-1], turned))
    )
    order = [np.argsort(each.box_indices) for each in (poses, other)]
    back = mirror_joints(other.joints[order[1]], 120, DOTS.flip_order)
    found = (poses.joints[order[0]][..., 2] > 0.3) & (back[..., 2] > 0.3)
    apart = abs(back - poses.joints[order[0]])[found]
    assert found.sum() > 10
    assert np.median(apart[:, :2].max(-1)) < 0.2 and apart[:, 2].max() < 0.05


# Edge cases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))], ids=["list", "array"])
def test_an_image_without_boxes_has_no_people(boxes):
    predict = predictor()
    poses = predict(smooth_image(0), boxes, [])
    assert poses.joints.shape == (0, 3, 3) and poses.scores.shape == (0,)
    assert poses.boxes.shape == (0, 4) and poses.box_indices.shape == (0,)
    assert predict.model.batches == []


GOOD = [10, 10, 20, 30]


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (None, None, r"boxes \(N, 4\) x, y, width, height"),
        (GOOD, None, r"boxes are \(4,\); give \(N, 4\)"),
        (np.zeros((4, 0)), None, r"boxes are \(4, 0\); give \(N, 4\)"),
        ([GOOD, GOOD[:2]], None, r"boxes are not numbers .*; give \(N, 4\)"),
        ("truth", None, "boxes are not numbers"),
        ([GOOD], ["high"], "box scores are not numbers .*; give one a box"),
        ([GOOD, [10, np.nan, 20, 30]], None, "box 1 is .*nan"),
        ([GOOD, GOOD, [10, 10, 0, 30]], None, "box 2 is .*above 0"),
        ([GOOD, [120, 0, 20, 30]], None, "box 1, .*wholly outside its image of 120 x 90"),
        ([GOOD, [-20, 0, 20, 30]], None, "box 1, .*wholly outside"),
        ([[0, -31, 20, 30]], None, "box 0, .*wholly outside"),
        ([[0, 90, 20, 30]], None, "box 0, .*wholly outside"),
        ([GOOD], [1, 2], r"box scores are \(2,\); give one a box: \(1,\)"),
        ([GOOD, GOOD], [0, np.nan], "the score of box 1 is nan"),
    ],
)
def test_what_is_no_box_of_the_image_is_refused_by_its_index(boxes, scores, message):
    with pytest.raises(ValueError, match=message):
        predictor()(smooth_image(0), boxes, scores)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB; this is \(90, 120\)"):
        predictor()(smooth_image(0)[..., 0], [GOOD])


def test_boxes_may_reach_beyond_the_image_and_are_black_there():
    image = np.full((90, 120, 3), 255, np.uint8)
    (crop,) = SPEC.preprocess(image, np.array([[-20.0, 0, 40, 80]]))
    assert not crop[:, :14].any() and (crop[10:50, 18:] == 255).all()


def test_broken_weights_are_an_error():
    broken = predictor()
    with torch.no_grad():
        broken.model.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="weights are broken"):
        broken(smooth_image(0), [GOOD])


def test_crops_of_one_batch_exist_at_once():
    predict, image, (boxes, scores) = predictor(), smooth_image(0), scattered_boxes(0, 200)
    crop, alive, most = predict.preprocess, [], []

    def preprocess(image, boxes):
        most.append(sum(ref() is not None for ref in alive))
        crops = crop(image, boxes)
        alive.append(weakref.ref(crops))
        return crops

    predict.preprocess = preprocess
    predict(image, boxes, scores)
    assert len(alive) == 13 and max(most) <= 1
