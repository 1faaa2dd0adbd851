"""Maps as a network would say them of a crowd: for timing, and for tests of decoders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hrpose.inference.tta import IDENTITY, run_views
from hrpose.ops.gaussian import draw_heatmaps
from hrpose.structures import ScaleOutput

APART = 1.5
"""Between the tags of two people."""


class Crowd(NamedTuple):
    """Who is in the picture, and how well the network sees them."""

    people: int
    joints: int = 17
    views: int = 2  # tag values of a cell
    missing: float = 0.3  # share of joints without a peak
    noise: float = 0.01  # of heat; ten times as much of tags


def crowd_maps(
    crowd: Crowd, size: tuple[int, int], rng: np.random.Generator, cells: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps (K, H, W), and tags (K, H, W, T), one map after the other in memory.

    size: (H, W) in network pixels, multiples of 32   cells: (H, W) of the maps
    Peaks are those of two resolutions, averaged and enlarged as inference/tta.run_views does.
    """
    joints = _joints(crowd, size, rng)
    coarse, fine = (_heatmaps(joints, size, stride, crowd.noise, rng) for stride in (4, 2))
    tags = _tags(joints, size, crowd, rng)
    said = iter(
        [ScaleOutput(coarse, view[None], None, 4), ScaleOutput(fine, None, None, 2)]
        for view in tags
    )
    maps = run_views(lambda images: next(said), torch.empty(0), [IDENTITY] * crowd.views, cells)
    return maps.heatmaps[0].numpy(), maps.tags[0].numpy()


def _joints(crowd: Crowd, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(N, K, 4): x, y in network pixels, height of the peak (0: missing), the person's size."""
    height, width = size
    joints = np.zeros((crowd.people, crowd.joints, 4), np.float32)
    for person in joints:
        tall = rng.uniform(0.1, 0.5) * height
        middle = rng.uniform((0, 0), (width, height))
        person[:, :2] = middle + rng.normal(size=(crowd.joints, 2)) * (tall / 5, tall / 3)
        seen = rng.random(crowd.joints) >= crowd.missing
        person[:, 2] = seen * rng.uniform(0.3, 1, crowd.joints)
        person[:, 3] = tall
    return joints


def _heatmaps(
    joints: np.ndarray, size: tuple[int, int], stride: int, noise: float, rng: np.random.Generator
) -> Tensor:
    """(1, K, H / stride, W / stride)"""
    shape = (size[0] // stride, size[1] // stride)
    said = torch.from_numpy(rng.normal(0, noise, (joints.shape[1], *shape))).float()
    for person in torch.from_numpy(joints):
        marked = torch.cat([person[:, :2] / stride, person[:, 2:3]], -1)
        drawn = draw_heatmaps(marked[None, None], shape, 2.0)[0] * person[:, 2, None, None]
        said = torch.maximum(said, drawn)
    return said[None]


def _tags(
    joints: np.ndarray, size: tuple[int, int], crowd: Crowd, rng: np.random.Generator
) -> Tensor:
    """(T, K, H / 4, W / 4): a person's tag about all of its joints, also those without a peak."""
    shape = (size[0] // 4, size[1] // 4)
    owner = np.zeros((crowd.joints, *shape))
    for n, person in enumerate(joints):
        reach = max(2, int(person[0, 3] / 32))
        for kind, (x, y, *_) in zip(owner, person):
            row, column = int(y / 4), int(x / 4)
            rows = slice(max(row - reach, 0), max(row + reach + 1, 0))
            kind[rows, max(column - reach, 0) : max(column + reach + 1, 0)] = APART * (n + 1)
    noise = rng.normal(0, 10 * crowd.noise, (crowd.views, crowd.joints, *shape))
    return torch.from_numpy(owner + noise).float()


def noise_maps(
    size: tuple[int, int], rng: np.random.Generator, joints: int = 17, spread: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """What an untrained network may say: peaks everywhere, tags without meaning."""
    tags = rng.random((2, joints, *size), np.float32) * np.float32(spread)
    return rng.random((joints, *size), np.float32), np.moveaxis(tags, 0, -1)
