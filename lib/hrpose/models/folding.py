"""A trained network without its norms, whose work the convolutions before them do."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeGuard

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

_FOLDABLE = (nn.Conv2d, nn.ConvTranspose2d)


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy, for evaluation alone, that says the same but for rounding.

    At test a norm multiplies each channel by a number and adds another; so can the weights and
    the bias of a convolution right before it. Such pairs are neighbours in an nn.Sequential. A
    norm that stands elsewhere stays, and so does one that keeps no statistics. Layers keep their
    names: where a norm was, nothing happens any more.
    """
    folded = deepcopy(model).eval().requires_grad_(False)
    for layers in folded.modules():
        if isinstance(layers, nn.Sequential):
            _fold_neighbours(layers)
    return folded


def _fold_neighbours(layers: nn.Sequential) -> None:
    names = list(layers._modules)
    for name, after in zip(names, names[1:]):
        conv, norm = layers.get_submodule(name), layers.get_submodule(after)
        if isinstance(conv, _FOLDABLE) and _has_statistics(norm):
            transposed = isinstance(conv, nn.ConvTranspose2d)
            layers.register_module(name, fuse_conv_bn_eval(conv, norm, transposed))
            layers.register_module(after, nn.Identity())


def _has_statistics(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None
