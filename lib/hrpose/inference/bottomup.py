"""An image -> the poses in it, bottom-up: heatmaps and tags first, people afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from hrpose.inference.decoding import Grouped, brought_back, decode_maps, group, judged
from hrpose.inference.gathering import fill_open, gather
from hrpose.inference.grouping import PUBLISHED, Settings
from hrpose.inference.tta import Maps, View, average_scales, look
from hrpose.ops.affine import Affine, decoded_frame, fit, network_frame, size_of
from hrpose.skeletons import Skeleton
from hrpose.structures import Candidates, Poses

Group = Callable[[Candidates, Skeleton, Settings], Grouped]


class Sizing(NamedTuple):
    """At which sizes an image is looked at, and in which coordinates."""

    input_size: int = 512  # pixels of the shorter side at scale 1
    scales: tuple[float, ...] = (1.0,)
    stride: int = 1  # network pixels per cell of the maps that are decoded; published: 1
    outputs: tuple[int, ...] = ()  # strides of the outputs that are averaged; none: of all
    convention: str = "official"


class Framed(NamedTuple):
    """An image as the network will see it."""

    pixels: tuple[np.ndarray, ...]  # of every scale, (H, W, 3) uint8
    size: tuple[int, int]  # (H, W) of the maps to decode
    to_maps: Affine  # from the image to their cells


class BottomUpPredictor:
    """Turns images into poses with a trained network.

    A predictor does at once what can be done apart, and by others: `frame` on the host, `look` on
    the device for images of one size, `people` on the host again (inference/stream.py).
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        skeleton: Skeleton,
        sizing: Sizing,
        views: Sequence[View],
        settings: Settings = PUBLISHED,
    ):
        """prepare: uint8 images (B, 3, H, W) on the device -> what the network takes"""
        self.model = model.eval()
        self.prepare = prepare
        self.skeleton = skeleton
        self.sizing = sizing
        self.views = views
        self.settings = settings

    def __call__(self, image: np.ndarray) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        return self.poses(*self.maps(image))

    def maps(self, image: np.ndarray) -> tuple[Maps, Affine]:
        """Heatmaps and tags over all scales and views, and the map from image to their cells."""
        with record_function("preprocess"):
            framed = self.frame(image)
        with record_function("aggregate"):  # less the network, which the benchmark labels "forward"
            return self.look([framed]), framed.to_maps

    def frame(self, image: np.ndarray) -> Framed:
        """The image (H, W, 3) uint8 RGB at every scale."""
        scales, stride = self.sizing.scales, self.sizing.stride
        base, to_network = self._fit(image, 1.0 if len(scales) > 1 else scales[0])
        fits = [self._fit(image, scale) for scale in scales]
        pixels = tuple(affine.image(image, size) for size, affine in fits)
        to_maps = decoded_frame(to_network, stride, self.sizing.convention)
        return Framed(pixels, (base[1] // stride, base[0] // stride), to_maps)

    @torch.inference_mode()
    def look(self, framed: Sequence[Framed]) -> Maps:
        """What the network says of images of one size, over all scales and views."""
        self.model.eval()
        device = next(self.model.parameters()).device
        said = []
        for pixels in zip(*(each.pixels for each in framed)):
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
            prepared = self.prepare(images.to(device))
            said.append(look(self.model, prepared, self.views, framed[0].size, self.sizing.outputs))
        return average_scales(said, self.sizing.scales)

    def gather(self, maps: Maps) -> Sequence[Candidates | None]:
        """Each image's candidates, brought to the host; None where its maps are there already."""
        return _gathered(maps.heatmaps.float(), maps.tags.float(), self.settings)

    def people(
        self, maps: Maps, candidates: Candidates | None, group: Group = group
    ) -> tuple[np.ndarray, np.ndarray]:
        """The people that the maps of one image show: what `decode` returns.

        group: decoding.group, or the same somewhere else
        """
        heatmaps, tags = maps.heatmaps[0].float(), maps.tags[0].float()
        return _people(heatmaps, tags, candidates, self.skeleton, self.settings, group)

    def poses(self, maps: Maps, to_maps: Affine) -> Poses:
        """The people that these maps of one image show, brought back to where `to_maps` began."""
        [candidates] = self.gather(maps)
        return brought_back(*self.people(maps, candidates), to_maps)

    def to_network(self, to_maps: Affine) -> Affine:
        """The map to network pixels of scale 1 behind one to the cells of the maps."""
        return network_frame(to_maps, self.sizing.stride, self.sizing.convention)

    def _fit(self, image: np.ndarray, scale: float) -> tuple[tuple[int, int], Affine]:
        size, smallest = size_of(image), min(self.sizing.scales)
        return fit(size, self.sizing.input_size, scale, smallest, self.sizing.convention)


def group_truth(
    predictor: BottomUpPredictor,
    draw: Callable[[Tensor, tuple[int, int]], Tensor],
    marked: tuple[np.ndarray, np.ndarray],
) -> Poses:
    """The people that predicted tags make of true heatmaps: what grouping alone costs.

    draw: joints (1, N, K, 3) in network pixels, and the size (H, W) of the maps that are decoded
          -> true heatmaps (1, K, H, W)
    marked: an image (H, W, 3) uint8 RGB, and the joints (N, K, 3) annotated in it
    Source: Newell et al. 2017, who put ground truth detections in the place of their own.
    """
    image, joints = marked
    maps, to_maps = predictor.maps(image)
    there = predictor.to_network(to_maps).joints(joints).astype(np.float32)
    height, width = maps.heatmaps.shape[-2:]
    drawn = draw(torch.from_numpy(there)[None].to(maps.heatmaps.device), (height, width))
    return predictor.poses(maps._replace(heatmaps=drawn), to_maps)


def decode(
    heatmaps: Tensor, tags: Tensor, skeleton: Skeleton, settings: Settings = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps and tags of one image -> the people in it, best first.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    Returns people (N, K, 3 + T): x, y in cells of these maps (the middle of cell 0 is 0.5), score,
    tags, a joint not found being all 0; and scores (N,), as published each the mean over all
    joints before the missing ones are filled in.
    """
    heatmaps, tags = torch.as_tensor(heatmaps).float(), torch.as_tensor(tags).float()
    [candidates] = _gathered(heatmaps[None], tags[None], settings)
    return _people(heatmaps, tags, candidates, skeleton, settings, group)


def _gathered(heatmaps: Tensor, tags: Tensor, settings: Settings) -> Sequence[Candidates | None]:
    if heatmaps.device.type == "cpu":
        return [None] * len(heatmaps)
    return gather(heatmaps, tags, settings)


def _people(
    heatmaps: Tensor,
    tags: Tensor,
    candidates: Candidates | None,
    skeleton: Skeleton,
    settings: Settings,
    group: Group,
) -> tuple[np.ndarray, np.ndarray]:
    """Of one image, from its candidates or, where there are none, from the maps on the host."""
    if candidates is None:
        return decode_maps(heatmaps.numpy(), tags.numpy(), skeleton, settings)
    grouped = group(candidates, skeleton, settings)
    filled = fill_open(grouped, heatmaps, tags, settings)
    return judged(grouped.found, filled, skeleton, settings)
