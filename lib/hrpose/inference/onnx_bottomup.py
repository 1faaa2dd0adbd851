"""Bottom-up prediction by an exported graph: the steps of inference/bottomup.py without torch."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import cv2
import numpy as np

from hrpose.inference.decode import NOT_FINITE, decode
from hrpose.inference.spec import (
    BOXES_REFUSED,
    VIEWS,
    ExportedModel,
    InferenceSpec,
    Network,
    NetworkInput,
)
from hrpose.ops.subpixel import unpack_keypoints
from hrpose.structures import Candidates, Poses


class OnnxBottomUpPredictor:
    """Poses in images by an exported graph, equal to those of BottomUpPredictor."""

    def __init__(self, network: Network, model: ExportedModel):
        """model: its spec is an InferenceSpec"""
        self.network, self.graph, self.strides = network, model.graph, model.strides
        self.spec = spec = cast(InferenceSpec, model.spec)
        self.views = [VIEWS[name](spec.skeleton) for name in spec.views]
        self.preprocess = spec.preprocess
        self.decode = partial(decode, skeleton=spec.skeleton, config=spec.decoder)
        self.postprocess = spec.postprocess

    def __call__(self, image: np.ndarray, boxes: Any = None, box_scores: Any = None) -> Poses:
        """As of BottomUpPredictor: boxes and their scores are refused."""
        if boxes is not None or box_scores is not None:
            raise ValueError(BOXES_REFUSED)
        inputs = self.preprocess(image)
        heatmaps, tags, candidates = self.forward(inputs)
        people, scores = self.decode(heatmaps, tags, candidates=candidates)
        return self.postprocess(people, scores, inputs)

    def forward(self, inputs: NetworkInput) -> tuple[np.ndarray, np.ndarray, Candidates | None]:
        """Heatmaps (K, H, W) and tags (K, H, W, T) over all scales and views.

        The candidates are None unless the graph finds the peaks.
        """
        if self.graph == "peaks":
            return self._run_peaks(inputs.pixels[0])
        maps = [self._run_views(pixels, inputs.size) for pixels in inputs.pixels]
        return np.mean([heatmaps for heatmaps, _ in maps], 0), maps[inputs.base][1], None

    def _run_peaks(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, Candidates]:
        """The outputs of a graph that also runs the views and finds the peaks."""
        outputs = self.network(to_planes(pixels)[None])
        packed, heatmaps, tags = (outputs[name][0] for name in ("peaks", "heatmaps", "tags"))
        peaks = unpack_keypoints(packed, heatmaps.shape[-1], self.spec.decoder.subpixel)
        # The graph finds no peak where heatmaps are not finite.
        if not np.isfinite(np.vdot(heatmaps, heatmaps) + np.vdot(peaks, peaks)):
            raise FloatingPointError(NOT_FINITE)
        return heatmaps, tags, Candidates(peaks)

    def _run_views(
        self, pixels: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One scale's heatmaps (K, *size), averaged over views, and tags (K, *size, T)."""
        image, strides = to_planes(pixels), self.strides
        outputs = self.network(np.stack([np.flip(image, view.axes) for view in self.views]))
        finest = outputs[f"heatmaps_{strides[-1]}"].shape[2:]
        maps = [outputs[f"heatmaps_{stride}"] for stride in self.spec.aggregate or strides]
        maps += [output for name, output in outputs.items() if name.startswith("tags_")]
        *averaged, tags = [
            [
                np.flip(resize_on_host(each, finest), view.axes)[view.order]
                for view, each in zip(self.views, of_output)
            ]
            for of_output in maps
        ]
        stacked = np.stack([resize_on_host(of_view, size) for of_view in tags], -1)
        return resize_on_host(np.mean(averaged, (0, 1)), size), stacked


def to_planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> contiguous (3, H, W)"""
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def resize_on_host(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (K, H, W) float32 resized bilinearly to `size` (H, W), as ops.peaks.resize does."""
    if maps.shape[1:] == tuple(size):
        return maps
    height, width = size
    resized = np.empty((len(maps), height, width), np.float32)
    for plane, target in zip(maps, resized):
        cv2.resize(plane, (width, height), dst=target)
    return resized
