"""One training step: forward pass and loss terms; backward pass, clipping, optimizer, average.

Losses are known by their names, and nothing of pose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.autograd.profiler import record_function
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from hrpose.engine.distributed import DistInfo, wrap_parallel
from hrpose.engine.ema import EMA, BufferSnapshot
from hrpose.engine.logger import StepStatus
from hrpose.structures import LossOutput

Batch = dict[str, Tensor]


class PrecisionConfig(NamedTuple):
    """How the network is computed; up to rounding, its predictions are the same."""

    dtype: torch.dtype = torch.float32  # of autocast; losses are computed in float32 or better
    compiled: bool = False


class TrainStep(nn.Module):
    """Preprocessing, the model and its losses: the module that DataParallel and DDP wrap."""

    def __init__(
        self,
        preprocess: Callable[[Tensor], Tensor],
        model: nn.Module,
        loss: Callable[[Any, Mapping[str, Tensor]], LossOutput],
        precision: PrecisionConfig = PrecisionConfig(),  # noqa: B008  a tuple
        frozen_norms: Sequence[nn.Module] = (),
    ):
        """frozen_norms: of the model, which keep their statistics"""
        super().__init__()
        self.preprocess = preprocess
        # Channels last is faster on CPUs and on tensor cores.
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.precision = precision
        self.frozen_norms = tuple(frozen_norms)
        # The model itself keeps its parameter names and is evaluated uncompiled.
        self.compiled_forward = torch.compile(model.forward) if precision.compiled else None

    def train(self, mode: bool = True) -> TrainStep:
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": the weighted sum, then every term unweighted, then metrics}, each (B,)."""
        with record_function("forward"):
            outputs = self.predict(batch["image"])
        with record_function("loss"):
            terms = self.loss(outputs, batch)
        # Added one by one, so that a term of 0 leaves the sum as it is, bit for bit.
        weighted = [terms.weights[name] * value for name, value in terms.losses.items()]
        return {"loss": reduce(torch.add, weighted), **terms.losses, **terms.metrics}

    def predict(self, images: Tensor) -> Any:
        """Raw images (B, 3, H, W) -> the model's outputs."""
        dtype = self.precision.dtype
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            images = self.preprocess(images).contiguous(memory_format=torch.channels_last)
            # An occasional prediction in evaluation mode is not worth a second compilation.
            compiled = self.compiled_forward if self.training else None
            return (compiled or self.model)(images)


class StepConfig(NamedTuple):
    """How an optimizer step is computed."""

    batch_size: int  # images of a step, over all processes
    accumulation: int = 1  # micro-batches of a process, one after the other
    clip_norm: float = 0.0  # maximum gradient norm; 0: no clipping
    seed: int = 0  # of the network's own random numbers, as for dropout
    ema_decay: float = 0.0  # 0: no moving average


class OptimizerStep:
    """Optimizer steps on the mean loss of the global batch; non-finite ones change nothing.

    There is no host sync in a step: whether it was finite is known only to the device, where the
    optimizer, the running statistics and the moving average read it.
    """

    def __init__(
        self,
        train_step: TrainStep,
        optimizer: Optimizer,
        config: StepConfig,
        dist: DistInfo,
        devices: list[torch.device],
    ):
        self.train_step = train_step
        self.optimizer = optimizer
        self.config = config
        self.dist = dist
        self.device = devices[0]
        self.parallel = wrap_parallel(train_step, dist, devices)
        self.buffers = BufferSnapshot(train_step.model)
        self.ema = EMA(train_step.model, config.ema_decay) if config.ema_decay else None
        fp16 = train_step.precision.dtype == torch.float16
        self.scaler = GradScaler(self.device.type, enabled=fp16)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.updating = False  # weights may have changed, some of them

    def step(self, batch: Batch, lr: float, number: int) -> tuple[dict[str, Tensor], StepStatus]:
        """Step `number` of the run: the loss terms of every image (B,), and its status."""
        self._prepare(lr, number)
        self.optimizer.zero_grad(set_to_none=True)
        results, count = [], self.config.accumulation
        micro_batches = zip(*(value.tensor_split(count) for value in batch.values()))
        for i, micro_batch in enumerate(micro_batches, 1):
            with record_function("to_device"):
                part = to_device(dict(zip(batch, micro_batch)), self.device)
            self.parallel.require_backward_grad_sync = i == count  # type: ignore[assignment]  # DDP
            terms = self.parallel(part)
            # DDP averages gradients over processes; wanted is the mean over all images.
            loss = terms["loss"].sum() * (self.dist.world_size / self.config.batch_size)
            with record_function("backward"):
                self.scaler.scale(loss).backward()
            results.append({name: value.detach() for name, value in terms.items()})
        terms = {name: torch.cat([result[name] for result in results]) for name in terms}

        self.scaler.unscale_(self.optimizer)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.config.clip_norm:
            clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        bad = ~terms["loss"].isfinite()
        flags = torch.stack([bad.any(), ~norm.isfinite()]).to(torch.uint8)
        bad_loss, bad_gradient = self.dist.all_reduce_max(flags).bool()
        skip = bad_loss | bad_gradient
        self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # skips if it is 1

        self.updating = True
        with record_function("optimizer"):
            self.optimizer.step()
        self.scaler.update()
        self.buffers.restore_where(skip)
        if self.ema:
            self.ema.update(self.train_step.model, skip)
        self.updating, self.buffers.saved = False, []
        # fp16 gradients overflow as a matter of course: GradScaler lowers its scale, and no image
        # is bad. Otherwise those without a finite loss are or, if every loss is finite, all.
        skipped = bad_loss if self.scaler.is_enabled() else skip
        indices = batch["index"].to(self.device, non_blocking=True)
        return terms, StepStatus(skipped, indices.where(skipped & (bad | ~bad_loss), -1))

    def _prepare(self, lr: float, number: int) -> None:
        """Set learning rate and random seed, and save what a skipped step must not change."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Seeded only by seed, step and rank, so that no generator's state need be saved.
        seeds = np.random.SeedSequence((self.config.seed, number, self.dist.rank))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.buffers.save()

    def rollback(self) -> None:
        """Undo a step that an error interrupted before the weights changed.

        RuntimeError: weights may have changed, some of them; none of this may be saved.
        """
        if self.updating:
            raise RuntimeError("a step was interrupted while weights were changing")
        if self.buffers.saved:
            self.buffers.restore_where(torch.tensor(True, device=self.device))
            self.buffers.saved = []

    def state_dict(self) -> dict[str, Any]:
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        return state | ({"average": self.ema.state_dict()} if self.ema else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["average"])


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
