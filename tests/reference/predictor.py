"""Images to poses, one image after the other: float32, eager, every map of every view enlarged."""

import numpy as np
import torch
from torch.autograd.profiler import record_function

from hrpose.inference.bottomup import AggregatedMaps
from hrpose.inference.spec import PUBLISHED
from hrpose.ops.normalize import normalize
from hrpose.ops.peaks import resize
from reference.decoding import fill_and_sort, find_peaks, group_by_tag

KNOWN = ("detection_threshold", "tag_threshold", "max_people", "nms_kernel", "refine", "matcher")
"""Decoder settings that the reference implements; the others must be the published ones."""


class ReferencePredictor:
    """The predictor's preprocessing and views, everything after it slow; one scale only."""

    def __init__(self, predictor, model):
        """model: as it was trained, float32"""
        if len(predictor.spec.scales) > 1:
            raise ValueError("the reference has one image scale; set TEST.SCALE_FACTOR [1]")
        decoder = predictor.spec.decoder
        known = {name: getattr(decoder, name) for name in KNOWN}
        if decoder != PUBLISHED._replace(**known):
            raise ValueError(f"the reference decodes as published, but for {', '.join(KNOWN)}")
        self.like = predictor
        self.config = decoder
        self.model = model.eval()

    def __call__(self, image):
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        with record_function("preprocess"):
            inputs = self.like.preprocess(image)
        return self.like.postprocess(*self.decode(self.maps(inputs)), inputs)

    @torch.inference_mode()
    def maps(self, inputs):
        """Heatmaps and tags of an image."""
        with record_function("aggregate"):
            device = next(self.model.parameters()).device
            pixels = torch.from_numpy(inputs.pixels[0]).permute(2, 0, 1)[None].contiguous()
            images = normalize(pixels.to(device))
            of_views = [self._view(images, view, inputs.size) for view in self.like.views]
            heatmaps, tags = zip(*of_views)
            return AggregatedMaps(torch.stack(heatmaps).mean(0), torch.stack(tags, -1).contiguous())

    def _view(self, images, view, size):
        """Heatmaps and tags (1, K, *size) of one view, undone."""
        with record_function("forward"):
            outputs = self.model(images.flip(view.axes))
        strides, finest = self.like.spec.aggregate, outputs[-1].heatmaps.shape[-2:]
        chosen = [each.heatmaps for each in outputs if not strides or each.stride in strides]
        mean = torch.stack([resize(each, finest) for each in chosen]).mean(0)
        (tags,) = [each.tags for each in outputs if each.tags is not None]
        maps = resize(mean, size), resize(resize(tags, finest), size)
        return [each.flip(view.axes)[:, view.order] for each in maps]

    def decode(self, maps):
        """People (N, K, 3 + T) in cells of the maps and their scores (N,)."""
        heatmaps, tags = maps.heatmaps[0].cpu().numpy(), maps.tags[0].cpu().numpy()
        config = self.config
        with record_function("candidates"):
            peaks = find_peaks(heatmaps, tags, config.max_people, config.nms_kernel)
        with record_function("group"):
            people = group_by_tag(peaks, self.like.spec.skeleton, config)
        with record_function("fill"):
            return fill_and_sort(people, heatmaps, tags, config)


def enlarge(plane, size):
    """A map (H, W) resized bilinearly, with pixel centres at +0.5 and borders repeated."""
    height, width = plane.shape
    result = np.zeros(size)
    for row, column in np.ndindex(size):
        y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
        x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
        lower = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
        result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result
