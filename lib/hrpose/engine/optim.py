"""Optimisers, and how the learning rate changes while they work."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

Schedule = Callable[[float], float]
"""epochs done, with their fraction -> factor of the learning rate"""

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW}


def grouped_parameters(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weights with decay; biases and norms, which have one dimension, without."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def multistep(epoch: float, milestones: Sequence[float], drop: float) -> float:
    """Constant, multiplied by `drop` at each milestone (HigherHRNet: 200 and 260 of 300)."""
    return drop ** bisect_right(sorted(milestones), epoch)


def warmup_linear(epoch: float, warmup: float, epochs: float) -> float:
    """From a tenth to 1 in `warmup` epochs, then down to 0 in a straight line (SWAHR)."""
    if epoch < warmup:
        return 0.1 + 0.9 * epoch / warmup
    return max(0.0, (epochs - epoch) / max(epochs - warmup, 1e-9))


def build_multistep(milestones: Sequence[float], drop: float, **_: float) -> Schedule:
    return partial(multistep, milestones=milestones, drop=drop)


def build_warmup_linear(warmup: float, epochs: float, **_: float) -> Schedule:
    return partial(warmup_linear, warmup=warmup, epochs=epochs)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "multistep": build_multistep,
    "warmup_linear": build_warmup_linear,
}


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scaled_rate(rate: float, batch: int, base_batch: int, scaling: str) -> float:
    """The learning rate for `batch` images, given that for `base_batch`."""
    return rate * batch / base_batch if scaling == "linear" else rate
