"""A training sample of one person, as HRNet's authors make it: step by step, in the worker.

Boxes are centre and scale (sides in units of 200 pixels), joints are moved one by one, and the
worker ships normalised float32 and drawn heatmaps. The random numbers are those of the package, in
its order: half body, mirror, scale, rotation.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.autograd.profiler import record_function
from torch.utils.data import Dataset

from hrpose.builders.datasets import build_skeleton
from hrpose.builders.topdown import build_convention, output_strides
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from reference.targets import draw_gaussians, drawn_cell, heatmap_coords


class PersonConfig(NamedTuple):
    """How a person is cropped, and what is drawn of it."""

    size: tuple[int, int]  # (width, height) of the network's input
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    flip_order: tuple[int, ...]
    flip: float = 0.5
    half_body: float = 0.3
    min_joints: int = 8
    padding: float = 1.25
    scale: float = 0.35
    rotation: float = 45.0
    rotate: float = 0.6
    convention: str = "hrnet"
    sigma: float = 2.0
    stride: int = 4


def person_config(config):
    """The config's, or an error that names what the reference does not implement."""
    data, skeleton = config.DATASET, build_skeleton(config)
    if list(data.AUGMENTATIONS) != ["half_body", "flip", "affine"]:
        raise ValueError("the reference has DATASET.AUGMENTATIONS [half_body, flip, affine] only")
    crop = data.BOX_CROP
    return PersonConfig(
        size=data.INPUT_SIZE if isinstance(data.INPUT_SIZE, tuple) else (data.INPUT_SIZE,) * 2,
        upper=tuple(skeleton.upper_joints),
        lower=tuple(skeleton.lower_joints),
        flip_order=tuple(skeleton.flip_order),
        flip=data.FLIP,
        half_body=data.HALF_BODY.PROBABILITY,
        min_joints=data.HALF_BODY.MIN_JOINTS,
        padding=crop.PADDING,
        scale=crop.SCALE,
        rotation=crop.ROTATION,
        rotate=crop.ROTATE,
        convention=build_convention(config).name,
        sigma=config.LOSS.SIGMA[-1],
        stride=output_strides(config)[-1],
    )


def centre_and_scale(x, y, width, height, config, padding):
    """The middle of a box, and the sides of its crop in the network's proportions, / 200."""
    aspect = config.size[0] / config.size[1]
    if width > aspect * height:
        tall, wide = width / aspect, width
    else:
        tall, wide = height, height * aspect
    return [x + width / 2, y + height / 2], [wide / 200 * padding, tall / 200 * padding]


def half_body_transform(joints, rng, config):
    """Centre and scale of half of a body; None where it is not to be cut."""
    upper, lower = [], []
    for k in range(len(joints)):
        if joints[k, 2] > 0 and k in config.upper:
            upper.append(joints[k, :2].astype(float))
        elif joints[k, 2] > 0:
            lower.append(joints[k, :2].astype(float))
    if rng.standard_normal() < 0.5 and len(upper) > 2:
        chosen = upper
    else:
        chosen = lower if len(lower) > 2 else upper
    if len(chosen) < 2:
        return None
    centre = np.mean(chosen, axis=0)
    width, height = np.max(chosen, axis=0) - np.min(chosen, axis=0)
    if width == 0 and height == 0:
        return None
    _, scale = centre_and_scale(0, 0, width, height, config, 1.5)
    return list(centre), scale


def crop_matrix(centre, scale, degrees, config):
    """(2, 3) from image to network pixels; only the width of the scale counts."""
    edge = 0.5 if config.convention == "unbiased" else 0
    width, height = config.size
    factor = width / (200 * scale[0])
    cosine, sine = (factor * f(math.radians(degrees)) for f in (math.cos, math.sin))
    x, y = centre
    return np.array(
        [
            [cosine, sine, width / 2 - edge - cosine * x - sine * y],
            [-sine, cosine, height / 2 - edge + sine * x - cosine * y],
        ]
    )


def crop_person(image, joints, box, rng, config):
    """image (H, W, 3), joints (K, 3), box (4,) -> crop, its joints and matrix, if flipped."""
    centre, scale = centre_and_scale(*box.astype(float), config, config.padding)
    joints = joints.astype(float)
    labelled = sum(joints[:, 2] > 0)
    if labelled > config.min_joints and rng.random() < config.half_body:
        centre, scale = half_body_transform(joints, rng, config) or (centre, scale)
    flipped = rng.random() < config.flip
    if flipped:
        width = image.shape[1]
        image = image[:, ::-1]
        joints = joints[list(config.flip_order)]
        joints[:, 0] = width - 1 - joints[:, 0]
        centre[0] = width - 1 - centre[0]
    spread = config.scale
    factor = min(max(1 + spread * rng.standard_normal(), 1 - spread), 1 + spread)
    scale = [side * factor for side in scale]
    degrees = 0
    if rng.random() < config.rotate:
        most = 2 * config.rotation
        degrees = min(max(config.rotation * rng.standard_normal(), -most), most)
    matrix = crop_matrix(centre, scale, degrees, config)
    crop = cv2.warpAffine(image, matrix, config.size, flags=cv2.INTER_LINEAR)
    for k in range(len(joints)):
        joints[k, :2] = matrix[:, :2] @ joints[k, :2] + matrix[:, 2]
    return crop, joints, matrix, flipped


def draw_person(joints, config):
    """Heatmaps (K, H, W) float32 of joints (K, 3) in network pixels, and weights (K,)."""
    size = config.size[1] // config.stride, config.size[0] // config.stride
    cells = joints.copy()
    for k in range(len(joints)):
        cells[k, :2] = heatmap_coords(
            joints[k, :2], config.size[0], config.stride, False, config.convention
        )
    maps = draw_gaussians(cells[None, None], size, config.sigma, convention=config.convention)
    drawn = [drawn_cell(cell, size, config.convention, config.sigma) for cell in cells]
    weights = np.array([cell is not None for cell in drawn], np.float32)
    return maps[0].astype(np.float32), weights


def normalised(image):
    """uint8 (H, W, 3) -> float32 (3, H, W) with ImageNet's mean and deviation."""
    values = torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div(255)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return values.sub_(mean[:, None, None]).div_(std[:, None, None])


class ReferencePeople(Dataset):
    """The people of a data set, made ready for the network one by one.

    image (3, H, W) float32, normalised; heatmaps (K, h, w) float32; weights (K,) float32.
    """

    def __init__(self, source, config):
        """source: the package's own SampleDataset, of records of one person"""
        self.source = source
        self.config = config

    def __len__(self):
        return len(self.source)

    def __getitem__(self, key):
        epoch, index = key
        rng = np.random.default_rng((self.source.seed, epoch, index + 1))
        record = self.source.records[index]
        with record_function("read"):
            image = self.source.images.read(record.file_name)
        with record_function("affine"):
            crop, joints, _, _ = crop_person(
                image, record.joints[0], record.boxes[0], rng, self.config
            )
            sample = {"image": normalised(crop)}
        with record_function("draw heatmaps"):
            sample["heatmaps"], sample["weights"] = draw_person(joints, self.config)
        return sample


def reference_people(config, source):
    return ReferencePeople(source, person_config(config))
