"""tools/check_data.py from end to end, and CrowdPose's training set."""

import contextlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from commands import QUICKSTART, SMALL, run
from hrpose.builders.datasets import build_evaluator, read_split
from hrpose.config import load_config
from hrpose.data.convert import merge_annotations, with_decoded_sizes
from hrpose.data.samples import read_sample
from hrpose.data.statistics import ImageInfo
from hrpose.programs import cli
from test_image import turned_jpeg
from test_validate import clean_set, write_images

main = partial(cli.main, "check_data")

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data"

CONFIG = """
DATASET:
  SKELETON: file
  TRAIN: train
  VAL: val
  INPUT_SIZE: 64
  ROOT: {root}
MODEL: {{NUM_DECONVS: 2}}
TRAIN: {{BATCH: 2}}
WORKERS: 0
OUTPUT_DIR: {root}/output
"""


@pytest.fixture
def world(tmp_path):
    """A clean set in COCO's layout, and the config that reads it."""
    for seed, split in enumerate(("train", "val")):
        truth = clean_set()
        for image in truth["images"]:
            image["id"] += 10 * seed
            image["file_name"] = f"{split}_{image['file_name']}"
        for person in truth["annotations"]:
            person["image_id"] += 10 * seed
        write_images(tmp_path / "images" / split, truth, seed)
        save(tmp_path, split, truth)
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(root=tmp_path))
    return tmp_path


def save(world, split, truth):
    path = world / "annotations" / f"person_keypoints_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(truth))


def checked(world, *arguments):
    """Exit status and report."""
    with pytest.raises(SystemExit) as end:
        main(["--cfg", str(world / "tiny.yaml"), *arguments])
    report = world / "output" / "tiny" / "check_data" / "report.json"
    return end.value.code, json.loads(report.read_text()) if report.exists() else {}


def test_a_clean_set_ends_with_status_0_and_pictures_of_its_samples(world, capsys):
    status, report = checked(world)
    assert status == 0 and report["errors"] == 0
    assert report["counts"]["train"]["images"] == report["counts"]["val"]["files decoded"] == 3
    pictures = world / "output" / "tiny" / "check_data" / "pictures"
    assert sorted(p.name for p in pictures.iterdir()) == ["sample_0.jpg", "sample_1.jpg"]
    printed = capsys.readouterr().out
    assert "right_hand" in printed and "== train: nothing wrong" in printed


def test_faults_that_training_stops_at_are_all_listed_with_status_1(world, capsys):
    truth = clean_set()  # its images are not in the folder: their names lack the split
    truth["annotations"][0]["keypoints"] = [1, 2, 2] * 4
    truth["annotations"][1]["keypoints"][0] = float("nan")
    truth["annotations"][2].pop("bbox")
    save(world, "train", truth)
    status, report = checked(world)
    assert status == 1
    what = " ".join(finding["what"] for finding in report["findings"]["train"])
    for part in ("files missing", "3 numbers for each joint", "not finite", "without a box"):
        assert part in what
    assert report["findings"]["training samples"][0]["what"] == (
        "error that training would stop at while it reads its first samples"
    )
    assert "cure: " in capsys.readouterr().out


def remove_areas(truth):
    for person in truth["annotations"]:
        del person["area"]


@pytest.mark.parametrize(
    ("spoil", "rule", "guard"),
    [
        (lambda t: t["annotations"][0].update(keypoints=[1, 2, 2]), "joint-count", read_split),
        (remove_areas, "area-absent", lambda c, s: build_evaluator(c, read_split(c, s).truth)),
    ],
)
def test_training_and_evaluation_refuse_by_the_rules_of_check_data(world, spoil, rule, guard):
    path = world / "annotations" / "person_keypoints_val.json"
    truth = json.loads(path.read_text())
    spoil(truth)
    save(world, "val", truth)
    status, report = checked(world)
    (found,) = [each for each in report["findings"]["val"] if each["rule"] == rule]
    assert (status, found["severity"]) == (1, "error")
    with pytest.raises(ValueError) as refusal:
        guard(load_config(world / "tiny.yaml"), "val")
    for part in (str(path), found["what"], found["examples"][0], found["cure"]):
        assert part in str(refusal.value)


