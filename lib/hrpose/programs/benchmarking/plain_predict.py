"""Finding people the plain way: one image after the other, every step as the papers tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.data.coco import BareImages
from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.spec import PUBLISHED, NetworkInput, to_image_coords
from hrpose.inference.tta import AggregatedMaps, View
from hrpose.ops.peaks import resize
from hrpose.programs.benchmarking.plain_decode import plain_finish, plain_groups, plain_peaks
from hrpose.structures import Poses, ScaleOutput

KNOWN = (
    "detection_threshold",
    "tag_threshold",
    "max_people",
    "nms_kernel",
    "refine",
    "matcher",
)
"""Settings that the plain path heeds."""


class Plain:
    """What inference.bottomup.BottomUpPredictor does, with published settings and one scale."""

    def __init__(self, like: BottomUpPredictor, model: nn.Module):
        """model: as it was trained, float32"""
        if len(like.spec.scales) > 1:
            raise ValueError("the plain path looks at one scale; set TEST.SCALE_FACTOR [1]")
        known = {name: getattr(like.spec.decoder, name) for name in KNOWN}
        if like.spec.decoder != PUBLISHED._replace(**known):
            raise ValueError(f"the plain path is as published, but for {', '.join(KNOWN)}")
        self.like = like
        self.settings = like.spec.decoder
        self.model = model.eval()

    def frame(self, image: np.ndarray) -> NetworkInput:
        return self.like.preprocess(image)

    @torch.inference_mode()
    def look(self, framed: NetworkInput) -> AggregatedMaps:
        like, device = self.like, next(self.model.parameters()).device
        pixels = torch.from_numpy(framed.pixels[0]).permute(2, 0, 1)[None].contiguous()
        images = like.normalize(pixels.to(device))
        return plain_look(self.model, images, like.views, framed.size, like.spec.aggregate)

    def peaks(self, maps: AggregatedMaps) -> np.ndarray:
        most, window = self.settings.max_people, self.settings.nms_kernel
        return plain_peaks(*on_host(maps), most, window)

    def group(self, peaks: np.ndarray) -> list[np.ndarray]:
        return plain_groups(peaks, self.like.spec.skeleton, self.settings)

    def refine(
        self, people: list[np.ndarray], maps: AggregatedMaps
    ) -> tuple[np.ndarray, np.ndarray]:
        return plain_finish(people, *on_host(maps), self.settings)

    def find(self, images: BareImages) -> Iterator[tuple[int, Poses]]:
        """One image after the other."""
        for i in range(len(images)):
            image_id, image = images[i]
            framed = self.frame(image)
            maps = self.look(framed)
            people = self.refine(self.group(self.peaks(maps)), maps)
            yield image_id, to_image_coords(*people, framed.to_maps)


def on_host(maps: AggregatedMaps) -> tuple[Any, Any]:
    """The heatmaps (K, H, W) and tags (K, H, W, T) of one image."""
    return maps.heatmaps[0].cpu().numpy(), maps.tags[0].cpu().numpy()


def plain_look(
    model: Callable[[Tensor], Sequence[ScaleOutput]],
    images: Tensor,
    views: Sequence[View],
    size: tuple[int, int],
    strides: Sequence[int],
) -> AggregatedMaps:
    """Every map of every view enlarged to `size`, then their mean; a cell's tags side by side."""
    heatmaps, tags = [], []
    for view in views:
        outputs = model(view.apply(images))
        finest = (outputs[-1].heatmaps.shape[-2], outputs[-1].heatmaps.shape[-1])
        chosen = [each.heatmaps for each in outputs if not strides or each.stride in strides]
        mean = torch.stack([resize(each, finest) for each in chosen]).mean(0)
        heatmaps.append(view.undo(resize(mean, size)))
        (of_view,) = [each.tags for each in outputs if each.tags is not None]
        tags.append(view.undo(resize(resize(of_view, finest), size)))
    return AggregatedMaps(torch.stack(heatmaps).mean(0), torch.stack(tags, -1).contiguous())
