"""Every violation that is planted in a clean set is found, and nothing else is."""

import copy
import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrpose.data.coco import ImageFiles, load_annotations
from hrpose.data.rules import ERROR, EVALUATION, NOTE, RULES, TRAINING
from hrpose.data.statistics import (
    MISSING,
    TRUNCATED,
    UNORIENTED,
    UNREADABLE,
    DatasetView,
    Schema,
    compute_statistics,
    inspect_image,
    inspect_images,
)
from hrpose.data.validate import compare_splits, require, summary, validate

REAL = Path(__file__).parents[2] / "shared" / "data"
SPLITS = ("train", "val")
NAMES = ("left_hand", "right_hand", "head")
CATEGORY = {"id": 1, "name": "person", "keypoints": list(NAMES), "skeleton": [[1, 3], [2, 3]]}
CROWD_MASK = {"size": [30, 40], "counts": [0, 100, 1100]}


def person(number, image, **changes):
    """Somebody of 10 x 20 pixels, all joints labelled."""
    x = 2.0 * number
    keypoints = [x, 5, 2, x + 4, 5, 1, x + 2, 2, 2]
    whole = {"id": number, "image_id": image, "category_id": 1, "bbox": [x, 2, 10, 20]}
    whole |= {"area": 120.0, "iscrowd": 0, "num_keypoints": 3, "keypoints": keypoints}
    return whole | {"segmentation": [[x, 2, x + 10, 2, x + 5, 20]]} | changes


