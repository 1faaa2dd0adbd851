"""An exported top-down model without torch equals the predictor; networks stand in for its file."""

import json

import numpy as np
import pytest
import torch

from boxed_people import SPEC, Edges, Lopsided, as_network, scattered_boxes, smooth_image
from hrpose.inference import onnx_predictor
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import ExportedModel, from_json, to_json
from hrpose.inference.topdown import TopDownPredictor
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.programs.exporting.graphs import NetworkGraph
from hrpose.skeletons import COCO

VIEWS = pytest.mark.parametrize("views", [("identity",), ("identity", "flip")], ids=len)
CODECS = pytest.mark.parametrize(
    ("coordinates", "subpixel"),
    [
        ("hrnet", "convention"),
        ("unbiased", "convention"),
        ("hrnet", "dark"),
        ("unbiased", "quarter"),
        ("hrnet", "none"),
    ],
)


def pair(network=Lopsided, **changes):
    """A predictor, and the predictor of what would be exported from it."""
    spec = SPEC._replace(mean=IMAGENET_MEAN, std=IMAGENET_STD, **changes)
    predictor = TopDownPredictor(network(), spec)
    text = to_json(ExportedModel(spec, "network", (4,)))
    return predictor, OnnxPredictor(as_network(NetworkGraph(predictor.model)), from_json(text))


def assert_same(found, expected):
    """To the rounding of float32: no near ties are in these scenes."""
    assert found.box_indices.tolist() == expected.box_indices.tolist()
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_array_equal(found.joints[..., 2] > 0, expected.joints[..., 2] > 0)
    np.testing.assert_allclose(found.joints, expected.joints, atol=1e-3)
    assert found.joints.dtype == expected.joints.dtype == np.float32


@VIEWS
@CODECS
def test_poses_are_those_of_the_predictor(coordinates, subpixel, views):
    predictor, exported = pair(coordinates=coordinates, subpixel=subpixel, views=views)
    people = 0
    for seed, count in enumerate((40, 40, 1, 16, 17)):
        image, (boxes, scores) = smooth_image(seed), scattered_boxes(seed, count)
        expected = predictor(image, boxes, scores)
        assert_same(exported(image, boxes, scores), expected)
        people += len(expected.scores)
    assert 30 < people < 114  # some are suppressed


@VIEWS
@pytest.mark.parametrize("coordinates", ["hrnet", "unbiased"])
def test_maps_are_those_of_the_predictor(coordinates, views):
    predictor, exported = pair(coordinates=coordinates, views=views)
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    maps, expected = exported.steps.forward(crops), predictor.forward(crops).numpy()
    assert maps.shape == expected.shape and maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"oks_nms": 1.0}, {"min_score": 0.3}, {"padding": 1.6}, {"input_size": (64, 64)}]
)
def test_the_spec_travels_with_the_model(changes):
    predictor, exported = pair(**changes)
    standard, _ = pair()
    image, (boxes, scores) = smooth_image(7), scattered_boxes(7, 30)
    poses, others = predictor(image, boxes, scores), standard(image, boxes, scores)
    assert_same(exported(image, boxes, scores), poses)
    assert poses.joints.shape != others.joints.shape or abs(poses.joints - others.joints).max() > 1


def test_scores_of_boxes_are_1_where_none_are_given():
    predictor, exported = pair()
    image, (boxes, _) = smooth_image(2), scattered_boxes(2, 10)
    assert_same(exported(image, boxes), predictor(image, boxes.tolist()))


def test_memory_is_that_of_one_batch():
    """Of every view apart, however many boxes there are."""
    predictor, exported = pair()
    image, (boxes, scores) = smooth_image(3), scattered_boxes(3, 40)
    exported(image, boxes, scores)
    assert predictor.model.batches == [16, 16, 16, 16, 8, 8]


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))], ids=["list", "array"])
def test_an_image_without_boxes_has_no_people(boxes):
    predictor, exported = pair()
    poses = exported(smooth_image(0), boxes, [])
    assert poses.joints.shape == (0, 3, 3) and poses.scores.shape == (0,)
    assert poses.boxes.shape == (0, 4) and poses.box_indices.shape == (0,)
    assert predictor.model.batches == []


