"""Processes of an ablation: each training and evaluation is a subprocess."""

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
from typing import IO, TYPE_CHECKING, Any

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

GRACE = 1.0
"""Seconds in which a terminal's Ctrl-C, which it too receives, ends a process; then it is sent one.
Short, so that no child is left when this process is killed soon after it was asked to stop."""

DELAY = 1.0
"""Seconds within which a Ctrl-C that has ended a process reaches this one."""


class RowError(Exception):
    """A training or an evaluation failed."""


def check_files(experiments: Sequence[Experiment], output: Path) -> None:
    """OSError, with the cure: inputs that are missing, or outputs that cannot be written."""
    from hrpose.builders.datasets import annotation_path, expected_tree, image_path
    from hrpose.data.coco import ImageFiles

    for name in ("table.md", "rows/row.json"):
        check_writable(output / name)
    for e in experiments:
        check_writable(e.folder / "log.txt")
        data, weights = e.config.DATASET, e.config.MODEL.PRETRAINED
        try:
            for split in (data.TRAIN, data.VAL):
                path = annotation_path(e.config, split)
                if not path.is_file():
                    raise FileNotFoundError(f"no annotations at {path}")
                ImageFiles(image_path(e.config, split))
        except FileNotFoundError as error:
            cure = ""
            if "synthetic" in Path(data.ROOT).name:
                cure = f"\nDraw them with: python tools/synthesize.py --output {data.ROOT}"
            tree = expected_tree(e.config)
            raise FileNotFoundError(f"{error}. Expected:\n{tree}{cure}") from None
        if weights and not Path(weights).is_file():
            raise FileNotFoundError(
                f"row {e.name}: MODEL.PRETRAINED: no weights at {weights}. "
                "The README lists where ImageNet weights are"
            )


def run_all(ablation: Ablation, groups: Sequence[list[Experiment]]) -> None:
    """Run the trainings, one at a time on each device. A request to stop stops all processes."""
    from hrpose.builders.devices import build_devices

    devices: queue.SimpleQueue[str] = queue.SimpleQueue()
    names = [str(device) for device in build_devices(groups[0][0].config)]
    for name in names:
        devices.put(name)
    stop = Event()

    def run(group: list[Experiment]) -> None:
        device, folder = devices.get(), group[0].folder
        try:
            with _locked(folder, stop) as lock:
                _run_group(ablation, group, RowProcesses(folder, device, lock, stop))
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


@contextmanager
def _locked(folder: Path, stop: Event) -> Iterator[IO[str]]:
    """Lock the folder of a training, or wait until its owner has ended.

    Child processes inherit the lock: one that outlives a killed command is waited for, and its
    result is used.
    """
    if stop.is_set():
        raise CancelledError
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


def _run_group(ablation: Ablation, group: list[Experiment], job: RowProcesses) -> None:
    """Train the network that the experiments share, unless that is done, and evaluate each."""
    finished = ablation.finished()  # perhaps by the process that had the lock before
    group = [e for e in group if e.key not in finished]
    if not group:
        return
    start = time.monotonic()
    ablation.report(f"{group[0].label}: begins on {job.device}, log: {job.log}")
    try:
        run = job.train(group[0])
    except (RowError, OSError) as error:
        for e in group:
            ablation.fail(e, f"{error}")
        return
    for e in group:
        try:
            facts, figures = _facts(run), job.evaluate(e, run)
            ablation.keep(e, figures, facts, time.monotonic() - start)
        except (RowError, OSError) as error:
            ablation.fail(e, f"{error}")
        start = time.monotonic()


class RowProcesses:
    """The subprocesses of one training and its evaluations, on one device."""

    def __init__(self, folder: Path, device: str, lock: IO[str], stop: Event):
        self.folder, self.device, self.lock, self.stop = folder, device, lock, stop
        self.log = folder / "log.txt"

    def train(self, e: Experiment) -> Path:
        """The run folder of the training, which is started or continued unless it has finished."""
        path = self.folder / "training.yaml"
        if not self._finished_run():
            if not path.is_file():  # TRAIN.RESUME auto finds a run by the config it began with
                _write_config(path, e)
            self._run_tool("train", e, "--cfg", str(path))
        run = self._finished_run()
        if not run:
            raise RowError("training ended without an error, but left no finished run")
        return run

    def evaluate(self, e: Experiment, run: Path) -> dict[str, float]:
        """Metrics of the run's last weights under the row's TEST options."""
        folder, config = self.folder / "evaluations" / e.key, run / "config.yaml"
        if _evaluated_as(config, e):
            return _facts(run)["figures"]
        _write_config(folder / "row.yaml", e)
        words = ["--cfg", str(folder / "row.yaml"), "--output", str(folder)]
        self._run_tool("valid", e, *words, "TEST.MODEL_FILE", str(_weights(run)))
        return _facts(folder)["figures"]

    def _finished_run(self) -> Path | None:
        """The newest run that was trained to its end and still has its weights."""
        runs = sorted((path.parent for path in self.folder.glob("*/run.json")), reverse=True)
        return next((r for r in runs if _facts(r).get("finished") and _weights(r).is_file()), None)

    def _run_tool(self, tool: str, e: Experiment, *arguments: str) -> None:
        """Run tools/<tool>.py until it ends or is stopped. RowError: it failed."""
        if self.stop.is_set():
            raise CancelledError
        words = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
        runtime = {key: get_option(e.config, key) for key in RUNTIME_OPTIONS}
        for key, value in (runtime | {"DEVICE": self.device}).items():
            words += [key, as_override(value)]
        with self.log.open("ab") as log:
            start = log.tell()
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lock.fileno(),) if os.name == "posix" else (),
            )
            while process.poll() is None and not self.stop.wait(0.05):
                pass
            try:
                status = process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)  # as Ctrl-C: it saves and ends
                status = process.wait()
        if status and self.stop.wait(DELAY):
            raise CancelledError
        if status:
            raise RowError(_reason(status, self.log.read_bytes()[start:].decode(errors="replace")))


def _reason(status: int, output: str) -> str:
    """Why a process failed: its signal, its last error or the last line of its output."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = [line.strip() for line in output.splitlines()[1:] if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"status {status}"])[-1]


def _write_config(path: Path, e: Experiment) -> None:
    """The experiment as YAML, without the options that are given on the command line."""
    elsewhere = (*RUNTIME_OPTIONS, "TRAIN.RESUME", "TEST.MODEL_FILE")
    options = {k: v for k, v in changed_options(e.config).items() if k not in elsewhere}
    text = yaml.safe_dump({**options, "NAME": f"ablations/{e.training_key}"})
    atomic_write(path, lambda file: file.write(text.encode()))


def _evaluated_as(config: Path, e: Experiment) -> bool:
    """Whether the run with this config was evaluated with the row's TEST options."""
    try:
        options = compared_options(load_config(config))
    except ValueError:  # of another version, with other options
        return False
    tests = [{k: v for k, v in o.items() if k.startswith("TEST.")} for o in (options, e.options)]
    return tests[0] == tests[1]


def _facts(folder: Path) -> dict[str, Any]:
    """run.json of a run or an evaluation. RowError: it is damaged."""
    path = folder / "run.json"
    try:
        facts = json.loads(path.read_bytes())
        if facts.get("figures") is not None:
            facts["figures"]["AP"]
        return facts
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RowError(f"{path} is damaged ({error!r}); delete its folder") from None


def _weights(run: Path) -> Path:
    return run / "checkpoints" / "last.pth"
