"""Heatmaps and tags as a network would predict them of a crowd, or of noise: decoders' input."""

from typing import NamedTuple

import numpy as np
import torch

from hrpose.inference.bottomup import run_views
from hrpose.inference.spec import View
from hrpose.structures import HeadOutput
from reference.targets import draw_gaussians

TAG_GAP = 1.5
"""Between the tags of two people."""


class Crowd(NamedTuple):
    """The people of an image, and how well the network finds them."""

    people: int
    joints: int = 17
    views: int = 2  # tag values of a cell
    missing: float = 0.3  # share of joints without a peak
    noise: float = 0.01  # deviation of the heatmaps; ten times as much of tags


def crowd_maps(crowd, size, rng, cells):
    """Heatmaps (K, H, W), and tags (K, H, W, T), one map after the other in memory.

    size: (H, W) in network pixels, multiples of 32   cells: (H, W) of the maps
    Peaks are those of two resolutions, averaged and enlarged as at test.
    """
    predicted = iter(crowd_outputs(crowd, size, rng))
    maps = run_views(
        lambda images: next(predicted), torch.empty(0), [View((), slice(None))] * crowd.views, cells
    )
    return maps.heatmaps[0].numpy(), maps.tags[0].numpy()


def crowd_outputs(crowd, size, rng):
    """What a network outputs of each view, for images of `size` (H, W)."""
    joints = _joints(crowd, size, rng)
    coarse, fine = (_heatmaps(joints, size, stride, crowd.noise, rng) for stride in (4, 2))
    return [
        [HeadOutput("1_4", 4, coarse, tags[None]), HeadOutput("1_2", 2, fine)]
        for tags in _tags(joints, size, crowd, rng)
    ]


def _joints(crowd, size, rng):
    """(N, K, 4): x, y in network pixels, height of the peak (0: missing), the person's size."""
    joints = np.zeros((crowd.people, crowd.joints, 4), np.float32)
    for person in joints:
        tall = rng.uniform(0.1, 0.5) * size[0]
        centre = rng.uniform((0, 0), size[::-1])
        person[:, :2] = centre + rng.normal(size=(crowd.joints, 2)) * (tall / 5, tall / 3)
        found = rng.random(crowd.joints) >= crowd.missing
        person[:, 2] = found * rng.uniform(0.3, 1, crowd.joints)
        person[:, 3] = tall
    return joints


def _heatmaps(joints, size, stride, noise, rng):
    """(1, K, H / stride, W / stride)"""
    shape = (size[0] // stride, size[1] // stride)
    maps = rng.normal(0, noise, (joints.shape[1], *shape)).astype(np.float32)
    if len(joints):
        cells = np.concatenate([joints[..., :2] / stride, joints[..., 2:3]], -1)
        drawn = draw_gaussians(cells[None], shape, 2.0, heights=joints[None, ..., 2])[0]
        maps = np.maximum(maps, drawn.astype(np.float32))
    return torch.from_numpy(maps)[None]


def _tags(joints, size, crowd, rng):
    """(T, K, H / 4, W / 4): a person's tag about all of its joints, also those without a peak."""
    shape = (size[0] // 4, size[1] // 4)
    tags = np.zeros((crowd.joints, *shape))
    for n, person in enumerate(joints):
        reach = max(2, int(person[0, 3] / 32))
        for plane, (x, y, *_) in zip(tags, person):
            row, column = int(y / 4), int(x / 4)
            rows = slice(max(row - reach, 0), max(row + reach + 1, 0))
            plane[rows, max(column - reach, 0) : max(column + reach + 1, 0)] = TAG_GAP * (n + 1)
    noise = rng.normal(0, 10 * crowd.noise, (crowd.views, crowd.joints, *shape))
    return torch.from_numpy(tags + noise).float()


def noise_maps(size, rng, joints=17, spread=10.0):
    """As an untrained network may predict: peaks everywhere, tags without meaning."""
    tags = rng.random((2, joints, *size), np.float32) * np.float32(spread)
    return rng.random((joints, *size), np.float32), np.moveaxis(tags, 0, -1)


def tied_maps(seed, levels=0, size=(20, 26)):
    """Heat (3, H, W), with many ties if there are few levels, and tags (3, H, W, 2)."""
    rng = np.random.default_rng(seed)
    heat = rng.uniform(-0.3, 1, (3, *size)).astype(np.float32)
    if levels:
        heat = np.round(heat * levels) / np.float32(levels)
    return heat, rng.normal(size=(3, *size, 2)).astype(np.float32)
