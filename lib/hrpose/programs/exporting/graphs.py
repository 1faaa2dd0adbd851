"""The graphs that are shipped: uint8 images in, named tensors out, everything between inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hrpose.inference.tta import View, look
from hrpose.models.swahr import SWAHR
from hrpose.ops.normalize import normalize
from hrpose.structures import ScaleOutput

Outputs = dict[str, Tensor]


class Looking(NamedTuple):
    """How the maps that are decoded come of the network's outputs, and what is taken of them."""

    views: Sequence[View]
    stride: int  # network pixels per cell of the maps
    averaged: Sequence[int]  # strides of the outputs whose heatmaps are averaged; none: all
    find: Callable[[Tensor, Tensor], Outputs]
    """heatmaps (B, K, H, W), tags (B, K, H, W, T) -> what is found in them, by name"""


class NetworkGraph(nn.Module):
    """uint8 RGB (B, 3, H, W) -> heatmaps_<stride> of every resolution, tags_<stride> of one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = shipped_part(network).eval()

    def forward(self, images: Tensor) -> Outputs:
        said: Outputs = {}
        for output in self.network(normalize(images)):
            said[f"heatmaps_{output.stride}"] = output.heatmaps
            if output.tags is not None:
                said[f"tags_{output.stride}"] = output.tags
        return said


class PeaksGraph(nn.Module):
    """uint8 RGB (B, 3, H, W) -> heatmaps and tags of all views together, and what is found there.

    heatmaps: (B, K, h, w)   tags: (B, K, h, w, T)
    """

    def __init__(self, network: nn.Module, looking: Looking) -> None:
        super().__init__()
        self.network = shipped_part(network).eval()
        self.looking = looking

    def forward(self, images: Tensor) -> Outputs:
        views, stride, averaged, find = self.looking
        size = (images.shape[-2] // stride, images.shape[-1] // stride)
        said = self._of_each_view(images)
        maps = look(lambda _: next(said), images, views, size, averaged)
        return {"heatmaps": maps.heatmaps, "tags": maps.tags, **find(maps.heatmaps, maps.tags)}

    def _of_each_view(self, images: Tensor) -> Iterator[list[ScaleOutput]]:
        """One pass over all views as one batch, so that the network stands in the file once."""
        views = self.looking.views
        seen = torch.cat([view.apply(images) for view in views])  # (views * B, 3, H, W)
        outputs = [_apart(output, len(views)) for output in self.network(normalize(seen))]
        return ([output[i] for output in outputs] for i in range(len(views)))


def _apart(output: ScaleOutput, views: int) -> list[ScaleOutput]:
    """What is said of several views, one after the other."""
    heatmaps = output.heatmaps.unflatten(0, (views, -1))
    if output.tags is None:
        return [output._replace(heatmaps=heat) for heat in heatmaps]
    tags = output.tags.unflatten(0, (views, -1))
    return [output._replace(heatmaps=heat, tags=tag) for heat, tag in zip(heatmaps, tags)]


def shipped_part(network: nn.Module) -> nn.Module:
    """The network without what only training needs."""
    return network.network if isinstance(network, SWAHR) else network


def example(batch: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Noise to look at: (batch, 3, *size) uint8."""
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=dice)
