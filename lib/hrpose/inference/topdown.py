"""Top-down prediction: an image and boxes -> crops -> heatmaps of all views -> poses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hrpose.inference.spec import VIEWS
from hrpose.inference.topdown_spec import TopDownSpec, predict_in_boxes
from hrpose.inference.tta import flip_back
from hrpose.structures import Poses


class TopDownPredictor:
    """Poses of the people in boxes, by a trained network.

    The steps may be run apart (inference/crop_pipeline.py), on `spec.batch` crops at once:
    preprocess: image (H, W, 3) uint8 RGB, places (N, 6) -> crops (N, H, W, 3) uint8
    forward: crops -> maps (N, C, H, W) that the codec decodes, on the device of the model: K
             heatmaps, or 3K discs and offsets
    decode: maps -> joints (N, K, 3) in pixels of the crops, on the host
    postprocess: joints of all crops, boxes and box scores of one image -> Poses in image pixels
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

    @property
    def members(self) -> tuple[TopDownPredictor, ...]:
        """The networks that are averaged: this one; of a TopDownEnsemble, several."""
        return (self,)

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


class TopDownEnsemble:
    """Poses by several networks: joints are averaged in the image, over all of their crops.

    The members may differ in their networks, crops and coordinates; what people are scored and
    suppressed by is the first member's. Their order does not matter, but to the last digit.
    Source: Multi-Stage HRNet, "averaging the position in images".
    """

    def __init__(self, members: Sequence[TopDownPredictor]):
        """members: one or more, on one device. Errors: ValueError if their skeletons differ"""
        self.members = tuple(members)
        self.spec = self.members[0].spec
        for index, member in enumerate(self.members[1:], 1):
            ours, theirs = self.spec.skeleton, member.spec.skeleton
            if theirs != ours:
                what = "sigmas, limbs or pairs" if theirs.joints == ours.joints else "joints"
                raise ValueError(
                    f"network {index} of an ensemble has other {what} than network 0 "
                    f"({len(theirs.joints)} joints and {len(ours.joints)}); ensembles average "
                    "joint by joint: name networks of one DATASET.SKELETON"
                )

    __call__ = predict_in_boxes


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
    places = spec.place_crops(boxes)
    people = np.repeat(joints, len(spec.crop_views), axis=0)
    width, height = (side // spec.stride for side in spec.input_size)
    decoded = []
    for start in range(0, len(places), spec.batch):
        batch = slice(start, start + spec.batch)
        pairs = zip(places[batch], people[batch])
        in_crops = np.stack([spec.to_crop(place).joints(person) for place, person in pairs])
        maps, _ = draw(torch.from_numpy(in_crops).float(), (height, width))
        decoded.append(predictor.decode(maps))
    return predictor.postprocess(np.concatenate(decoded), boxes, scores)
