"""Images and annotations as data sets: training samples, and images to predict on.

A bottom-up sample is an image with all its people; a top-down sample is one person, in its image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from hrpose.data.augment import Augment
from hrpose.data.boxes import BoxSet, label_boxes
from hrpose.data.coco import ImageAnnotation, ImageFiles, is_drawable
from hrpose.data.joined import JoinedImages
from hrpose.structures import Sample

ImageSource = ImageFiles | JoinedImages
"""Where a training reads images."""


class SampleDataset(Dataset[tuple[int, Sample]]):
    """One augmented sample per record: of an image (`read_sample`) or of a person (`read_person`).

    The random generator of a sample is seeded by (seed, epoch, index) only: samples depend neither
    on the worker that makes them nor on whether the run was interrupted. An index beyond the last
    record counts on from the first: another sample of a record that an epoch repeats.
    """

    def __init__(
        self,
        records: Sequence[ImageAnnotation],
        images: ImageSource,
        augmentations: Sequence[Augment],
        seed: int,
        read: Callable[[ImageAnnotation, ImageSource], Sample] | None = None,
    ):
        """read: a sample before augmentation; None: `read_sample`"""
        if not records:
            raise ValueError(
                "the data set is empty: no image has an annotation; run tools/check_data.py"
            )
        self.records = records
        self.images = images
        self.augmentations = augmentations
        self.seed = seed
        self.read = read or read_sample
        self.begin: Callable[[int], None] = _ignore_index  # called with the index of every sample
        self.notes: list[str] = []  # for the log of a training

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Sample]:
        """The sample of (epoch, index), with its index."""
        epoch, drawn = key
        index = drawn % len(self.records)
        self.begin(index)
        record = self.records[index]
        rng = np.random.default_rng((self.seed, epoch, drawn + 1))  # 0 is the shuffle's
        try:
            sample = self.read(record, self.images)
            for augment in self.augmentations:
                sample = augment(sample, rng)
        except Exception as error:
            if record.file_name in str(error) or self.images.name(record.file_name) in str(error):
                raise
            raise RuntimeError(f"{record.file_name}: {type(error).__name__}: {error}") from error
        return index, sample


def _ignore_index(index: int) -> None:
    """A module-level function, so that a data set can be pickled for its workers."""


def read_sample(record: ImageAnnotation, images: ImageSource) -> Sample:
    """An image with its annotations and loss mask, before augmentation."""
    sample = read_person(record, images)
    mask = loss_mask(record, sample.image.shape[:2], images.name(record.file_name))
    return replace(sample, mask=mask, annotated_joints=record.annotated_joints)


def read_person(record: ImageAnnotation, images: ImageSource) -> Sample:
    """An image with its annotations, before augmentation; all of it is supervised, by no mask."""
    image = images.read(record.file_name, record.size)
    return Sample(image, record.joints, None, record.image_id, boxes=record.boxes)


def person_records(
    records: Sequence[ImageAnnotation], clip: bool = True
) -> tuple[list[ImageAnnotation], dict[str, int]]:
    """A record of every labelled person, N = 1, with the box of `label_boxes`; nothing is ignored.

    Returns the records in the order of images and of their people, and how many people are left
    out for each reason. clip: see `label_boxes`
    """
    people: list[ImageAnnotation] = []
    dropped: Counter[str] = Counter()
    for record in records:
        indices, boxes, reasons = label_boxes(record, clip)
        dropped.update(reasons)
        whole = record._replace(ignore=(), crowds=None, unlabelled=0)
        people += [
            whole._replace(joints=record.joints[[i]], boxes=box[None])
            for i, box in zip(indices.tolist(), boxes)
        ]
    return people, dict(dropped)


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


def pack_outline(region: Any, size: Sequence[int]) -> list[Any]:
    """COCO's three segmentation formats (polygons, plain and packed run lengths) as packed ones."""
    if isinstance(region, dict):
        packed = not isinstance(region["counts"], list)
        return [region if packed else coco_mask.frPyObjects(region, *size)]
    return coco_mask.frPyObjects(region, *size)


class ImageDataset:
    """(image id, image) of every record, read when indexed."""

    note = ""  # on what is predicted from, for the log

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


class BoxedImageDataset(ImageDataset):
    """(image id, (image, boxes (N, 4), scores (N,))) of every record, read when indexed."""

    def __init__(self, records: Sequence[ImageAnnotation], images: ImageFiles, boxes: BoxSet):
        super().__init__(records, images)
        self.boxes = boxes
        self.note = boxes.describe()

    def __getitem__(self, i: int) -> tuple[int, Any]:
        image_id, image = super().__getitem__(i)
        return image_id, (image, *self.boxes.of(image_id))


class DetectedImageDataset(ImageDataset):
    """(image id, (image, boxes (N, 4), scores (N,))), detected when indexed, one image at a time.

    Threads that read images share the detector.
    """

    def __init__(
        self,
        records: Sequence[ImageAnnotation],
        images: ImageFiles,
        detect: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        name: str,
    ):
        """detect: image (H, W, 3) uint8 RGB -> boxes, scores   name: its, for the log"""
        super().__init__(records, images)
        self.detect = detect
        self.note = f"{name}: detected in every image"
        self.lock = Lock()  # or every thread would need the memory of a forward pass

    def __getitem__(self, i: int) -> tuple[int, Any]:
        image_id, image = super().__getitem__(i)
        with self.lock:
            return image_id, (image, *self.detect(image))


class LabelledBoxDataset(ImageDataset):
    """(image id, (image, labelled boxes (N, 4), the joints (N, K, 3) of their people))"""

    def __init__(self, records: Sequence[ImageAnnotation], images: ImageFiles, clip: bool = True):
        super().__init__(records, images)
        self.clip = clip  # see `label_boxes`

    def __getitem__(self, i: int) -> tuple[int, Any]:
        image_id, image = super().__getitem__(i)
        people, boxes, _ = label_boxes(self.records[i], self.clip)
        return image_id, (image, boxes, self.records[i].joints[people])
