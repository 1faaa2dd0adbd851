"""Parameters and multiply-adds of a network, in the units of the papers.

The papers' "GFLOPs" are multiply-adds, counted in four ways: HigherHRNet-W32 at 512 x 512 has
44.1, 44.6, 46.2 or 47.9 of them. OPERATION_UNITS lists which tables use which.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

_CONVENTIONS = ("macs", "hrnet")
"""True multiply-adds; those of the HRNet authors' tool, see `count_operations`."""

OPERATION_UNITS = {
    # Multiply-adds in billions: ours, and about what later frameworks print.
    "gmac": ("macs", 1e9),
    # HigherHRNet tables 1 and 7, SWAHR table 1.
    "hrnet": ("hrnet", 1e9),
    # HRNet's own tables, and the HigherHRNet rows of HigherHRNet table 5.
    "hrnet_binary": ("hrnet", 1024**3),
    # The bottom-up HRNet rows of HigherHRNet tables 1 and 5.
    "gmac_mixed": ("macs", 1000 * 1024**2),
}
"""Name -> counting convention, and multiply-adds in one unit."""


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def operations_in(model: nn.Module, input_size: tuple[int, int], unit: str = "gmac") -> float:
    """Operations for one image of `input_size` (H, W), in one of OPERATION_UNITS."""
    if unit not in OPERATION_UNITS:
        raise ValueError(f"unit is {unit!r}; choose from {', '.join(OPERATION_UNITS)}")
    convention, size = OPERATION_UNITS[unit]
    return count_operations(model, input_size, convention) / size


def count_operations(
    model: nn.Module, input_size: tuple[int, int], convention: str = "macs"
) -> int:
    """Multiply-adds of a forward pass on one image of `input_size` (H, W).

    Convolutions and linear layers count; normalization, activation and resizing do not. Every
    weight is used once per kernel position: a convolution has one per output cell, a transposed
    convolution one per input cell. The convention "hrnet" counts the latter per output cell, too,
    four times as many.

    Runs a copy on the meta device, so nothing is computed.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; choose from {', '.join(_CONVENTIONS)}")
    counts: list[int] = []

    def count(layer: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        maps = inputs[0] if transposed and convention == "macs" else output
        # (1, C, H, W), or (1, ..., C) after a linear layer
        positions = maps[..., 0] if isinstance(layer, nn.Linear) else maps[:, 0]
        counts.append(layer.weight.numel() * positions.numel())

    shapes = {id(weight): nn.Parameter(weight.to("meta")) for weight in model.parameters()}
    shadow = deepcopy(model, shapes).eval().to("meta")
    for layer in shadow.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(count)
        elif isinstance(layer, nn.BatchNorm2d):  # slow on the meta device, and changes no shape
            layer.forward = lambda maps: maps  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        shadow(torch.empty(1, 3, *input_size, device="meta"))
    return sum(counts)