def clean_set():
    """Three images of 40 x 30; two people, one, and a crowd."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (1, 2, 3)]
    crowd = {"iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 9, "segmentation": CROWD_MASK}
    people = [person(1, 1), person(2, 1), person(3, 2), person(4, 3, **crowd)]
    return {"images": images, "annotations": people, "categories": [copy.deepcopy(CATEGORY)]}


def write_images(folder, truth, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for image in truth["images"]:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(folder / image["file_name"]), pixels)


def view_of(truth, folder=None, **schema):
    names = [i["file_name"] for i in truth["images"] if "file_name" in i]
    files = dict(zip(names, inspect_images(ImageFiles(folder), names))) if folder else {}
    return DatasetView(truth, Schema(NAMES, truth["categories"][0], **schema), files)


def faults(truth, folder=None, **schema):
    return {f.what: f for f in validate(view_of(truth, folder, **schema))}


def test_a_clean_set_has_no_faults(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    assert faults(truth, tmp_path) == {}
    assert faults(truth) == {}


def test_what_is_counted():
    truth = clean_set()
    truth["annotations"] += [person(5, 2, keypoints=[0] * 9, num_keypoints=0)]
    truth["images"] += [{"id": 9, "file_name": "9.png", "width": 40, "height": 30}]
    table = compute_statistics(view_of(truth))
    assert (table["images"], table["images trained on"], table["with labelled people"]) == (4, 3, 2)
    assert (table["labelled people"], table["crowds"], table["unlabelled people"]) == (3, 1, 1)
    assert table["people per image"] | {"0": 2, "1": 1, "2": 1} == table["people per image"]
    assert table["joints of labelled people"]["right_hand"] == {
        "visible": 0,
        "hidden": 3,
        "unlabelled": 0,
    }
    assert table["quantiles of their areas"]["50 %"] == 120
    assert table["sizes of labelled people"] == {"small": 3, "medium": 0, "large": 0}
    assert compute_statistics(view_of(truth, ignore="none"))["images trained on"] == 2


def add_image(truth, **changes):
    truth["images"].append(truth["images"][0] | changes)


def first(truth, **changes):
    truth["annotations"][0].update(changes)


def crowd(truth, **changes):
    truth["annotations"][3].update(changes)


def without(field, number=0):
    return lambda truth: truth["annotations"][number].pop(field)


FAR_RIGHT = [20, 5, 2, 38, 5, 1, 38, 24, 2]
PLANTED = {
    "entries without an id": lambda t: add_image(t, id=None),
    "without a file name": lambda t: t["images"][0].pop("file_name"),
    "with a backslash": lambda t: t["images"][0].update(file_name="a\\1.png"),
    "without a labelled joint": lambda t: [a.update(keypoints=[0] * 9) for a in t["annotations"]],
    "neither 0 nor 1": lambda t: first(t, iscrowd="0"),
    "not whole numbers": lambda t: first(t, num_keypoints="3"),
    "all at one point": lambda t: first(t, keypoints=[4, 5, 2, 4, 5, 1, 4, 5, 2]),
    "image ids that are not integers": lambda t: add_image(t, id="x", file_name="x"),
    "repeated image ids": lambda t: add_image(t, file_name="4.png"),
    "repeated file names": lambda t: add_image(t, id=4),
    "without an annotated size": lambda t: t["images"][0].pop("width"),
    "images without any annotation": lambda t: t["annotations"].pop(2),
    "annotations without an id": without("id"),
    "repeated annotation ids": lambda t: first(t, id=2),
    "images that are not listed": lambda t: first(t, image_id=77),
    "category that is not listed": lambda t: first(t, category_id=9),
    "of other categories": lambda t: (t["categories"].append({"id": 2}), first(t, category_id=2)),
    "annotated twice": lambda t: t["annotations"].append(t["annotations"][0] | {"id": 9}),
    "without a box": without("bbox"),
    "box has no extent": lambda t: first(t, bbox=[5, 5, -2, 4]),
    "not finite numbers": lambda t: first(t, bbox=[math.nan, 5, 2, 4]),
    "people without an area": without("area"),
    "area is 0 or less": lambda t: first(t, area=0),
    "annotations without keypoints": without("keypoints", 3),
    "without iscrowd": without("iscrowd"),
    "without num_keypoints": without("num_keypoints"),
    "neither outline nor box": lambda t: crowd(t, segmentation=None, bbox=None),
    "without an outline": lambda t: crowd(t, segmentation=None),
    "invalid outlines": lambda t: crowd(t, segmentation=[[1, 2, 3, 4]]),
    "crowd masks whose size differs": lambda t: crowd(
        t, segmentation=CROWD_MASK | {"size": [40, 30]}
    ),
    "3 numbers for each joint": lambda t: first(t, keypoints=[1, 2, 2] * 4),
    "keypoints that are not finite": lambda t: first(
        t, keypoints=[math.nan, 5, 2, 6, 5, 1, 4, 2, 2]
    ),
    "visibility flags other": lambda t: first(t, keypoints=[2, 5, 0.9, 6, 5, 1, 4, 2, 2]),
    "outside of their image": lambda t: first(t, keypoints=[41, 5, 2, 6, 5, 1, 4, 2, 2]),
    "unlabelled joints with coordinates": lambda t: first(t, keypoints=[2, 5, 0, 6, 5, 1, 4, 2, 2]),
    "without labels whose num_keypoints": lambda t: crowd(t, num_keypoints=2),
    "people whose num_keypoints is 0": lambda t: first(t, num_keypoints=0),
    "num_keypoints that differ": lambda t: first(t, num_keypoints=2),
    "limbs that name joints out of range": lambda t: t["categories"][0].update(skeleton=[[1, 4]]),
    "in another order": lambda t: t["categories"][0].update(keypoints=list(NAMES[::-1])),
    "only the file or only": lambda t: t["categories"][0].update(keypoints=["a", "b", "c"]),
    "another number of joints": lambda t: t["categories"][0].update(keypoints=[*NAMES, "d"]),
    "without category_id": without("category_id"),
    "as two corners": lambda t: first(t, bbox=[2, 2, 6, 31]),
    "boxes that reach beyond": lambda t: first(t, bbox=[22, 5, 25, 20], keypoints=FAR_RIGHT),
    "all of them iscrowd": lambda t: [a.update(iscrowd=1) for a in t["annotations"]],
    "crowds with labelled": lambda t: first(t, iscrowd=1),
    "joints at 0, 0": lambda t: first(t, keypoints=[0, 0, 2, 6, 5, 1, 4, 2, 2]),
    "between 0 and 1": lambda t: first(t, keypoints=[0.1, 0.2, 2, 0, 0, 0, 1, 0.5, 1]),
    "far outside of their": lambda t: first(t, keypoints=[2, 5, 2, 6, 5, 1, 27, 2, 2]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found_and_named(what):
    truth = clean_set()
    PLANTED[what](truth)
    found = [fault for name, fault in faults(truth).items() if what in name]
    assert len(found) == 1
    assert found[0].count and found[0].examples and found[0].cure


NOT_A_COORDINATE = [math.nan, math.inf, 1e12, "5", None]


@pytest.mark.parametrize("value", NOT_A_COORDINATE)
def test_outlines_boxes_and_joints_have_finite_numbers_within_reason(value):
    truth = clean_set()
    first(truth, bbox=[1, 2, value, 9], keypoints=[value, 5, 2, 6, 5, 1, 4, 2, 2])
    assert "boxes or areas that are not" in stopped(truth, TRAINING)
    assert "keypoints that are not" in stopped(truth, TRAINING)
    truth = clean_set()
    crowd(truth, segmentation=[[1, 2, 9, 2, value, 9]])
    assert [f.examples for w, f in faults(truth).items() if "invalid outlines" in w] == [
        ("annotation 4 of image 3",)
    ]


def stopped(truth, stage, **schema):
    """The message of `require`, or nothing."""
    try:
        require(view_of(truth, **schema), stage, "train.json")
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("stage", [TRAINING, EVALUATION])
def test_a_clean_set_stops_nothing(stage):
    assert stopped(clean_set(), stage) == ""


BOTH = {TRAINING, EVALUATION}
STOPS = {
    **dict.fromkeys(
        ["entries without an id", "image ids that are not", "repeated image ids"], BOTH
    ),
    **dict.fromkeys(["images that are not listed", "3 numbers for each joint", "at 0, 0"], BOTH),
    **dict.fromkeys(["keypoints that are not finite", "without category_id", "at one point"], BOTH),
    **dict.fromkeys(["in another order", "another number of joints", "all of them iscrowd"], BOTH),
    **dict.fromkeys(["not finite numbers", "visibility flags other", "neither 0 nor 1"], BOTH),
    **dict.fromkeys(["without labels whose num_keypoints", "between 0 and 1", "two corners"], BOTH),
    **dict.fromkeys(
        ["only the file or only", "without a file name", "a labelled joint"], {TRAINING}
    ),
    **dict.fromkeys(["neither outline nor box", "invalid outlines"], {TRAINING}),
    **dict.fromkeys(["without a box", "without an area", "area is 0 or less"], {EVALUATION}),
    "not whole numbers": {EVALUATION},
}


@pytest.mark.parametrize("what", PLANTED)
def test_training_and_evaluation_stop_at_what_they_cannot_use(what):
    """With path, place and cure; everything else is for the linter alone."""
    truth = clean_set()
    PLANTED[what](truth)
    (rule,) = [rule for rule in RULES if what in rule.what]
    messages = {stage: stopped(truth, stage) for stage in BOTH}
    lines = {stage: [m for m in messages[stage].splitlines() if rule.what in m] for stage in BOTH}
    wanted = next((stages for part, stages in STOPS.items() if part in rule.what), set())
    assert {stage for stage in BOTH if lines[stage]} == wanted
    for (line,) in filter(None, lines.values()):
        assert line.startswith("train.json: ") and line.endswith(rule.cure)


def test_missing_boxes_and_areas_name_the_command_that_fills_them_in():
    named = {rule.name for rule in RULES if "tools/check_data.py --repair" in rule.cure}
    assert named >= {"box-absent", "area-absent", "area-zero"}


def test_a_few_joints_outside_are_noted_and_one_for_each_person_stops():
    """A labelled set of real people has some; labels of other pixels have many."""
    truth = clean_set()
    first(truth, keypoints=[41, 5, 2, 6, 5, 1, 4, 2, 2])
    assert stopped(truth, TRAINING) == ""
    found = require(view_of(truth), TRAINING, "train.json")
    line = summary(found, "train.json")
    assert line.startswith("train.json: labelled joints outside of their image (1)")
    assert "tools/check_data.py" in line and "\n" not in line
    for each in truth["annotations"][:3]:
        each["keypoints"] = [3 * value if value > 2 else value for value in each["keypoints"]]
    truth["images"][0].update(width=8), truth["images"][1].update(width=8)
    assert "labelled joints outside of their image" in stopped(truth, TRAINING)
    assert [f.severity for f in validate(view_of(truth)) if f.rule == "joint-outside-image"] == [
        ERROR
    ]


def test_crowdpose_may_leave_heads_out_of_its_counts_but_not_most_people():
    truth = clean_set()
    first(truth, num_keypoints=0)
    assert stopped(truth, TRAINING) == stopped(truth, EVALUATION) == ""
    for each in truth["annotations"]:
        each["num_keypoints"] = 0
    assert "num_keypoints is 0" in stopped(truth, TRAINING)


def test_good_real_labels_stop_nothing():
    """Those of CrowdPose have joints outside of their images and boxes."""
    if not REAL.is_dir():
        pytest.skip(f"no real labels at {REAL}")
    paths = [REAL / f"coco_subset/annotations/person_keypoints_{s}2017.json" for s in SPLITS]
    for path in [*paths, REAL / "crowdpose_subset/json/crowdpose_val_full_labels.json"]:
        truth = load_annotations(path)
        (category,) = truth["categories"]
        area = "bbox" if "crowdpose" in path.name else "area"
        view = DatasetView(truth, Schema(tuple(category["keypoints"]), category, 30, area), {})
        for stage in BOTH:
            require(view, stage, path)


def test_a_refusal_names_five_and_counts_the_rest():
    truth = clean_set()
    truth["annotations"] = [person(n, 1, area=0) for n in range(1, 9)]
    message = stopped(truth, EVALUATION)
    assert "annotation 5 of image 1 and 3 more; give area" in message


def test_a_keypoint_that_is_not_a_number_is_named():
    truth = clean_set()
    first(truth, keypoints=["2", 5, 2, 6, 5, 1, 4, 2, None])
    assert "annotation 1 of image 1: 9 entries, among them '2', wanted 9" in stopped(
        truth, TRAINING
    )


def test_only_annotations_of_listed_images_are_read():
    truth = clean_set()
    stray = person(9, 77, keypoints=[1, 2, 2], iscrowd="no")
    truth["annotations"] = [person(n, 1) for n in range(1, 12)] + [stray]
    for stage in BOTH:
        found = require(view_of(truth), stage, "train.json")
        assert "annotation-image" in [each.rule for each in found]


def test_an_area_that_the_metric_takes_from_boxes_stops_nothing():
    truth = clean_set()
    first(truth, area=0)
    assert stopped(truth, EVALUATION, area_from="bbox") == ""
    first(truth, bbox=[1, 1, 0, 9])
    assert "area is 0" in stopped(truth, EVALUATION, area_from="bbox")


def test_every_check_is_planted_somewhere():
    elsewhere = ["image files", "annotated", "EXIF", "equal", "_PEOPLE", "_IDS", "background"]
    elsewhere += ["damaged", "16-bit"]
    proven = [*PLANTED, *elsewhere, "form a skeleton", "left or right"]
    unproven = [rule.what for rule in RULES if not any(w in rule.what for w in proven)]
    assert unproven == []


def test_areas_are_no_matter_where_the_metric_goes_by_boxes():
    truth = clean_set()
    truth["annotations"][0].pop("area")
    assert faults(truth, area_from="bbox") == {}
    assert (
        compute_statistics(view_of(truth, area_from="bbox"))["quantiles of their areas"]["50 %"]
        == 200
    )


def test_rules_of_the_config_decide_what_is_a_fault():
    truth = clean_set()
    assert [f.count for w, f in faults(truth, ignore="none").items() if "background" in w] == [1]
    assert [f.count for w, f in faults(truth, max_people=1).items() if "MAX_NUM" in w] == [1]
    found = faults(truth, image_ids=(1, 8))["images of DATASET.IMAGE_IDS that are not listed"]
    assert found.examples == ("8",)


@pytest.mark.parametrize(
    ("names", "what", "level"),
    [
        (("left_hand", "hand", "head"), "do not form a skeleton", ERROR),
        (("a", "b", "c"), "no joint is left or right", NOTE),
    ],
)
def test_names_without_sides_or_with_one_side(names, what, level):
    truth = clean_set()
    category = truth["categories"][0] | {"keypoints": list(names)}
    found = validate(DatasetView(truth, Schema(names, category), {}))
    assert [fault.severity for fault in found] == [level] and what in found[0].what


def jpeg(pixels, orientation=1):
    """A JPEG with an EXIF tag that asks viewers to turn it."""
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def picture(height=640, width=480):
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 255, (8, 6, 3), np.uint8), (width, height))


def test_files_are_seen_for_what_they_are(tmp_path):
    good = jpeg(picture())
    contents = {"good": good, "cut": good[: len(good) * 3 // 4], "text": b"<html>", "empty": b""}
    contents |= {"turned": jpeg(picture(), 6), "upside_down": jpeg(picture(), 3)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    images = ImageFiles(tmp_path)
    seen = {name: inspect_image(images, name, (640, 480)) for name in [*contents, "absent"]}
    assert [name for name in seen if seen[name].rotated] == ["turned"]
    assert seen["good"].size == (480, 640) and not seen["good"].problem
    assert seen["turned"].size == (640, 480) and seen["upside_down"].problem == UNORIENTED
    stored = inspect_image(images, "turned", (480, 640))
    assert (stored.size, stored.rotated) == ((480, 640), False)
    problems = {name: seen[name].problem for name in ("cut", "text", "empty", "absent")}
    assert list(problems.values()) == [TRUNCATED, UNREADABLE, UNREADABLE, MISSING]


def test_a_png_that_ends_too_early_is_not_taken_for_whole(tmp_path):
    data = cv2.imencode(".png", picture())[1].tobytes()
    (tmp_path / "whole.png").write_bytes(data)
    (tmp_path / "cut.png").write_bytes(data[: len(data) * 3 // 4])
    assert inspect_image(ImageFiles(tmp_path), "cut.png").problem == TRUNCATED
    assert inspect_image(ImageFiles(tmp_path), "whole.png").problem == ""


def test_files_that_decode_to_other_pixels_than_were_written_are_named(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    for image in truth["images"]:
        image.update(width=480, height=640)
    whole = jpeg(picture())
    middle = len(whole) // 2
    (tmp_path / "1.png").write_bytes(whole[:middle] + whole[middle + 40 :])
    deep = picture().astype(np.uint16) * 16  # 12 bits in 16
    (tmp_path / "2.png").write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    (tmp_path / "3.png").write_bytes(cv2.imencode(".png", deep * 16)[1].tobytes())
    found = {f.rule: f.examples for f in validate(view_of(truth, tmp_path))}
    assert list(found["file-damaged"]) == ["1.png is 480 x 640, annotated 480 x 640"]
    assert list(found["file-dark"]) == ["2.png is 480 x 640, annotated 480 x 640"]


@pytest.mark.slow
def test_processes_see_what_one_sees(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    names = [*(image["file_name"] for image in truth["images"]), "absent.png"]
    alone = list(inspect_images(ImageFiles(tmp_path), names))
    assert list(inspect_images(ImageFiles(tmp_path), names, processes=2)) == alone


def test_faults_of_files_are_found(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no image")
    found = faults(truth, tmp_path)
    assert found["image files missing"].examples == ("1.png",)
    assert found["image files that cannot be decoded"].examples == ("2.png",)


def test_sizes_are_those_of_the_decoded_image(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    truth["images"][0].update(width=30, height=40)
    truth["images"][1].update(width=80, height=60)
    truth["annotations"][0]["bbox"] = [2, 2, 35, 20]
    truth["annotations"][0]["keypoints"][:2] = [35, 5]  # inside of 40 x 30, not of 30 x 40
    found = faults(truth, tmp_path)
    levels = {name: fault.severity for name, fault in found.items()}
    assert levels == {
        "images whose size differs from the annotated one": ERROR,
        "images whose annotated width and height are swapped": NOTE,
    }


def test_equal_files_are_found_within_a_split_and_between_two(tmp_path):
    truth = clean_set()
    write_images(tmp_path / "train", truth)
    write_images(tmp_path / "val", truth, seed=1)
    train, val = view_of(truth, tmp_path / "train"), view_of(truth, tmp_path / "val")
    severities = {fault.severity for fault in compare_splits(train, val)}
    assert severities == {NOTE}  # the same ids and names, but other pictures  # ids and names

    other = copy.deepcopy(truth)
    for image in other["images"]:
        image["id"], image["file_name"] = image["id"] + 50, f"new_{image['file_name']}"
    for image in other["images"]:
        (tmp_path / "val" / image["file_name"]).write_bytes(b"")
    assert compare_splits(train, view_of(other, tmp_path / "val")) == []
    copied = (tmp_path / "train" / "1.png").read_bytes()
    for name in ("new_1.png", "new_2.png"):
        (tmp_path / "val" / name).write_bytes(copied)
    leaked = view_of(other, tmp_path / "val")
    assert [fault.what for fault in compare_splits(train, leaked)] == ["equal files in both splits"]
    assert any("equal files under different names" in fault.what for fault in validate(leaked))


def test_a_category_without_joint_names_is_an_error_and_no_crash():
    truth = clean_set()
    category = truth["categories"][0] | {"keypoints": []}
    found = validate(DatasetView(truth, Schema((), category), {}))
    assert "joint-count" in [fault.rule for fault in found]
