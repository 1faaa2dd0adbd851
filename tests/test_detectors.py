"""Detectors: boxes about joints, torchvision's people, files by photo; and what errors advise."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from boxed_people import predictor, scattered_boxes, smooth_image
from hrpose.builders.detectors import DETECTORS, build_photo_boxes, load_detector, source_name
from hrpose.config import load_config
from hrpose.data.photo_boxes import match_photos
from hrpose.inference.detectors import (
    MARGIN,
    BottomUpDetector,
    DetectingPredictor,
    TorchvisionDetector,
    filter_boxes,
    joint_boxes,
    torchvision_command,
)
from hrpose.structures import Poses
from reference.boxes import box_iou, joint_box

ROOT = Path(__file__).parents[1]
TOP_DOWN = str(ROOT / "configs" / "topdown" / "quickstart.yaml")
DATA = ROOT.parent / "shared" / "data" / "coco_subset"
LABELS = DATA / "annotations" / "person_keypoints_val2017.json"
SIZE = (120, 90)


def people_at(*joints):
    return np.array(joints, np.float32)


def scattered_people(rng, count, joints=5):
    """Joints (N, K, 3), some outside the image, some not found, some people at one place."""
    people = rng.uniform(-40, 160, (count, joints, 3)).astype(np.float32)
    people[..., 2] = rng.choice([0, 0.2, 0.9], (count, joints), p=[0.5, 0.25, 0.25])
    people[::7, :, 0] = people[::7, :1, 0]  # above each other
    people[3::9, :, :2] = people[3::9, :1, :2]
    return people


# Boxes about joints ------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0, 0.25, 1])
def test_boxes_about_joints_are_those_of_a_loop(rng, margin):
    people = scattered_people(rng, 200)
    wanted = [joint_box(person, *SIZE, margin) for person in people]
    indices, boxes = joint_boxes(people, SIZE, margin)
    assert indices.tolist() == [i for i, box in enumerate(wanted) if box]
    assert 60 < len(boxes) < 190 and boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [box for box in wanted if box], atol=2e-4)


def test_each_side_is_a_quarter_longer_than_the_joints():
    people = people_at([(20, 30, 1), (60, 50, 0.1), (0, 0, 0)])
    (box,) = joint_boxes(people, SIZE)[1]
    np.testing.assert_allclose(box, [15, 27.5, 50, 25])


@pytest.mark.parametrize(
    ("joints", "box"),
    [
        ([(20, 30, 1), (0, 0, 0)], None),  # one joint
        ([(20, 30, 0), (40, 50, 0)], None),  # none
        ([(20, 30, 1), (20, 30, 1)], None),  # two at one place
        ([(-90, 30, 1), (-50, 60, 1)], None),  # outside
        ([(20, 30, 1), (20, 70, 1)], [19.5, 25, 1, 50]),  # above each other
        ([(-10, 30, 1), (30, 70, 1)], [0, 25, 35, 50]),  # clipped
        ([(100, 60, 1), (140, 100, 1)], [95, 55, 25, 35]),
    ],
)
def test_who_has_a_box(joints, box):
    indices, boxes = joint_boxes(people_at(joints), SIZE)
    np.testing.assert_allclose(boxes, [box] if box else np.zeros((0, 4)))
    assert len(indices) == len(boxes)


@pytest.mark.skipif(not LABELS.is_file(), reason=f"needs {LABELS}")
@pytest.mark.parametrize(("margin", "iou"), [(0, 0.52), (MARGIN, 0.68), (2 * MARGIN, 0.65)])
def test_a_quarter_fits_the_boxes_of_labels_best(margin, iou):
    truth = json.loads(LABELS.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    ious = []
    for person in truth["annotations"]:
        joints = np.array(person["keypoints"], np.float32).reshape(1, -1, 3)
        for box in joint_boxes(joints, sizes[person["image_id"]], margin)[1]:
            ious.append(box_iou(box.astype(float), person["bbox"]))
    assert len(ious) > 400 and np.mean(ious) == pytest.approx(iou, abs=0.005)


def test_nobody_has_no_box():
    indices, boxes = joint_boxes(np.zeros((0, 17, 3), np.float32), SIZE)
    assert indices.shape == (0,) and boxes.shape == (0, 4)


def test_people_of_a_bottom_up_network_keep_their_scores(rng):
    """What is given to a top-down network fits it: every box, also of people at the border."""
    people, scores = scattered_people(rng, 40), rng.uniform(0, 1, 40).astype(np.float32)
    detect = BottomUpDetector(lambda image: Poses(people, scores))
    boxes, found = detect(smooth_image(0))
    wanted = [i for i, person in enumerate(people) if joint_box(person, *SIZE, 0.25)]
    np.testing.assert_array_equal(found, scores[wanted])
    poses = predictor(oks_nms=1)(smooth_image(0), boxes, found)
    assert sorted(poses.box_indices) == list(range(len(boxes))) and len(boxes) < len(people)


# Detector and predictor --------------------------------------------------------------------------


def test_a_detecting_predictor_needs_an_image_only():
    image, (boxes, scores) = smooth_image(1), scattered_boxes(1, 6)
    calls = []

    def detect(given):
        calls.append(given)
        return boxes, scores

    joined, alone = DetectingPredictor(detect, predictor()), predictor()
    for given in ((), (None,)):
        found, wanted = joined(image, *given), alone(image, boxes, scores)
        np.testing.assert_array_equal(found.joints, wanted.joints)
        np.testing.assert_array_equal(found.scores, wanted.scores)
    assert len(calls) == 2 and calls[0] is image
    given = joined(image, boxes[:2])
    np.testing.assert_array_equal(given.scores, alone(image, boxes[:2]).scores)
    assert len(calls) == 2


def test_a_detector_that_finds_nobody_gives_no_poses():
    joined = DetectingPredictor(lambda image: (np.zeros((0, 4)), np.zeros(0)), predictor())
    poses = joined(smooth_image(1))
    assert poses.joints.shape == (0, 3, 3) and poses.boxes.shape == (0, 4)


def test_filters_keep_the_best_in_order():
    boxes, scores = np.arange(20.0).reshape(5, 4), np.array([0.1, 0.9, 0.5, 0.9, 0.3])
    for options, kept in (
        ({}, [1, 3, 2, 4, 0]),
        ({"min_score": 0.3}, [1, 3, 2, 4]),
        ({"max_per_image": 3}, [1, 3, 2]),
        ({"min_score": 0.95}, []),
    ):
        found = filter_boxes(lambda image: (boxes, scores), **options)(smooth_image(0))
        np.testing.assert_array_equal(found[0], boxes[kept])
        np.testing.assert_array_equal(found[1], scores[kept])


# torchvision -------------------------------------------------------------------------------------


class FrozenNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("running_var", torch.ones(2))


class FasterRCNN(nn.Module):
    """Sees two people, a dog and a person without extent, in images of values up to 1."""

    def __init__(self, backbone, classes, box_score_thresh):
        super().__init__()
        self.backbone, self.classes, self.min_score = backbone, classes, box_score_thresh

    def forward(self, images):
        (image,) = images
        assert not self.training and torch.is_inference_mode_enabled()
        assert image.shape == (3, 90, 120) and image.dtype == torch.float32
        low, high = (float(each) for each in image.aminmax())
        assert low == 0 and 0.5 < high <= 1
        corners = [[10, 20, 40, 80], [0, 0, 9, 9], [5, 5, 6.5, 25], [7, 7, 7, 9]]
        found = {"boxes": corners, "labels": [1, 18, 1, 1], "scores": [0.9, 0.8, 0.3, 0.2]}
        return [{name: torch.tensor(value) for name, value in found.items()}]


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in for the package; what its weights are read with."""
    asked = {}

    def get_state_dict(**options):
        asked.update(options)
        if "error" in asked:
            raise asked["error"]
        return {"backbone.running_var": torch.full((2,), 3.0)}

    weights = SimpleNamespace(url="https://where/fasterrcnn.pth", get_state_dict=get_state_dict)
    detection = ModuleType("torchvision.models.detection")
    detection.FasterRCNN = FasterRCNN
    detection.FasterRCNN_ResNet50_FPN_Weights = SimpleNamespace(COCO_V1=weights)
    detection.backbone_utils = SimpleNamespace(
        resnet_fpn_backbone=lambda backbone_name, weights: FrozenNorm()
    )
    models, ops = ModuleType("torchvision.models"), ModuleType("torchvision.ops")
    models.detection, ops.FrozenBatchNorm2d = detection, FrozenNorm
    package = ModuleType("torchvision")
    for module in (package, models, detection, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return asked


def test_torchvisions_people_are_boxes_in_pixels(torchvision):
    detect = TorchvisionDetector(min_score=0.2)
    boxes, scores = detect(smooth_image(0))
    np.testing.assert_allclose(boxes, [[10, 20, 30, 60], [5, 5, 1.5, 20]])
    np.testing.assert_allclose(scores, [0.9, 0.3])
    assert detect.model.classes == 91 and detect.model.min_score == 0.2
    assert detect.model.backbone.eps == 0 and detect.model.backbone.running_var[0] == 3
    assert torchvision["weights_only"] and torchvision["check_hash"]


def test_weights_of_torchvision_come_from_a_file(torchvision, tmp_path):
    path = tmp_path / "rcnn.pth"
    torch.save({"backbone.running_var": torch.full((2,), 5.0)}, path)
    assert TorchvisionDetector(path).model.backbone.running_var[0] == 5 and not torchvision
    with pytest.raises(FileNotFoundError, match="no file of weights at .*; download https://where"):
        TorchvisionDetector(tmp_path / "none.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(Path, tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("<html>")
    (tmp_path / "empty.pth").touch()
    for name in ("other", "code", "text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.pth does not fit .*; give the file https:"):
            TorchvisionDetector(tmp_path / f"{name}.pth")


def test_without_a_network_the_file_and_its_place_are_named(torchvision, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", "/of/torch")
    torchvision["error"] = OSError("no route to host")
    with pytest.raises(FileNotFoundError) as caught:
        TorchvisionDetector()
    message = f"{caught.value}"
    assert "no route to host" in message and "detector:<file>" in message
    assert "put https://where/fasterrcnn.pth at /of/torch/hub/checkpoints/fasterrcnn.pth" in message


@pytest.mark.parametrize("line", ["import none_such", "raise RuntimeError('nms does not exist')"])
def test_a_torchvision_that_does_not_fit_is_named_with_its_cure(tmp_path, monkeypatch, line):
    """The ordinary wheel beside a CPU torch raises a RuntimeError on import; it may be missing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(TOP_DOWN, ["TEST.BOXES", "detector", "DEVICE", "cpu"])
    with pytest.raises(ValueError, match="TEST.BOXES detector: .* of this torch") as caught:
        load_detector(config)
    assert line.split()[-1].strip("')") in f"{caught.value}"
    assert f"as torch was (conda, uv, ...); with pip: {torchvision_command()}" in f"{caught.value}"


@pytest.mark.parametrize(
    ("version", "command"),
    [
        ("2.13.0+cpu", '"torchvision==0.28.*" --index-url https://download.pytorch.org/whl/cpu'),
        ("2.6.0+cu124", '"torchvision==0.21.*" --index-url https://download.pytorch.org/whl/cu124'),
        ("2.7.1", '"torchvision==0.22.*"'),
        ("2.9.0a0+git1234", '"torchvision==0.24.*"'),
    ],
)
def test_the_torchvision_of_a_torch(monkeypatch, version, command):
    monkeypatch.setattr(torch, "__version__", version)
    assert torchvision_command() == f"pip uninstall -y torchvision; pip install {command}"


# Files of boxes, by photo ------------------------------------------------------------------------

NAMES = {1: "a/IMG_7.jpg", 2: "a/000000397133.jpg", 3: "b/me.jpg", 4: "b/IMG_9.png", 5: "c/9.jpg"}


@pytest.mark.parametrize(
    ("entries", "ids"),
    [
        ([{"file_name": "b/me.jpg"}, {"file_name": "a/IMG_7.jpg", "image_id": 3}], [3, 1]),
        ([{"file_name": "me.jpg"}, {"file_name": "x/IMG_7.jpg"}, {"image_id": 7}], [3, 1, 1]),
        ([{"file_name": "a\\IMG_7.jpg"}], [1]),
        ([{"file_name": "b/me.jpg"}, {"file_name": "other/IMG_7.jpg"}], [3, -1]),
        ([{"image_id": 397133}, {"image_id": 7.0}, {"image_id": 8}], [2, 1, -1]),
        ([{"image_id": 9}, {"image_id": 7}], [-1, 1]),  # two names end with 9
        ([{"image_id": 7}, {"image_id": None}, {"image_id": [7]}], [1, None, [7]]),
        ([], []),
    ],
)
def test_boxes_are_matched_by_name_or_number(entries, ids):
    assert [e["image_id"] for e in match_photos(Path("b.json"), entries, NAMES)] == ids


@pytest.mark.parametrize("entry", [{"image_id": 1}, {"file_name": "you.jpg", "image_id": 7}])
def test_a_file_of_other_photos_is_refused(entry):
    with pytest.raises(ValueError, match=r"b\.json: none of its 1 boxes .* e\.g\. a/IMG_7\.jpg"):
        match_photos(Path("b.json"), [entry], NAMES)


def test_names_that_several_photos_have_fit_none():
    with pytest.raises(ValueError, match="none of its 1 boxes"):
        match_photos(Path("b.json"), [{"file_name": "7.jpg"}], {1: "a/7.jpg", 2: "b/7.jpg"})


# What TEST.BOXES names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "name"),
    [
        ("truth", "truth"),
        ("detector", "detector"),
        ("detector:~/rcnn.pth", "detector_rcnn"),
        ("bottom_up:configs/quickstart.yaml,x/best.pth", "bottom_up_quickstart"),
        ("a/mask_rcnn.json", "mask_rcnn"),
        ("truth.json", "truth.json"),
        ("a/detector.json", "detector.json"),
        ("bottom_up_quickstart.json", "bottom_up_quickstart.json"),
        ("", ""),
    ],
)
def test_every_source_has_a_name_of_its_own(boxes, name):
    assert source_name(boxes) == name


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ("bottom_up", "wanted bottom_up:<config>,<weights>, e.g. "),
        ("bottom_up:configs/quickstart.yaml", "wanted bottom_up:<config>,<weights>, e.g. "),
        ("bottom_up:,best.pth", "wanted bottom_up:<config>,<weights>, e.g. "),
        ("bottom_up:none.yaml,best.pth", "there is no config file .*none.yaml"),
        (f"bottom_up:{TOP_DOWN},best.pth", "pose_hrnet, which needs boxes itself; name the config"),
        (
            "detectors",
            "no file of boxes at detectors; give truth .* detector .* bottom_up:<config>",
        ),
        ("bottomup:x.yaml,y.pth", "no file of boxes at bottomup:x.yaml,y.pth; give truth"),
        ("", "photos have no labelled ones: give --boxes detector .* predictor.image, boxes"),
        ("truth", "photos have no labelled ones: give --boxes detector .* predictor.image, boxes"),
    ],
)
def test_a_wrong_spelling_ends_with_its_cure(boxes, message):
    config = load_config(TOP_DOWN, ["TEST.BOXES", boxes, "DEVICE", "cpu"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_photo_boxes(config, NAMES)


def test_an_error_of_any_class_names_the_option(monkeypatch):
    """Errors such as UnicodeDecodeError, a ValueError, are not made of a text."""

    def fail(*_):
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setitem(DETECTORS, "detector", fail)
    config = load_config(TOP_DOWN, ["TEST.BOXES", "detector", "DEVICE", "cpu"])
    with pytest.raises(ValueError, match="TEST.BOXES detector: .*invalid start byte"):
        load_detector(config)


def test_labels_and_files_are_no_detectors():
    config = load_config(TOP_DOWN, ["TEST.BOXES", "found.json"])
    with pytest.raises(ValueError, match="'found.json', no detector; give detector"):
        load_detector(config)
