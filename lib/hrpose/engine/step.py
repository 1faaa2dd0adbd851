"""A batch -> its losses: what is copied to every device, the loss included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from hrpose.structures import Terms

Batch = dict[str, Tensor]


class Numerics(NamedTuple):
    """How the network computes. What it says is the same, but for rounding."""

    precision: torch.dtype = torch.float32  # the loss computes in float32 or better
    layout: torch.memory_format = torch.channels_last  # faster on CPUs and on tensor cores
    compiled: bool = False


class TrainStep(nn.Module):
    """A batch -> the losses of its images."""

    def __init__(
        self,
        prepare: Callable[[Tensor], Tensor],
        model: nn.Module,
        loss: Callable[[Any, Mapping[str, Tensor]], Terms],
        numerics: Numerics = Numerics(),  # noqa: B008  a tuple
    ):
        super().__init__()
        self.prepare = prepare
        self.model = model.to(memory_format=numerics.layout)  # type: ignore[call-overload]
        self.loss = loss
        self.numerics = numerics
        # Compiled beside the network, which keeps its names and is evaluated as it is.
        self.compiled = torch.compile(model.forward) if numerics.compiled else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """{"loss": the weighted sum that is descended, then every term unweighted}, each (B,)."""
        with record_function("forward"):
            outputs = self.outputs(batch)
        with record_function("loss"):
            terms = self.loss(outputs, batch)
        # One after the other, so that a term that is 0 leaves the sum as it is, bit for bit.
        total = reduce(torch.add, [terms.weights[name] * terms.loss[name] for name in terms.loss])
        return {"loss": total, **terms.loss, **terms.watch}

    def outputs(self, batch: Batch) -> Any:
        images, precision = batch["image"], self.numerics.precision
        half = precision != torch.float32
        with torch.autocast(images.device.type, precision, enabled=half):
            # Whoever only looks, now and then, would wait for another compilation.
            compiled = self.compiled if self.training else None
            return (compiled or self.model)(self._prepared(images))

    def _prepared(self, images: Tensor) -> Tensor:
        return self.prepare(images).contiguous(memory_format=self.numerics.layout)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
