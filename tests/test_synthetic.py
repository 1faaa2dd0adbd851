"""The synthetic set: labels agree with the picture and are the same on every machine."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO as CocoIndex

from hrpose.skeletons import COCO
from hrpose.synthetic import dataset
from hrpose.synthetic.body import SIDES
from hrpose.synthetic.dataset import scene_rng, write_synthetic
from hrpose.synthetic.drawing import IDS_PER_PERSON, IMAGE_SIZE, Canvas, draw_person
from hrpose.synthetic.scenes import (
    CROWD_NUMBER,
    SHORTEST,
    TALLEST,
    annotate_scene,
    compose_scene,
    run_lengths,
)

SCENES = range(60)
LABELS, PIXELS = 3281400465, 329191381
REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


@lru_cache(maxsize=1)
def scenes():
    """Pairs of a scene and its annotations."""
    drawn = [compose_scene(scene_rng(0, "test", index)) for index in SCENES]
    return [(scene, annotate_scene(scene)) for scene in drawn]


@lru_cache(maxsize=1)
def people():
    """Every annotated person, the silhouette (H, W) bool in the ID buffer, the annotation."""
    found = []
    for scene, labels in scenes():
        numbers = scene.canvas.ids // IDS_PER_PERSON
        masks = [numbers == number for number in range(1, len(scene.people) + 1)]
        seen = [pair for pair in zip(scene.people, masks) if np.count_nonzero(pair[1]) >= 16]
        labels = [label for label in labels if not label["iscrowd"]]
        found += [(*pair, label) for pair, label in zip(seen, labels, strict=True)]
    return found


@lru_cache(maxsize=1)
def segmentations():
    """The segmentation of every annotated person as pycocotools draws it, (H, W) bool."""
    return [decode(annotation) for _, _, annotation in people()]


def decode(annotation):
    regions = rle.frPyObjects(annotation["segmentation"], IMAGE_SIZE, IMAGE_SIZE)
    return rle.decode(regions if isinstance(regions, dict) else rle.merge(regions)).astype(bool)


@lru_cache(maxsize=1)
def keypoints():
    """(people, K, 3): x, y, COCO visibility."""
    return np.array([a["keypoints"] for _, _, a in people()], float).reshape(len(people()), -1, 3)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_labels_are_the_same_on_every_machine():
    text = json.dumps([annotations for _, annotations in scenes()])
    assert zlib.crc32(text.encode()) == LABELS


def test_pixels_are_the_same_under_the_pinned_requirements():
    pins = dict(line.split("==") for line in REQUIREMENTS.read_text().split() if "==" in line)
    for name in ("numpy", "opencv-python-headless"):
        if version(name) != pins[name]:
            pytest.skip(f"{name} is {version(name)}, not the pinned {pins[name]}")
    images = np.stack([scene.canvas.image for scene, _ in scenes()[:20]])
    assert zlib.crc32(images.tobytes()) == PIXELS


def test_scenes_depend_on_seed_split_and_index_only():
    drawn = [(0, "train", 1), (1, "train", 1), (0, "val", 1), (0, "train", 2), (0, "train", 1)]
    images = [compose_scene(scene_rng(*place)).canvas.image.tobytes() for place in drawn]
    assert len(set(images)) == 4 and images[0] == images[-1]


def test_area_and_box_are_those_of_the_visible_silhouette():
    for _, mask, annotation in people():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert annotation["area"] == np.count_nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns[0], rows[0])
        assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)


def test_segmentation_outlines_the_visible_silhouette():
    for (_, mask, _), drawn in zip(people(), segmentations()):
        assert (drawn & mask).sum() >= 0.8 * mask.sum()
        # A pixel's margin for the tracing, and holes that a polygon of COCO cannot have.
        filled = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3)))
        contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert not (drawn & ~cv2.drawContours(filled, contours, -1, 1, -1).astype(bool)).any()


def test_visible_joints_lie_on_their_own_silhouette():
    visible = keypoints()[..., 2] == 2
    assert visible.sum() > 1000
    for drawn, joints, shown in zip(segmentations(), keypoints(), visible):
        columns, rows = joints[shown, :2].astype(int).T
        assert cv2.dilate(drawn.astype(np.uint8), np.ones((3, 3)))[rows, columns].all()


def test_joints_are_inside_the_image_or_not_labelled():
    labelled = keypoints()[..., 2] > 0
    places = keypoints()[..., :2]
    assert not places[~labelled].any()
    assert ((places >= 0) & (places < IMAGE_SIZE)).all()
    assert [a["num_keypoints"] for _, _, a in people()] == labelled.sum(1).tolist()


def test_hidden_joints_are_labelled_as_hidden():
    visibility = keypoints()[..., 2]
    assert set(visibility.ravel()) == {0, 1, 2}
    assert (visibility == 2).sum() > 3 * (visibility == 1).sum() > 0


def test_people_who_show_little_have_no_joints():
    area, count = np.array([(a["area"], a["num_keypoints"]) for _, _, a in people()]).T
    small = area < 32 * 32
    assert small.any() and not count[small].any()
    assert (count[~small] == 0).any()  # the unlabelled share


def test_crowds_are_regions_without_joints():
    crowds = [(s, a) for s, found in scenes() for a in found if a["iscrowd"]]
    assert crowds
    for scene, annotation in crowds:
        np.testing.assert_array_equal(
            decode(annotation), scene.canvas.ids // IDS_PER_PERSON == CROWD_NUMBER
        )
        assert annotation["num_keypoints"] == 0


@pytest.mark.parametrize("bits", ["0000", "1111", "1000", "0001", "0110"])
def test_run_lengths_are_those_of_coco(bits):
    mask = np.array([bit == "1" for bit in bits]).reshape(2, 2)
    region = {"size": [2, 2], "counts": run_lengths(mask)}
    decoded = rle.decode(rle.frPyObjects(region, 2, 2)).astype(bool)
    np.testing.assert_array_equal(decoded, mask)


def test_scenes_hold_up_to_twelve_people():
    counts = [len(scene.people) for scene, _ in scenes()]
    assert min(counts) == 0 and 8 <= max(counts) <= 12
    assert 2.5 < np.mean(counts) < 4.5


def test_people_are_as_tall_as_promised():
    heights = np.array([height(person) for scene, _ in scenes() for person in scene.people])
    assert heights.min() >= 0.93 * SHORTEST and heights.max() <= 1.02 * TALLEST
    assert ((heights > 90) & (heights < 350)).mean() > 0.6


def height(person) -> int:
    """Pixels from top to sole of a person without occlusion or truncation."""
    canvas = Canvas(np.zeros((1000, 1000, 3), np.uint8), np.zeros((1000, 1000), np.uint16))
    centre = np.array([500, 500, 0]) - person.points["pelvis"]
    moved = {name: point + centre for name, point in person.points.items()}
    draw_person(canvas, person._replace(points=moved), 1)
    return int(np.ptp(np.flatnonzero(canvas.ids.any(1)))) + 1


def test_the_left_shoulder_of_a_person_facing_the_camera_is_on_the_right_of_the_image():
    drawn = [person for scene, _ in scenes() for person in scene.people]
    turn = np.array([person.depth("chest_front", "chest") / 0.075 for person in drawn])
    left, right = (
        np.array([person.points[f"{side}_shoulder"][0] for person in drawn]) for side in SIDES
    )
    for facing, order in ((turn > 0.7, left > right), (turn < -0.7, left < right)):
        assert facing.any() and order[facing].all()


def test_the_face_of_a_person_facing_away_is_not_labelled():
    face = [COCO.joints.index(name) for name in ("nose", "left_eye", "right_eye")]
    away = [person.depth("nose", "head") < -0.03 for person, _, _ in people()]
    assert sum(away) > 10 and not keypoints()[away][:, face].any()


def test_the_folder_is_coco_and_does_not_depend_on_the_processes(tmp_path):
    write_synthetic(tmp_path / "one", "train", 10, seed=3, processes=1)
    write_synthetic(tmp_path / "two", "train", 10, seed=3, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 11

    index = CocoIndex(tmp_path / "one/annotations/person_keypoints_train.json")
    assert len(index.getImgIds()) == 10
    (category,) = index.loadCats(index.getCatIds())
    assert tuple(category["keypoints"]) == COCO.joints
    for annotation in index.loadAnns(index.getAnnIds()):
        (image,) = index.loadImgs(annotation["image_id"])
        assert cv2.imread(str(tmp_path / "one/images/train" / image["file_name"])) is not None
        assert index.annToMask(annotation).any()


def test_an_interrupted_set_is_drawn_again(tmp_path, monkeypatch):
    write_synthetic(tmp_path, "val", 2, seed=0, processes=1)
    whole = contents(tmp_path)
    compose, drawn = dataset.compose_scene, []

    def stop_at_the_second(rng):
        drawn.append(rng)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return compose(rng)

    monkeypatch.setattr(dataset, "compose_scene", stop_at_the_second)
    write_synthetic(tmp_path, "val", 2, seed=0, processes=1)
    assert not drawn  # the same data set is there already
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path, "val", 3, seed=0, processes=1)
    assert list((tmp_path / "annotations").iterdir()) == []
    (tmp_path / "images/val/000000000001.jpg").write_bytes(b"half")

    monkeypatch.undo()
    write_synthetic(tmp_path, "val", 2, seed=0, processes=1)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "annotations/person_keypoints_val2017.json",
            b'{"info": {"description": "COCO 2017 Dataset"}, "images": []}',
        ),
        ("images/val2017/000000000001.jpg", b"a photo"),
    ],
)
def test_a_data_set_of_somebody_else_is_not_replaced(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match="no synthetic data set; name an empty folder"):
        write_synthetic(tmp_path, "val2017", 1, seed=0, processes=1)
    assert path.read_bytes() == content
