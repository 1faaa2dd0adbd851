"""Processes of an ablation: each training and evaluation is a subprocess."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import yaml

from hrpose.builders.datasets import annotation_path, explaining_missing_data, image_path
from hrpose.builders.devices import list_devices
from hrpose.config.options import RUNTIME_OPTIONS
from hrpose.data.coco import ImageFiles
from hrpose.engine.run_dir import acquire_lock
from hrpose.engine.signals import Signals
from hrpose.models.weight_cache import local_file
from hrpose.ops.atomic_io import atomic_write, check_writable, read_json
from hrpose.programs.ablation_plan import REPOSITORY, Experiment, as_override, get_option
from hrpose.programs.train import config_yaml

if TYPE_CHECKING:
    from hrpose.programs.ablate import Ablation

TOOLS = REPOSITORY / "tools"

GRACE = 1.0
"""Seconds in which a terminal's Ctrl-C, which it too receives, ends a process; then it is sent one.
Short, so that no child is left when this process is killed soon after it was asked to stop."""


class TrainingJob(NamedTuple):
    """What the processes of one training share."""

    device: str
    lock: IO[str]  # of its folder; a process that outlives a killed command still holds it
    started: list[subprocess.Popen]  # all processes of this command


class RowError(ValueError):
    """A training or an evaluation failed."""


FAILURES = (ValueError, LookupError, OSError)
"""Errors that cost a row, while the others run."""


def check_files(experiments: Sequence[Experiment], output: Path) -> None:
    """OSError, with the cure: inputs that are missing, or outputs that cannot be written."""
    for name in ("table.md", "rows/row.json"):
        check_writable(output / name)
    for e in experiments:
        check_writable(e.folder / "log.txt")
        data, weights = e.config.DATASET, e.config.MODEL.PRETRAINED
        if weights and not local_file(weights).is_file():  # what is in the zoo is fetched now
            raise FileNotFoundError(
                f"row {e.name}: MODEL.PRETRAINED: no weights at {weights}. "
                "python tools/zoo.py lists those that can be fetched by name"
            )
        for split in (data.TRAIN, data.VAL):
            with explaining_missing_data(e.config, split):
                annotation_path(e.config, split).open().close()
                ImageFiles(image_path(e.config, split))


def run_all(ablation: Ablation, groups: Sequence[list[Experiment]]) -> None:
    """Run the trainings, one at a time on each device. Whatever ends this ends their processes."""
    started: list[subprocess.Popen] = []
    waiting, devices = iter(groups), list_devices(groups[0][0].config)
    loops = [_run_groups(ablation, waiting, str(device), started) for device in devices]
    signals = Signals(sync_only=True)  # none is raised while processes start or stop
    with signals.installed():
        try:
            while loops:
                signals.sync(lambda number: number)
                loops = [loop for loop in loops if next(loop, "ended") != "ended"]
                time.sleep(0.02)
        except KeyboardInterrupt:
            print("\nstopping; the same command continues", flush=True)
            raise
        finally:
            _stop(started)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """Wait until all have ended, and saved; those that no Ctrl-C has reached are interrupted."""
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait()


def _run_groups(
    ablation: Ablation, groups: Iterator[list[Experiment]], device: str, started: list
) -> Iterator[None]:
    """Run groups on one device while there are any; yields whenever it has to wait."""
    for group in groups:
        folder = group[0].folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(folder)
        if not lock:
            print(f"waiting: another process is working in {folder}", flush=True)
        while not lock:
            yield
            lock = acquire_lock(folder)
        with lock:
            yield from _run_group(ablation, group, TrainingJob(device, lock, started))


def _run_group(ablation: Ablation, group: list[Experiment], job: TrainingJob) -> Iterator[None]:
    """Train the network that the experiments share, unless that is done, and evaluate each."""
    finished = ablation.finished()  # perhaps by the process that had the lock before
    group = [e for e in group if e.key not in finished]
    if not group:
        return
    start = time.monotonic()
    log = group[0].folder / "log.txt"
    ablation.report(f"{group[0].label}: begins on {job.device}, log: {log}")
    try:
        run = yield from _train(group[0], job)
    except FAILURES as error:
        for e in group:
            ablation.fail(e, f"{error}")
        return
    for e in group:
        try:
            figures = yield from _evaluate(e, job, run)
            facts = read_json(run / "run.json", "record of a run")
            ablation.keep(e, figures, facts, time.monotonic() - start)
        except FAILURES as error:
            ablation.fail(e, f"{error}")
        start = time.monotonic()


def _train(e: Experiment, job: TrainingJob) -> Generator[None, None, Path]:
    """Returns the run folder of the training, started or continued unless it has finished."""
    path = e.folder / "training.yaml"
    if not _finished_run(e.folder):
        if not path.is_file():  # TRAIN.RESUME auto finds a run by the config it began with
            _write_config(path, e)
        yield from _run_tool("train", e, job, "--cfg", str(path))
    run = _finished_run(e.folder)
    if not run:
        raise RowError("training ended without an error, but left no finished run")
    return run


def _evaluate(
    e: Experiment, job: TrainingJob, run: Path
) -> Generator[None, None, dict[str, float]]:
    """Returns the metrics of the run's last weights under the row's TEST options."""
    tested, wanted = (run / "config.yaml").read_text(), config_yaml(e.config)
    folder = run
    if yaml.safe_load(tested).get("TEST") != yaml.safe_load(wanted)["TEST"]:
        folder = e.folder / "evaluations" / e.key
        _write_config(folder / "row.yaml", e)
        words = ["--cfg", str(folder / "row.yaml"), "--output", str(folder)]
        yield from _run_tool("valid", e, job, *words, "TEST.MODEL_FILE", str(_weights(run)))
    return read_json(folder / "run.json", "record of a run")["figures"]


def _finished_run(folder: Path) -> Path | None:
    """The newest run that was trained to its end and still has its weights."""
    for path in sorted(folder.glob("*/run.json"), reverse=True):
        if read_json(path, "record of a run").get("finished") and _weights(path.parent).is_file():
            return path.parent
    return None


def _run_tool(tool: str, e: Experiment, job: TrainingJob, *arguments: str) -> Iterator[None]:
    """Run tools/<tool>.py to its end. RowError: it failed."""
    words = [sys.executable, str(TOOLS / f"{tool}.py"), *arguments]
    runtime = {key: as_override(get_option(e.config, key)) for key in RUNTIME_OPTIONS}
    words += [word for pair in (runtime | {"DEVICE": job.device}).items() for word in pair]
    with (e.folder / "log.txt").open("a+b") as log:
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        start = log.tell()
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        kept = (job.lock.fileno(),) if os.name == "posix" else ()
        process = subprocess.Popen(words, pass_fds=kept, **streams)
        job.started.append(process)
        while process.poll() is None:
            yield
        log.seek(start)
        output = log.read().decode(errors="replace")
    if process.returncode < 0:
        raise RowError(f"killed by {signal.Signals(-process.returncode).name}")
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raise RowError((errors or lines or [f"status {process.returncode}"])[-1])


def _write_config(path: Path, e: Experiment) -> None:
    """The experiment as YAML, without the options that are given on the command line."""
    config = e.config.clone()
    config.defrost()
    config.NAME = f"ablations/{e.training_key}"
    text = config_yaml(config)
    atomic_write(path, lambda file: file.write(text.encode()))


def _weights(run: Path) -> Path:
    return run / "checkpoints" / "last.pth"
