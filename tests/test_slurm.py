"""The script for Slurm, with stand-ins for the two of its commands that it uses."""

import os
import signal
import socket

import pytest

import warm_start
from commands import QUICKSTART, ROOT, SMALL, begin, read_until

SRUN = """#!/usr/bin/env bash
while [ "$1" != python ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$CALLS"; fi
"""


def submit(tmp_path, arguments):
    """The script in a job of one machine with two tasks, run by bash as Slurm would."""
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    python = f'#!/bin/sh\nexec "{warm_start.interpreter().python}" "$@"\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return begin(
        "bash", ROOT / "tools" / "train.sbatch", *arguments,
        PATH=f"{commands}:{os.environ['PATH']}",
        SLURM_JOB_NODELIST="localhost", SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="2",
        SLURM_JOB_ID="7", PORT=str(port), CALLS=str(tmp_path / "scontrol.log"),
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_saves_before_its_time_is_up_and_is_queued_again_until_it_is_done(scenes, tmp_path):
    output = tmp_path / "output"
    arguments = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    arguments += ["TRAIN.EPOCHS", "20", "TRAIN.VALIDATE_EVERY", "0", "TRAIN.VISUALIZE_EVERY", "0"]
    job = submit(tmp_path, arguments)
    printed = read_until(job, "epoch 1/20")
    os.kill(job.pid, signal.SIGUSR1)  # to the script alone: --signal B:USR1
    printed += job.communicate(timeout=120)[0]
    assert job.returncode == 0, printed
    assert "Start again to continue" in printed, printed
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"

    job = submit(tmp_path, arguments)
    printed = job.communicate(timeout=120)[0]
    assert job.returncode == 0, printed
    assert "continuing at epoch" in printed and "in each of 2 processes" in printed
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"  # it is done: not again


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_is_not_queued_again(scenes, tmp_path):
    output = tmp_path / "output"
    arguments = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    job = submit(tmp_path, [*arguments, "TRAIN.EPOCHS", "60", "TRAIN.VALIDATE_EVERY", "0"])
    printed = read_until(job, "epoch 1/60")
    os.kill(job.pid, signal.SIGTERM)
    printed += job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "Start again to continue" in printed
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.slow
def test_a_job_that_is_done_as_its_time_is_up_is_not_queued_again(scenes, tmp_path):
    output = tmp_path / "output"
    arguments = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "OUTPUT_DIR", output]
    job = submit(tmp_path, arguments)
    printed = read_until(job, "epoch 2, val")  # only the closing lines are left
    os.kill(job.pid, signal.SIGUSR1)
    printed += job.communicate(timeout=120)[0]
    (facts,) = output.rglob("run.json")
    finished = '"finished"' in facts.read_text()
    queued = (tmp_path / "scontrol.log").exists()  # the signal may have come in time
    assert finished != queued, printed


@pytest.mark.slow
def test_a_failed_job_names_its_error_and_is_not_queued_again(scenes, tmp_path):
    arguments = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", tmp_path / "nowhere"]
    job = submit(tmp_path, [*arguments, "OUTPUT_DIR", tmp_path])
    printed = job.communicate(timeout=120)[0]
    assert job.returncode == 1 and "no annotations at" in printed
    assert not (tmp_path / "scontrol.log").exists()
