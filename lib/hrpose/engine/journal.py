"""What happened, in three forms: text for people, JSON lines for programs, TensorBoard events."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from torch import Tensor
from tqdm import tqdm

from hrpose.ops.files import write_whole


class Journal:
    """Writes log.txt, metrics.jsonl and TensorBoard events into one folder.

    A run that is continued at `step` forgets what was written after it. (An evaluation that was
    interrupted before it was saved is done, and written, again.)
    """

    def __init__(self, folder: Path, step: int = 0):
        self.log = folder / "log.txt"
        self.metrics = folder / "metrics.jsonl"
        _forget_after(self.metrics, step)
        self.events = SummaryWriter(str(folder), purge_step=step + 1)

    def say(self, text: str) -> None:
        """A line for people, on the screen and in log.txt."""
        tqdm.write(text)
        with self.log.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Named numbers of one step, the same in every form."""
        line = json.dumps({"step": step, **values})
        with self.metrics.open("a") as file:
            file.write(line + "\n")
        for name, value in values.items():
            self.events.add_scalar(name, value, step)
        self.events.flush()

    def close(self) -> None:
        self.events.close()


class Meter:
    """Means of the terms since the last reading, without asking the device in between."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.images = 0
        self.waiting = 0.0
        self.since = self.began = time.perf_counter()

    def waited(self) -> None:
        """A batch has come; what passed since the last step was waiting for it."""
        self.waiting += time.perf_counter() - self.since

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value.detach().sum()
        self.images += len(terms["loss"])
        self.since = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Means per image, images/s and the share of time that went into waiting; starts anew."""
        means = {name: float(value) / self.images for name, value in self.sums.items()}
        elapsed = time.perf_counter() - self.began
        pace = {"images/s": self.images / elapsed, "data_wait": self.waiting / elapsed}
        self.restart()
        return {**means, **pace}


def _forget_after(metrics: Path, step: int) -> None:
    if not metrics.is_file():
        return
    lines = [line for line in metrics.read_text().splitlines() if _is_whole(line)]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    text = "".join(line + "\n" for line in kept)
    write_whole(metrics, lambda file: file.write(text.encode()))


def _is_whole(line: str) -> bool:
    """A line that a crash cut short is not."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
