"""What happened, in three forms: text for people, JSON lines for programs, TensorBoard events."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm


class Journal:
    """Writes log.txt, metrics.jsonl and TensorBoard events into one folder.

    A run that is continued at `step` forgets what was written after it, so that nothing stands
    there twice.
    """

    def __init__(self, folder: Path, step: int = 0):
        self.log = folder / "log.txt"
        self.metrics = folder / "metrics.jsonl"
        _forget_after(self.metrics, step)
        self.events = SummaryWriter(str(folder), purge_step=step)

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


def _forget_after(metrics: Path, step: int) -> None:
    if not metrics.is_file():
        return
    lines = [line for line in metrics.read_text().splitlines() if _is_whole(line)]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    metrics.write_text("".join(line + "\n" for line in kept))


def _is_whole(line: str) -> bool:
    """A line that a crash cut short is not."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
