"""Images and annotations as data sets: bottom-up training samples, and images to predict on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from hrpose.data.augment import Augment
from hrpose.data.coco import ImageAnnotation, ImageFiles, is_drawable
from hrpose.ops.progress import listed
from hrpose.structures import Sample


class BottomUpDataset(Dataset[tuple[int, Sample]]):
    """One augmented sample per annotated image.

    The random generator of a sample is seeded by (seed, epoch, index) only: samples depend neither
    on the worker that makes them nor on whether the run was interrupted.
    """

    def __init__(
        self,
        records: Sequence[ImageAnnotation],
        images: ImageFiles,
        augmentations: Sequence[Augment],
        seed: int,
    ):
        if not records:
            raise ValueError(
                "the data set is empty: no image has an annotation; run tools/check_data.py"
            )
        self.records = records
        self.images = images
        self.augmentations = augmentations
        self.seed = seed
        self.begin: Callable[[int], None] = _ignore_index  # called with the index of every sample
        # By index, shared with workers: whether an image that was read is damaged, or almost black.
        self.doubtful = torch.zeros(len(records), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Sample]:
        """The sample of (epoch, index), with its index."""
        epoch, index = key
        self.begin(index)
        record = self.records[index]
        rng = np.random.default_rng((self.seed, epoch, index + 1))  # 0 is the shuffle's
        try:
            sample = read_sample(record, self.images)
            if self.images.name(record.file_name) in self.images.doubtful:
                self.doubtful[index] = True
            for augment in self.augmentations:
                sample = augment(sample, rng)
        except Exception as error:
            if record.file_name in str(error) or self.images.name(record.file_name) in str(error):
                raise
            raise RuntimeError(f"{record.file_name}: {type(error).__name__}: {error}") from error
        return index, sample


def _ignore_index(index: int) -> None:
    """A module-level function, so that a data set can be pickled for its workers."""


def read_sample(record: ImageAnnotation, images: ImageFiles) -> Sample:
    """An image with its annotations, before augmentation."""
    image = images.read(record.file_name, record.size)
    return Sample(
        image=image,
        joints=record.joints,
        mask=loss_mask(record, image.shape[:2], images.name(record.file_name)),
        image_id=record.image_id,
        boxes=record.boxes,
    )


def loss_mask(record: ImageAnnotation, size: tuple[int, int], name: str) -> np.ndarray:
    """(H, W) bool: True where the heatmap loss applies, False within the ignore regions.

    size: (H, W) of the decoded image; annotated sizes may be swapped, as in copies of CrowdPose
    name: of the image, for messages   Errors: ValueError for a region that does not fit the image
    """
    if not record.ignore:
        return np.ones(size, bool)
    if not all(map(is_drawable, record.ignore)):
        raise ValueError(
            f"a segmentation of {name} is not a polygon of three or more finite points x, y, nor "
            "run lengths whose counts add up to their size; correct or remove it"
        )
    parts = [part for region in record.ignore for part in pack_outline(region, size)]
    for height, width in (part["size"] for part in parts):
        if (height, width) != size:
            raise ValueError(
                f"{name} is {size[1]} x {size[0]}, but a crowd region of it was drawn on "
                f"{width} x {height}; use the annotations of this image"
            )
    covered = coco_mask.decode(coco_mask.merge(parts))  # (H, W), column-major
    return cv2.transpose(covered.T) == 0


def describe_doubtful(names: Collection[str]) -> str:
    """A warning of images that `ImageFiles.doubtful` names; empty if there are none."""
    if not names:
        return ""
    return (
        f"warning: {len(names)} of the images read are damaged, or almost black, as they use 12 of "
        f"16 bits: {listed(sorted(names))}; tools/check_data.py lists what is wrong with each"
    )


def pack_outline(region: Any, size: Sequence[int]) -> list[Any]:
    """COCO's three segmentation formats (polygons, plain and packed run lengths) as packed ones."""
    if isinstance(region, dict):
        packed = not isinstance(region["counts"], list)
        return [region if packed else coco_mask.frPyObjects(region, *size)]
    return coco_mask.frPyObjects(region, *size)


class ImageDataset:
    """(image id, image) of every record, read when indexed."""

    def __init__(self, records: Sequence[ImageAnnotation], images: ImageFiles):
        self.records = records
        self.images = images

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray]:
        record = self.records[i]
        return record.image_id, self.images.read(record.file_name, record.size)


class AnnotatedImageDataset(ImageDataset):
    """(image id, (image, joints)) of every record, read when indexed."""

    def __getitem__(self, i: int) -> tuple[int, Any]:
        image_id, image = super().__getitem__(i)
        return image_id, (image, self.records[i].joints)
