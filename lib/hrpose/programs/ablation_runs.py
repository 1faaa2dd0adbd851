"""The processes of an ablation: each training and evaluation is a subprocess of its own."""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import yaml

from hrpose.config import load_config
from hrpose.config.options import RUNTIME_OPTIONS
from hrpose.engine.run_dir import acquire_lock
from hrpose.ops.atomic_io import atomic_write, check_writable
from hrpose.programs.ablation_plan import (
    REPOSITORY,
    Experiment,
    as_override,
    changed_options,
    compared_options,
    get_option,
)

if TYPE_CHECKING:
    from hrpose.programs.ablate import Ablation

TOOLS = REPOSITORY / "tools"

GRACE = 10.0
"""Seconds that a process has to end by itself: a terminal sends Ctrl-C to it, too."""

DELAY = 1.0
"""Seconds within which a Ctrl-C that has ended a process reaches this one."""


class RowError(Exception):
    """A training or an evaluation failed."""


ROW_ERRORS = (RowError, OSError, ValueError, LookupError)
"""Errors that fail one row and leave the others: a failed process, a damaged file of its run."""


def check_files(experiments: Sequence[Experiment], output: Path) -> None:
    """OSError, with the cure: inputs that are missing, or outputs that cannot be written."""
    from hrpose.builders.datasets import annotation_path, expected_tree, image_path
    from hrpose.data.coco import ImageFiles

    check_writable(output / "rows" / "row.json")
    for e in experiments:
        check_writable(e.folder / "log.txt")
        try:
            for split in dict.fromkeys((e.config.DATASET.TRAIN, e.config.DATASET.VAL)):
                path = annotation_path(e.config, split)
                if not path.is_file():
                    raise FileNotFoundError(f"no annotations at {path}")
                ImageFiles(image_path(e.config, split))
        except FileNotFoundError as error:
            root = Path(e.config.DATASET.ROOT)
            cure = f"\nDraw the synthetic set with: python tools/synthesize.py --output {root}"
            raise FileNotFoundError(
                f"{error}. Expected:\n{expected_tree(e.config)}{cure * ('synthetic' in root.name)}"
            ) from None
        weights = e.config.MODEL.PRETRAINED
        if weights and not Path(weights).is_file():
            raise FileNotFoundError(
                f"row {e.name}: MODEL.PRETRAINED: no weights at {weights}. "
                "The README lists where ImageNet weights are"
            )


class RowJob(NamedTuple):
    """What the processes of one training work with."""

    folder: Path
    device: str
    lock: IO[str]
    stop: Event


def run_all(ablation: Ablation, groups: Sequence[list[Experiment]]) -> None:
    """Run the trainings, one at a time on each device. A request to stop stops all processes."""
    from hrpose.builders.devices import build_devices

    devices: queue.SimpleQueue[str] = queue.SimpleQueue()
    names = [str(device) for device in build_devices(groups[0][0].config)]
    for name in names:
        devices.put(name)
    stop = Event()

    def run(group: list[Experiment]) -> None:
        device = devices.get()
        try:
            _run_group(ablation, group, device, stop)
        except CancelledError:
            pass
        finally:
            devices.put(device)

    with ThreadPoolExecutor(len(names)) as pool:
        try:
            list(pool.map(run, groups))
        except KeyboardInterrupt:
            print("\nstopping; the same command continues", flush=True)
            raise
        finally:
            stop.set()


def _run_group(ablation: Ablation, group: list[Experiment], device: str, stop: Event) -> None:
    """Train the network that the experiments share, unless that is done, and evaluate each."""
    if stop.is_set():
        raise CancelledError
    folder, start = group[0].folder, time.monotonic()
    with _locked(folder, stop) as lock:
        finished = ablation.finished()  # perhaps by the process that had the lock before
        group = [e for e in group if e.key not in finished]
        if not group:
            return
        ablation.report(f"{group[0].label}: begins on {device}, log: {folder / 'log.txt'}")
        job = RowJob(folder, device, lock, stop)
        try:
            run = _finished_run(folder) or _train(group[0], job)
            facts, tests = _facts(run), _tests_of(run)
        except ROW_ERRORS as error:
            for e in group:
                ablation.fail(e, error)
            return
        for e in group:
            try:
                trained_so = _test_options(e.options) == tests
                figures = facts["figures"] if trained_so else _evaluate(e, run, job)
                ablation.keep(e, figures, facts, time.monotonic() - start)
            except ROW_ERRORS as error:
                ablation.fail(e, error)
            start = time.monotonic()


