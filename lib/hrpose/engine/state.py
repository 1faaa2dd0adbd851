"""The state of a run: what is trained, how far it is, and what its checkpoints hold."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from hrpose.engine.checkpoint import save_checkpoint
from hrpose.engine.distributed import DistInfo
from hrpose.engine.logger import Logger, MetricLogger
from hrpose.engine.run_dir import RunDir
from hrpose.engine.signals import Signals
from hrpose.engine.step import OptimizerStep

Metrics = dict[str, float]
PROGRESS_KEYS = ("epoch", "batch", "step", "lost", "best", "figures")
"""Names of the fields of Progress in checkpoints, which have been these from the first."""


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0  # complete ones
    batch: int = 0  # steps of this epoch so far
    step: int = 0  # steps of the run so far
    skipped: int = 0  # steps of this epoch that were not finite, up to the last log line
    best: float = -math.inf  # primary metric
    metrics: dict[str, Metrics] = field(default_factory=dict)  # model -> its last evaluation


@dataclass
class TrainState:
    """Everything that training changes, and where it is kept."""

    optimizer_step: OptimizerStep
    loader: DataLoader
    logger: Logger
    run_dir: RunDir
    metadata: dict[str, Any]  # in every checkpoint: config, skeleton, coordinate convention
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.metric_logger = MetricLogger(self.dist, self.optimizer_step.device)
        self.signals = Signals(sync_only=self.dist.world_size > 1)
        self.saved_time = time.monotonic()
        self.saved_at: tuple[int, int] | None = None  # epoch and batch of the last checkpoint

    @property
    def dist(self) -> DistInfo:
        return self.optimizer_step.dist

    @property
    def model(self) -> nn.Module:
        return self.optimizer_step.train_step.model

    @property
    def evaluated_models(self) -> dict[str, nn.Module]:
        """The trained model and, if there is one, its moving average."""
        ema = self.optimizer_step.ema
        return {"val": self.model} | ({"ema": ema.model} if ema else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            **self.optimizer_step.state_dict(),
            "progress": dict(zip(PROGRESS_KEYS, vars(self.progress).values())),
            "meter": self.metric_logger.state_dict(),
            "journal": [self.logger.size(), self.progress.step],
            **self.metadata,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a checkpoint. The logger must have been opened at its "journal"."""
        self.model.load_state_dict(state["model"])
        self.optimizer_step.load_state_dict(state)
        self.metric_logger.load_state_dict(state["meter"])
        self.progress = Progress(*(state["progress"][key] for key in PROGRESS_KEYS))
        self.saved_at = (self.progress.epoch, self.progress.batch)

    def save(self, keep: int) -> None:
        """Write a checkpoint, of which `keep` are kept.

        FloatingPointError: weights are not finite; the earlier checkpoints stay.
        """
        if not self.dist.is_main:
            return
        folder, progress = self.run_dir.checkpoints, self.progress
        if not all(bool(weight.isfinite().all()) for weight in self.model.state_dict().values()):
            raise FloatingPointError(
                "the model has weights that are not finite; lower TRAIN.LR. The checkpoints in "
                f"{folder} are from before"
            )
        with self.signals.deferred():
            save_checkpoint(folder, "last", progress.step, self.state_dict(), keep)
            self.saved_time = time.monotonic()
            self.saved_at = (progress.epoch, progress.batch)

    def save_if_best(self, name: str, metrics: Metrics, primary: str) -> None:
        """Keep the model called `name` if its primary metric is the highest so far."""
        if metrics[primary] > self.progress.best:
            if self.dist.is_main:
                weights = self.evaluated_models[name].state_dict()
                best = {"model": weights, "network": name, "figures": metrics, **self.metadata}
                save_checkpoint(self.run_dir.checkpoints, "best", self.progress.step, best, keep=1)
            self.progress.best = metrics[primary]
