"""Samples -> batches, in an order that a seed decides and that can be entered in the middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from hrpose.data.bottomup import BottomUpDataset
from hrpose.ops.processes import ignore_stop_signals
from hrpose.structures import Sample


class Share(NamedTuple):
    """Which part of every batch a process trains on."""

    rank: int = 0
    size: int = 1


class ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of batches of (epoch, index), shuffled anew by (seed, epoch).

    The batches are the same however many processes share them. The last one of an epoch is dropped
    if it is not full, unless it is the only one.
    """

    def __init__(self, count: int, batch: int, seed: int, share: Share = Share()):  # noqa: B008
        self.count = count
        self.batch = min(batch, count) // share.size * share.size  # images, over all processes
        self.seed = seed
        self.share = share
        self.epoch = 0
        self.start = 0  # batches of this epoch that were had before
        if not self.batch:
            raise ValueError(f"{count} images are too few for {share.size} processes")

    def __len__(self) -> int:
        return self.count // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch, 0)).permutation(self.count)
        for i in range(self.start, len(self)):
            chosen = order[i * self.batch : (i + 1) * self.batch]
            yield [(self.epoch, int(index)) for index in chosen[self.share.rank :: self.share.size]]

    def enter(self, epoch: int, start: int = 0) -> None:
        """Choose where the next iteration begins."""
        self.epoch, self.start = epoch, start


class TrainingLoader(DataLoader):
    """Batches as `collate` makes them; `batch_sampler.enter(epoch, start)` chooses the next.

    A worker's error says what was wrong and not how it came here; a worker that died names the
    images that it may have died of.
    """

    def __init__(self, dataset: BottomUpDataset, batches: ShuffledBatches, workers: int):
        cv2.setNumThreads(0)  # a forked worker would wait for OpenCV's threads for ever
        self.at_work = torch.full((workers,), -1).share_memory_()  # the image of each worker
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=partial(_begin_worker, at_work=self.at_work),
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        batches = super().__iter__()
        main = threading.current_thread() is threading.main_thread()
        if self.num_workers and main and hasattr(signal, "SIGCHLD"):
            # Otherwise torch would raise a worker's death in the middle of a step.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise self._explained(error) from error
            yield batch

    def _explained(self, error: Exception) -> Exception:
        told, kind = str(error), type(error)
        if told.startswith("Caught "):  # a worker's, with its traceback
            return kind(told.rpartition(f"{kind.__name__}: ")[2].strip())
        if kind is RuntimeError and "DataLoader worker" in told:
            records = cast(BottomUpDataset, self.dataset).records
            names = [records[i].file_name for i in self.at_work.tolist() if i >= 0]
            return ChildProcessError(
                f"{told}. The workers were reading {', '.join(names) or 'nothing'}; look at these "
                "images, or use fewer WORKERS if memory is short"
            )
        return error


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


def _begin_worker(worker: int, at_work: Tensor) -> None:
    """Workers are many already, and answer to the training alone."""
    cv2.setNumThreads(0)
    ignore_stop_signals()
    get_worker_info().dataset.begin = partial(_mark, at_work, worker)  # type: ignore[union-attr]


def _mark(at_work: Tensor, worker: int, index: int) -> None:
    at_work[worker] = index
