"""The script for Slurm, with stand-ins for the two of its commands that it uses."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from commands import QUICKSTART, ROOT, SMALL, begin, read_until

SRUN = """#!/usr/bin/env bash
while [ "$1" != python ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$ASKED"; fi
"""


def submit(tmp_path, arguments):
    """The script in a job of one machine with two tasks, run by bash as Slurm would."""
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return begin(
        "bash", ROOT / "tools" / "train.sbatch", *arguments,
        PATH=f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        ASKED=str(tmp_path / "asked"), SLURM_JOB_NODELIST="localhost", SLURM_JOB_NUM_NODES="1",
        SLURM_GPUS_ON_NODE="2", SLURM_JOB_ID="7", PORT=str(port),
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_saves_before_its_time_is_up_and_is_queued_again_until_it_is_done(scenes, tmp_path):
    output = tmp_path / "output"
    asked = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    asked += ["TRAIN.EPOCHS", "60", "TRAIN.VALIDATE_EVERY", "0", "TRAIN.VISUALIZE_EVERY", "0"]
    job = submit(tmp_path, asked)
    said = read_until(job, "epoch 1/60")
    os.kill(job.pid, signal.SIGUSR1)  # to the script alone: --signal B:USR1
    said += job.communicate(timeout=120)[0]
    assert job.returncode == 0, said
    assert "Start again to continue" in said, said
    assert (tmp_path / "asked").read_text() == "requeue 7\n"

    job = submit(tmp_path, asked)
    said = job.communicate(timeout=120)[0]
    assert job.returncode == 0, said
    assert "continuing at epoch" in said and "in each of 2 processes" in said
    assert (tmp_path / "asked").read_text() == "requeue 7\n"  # it is done: not again


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(scenes, tmp_path):
    output = tmp_path / "output"
    asked = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    job = submit(tmp_path, [*asked, "TRAIN.EPOCHS", "60", "TRAIN.VALIDATE_EVERY", "0"])
    said = read_until(job, "epoch 1/60")
    os.kill(job.pid, signal.SIGTERM)
    said += job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "Start again to continue" in said
    assert not (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_job_that_is_done_as_its_time_is_up_is_not_queued_again(scenes, tmp_path):
    asked = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", tmp_path / "output"]
    job = submit(tmp_path, asked)
    said = read_until(job, "epoch 2, val")  # nothing is left but to say so
    os.kill(job.pid, signal.SIGUSR1)
    said += job.communicate(timeout=120)[0]
    (facts,) = (tmp_path / "output").rglob("run.json")
    finished = '"finished"' in facts.read_text()
    assert finished != (tmp_path / "asked").exists(), said  # it may have been asked in time


@pytest.mark.slow
def test_a_job_that_fails_says_so_and_is_not_queued_again(scenes, tmp_path):
    asked = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", tmp_path / "nowhere"]
    job = submit(tmp_path, [*asked, "OUTPUT_DIR", tmp_path])
    said = job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "no annotations at" in said
    assert not (tmp_path / "asked").exists()
