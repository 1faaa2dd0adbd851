"""The commands as a user runs them, on a few small scenes: the quickstart, shrunk."""

import gc
import json
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

from commands import QUICKSTART, ROOT, SMALL, TORCHRUN, read_until, run, start, tool
from hrpose.builders import load_predictor
from hrpose.config import load_config
from hrpose.engine.step import OptimizerStep
from hrpose.ops.image import read_image
from hrpose.programs import cli

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """The folder of a finished run, and the options it ran with."""
    options = [*SMALL, "DATASET.ROOT", str(scenes)]
    output = tmp_path_factory.mktemp("output")
    tool("train", "--cfg", QUICKSTART, *options, "OUTPUT_DIR", output, cold=True)
    (folder,) = (output / "quickstart").iterdir()
    return folder, options


def test_a_run_leaves_what_the_readme_promises(trained):
    folder, _ = trained
    for name in ("config.yaml", "run.json", "log.txt", "metrics.jsonl", "pictures"):
        assert (folder / name).exists(), name
    for name in ("checkpoints/last.pth", "checkpoints/best.pth", "results/keypoints.json"):
        assert (folder / name).exists(), name
    assert list(folder.glob("events*"))
    assert list((folder / "pictures").glob("training_*"))
    assert list((folder / "pictures").glob("prediction_*"))
    facts = json.loads((folder / "run.json").read_text())
    assert facts["finished"] and facts["batch"] == 4 and facts["world_size"] == 1
    assert facts["primary"] == "AP" in facts["figures"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "heatmap/1_4", "heatmap/1_2", "pull/1_4", "push/1_4", "lr"} <= set(lines[0])
    assert sum("val/AP" in line for line in lines) == 2
    assert "training from scratch" in (folder / "log.txt").read_text()


def test_no_network_outlives_the_processes_that_share_it(scenes, tmp_path, monkeypatch):
    """One that does may wait for gloo's threads for ever, while they wait for it."""
    alive = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(dist, "init_process_group", lambda timeout: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    left = lambda: alive.append([o for o in gc.get_objects() if type(o) is OptimizerStep])  # noqa: E731
    monkeypatch.setattr(dist, "destroy_process_group", left)
    options = [*SMALL, "DATASET.ROOT", str(scenes), "OUTPUT_DIR", str(tmp_path)]
    gc.collect()  # those of tests before
    cli.main("train", ["--cfg", QUICKSTART, *options])
    assert alive == [[]]


def test_valid_scores_weights_and_results_alike(trained, tmp_path):
    folder, options = trained
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "last.pth"]
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["--cfg", QUICKSTART, "--errors", "--output", one, *options, *weights]
    printed = tool("valid", *command, cold=True)
    assert "last.pth: " in printed and "tensors loaded (hrpose, HigherHRNet-W" in printed
    results = one / "results" / "keypoints.json"
    results = ["--results", results, "--errors"]
    printed_again = run("valid", "--cfg", QUICKSTART, "--output", two, *results, *options)
    first, second, validated = (
        json.loads((place / "results" / "metrics.json").read_text()) for place in (one, two, folder)
    )
    assert first == second == validated
    analyses = [json.loads((each / "results" / "errors.json").read_text()) for each in (one, two)]
    assert analyses[0] == analyses[1]
    table = printed[printed.index("their labelled joints:") :].split("written")[0]
    assert table in printed_again and "without" in table
    assert set(first) == {
        "AP", "AP50", "AP75", "AP-M", "AP-L", "AR", "AR50", "AR75", "AR-M", "AR-L",
    }  # fmt: skip


def test_the_same_seed_ends_in_the_same_weights(trained, tmp_path):
    folder, options = trained
    run("train", "--cfg", QUICKSTART, *options, "OUTPUT_DIR", tmp_path)
    (again,) = (tmp_path / "quickstart").iterdir()
    one, two = (
        torch.load(place / "checkpoints" / "last.pth", weights_only=True)["model"]
        for place in (folder, again)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])  # SIGTERM: test_faults.py
def test_a_stopped_run_keeps_a_checkpoint_and_the_same_command_continues(trained, tmp_path, number):
    _, options = trained
    longer = [*options, "TRAIN.EPOCHS", "10", "OUTPUT_DIR", str(tmp_path)]
    longer += ["TRAIN.VALIDATE_EVERY", "0", "TRAIN.VISUALIZE_EVERY", "0"]
    process = start("train", "--cfg", QUICKSTART, *longer)
    printed = read_until(process, "epoch 1/10")
    os.kill(process.pid, number)
    printed += process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, printed
    assert "Start again to continue" in printed and "Traceback" not in printed
    (folder,) = (tmp_path / "quickstart").iterdir()
    assert (folder / "checkpoints" / "last.pth").exists()

    assert "continuing at epoch" in run("train", "--cfg", QUICKSTART, *longer)
    assert [path.name for path in (tmp_path / "quickstart").iterdir()] == [folder.name]
    assert json.loads((folder / "run.json").read_text())["finished"]


