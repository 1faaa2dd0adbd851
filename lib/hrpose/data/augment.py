"""Augmentations of samples: random affine crop, horizontal flip, half bodies, colours, and cutout.

Augmentations draw all randomness from the `rng` argument and return a new `Sample`; inputs are
never modified. Each states what it draws, and in which order: runs are reproduced by it.

Crops of images are flipped after the crop, as in HigherHRNet's released code, and those of people
before it, in the image, as in HRNet's: by the convention `hrnet` a flipped crop is one pixel off
the crop of the flipped image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.ops.boxes import PADDING, crop_transform
from hrpose.ops.coordinates import (
    HIGHERHRNET,
    HRNET,
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


class BoxCropConfig(NamedTuple):
    """Ranges of the random training crop of a person."""

    frame: tuple[int, int] = (192, 256)  # network pixels, (width, height)
    padding: float = PADDING  # side of the crop, in sides of the box
    scale: float = 0.35  # standard deviation of the factor of that side, and its largest change
    rotation: float = 45.0  # standard deviation in degrees; at most twice as many, either way
    rotate: float = 0.6  # probability of a rotation
    stride: int = 1  # network pixels per cell of the mask, if there is one
    convention: Convention = HRNET


CropPolicy = Callable[[Sample, Any, np.random.Generator], Affine]
"""Draws where a training crop lies: the transform from a sample's image to the network's input."""


def image_crop(sample: Sample, crop: CropConfig, rng: np.random.Generator) -> Affine:
    """The crop policy of bottom-up training: about the centre of the image, before any flip.

    Draws its side, its shift in x and y, and the angle, all uniform.
    Errors: ValueError for a sample that was flipped, or cropped, before.
    Source: the augmentation of HigherHRNet's released training code.
    """
    whole = sample.mask is None or sample.mask.shape == sample.image.shape[:2]
    if sample.flipped or not whole:
        raise ValueError(
            "a sample is cropped once, and then mirrored; put affine first in DATASET.AUGMENTATIONS"
        )
    height, width = sample.image.shape[:2]
    side = min(width, height) * rng.uniform(crop.min_scale, crop.max_scale)
    reach = round(crop.translate * side / 200)
    shift = rng.integers(-reach, reach + 1, size=2)  # whole image pixels
    degrees = -rng.uniform(-crop.rotation, crop.rotation)
    centre = (width / 2 + shift[0], height / 2 + shift[1])
    scale = min(crop.frame) / side
    return similarity(centre, crop.frame, scale, degrees, crop.convention)


def box_crop(sample: Sample, crop: BoxCropConfig, rng: np.random.Generator) -> Affine:
    """The crop policy of top-down training: about the box of a person, after any flip.

    Draws the scale (normal), whether to rotate (uniform), and only then the angle (normal).
    Errors: ValueError for a box that is not finite or not above 0 in width and height.
    Source: the augmentation of HRNet's released training code.
    """
    factor = 1 + _clipped_normal(rng, crop.scale, crop.scale)
    rotated = rng.random() < crop.rotate
    degrees = _clipped_normal(rng, crop.rotation, 2 * crop.rotation) if rotated else 0.0
    coordinates = crop.convention.name
    return crop_transform(sample.boxes[0], crop.frame, crop.padding * factor, degrees, coordinates)


def _clipped_normal(rng: np.random.Generator, deviation: float, most: float) -> float:
    """A normal draw about 0 of this standard deviation, at most `most` either way."""
    return min(max(deviation * rng.standard_normal(), -most), most)


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
    mask = sample.mask
    if mask is not None:
        cells = (size[0] // stride, size[1] // stride)
        mask = by.to_stride(stride, convention).image(mask.view(np.uint8) * 255, cells) > 127
    return replace(
        sample,
        image=by.image(sample.image, size),
        joints=by.joints(sample.joints).astype(np.float32),
        mask=mask,
        boxes=np.hstack([centres - extents / 2, extents]).astype(np.float32),
    )


def flip(sample: Sample, flip_order: Sequence[int]) -> Sample:
    """Mirror image, mask, joints and boxes, and exchange left and right joints."""
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, 0] = width - 1 - boxes[:, 0] - boxes[:, 2]
    annotated = sample.annotated_joints
    return replace(
        sample,
        image=mirror_image(sample.image),
        mask=None if sample.mask is None else mirror_image(sample.mask),
        joints=mirror_joints(sample.joints, width, list(flip_order)),
        boxes=boxes,
        annotated_joints=None if annotated is None else annotated[list(flip_order)],
        flipped=not sample.flipped,
    )


def random_affine(
    sample: Sample,
    rng: np.random.Generator,
    crop: CropConfig | BoxCropConfig,
    policy: CropPolicy = image_crop,
) -> Sample:
    """Random crop, rotation and scale; before or after a flip, as the policy demands."""
    by = policy(sample, crop, rng)
    return move(sample, by, crop.frame, crop.stride, crop.convention)


def random_flip(
    sample: Sample, rng: np.random.Generator, probability: float, flip_order: Sequence[int]
) -> Sample:
    """Flip with the given probability; one uniform draw."""
    return flip(sample, flip_order) if rng.random() < probability else sample


# Half of a body ------------------------------------------------------------------------------

HALF_BODY_PADDING = 1.5
"""Side of a crop of half a body, in sides of the box around its joints."""


class HalfBodyConfig(NamedTuple):
    """Which joints half bodies have, and how often samples are crops of them."""

    upper: tuple[int, ...]  # joints above the hips (Skeleton.upper_joints)
    lower: tuple[int, ...]  # all others
    probability: float = 0.3
    min_joints: int = 8  # of people with more labelled joints than that
    padding: float = PADDING  # of the crop that follows; a half body has HALF_BODY_PADDING instead

    @property
    def has_halves(self) -> bool:
        """Whether the names of joints distinguish two halves; without, every body stays whole."""
        return bool(self.upper and self.lower)


def half_body(sample: Sample, rng: np.random.Generator, config: HalfBodyConfig) -> Sample:
    """Replace the box of a person by that of the upper or lower half, with a probability.

    The upper half is preferred to the lower if a normal draw is below 0.5 (69 %), but one of more
    than two labelled joints to one of fewer. The new box is centred at the mean of these joints,
    and has their extent; with fewer than two of them, or all in one point, the old one stays.
    Draws whether to (uniform), and only then which half (normal); nothing for a person of few
    labelled joints.
    Source: the half body transform of HRNet's released training code.
    """
    labelled = np.flatnonzero(sample.joints[0, :, 2] > 0).tolist()
    if not config.has_halves or len(labelled) <= config.min_joints:
        return sample
    if rng.random() >= config.probability:
        return sample
    upper, lower = ([k for k in labelled if k in half] for half in (config.upper, config.lower))
    prefers_upper = rng.standard_normal() < 0.5
    chosen = upper if (prefers_upper and len(upper) > 2) or len(lower) <= 2 else lower
    points = sample.joints[0, chosen, :2].astype(np.float64)
    extent = np.ptp(points, axis=0) if len(points) > 1 else np.zeros(2)
    if not extent.any():
        return sample
    extent = np.maximum(extent, 1e-3 * extent.max())  # joints on a line have a box, too
    extent *= HALF_BODY_PADDING / config.padding
    box = np.concatenate([points.mean(0) - extent / 2, extent])
    return replace(sample, boxes=box[None].astype(np.float32))


# Colours -------------------------------------------------------------------------------------


class PhotometricConfig(NamedTuple):
    """The largest changes of a crop's colours, either way, and how often each is made."""

    probability: float = 0.5  # of each of the four
    brightness: float = 0.125  # offset, in ranges of 255
    contrast: float = 0.5  # of a gain of 1
    saturation: float = 0.5  # of a gain of 1
    hue: float = 18.0  # degrees


