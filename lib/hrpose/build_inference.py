"""Assembly of how a network computes at test: what TEST says of precision, layout and compiling."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode

from hrpose.builders.devices import PRECISIONS
from hrpose.models.folding import fold_norms
from hrpose.models.numerics import Compiled, HalfPrecision

COMPILERS = {
    # Weights become constants, which are laid out as the convolutions want them.
    "cpu": {"freezing": True},
    "cuda": {},
}
"""Options of torch.compile, by kind of device."""


def ready(config: CfgNode, model: nn.Module) -> nn.Module:
    """A copy of a network that computes as TEST says: the same outputs, but for rounding, sooner.

    Images (B, 3, H, W) and outputs are float32, whatever it computes in; it lies where the model
    lies.
    """
    test = config.TEST
    network = fold_norms(model) if test.FOLD_NORMS else deepcopy(model).eval()
    if test.CHANNELS_LAST:  # the first convolution brings the images into the layout of its weights
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if test.PRECISION != "fp32":
        network = HalfPrecision(network, PRECISIONS[test.PRECISION])
    return (_compiled(network) if test.COMPILE else network).eval()


def _compiled(network: nn.Module) -> nn.Module:
    kind = next(network.parameters()).device.type
    missing = _missing_for_cpu() if kind == "cpu" else _missing_for_gpu()
    if missing:
        raise ValueError(f"TEST.COMPILE needs {missing}, or set TEST.COMPILE false")
    return Compiled(network, COMPILERS[kind])


def _missing_for_cpu() -> str:
    """What torch.compile lacks to write a program for the CPU, with the cure; empty: nothing."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        return f"a C++ compiler, and there is no {compiler}; apt install g++, or name one in CXX"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"Python's headers, and there is no {header}; apt install python3-dev"
    return ""


def _missing_for_gpu() -> str:
    if importlib.util.find_spec("triton") is None:
        return "triton, which writes programs for GPUs; pip install triton"
    return ""