def test_photos_are_drawn_on_and_a_broken_one_is_named(trained, scenes, tmp_path):
    folder, options = trained
    photos = tmp_path / "photos"
    shutil.copytree(scenes / "images" / "val2017", photos)
    (photos / "broken.jpg").write_bytes(b"not an image")
    cv2.imwrite(str(photos / "flat.png"), np.zeros((20, 700, 3), np.uint8))
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth"]
    command = ["--cfg", QUICKSTART, "--input", photos, "--output", tmp_path / "found"]
    printed = tool("test", *command, *options, *weights, status=2, cold=True)
    assert "broken.jpg" in printed
    assert "flat.png: an image of 700 x 20 is more than 32 times" in printed
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 6
    for pose in json.loads((tmp_path / "found" / "keypoints.json").read_text()):
        assert len(pose["keypoints"]) == 51 and pose["category_id"] == 1


def test_the_submission_file_covers_the_listed_images(trained, scenes, tmp_path):
    folder, options = trained
    truth = json.loads((scenes / "annotations" / "person_keypoints_val2017.json").read_text())
    info = tmp_path / "image_info_test-dev2017.json"
    info.write_text(json.dumps({"images": truth["images"]}))
    images = scenes / "images" / "val2017"
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth"]
    command = ["--cfg", QUICKSTART, "--input", images, "--image-info", info, "--output", tmp_path]
    run("test", *command, *options, *weights)
    results = json.loads(
        (tmp_path / "person_keypoints_test-dev2017_hrpose_results.json").read_text()
    )
    assert {pose["image_id"] for pose in results} <= {image["id"] for image in truth["images"]}


def test_what_was_found_before_a_broken_image_is_kept_apart(trained, scenes, tmp_path):
    folder, options = trained
    truth = json.loads((scenes / "annotations" / "person_keypoints_val2017.json").read_text())
    images = shutil.copytree(scenes / "images" / "val2017", tmp_path / "images")
    last = images / truth["images"][-1]["file_name"]
    whole = last.read_bytes()
    last.write_bytes(b"")
    info = tmp_path / "image_info_test2017.json"
    info.write_text(json.dumps({"images": truth["images"]}))
    options = [*options, "TEST.MODEL_FILE", folder / "checkpoints" / "best.pth", "TEST.BATCH", 1]
    options += ["TEST.DETECTION_THRESHOLD", 0.0]  # so little trained, it has only low scores
    command = ["test", "--cfg", QUICKSTART, "--input", images, "--image-info", info]
    complete = tmp_path / "person_keypoints_test2017_hrpose_results.json"
    part = complete.with_stem(f"{complete.stem}_part")
    assert last.name in run(*command, "--output", tmp_path, *options, status=2)
    before = json.loads(part.read_text())
    assert before and not complete.exists()
    last.write_bytes(whole)
    run(*command, "--output", tmp_path, *options)
    assert json.loads(complete.read_text())[: len(before)] == before and not part.exists()


def test_three_lines_of_python_find_poses(trained, scenes):
    folder, options = trained
    weights = ["TEST.MODEL_FILE", str(folder / "checkpoints" / "best.pth")]
    predictor = load_predictor(load_config(QUICKSTART, [*options, *weights]))
    poses = predictor(read_image(next((scenes / "images" / "val2017").iterdir())))
    assert poses.joints.shape[1:] == (17, 3) and len(poses.joints) == len(poses.scores) <= 30
    assert np.all(np.diff(poses.scores) <= 0)


