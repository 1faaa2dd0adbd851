"""Augmentations of samples: random affine crop and horizontal flip.

Augmentations draw all randomness from the `rng` argument and return a new `Sample`; inputs are
never modified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hrpose.ops.coordinates import (
    HIGHERHRNET,
    Affine,
    Convention,
    mirror_image,
    mirror_joints,
    similarity,
)
from hrpose.structures import Sample

Augment = Callable[[Sample, np.random.Generator], Sample]


class CropConfig(NamedTuple):
    """Ranges of the random training crop."""

    size: int | tuple[int, int] = 512  # network pixels: a square, or (width, height)
    rotation: float = 30.0  # degrees, either way
    min_scale: float = (
        0.75  # shorter side of the crop, in shorter sides of the image; above 1: zoomed out
    )
    max_scale: float = 1.5
    translate: float = 40.0  # in 200ths of that side, either way
    stride: int = 1  # network pixels per cell of the mask: the finest output's
    convention: Convention = HIGHERHRNET

    @property
    def frame(self) -> tuple[int, int]:
        """(width, height) of the network input."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)


CropPolicy = Callable[[Sample, CropConfig, np.random.Generator], Affine]
"""Draws where a training crop lies: the transform from a sample's image to the network's input."""


def image_crop(sample: Sample, crop: CropConfig, rng: np.random.Generator) -> Affine:
    """The crop policy of bottom-up training: about the centre of the image.

    Source: the augmentation of HigherHRNet's released training code.
    """
    height, width = sample.image.shape[:2]
    side = min(width, height) * rng.uniform(crop.min_scale, crop.max_scale)
    reach = round(crop.translate * side / 200)
    shift = rng.integers(-reach, reach + 1, size=2)  # whole image pixels
    degrees = -rng.uniform(-crop.rotation, crop.rotation)
    centre = (width / 2 + shift[0], height / 2 + shift[1])
    scale = min(crop.frame) / side
    return similarity(centre, crop.frame, scale, degrees, crop.convention)


def move(
    sample: Sample,
    by: Affine,
    size: tuple[int, int],
    stride: int = 1,
    convention: Convention = HIGHERHRNET,
) -> Sample:
    """Transform image, joints, mask and boxes. Pixels from outside the image are masked.

    size: (width, height) of the new frame   stride: pixels of it per cell of the new mask
    """
    extents = sample.boxes[:, 2:] * np.float32(by.scale)  # not those of a rotated box's hull
    centres = by.points(sample.boxes[:, :2] + sample.boxes[:, 2:] / 2)
    cells = (size[0] // stride, size[1] // stride)
    covered = by.to_stride(stride, convention).image(sample.mask.view(np.uint8) * 255, cells)
    return replace(
        sample,
        image=by.image(sample.image, size),
        joints=by.joints(sample.joints).astype(np.float32),
        mask=covered > 127,
        boxes=np.hstack([centres - extents / 2, extents]).astype(np.float32),
    )


def flip(sample: Sample, flip_order: Sequence[int]) -> Sample:
    """Mirror image, mask, joints and boxes, and exchange left and right joints."""
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, 0] = width - 1 - boxes[:, 0] - boxes[:, 2]
    return replace(
        sample,
        image=mirror_image(sample.image),
        mask=mirror_image(sample.mask),
        joints=mirror_joints(sample.joints, width, list(flip_order)),
        boxes=boxes,
        flipped=not sample.flipped,
    )


def random_affine(
    sample: Sample,
    rng: np.random.Generator,
    crop: CropConfig,
    policy: CropPolicy = image_crop,
) -> Sample:
    """Random crop, rotation and scale; before any flip, which each output frame does for itself."""
    if sample.flipped or sample.mask.shape != sample.image.shape[:2]:
        raise ValueError(
            "a sample is cropped once, and then mirrored; put affine first in DATASET.AUGMENTATIONS"
        )
    by = policy(sample, crop, rng)
    return move(sample, by, crop.frame, crop.stride, crop.convention)


def random_flip(
    sample: Sample, rng: np.random.Generator, probability: float, flip_order: Sequence[int]
) -> Sample:
    """Flip with the given probability."""
    return flip(sample, flip_order) if rng.random() < probability else sample
