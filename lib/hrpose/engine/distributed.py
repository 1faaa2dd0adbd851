"""The processes that work together: those that torchrun started, or this one alone."""

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

from hrpose.engine.step import TrainStep

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long processes wait for one that is late: the leader writes what was found on its own."""


class World(NamedTuple):
    """Which of how many processes this is. The one of rank 0 leads: it alone writes files."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def told(self, value: T) -> T:
        """What the leader says, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """Everybody's value, by rank, in every process."""
        if self.size == 1:
            return [value]
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes; `values` become it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def equalise(self, network: nn.Module) -> None:
        """Give a network the leader's running statistics; while training, each has its own."""
        for buffer in network.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, src=0)

    def highest(self, values: Tensor) -> Tensor:
        """The largest over all processes; `values` become it."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values


@contextmanager
def together() -> Iterator[World]:
    """The world that torchrun, or whoever else set RANK and WORLD_SIZE, put this process into.

    Networks of `replicated` must be out of reach at its end. Such a network that outlives the group
    takes the last of it along, and waits for gloo's threads while they wait for Python's lock
    (pytorch issue 56297): the process hangs.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield World()
        return
    dist.init_process_group(timeout=PATIENCE)  # gloo for tensors of the CPU, NCCL for GPUs
    yield World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
    gc.collect()  # a network may be part of a cycle
    dist.destroy_process_group()  # after an error the others may not answer any more


def replicated(step: TrainStep, world: World, devices: Sequence[torch.device]) -> nn.Module:
    """A training step on this process's share of every batch, or on several GPUs of its own."""
    if len(devices) > 1 and step.compiled:
        raise ValueError(
            "TRAIN.COMPILE makes a program for one GPU: start with torchrun, or leave it out"
        )
    if world.size > 1:
        ids = [devices[0]] if devices[0].type == "cuda" else None
        return DistributedDataParallel(step, device_ids=ids, gradient_as_bucket_view=True)
    if len(devices) > 1:
        return nn.DataParallel(step, list(devices))
    return step
