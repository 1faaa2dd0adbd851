"""Every fault that is planted in a clean set is found, and nothing else is."""

import copy
import math
import struct

import cv2
import numpy as np
import pytest

from hrpose.data.coco import Images
from hrpose.data.faults import CHECKS, find_faults
from hrpose.data.faults.finding import ERROR, NOTE
from hrpose.data.faults.splits import overlaps
from hrpose.data.files import MISSING, TRUNCATED, UNREADABLE, look, look_at_all
from hrpose.data.survey import Marks, Rules, counts

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


def marks_of(truth, folder=None, **rules):
    names = [i["file_name"] for i in truth["images"] if "file_name" in i]
    seen = dict(zip(names, look_at_all(Images(folder), names))) if folder else {}
    return Marks(truth, Rules(NAMES, truth["categories"][0], **rules), seen)


def faults(truth, folder=None, **rules):
    return {f.what: f for f in find_faults(marks_of(truth, folder, **rules))}


def test_a_clean_set_has_no_faults(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    assert faults(truth, tmp_path) == {}
    assert faults(truth) == {}


def test_what_is_counted():
    truth = clean_set()
    truth["annotations"] += [person(5, 2, keypoints=[0] * 9, num_keypoints=0)]
    truth["images"] += [{"id": 9, "file_name": "9.png", "width": 40, "height": 30}]
    table = counts(marks_of(truth))
    assert (table["images"], table["images trained on"], table["with labelled people"]) == (4, 3, 2)
    assert (table["labelled people"], table["crowds"], table["unlabelled people"]) == (3, 1, 1)
    assert table["people per image"] | {"0": 2, "1": 1, "2": 1} == table["people per image"]
    assert table["joints of labelled people"]["right_hand"] == {
        "seen": 0,
        "hidden": 3,
        "unlabelled": 0,
    }
    assert table["quantiles of their areas"]["50 %"] == 120
    assert table["sizes of labelled people"] == {"small": 3, "medium": 0, "large": 0}
    assert counts(marks_of(truth, ignore="none"))["images trained on"] == 2


def add_image(truth, **changes):
    truth["images"].append(truth["images"][0] | changes)


def first(truth, **changes):
    truth["annotations"][0].update(changes)


def crowd(truth, **changes):
    truth["annotations"][3].update(changes)


def without(field, number=0):
    return lambda truth: truth["annotations"][number].pop(field)


PLANTED = {
    "entries without an id": lambda t: add_image(t, id=None),
    "image ids that are not whole": lambda t: add_image(t, id="x", file_name="x"),
    "image ids that stand twice": lambda t: add_image(t, file_name="4.png"),
    "file names that stand twice": lambda t: add_image(t, id=4),
    "without an annotated size": lambda t: t["images"][0].pop("width"),
    "images without any annotation": lambda t: t["annotations"].pop(2),
    "annotations without an id": without("id"),
    "annotation ids that stand twice": lambda t: first(t, id=2),
    "images that are not listed": lambda t: first(t, image_id=77),
    "category that is not listed": lambda t: first(t, category_id=9),
    "of other categories": lambda t: (t["categories"].append({"id": 2}), first(t, category_id=2)),
    "marked twice": lambda t: t["annotations"].append(t["annotations"][0] | {"id": 9}),
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
    "cannot be drawn": lambda t: crowd(t, segmentation=[[1, 2, 3, 4]]),
    "crowds drawn on another size": lambda t: crowd(
        t, segmentation=CROWD_MASK | {"size": [40, 30]}
    ),
    "3 numbers for each joint": lambda t: first(t, keypoints=[1, 2, 2] * 4),
    "keypoints that are not finite": lambda t: first(
        t, keypoints=[math.nan, 5, 2, 6, 5, 1, 4, 2, 2]
    ),
    "visibility flags other": lambda t: first(t, keypoints=[2, 5, 0.9, 6, 5, 1, 4, 2, 2]),
    "outside of their image": lambda t: first(t, keypoints=[41, 5, 2, 6, 5, 1, 4, 2, 2]),
    "unlabelled joints with coordinates": lambda t: first(t, keypoints=[2, 5, 0, 6, 5, 1, 4, 2, 2]),
    "nothing is labelled, but": lambda t: crowd(t, num_keypoints=2),
    "whose num_keypoints is 0": lambda t: first(t, num_keypoints=0),
    "other num_keypoints": lambda t: first(t, num_keypoints=2),
    "limbs that name joints out of range": lambda t: t["categories"][0].update(skeleton=[[1, 4]]),
    "in another order": lambda t: t["categories"][0].update(keypoints=list(NAMES[::-1])),
    "only the file or only": lambda t: t["categories"][0].update(keypoints=["a", "b", "c"]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_found_and_named(what):
    truth = clean_set()
    PLANTED[what](truth)
    found = [fault for name, fault in faults(truth).items() if what in name]
    assert len(found) == 1
    assert found[0].count and found[0].examples and found[0].cure


def test_every_check_is_planted_somewhere():
    elsewhere = ["image files", "annotated", "EXIF", "equal", "_PEOPLE", "_IDS", "background"]
    proven = [*PLANTED, *elsewhere, "no skeleton", "left or right"]
    unproven = [check.what for check in CHECKS if not any(w in check.what for w in proven)]
    assert unproven == []


def test_areas_are_no_matter_where_the_metric_goes_by_boxes():
    truth = clean_set()
    truth["annotations"][0].pop("area")
    assert faults(truth, sized_by="bbox") == {}
    assert counts(marks_of(truth, sized_by="bbox"))["quantiles of their areas"]["50 %"] == 200


def test_rules_of_the_config_decide_what_is_a_fault():
    truth = clean_set()
    assert [f.count for w, f in faults(truth, ignore="none").items() if "background" in w] == [1]
    assert [f.count for w, f in faults(truth, max_people=1).items() if "MAX_NUM" in w] == [1]
    found = faults(truth, image_ids=(1, 8))["images of DATASET.IMAGE_IDS that are not listed"]
    assert found.examples == ("8",)


@pytest.mark.parametrize(
    ("names", "what", "level"),
    [
        (("left_hand", "hand", "head"), "make no skeleton", ERROR),
        (("a", "b", "c"), "no joint is left or right", NOTE),
    ],
)
def test_names_that_the_mirror_does_not_understand(names, what, level):
    truth = clean_set()
    category = truth["categories"][0] | {"keypoints": list(names)}
    found = find_faults(Marks(truth, Rules(names, category), {}))
    assert [fault.level for fault in found] == [level] and what in found[0].what


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
    seen = {name: look(Images(tmp_path), name) for name in [*contents, "absent"]}
    assert [name for name in seen if seen[name].turned] == ["turned", "upside_down"]
    assert seen["good"].size == seen["turned"].size == (480, 640) and not seen["good"].trouble
    troubles = {name: seen[name].trouble for name in ("cut", "text", "empty", "absent")}
    assert list(troubles.values()) == [TRUNCATED, UNREADABLE, UNREADABLE, MISSING]


def test_a_png_that_ends_too_early_is_not_taken_for_whole(tmp_path):
    data = cv2.imencode(".png", picture())[1].tobytes()
    (tmp_path / "whole.png").write_bytes(data)
    (tmp_path / "cut.png").write_bytes(data[: len(data) * 3 // 4])
    assert look(Images(tmp_path), "cut.png").trouble == TRUNCATED
    assert look(Images(tmp_path), "whole.png").trouble == ""


@pytest.mark.slow
def test_processes_see_what_one_sees(tmp_path):
    truth = clean_set()
    write_images(tmp_path, truth)
    names = [*(image["file_name"] for image in truth["images"]), "absent.png"]
    alone = list(look_at_all(Images(tmp_path), names))
    assert list(look_at_all(Images(tmp_path), names, processes=2)) == alone


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
    truth["annotations"][0]["keypoints"][:2] = [35, 5]  # inside of 40 x 30, not of 30 x 40
    found = faults(truth, tmp_path)
    levels = {name: fault.level for name, fault in found.items()}
    assert levels == {
        "images of another size than annotated": ERROR,
        "images whose annotated width and height are swapped": NOTE,
    }


def test_equal_files_are_found_within_a_split_and_between_two(tmp_path):
    truth = clean_set()
    write_images(tmp_path / "train", truth)
    write_images(tmp_path / "val", truth, seed=1)
    train, val = marks_of(truth, tmp_path / "train"), marks_of(truth, tmp_path / "val")
    assert {fault.level for fault in overlaps(train, val)} == {ERROR, NOTE}  # ids and names

    other = copy.deepcopy(truth)
    for image in other["images"]:
        image["id"], image["file_name"] = image["id"] + 50, f"new_{image['file_name']}"
    for image in other["images"]:
        (tmp_path / "val" / image["file_name"]).write_bytes(b"")
    assert overlaps(train, marks_of(other, tmp_path / "val")) == []
    copied = (tmp_path / "train" / "1.png").read_bytes()
    for name in ("new_1.png", "new_2.png"):
        (tmp_path / "val" / name).write_bytes(copied)
    leaked = marks_of(other, tmp_path / "val")
    assert [fault.what for fault in overlaps(train, leaked)] == ["equal files in both splits"]
    assert any("equal under different names" in fault.what for fault in find_faults(leaked))
