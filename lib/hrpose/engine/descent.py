"""One step after the other down the mean loss of the global batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.autograd.profiler import record_function
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from hrpose.engine.average import Average
from hrpose.engine.distributed import World, replicated
from hrpose.engine.meter import Verdict
from hrpose.engine.optim import set_learning_rate
from hrpose.engine.step import Batch, TrainStep, to_device


class Manner(NamedTuple):
    """How a step is taken."""

    batch: int  # images of a step, over all processes
    passes: int = 1  # parts into which a process takes its share, one after the other
    clip: float = 0.0  # longest gradient; 0: any
    seed: int = 0  # of what the network itself throws dice for, such as dropout
    ema: float = 0.0  # decay of the average that follows; 0: none does


class Descent:
    """Takes steps. One whose loss or gradient is not finite changes nothing.

    Nothing here waits for the device: whether a step was finite is known there alone, and the
    optimiser and the running statistics are told there.
    """

    def __init__(
        self,
        step: TrainStep,
        optimizer: Optimizer,
        manner: Manner,
        world: World,
        devices: list[torch.device],
    ):
        self.step = step
        self.optimizer = optimizer
        self.manner = manner
        self.world = world
        self.device = devices[0]
        self.replicas = replicated(step, world, devices)
        self.statistics = Statistics(step.model)
        self.average = Average(step.model, manner.ema) if manner.ema else None
        half = step.numerics.precision == torch.float16
        self.scaler = GradScaler(self.device.type, enabled=half)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.under_way = False  # a step has begun
        self.changing = False  # and come so far that it cannot be undone

    def take(self, batch: Batch, rate: float, number: int) -> tuple[dict[str, Tensor], Verdict]:
        """Step `number` of the run, at this learning rate: the terms of every image (B,)."""
        set_learning_rate(self.optimizer, rate)
        torch.manual_seed(_dice(self.manner.seed, number, self.world.rank))
        self.statistics.remember()
        self.under_way = True
        self.optimizer.zero_grad(set_to_none=True)
        terms = _joined([self._pass(part, last) for part, last in self._parts(batch)])
        skipped, verdict = self._judge(terms["loss"], batch["index"])
        self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
        self.changing = True
        with record_function("optimizer"):
            self.optimizer.step()
        self.scaler.update()
        self.statistics.return_where(skipped)
        if self.average:
            self.average.follow(self.step.model, skipped)
        self.under_way = self.changing = False
        return terms, verdict

    def undo(self) -> None:
        """Forget a step that broke off before the weights changed.

        RuntimeError: they may have changed, some of them; nothing here is fit to be kept.
        """
        if self.changing:
            raise RuntimeError("a step broke off while weights were changing")
        if self.under_way:
            self.statistics.return_where(torch.tensor(True, device=self.device))
            self.under_way = False

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        """The share of this process in nearly equal parts, and whether one is the last."""
        images = len(batch["image"])
        for place in np.array_split(np.arange(images), self.manner.passes):
            first, end = place[0], place[-1] + 1
            part = {name: value[first:end] for name, value in batch.items()}
            with record_function("to_device"):
                part = to_device(part, self.device)
            yield part, end == images

    def _pass(self, part: Batch, last: bool) -> dict[str, Tensor]:
        with nullcontext() if last else self._unshared():
            terms = self.replicas(part)
            # DDP takes the mean over processes; what is descended is that over all images.
            share = terms["loss"].sum() * (self.world.size / self.manner.batch)
            with record_function("backward"):
                self.scaler.scale(share).backward()
        return {name: value.detach() for name, value in terms.items()}

    def _unshared(self) -> AbstractContextManager:
        """Gradients stay in their process until the last pass."""
        if isinstance(self.replicas, DistributedDataParallel):
            return self.replicas.no_sync()
        return nullcontext()

    def _judge(self, losses: Tensor, index: Tensor) -> tuple[Tensor, Verdict]:
        """Whether the step must be skipped, and why.

        Half precision overflows as a matter of course: GradScaler then scales less, and nobody is
        to blame. Otherwise, images whose loss is no number are, or all if every loss is one.
        """
        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.manner.clip:
            clip_grads_with_norm_(self.parameters, self.manner.clip, norm)
        broken = ~losses.isfinite()
        flags = torch.stack([broken.any(), ~norm.isfinite()]).to(torch.uint8)
        no_loss, no_gradient = self.world.highest(flags).bool()
        skipped = no_loss | no_gradient
        lost = no_loss if self.scaler.is_enabled() else skipped
        blamed = lost & (broken | ~no_loss)
        indices = index.to(self.device, non_blocking=True)
        return skipped, Verdict(lost, indices.where(blamed, -1))

    def state(self) -> dict[str, Any]:
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return state | ({"average": self.average.state()} if self.average else {})

    def resume(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.resume(state["average"])


class Statistics:
    """The running statistics of a network, as they were before the step."""

    def __init__(self, model: nn.Module):
        kinds = {buffer.dtype: [] for buffer in model.buffers()}  # type: ignore[var-annotated]
        for buffer in model.buffers():
            kinds[buffer.dtype].append(buffer.view(-1))
        self.live = list(kinds.values())  # one after the other they would take a thousand calls
        self.kept: list[Tensor] = []

    def remember(self) -> None:
        self.kept = [torch.cat(buffers) for buffers in self.live]

    @torch.no_grad()
    def return_where(self, undone: Tensor) -> None:
        for buffers, kept in zip(self.live, self.kept):
            chosen = kept.where(undone, torch.cat(buffers))
            torch._foreach_copy_(buffers, list(chosen.split([len(b) for b in buffers])))


def _dice(*place: int) -> int:
    """A seed that follows from the place alone, so that no state of dice need be saved."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
