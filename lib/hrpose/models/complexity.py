"""Parameters and multiply-adds of a network, in the units of the papers.

The papers' "GFLOPs" are multiply-adds, counted in four ways: HigherHRNet-W32 at 512 x 512 has
44.1, 44.6, 46.2 or 47.9 of them. OPERATION_UNITS lists the tables of each.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers that are counted; normalization, activation and resizing are not."""


class Unit(NamedTuple):
    """A counting convention, and the size of one printed unit."""

    convention: str
    size: float


OPERATION_UNITS = {
    # Multiply-adds in billions: ours, and about what later frameworks print.
    "gmac": Unit("macs", 1e9),
    # HigherHRNet tables 1 and 7, SWAHR table 1.
    "hrnet": Unit("hrnet", 1e9),
    # HRNet's own tables, and the HigherHRNet rows of HigherHRNet table 5.
    "hrnet_binary": Unit("hrnet", 1024**3),
    # The bottom-up HRNet rows of HigherHRNet tables 1 and 5.
    "gmac_mixed": Unit("macs", 1000 * 1024**2),
}


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_operations(
    model: nn.Module, input_size: tuple[int, int], convention: str = "macs"
) -> int:
    """Multiply-adds of a forward pass on one image of `input_size` (H, W).

    convention: "macs" for the true count; "hrnet" for that of the HRNet authors' tool, which counts
    a transposed convolution as a plain one on its (four times larger) output.

    Runs a copy on the meta device, so nothing is computed.
    """
    if convention not in _CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; choose from {', '.join(_CONVENTIONS)}")
    operations_of = _CONVENTIONS[convention]
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        counts.append(operations_of(layer, inputs[0], output))

    shadow = deepcopy(model).eval().to("meta")
    for layer in shadow.modules():
        if isinstance(layer, _WEIGHTED):
            layer.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, 3, *input_size, device="meta"))
    return sum(counts)


def operations_in(model: nn.Module, input_size: tuple[int, int], unit: str = "gmac") -> float:
    """Operations for one image of `input_size` (H, W), in one of OPERATION_UNITS."""
    if unit not in OPERATION_UNITS:
        raise ValueError(f"unit is {unit!r}; choose from {', '.join(OPERATION_UNITS)}")
    convention, size = OPERATION_UNITS[unit]
    return count_operations(model, input_size, convention) / size


def _multiply_adds(layer: Any, given: Tensor, output: Tensor) -> int:
    """Every weight is used once per kernel position.

    A convolution has one per output position, a transposed convolution one per input position.
    """
    return layer.weight.numel() * _places(given if _is_transposed(layer) else output, layer)


def _hrnet_operations(layer: Any, _: Tensor, output: Tensor) -> int:
    return layer.weight.numel() * _places(output, layer)


def _is_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ConvTranspose2d)


def _places(tensor: Tensor, layer: nn.Module) -> int:
    """Positions of (1, C, H, W), or of (1, ..., C) after a linear layer."""
    is_linear = isinstance(layer, nn.Linear)
    return tensor[..., 0].numel() if is_linear else tensor[:, 0].numel()


_CONVENTIONS: dict[str, Callable[[Any, Tensor, Tensor], int]] = {
    "macs": _multiply_adds,
    "hrnet": _hrnet_operations,
}
