"""Top-down prediction by an exported graph: the steps of inference/topdown.py without torch."""

from __future__ import annotations

from typing import cast

import numpy as np

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.inference.spec import VIEWS, ExportedModel, Network
from hrpose.inference.topdown_spec import TopDownSpec, predict_in_boxes


class OnnxTopDownPredictor:
    """Poses of the people in boxes by an exported graph, equal to those of TopDownPredictor."""

    def __init__(self, network: Network, model: ExportedModel):
        """model: its spec is a TopDownSpec"""
        self.network = network
        self.spec = spec = cast(TopDownSpec, model.spec)
        self.output = f"heatmaps_{spec.stride}"
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.codec = HeatmapCodec(spec.coordinates, subpixel=spec.subpixel)
        self.preprocess = spec.preprocess

    __call__ = predict_in_boxes

    @property
    def members(self) -> tuple[OnnxTopDownPredictor, ...]:
        """The networks that are averaged: this one."""
        return (self,)

    def forward(self, crops: np.ndarray) -> np.ndarray:
        """Heatmaps (N, K, h, w) float32 of crops (N, H, W, 3) uint8, averaged over views."""
        images = crops.transpose(0, 3, 1, 2)  # (N, 3, H, W)
        heatmaps = []
        for view in self.views:
            outputs = self.network(np.ascontiguousarray(np.flip(images, view.axes)))
            maps = np.flip(outputs[self.output], view.axes)[:, view.order]
            heatmaps.append(self.codec.convention.align_flipped(maps) if view.axes else maps)
        return np.mean(heatmaps, 0)

    def decode(self, heatmaps: np.ndarray) -> np.ndarray:
        """Joints (N, K, 3) x, y in pixels of the crops, value."""
        return self.codec.decode(heatmaps, self.spec.stride)
