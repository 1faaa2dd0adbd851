"""Rotated and scaled crops, and ensembles: the mean, in the image, of those that see a joint."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from boxed_people import (
    DOTS,
    SPEC,
    Edges,
    Lopsided,
    as_network,
    predictor,
    scattered_boxes,
    smooth_image,
)
from hrpose.builders.common import build_model, ensemble_configs
from hrpose.builders.families import load_predictor
from hrpose.builders.topdown import build_spec
from hrpose.config import load_config
from hrpose.inference.crop_pipeline import stream_crops
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.pipeline import PipelineConfig
from hrpose.inference.scoring import average_views
from hrpose.inference.spec import ExportedModel, from_json, to_json
from hrpose.inference.topdown import TopDownEnsemble, predict_with_gt_heatmaps
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.programs.exporting.graphs import NetworkGraph
from hrpose.skeletons import Skeleton
from hrpose.structures import HeadOutput
from reference.topdown import ReferenceTopDown

BOTH = pytest.mark.parametrize("coordinates", ["hrnet", "unbiased"])
MANY = {"rotations": (-20.0, 0.0, 20.0), "scales": (0.8, 1.0, 1.2)}
FIELDS = ("joints", "scores", "boxes", "box_indices")


def same(poses, others):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(poses, name), getattr(others, name))


def near(poses, others, tolerance):
    assert poses.box_indices.tolist() == others.box_indices.tolist()
    np.testing.assert_allclose(poses.joints, others.joints, atol=tolerance)
    np.testing.assert_allclose(poses.scores, others.scores, atol=tolerance)


def three_networks():
    """Of other sizes, coordinates and crops, as members of one ensemble may be."""
    return [
        predictor(**MANY),
        predictor(Edges, input_size=(64, 96), coordinates="unbiased", **MANY),
        predictor(Lopsided, padding=1.5, **MANY),
    ]


# Against plain loops ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("cross", [True, False])
def test_views_oracle(coordinates, cross, record_difference):
    predict = predictor(coordinates=coordinates, cross_views=cross, **MANY)
    as_in_loops(predict, ReferenceTopDown(Lopsided(), predict.spec), record_difference, "views")


def test_ensemble_oracle(record_difference):
    members = three_networks()
    pairs = [(each.model, each.spec) for each in members]
    plain = ReferenceTopDown(*pairs[0], *pairs[1:])
    as_in_loops(TopDownEnsemble(members), plain, record_difference, "ensemble")


def as_in_loops(predict, plain, record_difference, name):
    image, (boxes, scores) = smooth_image(0), scattered_boxes(0, 16)
    poses, expected = predict(image, boxes, scores), plain(image, boxes, scores)
    assert poses.box_indices.tolist() == [index for *_, index in expected]
    far = abs(poses.joints - np.stack([joints for joints, *_ in expected])).max()
    worst = abs(poses.scores - [score for _, score, _ in expected]).max()
    record_difference(f"top-down, {name} (px)", far)
    record_difference(f"top-down, {name}: scores", worst)
    assert far < 2e-3 and worst < 1e-6 and 4 < len(expected) < 16


# Views --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rotations", "scales", "cross", "views"),
    [
        ((0.0,), (1.0,), True, [(0, 1)]),
        ((20.0,), (1.2,), False, [(20, 1.2)]),
        ((-20, 0, 20), (1.0,), False, [(-20, 1), (0, 1), (20, 1)]),
        ((0, 20), (1, 1.2), True, [(0, 1), (0, 1.2), (20, 1), (20, 1.2)]),
        ((0, 20), (0.8, 1), False, [(0, 0.8), (0, 1), (20, 1)]),
    ],
)
def test_views_are_crossed_or_vary_one_thing_at_a_time(rotations, scales, cross, views):
    spec = SPEC._replace(rotations=rotations, scales=scales, cross_views=cross)
    assert sorted(spec.crop_views) == sorted(views)


def test_a_scale_sees_so_much_more_and_a_rotation_turns_the_picture_counter_clockwise():
    box = (10.0, 20.0, 30.0, 60.0)
    plain, wide, turned = (
        SPEC.to_crop(np.array([*box, *view])) for view in ((0, 1), (0, 1.2), (90, 1))
    )
    assert wide.scale == pytest.approx(plain.scale / 1.2) == pytest.approx(turned.scale / 1.2)
    right = turned.points(np.array([35.0, 50])) - turned.points(np.array([25.0, 50]))
    np.testing.assert_allclose(right, [0, -10 * plain.scale], atol=1e-9)  # is up


@BOTH
def test_no_rotation_and_scale_1_are_bitwise_what_one_crop_is(coordinates):
    """Places, values, scores and forward passes; without decoding anything twice."""
    predict = predictor(coordinates=coordinates, views=("identity",))
    assert (predict.spec.rotations, predict.spec.scales) == ((0.0,), (1.0,))
    image, (boxes, scores) = smooth_image(1), scattered_boxes(1, 20)
    poses = predict(image, boxes, scores)
    assert predict.model.batches == [16, 4]
    for joints, index in zip(poses.joints, poses.box_indices):
        (crop,) = [predict.spec.to_crop(boxes[index])]
        (alone,) = predict.decode(predict.forward(predict.preprocess(image, boxes[index][None])))
        place = crop.inverse().points(alone[:, :2]).astype(np.float32)
        found = alone[:, 2:] > 0
        assert np.array_equal(joints, np.where(found, np.c_[place, alone[:, 2]], 0))
    cross = predictor(coordinates=coordinates, views=("identity",), cross_views=False)
    same(cross(image, boxes, scores), poses)


class Spots(Edges):
    """Reads a joint's brightness off its own colour: equivariant to rotation and scale."""

    def forward(self, images):
        super().forward(images)
        return [HeadOutput("1_4", 4, F.avg_pool2d(images, 4))]


