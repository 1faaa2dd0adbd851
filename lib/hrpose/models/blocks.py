"""Building blocks shared by all networks, and weight initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

INIT_STD = 0.001
"""Standard deviation of initial weights in the published networks."""


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution, batch normalisation and, unless `relu` is False, ReLU.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)
    """
    # No bias: the batch normalisation would subtract it.
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Residual(nn.Module):
    """Residual connection around `body`, then ReLU (He et al., CVPR 2016, figure 2)."""

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


class Upsample(nn.Upsample):
    """Upsampling in the precision of its input, also under autocast.

    Autocast would promote it to float32, and with it every sum that it is part of. Copied values
    (nearest) lose no precision; a bilinear mean is rounded once.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.itemsize >= 4 or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


class Head(nn.Conv2d):
    """1 x 1 convolution from features to predictions, in the precision of its weights.

    Autocast decides by itself; a half-precision network may keep its heads in float32.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.weight.dtype)
        return super().forward(x)


class CheckpointedSequential(nn.Sequential):
    """`nn.Sequential` with optional activation checkpointing.

    With `recompute` set, only each layer's input is kept in training, and activations are
    recomputed in the backward pass: about a third more compute, the same values (Chen et al. 2016,
    Training Deep Nets with Sublinear Memory Cost).
    """

    recompute = False  # a plain attribute, so that copies and replicas inherit it

    def forward(self, x: Any) -> Any:
        """x: input of the first layer, e.g. (B, C, H, W)   Returns the output of the last one."""
        for layer in self:
            x = self.run(layer, x)
        return x

    def run(self, layer: nn.Module, x: Any) -> Any:
        """layer(x), of one of the layers."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return _checkpointed(layer, x)
        return layer(x)


def _checkpointed(layer: nn.Module, x: Any) -> Any:
    """layer(x), keeping only x for the backward pass."""
    if torch.compiler.is_compiling():  # one graph for both passes, which updates statistics once
        return checkpoint(layer, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        """Of the forward pass and of the recomputation."""
        return nullcontext(), _on_copies_of_buffers(layer)

    # There is no dropout, so no random state to restore.
    return checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _on_copies_of_buffers(module: nn.Module) -> Iterator[None]:
    """Recompute on copies of the BatchNorm buffers, so that a step updates statistics only once."""
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


def enable_activation_checkpointing(model: nn.Module) -> None:
    """Trade compute for memory in training: see `CheckpointedSequential`."""
    for layer in model.modules():
        if isinstance(layer, CheckpointedSequential):
            layer.recompute = True


def normal_init(model: nn.Module) -> None:
    """Initialise from N(0, 0.001), as the published networks before loading ImageNet weights.

    This is far too small to train a whole network from scratch: see `kaiming_init`.
    """
    if next(model.parameters()).is_meta:  # no numbers, and slow
        return
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()  # scale 1, shift 0, initial statistics


def kaiming_init(model: nn.Module) -> None:
    """Kaiming initialisation, to train from scratch: N(0, 2 / fan_in).

    Prediction layers (those with a bias) stay at N(0, 0.001), since heatmaps are nearly zero
    almost everywhere.
    Source: He et al., ICCV 2015, equation 10.
    """
    normal_init(model)
    if next(model.parameters()).is_meta:
        return
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is None:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / _fan_in(layer)))


def _fan_in(conv: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Number of products summed into one output."""
    products = conv.in_channels // conv.groups * math.prod(conv.kernel_size)
    if isinstance(conv, nn.ConvTranspose2d):
        return products / math.prod(conv.stride)  # a kernel reaches every stride-th output only
    return products
