"""From an image to what a step needs, all of it dense and all of it in the worker.

A worker turns the image into normalised float32, warps a mask and draws the heatmaps of every
resolution. Same records, same random numbers, same targets as the package's own path.
"""

from typing import NamedTuple

import cv2
import numpy as np
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from hrpose.builders.bottomup import build_targets, output_strides
from hrpose.builders.datasets import build_skeleton
from hrpose.builders.families import is_top_down
from hrpose.data.augment import CropConfig, image_crop
from hrpose.data.loaders import ResumableBatchSampler
from hrpose.data.samples import loss_mask
from hrpose.ops.coordinates import HIGHERHRNET
from hrpose.structures import Sample
from reference.person_crops import normalised, reference_people
from reference.targets import draw_gaussians, flat_cells


class DataConfig(NamedTuple):
    """How a sample is augmented and what is drawn of it."""

    crop: CropConfig
    flip: float  # probability
    flip_order: tuple[int, ...]
    strides: tuple[int, ...]  # of the outputs, coarse to fine
    sigmas: tuple[float, ...]  # cells, one for each of these
    max_people: int  # whose tags are trained


def data_config(config):
    """The config's, or an error that names what the reference does not implement."""
    data, targets, strides = config.DATASET, build_targets(config), output_strides(config)
    if list(data.AUGMENTATIONS) != ["affine", "flip"]:
        raise ValueError("the reference has DATASET.AUGMENTATIONS ['affine','flip'] only")
    if targets.convention is not HIGHERHRNET:
        raise ValueError("the reference draws published targets; set MODEL.COORDINATES published")
    if targets.unit_width:
        raise ValueError("the reference draws equal Gaussians; set LOSS.SHR 0")
    sigmas = list(config.LOSS.SIGMA)
    return DataConfig(
        crop=CropConfig(
            data.INPUT_SIZE,
            *(data.AFFINE[k] for k in ("ROTATION", "MIN_SCALE", "MAX_SCALE", "TRANSLATE")),
        ),
        flip=data.FLIP,
        flip_order=tuple(build_skeleton(config).flip_order),
        strides=tuple(strides),
        sigmas=tuple(sigmas if len(sigmas) > 1 else sigmas * len(strides)),
        max_people=targets.max_people,
    )


class ReferenceDataset(Dataset):
    """The records of a data set, made ready for the network one by one.

    image (3, S, S) float32, normalised; for every stride s: heatmaps/s (K, H, W) float32, mask/s
    (H, W) float32, cells/s (people, K) int64, the flat cell of each joint or -1.
    """

    def __init__(self, source, config):
        """source: the package's own SampleDataset"""
        self.source = source
        self.config = config

    def __len__(self):
        return len(self.source)

    def __getitem__(self, key):
        epoch, index = key
        rng = np.random.default_rng((self.source.seed, epoch, index + 1))
        record, images = self.source.records[index], self.source.images
        with record_function("read"):
            image = images.read(record.file_name)
        height, width = image.shape[:2]
        mask = loss_mask(record, (height, width), images.name(record.file_name))
        matrix = image_crop(
            Sample(image, record.joints, mask, image_id=0), self.config.crop, rng
        ).matrix
        flipped = rng.random() < self.config.flip
        side = self.config.crop.size
        with record_function("affine"):
            sample = {"image": normalised(warp(image, matrix, side, flipped))}
        for stride, sigma in zip(self.config.strides, self.config.sigmas):
            to_map, size = matrix / stride, (side // stride, side // stride)
            joints = self._transformed(record.joints, to_map, size[0], flipped)[None]
            with record_function("affine"):
                covered = warp(mask.astype(np.uint8) * 255, to_map, size[0], flipped)
            sample[f"mask/{stride}"] = (covered > 127).astype(np.float32)
            with record_function("draw heatmaps"):
                sample[f"heatmaps/{stride}"] = draw_gaussians(joints, size, sigma)[0].astype("f4")
            cells = np.full((self.config.max_people, joints.shape[2]), -1)
            drawn = flat_cells(joints[:, : len(cells)], size)[0]
            cells[: len(drawn)] = drawn
            sample[f"cells/{stride}"] = cells
        return sample

    def _transformed(self, joints, matrix, side, flipped):
        """Joints (N, K, 3) in a frame of side x side, which is flipped by itself."""
        joints = joints.astype(np.float64)
        joints[..., :2] = joints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
        if flipped:
            joints = joints[:, self.config.flip_order]
            joints[..., 0] = side - 1 - joints[..., 0]
        return joints


def warp(image, matrix, side, flipped):
    """The image (H, W[, 3]) in a frame of side x side; what was outside is 0."""
    warped = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return warped[:, ::-1] if flipped else warped


def reference_images(config, source):
    return ReferenceDataset(source, data_config(config))


def reference_loader(config, loader):
    """The same images, or people, in the same order by the reference, with as many workers."""
    dataset = loader.dataset
    theirs = reference_people if is_top_down(config) else reference_images
    return DataLoader(
        theirs(config, dataset),
        batch_sampler=ResumableBatchSampler(
            len(dataset), loader.batch_sampler.batch, config.TRAIN.SEED
        ),
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        persistent_workers=loader.num_workers > 0,
        pin_memory=loader.pin_memory,
    )