def test_other_joints_train_and_start_from_coco_weights(trained, tmp_path):
    folder, options = trained
    scenes = tmp_path / "five"
    command = ["--output", scenes, "--train", 8, "--val", 4]
    command += ["--joints", "nose,left_wrist,right_wrist,left_ankle,right_ankle"]
    tool("synthesize", *command, cold=True)
    config = str(ROOT / "configs" / "five_joints.yaml")
    here = [*SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path / "out"]
    tuned = [
        "MODEL.PRETRAINED", folder / "checkpoints" / "best.pth",
        "MODEL.ALLOW_MISSING", "['heads.*','deconvs.*.up.0.weight']",
    ]  # fmt: skip
    run("train", "--cfg", config, *here, "MODEL.PRETRAINED", "")
    assert "heads" in run("train", "--cfg", config, *here, *tuned)
    results = [json.loads(p.read_text()) for p in tmp_path.glob("out/*/*/results/keypoints.json")]
    assert len(results) == 2
    assert all(len(pose["keypoints"]) == 15 for poses in results for pose in poses)

    # With the weights, no annotations are needed to find these joints.
    best = next(tmp_path.glob("out/*/*/checkpoints/best.pth"))
    images, found = scenes / "images" / "val2017", tmp_path / "found"
    elsewhere = [*SMALL, "DATASET.ROOT", "nowhere", "TEST.MODEL_FILE", best]
    run("test", "--cfg", config, "--input", images, "--output", found, *elsewhere)
    poses = json.loads((found / "keypoints.json").read_text())
    assert all(len(pose["keypoints"]) == 15 for pose in poses)


@pytest.mark.parametrize(
    ("spoil", "cure"),
    [
        (lambda truth: [person.pop("area") for person in truth["annotations"]], "area"),
        (lambda truth: [person.pop("category_id") for person in truth["annotations"]], "category"),
        (lambda truth: truth["annotations"].clear(), "empty"),
        (lambda truth: truth["categories"][0]["keypoints"].reverse(), "another order"),
        (lambda truth: truth["annotations"][0]["keypoints"].pop(), "3 numbers for each joint"),
    ],
)
def test_annotations_that_cannot_be_evaluated_stop_a_run_before_it_begins(
    trained, scenes, tmp_path, spoil, cure
):
    _, options = trained
    shutil.copytree(scenes, tmp_path / "scenes")
    path = tmp_path / "scenes" / "annotations" / "person_keypoints_val2017.json"
    truth = json.loads(path.read_text())
    spoil(truth)
    path.write_text(json.dumps(truth))
    here = ["DATASET.ROOT", tmp_path / "scenes", "OUTPUT_DIR", tmp_path / "out"]
    assert cure in run("train", "--cfg", QUICKSTART, *options, *here, status=2)
    assert not list(tmp_path.glob("out/*/*"))


def test_results_are_scored_without_the_images(trained, scenes, tmp_path):
    folder, options = trained
    shutil.copytree(scenes / "annotations", tmp_path / "annotations")
    results = folder / "results" / "keypoints.json"
    command = ["--output", tmp_path / "scored", "--results", results]
    run("valid", "--cfg", QUICKSTART, *command, *options, "DATASET.ROOT", tmp_path)
    figures = json.loads((tmp_path / "scored" / "results" / "metrics.json").read_text())
    assert figures == json.loads((folder / "results" / "metrics.json").read_text())


