"""One row of an ablation is run: training, then evaluation, each in a process of its own.

All rows of one training work in OUTPUT_DIR/ablations/<training key>/:

    log.txt                  what the processes said
    training.yaml            what is trained
    <time>/                  the run, and those that came to nothing
    evaluations/<row key>/   other looks at the same network
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, Any, NamedTuple

import yaml

from hrpose.engine.run_dir import acquire_lock
from hrpose.ops.files import naming_full_disk, write_whole
from hrpose.programs.ablation import REPOSITORY
from hrpose.programs.ablation.rows import Row, changed, plain, setting, written
from hrpose.programs.train import RUNTIME_OPTIONS

LOG = "log.txt"

GRACE = 10.0
"""Seconds that a process has to end after Ctrl-C, which the terminal sends to it too."""

DELAY = 1.0
"""Seconds after which Ctrl-C has surely reached us, if it has ended one of our processes."""


class Stopped(Exception):
    """Somebody pressed Ctrl-C; the row is not done."""


class RowFailed(Exception):
    """A row came to nothing."""

    def __init__(self, reason: str, log: Path):
        super().__init__(f"{reason} (all of it: {log})")
        self.reason = reason
        self.log = log


class TrainingFailed(RowFailed):
    """So did all rows that would have looked at the same network."""


class Outcome(NamedTuple):
    """What came of a row, and under which circumstances its network was trained."""

    figures: dict[str, float]
    circumstances: dict[str, Any]


class Place(NamedTuple):
    """Where rows of one training are worked on, and by what."""

    folder: Path
    device: str
    lock: IO[str]
    stop: Event

    @property
    def log(self) -> Path:
        return self.folder / LOG


def run_row(row: Row, device: str, stop: Event) -> Outcome:
    """Train the row's network, unless that is done, and evaluate its last weights.

    An interrupted training is continued. RowFailed: it came to nothing; Stopped: `stop` was set.
    """
    folder = folder_of(row)
    with held(folder, stop) as lock:
        place = Place(folder, device, lock, stop)
        run = finished_run(folder) or _train(row, place)
        facts = _facts(run)
        as_trained = _tests_of(run) == plain_tests(row.config.TEST)
        figures = facts["figures"] if as_trained else _evaluate(row, run, place)
    asked = ("git", "python", "torch", "numpy", "device", "started", "finished")
    return Outcome(figures, {name: facts[name] for name in asked})


def folder_of(row: Row) -> Path:
    """Where everything of a row's training stands."""
    return Path(row.config.OUTPUT_DIR) / "ablations" / row.training_key


def log_of(row: Row) -> Path:
    """What the processes of its training said."""
    return folder_of(row) / LOG


@contextmanager
def held(folder: Path, stop: Event) -> Iterator[IO[str]]:
    """Have a folder for oneself, or wait until nobody else has it.

    Processes that are given the lock keep it: one that outlived the command which began it, since
    that alone was killed, is waited for, and what it did is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(folder)
    if not lock:
        print(f"waiting: another process is still working in {folder}", flush=True)
    while not lock:
        if stop.wait(0.5):
            raise Stopped
        lock = acquire_lock(folder)
    with lock:
        yield lock


# Training -------------------------------------------------------------------------------------


def finished_run(folder: Path) -> Path | None:
    """The newest run that came to its end and still has its weights."""
    runs = sorted((path.parent for path in folder.glob("*/run.json")), reverse=True)
    return next((run for run in runs if _facts(run).get("finished") and _last(run).is_file()), None)


def _train(row: Row, place: Place) -> Path:
    """The run folder of a training that is begun, or continued."""
    config = place.folder / "training.yaml"
    if not config.is_file():  # as first begun: by its text an interrupted run is known again
        _write_config(config, row)
    try:
        _do(place, "train", ["--cfg", str(config), *_on_the_spot(row, place)])
    except RowFailed as failure:
        raise TrainingFailed(failure.reason, failure.log) from None
    run = finished_run(place.folder)
    if not run:
        raise TrainingFailed("training ended without an error, but left no finished run", place.log)
    return run


def _write_config(path: Path, row: Row) -> None:
    """The row as YAML, less what is said on the spot."""
    said_elsewhere = (*RUNTIME_OPTIONS, "TRAIN.RESUME", "TEST.MODEL_FILE")
    options = {key: v for key, v in changed(row.config).items() if key not in said_elsewhere}
    text = yaml.safe_dump({**options, "NAME": f"ablations/{row.training_key}"})
    write_whole(path, lambda file: file.write(text.encode()))


def _on_the_spot(row: Row, place: Place) -> list[str]:
    values = {key: setting(row.config, key) for key in RUNTIME_OPTIONS} | {"DEVICE": place.device}
    return [word for key, value in values.items() for word in (key, written(value))]


# Evaluation -----------------------------------------------------------------------------------


def _evaluate(row: Row, run: Path, place: Place) -> dict[str, float]:
    """Figures of the run's last weights, looked at as the row's TEST says."""
    folder = place.folder / "evaluations" / row.key
    config = folder / "row.yaml"
    _write_config(config, row)
    weights = ["TEST.MODEL_FILE", str(_last(run)), *_on_the_spot(row, place)]
    _do(place, "valid", ["--cfg", str(config), "--output", str(folder), *weights])
    return _facts(folder)["figures"]


def _tests_of(run: Path) -> dict[str, Any]:
    """How a training looked at its network in the end."""
    return plain_tests(yaml.safe_load((run / "config.yaml").read_text())["TEST"])


def plain_tests(options: Mapping[str, Any]) -> dict[str, Any]:
    free = ("TEST.MODEL_FILE", *RUNTIME_OPTIONS)
    return {name: plain(value) for name, value in options.items() if f"TEST.{name}" not in free}


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def _last(run: Path) -> Path:
    return run / "checkpoints" / "last.pth"


# Processes ------------------------------------------------------------------------------------


def _do(place: Place, tool: str, arguments: list[str]) -> None:
    """Run one of tools/, which may be stopped. RowFailed: it did not end well."""
    if place.stop.is_set():
        raise Stopped
    asked = [sys.executable, str(REPOSITORY / "tools" / f"{tool}.py"), *arguments]
    with naming_full_disk(place.log), place.log.open("a") as log:
        begun = log.tell()
        log.write(f"$ {shlex.join(asked)}\n")
        log.flush()
        process = subprocess.Popen(
            asked,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(place.lock.fileno(),) if os.name == "posix" else (),
        )
        status = _ended(process, place.stop)
    if status and place.stop.wait(DELAY):
        raise Stopped
    if status:
        raise RowFailed(_reason(place.log, begun, status), place.log)


def _ended(process: subprocess.Popen, stop: Event) -> int:
    """The status with which a process ends. What Ctrl-C did not reach is told to stop."""
    while process.poll() is None and not stop.wait(0.1):
        pass
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return process.wait()


def _reason(log: Path, begun: int, status: int) -> str:
    """Why a process failed: the last error that it named, or the last that was heard of it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    said = log.read_bytes()[begun:].decode(errors="replace").splitlines()[1:]
    lines = [line.strip() for line in said if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"status {status}"])[-1]
