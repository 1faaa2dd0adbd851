"""Looking at an image again: views of it, and what they say taken together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hrpose.ops.heatmaps import resize
from hrpose.structures import ScaleOutput


class View(NamedTuple):
    """A way to look at images again, and how to bring back what the network then says."""

    apply: Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> (B, 3, H, W)
    undo: Callable[[Tensor], Tensor]  # one map per joint (B, K, H, W) -> (B, K, H, W)


class Maps(NamedTuple):
    """What one or more views say of a batch, at one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    tags: Tensor  # (B, K, H, W, T), one tag value per view


PLAIN = View(lambda images: images, lambda maps: maps)


def mirrored(flip_order: Sequence[int]) -> View:
    """The mirror image; joints change sides on the way back."""
    return View(lambda images: images.flip(-1), lambda maps: maps.flip(-1)[:, flip_order])


def look(
    model: Callable[[Tensor], Sequence[ScaleOutput]],
    images: Tensor,
    views: Sequence[View],
    size: tuple[int, int],
    strides: Sequence[int] = (),
) -> Maps:
    """Heatmaps averaged over resolutions and views; the tags of every view side by side.

    images: (B, 3, H, W), normalised   size: (H, W) of the maps wanted
    strides: of the resolutions whose heatmaps are averaged; none: all
    Source: Cheng et al. 2020 (HigherHRNet), section 3.5 (heatmap aggregation).
    """
    said = [_bring_back(model(view.apply(images)), view, size, strides) for view in views]
    heatmaps = torch.stack([heatmaps for heatmaps, _ in said]).mean(0)
    return Maps(heatmaps, torch.stack([tags for _, tags in said], -1))


def _bring_back(
    outputs: Sequence[ScaleOutput], view: View, size: tuple[int, int], strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One view's heatmaps and tags (B, K, *size) in the frame of the plain image.

    Everything goes to the finest output first and from there to `size`: two resizes in a row are
    not the same as one.
    """
    finest = (outputs[-1].heatmaps.shape[-2], outputs[-1].heatmaps.shape[-1])
    averaged = [output.heatmaps for output in outputs if not strides or output.stride in strides]
    heatmaps = torch.stack([resize(heatmaps, finest) for heatmaps in averaged]).mean(0)
    (tags,) = [output.tags for output in outputs if output.tags is not None]
    tags = resize(tags, finest)
    return view.undo(resize(heatmaps, size)), view.undo(resize(tags, size))


def average_scales(maps: Sequence[Maps], scales: Sequence[float]) -> Maps:
    """Heatmaps averaged over image scales; tags of scale 1 alone, or of the only scale."""
    heatmaps = torch.stack([of_scale.heatmaps for of_scale in maps]).mean(0)
    return Maps(heatmaps, maps[list(scales).index(1) if len(scales) > 1 else 0].tags)
