"""A network that follows the one that learns, more calmly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


class Average:
    """Exponential moving average of all weights and running statistics.

    In its first steps it follows faster, so that it does not remember for long how the network
    began: with the smaller of `decay` and (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._approach, use_buffers=True)
        self.averaged.requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        return self.averaged.module

    def follow(self, model: nn.Module) -> None:
        """A step was taken."""
        self.averaged.update_parameters(model)

    @torch.no_grad()
    def _approach(self, own: Tensors, new: Tensors, _: Tensor | int) -> None:
        if not own[0].is_floating_point():  # counters
            torch._foreach_copy_(own, new)
            return
        steps = int(self.averaged.n_averaged)  # it lies on the host, so nobody waits for a device
        torch._foreach_lerp_(own, new, 1 - min(self.decay, (1 + steps) / (10 + steps)))