@pytest.mark.parametrize("own", [[], [0]], ids=["none is listed", "one is listed"])
def test_images_to_score_that_a_split_does_not_list_are_refused(world, own):
    """Instead of scoring all images, or those that are."""
    path = world / "annotations" / "person_keypoints_val.json"
    truth = json.loads(path.read_text())
    ids = [*(truth["images"][i]["id"] for i in own), 777]
    config = load_config(world / "tiny.yaml", ["DATASET.IMAGE_IDS", str(ids)])
    for guard in (lambda: read_split(config, "val"), lambda: build_evaluator(config, truth)):
        with pytest.raises(ValueError, match=r"val\.json: .* DATASET\.IMAGE_IDS .*: 777; rem"):
            guard()


def test_only_so_many_images_are_decoded(world):
    assert checked(world, "--images", "1")[1]["counts"]["train"]["files decoded"] == 1


def test_only_the_images_that_the_config_names_are_looked_at(world):
    status, report = checked(world, "DATASET.IMAGE_IDS", "[1]")
    assert status == 1 and report["counts"]["train"]["images"] == 1
    assert not report["findings"]["train"] and not report["findings"]["training samples"]
    what = [finding["what"] for finding in report["findings"]["val"]]
    assert what == [
        "images of DATASET.IMAGE_IDS that are not listed",
        "splits without a labelled joint",
    ]


def test_a_missing_file_shows_the_tree_that_is_expected(world, capsys):
    (world / "annotations" / "person_keypoints_val.json").unlink()
    assert checked(world) == (2, {})
    error = capsys.readouterr().err
    assert "no annotations at" in error and f"{world}/images/train/..." in error


def test_a_split_that_is_evaluated_on_itself_is_only_noted(world):
    status, report = checked(world, "DATASET.VAL", "train")
    assert status == 0 and list(report["counts"]) == ["train"]
    assert [f["severity"] for f in report["findings"]["both splits"]] == ["note"]


def test_what_can_be_filled_in_is_written_to_a_new_file(world, capsys):
    """A set that leaves out all that can be computed is trained and scored after --repair."""
    truth = json.loads((world / "annotations" / "person_keypoints_train.json").read_text())
    whole = json.loads(json.dumps(truth))
    for person in truth["annotations"]:
        for field in ("area", "iscrowd", "num_keypoints", "bbox", "id"):
            del person[field]
        person["image_id"] = f"image {person['image_id']}"
    for image in truth["images"]:
        image["id"] = f"image {image['id']}"
    truth["annotations"][3]["iscrowd"] = "1"
    truth["annotations"][1]["segmentation"] = []
    save(world, "train", truth)
    before = (world / "annotations" / "person_keypoints_train.json").read_bytes()
    assert checked(world)[0] == 1
    main(["--cfg", str(world / "tiny.yaml"), "--repair", f"{world}/annotations/new_{{split}}.json"])
    printed = capsys.readouterr().out
    assert (world / "annotations" / "person_keypoints_train.json").read_bytes() == before
    for part in ("iscrowd: 0 where", "num_keypoints: ", "bbox: that around the outline, in 3",
                 "the labelled joints, smaller", "area: that of the outline", "area: 0.53 of",
                 "id: images numbered", "id: annotations numbered", "nothing to do"):  # fmt: skip
        assert part in printed
    repaired = json.loads((world / "annotations" / "new_train.json").read_text())
    for person, wanted in zip(repaired["annotations"], whole["annotations"]):
        same = ("id", "image_id", "iscrowd", "num_keypoints", "keypoints")
        assert {field: person[field] for field in same} == {field: wanted[field] for field in same}
    first, second = repaired["annotations"][:2]
    assert first["bbox"] == [2, 2, 10, 18] and first["area"] == 90  # a triangle of 10 x 18
    assert second["bbox"] == [4, 2, 4, 3] and second["area"] == 6.36  # .53 x 4 x 3
    there = ["DATASET.ANNOTATIONS", "annotations/new_{split}.json"]
    config = load_config(world / "tiny.yaml", there)
    build_evaluator(config, read_split(config, "train").truth)


