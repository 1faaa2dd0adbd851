"""Boxes of labels and of detectors' files: the published clipping, caps, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hrpose.data.boxes import (
    CROWD,
    FLAT,
    OTHER_CATEGORIES,
    OTHER_IMAGES,
    OUTSIDE,
    UNLABELLED,
    label_boxes,
    read_boxes,
    truth_boxes,
)
from hrpose.data.coco import ImageAnnotation, image_annotations, load_annotations
from hrpose.ops.boxes import crop_transform
from reference.boxes import best_of_images, clip_box
from test_validate import CATEGORY, clean_set, person

REAL = Path(__file__).parents[2] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="no real data in ../shared/data")

IMAGES = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 50} for i in (7, 8, 9)]
BOX = {"image_id": 7, "category_id": 1, "bbox": [5, 6, 20, 30], "score": 0.5}


def record_of(boxes, size=(60, 50), **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    joints = np.full((len(boxes), 3, 3), 2, np.float32)
    return ImageAnnotation(7, "7.png", joints, boxes, size=size, **more)


def written(folder, content):
    path = folder / "found.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder, *entries, **options):
    return read_boxes(written(folder, list(entries)), IMAGES, 1, **options)


# Labels -----------------------------------------------------------------------------------------


def test_label_boxes_are_clipped_as_published(rng, record_difference):
    boxes = np.concatenate([rng.uniform(-30, 70, (2000, 2)), rng.uniform(-2, 60, (2000, 2))], 1)
    boxes[:500] = boxes[:500].round()  # on the edges of the image, and of size 0 and 1
    record = record_of(boxes)
    kept, found, dropped = label_boxes(record)
    expected = [clip_box(box, 60, 50) for box in record.boxes]
    assert kept.tolist() == [i for i, box in enumerate(expected) if box]
    assert found.dtype == np.float32 and 0 < len(found) < 2000
    wanted = np.array([box for box in expected if box])
    record_difference("label boxes", np.abs(found - wanted).max())
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert set(dropped) == {OUTSIDE, FLAT} and sum(dropped.values()) == 2000 - len(kept)


def test_a_kept_label_box_has_a_crop(rng):
    boxes = np.concatenate([rng.uniform(-9, 65, (300, 2)), rng.uniform(0, 3, (300, 2))], 1)
    for box in label_boxes(record_of(boxes))[1]:
        assert np.isfinite(crop_transform(box, (192, 256)).matrix).all()


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([60, 10, 20, 20], OUTSIDE),
        ([10, 50, 20, 20], OUTSIDE),
        ([-20, 10, 20, 20], OUTSIDE),
        ([10, -30, 20, 30], OUTSIDE),
        ([10, 10, 1, 20], FLAT),
        ([10, 10, 20, 0], FLAT),
        ([59, 10, 20, 20], FLAT),
        ([float("nan"), 10, 20, 20], FLAT),
    ],
)
def test_a_label_box_that_is_left_out_is_named(box, reason):
    kept, boxes, dropped = label_boxes(record_of([[10, 10, 20, 20], box, [0, 0, 60, 50]]))
    assert kept.tolist() == [0, 2] and dropped == {reason: 1}
    assert boxes.tolist() == [[10, 10, 19, 19], [0, 0, 59, 49]]


@pytest.mark.parametrize("size", [None, (float("nan"), float("nan"))])
def test_without_a_size_of_the_image_only_its_origin_clips(size):
    kept, boxes, dropped = label_boxes(record_of([[-5, 400, 50, 900]], size=size))
    assert boxes.tolist() == [[0, 400, 49, 899]] and not dropped and kept.tolist() == [0]


def test_an_image_without_people_has_no_boxes():
    kept, boxes, dropped = label_boxes(record_of([]))
    assert kept.shape == (0,) and boxes.shape == (0, 4) and not dropped
    truth = truth_boxes([record_of([])])
    assert truth.images == {} and truth.of(7).boxes.shape == (0, 4)
    assert truth.describe() == "truth: 0 boxes in 0 images"


def test_crowds_and_people_without_joints_are_counted():
    truth = clean_set()
    truth["annotations"][0]["iscrowd"] = 1
    truth["annotations"].append(person(5, 2, keypoints=[1, 2, 0] * 3))
    boxes = truth_boxes(image_annotations(truth, 3, CATEGORY["id"]))
    assert boxes.dropped == {CROWD: 1, UNLABELLED: 2}
    assert {number: len(own.boxes) for number, own in boxes.images.items()} == {1: 1, 2: 1}
    assert boxes.of(2).scores.tolist() == [1] and boxes.of(3).scores.shape == (0,)
    text = boxes.describe()
    assert text.startswith("truth: 2 boxes in 2 images; left out: ") and "\n" not in text
    assert "1 of crowds" in text and "2 without a labelled joint" in text


@pytest.mark.parametrize("area", [0, None])
def test_a_person_without_an_area_is_kept(area):
    """Published code loses these people; and the outline or the box gives an area."""
    truth = clean_set()
    for one in truth["annotations"]:
        one.update(area=area)
    assert len(truth_boxes(image_annotations(truth, 3, 1)).of(1).boxes) == 2


# Detections -------------------------------------------------------------------------------------


def test_boxes_are_read_as_they_are(tmp_path):
    found = read(tmp_path, {**BOX, "bbox": [-5.5, 40, 90, 0.25], "score": 5e-21, "area": 7})
    assert (found.name, found.dropped) == ("found", {})
    boxes, scores = found.of(7)
    assert boxes.tolist() == [[-5.5, 40, 90, 0.25]] and boxes.dtype == scores.dtype == np.float32
    assert scores[0] == np.float32(5e-21)
    assert found.of(8).boxes.shape == (0, 4) and found.of(8).scores.shape == (0,)


@pytest.mark.parametrize(("min_score", "count"), [(0, 0), (0.3, 0), (0, 3), (0.5, 2), (2, 1)])
def test_the_best_boxes_of_each_image_are_those_of_a_plain_loop(tmp_path, rng, min_score, count):
    entries = [
        {
            "image_id": int(rng.integers(6, 10)),
            "category_id": int(rng.integers(1, 3)),
            "bbox": [*rng.uniform(0, 40, 2).tolist(), *rng.uniform(1, 40, 2).tolist()],
            "score": float(rng.integers(0, 5) / 4),  # many ties
        }
        for _ in range(200)
    ]
    found = read(tmp_path, *entries, min_score=min_score, max_per_image=count)
    expected = best_of_images(entries, (7, 8, 9), 1, min_score, count)
    assert set(found.images) == set(expected)
    for number, own in expected.items():
        np.testing.assert_array_equal(found.of(number).scores, [score for score, _ in own])
        np.testing.assert_array_equal(
            found.of(number).boxes, np.array([box for _, box in own], np.float32)
        )
    kept = sum(map(len, expected.values()))
    assert kept + sum(found.dropped.values()) == len(entries)
    assert found.dropped[OTHER_CATEGORIES] == sum(e["category_id"] == 2 for e in entries)
    assert found.dropped[OTHER_IMAGES] == sum(
        e["category_id"] == 1 and e["image_id"] == 6 for e in entries
    )
    assert (f"of a score below {min_score:g}" in found.dropped) == (min_score > 0)
    if count and expected:
        assert f"beyond the best {count} of their image" in found.describe()


def test_boxes_wholly_outside_their_image_are_counted(tmp_path):
    outside = [[60, 0, 5, 5], [0, 50, 5, 5], [-5, 0, 5, 5], [0, -9, 5, 5]]
    entries = [{**BOX, "bbox": box} for box in (*outside, [59, 49, 5, 5], [-4, -4, 5, 5])]
    found = read(tmp_path, *entries)
    assert found.dropped == {OUTSIDE: 4}
    assert found.of(7).boxes.tolist() == [[59, 49, 5, 5], [-4, -4, 5, 5]]
    assert found.describe() == (
        "found: 2 boxes in 1 images; left out: 4 wholly outside their image"
    )
    sizeless = [{"id": 7, "file_name": "7.png"}]  # no size by which to be outside
    assert len(read_boxes(tmp_path / "found.json", sizeless, 1).of(7).boxes) == 4


def test_a_detector_that_found_no_person_gives_no_boxes(tmp_path):
    assert read(tmp_path).describe() == "found: 0 boxes in 0 images"


def test_only_entries_in_use_need_an_extent(tmp_path):
    others = {**BOX, "image_id": 3, "bbox": [0, 0, 0, 0]}, {**BOX, "category_id": 5}
    assert len(read(tmp_path, BOX, *others).of(7).boxes) == 1


POSE = {"image_id": 7, "category_id": 1, "keypoints": [1, 2, 3], "score": 1}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({**BOX, "bbox": [5, 6, 0, 30]}, r"bbox is \[5.0, 6.0, 0.0, 30.0\].*the last two above 0"),
        ({**BOX, "bbox": [5, 6, 20, -30]}, r"the last two above 0 \(not two corners\)"),
        ({**BOX, "bbox": [5, 6, 1e-60, 30]}, "the last two above 0"),
        ({**BOX, "bbox": [5, 6, NAN, 30]}, r"bbox is \[5, 6, NaN, 30\]; wanted 4 finite numbers"),
        ({**BOX, "bbox": [-INF, 6, 20, 30]}, r"bbox is \[-Infinity, 6"),
        ({**BOX, "bbox": [5, 6, 10**400, 30]}, "wanted 4 finite numbers"),
        ({**BOX, "bbox": [5, 6, True, 30]}, r"bbox is \[5, 6, true, 30\]"),
        ({**BOX, "bbox": [5, 6, "20", 30]}, r'bbox is \[5, 6, "20", 30\]'),
        ({**BOX, "bbox": [5, 6, 20]}, r"bbox is \[5, 6, 20\]; wanted 4 finite numbers"),
        ({**BOX, "bbox": None}, "bbox is null"),
        ({**BOX, "score": NAN}, "score is NaN; wanted a number"),
        ({**BOX, "score": "high"}, 'score is "high"; wanted a number'),
        ({**BOX, "image_id": "7"}, 'image_id is "7"; wanted a number'),
        ({**BOX, "category_id": False}, "category_id is false; wanted a number"),
        ({**BOX, "image_id": [7]}, r"image_id is \[7\]"),
        ({"image_id": 7, "category_id": 1, "score": 1}, "bbox is absent"),
        ({"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}, "score is absent"),
        (POSE, "is a pose: keypoints and no bbox.*tools/valid.py --results"),
        (3, "is 3; boxes are objects with image_id, category_id, bbox and score"),
    ],
)
def test_an_entry_that_is_no_box_is_refused_by_number(tmp_path, entry, complaint):
    with pytest.raises(ValueError, match=complaint) as refusal:
        read(tmp_path, BOX, BOX, entry)
    assert str(refusal.value).startswith(f"{tmp_path / 'found.json'}: result 2")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"annotations": []}, "is not a list; COCO's results format is a list of boxes"),
        ("[{", "is not valid JSON"),
        ([{**BOX, "image_id": 3}], "none of its boxes of category 1 .* e.g. image_id 3;"),
        ([{**BOX, "category_id": 0}], "no entry has category_id 1, .* but 0. If these are people"),
        ([{**BOX, "category_id": 2}, {**BOX, "image_id": 3}], "e.g. image_id 3;"),
    ],
)
def test_a_file_without_a_box_of_the_set_is_refused(tmp_path, content, complaint):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=complaint) as refusal:
        read_boxes(path, IMAGES, 1)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_absent_or_too_large_is_named(tmp_path, monkeypatch):
    cure = "found.json; give a detector's results .*, or TEST.BOXES truth"
    with pytest.raises(FileNotFoundError, match=cure):
        read_boxes(tmp_path / "found.json", IMAGES, 1)
    monkeypatch.setattr("hrpose.data.coco.LARGEST_RESULTS", 10)
    with pytest.raises(ValueError, match="write fewer boxes of each image"):
        read(tmp_path, BOX)


def test_poses_with_boxes_are_boxes(tmp_path):
    assert len(read(tmp_path, {**POSE, **BOX}).of(7).boxes) == 1


# Both -------------------------------------------------------------------------------------------


def test_label_boxes_and_a_file_of_them_agree_but_for_one_pixel(tmp_path, rng):
    corners = np.sort(rng.integers(0, (60, 50), (40, 2, 2)), axis=1).astype(float)
    boxes = np.concatenate([corners[:, 0], np.ptp(corners, axis=1)], 1) + [0, 0, 0.5, 0.5]
    boxes = boxes[(boxes[:, 2:] > 2).all(1)]  # within the image, which has a pixel more
    truth = truth_boxes([record_of(boxes)])
    entries = [{**BOX, "bbox": box.tolist(), "score": 1} for box in boxes]
    found = read(tmp_path, *entries)
    np.testing.assert_allclose(truth.of(7).boxes, found.of(7).boxes - [0, 0, 1, 1], atol=1e-5)
    again = read(tmp_path, *truth.to_results(1))  # and what is written is read as it was
    np.testing.assert_array_equal(again.of(7).boxes, truth.of(7).boxes)
    np.testing.assert_array_equal(again.of(7).scores, truth.of(7).scores)


@real_data
def test_the_boxes_of_real_people():
    path = REAL / "coco_subset" / "annotations" / "person_keypoints_val2017.json"
    truth = load_annotations(path)
    labels = truth_boxes(image_annotations(truth, 17, 1))
    assert labels.describe().startswith("truth: 424 boxes in 169 images")
    detections = REAL / "results" / "person_detections_538imgs.json"
    found = read_boxes(detections, truth["images"], 1)
    assert found.describe().startswith("person_detections_538imgs: 4516 boxes in 149 images")
    assert found.dropped == {OTHER_IMAGES: 17_028 - 4516}


def test_boxes_need_no_torch():
    blocked = "import sys; sys.modules['torch'] = None; import hrpose.data.boxes"
    subprocess.run([sys.executable, "-c", blocked], check=True)
