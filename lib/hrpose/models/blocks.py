"""The few layers that every network here is built of, and how their weights begin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

PUBLISHED_DEVIATION = 0.001
"""Standard deviation of every fresh weight in the published networks."""


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, batch normalisation and, unless a sum follows, ReLU.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
    """
    # The normalisation that follows subtracts any bias again, so there is none.
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Residual(nn.Module):
    """Add to the input what `body` finds lacking in it (He et al., CVPR 2016, figure 2)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x), inplace=True)


def basic_block(width: int, dilation: int = 1) -> Residual:
    """Two 3 x 3 convolutions (He et al., figure 5 left); (B, width, H, W) -> the same."""
    first = conv_bn(width, width, dilation=dilation)
    return Residual(nn.Sequential(first, conv_bn(width, width, dilation=dilation, relu=False)))


def bottleneck(inputs: int, middle: int) -> Residual:
    """One 3 x 3 convolution between two of 1 x 1 (He et al., figure 5 right).

    (B, inputs, H, W) -> (B, 4 * middle, H, W)
    """
    outputs = 4 * middle
    body = nn.Sequential(
        conv_bn(inputs, middle, kernel=1),
        conv_bn(middle, middle),
        conv_bn(middle, outputs, kernel=1, relu=False),
    )
    if inputs == outputs:
        return Residual(body)
    return Residual(body, shortcut=conv_bn(inputs, outputs, kernel=1, relu=False))


class Steps(nn.Sequential):
    """Layers one after the other which may forget, while they learn, all but what each was given.

    With `recompute` set, the backward pass computes a step's activations again when it comes to
    that step: a third more work for much less memory, and the same values (Chen et al. 2016,
    Training Deep Nets with Sublinear Memory Cost).
    """

    recompute = False  # an attribute like any other, so that copies and replicas have it too

    def forward(self, x: Any) -> Any:
        """x: what the first step takes, e.g. (B, C, H, W)   Returns what the last one gives."""
        forgets = self.recompute and self.training and torch.is_grad_enabled()
        for step in self:
            x = _forgotten(step, x) if forgets else step(x)
        return x


def _forgotten(step: nn.Module, x: Any) -> Any:
    """step(x), of which only x is kept for the backward pass."""
    if torch.compiler.is_compiling():  # both passes are one program, which counts once by itself
        return checkpoint(step, x, use_reentrant=False)
    passes = partial(_first_and_second_pass, step)
    # No step throws dice, so there is no state of them to keep.
    return checkpoint(step, x, use_reentrant=False, preserve_rng_state=False, context_fn=passes)


def _first_and_second_pass(
    step: nn.Module,
) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _on_copies_of_buffers(step)


@contextmanager
def _on_copies_of_buffers(module: nn.Module) -> Iterator[None]:
    """Norms have counted the batch in their running statistics before; now they count in vain."""
    kept = [
        (layer, name, buffer)
        for layer in module.modules()
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    try:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer.clone())
        yield
    finally:
        for layer, name, buffer in kept:
            setattr(layer, name, buffer)


def recompute_activations(model: nn.Module) -> None:
    """Train in less memory and more time: see `Steps`."""
    for layer in model.modules():
        if isinstance(layer, Steps):
            layer.recompute = True


def published_init(model: nn.Module) -> None:
    """Begin as the published networks do, before their ImageNet weights are loaded.

    Weights are drawn from N(0, 0.001), which is far too small to train a whole network from
    nothing at a usual pace: see `fan_in_init`.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            _draw(layer, PUBLISHED_DEVIATION)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()  # scale 1, shift 0, no statistics yet


def fan_in_init(model: nn.Module) -> None:
    """Begin so that signals keep their size from layer to layer (He et al., ICCV 2015, eq. 10).

    For training from nothing. Convolutions that predict (those with a bias) stay at N(0, 0.001):
    heatmaps are nearly everywhere zero, so let the first ones be.
    """
    published_init(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None:
            _draw(layer, math.sqrt(2 / _fan_in(layer)))


def _draw(conv: nn.Conv2d | nn.ConvTranspose2d, deviation: float) -> None:
    nn.init.normal_(conv.weight, std=deviation)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _fan_in(conv: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """How many products are summed into one output."""
    products = conv.in_channels // conv.groups * math.prod(conv.kernel_size)
    if isinstance(conv, nn.ConvTranspose2d):
        return products / math.prod(conv.stride)  # a kernel lies on every stride-th output only
    return products
