"""How a network computes at test: in which numbers, and by which program.

Each class here takes a network (normalised images (B, 3, H, W) -> [ScaleOutput]) and is one, which
says the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from hrpose.structures import ScaleOutput


class HalfPrecision(nn.Module):
    """A network that computes in bfloat16 or float16 from its first layer to its last.

    It takes and gives float32. Norms that were not folded keep float32, since variances may be too
    large for float16. Autocast would be as exact, and bring the weights from float32 to `precision`
    for every batch anew.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.precision = precision
        self.network = network
        for layer in network.modules():
            if not isinstance(layer, nn.BatchNorm2d):
                _bring_to(precision, layer)

    def forward(self, images: Tensor) -> list[ScaleOutput]:
        return [_in_float32(output) for output in self.network(images.to(self.precision))]


def _bring_to(precision: torch.dtype, layer: nn.Module) -> None:
    """What the layer itself holds; its parts stay as they are."""
    for own in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if own.is_floating_point():
            own.data = own.data.to(precision)


def _in_float32(output: ScaleOutput) -> ScaleOutput:
    tags, scales = (part if part is None else part.float() for part in (output.tags, output.scales))
    return ScaleOutput(output.heatmaps.float(), tags, scales, output.stride)


class Compiled(nn.Module):
    """A network as one program for images of all sizes, made when it is first called.

    options: of the compiler, see torch.compile
    """

    def __init__(self, network: nn.Module, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.program = torch.compile(network.forward, options=dict(options))

    def forward(self, images: Tensor) -> list[ScaleOutput]:
        if torch.compiler.is_compiling():  # whoever compiles or exports us does it himself
            return self.network(images)
        # A single image has a program of its own: much is simpler then.
        for dimension in (2, 3) if len(images) == 1 else (0, 2, 3):
            torch._dynamo.maybe_mark_dynamic(images, dimension)
        return self.program(images)
