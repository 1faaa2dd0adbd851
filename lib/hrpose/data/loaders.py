"""Batches of samples, in a seeded order that can be resumed in the middle of an epoch."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, get_worker_info

from hrpose.data.samples import SampleDataset
from hrpose.ops.processes import begin_worker
from hrpose.structures import Sample

SHARED_MEMORY = "/dev/shm"
"""Where workers put their batches. A container of Docker has 64 MB of it by default."""
NO_SHARED_MEMORY = "unable to allocate shared memory"
"""How torch's message begins where there is none left."""
CPU = torch.device("cpu")


class Quota(NamedTuple):
    """How many samples an epoch draws of a data set."""

    size: int  # samples of the data set
    drawn: int  # all of them drawn // size times, and a random choice of the rest


def draw_indices(quotas: Sequence[Quota], rng: np.random.Generator) -> np.ndarray:
    """The indices of an epoch, by data set, into the samples of all of them in a row.

    The c-th copy of a sample has its index + c * the number of all samples: `SampleDataset` takes
    it for another sample of the same record.
    Draws, of each data set that is not taken a whole number of times, which samples are the rest.
    """
    total, begin, drawn = sum(quota.size for quota in quotas), 0, []
    for size, wanted in quotas:
        copies, rest = divmod(wanted, size)
        drawn += [begin + copy * total + np.arange(size) for copy in range(copies)]
        if rest:
            drawn.append(begin + copies * total + rng.choice(size, rest, replace=False))
        begin += size
    return np.concatenate(drawn)


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """This rank's part of batches of (epoch, index), shuffled by (seed, epoch).

    The global batches do not depend on the number of ranks. The last batch of an epoch is dropped
    if it is incomplete, unless it is the only one.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        quotas: Sequence[Quota] = (),
    ):
        """quotas: of the data sets that make up the `count` samples; none: each once an epoch"""
        self.quotas = quotas or [Quota(count, count)]
        self.samples = sum(quota.drawn for quota in self.quotas)  # of an epoch
        self.batch = min(batch, self.samples) // world_size * world_size  # images, over all ranks
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.start = 0  # batches of this epoch that were trained on before
        if not self.batch:
            raise ValueError(f"{self.samples} images are too few for {world_size} processes")

    def __len__(self) -> int:
        return self.samples // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng((self.seed, self.epoch, 0))
        order = rng.permutation(draw_indices(self.quotas, rng))
        for i in range(self.start, len(self)):
            batch = order[i * self.batch : (i + 1) * self.batch]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]

    def enter(self, epoch: int, start: int = 0) -> None:
        """Set the epoch and the first batch of the next iteration."""
        self.epoch, self.start = epoch, start


class TrainingLoader(DataLoader):
    """Batches as `collate` makes them; `batch_sampler.enter(epoch, start)` sets the next one.

    An exception in a worker is raised here without the worker's traceback in its message; if a
    worker dies, the error names the images that the workers were reading.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        batches: ResumableBatchSampler,
        workers: int,
        device: torch.device = CPU,
    ):
        """device: where batches go; those for a GPU are in pinned memory"""
        cv2.setNumThreads(0)  # OpenCV's thread pool deadlocks in forked workers
        beside_nccl = device.type == "cuda" and batches.world_size > 1
        self.current = torch.full((workers,), -1).share_memory_()  # index of each worker's sample
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=partial(_begin_worker, current=self.current),
            persistent_workers=workers > 0,
            multiprocessing_context=_forkserver() if workers and beside_nccl else None,
            pin_memory=device.type == "cuda",
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
                raise self._described(error) from error
            yield batch

    def _described(self, error: Exception) -> Exception:
        message, kind = str(error), type(error)
        ended = [worker.exitcode for worker in getattr(self._iterator, "_workers", ())]
        in_shared_memory = Path(SHARED_MEMORY).is_dir()  # of Linux, which has SIGBUS
        if in_shared_memory and (NO_SHARED_MEMORY in message or -signal.SIGBUS in ended):
            size = shutil.disk_usage(SHARED_MEMORY).total / 1e6
            return ChildProcessError(
                f"the batches of {self.num_workers} WORKERS do not fit into the {size:.0f} MB of "
                f"shared memory in {SHARED_MEMORY}; give a container more (docker run --shm-size "
                "1g), use fewer WORKERS, or 0 of them"
            )
        if message.startswith("Caught "):  # raised in a worker, with its traceback
            return kind(message.rpartition(f"{kind.__name__}: ")[2].strip())
        if kind is RuntimeError and "DataLoader worker" in message:
            records = cast(SampleDataset, self.dataset).records
            names = [records[i].file_name for i in self.current.tolist() if i >= 0]
            return ChildProcessError(
                f"{message}. The workers were reading {', '.join(names) or 'nothing'}; check these "
                "images, or use fewer WORKERS if memory is short"
            )
        return error


def collate(samples: Sequence[tuple[int, Sample]]) -> dict[str, Tensor]:
    """Samples of H x W pixels, masks at the finest output's stride s, as one batch of tensors.

    image (B, 3, H, W) uint8 in channels-last memory format; joints (B, N, K, 3) float32 in network
    pixels, N the largest number of people, padded with 0; boxes (B, N, 4) float32 alike;
    mask (B, H / s, W / s) uint8, absent where samples have none; flipped (B,) bool; index (B,)
    int64; of data sets that are joined annotated_joints (B, K) bool, the joints that a sample's set
    labels at all.
    """
    parts = [sample for _, sample in samples]
    masks = [sample.mask for sample in parts if sample.mask is not None]
    batch = {
        "image": torch.from_numpy(np.stack([s.image for s in parts])).permute(0, 3, 1, 2),
        "joints": _padded([sample.joints for sample in parts]),
        "boxes": _padded([sample.boxes for sample in parts]),
        "flipped": torch.tensor([sample.flipped for sample in parts]),
        "index": torch.tensor([index for index, _ in samples]),
    }
    if masks:
        batch["mask"] = torch.from_numpy(np.stack(masks).view(np.uint8))
    annotated = [s.annotated_joints for s in parts if s.annotated_joints is not None]
    if annotated:
        batch["annotated_joints"] = torch.from_numpy(np.stack(annotated))
    if get_worker_info():  # done by the queue's thread, a lack of memory would hang the training
        for value in batch.values():
            value.share_memory_()
    return batch


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    """Arrays (N_i, ...) as one (B, max N, ...), padded with zeros."""
    most = max(len(row) for row in rows)
    padded = np.zeros((len(rows), most, *rows[0].shape[1:]), np.float32)
    for target, row in zip(padded, rows):
        target[: len(row)] = row
    return torch.from_numpy(padded)


def _forkserver() -> BaseContext:
    """How workers start beside NCCL, whose threads and locks a fork would copy."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    return context


def _begin_worker(worker: int, current: Tensor) -> None:
    """One thread for samples; signals are handled by the main process only."""
    cv2.setNumThreads(0)
    begin_worker()
    get_worker_info().dataset.begin = partial(_mark, current, worker)  # type: ignore[union-attr]


def _mark(current: Tensor, worker: int, index: int) -> None:
    current[worker] = index