def spots(places, size=(120, 160)):
    """(H, W, 3): a smooth spot of one colour at each of three places."""
    y, x = np.mgrid[: size[0], : size[1]]
    maps = [np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 9.0**2)) for u, v in places]
    return np.round(255 * np.stack(maps, -1)).astype(np.uint8)


INNER = np.array([[82.0, 56], [70, 70], [95, 50]])
BOX = [[50, 20, 60, 80]]
SPOTTED = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "input_size": (96, 128), "views": ("identity",)}


@pytest.mark.parametrize("view", [*itertools.product([-35.0, -20.0, 20.0, 90.0], [0.8, 1.0, 1.2])])
def test_each_view_alone_finds_what_the_plain_one_does(view):
    rotation, scale = view
    given = {**SPOTTED, "coordinates": "unbiased"}
    for places in (INNER, INNER[::-1]):
        image = spots(places)
        plain = predictor(Spots, **given)(image, BOX)
        turned = predictor(Spots, rotations=(rotation,), scales=(scale,), **given)(image, BOX)
        np.testing.assert_allclose(plain.joints[0, :, :2], places, atol=0.3)
        np.testing.assert_allclose(turned.joints[0, :, :2], places, atol=0.3)
        np.testing.assert_allclose(turned.joints[0, :, 2], plain.joints[0, :, 2], atol=0.03)


def test_a_joint_beyond_the_plain_crop_is_found_by_a_wider_one():
    """There a smaller crop sees the rim of its spot only, and does not vote."""
    places = INNER.copy()
    places[2] = 80, 115  # the plain crop ends at 110, the smaller one at 100
    image, given = spots(places), {**SPOTTED, "coordinates": "unbiased"}
    plain = predictor(Spots, **given)(image, BOX)
    all_three = predictor(Spots, scales=(0.8, 1.0, 1.2), **given)(image, BOX)
    wide = predictor(Spots, scales=(1.2,), **given)(image, BOX)
    assert plain.joints[0, 2, 1] < 111 and plain.joints[0, 2, 2] > 0
    same_joint = all_three.joints[0, 2], wide.joints[0, 2]
    assert np.array_equal(*same_joint) and abs(wide.joints[0, 2, 1] - 115) < 1.5


