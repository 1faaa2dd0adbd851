"""The commands as a user runs them, on so small a network that it takes seconds."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm_start
from hrpose.programs import cli

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
BRIEFLY = (
    "MODEL.WIDTH 8 MODEL.BACKBONE.STEM 8 MODEL.BACKBONE.BOTTLENECKS 1 "
    "MODEL.BACKBONE.MODULES [1,1,1] MODEL.BACKBONE.BLOCKS 1 DATASET.INPUT_SIZE 64 "
    "TRAIN.BATCH 4 TRAIN.EPOCHS 2 TRAIN.PRECISION fp32 WORKERS 0 PRINT_FREQ 1 DEVICE cpu "
    "TRAIN.VALIDATE_EVERY 1 REPORT false"
)
SMALL = BRIEFLY.split()
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def shipped_configs():
    """The YAML files of configs/ that git tracks: a user's own are not ours to test."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "configs/*.yaml"]
    listed = subprocess.run(command, capture_output=True, text=True)
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sorted(tracked or (ROOT / "configs").rglob("*.yaml"))  # all, where git knows none


def start(name, *arguments, launch=(), cold=False):
    """One of tools/ in a session of its own; its output can be read as it comes.

    It starts warm (see warm_start.py) unless it is to be `cold`: a python of its own, with its own
    imports. Programs start cold in some test, torchrun too, so that what only works after the
    imports of another is noticed.
    """
    words = [*launch, ROOT / "tools" / f"{name}.py", *arguments]
    if cold:
        return begin(sys.executable, *words)
    return warm_start.start(*words, cwd=ROOT, **ENVIRONMENT)


def begin(*words, **environment):
    """Any command, likewise."""
    return subprocess.Popen(
        list(map(str, words)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **ENVIRONMENT, **environment},
    )


def read_until(process, text):
    """The output of a process up to a line with this text."""
    output = ""
    while text not in output and process.poll() is None:
        output += process.stdout.readline()
    return output


def tool(name, *arguments, status=0, minutes=5, **how):
    """Run a command from the repository to its end; returns its output. `how`: see `start`."""
    process = start(name, *arguments, **how)
    output, _ = process.communicate(timeout=60 * minutes)
    assert process.returncode == status, output
    assert how.get("launch") or "Traceback" not in output, output
    return output


def run(name, *arguments, status=0):
    """Like `tool`, in this process: for tests of what a command does, not of how it starts.

    This process keeps the lock of the run folder: `tool` begins a run that is to be resumed.
    """
    output, ended = io.StringIO(), 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            cli.main(name, [str(word) for word in arguments])
        except SystemExit as stop:
            ended = stop.code
    assert ended == status, output.getvalue()
    return output.getvalue()


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A disk of its own, which is soon full; tests skip where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk of a few megabytes can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