def test_repair_replaces_no_file_and_invents_nothing(world, capsys):
    path = world / "annotations" / "person_keypoints_train.json"
    link = world / "link.json"
    link.symlink_to(path)
    before = path.read_bytes()
    for target in (path, link):
        with pytest.raises(SystemExit) as end:
            main(["--cfg", str(world / "tiny.yaml"), "--repair", str(target)])
        assert end.value.code == 2 and "is there already" in capsys.readouterr().err
    assert path.read_bytes() == before
    truth = json.loads(before)
    truth["images"][1]["id"] = truth["images"][0]["id"]
    truth["annotations"][0] |= {"iscrowd": "maybe", "area": None, "bbox": None, "segmentation": []}
    truth["annotations"][0]["keypoints"] = [5, 5, 2, 0, 0, 0, 0, 0, 0]
    save(world, "train", truth)
    main(["--cfg", str(world / "tiny.yaml"), "--repair", str(world / "new.json")])
    printed = capsys.readouterr().out
    assert "not repaired: image ids are repeated" in printed and "left: repeated image" in printed
    repaired = json.loads((world / "new.json").read_text())
    assert repaired["annotations"][0] == truth["annotations"][0]


@pytest.mark.slow
def test_the_command_runs_from_any_folder(world):
    command = [sys.executable, str(ROOT / "tools" / "check_data.py"), "--cfg", "tiny.yaml"]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr


def turned(path, sides, orientation=6):
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (3, 5, 3), np.uint8), sides)
    path.write_bytes(turned_jpeg(pixels, orientation))


def test_a_turned_photo_is_trained_on_and_checked_as_it_was_labelled(world):
    """Stored 30 x 40, labelled as viewers show it: 40 x 30."""
    photo = world / "images" / "train" / "train_1.png"
    turned(photo, (30, 40))
    status, report = checked(world)
    assert status == 0
    assert [f["rule"] for f in report["findings"]["train"]] == ["exif-rotated"]
    split = read_split(load_config(world / "tiny.yaml"), "train")
    assert read_sample(split.records[0], split.images).image.shape == (30, 40, 3)
    turned(photo, (40, 30))
    assert checked(world)[1]["findings"]["train"] == []
    assert read_sample(split.records[0], split.images).image.shape == (30, 40, 3)


def test_a_photo_that_may_be_turned_or_not_asks_for_the_option(world):
    turned(world / "images" / "train" / "train_1.png", (40, 30), orientation=3)
    status, report = checked(world)
    (found,) = report["findings"]["train"]
    assert (status, found["rule"]) == (1, "exif-unknown") and "DATASET.EXIF" in found["cure"]
    split = read_split(load_config(world / "tiny.yaml"), "train")
    with pytest.raises(ValueError, match="train_1.png .* DATASET.EXIF to apply .* to ignore"):
        read_sample(split.records[0], split.images)
    read = {}
    for way in ("apply", "ignore"):
        assert checked(world, "DATASET.EXIF", way)[0] == 0
        split = read_split(load_config(world / "tiny.yaml", ["DATASET.EXIF", way]), "train")
        read[way] = read_sample(split.records[0], split.images).image
    assert np.array_equal(read["apply"], read["ignore"][::-1, ::-1])


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_stops_before_it_begins_and_leaves_no_run(world, capsys, split):
    path = world / "annotations" / f"person_keypoints_{split}.json"
    truth = json.loads(path.read_text())
    truth["annotations"][0]["iscrowd"] = "0"
    truth["images"][2]["id"] = truth["images"][1]["id"]
    save(world, split, truth)
    with pytest.raises(SystemExit) as end:
        cli.main("train", ["--cfg", str(world / "tiny.yaml"), *SMALL])
    error = capsys.readouterr().err
    assert end.value.code == 2 and not list((world / "output").rglob("run.json"))
    assert f"{path}: repeated image ids: " in error and "write 0 or 1, not a text" in error


def test_what_stops_nothing_is_one_line_of_train_and_valid(world, capsys):
    truth = json.loads((world / "annotations" / "person_keypoints_val.json").read_text())
    truth["annotations"][0].pop("num_keypoints")
    truth["annotations"][1]["keypoints"][0] = 41
    save(world, "val", truth)
    (world / "results.json").write_text("[]")
    results = ["--results", str(world / "results.json"), "--output", str(world / "scores")]
    lines = []
    for program, more in (("train", ["TRAIN.EPOCHS", "1"]), ("valid", results)):
        with contextlib.suppress(SystemExit):
            cli.main(program, ["--cfg", str(world / "tiny.yaml"), *SMALL, *more])
        printed = capsys.readouterr()
        lines += [n for n in (printed.out + printed.err).splitlines() if "check_data.py" in n]
    assert len(lines) == 2
    for line in lines:
        assert "without num_keypoints (1), labelled joints outside of their image (1)" in line