@contextmanager
def _locked(folder: Path, stop: Event) -> Iterator[IO[str]]:
    """Lock the folder of a training, or wait until its owner has ended.

    Child processes inherit the lock: one that outlives a killed command is waited for, and its
    result is used.
    """

    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(folder)
    if not lock:
        print(f"waiting: another process is working in {folder}", flush=True)
    while not lock:
        if stop.wait(0.5):
            raise CancelledError
        lock = acquire_lock(folder)
    with lock:
        yield lock


def _finished_run(folder: Path) -> Path | None:
    """The newest run that was trained to its end and still has its weights."""
    runs = sorted((path.parent for path in folder.glob("*/run.json")), reverse=True)
    return next((r for r in runs if _facts(r).get("finished") and _weights(r).is_file()), None)


def _train(e: Experiment, job: RowJob) -> Path:
    """Start or continue a training; its run folder."""
    path = job.folder / "training.yaml"
    if not path.is_file():  # TRAIN.RESUME auto finds an interrupted run by the config it began with
        _write_config(path, e)
    _run_tool("train", ["--cfg", str(path), *_runtime_overrides(e, job.device)], job)
    run = _finished_run(job.folder)
    if not run:
        raise RowError("training ended without an error, but left no finished run")
    return run


def _evaluate(e: Experiment, run: Path, job: RowJob) -> dict[str, float]:
    """Figures of the run's last weights under the row's TEST options."""
    folder = job.folder / "evaluations" / e.key
    _write_config(folder / "row.yaml", e)
    weights = ["TEST.MODEL_FILE", str(_weights(run)), *_runtime_overrides(e, job.device)]
    config = ["--cfg", str(folder / "row.yaml"), "--output", str(folder)]
    _run_tool("valid", [*config, *weights], job)
    return _facts(folder)["figures"]


def _write_config(path: Path, e: Experiment) -> None:
    """The experiment as YAML, without what `_runtime_overrides` gives."""
    elsewhere = (*RUNTIME_OPTIONS, "TRAIN.RESUME", "TEST.MODEL_FILE")
    options = {k: v for k, v in changed_options(e.config).items() if k not in elsewhere}
    text = yaml.safe_dump({**options, "NAME": f"ablations/{e.training_key}"})
    atomic_write(path, lambda file: file.write(text.encode()))


def _runtime_overrides(e: Experiment, device: str) -> list[str]:
    values = {key: get_option(e.config, key) for key in RUNTIME_OPTIONS} | {"DEVICE": device}
    return [word for key, value in values.items() for word in (key, as_override(value))]


def _tests_of(run: Path) -> dict[str, Any] | None:
    """The TEST options of the run's own evaluation; None if this version cannot read them."""
    try:
        return _test_options(compared_options(load_config(run / "config.yaml")))
    except ValueError:
        return None


def _test_options(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key.startswith("TEST.")}


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def _weights(run: Path) -> Path:
    return run / "checkpoints" / "last.pth"


def _run_tool(tool: str, arguments: list[str], job: RowJob) -> None:
    """Run tools/<tool>.py until it ends or is stopped. RowError: it failed."""
    if job.stop.is_set():
        raise CancelledError
    asked = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
    with (job.folder / "log.txt").open("ab") as log:
        start = log.tell()
        log.write(f"$ {shlex.join(asked)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            asked,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(job.lock.fileno(),) if os.name == "posix" else (),
        )
        while process.poll() is None and not job.stop.wait(0.05):
            pass
        try:
            status = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # as Ctrl-C: it saves and ends
            status = process.wait()
    if status and job.stop.wait(DELAY):
        raise CancelledError
    if status < 0:
        raise RowError(f"killed by {signal.Signals(-status).name}")
    if status:
        output = (job.folder / "log.txt").read_bytes()[start:].decode(errors="replace")
        lines = [line.strip() for line in output.splitlines()[1:] if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise RowError((errors or lines or [f"status {status}"])[-1])
