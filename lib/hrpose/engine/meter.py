"""Means of the terms since the last reading, without asking the device in between."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hrpose.engine.distributed import World

T = TypeVar("T")


class Reading(NamedTuple):
    """What a meter read."""

    means: dict[str, float]  # of every term, over the images of which it is a number
    pace: dict[str, float]  # images/s, share of time spent waiting for data, bytes in use
    steps: int
    lost: int  # steps that were skipped, somebody being to blame
    culprits: list[int]  # indices of the images to blame


class Verdict(NamedTuple):
    """What the device knows of a step."""

    lost: Tensor  # () whether it was skipped for want of a finite loss, in whatever process
    culprits: Tensor  # (B,) indices of the images to blame, -1 for the others


class Meter:
    """Adds up on the device; reads on the host, over all processes at once."""

    def __init__(self, world: World, device: torch.device):
        self.world = world
        self.device = device
        self._restart()

    def _restart(self) -> None:
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.counts: dict[str, Tensor | float] = defaultdict(float)
        self.steps = 0
        self.lost: Tensor | int = 0
        self.culprits: list[Tensor] = []
        self.start_clock()

    def start_clock(self) -> None:
        """What passed before counts for nothing: an evaluation, say."""
        self.images, self.waiting, self.began = 0, 0.0, time.perf_counter()

    def awaited(self, source: Iterator[T]) -> T:
        """What comes next from a source of batches, the time until then being noted."""
        began = time.perf_counter()
        batch = next(source)
        self.waiting += time.perf_counter() - began
        return batch

    def add(self, terms: Mapping[str, Tensor], verdict: Verdict) -> None:
        """The terms of a step's images, (B,) each; who has no finite loss adds nothing."""
        sound = terms["loss"].isfinite()
        for name, value in terms.items():
            number = sound & value.isfinite()
            self.sums[name] = self.sums[name] + value.where(number, 0).sum()
            self.counts[name] = self.counts[name] + number.sum()
        self.steps += 1
        self.lost = self.lost + verdict.lost.long()
        self.culprits.append(verdict.culprits)
        self.images += len(terms["loss"]) * self.world.size

    def read(self) -> Reading:
        """What was added since the last reading; begins anew. All processes must read at once."""
        blamed = {index for own in self.world.gathered(self._blamed()) for index in own}
        means = self._means()  # by now the device has caught up
        elapsed = time.perf_counter() - self.began
        reading = Reading(
            means,
            {
                "images/s": self.images / elapsed,
                "data_wait": self.waiting / elapsed,
                "memory": float(memory_in_use(self.device)),
            },
            self.steps,
            int(self.lost),
            sorted(blamed),
        )
        self._restart()
        return reading

    def state(self) -> dict[str, Any]:
        """What was added since the last reading. The sums of other processes are not known here."""
        alone = self.world.size == 1
        return {
            "sums": {name: float(value) for name, value in self.sums.items() if alone},
            "counts": {name: float(value) for name, value in self.counts.items() if alone},
            "steps": self.steps,
            "lost": int(self.lost),
            "culprits": self._blamed(),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        self.sums.update(state["sums"])
        self.counts.update(state["counts"])
        self.steps, self.lost = state["steps"], state["lost"]
        self.culprits = [torch.tensor(state["culprits"], dtype=torch.int64, device=self.device)]

    def _blamed(self) -> list[int]:
        return [i for i in torch.cat(self.culprits).tolist() if i >= 0] if self.culprits else []

    def _means(self) -> dict[str, float]:
        names = list(self.sums)
        own = [self.sums[name] for name in names] + [self.counts[name] for name in names]
        stacked = [torch.as_tensor(value, device=self.device).double() for value in own]
        totals = self.world.summed(torch.stack(stacked)).tolist() if stacked else []
        pairs = zip(names, totals[: len(names)], totals[len(names) :])
        return {name: total / count for name, total, count in pairs if count}


def memory_in_use(device: torch.device) -> int:
    """The most bytes that the device, or on the CPU this process, has held at once."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # Unix alone has it

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
