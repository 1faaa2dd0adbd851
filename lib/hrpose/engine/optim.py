"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, Optimizer


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Exclude the parameters whose names match one of the patterns from training.

    Returns the norms all of whose parameters are frozen: their statistics are to be, too.
    Errors: ValueError for a pattern that matches nothing, and where nothing is left to train
    """
    named = dict(model.named_parameters())
    frozen: set[nn.Parameter] = set()
    for pattern in patterns:
        matched = {named[name] for name in named if fnmatchcase(name, pattern)}
        if not matched:
            parts = ", ".join(dict.fromkeys(f"{name.split('.')[0]}.*" for name in named))
            raise ValueError(
                f"TRAIN.FREEZE: {pattern} matches no tensor of the network; its parts are {parts}"
            )
        frozen |= matched
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError(
            f"TRAIN.FREEZE {list(patterns)} leaves nothing to train; to evaluate a network as it "
            "is, use tools/valid.py"
        )
    return [
        norm
        for norm in model.modules()
        if isinstance(norm, _BatchNorm) and norm.affine and frozen.issuperset(norm.parameters())
    ]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weights with decay; biases and norms, which have one dimension, without."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


# Optimizers: (parameter groups, lr) -> Optimizer. All are fused, one kernel over all
# parameters, and so support `found_inf`: a tensor set as an attribute of the optimizer that, if
# it is 1, makes step() a no-op without a host sync.


def adam(groups: list[dict], lr: float) -> Optimizer:
    return Adam(groups, lr=lr, fused=True)


def adamw(groups: list[dict], lr: float) -> Optimizer:
    return AdamW(groups, lr=lr, fused=True)


def sgd(groups: list[dict], lr: float) -> Optimizer:
    optimizer = SGD(groups, lr=lr, momentum=0.9, fused=True)
    optimizer.register_step_pre_hook(_zero_momentum)
    return optimizer


def _zero_momentum(optimizer: Optimizer, *_: object) -> None:
    """Start momentum at 0: if the first step is skipped, torch 2.13 keeps uninitialised memory."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}


def scale_learning_rate(lr: float, batch: int, base_batch: int) -> float:
    """The learning rate for `batch` images, given that for `base_batch`; 0: `lr` for any."""
    return lr * batch / base_batch if base_batch else lr


# Schedules: epochs done, with their fraction -> factor of the learning rate. Each takes the options
# it needs by name and ignores the others.

Schedule = Callable[[float], float]
"""A schedule with its options bound."""


def multistep(epoch: float, lr_step: Sequence[float], lr_factor: float = 0.1, **_: object) -> float:
    """Multiplied by `lr_factor` at each epoch of `lr_step` (HigherHRNet: 200 and 260 of 300)."""
    return lr_factor ** bisect_right(sorted(lr_step), epoch)


def warmup_linear(
    epoch: float, warmup: float, epochs: float, warmup_factor: float = 0.1, **_: object
) -> float:
    """From `warmup_factor` to 1 in `warmup` epochs, then linearly to 0 (SWAHR)."""
    if epoch < warmup:
        return warm_up(epoch, warmup, warmup_factor)
    return 1 - _after_warmup(epoch, warmup, epochs)


def cosine(
    epoch: float, warmup: float, epochs: float, warmup_factor: float = 0.1, **_: object
) -> float:
    """From `warmup_factor` to 1 in `warmup` epochs, then along half a cosine to 0."""
    if epoch < warmup:
        return warm_up(epoch, warmup, warmup_factor)
    return _half_cosine(_after_warmup(epoch, warmup, epochs))


def cosine_restarts(epoch: float, period: float, factor: float, **_: object) -> float:
    """Half cosines, the first of `period` epochs, each `factor` (1 or more) times the one before.

    Source: SGDR (Loshchilov and Hutter 2017), eq. 5, with 0 as the least rate. Periods of 16 and
    factors of 2 end at epochs 16, 48, 112, 240.
    """
    start, end = period_around(epoch, period, factor)
    return _half_cosine((epoch - start) / (end - start))


def period_around(epoch: float, period: float, factor: float) -> tuple[float, float]:
    """(start, end) in epochs of the period of `cosine_restarts` with start <= epoch < end."""
    start = 0.0
    while epoch >= start + period:
        start, period = start + period, period * factor
    return start, start + period


def one_cycle(epoch: float, epochs: float, **_: object) -> float:
    """Up to 1 in the first 30 % of the epochs, then down to almost 0.

    Source: Smith and Topin 2019; the ends and the shape, half cosines, are those of OneCycleLR.
    """
    low, peak = 1 / 25, 0.3 * epochs
    if epoch < peak:
        return low + (1 - low) * _half_cosine(1 - epoch / peak)
    end = low / 1e4
    return end + (1 - end) * _half_cosine(min(1.0, (epoch - peak) / (epochs - peak)))


def warm_up(done: float, length: float, factor: float) -> float:
    """From `factor` in a straight line to 1 in `length` steps or epochs; 1 from there on."""
    return factor + (1 - factor) * done / length if done < length else 1.0


def _after_warmup(epoch: float, warmup: float, epochs: float) -> float:
    """Progress from 0 where the warm-up ends to 1."""
    return min(1.0, (epoch - warmup) / max(epochs - warmup, 1e-9))


def _half_cosine(progress: float) -> float:
    """From 1 to 0 for progress from 0 to 1, level at both ends."""
    return (1 + math.cos(math.pi * progress)) / 2


SCHEDULES: dict[str, Callable[..., float]] = {
    "multistep": multistep,
    "warmup_linear": warmup_linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "one_cycle": one_cycle,
}
