"""Faults outside of the program: the error message, and that nothing is lost."""

import contextlib
import json
import os
import re
import shutil
import signal

import pytest
import torch

from commands import QUICKSTART, SMALL, read_until, run, small_disk, start, tool
from hrpose.engine.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.slow


def arguments(scenes, output, *more):
    seldom = ["TRAIN.VALIDATE_EVERY", "6"]  # it takes longer than an epoch
    place = ["DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    return ["--cfg", QUICKSTART, *SMALL, *seldom, *place, *more]


def run_folder(output):
    (folder,) = (output / "quickstart").iterdir()
    return folder


def weights(output):
    return torch.load(run_folder(output) / "checkpoints/last.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory):
    """Where a run of 12 epochs went undisturbed."""
    output = tmp_path_factory.mktemp("whole")
    run("train", *arguments(scenes, output, "TRAIN.EPOCHS", "12"))
    return output


def interrupted(scenes, output):
    """A run of 12 epochs that was stopped early, with checkpoints of every step."""
    command = arguments(scenes, output, "TRAIN.EPOCHS", "12", "TRAIN.SAVE.STEPS", "1")
    process = start("train", *command)
    printed = read_until(process, "epoch 2/12")
    os.kill(process.pid, signal.SIGTERM)
    printed += process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert "Start again to continue" in printed and "Traceback" not in printed
    assert (run_folder(output) / "checkpoints" / "last.pth").exists()
    return command


def test_a_cut_newest_checkpoint_costs_only_what_came_after_the_one_before(scenes, whole, tmp_path):
    command = interrupted(scenes, tmp_path)
    newest, before = list_checkpoints(run_folder(tmp_path) / "checkpoints", "last")
    newest.write_bytes(newest.read_bytes()[:-1000])
    printed = run("train", *command)
    expected = f"warning: {newest} is damaged: its SHA-256 is not the one in {newest.name}.sha256"
    assert expected in printed
    step = int(before.stem.split("_")[1])
    assert f"step {step}, in" in printed
    assert newest.with_suffix(".damaged").exists()
    one, other = weights(whole), weights(tmp_path)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_disk_stops_the_run_and_leaves_what_was_saved(scenes, whole, tmp_path):
    with small_disk(tmp_path / "disk", 64) as output:
        command = arguments(scenes, output, "TRAIN.EPOCHS", "12", "TRAIN.SAVE.STEPS", "1")
        process = start("train", *command)
        printed = read_until(process, "epoch 2/12")
        with contextlib.suppress(OSError), (output / "others").open("wb") as file:
            while True:  # somebody else fills it
                file.write(bytes(1 << 16))
        printed += process.communicate(timeout=120)[0]
        assert process.returncode == 2, printed
        assert "No space left on device" in printed and "make room" in printed
        assert "Traceback" not in printed
        for path in list_checkpoints(run_folder_of(output) / "checkpoints", "last"):
            load_checkpoint(path)
        (output / "others").unlink()
        tool("train", *command)
        one, other = weights(whole), weights(output)
        assert all(torch.equal(one[name], other[name]) for name in one)


def run_folder_of(output):
    return next(iter((output / "quickstart").iterdir()))


def test_losses_that_are_no_number_are_named_and_in_the_end_stop_the_run(scenes, tmp_path):
    printed = run("train", *arguments(scenes, tmp_path, "TRAIN.LR", "1e30"), status=2)
    assert "1 steps up to step 2 were skipped, 1 in this epoch" in printed
    assert "Images: " in printed and ".jpg" in printed
    assert "error: 1 steps up to step 3 were skipped, 2 in this epoch" in printed
    assert "More than 20, or than half of the epoch: lower TRAIN.LR" in printed


def test_an_unreadable_image_in_a_worker_is_named(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "scenes")
    victim = sorted((tmp_path / "scenes" / "images" / "train2017").iterdir())[0]
    victim.write_bytes(b"no image")
    command = arguments(tmp_path / "scenes", tmp_path / "out", "WORKERS", "2")
    printed = run("train", *command, status=2)
    assert (
        f"error: {victim} (8 bytes) is not a readable image; replace it or take it out" in printed
    )


def test_an_output_that_cannot_be_written_is_named(scenes, tmp_path):
    (tmp_path / "file").write_text("")
    printed = run("train", *arguments(scenes, tmp_path / "file" / "output"), status=2)
    assert "no run folder can be made in" in printed and "set OUTPUT_DIR" in printed


def test_two_runs_never_share_a_folder(scenes, tmp_path):
    command = arguments(scenes, tmp_path, "TRAIN.EPOCHS", "500", "TRAIN.VALIDATE_EVERY", "0")
    first = start("train", *command)
    read_until(first, "epoch 2/500")  # there is a checkpoint now
    folder = run_folder(tmp_path)
    printed = run("train", *command, "TRAIN.RESUME", folder, status=2)
    assert f"another process is working in {folder}" in printed
    second = start("train", *command)  # auto: a folder of its own
    assert "new run" in read_until(second, "learning rate")
    for process in (first, second):
        process.kill()
        process.communicate()
    assert len(list((tmp_path / "quickstart").iterdir())) == 2


def test_a_run_whose_workers_outlive_it_is_continued_at_once(scenes, tmp_path):
    """Killed alone, as by the system when memory is short: its workers notice seconds later."""
    more = ["TRAIN.EPOCHS", "6", "WORKERS", "2", "TRAIN.VALIDATE_EVERY", "1"]
    command = arguments(scenes, tmp_path, *more)
    first = start("train", *command)
    read_until(first, "epoch 1, val")
    first.kill()
    first.wait()
    printed = run("train", *command)
    assert "continuing at epoch" in printed
    first.communicate()


def test_a_checkpoint_of_another_config_is_refused(whole, scenes, tmp_path):
    folder = run_folder(whole)
    more = ["TRAIN.EPOCHS", "12", "TRAIN.RESUME", folder, "TRAIN.LR", "1e-4"]
    printed = run("train", *arguments(scenes, whole, *more), status=2)
    assert "was run with another config" in printed
    assert "What changed: TRAIN.LR 0.002 -> 0.0001" in printed
    shutil.copytree(folder, tmp_path / "copied")
    config = tmp_path / "copied" / "config.yaml"
    config.write_text(config.read_text().replace("LR: 0.002", "LR: 0.0001"))
    facts = json.loads((tmp_path / "copied" / "run.json").read_text())
    assert facts["finished"]
    more[3] = tmp_path / "copied"  # now the folder agrees, but not the checkpoint in it
    printed = run("train", *arguments(scenes, whole, *more), status=2)
    assert "last.pth was run with another config" in printed


def test_a_named_run_goes_on_elsewhere_and_longer_and_names_what_changed(whole, scenes, tmp_path):
    folder = shutil.copytree(run_folder(whole), tmp_path / "copied")
    moved = shutil.copytree(scenes, tmp_path / "moved")
    path = moved / "annotations" / "person_keypoints_train2017.json"
    truth = json.loads(path.read_text())
    labelled = [one for one in truth["annotations"] if any(one["keypoints"][2::3])]
    people = len(labelled)
    truth["annotations"].remove(labelled[0])
    path.write_text(json.dumps(truth))
    more = ["TRAIN.EPOCHS", "13", "TEST.FLIP_TEST", "true", "TRAIN.RESUME", folder]
    command = arguments(moved, tmp_path / "out", *more)
    printed = tool("train", *command)
    assert f"continuing at epoch 13, step {12 * 3}, in {folder}" in printed
    assert f"changed since the last start: DATASET.ROOT {scenes} -> {moved}, TEST" in printed
    assert "TRAIN.EPOCHS 12 -> 13" in printed
    assert "TRAIN.SCHEDULE warmup_linear ends with TRAIN.EPOCHS, so the learning rate" in printed
    assert f"warning: {path} changed since the last checkpoint: 12 images with " in printed
    assert f"{people} labelled people then, 12 with {people - 1} now. The run continues" in printed
    facts = json.loads((folder / "run.json").read_text())
    assert facts["finished"] and "TRAIN.EPOCHS 12 -> 13" in facts["continued"][-1]["changed"]
    assert load_checkpoint(folder / "checkpoints" / "last.pth")["progress"]["epoch"] == 13
    again = tool("train", *command)
    assert "changed since" not in again and "continuing at epoch 14" in again
    printed = tool("train", *command[:-6], *more[2:], "TRAIN.EPOCHS", "12", status=2)
    assert "What changed: TRAIN.EPOCHS 13 -> 12" in printed


def test_auto_names_the_unfinished_run_that_it_passes_over(scenes, tmp_path):
    command = interrupted(scenes, tmp_path)
    folder = run_folder(tmp_path)
    printed = tool("train", *command, "TRAIN.EPOCHS", "1", "TRAIN.LR", "1e-4")
    assert f"an unfinished run is not continued: {folder}: it has other options: TRAIN" in printed
    assert "TRAIN.EPOCHS 12 -> 1, TRAIN.LR 0.002 -> 0.0001" in printed


def test_a_run_of_before_an_option_existed_is_continued(scenes, tmp_path):
    """Its config lacks the option, which now has its default."""
    command = interrupted(scenes, tmp_path)
    folder = run_folder(tmp_path)

    def older(text):
        return re.sub(r"^ +(EXIF|FREEZE): .*\n", "", text, flags=re.MULTILINE)

    config = folder / "config.yaml"
    assert older(config.read_text()).count("\n") == config.read_text().count("\n") - 2
    config.write_text(older(config.read_text()))
    for path in (folder / "checkpoints").glob("last*.pth"):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "config": older(state["config"])}, path)
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    printed = tool("train", *command)
    assert "continuing at epoch" in printed and f"in {folder}" in printed