def test_a_crash_costs_no_step(trained, scenes, tmp_path):
    """An image breaks while training is under way; once mended, the run goes on."""
    _, options = trained
    shutil.copytree(scenes, tmp_path / "scenes")
    broken = sorted((tmp_path / "scenes" / "images" / "train2017").iterdir())
    kept = [path.read_bytes() for path in broken]
    for path in broken[::5]:
        path.write_bytes(b"")
    here = ["DATASET.ROOT", tmp_path / "scenes", "OUTPUT_DIR", tmp_path / "out"]
    small = [*options, *here, "TRAIN.BATCH", "1"]
    printed = tool("train", "--cfg", QUICKSTART, *small, status=2)
    assert "Start again to continue" in printed
    for path, data in zip(broken, kept):
        path.write_bytes(data)
    assert "continuing" in run("train", "--cfg", QUICKSTART, *small)
    assert len(list(tmp_path.glob("out/*/*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["TRAIN.LRR", "1"], "TRAIN.LR"),
        (["TRAIN.EPOCHS", "few"], "whole number"),
        (["TRAIN.EPOCHS"], "KEY VALUE"),
        (["DATASET.INPUT_SIZE", "100"], "multiple of 32"),
        (["DATASET.ROOT", "nowhere"], "person_keypoints_train2017.json"),
        (["MODEL.PRETRAINED", "nowhere.pth"], "MODEL.PRETRAINED"),
        (["MODEL.NAME", "hourglass"], "higher_hrnet"),
        (["DEVICE", "cuda:7"], "DEVICE"),
    ],
)
def test_a_mistake_ends_with_its_cure_and_leaves_nothing(trained, tmp_path, arguments, cure):
    _, options = trained
    output = ["OUTPUT_DIR", tmp_path / "out"]
    printed = run("train", "--cfg", QUICKSTART, *options, *output, *arguments, status=2)
    assert cure in printed
    assert not list(tmp_path.glob("out/*/*"))


def test_two_processes_evaluate_as_one_does(trained, tmp_path):
    folder, options = trained
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "last.pth"]
    for name, launch in {"one": (), "two": TORCHRUN}.items():
        command = ["--cfg", QUICKSTART, "--output", tmp_path / name, *options, *weights]
        tool("valid", *command, "TEST.DETECTION_THRESHOLD", "0", launch=launch)
    for name in ("keypoints.json", "metrics.json"):
        one, two = (tmp_path / place / "results" / name for place in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert len(json.loads((tmp_path / "two" / "results" / "keypoints.json").read_text())) > 6


def test_two_processes_train_in_one_folder_and_are_stopped_at_the_same_step(trained, tmp_path):
    _, options = trained
    command = ["--cfg", QUICKSTART, *options, "TRAIN.EPOCHS", "20", "OUTPUT_DIR", tmp_path]
    command += ["TRAIN.VALIDATE_EVERY", "0", "TRAIN.VISUALIZE_EVERY", "0"]
    process = start("train", *command, launch=TORCHRUN, cold=True)
    printed = read_until(process, "epoch 1/20")
    os.kill(process.pid, signal.SIGTERM)  # torchrun forwards it, and ends with status 1
    printed += process.communicate(timeout=120)[0]
    assert printed.count("Start again to continue") == 1
    assert process.returncode == 1 and "SignalException" in printed
    assert "continuing at epoch" in tool("train", *command, launch=TORCHRUN)
    (folder,) = (tmp_path / "quickstart").iterdir()
    facts = json.loads((folder / "run.json").read_text())
    assert facts["finished"] and facts["world_size"] == facts["processes"] == 2
    assert facts["batch"] == 4 and len(facts["continued"]) == 1
    alone = run("train", *command, "TRAIN.RESUME", folder)  # nothing is left to do
    assert "in each of 1 processes" in alone


@pytest.mark.parametrize(
    "more",
    [
        "TRAIN.ACTIVATION_CHECKPOINTING true",
        "TRAIN.PRECISION fp16 TRAIN.OPTIMIZER adamw",
        pytest.param("TRAIN.COMPILE true MODEL.BACKBONE.MODULES [1,1,1]", marks=pytest.mark.long),
    ],
)
def test_however_the_network_computes_it_trains(trained, tmp_path, more):
    _, options = trained
    run("train", "--cfg", QUICKSTART, *options, *more.split(), "OUTPUT_DIR", tmp_path)
    (folder,) = (tmp_path / "quickstart").iterdir()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 6 and max(losses) < 1
    state = torch.load(folder / "checkpoints" / "last.pth", weights_only=True)
    assert state["optimizer"]["state"][0]["step"] > 0  # not all were skipped


def test_an_average_is_evaluated_beside_the_network(trained, tmp_path):
    _, options = trained
    printed = run(
        "train", "--cfg", QUICKSTART, *options, "TRAIN.EMA", "0.9", "OUTPUT_DIR", tmp_path
    )
    (folder,) = (tmp_path / "quickstart").iterdir()
    assert "epoch 2, ema: AP" in printed
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("ema/AP" in line for line in lines) == 2
    assert (folder / "ema" / "results" / "keypoints.json").exists()
    assert set(json.loads((folder / "run.json").read_text())["all_figures"]) == {"val", "ema"}


def test_weights_of_another_network_are_refused_though_they_may_have_its_shapes(trained, tmp_path):
    folder, options = trained
    best = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth", "--output", tmp_path / "out"]
    other = ["MODEL.WIDTH", "16", "MODEL.DILATIONS", "[2]"]
    for program in ("valid", "test"):
        more = ["--input", folder / "pictures"] if program == "test" else []
        printed = run(program, "--cfg", QUICKSTART, *more, *options, *best, *other, status=2)
        assert "trained with MODEL.WIDTH 8, not 16; MODEL.DILATIONS [1], not [2]" in printed
        assert "set MODEL.WIDTH 8 MODEL.DILATIONS [1]" in printed


def test_a_png_photo_with_spaces_in_its_name_is_found(trained, tmp_path):
    folder, options = trained
    photo = tmp_path / "a photo.png"
    cv2.imwrite(str(photo), np.zeros((50, 70, 3), np.uint8))
    weights = ["TEST.MODEL_FILE", folder / "checkpoints" / "best.pth"]
    command = ["--cfg", QUICKSTART, "--input", photo, "--output", tmp_path / "found"]
    assert "1 images" in run("test", *command, *options, *weights)
