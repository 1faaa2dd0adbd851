"""check_data --boxes: counts, recall and AP of a detector's boxes, and what is wrong with them."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hrpose.data.box_checks import best_ious, box_statistics, check_box_set
from hrpose.data.boxes import read_boxes
from hrpose.evaluation.boxes import box_ap
from hrpose.programs import cli
from reference.boxes import box_iou
from test_check_data import CONFIG, save
from test_validate import clean_set, person, view_of

REAL = Path(__file__).parents[2] / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="no real data in ../shared/data")
main = partial(cli.main, "check_data")


def detections(truth, change=lambda box: box):
    """One box for each person of the set, possibly changed."""
    return [
        {"image_id": one["image_id"], "category_id": 1, "bbox": change(one["bbox"]), "score": 0.5}
        for one in truth["annotations"]
        if not one["iscrowd"]
    ]


def read(folder, entries, truth):
    path = folder / "found.json"
    path.write_text(json.dumps(entries))
    return read_boxes(path, truth["images"], 1)


def rules(folder, entries, truth):
    found = check_box_set(read(folder, entries, truth), view_of(truth))
    return {each.rule: (each.severity, each.count) for each in found}


def big_set():
    """Two images of 400 x 300 with a person of 60 x 150 on the left and one on the right."""
    truth = clean_set()
    truth["images"] = [{**image, "width": 400, "height": 300} for image in truth["images"][:2]]
    boxes = [[20, 100, 60, 150], [300, 120, 60, 150]]
    truth["annotations"] = [
        person(2 * i + j + 1, image["id"], bbox=boxes[j])
        for i, image in enumerate(truth["images"])
        for j in range(2)
    ]
    return truth


def test_the_boxes_of_the_labels_have_no_faults(tmp_path):
    truth = big_set()
    assert rules(tmp_path, detections(truth), truth) == {}
    table = box_statistics(read(tmp_path, detections(truth), truth), view_of(truth))
    assert table == {
        "images": 2,
        "with a box": 2,
        "boxes": 4,
        "boxes per image": {"min": 2, "median": 2, "max": 2},
        "labelled people": 4,
        "in images with a box": 4,
        "recall at IoU 0.5": 1,
        "recall at IoU 0.5, images with a box": 1,
    }


def test_images_without_a_box_and_people_missed_are_counted_apart(tmp_path):
    truth = big_set()
    entries = [detections(truth)[0], {**detections(truth)[1], "image_id": 77}]
    boxes = read(tmp_path, entries, truth)
    table = box_statistics(boxes, view_of(truth))
    assert table["left out: of images that are not in the set"] == 1
    assert (table["recall at IoU 0.5"], table["in images with a box"]) == (0.25, 2)
    assert table["recall at IoU 0.5, images with a box"] == 0.5
    assert rules(tmp_path, entries, truth) == {
        "images-without-box": ("note", 1),
        "people-without-box": ("note", 1),
    }


@pytest.mark.parametrize(
    ("change", "rule", "count"),
    [
        (lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]], "boxes-corners", 4),
        (lambda b: [b[0] / 400, b[1] / 300, b[2] / 400, b[3] / 300], "boxes-fractions", 4),
    ],
)
def test_another_format_is_an_error(tmp_path, change, rule, count):
    truth = big_set()
    found = rules(tmp_path, detections(truth, change), truth)
    assert found[rule] == ("error", count)
    assert found["people-without-box"] == ("error", 4)  # more than half of them
    assert "boxes-beyond-image" not in found


@pytest.mark.parametrize(("wrong", "corners"), [(1, False), (2, True)])
def test_more_than_a_fifth_are_corners_before_they_are_an_error(tmp_path, wrong, corners):
    truth = big_set()
    plain = [{**detections(truth)[0], "score": 0.1 * i} for i in range(5 - wrong)]
    odd = [{**detections(truth)[1], "bbox": [300, 120, 360, 270]}] * wrong
    found = rules(tmp_path, plain + odd, truth)
    assert ("boxes-corners" in found, "boxes-beyond-image" in found) == (corners, not corners)


def test_boxes_that_reach_far_out_but_are_no_corners_are_a_note(tmp_path):
    truth = big_set()
    lower = detections(truth, lambda box: [box[0], box[1] + 100, *box[2:]])
    assert rules(tmp_path, lower, truth) == {
        "boxes-beyond-image": ("note", 4),
        "people-without-box": ("error", 4),
    }


def test_overlaps_are_those_of_a_plain_loop(tmp_path, rng):
    truth = clean_set()
    truth["annotations"] = [
        person(i, int(rng.integers(1, 4)), bbox=rng.uniform(1, 30, 4).tolist()) for i in range(40)
    ]
    truth["annotations"][3]["bbox"] = None
    entries = [
        {**one, "bbox": rng.uniform(1, 30, 4).tolist()} for one in detections(truth)[:20] * 2
    ]
    entries = [one for one in entries if one["image_id"] != 2]
    boxes = read(tmp_path, entries, truth)
    expected = [
        max(
            (
                box_iou(one["bbox"], each["bbox"])
                for each in entries
                if each["image_id"] == one["image_id"] and one["bbox"]
            ),
            default=0,
        )
        for one in truth["annotations"]
    ]
    np.testing.assert_allclose(best_ious(boxes, view_of(truth)), expected, atol=1e-5)
    assert 0 < np.count_nonzero(expected) < 40


def test_box_ap_at_its_ends(tmp_path):
    truth = big_set()
    people, right = truth["annotations"], detections(truth)
    assert box_ap(people, right, (1, 2)) == pytest.approx(1)
    assert box_ap(people, [], (1, 2)) == 0
    assert box_ap([], right, (1, 2)) == box_ap([], [], (1, 2)) == -1
    assert box_ap([{**one, "iscrowd": 1} for one in people], right, (1, 2)) == -1
    assert box_ap(people, right[:2], (1, 2)) == pytest.approx(51 / 101)  # recall levels to .5
    assert box_ap(people, right[:2], (1,)) == pytest.approx(1)
    wider = detections(truth, lambda box: [*box[:2], box[2] / 0.72, box[3]])  # IoU .72
    assert box_ap(people, wider, (1, 2)) == pytest.approx(0.5)  # .50 to .70 of ten thresholds
    higher = [{**each, "score": 0.9, "bbox": [150, 10, 30, 30]} for each in right]
    assert box_ap(people, [*right, *higher], (1, 2)) == pytest.approx(0.5)


# The program ------------------------------------------------------------------------------------


def checked(folder, entries, *options):
    (folder / "tiny.yaml").write_text(CONFIG.format(root=folder))
    for split in ("train", "val"):
        save(folder, split, big_set())
    (folder / "found.json").write_text(json.dumps(entries))
    with pytest.raises(SystemExit) as end:
        main(["--cfg", f"{folder}/tiny.yaml", "--boxes", f"{folder}/found.json", *options])
    report = folder / "output" / "tiny" / "check_data" / "boxes.json"
    return end.value.code, json.loads(report.read_text())


def test_the_program_checks_boxes_without_images(tmp_path, capsys):
    status, report = checked(tmp_path, detections(big_set()))
    assert status == report["errors"] == 0
    assert report["counts"]["found.json"]["box AP"] == 1
    printed = capsys.readouterr().out
    assert "boxes per image: min: 2, median: 2, max: 2" in printed
    assert "== found.json: nothing wrong" in printed
    options = ["TEST.BOX_FILTER.MAX_PER_IMAGE", "1", "MODEL.NAME", "pose_hrnet"]
    status, report = checked(tmp_path, detections(big_set()), *options)
    assert report["counts"]["found.json"]["boxes"] == 2


def test_the_program_ends_with_status_1_for_boxes_that_mislead_or_are_none(tmp_path, capsys):
    corners = detections(big_set(), lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
    status, report = checked(tmp_path, corners)
    assert (status, report["errors"]) == (1, 2)
    assert "boxes that seem to be two corners" in capsys.readouterr().out
    status, report = checked(tmp_path, [{**corners[0], "bbox": [1, 2, 3, -4]}])
    assert status == 1 and "result 0: bbox is" in capsys.readouterr().out


@real_data
def test_the_published_detections_on_real_images(tmp_path, capsys):
    options = ["DATASET.ROOT", str(REAL / "coco_subset"), "OUTPUT_DIR", str(tmp_path)]
    config = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
    boxes = REAL / "results" / "person_detections_538imgs.json"
    with pytest.raises(SystemExit) as end:
        main(["--cfg", str(config), "--boxes", str(boxes), *options])
    (report,) = tmp_path.rglob("boxes.json")
    table = json.loads(report.read_text())["counts"][boxes.name]
    assert end.value.code == 0
    assert (table["boxes"], table["with a box"], table["labelled people"]) == (4516, 149, 424)
    assert table["recall at IoU 0.5, images with a box"] > 0.95
    assert table["box AP, images with a box"] == pytest.approx(0.564, abs=0.05)  # of val2017
    assert capsys.readouterr().out.count("boxes-corners") == 0
