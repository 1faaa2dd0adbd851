"""Top-down prediction: an image and boxes -> crops -> heatmaps of all views -> poses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.inference.spec import VIEWS
from hrpose.inference.topdown_spec import TopDownSpec, predict_in_boxes
from hrpose.inference.tta import flip_back
from hrpose.ops.boxes import crop_transform
from hrpose.structures import Poses


class TopDownPredictor:
    """Poses of the people in boxes, by a trained network.

    The steps may be run apart (inference/crop_pipeline.py), on `spec.batch` crops at once:
    preprocess: image (H, W, 3) uint8 RGB, boxes (N, 4) -> crops (N, H, W, 3) uint8
    forward: crops -> maps (N, C, H, W) that the codec decodes, on the device of the model: K
             heatmaps, or 3K discs and offsets
    decode: maps -> joints (N, K, 3) in pixels of the crops, on the host
    postprocess: joints, boxes and box scores of one image -> Poses in image pixels
    """

    def __init__(self, model: nn.Module, spec: TopDownSpec):
        """model: on the device where it stays; takes images that `spec` normalizes"""
        self.model = model.eval()
        self.spec = spec
        self.device = next(model.parameters()).device
        self.mean = torch.tensor(spec.mean, device=self.device).view(3, 1, 1)
        self.std = torch.tensor(spec.std, device=self.device).view(3, 1, 1)
        self.flip_order = torch.tensor(spec.skeleton.flip_order, device=self.device)
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.codec = spec.build_codec()
        self.check_inputs = spec.check_inputs
        self.preprocess = spec.preprocess
        self.postprocess = spec.postprocess

    __call__ = predict_in_boxes

    @torch.inference_mode()
    def forward(self, crops: np.ndarray) -> Tensor:
        """Maps (N, C, H, W) float32 of crops (N, H, W, 3) uint8, averaged over views.

        Source: the released code of HRNet: maps are averaged, not joints.
        """
        self.model.eval()
        pixels = torch.from_numpy(crops)  # as they lie in memory
        if self.device.type != "cpu":  # a copy of pageable memory waits for all work before it
            pixels = pixels.pin_memory()
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        images = (images.float() / 255 - self.mean) / self.std
        of_views = []
        for view in self.views:
            output = self.model(images.flip(view.axes))[-1]
            maps = torch.cat([getattr(output, name) for name in self.codec.fields], 1).float()
            if view.axes:
                maps = flip_back(maps, self.flip_order, self.codec, self.spec.stride)
            of_views.append(maps)
        return torch.stack(of_views).mean(0)

    def decode(self, maps: Tensor) -> np.ndarray:
        """Joints (N, K, 3) x, y in pixels of the crops, value, of which little is copied to the
        host."""
        return self.codec.decode(maps, self.spec.stride).numpy()


def predict_with_gt_heatmaps(
    predictor: TopDownPredictor,
    draw: Callable[[Tensor, tuple[int, int]], tuple[Tensor, Tensor]],
    annotated: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Poses:
    """Decode ground-truth maps: the errors of the crop and of the codec only.

    draw: joints (N, K, 3) in pixels of the crops, size (h, w) -> maps (N, C, h, w), weights
    annotated: an image (H, W, 3) uint8 RGB, boxes (N, 4) and the joints (N, K, 3) in them
    """
    spec = predictor.spec
    image, boxes, joints = annotated
    boxes, scores = predictor.check_inputs(image, boxes)
    if not len(boxes):
        return predictor(image, boxes)
    given = spec.input_size, spec.padding
    crops = [crop_transform(box, *given, coordinates=spec.coordinates) for box in boxes]
    in_crops = np.stack([crop.joints(person) for crop, person in zip(crops, joints)])
    width, height = (side // spec.stride for side in spec.input_size)
    maps, _ = draw(torch.from_numpy(in_crops).float(), (height, width))
    return predictor.postprocess(predictor.decode(maps), boxes, scores)
