"""Optimizations for inference: fused BatchNorm, half precision, memory layout, compilation.

Each takes a network (normalized images (B, 3, H, W) -> [HeadOutput]) and returns one whose outputs
differ only by rounding.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from hrpose.models.blocks import Head
from hrpose.structures import HeadOutput

COMPILE_OPTIONS: dict[str, dict[str, Any]] = {
    # Weights become constants in the memory layout that the convolutions need.
    "cpu": {"freezing": True},
    "cuda": {},
}
"""Kind of device -> options of torch.compile."""


def prepare_for_inference(
    model: nn.Module,
    precision: torch.dtype = torch.float32,
    compiled: bool = False,
) -> nn.Module:
    """A faster copy of a network, on the same device.

    Images (B, 3, H, W) and outputs are float32 whatever the precision.
    """
    # The first convolution converts the images to the layout of its weights.
    network = fuse_conv_bn(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision != torch.float32:
        network = HalfPrecision(network, precision)
    if compiled:
        kind = next(network.parameters()).device.type
        check_compiler(kind, "TEST.COMPILE")
        network = Compiled(network, COMPILE_OPTIONS[kind])
    return network.eval()


def check_compiler(device: str, option: str) -> None:
    """ValueError, with the cure, if torch.compile lacks what it needs on a kind of device.

    option: that asks for it, for the message
    """
    missing = ""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device != "cpu":  # triton compiles the launcher of its kernels
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or "gcc"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if device != "cpu" and importlib.util.find_spec("triton") is None:
        missing = "triton, which generates GPU kernels; pip install triton"
    elif not shutil.which(compiler):
        variable = "CXX" if device == "cpu" else "CC"
        missing = f"a compiler, and there is no {compiler}; apt install g++, or set {variable}"
    elif not header.is_file():
        missing = f"Python's headers, and there is no {header}; apt install python3-dev"
    if missing:
        raise ValueError(f"{option} needs {missing}, or set {option} false")


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """A copy for evaluation whose BatchNorms are fused into the convolutions before them.

    Neighbours in an nn.Sequential are fused. A norm elsewhere, or one without running statistics,
    stays. Layers keep their names: an nn.Identity replaces a fused norm.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    for layers in fused.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        names = list(layers._modules)
        for name, after in zip(names, names[1:]):
            conv, norm = layers.get_submodule(name), layers.get_submodule(after)
            if not isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
                continue
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                transposed = isinstance(conv, nn.ConvTranspose2d)
                layers.register_module(name, fuse_conv_bn_eval(conv, norm, transposed))
                layers.register_module(after, nn.Identity())
    return fused


class HalfPrecision(nn.Module):
    """A network that computes in bfloat16 or float16 up to its heads.

    Inputs and outputs are float32, and so are the heads: bfloat16 knows tags of 8 to 16 only in
    steps of 1/16, and makes neighbouring cells of a peak equal. BatchNorms that were not fused
    stay in float32, since variances may overflow float16. Autocast would be as accurate, but cast
    the weights for every batch.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision
        self.network = network
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d | Head):
                continue
            for own in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                if own.is_floating_point():
                    own.data = own.data.to(precision)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        outputs = self.network(images.to(self.precision))
        return [HeadOutput(*map(_to_float32, output)) for output in outputs]


def _to_float32(field: Any) -> Any:
    return field.float() if isinstance(field, Tensor) else field


class Compiled(nn.Module):
    """A network compiled at its first call, for images of all sizes.

    options: see torch.compile
    """

    def __init__(self, network: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.program = torch.compile(network.forward, options=options)

    def forward(self, images: Tensor) -> list[HeadOutput]:
        if torch.compiler.is_compiling():  # an outer compilation or export traces the layers
            return self.network(images)
        from torch._dynamo import maybe_mark_dynamic  # slow to import

        # A single image gets a program of its own, which is much simpler.
        for dimension in (2, 3) if len(images) == 1 else (0, 2, 3):
            maybe_mark_dynamic(images, dimension)
        return self.program(images)
