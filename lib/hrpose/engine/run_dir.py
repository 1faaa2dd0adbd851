"""Run folders, output/<experiment>/<time>/, and which of them to resume."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from hrpose.engine.checkpoint import list_checkpoints
from hrpose.ops.atomic_io import atomic_write, naming_full_disk

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, do not start two runs of one config at once
    fcntl = None  # type: ignore[assignment]

Rename = Callable[[str, Any], tuple[str, Any] | None]


class RunDir(NamedTuple):
    """A run folder that this process, or the main process, has locked."""

    folder: Path
    resumed: bool
    lock: IO[str] | None  # only in the main process; released when the process dies

    def discard(self) -> None:
        """Delete the folder of a run that failed before it started to train."""
        if self.lock:
            self.lock.close()
            if not (self.last.exists() or self.resumed):
                shutil.rmtree(self.folder)
                with suppress(OSError):  # it contains other runs
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


def open_run_dir(
    experiment: Path, config: str, resume: str, rename: Rename = lambda key, value: (key, value)
) -> RunDir:
    """The newest unfinished run of the same config that is not locked, or else a new one.

    experiment: folder of all its runs   config: YAML, without options that may differ
    resume: auto, never, or a run folder, which must have the same config
    rename: an option of an older run's config -> its name and value of today; None: gone
    """
    if resume not in ("auto", "never"):
        return _resume_named(Path(resume), config, rename)
    if resume == "auto":
        # Newest by name, which is the time: copying a file into an old run must not make it new.
        for path in sorted(experiment.glob("*/config.yaml"), reverse=True):
            if is_unfinished(path.parent) and not _differences(path.read_text(), config, rename):
                lock = acquire_lock(path.parent)
                if lock:
                    return _resume(path.parent, lock)
    folder = create_run_folder(experiment)
    lock = acquire_lock(folder)
    if not lock:
        raise ValueError(f"another process took {folder}; start again")
    atomic_write(folder / "config.yaml", lambda file: file.write(config.encode()))
    return RunDir(folder, False, lock)


def is_unfinished(folder: Path) -> bool:
    """Whether a run has a checkpoint to resume from and did not reach its end."""
    record = folder / "run.json"
    finished = record.is_file() and json.loads(record.read_bytes() or b"{}").get("finished")
    return bool(list_checkpoints(folder / "checkpoints", "last")) and not finished


def _resume_named(folder: Path, config: str, rename: Rename) -> RunDir:
    if not list_checkpoints(folder / "checkpoints", "last"):
        raise FileNotFoundError(
            f"TRAIN.RESUME: no checkpoints/last.pth in {folder}; give auto, never, or a run folder "
            "such as output/w32_512/20260131-120000"
        )
    stored = folder / "config.yaml"
    theirs = stored.read_text() if stored.is_file() else ""
    check_same_config(theirs, config, f"TRAIN.RESUME: {folder}", rename)
    lock = acquire_lock(folder)
    if not lock:
        raise ValueError(f"TRAIN.RESUME: another process is working in {folder}")
    return _resume(folder, lock)


def _resume(folder: Path, lock: IO[str]) -> RunDir:
    """The run, without temporary files of a process that was killed while it saved."""
    for temporary in (folder / "checkpoints").glob(".*"):
        temporary.unlink()
    return RunDir(folder, True, lock)


def check_same_config(theirs: str, config: str, where: str, rename: Rename) -> None:
    """ValueError, with the differences, if a run or a checkpoint has another config."""
    differences = _differences(theirs, config, rename)
    if differences:
        raise ValueError(
            f"{where} was run with another config; use that one, or TRAIN.RESUME never to start "
            f"anew. What changed: {', '.join(differences[:10])}"
        )


def _differences(theirs: str, config: str, rename: Rename) -> list[str]:
    """The options whose values differ between two configs, whatever YAML's notation."""
    old, new = _options(theirs, rename), _options(config, rename)
    differing = [key for key in sorted(old | new) if old.get(key, ...) != new.get(key, ...)]
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in differing]


def _options(config: str, rename: Rename) -> dict[str, Any]:
    """A.B.C -> value; empty for text that is not a config, as of a damaged file."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    pairs = _flatten(tree) if isinstance(tree, Mapping) else ()
    return dict(pair for pair in (rename(key, value) for key, value in pairs) if pair)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def create_run_folder(experiment: Path) -> Path:
    """Create a new folder named by the time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    for attempt in itertools.count(1):
        folder = experiment / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            with naming_full_disk(folder):
                folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise type(error)(
                f"no run folder can be made in {experiment}: {error}; set OUTPUT_DIR to a place "
                "that can be written"
            ) from error
    return folder


def acquire_lock(folder: Path) -> IO[str] | None:
    """An open lock file, or None if a live process holds it."""
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
    if hasattr(os, "register_at_fork"):  # workers that outlive this process must not hold it
        os.register_at_fork(after_in_child=lock.close)
    try:
        with naming_full_disk(folder / ".lock"):
            os.truncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
    except OSError:
        lock.close()
        raise
    return lock
