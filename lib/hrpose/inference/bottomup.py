"""Bottom-up prediction: an image -> heatmaps and tags of all views -> people -> poses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.inference.decode import decode
from hrpose.inference.spec import BOXES_REFUSED, VIEWS, InferenceSpec, NetworkInput, View
from hrpose.ops.peaks import resize
from hrpose.structures import Candidates, HeadOutput, Poses


class AggregatedMaps(NamedTuple):
    """Outputs of all views and resolutions of a batch, brought to one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    tags: Tensor  # (B, K, H, W, T), one tag value per view


class BottomUpPredictor:
    """Poses in images, by a trained network.

    The steps may be run apart (inference/pipeline.py):
    preprocess: image (H, W, 3) uint8 RGB -> NetworkInput
    forward: NetworkInputs of one size -> AggregatedMaps, on the device of the model
    decode: heatmaps (K, H, W), tags (K, H, W, T) -> people in cells, scores, as in decode.py
    postprocess: people, scores, NetworkInput -> Poses in image pixels
    """

    def __init__(self, model: nn.Module, spec: InferenceSpec):
        """model: on the device where it stays; takes images that `spec` normalizes"""
        self.model = model.eval()
        self.spec = spec
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(spec.mean, device=self.device).view(3, 1, 1)
        self.std = torch.tensor(spec.std, device=self.device).view(3, 1, 1)
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.preprocess = spec.preprocess
        self.decode = partial(decode, skeleton=spec.skeleton, config=spec.decoder)
        self.postprocess = spec.postprocess

    def __call__(self, image: np.ndarray, boxes: Any = None, box_scores: Any = None) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first.

        boxes, box_scores: not taken; top-down predictors have the same signature
        """
        if boxes is not None or box_scores is not None:
            raise ValueError(BOXES_REFUSED)
        inputs = self.preprocess(image)
        maps = self.forward([inputs])
        people, scores = self.decode(maps.heatmaps[0], maps.tags[0])
        return self.postprocess(people, scores, inputs)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[NetworkInput]) -> AggregatedMaps:
        """Heatmaps of images of one size, averaged over scales and views; tags of the base scale.

        Source: Cheng et al. 2020 (HigherHRNet), section 3.5 (heatmap aggregation).
        """
        self.model.eval()
        maps = []
        for pixels in zip(*(each.pixels for each in inputs)):
            images = torch.from_numpy(np.stack(pixels)).to(self.device)  # as they lie in memory
            images = images.permute(0, 3, 1, 2).contiguous()
            images = (images.float() / 255 - self.mean) / self.std
            given = images, self.views, inputs[0].size, self.spec.aggregate
            maps.append(run_views(self.model, *given))
        heatmaps = torch.stack([each.heatmaps for each in maps]).mean(0)
        return AggregatedMaps(heatmaps, maps[inputs[0].base].tags)

    def find_candidates(self, maps: AggregatedMaps) -> Sequence[Candidates | None]:
        """The candidates of each image, from one copy to the host; None for maps that are there."""
        if maps.heatmaps.device.type == "cpu":
            return [None] * len(maps.heatmaps)
        from hrpose.inference.decode_on_device import find_candidates_on_device

        return find_candidates_on_device(
            maps.heatmaps.float(), maps.tags.float(), self.spec.decoder
        )


def run_views(
    model: Callable[[Tensor], Sequence[HeadOutput]],
    images: Tensor,
    views: Sequence[View],
    size: tuple[int, int],
    strides: Sequence[int] = (),
) -> AggregatedMaps:
    """Test-time augmentation: heatmaps averaged over resolutions and views, tags stacked.

    images: (B, 3, H, W), normalized   size: (H, W) of the maps wanted
    strides: of the resolutions whose heatmaps are averaged; empty: all
    """
    heatmaps, tags = [], []
    for view in views:
        outputs = model(images.flip(view.axes))
        tagged = [each.tags for each in outputs if each.tags is not None]
        if len(tagged) != 1:
            raise ValueError(
                f"{len(tagged)} outputs of this network have tags; people are grouped by the tags "
                "of exactly one"
            )
        # All are resized to the finest first: two resizes in a row are not the same as one.
        finest = outputs[-1].heatmaps.shape[-2:]
        maps = [each.heatmaps for each in outputs if not strides or each.stride in strides]
        maps += tagged
        *averaged, of_view = [
            each if each.shape[-2:] == finest else resize(each, finest) for each in maps
        ]
        heatmaps.append(torch.stack(averaged).mean(0).flip(view.axes)[:, view.order])
        tags.append(of_view.flip(view.axes)[:, view.order])
    # The mean is taken before it is enlarged: it is the same, and one map instead of several.
    together = torch.stack([torch.stack(heatmaps).mean(0), *tags]).contiguous()
    if together.shape[-2:] != torch.Size(size):
        together = resize(together.flatten(0, 1), size).unflatten(0, together.shape[:2])
    return AggregatedMaps(together[0], together[1:].movedim(0, -1))


def predict_with_gt_heatmaps(
    predictor: BottomUpPredictor,
    draw: Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor]],
    annotated: tuple[np.ndarray, np.ndarray],
) -> Poses:
    """Group ground-truth heatmaps by the predicted tags: the errors of grouping only.

    draw: joints (1, N, K, 3) in network pixels, and the size (H, W) of the maps that are decoded
          -> ground-truth heatmaps (1, K, H, W), weights of the joints
    annotated: an image (H, W, 3) uint8 RGB, and its joints (N, K, 3)
    Source: Newell et al. 2017, who replace their own detections by the ground truth.
    """
    image, joints = annotated
    inputs = predictor.preprocess(image)
    maps = predictor.forward([inputs])
    in_network = inputs.to_network.joints(joints).astype(np.float32)
    heatmaps, _ = draw(torch.from_numpy(in_network)[None].to(maps.heatmaps.device), inputs.size)
    people, scores = predictor.decode(heatmaps[0], maps.tags[0])
    return predictor.postprocess(people, scores, inputs)