GOOD = [10, 10, 20, 30]


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (None, None, r"needs the boxes of people.*boxes \(N, 4\) x, y, width, height"),
        (GOOD, None, r"boxes are \(4,\); give \(N, 4\)"),
        ([GOOD, [120, 0, 20, 30]], None, "box 1, .*wholly outside its image of 120 x 90"),
        ([GOOD], [1, 2], r"box scores are \(2,\); give one a box: \(1,\)"),
    ],
)
def test_what_is_no_box_of_the_image_is_refused(boxes, scores, message):
    _, exported = pair()
    with pytest.raises(ValueError, match=message):
        exported(smooth_image(0), boxes, scores)


def test_missing_joints_are_0():
    _, exported = pair(Edges)
    poses = exported(np.zeros((90, 120, 3), np.uint8), [[5, 5, 20, 20], [80, 40, 20, 20]])
    assert not poses.joints[:, 0].any()


def test_broken_weights_are_an_error():
    predictor, exported = pair()
    with torch.no_grad():
        predictor.model.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="weights are broken"):
        exported(smooth_image(0), [GOOD])


def test_the_command_for_photos_wants_boxes(monkeypatch, capsys, tmp_path):
    _, exported = pair()
    monkeypatch.setattr(OnnxPredictor, "load", lambda path: exported)
    with pytest.raises(SystemExit):
        onnx_predictor.main([str(tmp_path / "model.onnx"), str(tmp_path / "photo.jpg")])
    assert "model.onnx: a top-down model needs the boxes of people" in capsys.readouterr().err


# Metadata ---------------------------------------------------------------------------------------

MODEL = ExportedModel(
    SPEC._replace(skeleton=COCO, padding=1.3, min_score=0.1, subpixel="dark"),
    "network",
    (4,),
    "ab",
    "9.1",
)


def test_metadata_comes_back_as_it_was_written():
    assert from_json(to_json(MODEL)) == MODEL


def test_metadata_also_has_what_other_programs_need():
    body = json.loads(to_json(MODEL))
    assert body["family"] == "top_down" and body["input"].startswith(
        "uint8 RGB (B, 3, H, W), H = 64, W = 32"
    )
    assert "crop_transform" in body["crop_rule"] and "resize_rule" not in body
    spec = body["spec"]
    assert spec["skeleton"]["flip_order"][:3] == [0, 2, 1]
    assert spec["input_size"] == [32, 64] and spec["padding"] == 1.3 and spec["oks_nms"] == 0.9
    assert set(spec) == set(SPEC._fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(format=7), "format 7"),
        (lambda body: body.update(family="soup"), "soup"),
        (lambda body: body["spec"].update(coordinates="polar"), "polar"),
        (lambda body: body["spec"].update(subpixel="polar"), "polar"),
        (lambda body: body["spec"].update(views=["identity", "polar"]), "polar"),
        (lambda body: body["spec"].update(mystery=1), "mystery"),
    ],
)
def test_unknown_metadata_is_refused_with_the_version_that_reads_it(change, message):
    body = json.loads(to_json(MODEL))
    change(body)
    with pytest.raises(ValueError, match=f"{message}.*hrpose 9.1.*tools/export.py"):
        from_json(json.dumps(body))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("spec"),
        lambda body: body.update(family="bottom_up"),
        lambda body: body["spec"].pop("padding"),
        lambda body: body["spec"].update(input_size=[32]),
        lambda body: body["spec"].update(input_size="32 x 64"),
        lambda body: body["spec"].update(batch=0),
        lambda body: body["spec"].update(padding=float("nan")),
        lambda body: body["spec"]["skeleton"].update(flip_order=[1, 0, 2]),
        lambda body: body["spec"].update(skeleton=None),
    ],
)
def test_damaged_metadata_is_refused_with_a_cure(change):
    body = json.loads(to_json(MODEL))
    change(body)
    with pytest.raises(ValueError, match="not those of an exported model.*tools/export.py"):
        from_json(json.dumps(body))