SPANISH, ENGLISH = ["mano_izq", "mano_der", "cabeza"], ["left_hand", "right_hand", "head"]


@pytest.mark.parametrize(
    ("category", "flip", "warned"),
    [
        ({"keypoints": SPANISH}, "0.5", True),
        ({"keypoints": SPANISH, "flip_pairs": [[1, 2]]}, "0.5", False),
        ({"keypoints": SPANISH}, "0", False),
        ({"keypoints": ENGLISH}, "0.5", False),
    ],
)
def test_training_warns_where_people_are_mirrored_and_no_joint_has_a_side(
    world, monkeypatch, capsys, category, flip, warned
):
    for split in ("train", "val"):
        path = world / "annotations" / f"person_keypoints_{split}.json"
        truth = json.loads(path.read_text())
        truth["categories"][0] |= category
        save(world, split, truth)

    def stop(trainer):
        raise ValueError("that is enough")

    monkeypatch.setattr("hrpose.engine.trainer.Trainer.train", stop)
    with pytest.raises(SystemExit):
        options = [*SMALL, "DATASET.FLIP", flip]
        cli.main("train", ["--cfg", str(world / "tiny.yaml"), *options])
    printed = capsys.readouterr()
    assert "that is enough" in printed.err
    cure = "DATASET.FLIP mirrors people without exchanging their sides" in printed.out + printed.err
    assert cure == warned


# CrowdPose's training set ---------------------------------------------------------------------


def two_parts():
    """Two splits of one set, with one image and one person each."""
    first, second = clean_set(), clean_set()
    for part, number in ((first, 1), (second, 3)):
        part["images"] = [image for image in part["images"] if image["id"] == number]
        part["annotations"] = [a for a in part["annotations"] if a["image_id"] == number]
    return first, second


def test_two_splits_become_one_and_nobody_is_lost():
    first, second = two_parts()
    merged = merge_annotations(first, second)
    assert merged.truth["annotations"] == first["annotations"] + second["annotations"]
    assert [image["id"] for image in merged.truth["images"]] == [1, 3]
    assert merged.renumbered == 0


def test_colliding_annotation_ids_are_numbered_anew():
    first, second = two_parts()
    second["annotations"][0]["id"] = 1
    merged = merge_annotations(first, second)
    assert [a["id"] for a in merged.truth["annotations"]] == [1, 2, 3]
    assert [a["image_id"] for a in merged.truth["annotations"]] == [1, 1, 3]
    assert merged.renumbered == 3 and second["annotations"][0]["id"] == 1


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda a, b: b["images"][0].update(id=1), "repeated id"),
        (lambda a, b: b["images"][0].update(file_name="1.png"), "repeated file_name"),
        (lambda a, b: b["categories"][0].update(keypoints=["a"]), "different categories"),
        (lambda a, b: b["annotations"][0].update(image_id=1), "not listed"),
    ],
)
def test_splits_that_do_not_go_together_are_refused(break_it, complaint):
    first, second = two_parts()
    break_it(first, second)
    with pytest.raises(ValueError, match=complaint):
        merge_annotations(first, second)


def test_swapped_sizes_are_put_right_and_others_refused():
    first, second = two_parts()
    merged = merge_annotations(first, second)
    right = with_decoded_sizes(
        merged, {"1.png": ImageInfo("", (30, 40)), "3.png": ImageInfo("", (40, 30))}
    )
    assert [(i["width"], i["height"]) for i in right.truth["images"]] == [(30, 40), (40, 30)]
    assert right.swapped == 1 and first["images"][0]["width"] == 40
    with pytest.raises(ValueError, match="differ in size"):
        with_decoded_sizes(
            merged, {"1.png": ImageInfo("", (80, 60)), "3.png": ImageInfo("", (40, 30))}
        )
    with pytest.raises(ValueError, match="missing"):
        with_decoded_sizes(
            merged, {"1.png": ImageInfo("missing"), "3.png": ImageInfo("", (40, 30))}
        )