def test_people_come_one_by_one_in_small_batches_as_they_do_together():
    """A batch counts crops, not boxes, and knows no border between boxes."""
    image, (boxes, scores) = smooth_image(3), scattered_boxes(3, 10)
    together = predictor(oks_nms=1.0, views=("identity",), **MANY)
    poses = together(image, boxes, scores)
    assert together.model.batches == [16] * 5 + [10]
    small = predictor(oks_nms=1.0, batch=7, views=("identity",), **MANY)
    same(small(image, boxes, scores), poses)
    for joints, score, i in zip(poses.joints, poses.scores, poses.box_indices):
        one = small(image, boxes[i : i + 1], scores[i : i + 1])
        assert np.array_equal(one.joints[0], joints) and one.scores[0] == score


def test_drawn_heatmaps_are_seen_in_all_views():
    """A batch of crops at a time, of the joints as the views move them."""
    predict, drawn = predictor(Edges, batch=4, **MANY), []

    def draw(joints, size):
        drawn.append(joints.numpy())
        maps = torch.zeros(len(joints), 3, *size)
        for i, k in itertools.product(range(len(joints)), range(3)):
            x, y = (joints[i, k, :2] / 4 + 0.5).int().tolist()
            if 0 <= x < size[1] and 0 <= y < size[0]:
                maps[i, k, y, x] = 1
        return maps, None

    joints = np.concatenate([INNER, np.full((3, 1), 2)], 1)
    people, boxes = np.stack([joints, joints + [3, 2, 0]]), np.array(BOX * 2, float)
    poses = predict_with_gt_heatmaps(predict, draw, (spots(INNER), boxes, people))
    assert [len(each) for each in drawn] == [4, 4, 4, 4, 2] and not predict.model.batches
    plain = predict_with_gt_heatmaps(predictor(Edges), draw, (spots(INNER), boxes, people))
    far, plain_far = (
        abs(each.joints[:, :, :2] - people[each.box_indices][..., :2]).mean()
        for each in (poses, plain)
    )
    assert (poses.joints[..., 2] == 1).all() and far < plain_far  # by less rounding
    nobody = np.zeros((0, 4)), np.zeros((0, 3, 3))
    assert len(predict_with_gt_heatmaps(predict, draw, (spots(INNER), *nobody)).scores) == 0


@pytest.mark.parametrize(
    "make", [lambda: predictor(**MANY), lambda: TopDownEnsemble(three_networks())]
)
def test_an_image_without_boxes_has_no_people(make):
    poses = make()(smooth_image(0), np.zeros((0, 4)))
    assert poses.joints.shape == (0, 3, 3) and poses.scores.shape == (0,)


# Votes --------------------------------------------------------------------------------------------

WHOLE = np.array([[0.01, 0, 0], [0, 0.01, 0]])
"""To a crop of 100 x 100 image pixels, in units of its sides."""


def averaged(*votes, crops=None):
    """(3,) of one joint, seen as (x, y, value) by each of several crops."""
    joints = np.array(votes, np.float32)[None, :, None]
    crops = np.stack(crops or [WHOLE] * len(votes))[None]
    return average_views(joints, crops)[0, 0].tolist()


def test_views_vote_equally_on_place_and_value():
    assert averaged((10, 20, 0.5), (20, 40, 1.0)) == [15, 30, 0.75]


def test_a_view_without_the_joint_moves_neither_its_place_nor_its_value():
    """So a crop that is too small for a joint does not lower the score of its person."""
    votes = [(10, 20, 0.5), (12, 24, 1.0), (14, 22, 0.25)]
    assert averaged(*votes, (90, 3, 0)) == averaged(*votes)
    half = np.array([[0.02, 0, 0], [0, 0.02, 0]])  # of 50 x 50: the joint is at 80
    beyond = [(80, 20, 0.75), (80, 22, 0.75)]
    assert averaged(*beyond, (49, 21, 0.125), crops=[WHOLE, WHOLE, half]) == averaged(*beyond)


def test_what_no_crop_contains_is_the_mean_of_those_that_see_it():
    assert averaged((101, 20, 0.5), (103, 20, 0.5), (0, 0, 0)) == [102, 20, 0.5]


