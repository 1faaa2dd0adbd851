"""Run folders, output/<experiment>/<time>/, and which of them to resume."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from hrpose.engine.checkpoint import list_checkpoints
from hrpose.ops.atomic_io import atomic_write, naming_full_disk
from hrpose.ops.progress import listed

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, do not start two runs of one config at once
    fcntl = None  # type: ignore[assignment]

ReadOptions = Callable[[str], dict[str, Any]]
"""The YAML of a config -> its options; empty for text that is not a config."""
MayDiffer = Callable[[str, Any, Any], bool]
"""An option, its value in a run and now -> whether a run that is named continues with it."""

Differences = dict[str, tuple[Any, Any]]
"""Option -> its value in a run, and now."""

MISSING = "(not set)"
"""The value of an option that a config does not have."""

MOST_NAMED = 3
"""Unfinished runs, and options, that a message lists."""


class RunDir(NamedTuple):
    """A run folder that this process, or the main process, has locked."""

    folder: Path
    resumed: bool
    lock: IO[str] | None  # only in the main process; released when the process dies
    passed_over: tuple[str, ...] = ()  # the newest unfinished runs, and why they are not continued
    changed: tuple[str, ...] = ()  # options with other values than before
    cure: str = "Start again to continue"  # of an interruption

    def discard(self, output_dir: Path) -> None:
        """Delete the folder, below OUTPUT_DIR, of a run that failed before it started to train."""
        if self.lock:
            self.lock.close()
            if not (self.last.exists() or self.resumed):
                shutil.rmtree(self.folder)
                remove_empty(self.folder, output_dir)

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
    experiment: Path,
    config: str,
    resume: str,
    may_differ: MayDiffer = lambda key, old, new: False,
    read: ReadOptions | None = None,
) -> RunDir:
    """The newest unfinished run of the same config that is not locked, or else a new one.

    experiment: folder of all its runs   config: YAML, without options that may always differ
    resume: auto, never, or a run folder, of the same config but for options that `may_differ`
    read: configs of older versions too; None: `plain_options`
    """
    if resume not in ("auto", "never"):
        return _resume_named(Path(resume), config, may_differ, read)
    passed: list[str] = []
    # Newest by name, which is the time: copying a file into an old run must not make it new.
    paths = sorted(experiment.glob("*/config.yaml"), reverse=True) if resume == "auto" else ()
    for path in paths:
        if not is_unfinished(path.parent):
            continue
        differences = _differences(path.read_text(), config, read)
        lock = None if differences else acquire_lock(path.parent)
        if lock:
            return _resume(path.parent, lock)._replace(passed_over=_briefly(passed))
        passed.append(f"{path.parent}: {_why_not(path.parent, differences, may_differ)}")
    folder = create_run_folder(experiment)
    lock = acquire_lock(folder)
    if not lock:
        raise ValueError(f"another process took {folder}; start again")
    atomic_write(folder / "config.yaml", lambda file: file.write(config.encode()))
    new = RunDir(folder, False, lock, _briefly(passed))
    return new if resume == "auto" else new._replace(cure=f"TRAIN.RESUME {folder} continues it")


def _why_not(folder: Path, differences: Differences, may_differ: MayDiffer) -> str:
    """Why `auto` does not continue an unfinished run, and how to."""
    if not differences:
        return "another process is working in it"
    if all(old is MISSING for old, _ in differences.values()):
        return "its config.yaml cannot be read"
    named = all(may_differ(key, *values) for key, values in differences.items())
    cure = f"; TRAIN.RESUME {folder} continues it all the same" if named else ""
    return f"it has other options: {listed(_described(differences), MOST_NAMED)}{cure}"


def _briefly(texts: Sequence[str]) -> tuple[str, ...]:
    more = (f"and {len(texts) - MOST_NAMED} more",) if len(texts) > MOST_NAMED else ()
    return (*texts[:MOST_NAMED], *more)


def is_unfinished(folder: Path) -> bool:
    """Whether a run has a checkpoint to resume from and did not reach its end."""
    record = folder / "run.json"
    finished = record.is_file() and json.loads(record.read_bytes() or b"{}").get("finished")
    return bool(list_checkpoints(folder / "checkpoints", "last")) and not finished


def _resume_named(
    folder: Path, config: str, may_differ: MayDiffer, read: ReadOptions | None
) -> RunDir:
    """The run, from now on with this config."""
    if not list_checkpoints(folder / "checkpoints", "last"):
        raise FileNotFoundError(
            f"TRAIN.RESUME: no checkpoints/last.pth in {folder}; give auto, never, or a run folder "
            "such as output/w32_512/20260131-120000"
        )
    stored = folder / "config.yaml"
    theirs = stored.read_text() if stored.is_file() else ""
    changed = check_same_config(theirs, config, f"TRAIN.RESUME: {folder}", may_differ, read)
    lock = acquire_lock(folder)
    if not lock:
        raise ValueError(f"TRAIN.RESUME: another process is working in {folder}")
    if changed:
        atomic_write(stored, lambda file: file.write(config.encode()))
    return _resume(folder, lock)._replace(changed=tuple(changed))


def _resume(folder: Path, lock: IO[str]) -> RunDir:
    """The run, without temporary files of a process that was killed while it saved."""
    for temporary in (folder / "checkpoints").glob(".*"):
        temporary.unlink()
    return RunDir(folder, True, lock)


def check_same_config(
    theirs: str, config: str, where: str, may_differ: MayDiffer, read: ReadOptions | None
) -> list[str]:
    """What differs between the configs of a run or checkpoint and of now, as it may.

    ValueError, with the differences, if others do
    """
    differences = _differences(theirs, config, read)
    refused = {k: pair for k, pair in differences.items() if not may_differ(k, *pair)}
    if refused:
        raise ValueError(
            f"{where} was run with another config; use that one, or TRAIN.RESUME never to start "
            f"anew. What changed: {', '.join(_described(refused)[:10])}"
        )
    return _described(differences)


def _differences(theirs: str, config: str, read: ReadOptions | None) -> Differences:
    """The options whose values differ between two configs, whatever YAML's notation."""
    old, new = map(read or plain_options, (theirs, config))
    pairs = {key: (old.get(key, MISSING), new.get(key, MISSING)) for key in sorted(old | new)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _described(differences: Differences) -> list[str]:
    return [f"{key} {old} -> {new}" for key, (old, new) in differences.items()]


def plain_options(config: str) -> dict[str, Any]:
    """A.B.C -> value; empty for text that is not a config, as of a damaged file."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return dict(_flatten(tree)) if isinstance(tree, Mapping) else {}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, each in enumerate(value):
                yield from _flatten(each, f"{prefix}{key}[{number}].")
        elif isinstance(value, Mapping):
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


def remove_empty(folder: Path, output_dir: Path) -> None:
    """Remove a run folder that is empty, and then those above it, up to OUTPUT_DIR, that are."""
    for path in (folder, *folder.parents):
        if not path.is_relative_to(output_dir):
            return
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # it contains something
            return


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
