"""A run as it stands: what learns, from what, how far it has come, and where it is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from hrpose.engine.descent import Descent
from hrpose.engine.distributed import World
from hrpose.engine.journal import Journal, Place, Silence
from hrpose.engine.meter import Meter
from hrpose.engine.runs import Run
from hrpose.engine.signals import Signals

Figures = dict[str, float]


@dataclass
class Progress:
    """Where a run is."""

    epoch: int = 0
    batch: int = 0  # of this epoch, done
    step: int = 0  # of the run, done
    lost: int = 0  # steps of this epoch that were skipped, up to the last look
    best: float = -math.inf  # AP
    figures: dict[str, Figures] = field(default_factory=dict)  # network -> its last evaluation


@dataclass
class Training:
    """A run: what learns, from what, where it is kept."""

    descent: Descent
    loader: DataLoader
    journal: Journal | Silence
    run: Run
    kept: dict[str, Any]  # stands in every checkpoint: config, joints, convention
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.meter = Meter(self.world, self.descent.device)
        self.signals = Signals(patient=self.world.size > 1)
        self.saved = time.monotonic()  # when the last checkpoint was written
        self.saved_at: tuple[int, int] | None = None  # its epoch and batch

    @property
    def world(self) -> World:
        return self.descent.world

    @property
    def model(self) -> nn.Module:
        return self.descent.step.model

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What is evaluated: the network that learns and, if one follows it, their average."""
        average = self.descent.average
        return {"val": self.model} | ({"ema": average.network} if average else {})

    def checkpoint(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            **self.descent.state(),
            "progress": asdict(self.progress),
            "meter": self.meter.state(),
            "journal": list(self.journal.place(self.progress.step)),
            **self.kept,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue where a checkpoint stands. The journal has been opened at its place."""
        self.model.load_state_dict(state["model"])
        self.descent.resume(state)
        self.meter.resume(state["meter"])
        self.progress = Progress(**state["progress"])
        self.saved_at = (self.progress.epoch, self.progress.batch)


def place_of(state: Mapping[str, Any] | None) -> Place:
    """Where the journal stood at a checkpoint; without one, at its beginning."""
    return Place(*state["journal"]) if state else Place()