def photometric(sample: Sample, rng: np.random.Generator, config: PhotometricConfig) -> Sample:
    """Change brightness, contrast, saturation and hue, each with a probability.

    All four are linear in RGB, so that a pixel is multiplied by one matrix, and rounded and clipped
    once. Draws four changes (uniform), and then four times whether it is made (uniform).
    Source: the changes and ranges of SSD (Liu et al. 2016); linear, and about mid-grey, ours.
    """
    changes = rng.uniform(-1, 1, 4) * config[1:]
    changes[rng.random(4) >= config.probability] = 0
    if not changes.any():
        return sample
    brightness, contrast, saturation, hue = changes.tolist()
    matrix = colour_matrix(brightness, 1 + contrast, 1 + saturation, hue)
    return replace(sample, image=cv2.transform(sample.image, matrix))


LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the grey of a colour (BT.601)."""


def colour_matrix(brightness: float, contrast: float, saturation: float, hue: float) -> np.ndarray:
    """(3, 4), from (R, G, B, 1) to RGB: with Y the grey of a colour and D = RGB - Y its colour,

    127.5 + contrast (Y + saturation * turned(D) - 127.5) + 255 brightness

    turned: by `hue` degrees in the plane of U = (B - Y) / 2.03 and V = (R - Y) / 1.14
    """
    red, green, blue = np.eye(3)
    luma = np.array(LUMA)
    to_yuv = np.stack([luma, (blue - luma) / 2.03, (red - luma) / 1.14])
    cos, sin = np.cos(np.radians(hue)), np.sin(np.radians(hue))
    changed = np.eye(3)
    changed[1:, 1:] = saturation * np.array([[cos, -sin], [sin, cos]])
    linear = contrast * np.linalg.solve(to_yuv, changed @ to_yuv)
    offset = 127.5 * (1 - contrast) + 255 * brightness
    return np.column_stack([linear, np.full(3, offset)])


# Cutout --------------------------------------------------------------------------------------


class CutoutConfig(NamedTuple):
    """How often a crop has hidden squares or rectangles, how many and how large."""

    fill: tuple[int, ...]  # RGB of the hidden pixels
    probability: float = 1.0
    squares: int = 1
    side: float = 0.5  # of a square, in widths of the crop
    min_squares: int = 0  # 0: always `squares`
    min_side: float = 0.0  # of a rectangle; 0: squares of `side`


def cutout(sample: Sample, rng: np.random.Generator, config: CutoutConfig) -> Sample:
    """Fill squares or rectangles of a crop with one colour; joints and supervision there stay.

    One may reach beyond the border. Its pixels are those whose middles lie in it; sides are rounded
    to whole pixels, at least one.
    Draws whether to (uniform), and only then how many, if there is a range (uniform); for each its
    width and height, if there is a range (uniform), and its centre (uniform in x, then in y).
    Source: Cutout (DeVries and Taylor 2017), whose squares are centred anywhere in the image; with
    several rectangles the coarse dropout of augmentation libraries. RAM and GPR's paper trains with
    cutout, but prints no side, number or fill: the defaults are ours.
    """
    if rng.random() >= config.probability:
        return sample
    height, width = sample.image.shape[:2]
    count, image = config.squares, sample.image.copy()
    if config.min_squares:
        count = int(rng.integers(config.min_squares, config.squares + 1))
    for _ in range(count):
        sides = np.full(2, config.side)
        if config.min_side:
            sides = rng.uniform(config.min_side, config.side, 2)
        w, h = np.maximum(1, np.rint(sides * width)).astype(int)
        left, top = np.rint(rng.uniform(0, (width, height)) - (w / 2, h / 2)).astype(int)
        image[max(top, 0) : top + h, max(left, 0) : left + w] = config.fill
    return replace(sample, image=image)
