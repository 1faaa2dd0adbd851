"""Bottom-up prediction: an image -> heatmaps and tags -> people -> poses in image pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.inference.decode import Group, decode, find_candidates
from hrpose.inference.grouping import group_by_tag
from hrpose.inference.spec import InferenceSpec, NetworkInput, to_image_coords
from hrpose.inference.tta import VIEWS, AggregatedMaps, average_scales, run_views
from hrpose.structures import Candidates, Poses


class BottomUpPredictor:
    """Poses in images, by a trained network.

    The steps may be run apart (inference/pipeline.py): `preprocess` on the host, `forward` on the
    device for images of one size, `decode` and `postprocess` on the host again.
    """

    def __init__(
        self, model: nn.Module, spec: InferenceSpec, normalize: Callable[[Tensor], Tensor]
    ):
        """normalize: uint8 images (B, 3, H, W) on the device -> what the network takes"""
        self.model = model.eval()
        self.spec = spec
        self.normalize = normalize
        self.views = [VIEWS[name](spec.skeleton.flip_order) for name in spec.views]

    def __call__(self, image: np.ndarray) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        inputs = self.preprocess(image)
        maps = self.forward([inputs])
        return self.postprocess(*self.decode(maps), inputs)

    def preprocess(self, image: np.ndarray) -> NetworkInput:
        """The image (H, W, 3) uint8 RGB at every scale."""
        return self.spec.preprocess(image)

    @torch.inference_mode()
    def forward(self, inputs: Sequence[NetworkInput]) -> AggregatedMaps:
        """Heatmaps and tags of images of one size, over all scales and views."""
        self.model.eval()
        device, size = next(self.model.parameters()).device, inputs[0].size
        maps = []
        for pixels in zip(*(each.pixels for each in inputs)):
            images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
            images = self.normalize(images.to(device))
            maps.append(run_views(self.model, images, self.views, size, self.spec.aggregate))
        return average_scales(maps, self.spec.base)

    def decodes_on_host(self, maps: AggregatedMaps) -> bool:
        return maps.heatmaps.device.type == "cpu"

    def find_candidates(self, maps: AggregatedMaps) -> list[Candidates]:
        """The candidates of each image of a batch, on the host."""
        pairs = zip(maps.heatmaps.float(), maps.tags.float())
        return [find_candidates(*pair, self.spec.decoder) for pair in pairs]

    def decode(
        self,
        maps: AggregatedMaps,
        i: int = 0,
        candidates: Candidates | None = None,
        group: Group = group_by_tag,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The people (N, K, 3 + T) in image i of a batch, and their scores (N,)."""
        spec = self.spec
        given = (maps.heatmaps[i], maps.tags[i], spec.skeleton, spec.decoder)
        return decode(*given, candidates, group)

    def postprocess(self, people: np.ndarray, scores: np.ndarray, inputs: NetworkInput) -> Poses:
        """People in cells of the maps -> poses in image pixels."""
        return to_image_coords(people, scores, inputs.to_maps)


def predict_with_gt_heatmaps(
    predictor: BottomUpPredictor,
    draw: Callable[[Tensor, tuple[int, int]], Tensor],
    annotated: tuple[np.ndarray, np.ndarray],
) -> Poses:
    """Group ground-truth heatmaps by the predicted tags: the errors of grouping only.

    draw: joints (1, N, K, 3) in network pixels, and the size (H, W) of the maps that are decoded
          -> ground-truth heatmaps (1, K, H, W)
    annotated: an image (H, W, 3) uint8 RGB, and its joints (N, K, 3)
    Source: Newell et al. 2017, who replace their own detections by the ground truth.
    """
    image, joints = annotated
    inputs = predictor.preprocess(image)
    maps = predictor.forward([inputs])
    in_network = inputs.to_network.joints(joints).astype(np.float32)
    drawn = draw(torch.from_numpy(in_network)[None].to(maps.heatmaps.device), inputs.size)
    return predictor.postprocess(*predictor.decode(maps._replace(heatmaps=drawn)), inputs)
