"""Test-time augmentation: run the network on flipped and rescaled inputs, map the outputs back,
average heatmaps and stack tags.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hrpose.ops.peaks import resize
from hrpose.structures import HeadOutput


class View(NamedTuple):
    """A test-time view: how the input is transformed and how the outputs are mapped back."""

    apply: Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> (B, 3, H, W)
    undo: Callable[[Tensor], Tensor]  # one map per joint (B, K, H, W) -> (B, K, H, W)


class AggregatedMaps(NamedTuple):
    """Outputs of all views and resolutions of a batch, brought to one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    tags: Tensor  # (B, K, H, W, T), one tag value per view


IDENTITY = View(lambda images: images, lambda maps: maps)


def flip_view(flip_order: Sequence[int]) -> View:
    """The horizontal flip; left and right joints are swapped back."""
    return View(lambda images: images.flip(-1), lambda maps: maps.flip(-1)[:, flip_order])


VIEWS: dict[str, Callable[[Sequence[int]], View]] = {
    "identity": lambda flip_order: IDENTITY,
    "flip": flip_view,
}
"""name -> view of a skeleton's flip order"""


def run_views(
    model: Callable[[Tensor], Sequence[HeadOutput]],
    images: Tensor,
    views: Sequence[View],
    size: tuple[int, int],
    strides: Sequence[int] = (),
) -> AggregatedMaps:
    """Heatmaps averaged over resolutions and views; the tags of every view stacked.

    images: (B, 3, H, W), normalized   size: (H, W) of the maps wanted
    strides: of the resolutions whose heatmaps are averaged; empty: all
    Source: Cheng et al. 2020 (HigherHRNet), section 3.5 (heatmap aggregation).
    """
    heatmaps, tags = [], []
    for view in views:
        outputs = model(view.apply(images))
        # All are resized to the finest first: two resizes in a row are not the same as one.
        finest = (outputs[-1].heatmaps.shape[-2], outputs[-1].heatmaps.shape[-1])
        averaged = [each.heatmaps for each in outputs if not strides or each.stride in strides]
        heatmaps.append(view.undo(torch.stack([resize(maps, finest) for maps in averaged]).mean(0)))
        (of_view,) = [output.tags for output in outputs if output.tags is not None]
        tags.append(view.undo(resize(of_view, finest)))
    # The mean is taken before it is enlarged: it is the same, and one map instead of several.
    mean = resize(torch.stack(heatmaps).mean(0), size)
    # Tags of a channels-last network become contiguous while they are small.
    stacked = torch.stack([resize(of_view.contiguous(), size) for of_view in tags])
    return AggregatedMaps(mean, stacked.movedim(0, -1))


def average_scales(maps: Sequence[AggregatedMaps], base: int) -> AggregatedMaps:
    """Heatmaps averaged over image scales; tags of the base scale only (its index)."""
    return AggregatedMaps(torch.stack([each.heatmaps for each in maps]).mean(0), maps[base].tags)
