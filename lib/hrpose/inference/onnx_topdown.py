"""Top-down prediction by an exported graph: the steps of inference/topdown.py without torch."""

from __future__ import annotations

from typing import cast

import numpy as np

from hrpose.inference.spec import VIEWS, ExportedModel, Network
from hrpose.inference.topdown_spec import TopDownSpec, predict_in_boxes


class OnnxTopDownPredictor:
    """Poses of the people in boxes by an exported graph, equal to those of TopDownPredictor."""

    def __init__(self, network: Network, model: ExportedModel):
        """model: its spec is a TopDownSpec"""
        self.network = network
        self.spec = spec = cast(TopDownSpec, model.spec)
        self.codec = spec.build_codec()
        self.outputs = [f"{name}_{spec.stride}" for name in self.codec.fields]
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.preprocess = spec.preprocess

    __call__ = predict_in_boxes

    @property
    def members(self) -> tuple[OnnxTopDownPredictor, ...]:
        """The networks that are averaged: this one."""
        return (self,)

    def forward(self, crops: np.ndarray) -> np.ndarray:
        """Maps (N, C, h, w) float32 of crops (N, H, W, 3) uint8, averaged over views."""
        images = crops.transpose(0, 3, 1, 2)  # (N, 3, H, W)
        of_views = []
        for view in self.views:
            outputs = self.network(np.ascontiguousarray(np.flip(images, view.axes)))
            parts = [np.flip(outputs[name], view.axes) for name in self.outputs]
            kinds = np.concatenate(parts, 1)
            shape = kinds.shape[0], -1, len(self.spec.skeleton.joints), *kinds.shape[2:]
            maps = kinds.reshape(shape)[:, :, view.order].reshape(kinds.shape)
            of_views.append(self.codec.align_flipped(maps, self.spec.stride) if view.axes else maps)
        return np.mean(of_views, 0)

    def decode(self, maps: np.ndarray) -> np.ndarray:
        """Joints (N, K, 3) x, y in pixels of the crops, value."""
        return self.codec.decode(maps, self.spec.stride)
