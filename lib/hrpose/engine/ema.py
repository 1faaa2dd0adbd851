"""Exponential moving average (EMA) of the model's weights and buffers; snapshots of its buffers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of all weights and running statistics.

    The decay is the smaller of `decay` and (1 + n) / (10 + n) after n steps, so that the initial
    weights are forgotten quickly. (swa_utils.AveragedModel synchronises with the device in every
    step.)
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.steps = 0  # updates so far

    @torch.no_grad()
    def update(self, model: nn.Module, skipped: Tensor) -> None:
        """Move the average towards `model`, unless the step was skipped: a () bool on the device.

        Integer buffers, which count batches, are not averaged.
        """
        if not self.steps:
            self.model.load_state_dict(model.state_dict())
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        own, new = (
            [t for t in (*m.parameters(), *m.buffers()) if t.is_floating_point()]
            for m in (self.model, model)
        )
        change = torch._foreach_sub(new, own)
        torch._foreach_mul_(change, (1 - decay) * (~skipped))
        torch._foreach_add_(own, change)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


class BufferSnapshot:
    """A copy of a model's buffers (BatchNorm's running statistics) from before a step."""

    def __init__(self, model: nn.Module):
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer.view(-1))
        self.groups = list(by_dtype.values())  # copied one by one they would take 1,000 kernels
        self.saved: list[Tensor] = []

    def save(self) -> None:
        self.saved = [torch.cat(buffers) for buffers in self.groups]

    @torch.no_grad()
    def restore_where(self, condition: Tensor) -> None:
        """Restore the saved values where `condition`, a () bool on the device, is true."""
        for buffers, saved in zip(self.groups, self.saved):
            restored = saved.where(condition, torch.cat(buffers))
            torch._foreach_copy_(buffers, list(restored.split([len(b) for b in buffers])))
