"""A network that follows the one that learns, more calmly."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of all weights and running statistics.

    In its first steps it follows faster, so that it does not remember for long how the network
    began: with the smaller of `decay` and (1 + n) / (10 + n) after n steps.
    (swa_utils.AveragedModel waits for the device in every step.)
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.network = copy.deepcopy(model).requires_grad_(False)
        self.steps = 0  # that were followed

    @torch.no_grad()
    def follow(self, model: nn.Module, skipped: Tensor) -> None:
        """A step was taken, unless it was skipped, which the device alone knows."""
        if not self.steps:
            self.network.load_state_dict(model.state_dict())
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = zip(_state(self.network), _state(model))
        alike = [(own, new) for own, new in pairs if own.is_floating_point()]
        own, new = [one for one, _ in alike], [other for _, other in alike]
        step = torch._foreach_sub(new, own)
        torch._foreach_mul_(step, (1 - kept) * (~skipped))
        torch._foreach_add_(own, step)
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"model": self.network.state_dict(), "steps": self.steps}

    def resume(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.steps = state["steps"]


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
