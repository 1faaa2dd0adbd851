"""Networks prepared for inference: BatchNorm fused, half precision, memory layout, compilation.

Each step takes a network (normalized images (B, 3, H, W) -> [HeadOutput]) and returns one with the
same outputs but for rounding.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from hrpose.structures import HeadOutput

COMPILE_OPTIONS = {
    # Weights become constants, which are laid out as the convolutions need them.
    "cpu": {"freezing": True},
    "cuda": {},
}
"""Options of torch.compile, by kind of device."""


def prepare_for_inference(
    model: nn.Module,
    fuse_bn: bool = True,
    channels_last: bool = True,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
) -> nn.Module:
    """A copy of a network that computes the same outputs faster, on the same device.

    Images (B, 3, H, W) and outputs are float32 whatever the precision.
    """
    network = fuse_conv_bn(model) if fuse_bn else deepcopy(model).eval()
    if channels_last:  # the first convolution brings the images into the layout of its weights
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision != torch.float32:
        network = HalfPrecision(network, precision)
    if compiled:
        kind = next(network.parameters()).device.type
        check_compiler(kind)
        network = Compiled(network, COMPILE_OPTIONS[kind])
    return network.eval()


def check_compiler(device: str) -> None:
    """ValueError, with the cure, if torch.compile lacks what it needs on a kind of device."""
    missing = ""
    if device != "cpu":
        if importlib.util.find_spec("triton") is None:
            missing = "triton, which writes programs for GPUs; pip install triton"
    else:
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not shutil.which(compiler):
            missing = f"a C++ compiler, and there is no {compiler}; apt install g++, or set CXX"
        elif not header.is_file():
            missing = f"Python's headers, and there is no {header}; apt install python3-dev"
    if missing:
        raise ValueError(f"TEST.COMPILE needs {missing}, or set TEST.COMPILE false")


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """A copy for evaluation whose BatchNorms are fused into the convolutions before them.

    Fused are neighbours in an nn.Sequential; a norm elsewhere stays, and so does one that keeps no
    running statistics. Layers keep their names: an nn.Identity replaces the norm.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    for layers in fused.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        names = list(layers._modules)
        for name, after in zip(names, names[1:]):
            conv, norm = layers.get_submodule(name), layers.get_submodule(after)
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and _has_statistics(norm):
                transposed = isinstance(conv, nn.ConvTranspose2d)
                layers.register_module(name, fuse_conv_bn_eval(conv, norm, transposed))
                layers.register_module(after, nn.Identity())
    return fused


def _has_statistics(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None


class HalfPrecision(nn.Module):
    """A network that computes in bfloat16 or float16 from its first layer to its last.

    Inputs and outputs are float32. BatchNorms that were not fused stay in float32, since variances
    may overflow float16. Autocast would be as exact, but cast the weights for every batch.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision
        self.network = network
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                continue
            for own in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                if own.is_floating_point():
                    own.data = own.data.to(precision)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        return [_to_float32(output) for output in self.network(images.to(self.precision))]


def _to_float32(output: HeadOutput) -> HeadOutput:
    parts: Any = (x.float() if isinstance(x, Tensor) else x for x in output)
    return HeadOutput._make(parts)


class Compiled(nn.Module):
    """A network compiled at its first call, for images of all sizes.

    options: see torch.compile
    """

    def __init__(self, network: nn.Module, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.program = torch.compile(network.forward, options=dict(options))

    def forward(self, images: Tensor) -> list[HeadOutput]:
        if torch.compiler.is_compiling():  # an outer compilation or export takes the layers
            return self.network(images)
        from torch._dynamo import maybe_mark_dynamic  # slow to import

        # A single image has a program of its own, which is much simpler.
        for dimension in (2, 3) if len(images) == 1 else (0, 2, 3):
            maybe_mark_dynamic(images, dimension)
        return self.program(images)
