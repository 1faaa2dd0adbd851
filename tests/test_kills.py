"""Killed at any moment and started again, a run ends in the weights of an undisturbed one."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest
import torch

from commands import QUICKSTART, TORCHRUN, read_until, run, start, tool

OPTIONS = (
    "MODEL.WIDTH 8 MODEL.BACKBONE.STEM 8 MODEL.BACKBONE.BLOCKS 1 DATASET.INPUT_SIZE 64 "
    "TRAIN.BATCH 4 DEVICE cpu TRAIN.MICRO_BATCH 1 TRAIN.EMA 0.99 TRAIN.CLIP_NORM 1 "
    "TRAIN.SCHEDULE cosine WORKERS 1 TRAIN.SAVE.STEPS 2 PRINT_FREQ 5 TRAIN.VALIDATE_EVERY 20 "
    "TRAIN.VISUALIZE_EVERY 50"
)
BRIEF = "TRAIN.EPOCHS 20 MODEL.BACKBONE.BOTTLENECKS 1 MODEL.BACKBONE.MODULES [1,1,1]"
SINGLE_PROCESS, SHARED = (), TORCHRUN


def arguments(scenes, output, length):
    place = ["DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    return ["--cfg", QUICKSTART, *OPTIONS.split(), *place, *length.split()]


def saved_step(output):
    """Of the newest checkpoint, 0 if there is none."""
    steps = [int(path.stem.split("_")[1]) for path in output.rglob("last_*.pth")]
    return max(steps, default=0)


def resumed_step(printed):
    """The step at which a start began, None if it was killed before it printed that."""
    found = re.search(r"^(?:continuing at epoch \d+|new run), step (\d+)", printed, re.MULTILINE)
    return int(found[1]) if found else None


def kill(process, launch, output, rng, seconds):
    """SIGKILL to all of a start: every fifth before it trains, the others while it does."""
    printed = ""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 3))
    else:
        printed = read_until(process, "learning rate")
        time.sleep(rng.uniform(0, seconds))
    assert process.poll() is None, "it was done before it was killed; give it more epochs"
    os.killpg(process.pid, signal.SIGKILL)
    if launch:  # torchrun's processes have sessions of their own, and live on without it
        subprocess.run(["pkill", "-KILL", "--full", str(output)], check=True)
    return printed + process.communicate(timeout=60)[0]


def killed_until_done(launch, scenes, output, length, kills, seconds):
    """Kill the run so many times, each at most so many seconds after it began to train."""
    rng, kept = random.Random(kills), 0
    for number in range(kills + 1):
        process = start("train", *arguments(scenes, output, length), launch=launch)
        last = number == kills
        printed = process.communicate()[0] if last else kill(process, launch, output, rng, seconds)
        assert not last or process.returncode == 0, printed
        began = resumed_step(printed)
        if began is not None:
            assert began >= kept, f"steps {began + 1} to {kept} were lost"
        # A worker that was sending a batch to the killed process finds its connection broken.
        orphaned = 0 if last else printed.count('resource_sharer.py", line')
        assert "warning" not in printed and printed.count("Traceback") == orphaned, printed
        kept = max(kept, saved_step(output))
        print(f"start {number + 1}: began at step {began}, newest checkpoint {kept}")


def outcome(output):
    """The finished run, its folder checked for damage."""
    folders = {path.parent for path in output.rglob("run.json")}
    (folder,) = [f for f in folders if json.loads((f / "run.json").read_text()).get("finished")]
    files = sorted((folder / "checkpoints").iterdir())
    assert not [path.name for path in files if "damaged" in path.name or path.name[0] == "."]
    for path in files:
        if path.suffix == ".sha256":
            digest, name = path.read_text().split()
            assert hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() == digest
    return folder


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[k], other[k]) for k in one if k != "journal"
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def measured(folder, without):
    """metrics.jsonl, less what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in without} for line in lines]


def compare(whole, killed, launch):
    for name in ("last.pth", "best.pth"):
        one, other = (
            torch.load(folder / "checkpoints" / name, weights_only=True)
            for folder in (whole, killed)
        )
        assert same(one, other), name
    if launch is SINGLE_PROCESS:  # several processes mean over the steps since their start
        clock = ("images/s", "data_wait", "memory", "eta")
        assert measured(whole, clock) == measured(killed, clock)


@pytest.mark.parametrize(
    "launch, length, kills, seconds",
    [
        pytest.param(SINGLE_PROCESS, BRIEF, 2, 1, id="alone", marks=pytest.mark.slow),
        pytest.param(SHARED, BRIEF, 1, 1, id="shared", marks=pytest.mark.slow),
        pytest.param(
            *(SINGLE_PROCESS, "TRAIN.EPOCHS 200", 20, 1.5),
            id="alone, 20 kills",
            marks=pytest.mark.long,
        ),
        pytest.param(
            *(SHARED, "TRAIN.EPOCHS 100", 5, 2), id="shared, 5 kills", marks=pytest.mark.long
        ),
    ],
)
def test_killed_and_started_again_nothing_is_lost(scenes, tmp_path, launch, length, kills, seconds):
    undisturbed = arguments(scenes, tmp_path / "whole", length)
    if launch:
        tool("train", *undisturbed, launch=launch, minutes=60)
    else:
        run("train", *undisturbed)
    killed_until_done(launch, scenes, tmp_path / "killed", length, kills, seconds)
    compare(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"), launch)
