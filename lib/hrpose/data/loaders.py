"""Samples -> batches, in an order that a seed decides and that can be entered in the middle."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from hrpose.data.bottomup import BottomUpDataset
from hrpose.structures import Sample


class ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index), shuffled anew in every epoch by (seed, epoch).

    The last batch of an epoch is dropped if it is not full, unless it is the only one.
    """

    def __init__(self, count: int, batch: int, seed: int):
        self.count = count
        self.batch = min(batch, count)
        self.seed = seed
        self.epoch = 0
        self.start = 0  # batches of this epoch that were had before

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch, 0)).permutation(self.count)
        for i in range(self.start, len(self)):
            chosen = order[i * self.batch : (i + 1) * self.batch]
            yield [(self.epoch, int(index)) for index in chosen]

    def enter(self, epoch: int, start: int = 0) -> None:
        """Choose where the next iteration begins."""
        self.epoch, self.start = epoch, start


def training_loader(dataset: BottomUpDataset, batch: int, workers: int, seed: int) -> DataLoader:
    """Batches as `collate` makes them.

    `loader.batch_sampler.enter(epoch, start)` chooses what comes next.
    """
    cv2.setNumThreads(0)  # a forked worker would wait for OpenCV's threads for ever
    return DataLoader(
        dataset,
        batch_sampler=ShuffledBatches(len(dataset), batch, seed),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_begin_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def collate(samples: Sequence[tuple[int, Sample]]) -> dict[str, Tensor]:
    """Samples of S x S pixels, masks at the finest output's stride s, as one batch of tensors.

    image (B, 3, S, S) uint8, in memory as (B, S, S, 3), which is what convolutions like best and
    images are anyway; joints (B, N, K, 3) float32 in network pixels, N people of the
    fullest image, the others' rows 0; sizes and widths (B, N) float32; mask (B, S / s, S / s)
    uint8; mirrored (B,) bool; index (B,) int64.
    """
    parts = [sample for _, sample in samples]
    return {
        "image": torch.from_numpy(np.stack([s.image for s in parts])).permute(0, 3, 1, 2),
        "joints": _padded([sample.joints for sample in parts]),
        "sizes": _padded([sample.sizes for sample in parts]),
        "widths": _padded([sample.widths for sample in parts]),
        "mask": torch.from_numpy(np.stack([s.mask for s in parts]).view(np.uint8)),
        "mirrored": torch.tensor([sample.mirrored for sample in parts]),
        "index": torch.tensor([index for index, _ in samples]),
    }


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    """Arrays (N_i, ...) as one (B, max N, ...), with zeros where there is nobody."""
    most = max(len(row) for row in rows)
    padded = np.zeros((len(rows), most, *rows[0].shape[1:]), np.float32)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def _begin_worker(worker: int) -> None:
    """Workers are many already, and Ctrl-C is for the training alone to answer."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
