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


def one_of(maps: Maps, i: int) -> Maps:
    """Image i of a batch, as a batch."""
    return Maps(maps.heatmaps[i : i + 1], maps.tags[i : i + 1])


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
    said = [_read(model(view.apply(images)), view, strides) for view in views]
    # The mean is taken before it is enlarged: it is the same, and one map instead of several.
    heatmaps = resize(torch.stack([heatmaps for heatmaps, _ in said]).mean(0), size)
    # Of a network whose channels lie last, maps are put one after the other while they are small.
    tags = [resize(tags.contiguous(), size) for _, tags in said]
    return Maps(heatmaps, torch.stack(tags).movedim(0, -1))


def _read(
    outputs: Sequence[ScaleOutput], view: View, strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One view's heatmaps and tags (B, K, h, w), at its finest resolution, undone.

    Everything goes there first: two resizes in a row are not the same as one.
    """
    finest = (outputs[-1].heatmaps.shape[-2], outputs[-1].heatmaps.shape[-1])
    averaged = [output.heatmaps for output in outputs if not strides or output.stride in strides]
    heatmaps = torch.stack([resize(heatmaps, finest) for heatmaps in averaged]).mean(0)
    (tags,) = [output.tags for output in outputs if output.tags is not None]
    return view.undo(heatmaps), view.undo(resize(tags, finest))


def average_scales(maps: Sequence[Maps], scales: Sequence[float]) -> Maps:
    """Heatmaps averaged over image scales; tags of scale 1 alone, or of the only scale."""
    heatmaps = torch.stack([of_scale.heatmaps for of_scale in maps]).mean(0)
    return Maps(heatmaps, maps[list(scales).index(1) if len(scales) > 1 else 0].tags)
