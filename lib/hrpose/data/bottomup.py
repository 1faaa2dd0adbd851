"""Annotated images for training a bottom-up network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch.utils.data import Dataset

from hrpose.data.augment import Augment
from hrpose.data.coco import Images, Record, supervised
from hrpose.structures import Sample


class BottomUpDataset(Dataset[tuple[int, Sample]]):
    """Records as augmented samples.

    A sample's dice come from (seed, epoch, index) alone, so that it does not matter which worker
    makes it, or whether the run was interrupted in between.
    """

    def __init__(
        self, records: Sequence[Record], images: Images, augmentations: Sequence[Augment], seed: int
    ):
        if not records:
            raise ValueError(
                "the data set is empty: no image of it is annotated; see tools/inspect.py"
            )
        self.records = records
        self.images = images
        self.augmentations = augmentations
        self.seed = seed
        self.begin: Callable[[int], None] = _nobody_cares  # told of every sample that is begun

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
            for augment in self.augmentations:
                sample = augment(sample, rng)
        except Exception as error:
            if record.file_name in str(error):
                raise
            raise RuntimeError(f"{record.file_name}: {type(error).__name__}: {error}") from error
        return index, sample


def _nobody_cares(index: int) -> None:
    """A function of the module, since workers may get the data set by pickle."""


def read_sample(record: Record, images: Images) -> Sample:
    """The image with its marks, before any augmentation."""
    image = images.read(record.file_name)
    return Sample(
        image=image,
        joints=record.joints,
        mask=supervised(record, image.shape[:2], images.name(record.file_name)),
        sizes=record.boxes[:, 2:].max(1, initial=0),
        image_id=record.image_id,
        widths=record.boxes[:, 2],
    )
