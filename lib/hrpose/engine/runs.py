"""Run folders: output/<experiment>/<time>/, and which of them to continue."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from hrpose.engine.checkpoint import series
from hrpose.ops.files import DiskFullError, naming_full_disk, write_whole

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, do not start two runs of one config at once
    fcntl = None  # type: ignore[assignment]


class Run(NamedTuple):
    """A run folder that this process holds, or that its leader does."""

    folder: Path
    continued: bool
    lock: IO[str] | None  # the leader's; the system lets go of it when the process dies

    def discard(self) -> None:
        """Leave nothing of a run that never began to train."""
        if self.lock:
            self.lock.close()
            if not (self.last.exists() or self.continued):
                shutil.rmtree(self.folder)
                with suppress(OSError):  # other runs stand there
                    self.folder.parent.rmdir()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def last(self) -> Path:
        return self.checkpoints / "last.pth"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.pth"


def open_run(experiment: Path, config: str, resume: str) -> Run:
    """The newest unfinished run of the same config that nobody holds, or else a new one.

    experiment: folder of all runs of it   config: the frozen config as text, less what may differ
    resume: auto, never, or a run folder, which must have the same config
    """
    if resume not in ("auto", "never"):
        return _continue_named(Path(resume), config)
    for folder in _newest_first(experiment) if resume == "auto" else ():
        if is_unfinished(folder) and not _changes(_reads(folder / "config.yaml"), config):
            lock = hold(folder)
            if lock:
                return _continued(folder, lock)
    return _start(experiment, config)


def is_unfinished(folder: Path) -> bool:
    """A run that has something to continue from and did not come to its end."""
    return bool(series(folder / "checkpoints", "last")) and not json.loads(
        _reads(folder / "run.json") or "{}"
    ).get("finished")


def _continue_named(folder: Path, config: str) -> Run:
    if not series(folder / "checkpoints", "last"):
        raise FileNotFoundError(
            f"TRAIN.RESUME: no checkpoints/last.pth in {folder}; give auto, never, or a run folder "
            "such as output/w32_512/20260131-120000"
        )
    refuse_other(_reads(folder / "config.yaml"), config, f"TRAIN.RESUME: {folder}")
    lock = hold(folder)
    if not lock:
        raise ValueError(f"TRAIN.RESUME: another process is working in {folder}")
    return _continued(folder, lock)


def refuse_other(theirs: str, config: str, where: str) -> None:
    """ValueError, naming what differs, if a run or a checkpoint is of another config."""
    changes = _changes(theirs, config)
    if changes:
        raise ValueError(
            f"{where} was run with another config; use that one, or TRAIN.RESUME never to start "
            f"anew. What changed: {', '.join(changes[:10])}"
        )


def _changes(theirs: str, config: str) -> list[str]:
    """The options whose values differ between two configs, however each is written."""
    had, have = _options(_tree(theirs)), _options(_tree(config))
    differing = [key for key in sorted(had | have) if had.get(key, ...) != have.get(key, ...)]
    return [f"{key} {had.get(key)} -> {have.get(key)}" for key in differing]


def _tree(config: str) -> Mapping[str, Any] | None:
    """None if the text is no config, as of a file that somebody damaged."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return None
    return tree if isinstance(tree, Mapping) else None


def _options(tree: Mapping[str, Any] | None, prefix: str = "") -> dict[str, Any]:
    """A.B.C -> value"""
    options: dict[str, Any] = {}
    for key, value in (tree or {}).items():
        inner = isinstance(value, Mapping)
        options |= _options(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return options


def _continued(folder: Path, lock: IO[str]) -> Run:
    """The run, less what a kill in the middle of saving left behind."""
    for scrap in (folder / "checkpoints").glob(".*"):
        scrap.unlink()
    return Run(folder, True, lock)


def _start(experiment: Path, config: str) -> Run:
    folder = new_folder(experiment)
    lock = hold(folder)
    if not lock:
        raise ValueError(f"another process took {folder}; start again")
    write_whole(folder / "config.yaml", lambda file: file.write(config.encode()))
    return Run(folder, False, lock)


def new_folder(experiment: Path) -> Path:
    """A folder of its own, named by the time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for attempt in itertools.count(1):
        folder = experiment / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            with naming_full_disk(folder):
                folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except DiskFullError:
            raise
        except OSError as error:
            raise OSError(
                f"no run folder can be made in {experiment}: {error}; set OUTPUT_DIR to a place "
                "that can be written"
            ) from error
        break
    return folder


def _newest_first(experiment: Path) -> list[Path]:
    """By name, which is the time; a copied file must not make an old run a new one."""
    return sorted((path.parent for path in experiment.glob("*/config.yaml")), reverse=True)


def hold(folder: Path) -> IO[str] | None:
    """An open lock file, or None if a live process has it."""
    with naming_full_disk(folder / ".lock"):
        lock = (folder / ".lock").open("a")
    if fcntl:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        except OSError as error:  # some network disks cannot lock
            warnings.warn(f"{folder} cannot be locked ({error}); do not run twice", stacklevel=2)
    if hasattr(os, "register_at_fork"):  # a process that outlives us must not hold it for us
        os.register_at_fork(after_in_child=lock.close)
    try:
        with naming_full_disk(folder / ".lock"):
            os.truncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
    except OSError:
        lock.close()
        raise
    return lock


def _reads(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
