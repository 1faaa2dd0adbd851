"""Optimisers, and how the learning rate changes while they work."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

Schedule = Callable[[float], float]
"""epochs done, with their fraction -> factor of the learning rate"""


def grouped_parameters(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weights with decay; biases and norms, which have one dimension, without."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


# Optimisers: parameter groups, lr and momentum in keywords of which each takes its own. All are
# fused, in one pass over the parameters, and so know `found_inf`: a tensor set on the optimizer
# that, if it is 1, makes step() do nothing, without asking the device.


def adam(groups: list[dict], lr: float, **_: float) -> Optimizer:
    return Adam(groups, lr=lr, fused=True)


def adamw(groups: list[dict], lr: float, **_: float) -> Optimizer:
    return AdamW(groups, lr=lr, fused=True)


def sgd(groups: list[dict], lr: float, momentum: float) -> Optimizer:
    optimizer = SGD(groups, lr=lr, momentum=momentum, fused=True)
    optimizer.register_step_pre_hook(_begin_at_rest)
    return optimizer


def _begin_at_rest(optimizer: Optimizer, *_: object) -> None:
    """Momentum from 0: where the first step is skipped, torch 2.13 takes what memory holds."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}


# Schedules ------------------------------------------------------------------------------------


def multistep(epoch: float, milestones: Sequence[float], drop: float) -> float:
    """Constant, multiplied by `drop` at each milestone (HigherHRNet: 200 and 260 of 300)."""
    return drop ** bisect_right(sorted(milestones), epoch)


def warmed_up(epoch: float, warmup: float, epochs: float, fall: Schedule) -> float:
    """From a tenth to 1 in `warmup` epochs, then along `fall`, which is given the share done."""
    if epoch < warmup:
        return 0.1 + 0.9 * epoch / warmup
    return fall(min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9)))


def straight(share: float) -> float:
    """From 1 to 0 in a straight line (SWAHR)."""
    return 1 - share


def half_cosine(share: float) -> float:
    """From 1 to 0, level at both ends."""
    return (1 + math.cos(math.pi * share)) / 2


def cosine_restarts(epoch: float, first_cycle: float, cycle_growth: float) -> float:
    """Half cosines, each `cycle_growth` (1 or more) times as long as the one before.

    SGDR (Loshchilov and Hutter 2017), eq. 5. With 16 and 2 they end at epochs 16, 48, 112, 240;
    a training is best when it ends at such an epoch.
    """
    cycle = first_cycle
    while epoch >= cycle:
        epoch, cycle = epoch - cycle, cycle * cycle_growth
    return half_cosine(epoch / cycle)


def one_cycle(epoch: float, epochs: float) -> float:
    """Up to 1 in the first 30 % of the epochs, then down to almost 0 (Smith and Topin 2019).

    The ends and the shape, half cosines, are those of torch's OneCycleLR.
    """
    low, peak = 1 / 25, 0.3 * epochs
    if epoch < peak:
        return low + (1 - low) * half_cosine(1 - epoch / peak)
    end = low / 1e4
    return end + (1 - end) * half_cosine(min(1.0, (epoch - peak) / (epochs - peak)))


def build_multistep(milestones: Sequence[float], drop: float, **_: object) -> Schedule:
    return partial(multistep, milestones=milestones, drop=drop)


def build_warmup_linear(warmup: float, epochs: float, **_: object) -> Schedule:
    return partial(warmed_up, warmup=warmup, epochs=epochs, fall=straight)


def build_cosine(warmup: float, epochs: float, **_: object) -> Schedule:
    return partial(warmed_up, warmup=warmup, epochs=epochs, fall=half_cosine)


def build_cosine_restarts(first_cycle: float, cycle_growth: float, **_: object) -> Schedule:
    return partial(cosine_restarts, first_cycle=first_cycle, cycle_growth=cycle_growth)


def build_one_cycle(epochs: float, **_: object) -> Schedule:
    return partial(one_cycle, epochs=epochs)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "multistep": build_multistep,
    "warmup_linear": build_warmup_linear,
    "cosine": build_cosine,
    "cosine_restarts": build_cosine_restarts,
    "one_cycle": build_one_cycle,
}


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def scaled_rate(rate: float, batch: int, base_batch: int, scaling: str) -> float:
    """The learning rate for `batch` images, given that for `base_batch`."""
    return rate * batch / base_batch if scaling == "linear" else rate