@pytest.fixture
def crowdpose(tmp_path):
    """CrowdPose's layout from the real subset, its 29 images split in 20 and 9."""
    source = REAL / "crowdpose_subset"
    if not source.is_dir():
        pytest.skip(f"no real images at {source}")
    (tmp_path / "json").mkdir()
    os.symlink(source / "images", tmp_path / "images")
    whole = json.loads((source / "json" / "crowdpose_val.json").read_text())
    for split, images in (("train", whole["images"][:20]), ("val", whole["images"][20:])):
        ids = {image["id"] for image in images}
        people = [a for a in whole["annotations"] if a["image_id"] in ids]
        part = {**whole, "images": images, "annotations": people}
        (tmp_path / "json" / f"crowdpose_{split}.json").write_text(json.dumps(part))
    (tmp_path / "crowd.yaml").write_text(
        f"DATASET: {{ROOT: {tmp_path}, FORMAT: crowdpose, SKELETON: crowdpose, TRAIN: trainval}}\n"
        f"WORKERS: 0\nOUTPUT_DIR: {tmp_path}/output\n"
    )
    return tmp_path


def built(crowdpose, capsys):
    """What --build-trainval prints."""
    capsys.readouterr()
    main(["--cfg", str(crowdpose / "crowd.yaml"), "--build-trainval"])
    return capsys.readouterr().out


def test_trainval_is_built_once_verified_after_and_never_overwritten(crowdpose, capsys):
    main(["--cfg", str(crowdpose / "crowd.yaml"), "--build-trainval"])
    said = capsys.readouterr().out
    assert "written and verified" in said and "29 = 20 + 9" in said and "10000 + 2000" in said
    path = crowdpose / "json" / "crowdpose_trainval.json"
    truth = json.loads(path.read_text())
    assert (len(truth["images"]), len(truth["annotations"])) == (29, 149)
    assert built(crowdpose, capsys).startswith("verified")
    truth["annotations"].pop()
    path.write_text(json.dumps(truth))
    with pytest.raises(SystemExit):
        built(crowdpose, capsys)
    assert "move it away" in capsys.readouterr().err
    assert json.loads(path.read_text()) == truth


def test_trainval_puts_swapped_sizes_right(crowdpose, capsys):
    path = crowdpose / "json" / "crowdpose_train.json"
    truth = json.loads(path.read_text())
    sizes = {i["id"]: (i["width"], i["height"]) for i in truth["images"]}
    for image in truth["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    path.write_text(json.dumps(truth))
    oblong = sum(width != height for width, height in sizes.values())
    assert f"swapped: {oblong}" in built(crowdpose, capsys)
    trainval = json.loads((crowdpose / "json" / "crowdpose_trainval.json").read_text())
    assert {i["id"]: (i["width"], i["height"]) for i in trainval["images"][:20]} == sizes


def test_a_real_set_has_no_errors_but_its_splits_overlap(crowdpose, capsys):
    built(crowdpose, capsys)
    with pytest.raises(SystemExit) as end:
        main(["--cfg", str(crowdpose / "crowd.yaml"), "DATASET.VAL", "val"])
    report = json.loads((crowdpose / "output" / "crowd" / "check_data" / "report.json").read_text())
    levels = {p: {f["severity"] for f in found} for p, found in report["findings"].items()}
    assert levels == {
        "trainval": {"note"},
        "val": {"note"},
        "both splits": {"error", "note"},
        "training samples": set(),
    }
    assert end.value.code == 1


def test_a_missing_trainval_says_how_to_build_it(crowdpose, capsys):
    with pytest.raises(SystemExit):
        main(["--cfg", str(crowdpose / "crowd.yaml"), "DATASET.VAL", "val"])
    assert "--build-trainval" in capsys.readouterr().err


def test_a_drawn_set_has_no_errors_though_both_splits_count_from_1(scenes, tmp_path):
    printed = run("check_data", "--cfg", QUICKSTART, "DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path)
    assert "image ids in both splits" in printed and "0 kinds of errors" in printed
