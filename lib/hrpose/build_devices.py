"""Assembly of where to compute, and in which numbers: DEVICE, PRECISION, which process this is."""

from __future__ import annotations

import torch
from yacs.config import CfgNode

from hrpose.engine.distributed import World

ALONE = World()
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_devices(config: CfgNode, world: World = ALONE) -> list[torch.device]:
    """Where this process computes: `auto` and `cuda` mean all GPUs of CUDA_VISIBLE_DEVICES.

    Where several processes work together, each of them has one.
    """
    name, count = config.DEVICE, torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and count == 0):
        return [torch.device("cpu")]
    if count == 0:
        raise ValueError(f"DEVICE is {name}, but torch sees no GPU here; use DEVICE cpu or auto")
    if world.size > 1:
        return [_gpu_of(world, name, count)]
    if name in ("auto", "cuda"):
        return [torch.device("cuda", i) for i in range(count)]
    device = torch.device(name)
    if device.index >= count:
        raise ValueError(f"DEVICE is {name}, but torch sees only {count} GPUs, from cuda:0")
    return [device]


def _gpu_of(world: World, name: str, count: int) -> torch.device:
    if name not in ("auto", "cuda"):
        raise ValueError(f"DEVICE is {name}, but every process needs a GPU of its own; use auto")
    if world.local_rank >= count:
        raise ValueError(
            f"torch sees {count} GPUs for more processes; use torchrun --nproc-per-node {count}"
        )
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)  # or NCCL would take the first for all
    return device
