"""Distributed training: this process's rank, collectives, and wrapping of the model.

Without torchrun there is one process, and every collective returns its argument.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""How long collectives wait for a late process: only the main one scores and writes results."""


class DistInfo(NamedTuple):
    """Rank of this process and number of processes. Only the main one, rank 0, writes files."""

    rank: int = 0
    world_size: int = 1
    local_rank: int | None = 0  # on this machine; None: not known

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """The maximum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give the model the main process's running statistics; in training, each has its own."""
        for buffer in model.buffers() if self.world_size > 1 else ():
            dist.broadcast(buffer, src=0)


SINGLE_PROCESS = DistInfo()


@contextmanager
def distributed_context() -> Iterator[DistInfo]:
    """Join the process group that torchrun, or RANK and WORLD_SIZE, describe; leave it at the end.

    Modules of `wrap_parallel` must be unreachable at the end. One that outlives the group holds the
    last reference to it and waits for gloo's threads while they wait for the GIL (pytorch issue
    56297): the process hangs.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield SINGLE_PROCESS
        return
    dist.init_process_group(timeout=TIMEOUT)  # gloo for CPU tensors, NCCL for GPUs
    local_rank = os.environ.get("LOCAL_RANK")
    ranks = dist.get_rank(), dist.get_world_size()
    yield DistInfo(*ranks, None if local_rank is None else int(local_rank))
    gc.collect()  # a model may be part of a reference cycle
    dist.destroy_process_group()  # not after an error: other processes may not respond any more


def wrap_parallel(module: nn.Module, info: DistInfo, devices: Sequence[torch.device]) -> nn.Module:
    """The module in DDP with several processes, in DataParallel with several GPUs in one."""
    if info.world_size > 1:
        ids = [devices[0]] if devices[0].type == "cuda" else None
        wrapped = DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
        # In training no process reads running statistics; broadcast_buffers() precedes evaluation.
        # The argument of this name is deprecated, and its successor is too new.
        wrapped.broadcast_buffers = False  # type: ignore[assignment]
        return wrapped
    if len(devices) > 1:
        return nn.DataParallel(module, list(devices))
    return module
