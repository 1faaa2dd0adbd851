"""An image -> the poses in it, bottom-up: heatmaps and tags first, people afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.inference.grouping import PUBLISHED, Settings, group_by_tag, pose_scores
from hrpose.inference.refine import Place, fill_missing
from hrpose.inference.tta import Maps, View, average_scales, look
from hrpose.ops.affine import Affine, fit
from hrpose.ops.heatmaps import cell_centres, find_peaks, quarter_shift
from hrpose.skeletons import Skeleton
from hrpose.structures import Candidates, Poses


class Sizing(NamedTuple):
    """At which sizes an image is looked at."""

    input_size: int = 512  # pixels of the shorter side at scale 1
    scales: tuple[float, ...] = (1.0,)
    stride: int = 1  # network pixels per cell of the maps that are decoded; published: 1
    outputs: tuple[int, ...] = ()  # strides of the outputs that are averaged; none: of all


class BottomUpPredictor:
    """Turns images into poses with a trained network."""

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

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        return self.poses(*self.maps(image))

    def poses(self, maps: Maps, to_maps: Affine) -> Poses:
        """The people that these maps of one image show, brought back to where `to_maps` began."""
        people, scores = decode(maps.heatmaps[0], maps.tags[0], self.skeleton, self.settings)
        joints = to_maps.inverse().joints(people[..., :3]).astype(np.float32)
        joints[people[..., 2] <= 0] = 0
        return Poses(joints, scores)

    @torch.inference_mode()
    def maps(self, image: np.ndarray) -> tuple[Maps, Affine]:
        """Heatmaps and tags over all scales and views, and the map from image to their cells."""
        self.model.eval()
        scales = self.sizing.scales
        base, to_network = self._fit(image, 1.0 if len(scales) > 1 else scales[0])
        size = (base[1] // self.sizing.stride, base[0] // self.sizing.stride)
        maps = average_scales([self._look(image, scale, size) for scale in scales], scales)
        return maps, Affine(to_network.matrix / self.sizing.stride)

    def _look(self, image: np.ndarray, scale: float, size: tuple[int, int]) -> Maps:
        network_size, to_network = self._fit(image, scale)
        pixels = torch.from_numpy(to_network.image(image, network_size)).permute(2, 0, 1)[None]
        device = next(self.model.parameters()).device
        images = self.prepare(pixels.to(device))
        return look(self.model, images, self.views, size, self.sizing.outputs)

    def _fit(self, image: np.ndarray, scale: float) -> tuple[tuple[int, int], Affine]:
        size = (image.shape[1], image.shape[0])
        return fit(size, self.sizing.input_size, scale, min(self.sizing.scales))


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
    to_network = Affine(to_maps.matrix * predictor.sizing.stride)
    there = torch.from_numpy(to_network.joints(joints).astype(np.float32))[None]
    height, width = maps.heatmaps.shape[-2:]
    drawn = draw(there.to(maps.heatmaps.device), (height, width))
    return predictor.poses(maps._replace(heatmaps=drawn), to_maps)


def decode(
    heatmaps: Tensor, tags: Tensor, skeleton: Skeleton, settings: Settings = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps and tags of one image -> the people in it, best first.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    Returns people (N, K, 3 + T): x, y in cells of these maps (the middle of cell 0 is 0.5), score,
    tags, a joint not found being all 0; and scores (N,), each the mean over all joints before the
    missing ones are filled in.
    """
    heatmaps, tags = torch.as_tensor(heatmaps).float(), torch.as_tensor(tags).float()
    place: Place = (
        quarter_shift if settings.adjust else lambda maps, joint, cells: cell_centres(cells)
    )
    candidates = find_candidates(heatmaps, tags, place, settings)
    people = group_by_tag(candidates.peaks, skeleton.grouping_indices, settings)
    scores = pose_scores(people)
    if settings.refine and len(people):
        whole = torch.from_numpy(people).to(heatmaps)
        people = fill_missing(whole, heatmaps, tags, place).cpu().numpy()
    return people, scores


def find_candidates(
    heatmaps: Tensor, tags: Tensor, place: Place, settings: Settings = PUBLISHED
) -> Candidates:
    """The highest peaks of every joint, each where it lies between the cells."""
    peaks = find_peaks(heatmaps, tags, settings.max_people, settings.nms_kernel)
    joint = torch.arange(len(peaks), device=peaks.device)[:, None].expand(peaks.shape[:2])
    xy = place(heatmaps, joint, peaks[..., :2])
    candidates = torch.cat([xy, peaks[..., 2:]], -1).cpu().numpy()
    if not np.isfinite(candidates).all():
        raise FloatingPointError(
            "heatmaps or tags are not finite: the weights are broken, perhaps by a high TRAIN.LR"
        )
    return Candidates(candidates)
