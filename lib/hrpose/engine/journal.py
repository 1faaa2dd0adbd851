"""What happened: text for people, JSON lines for programs, TensorBoard events, and trackers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import NamedTuple, Protocol

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from hrpose.ops.files import naming_full_disk


class Place(NamedTuple):
    """How far a journal has come."""

    size: int = 0  # bytes of metrics.jsonl
    step: int = 0


class Outlet(Protocol):
    """Where numbers go besides."""

    def write(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Journal:
    """Writes log.txt, metrics.jsonl and TensorBoard events into one folder.

    A run that is continued from `place` forgets what was written after it.
    """

    def __init__(self, folder: Path, place: Place = Place(), outlets: Sequence[Outlet] = ()):  # noqa: B008
        self.log = folder / "log.txt"
        self.metrics = folder / "metrics.jsonl"
        _cut(self.metrics, place.size)
        self.outlets = [Events(folder, place.step), *outlets]

    def say(self, text: str) -> None:
        """A line for people, on the screen and in log.txt."""
        tqdm.write(text)
        with naming_full_disk(self.log), self.log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Named numbers of one step, the same in every form."""
        with naming_full_disk(self.metrics), self.metrics.open("a") as file:
            file.write(dumps({"step": step, **values}) + "\n")
        for outlet in self.outlets:
            outlet.write(values, step)

    def place(self, step: int) -> Place:
        """Where the journal stands now, for a checkpoint."""
        return Place(self.metrics.stat().st_size if self.metrics.exists() else 0, step)

    def close(self) -> None:
        while self.outlets:
            self.outlets.pop().close()


class Events:
    """TensorBoard's, from `step` on anew.

    They are written at once and by whoever asks: tensorboardX's own thread would die of a full disk
    without a word, and the run would then wait for it for ever.
    """

    def __init__(self, folder: Path, step: int):
        self.path = folder / "events"
        begins = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        with naming_full_disk(self.path):
            self.writer = EventsWriter(str(self.path))
            self.writer.write_event(begins)

    def write(self, values: Mapping[str, float], step: int) -> None:
        named = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=named))
        with naming_full_disk(self.path):
            self.writer.write_event(event)
            self.writer.flush()

    def close(self) -> None:
        with naming_full_disk(self.path):
            self.writer.close()


class Silence:
    """The journal of a process that does not lead."""

    def say(self, text: str) -> None:
        """Nothing."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def place(self, step: int) -> Place:
        return Place(0, step)

    def close(self) -> None:
        """Nothing."""


def _cut(metrics: Path, size: int) -> None:
    """Forget what is beyond the place, and what a crash left of a line."""
    if not metrics.is_file():
        return
    kept = metrics.read_bytes()[:size]
    with metrics.open("r+b") as file:
        file.truncate(kept.rfind(b"\n") + 1)
