"""A toy top-down network, images with boxes, and a graph as a file, for tests of predictors."""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.inference.topdown import TopDownPredictor
from hrpose.inference.topdown_spec import TopDownSpec
from hrpose.skeletons import Skeleton
from hrpose.structures import HeadOutput

NAMES = ("nose", "left_ear", "right_ear")
DOTS = Skeleton(NAMES, (0.05, 0.1, 0.07), NAMES)
SPEC = TopDownSpec(DOTS, (32, 64), batch=16, mean=(0.5,) * 3, std=(0.25,) * 3)


class Edges(nn.Module):
    """Brightness is the nose, edges are the ears: left and right alike, and crop by crop."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        grey = images.mean(1, keepdim=True) * self.weight
        steps = F.pad(grey, (1, 1, 0, 0), mode="replicate")
        falling, rising = steps[..., :-2] - grey, steps[..., 2:] - grey
        maps = F.avg_pool2d(torch.cat([grey, 3 * falling, 3 * rising], 1), 4)
        return [HeadOutput("1_4", 4, maps)]


class Lopsided(Edges):
    """Sees more on the right than on the left."""

    def forward(self, images):
        (output,) = super().forward(images)
        slope = torch.linspace(0.2, 1.4, output.heatmaps.shape[-1])
        return [output._replace(heatmaps=output.heatmaps * slope)]


def predictor(network=Lopsided, **changes):
    return TopDownPredictor(network(), SPEC._replace(**changes))


def smooth_image(seed, size=(120, 90)):
    """(H, W, 3) of blobs, black at its left."""
    noise = np.random.default_rng(seed).integers(0, 256, (10, 13, 3), np.uint8)
    image = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    image[:, : size[0] // 4] = 0
    return image


def scattered_boxes(seed, count, size=(120, 90)):
    """Boxes (N, 4), some of them partly outside or nearly the same, and scores with ties and 0."""
    rng = np.random.default_rng(seed)
    extent = rng.uniform(4, 80, (count, 2))
    corner = rng.uniform(0.2 - extent, np.array(size) - 0.2)
    boxes = np.concatenate([corner, extent], 1)
    boxes[1::4] = boxes[::4][: len(boxes[1::4])] * 1.001
    return boxes, rng.choice([0, 0.3, 0.3, 0.7, 0.9], count)


def as_network(graph):
    """A graph in torch, called as an exported one."""

    @torch.inference_mode()
    def network(images):
        outputs = graph(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in outputs.items()}

    return network
