"""The plain way from an image to what a step needs: all of it in the worker, all of it dense.

A worker turns the image into float32 numbers, warps a mask for every resolution, and draws the
heatmaps of every resolution with NumPy, person by person and joint by joint. Same records, same
dice, same targets as the package's own path, which is measured against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from hrpose.build import build_targets, output_strides
from hrpose.data.augment import CropConfig, random_crop
from hrpose.data.loaders import ResumableBatchSampler
from hrpose.data.samples import BottomUpDataset, loss_mask
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.splits import build_skeleton


class Rules(NamedTuple):
    """How a sample is augmented and what is drawn of it."""

    crop: CropConfig
    flip: float  # chance
    flip_order: Sequence[int]
    strides: Sequence[int]  # of the outputs, coarse to fine
    sigmas: Sequence[float]  # cells, one for each of these
    max_people: int  # whose cells are listed


def plain_rules(config: CfgNode) -> Rules:
    """The config's, or an error that says what the plain path has no way of doing."""
    data, targets, strides = config.DATASET, build_targets(config), output_strides(config)
    if list(data.AUGMENTATIONS) != ["affine", "flip"]:
        raise ValueError("the plain path knows DATASET.AUGMENTATIONS ['affine','flip'] alone")
    if targets.convention != "official":
        raise ValueError("the plain path draws official targets; set MODEL.CONVENTION official")
    if targets.unit_width:
        raise ValueError("the plain path draws everybody's Gaussians alike; set LOSS.SHR 0")
    scales = data.MIN_SCALE, data.MAX_SCALE
    sigmas = list(config.LOSS.SIGMA)
    return Rules(
        crop=CropConfig(data.INPUT_SIZE, data.MAX_ROTATION, *scales, data.MAX_TRANSLATE),
        flip=data.FLIP,
        flip_order=list(build_skeleton(config).flip_order),
        strides=strides,
        sigmas=sigmas if len(sigmas) > 1 else sigmas * len(strides),
        max_people=targets.max_people,
    )


class PlainDataset(Dataset[dict[str, np.ndarray | torch.Tensor]]):
    """The records of a data set, made ready for the network one by one.

    image (3, S, S) float32, normalised; for every stride s: heatmaps/s (K, H, W) float32, mask/s
    (H, W) float32, joints/s (people, K, 2) int64, the flat cell of each joint and 1, packed.
    """

    def __init__(self, source: BottomUpDataset, rules: Rules):
        self.source = source
        self.images: Any = source.images
        self.rules = rules
        self.warp = warp
        self.draw = draw_one_by_one

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray | torch.Tensor]:
        epoch, index = key
        rng = np.random.default_rng((self.source.seed, epoch, index + 1))
        record = self.source.records[index]
        image = self.images.read(record.file_name)
        height, width = image.shape[:2]
        mask = loss_mask(record, (height, width), self.images.name(record.file_name))
        matrix = random_crop((width, height), self.rules.crop, rng).matrix
        mirrored = rng.random() < self.rules.flip
        side = self.rules.crop.size
        sample: dict[str, Any] = {"image": normalised(self.warp(image, matrix, side, mirrored))}
        for stride, sigma in zip(self.rules.strides, self.rules.sigmas):
            by, cells = matrix / stride, side // stride
            joints = self.moved(record.joints, by, cells, mirrored)
            covered = self.warp(mask.astype(np.uint8) * 255, by, cells, mirrored)
            sample[f"heatmaps/{stride}"] = self.draw(joints, cells, sigma)
            sample[f"mask/{stride}"] = (covered > 127).astype(np.float32)
            sample[f"joints/{stride}"] = list_cells(joints, cells, self.rules.max_people)
        return sample

    def moved(
        self, joints: np.ndarray, matrix: np.ndarray, cells: int, mirrored: bool
    ) -> np.ndarray:
        """Joints (N, K, 3) in a frame of `cells` x `cells`, which is mirrored for itself."""
        places = joints.astype(np.float64)
        places[..., :2] = places[..., :2] @ matrix[:, :2].T + matrix[:, 2]
        if mirrored:
            places = places[:, self.rules.flip_order]
            places[..., 0] = cells - 1 - places[..., 0]
        return places


def warp(image: np.ndarray, matrix: np.ndarray, side: int, mirrored: bool) -> np.ndarray:
    """The image (H, W[, 3]) in a frame of `side` x `side`; what was outside is 0."""
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return warped[:, ::-1] if mirrored else warped


def normalised(image: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) with ImageNet's mean and deviation."""
    values = torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div(255)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return values.sub_(mean[:, None, None]).div_(std[:, None, None])


def drawn_at(joint: np.ndarray, cells: int) -> tuple[int, int] | None:
    """(column, row) of a labelled joint inside the map, else None."""
    column, row = int(joint[0]), int(joint[1])
    inside = 0 <= column < cells and 0 <= row < cells and joint[2] > 0
    return (column, row) if inside else None


def draw_one_by_one(joints: np.ndarray, cells: int, sigma: float) -> np.ndarray:
    """Heatmaps (K, H, W) of joints (N, K, 3); where patches overlap, the higher value stands."""
    radius = math.ceil(3 * sigma) + 1
    reach = np.arange(-radius, radius + 1)
    patch = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * sigma**2)).astype(np.float32)
    maps = np.zeros((joints.shape[1], cells, cells), np.float32)
    for person in joints:
        for k, joint in enumerate(person):
            place = drawn_at(joint, cells)
            if place is None:
                continue
            (left, right), (top, bottom) = (
                (max(middle - radius, 0), min(middle + radius + 1, cells)) for middle in place
            )
            down, across = radius - place[1], radius - place[0]
            part = patch[top + down : bottom + down, left + across : right + across]
            spot = maps[k, top:bottom, left:right]
            np.maximum(spot, part, out=spot)
    return maps


def list_cells(joints: np.ndarray, cells: int, most: int) -> np.ndarray:
    """(most, K, 2): flat cell and 1 of every joint that is drawn, each person's packed in front."""
    listed = np.zeros((most, joints.shape[1], 2), np.int64)
    for person, row in zip(joints, listed):
        count = 0
        for k, joint in enumerate(person):
            place = drawn_at(joint, cells)
            if place is not None:
                row[count] = (k * cells + place[1]) * cells + place[0], 1
                count += 1
    return listed


def plain_loader(config: CfgNode, loader: DataLoader) -> DataLoader:
    """The plain path to the same images, with as many workers, in the same order."""
    dataset: Any = loader.dataset
    batch = loader.batch_sampler.batch  # type: ignore[union-attr]
    return DataLoader(
        PlainDataset(dataset, plain_rules(config)),
        batch_sampler=ResumableBatchSampler(len(dataset), batch, config.TRAIN.SEED),
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        persistent_workers=loader.num_workers > 0,
        pin_memory=loader.pin_memory,
    )