def test_no_view_is_value_0_at_the_mean_of_the_corners():
    assert averaged((0, 0, 0), (4, 8, 0)) == [2, 4, 0]
    black = np.zeros((90, 120, 3), np.uint8)
    poses = predictor(Edges, **MANY)(black, [[5, 5, 20, 20], [80, 40, 20, 20]])
    assert poses.box_indices.tolist() == [0, 1] and not poses.joints[:, 0].any()


# Ensembles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_members_are_one_member_bitwise(count):
    image, (boxes, scores) = smooth_image(4), scattered_boxes(4, 20)
    for changes in ({}, {"coordinates": "unbiased"}):
        alone = predictor(**changes)(image, boxes, scores)
        members = [predictor(**changes) for _ in range(count)]
        same(TopDownEnsemble(members)(image, boxes, scores), alone)


def test_the_order_of_members_does_not_matter():
    """To 1e-6 of a score and 1e-4 px, which is a float32's last digit."""
    image, (boxes, scores) = smooth_image(5), scattered_boxes(5, 12)
    members = three_networks()
    poses = TopDownEnsemble(members)(image, boxes, scores)
    for order in ((2, 1, 0), (1, 2, 0)):
        near(TopDownEnsemble([members[i] for i in order])(image, boxes, scores), poses, 1e-4)
    alone = members[0](image, boxes, scores)
    assert alone.joints.shape != poses.joints.shape or abs(alone.joints - poses.joints).max() > 1


def test_two_members_are_halfway_and_are_scored_and_suppressed_once():
    image, (boxes, scores) = smooth_image(6), scattered_boxes(6, 12)
    first, second = predictor(oks_nms=1.0), predictor(Edges, oks_nms=1.0)
    order = lambda poses: poses.joints[np.argsort(poses.box_indices)]  # noqa: E731
    one, other = order(first(image, boxes, scores)), order(second(image, boxes, scores))
    both = order(TopDownEnsemble([first, second])(image, boxes, scores))
    seen = (one[..., 2] > 0) & (other[..., 2] > 0)
    assert seen.sum() > 20
    np.testing.assert_allclose(both[seen], (one[seen] + other[seen]) / 2, atol=1e-5)
    few = TopDownEnsemble([predictor(), predictor(Edges)])(image, boxes, scores)
    assert len(few.scores) < 12


def test_networks_of_other_joints_are_no_ensemble():
    names = ("nose", "left_eye", "right_eye")
    faces = Skeleton(names, (0.05, 0.1, 0.07), names)
    other = DOTS.__class__(DOTS.joints, (0.1, 0.1, 0.1), DOTS.joints)
    for skeleton, what in ((faces, "other joints"), (other, "other sigmas")):
        with pytest.raises(ValueError, match=f"network 1 .*{what}.*one DATASET.SKELETON"):
            TopDownEnsemble([predictor(), predictor(skeleton=skeleton)])


# Streams and exported files -----------------------------------------------------------------------


def boxed(i):
    return i, (smooth_image(i), *scattered_boxes(i, (0, 1, 9, 3)[i % 4]))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_stream_finds_what_is_found_one_by_one(devices):
    images = [boxed(i) for i in range(6)]
    for make in (lambda: predictor(**MANY), lambda: TopDownEnsemble(three_networks())):
        workers, alone = [make() for _ in range(devices)], make()
        found = list(stream_crops(workers, images, PipelineConfig(readers=2)))
        assert [image_id for image_id, _ in found] == list(range(6))
        for (_, poses), (_, given) in zip(found, images):
            same(poses, alone(*given))


def test_an_exported_file_has_the_views():
    normal = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # as the graph's
    predict = predictor(**MANY, cross_views=False, **normal)
    text = to_json(ExportedModel(predict.spec, "network", (4,)))
    exported = OnnxPredictor(as_network(NetworkGraph(predict.model)), from_json(text))
    assert exported.spec == predict.spec
    image, (boxes, scores) = smooth_image(7), scattered_boxes(7, 9)
    near(exported(image, boxes, scores), predict(image, boxes, scores), 1e-3)


@pytest.mark.parametrize("gone", ["rotations", "scales", "cross_views"])
def test_a_file_from_before_there_were_views_has_one(gone):
    body = json.loads(to_json(ExportedModel(SPEC, "network", (4,))))
    del body["spec"][gone]
    assert from_json(json.dumps(body)).spec == SPEC


