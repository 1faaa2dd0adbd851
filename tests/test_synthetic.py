"""Laws of the drawn data set: labels say what the picture shows, and always the same."""

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
from hrpose.synthetic.dataset import MARKER, scene_rng, write_synthetic
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


def people():
    """Every annotated person: the scene, the person's number there, the annotation."""
    for scene, labels in scenes():
        seen = np.bincount((scene.canvas.ids // IDS_PER_PERSON).ravel(), minlength=CROWD_NUMBER + 1)
        numbers = [n for n in range(1, len(scene.people) + 1) if seen[n] >= 16]
        found = [label for label in labels if not label["iscrowd"]]
        assert len(numbers) == len(found)
        yield from ((scene, *pair) for pair in zip(numbers, found))


def joints(annotation):
    return np.array(annotation["keypoints"], float).reshape(-1, 3)


def decode(annotation):
    """The annotation's segmentation as pycocotools draws it, (IMAGE_SIZE, IMAGE_SIZE) bool."""
    regions = rle.frPyObjects(annotation["segmentation"], IMAGE_SIZE, IMAGE_SIZE)
    return rle.decode(regions if isinstance(regions, dict) else rle.merge(regions)).astype(bool)


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
    def checksum(seed, split, index):
        return zlib.crc32(compose_scene(scene_rng(seed, split, index)).canvas.image.tobytes())

    drawn = [(0, "train", 1), (1, "train", 1), (0, "val", 1), (0, "train", 2)]
    checksums = [checksum(*place) for place in drawn]
    assert len(set(checksums)) == len(drawn)
    assert checksums == [checksum(*place) for place in drawn]


def test_area_and_box_are_those_of_the_visible_silhouette():
    for scene, number, annotation in people():
        rows, columns = np.nonzero(scene.canvas.ids // IDS_PER_PERSON == number)
        assert annotation["area"] == len(rows)
        x, y, width, height = annotation["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_segmentation_outlines_the_visible_silhouette():
    for scene, number, annotation in people():
        mask = scene.canvas.ids // IDS_PER_PERSON == number
        drawn = decode(annotation)
        assert (drawn & mask).sum() >= 0.8 * mask.sum()
        # A pixel's margin for the tracing, and holes that a polygon of COCO cannot have.
        filled = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_DILATE, np.ones((3, 3)))
        contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert not (drawn & ~cv2.drawContours(filled, contours, -1, 1, -1).astype(bool)).any()


def test_visible_joints_lie_on_their_own_silhouette():
    count = 0
    for _, _, annotation in people():
        reach = cv2.dilate(decode(annotation).astype(np.uint8), np.ones((3, 3)))
        for x, y, visibility in joints(annotation):
            if visibility == 2:
                count += 1
                assert reach[int(y), int(x)]
    assert count > 1000


def test_joints_are_inside_the_image_or_not_labelled():
    for _, _, annotation in people():
        x, y, visibility = joints(annotation).T
        assert annotation["num_keypoints"] == (visibility > 0).sum()
        assert not x[visibility == 0].any() and not y[visibility == 0].any()
        assert ((x >= 0) & (x < IMAGE_SIZE) & (y >= 0) & (y < IMAGE_SIZE)).all()


def test_hidden_joints_are_labelled_as_hidden():
    kinds = np.concatenate([joints(annotation)[:, 2] for _, _, annotation in people()])
    assert set(kinds) == {0, 1, 2}
    assert (kinds == 2).sum() > 3 * (kinds == 1).sum() > 0


def test_people_who_show_little_have_no_joints():
    small = [a for _, _, a in people() if a["area"] < 32 * 32]
    unlabelled = [a for _, _, a in people() if a["area"] >= 32 * 32 and not a["num_keypoints"]]
    assert small and unlabelled
    assert not any(a["num_keypoints"] for a in small)


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
    return int(np.ptp(np.nonzero(canvas.ids)[0])) + 1


def test_the_left_shoulder_of_a_person_facing_the_camera_is_on_the_right_of_the_image():
    facing = {True: [], False: []}
    for scene, _ in scenes():
        for person in scene.people:
            turn = person.depth("chest_front", "chest") / 0.075
            if abs(turn) > 0.7:
                side = person.points["left_shoulder"][0] - person.points["right_shoulder"][0]
                facing[turn > 0].append(side)
    assert min(facing[True]) > 0 > max(facing[False])


def test_the_face_of_a_person_facing_away_is_not_labelled():
    face = [COCO.joints.index(name) for name in ("nose", "left_eye", "right_eye")]
    away = [
        joints(annotation)[face]
        for scene, number, annotation in people()
        if scene.people[number - 1].depth("nose", "head") < -0.03
    ]
    assert len(away) > 10 and not np.any(away)


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


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_an_interrupted_folder_is_rewritten(tmp_path, monkeypatch):
    annotations = tmp_path / "annotations/person_keypoints_val.json"
    write_synthetic(tmp_path, "val", 2, seed=0, processes=1)
    before = annotations.read_bytes()

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
    assert list(annotations.parent.iterdir()) == []

    monkeypatch.undo()
    write_synthetic(tmp_path, "val", 2, seed=0, processes=1)
    assert annotations.read_bytes() == before


@pytest.mark.parametrize("foreign", ["annotations", "images"])
def test_a_data_set_of_somebody_else_is_not_replaced(tmp_path, foreign):
    if foreign == "annotations":
        path = tmp_path / "annotations" / "person_keypoints_val2017.json"
        content = b'{"info": {"description": "COCO 2017 Dataset"}, "images": []}'
    else:
        path, content = tmp_path / "images" / "val2017" / "000000000001.jpg", b"a photo"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(FileExistsError, match="no synthetic data set; name an empty folder"):
        write_synthetic(tmp_path, "val2017", 1, seed=0, processes=1)
    assert path.read_bytes() == content


def test_an_interrupted_set_is_drawn_again(tmp_path):
    write_synthetic(tmp_path / "whole", "val", 2, seed=0, processes=1)
    write_synthetic(tmp_path / "cut", "val", 2, seed=0, processes=1)
    (tmp_path / "cut" / "annotations" / "person_keypoints_val.json").unlink()
    (tmp_path / "cut" / "images" / "val" / "000000000001.jpg").write_bytes(b"half")
    (tmp_path / "cut" / "images" / "val" / MARKER).touch()
    write_synthetic(tmp_path / "cut", "val", 2, seed=0, processes=1)
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")


def read_all(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