@pytest.mark.parametrize("wrong", [{"rotations": []}, {"scales": [0]}, {"scales": []}])
def test_views_that_are_none_are_damage(wrong):
    body = json.loads(to_json(ExportedModel(SPEC, "network", (4,))))
    body["spec"].update(wrong)
    with pytest.raises(ValueError, match=r"tools/export\.py"):
        from_json(json.dumps(body))


# Options ------------------------------------------------------------------------------------------

CONFIGS = Path(__file__).parents[1] / "configs"
TOP_DOWN = str(CONFIGS / "topdown" / "quickstart.yaml")


def test_views_are_options_of_both_families_as_far_as_they_have_them():
    options = ["TEST.SCALE_FACTOR", "[0.8,1,1.2]", "TEST.ROTATIONS", "[-20,0,20]"]
    spec = build_spec(load_config(TOP_DOWN, [*options, "TEST.CROSS_VIEWS", "false"]))
    assert (spec.rotations, spec.scales, spec.cross_views) == (*MANY.values(), False)
    assert len(spec.crop_views) == 5
    with pytest.raises(ValueError, match="TEST.ROTATIONS has no effect"):
        load_config(CONFIGS / "quickstart.yaml", options[2:])


def test_members_have_configs_of_their_own_but_this_test():
    wide = str(CONFIGS / "topdown" / "hrnet_w48_384x288.yaml")
    named = f"['b.pth', '{wide},c.pth']"
    options = ["TEST.MODEL_FILE", "a.pth", "TEST.ROTATIONS", "[0,20]", "TEST.ENSEMBLE", named]
    configs = ensemble_configs(load_config(TOP_DOWN, options))
    assert [each.TEST.MODEL_FILE for each in configs] == ["a.pth", "b.pth", "c.pth"]
    assert [each.MODEL.WIDTH for each in configs] == [16, 16, 48]
    assert {each.TEST.ROTATIONS for each in configs} == {(0, 20)}
    assert configs[2].DATASET.INPUT_SIZE == (288, 384)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("a.yaml", "TEST.ENSEMBLE a.yaml: wanted <config>,<weights>.*in a list within quotes"),
        ("nowhere.yaml,a.pth", "TEST.ENSEMBLE nowhere.yaml,a.pth: there is no config file"),
        (f"{CONFIGS / 'quickstart.yaml'},a.pth", "is bottom-up; only top-down networks are"),
        (
            f"{CONFIGS / 'topdown' / 'multi_stage_w32x2_256x192.yaml'},a.pth",
            "dark does not decode its MODEL.CODEC offset; set TEST.SUBPIXEL conv",
        ),
    ],
)
def test_what_is_no_member_is_refused_with_a_cure(named, message):
    config = load_config(TOP_DOWN, ["TEST.ENSEMBLE", f"['{named}']", "TEST.SUBPIXEL", "dark"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ensemble_configs(config)


def test_weights_of_another_network_are_refused_with_how_to_name_it(tmp_path):
    files = {codec: str(tmp_path / f"{codec}.pth") for codec in ("heatmap", "offset")}
    small = ["MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "DEVICE", "cpu"]
    for codec, file in files.items():
        config = load_config(TOP_DOWN, [*small, "MODEL.CODEC", codec])
        torch.save(build_model(config).state_dict(), file)
    options = ["TEST.MODEL_FILE", files["heatmap"], "TEST.ENSEMBLE", files["offset"]]
    with pytest.raises(
        ValueError, match=r"(?s)offset.pth .*does not fit.*; in TEST.ENSEMBLE .*<conf"
    ):
        load_predictor(load_config(TOP_DOWN, [*small, *options]))


def test_drawn_heatmaps_have_no_ensemble():
    options = ["TEST.GT_HEATMAPS", "true", "TEST.ENSEMBLE", "a.pth"]
    with pytest.raises(ValueError, match="TEST.ENSEMBLE has no effect beside TEST.GT_HEATMAPS"):
        load_config(TOP_DOWN, options)
