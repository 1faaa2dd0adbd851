"""DEVICE and PRECISION: the devices of this process, and the names of dtypes."""

from __future__ import annotations

import torch
from yacs.config import CfgNode

from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_devices(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> list[torch.device]:
    """The devices of this process, of which the first GPU becomes the current one.

    Otherwise NCCL and pinned memory would make a context on GPU 0 in every process. The option
    TF32 is set for all of them.
    """
    torch.backends.cudnn.allow_tf32 = config.TF32
    devices = list_devices(config, dist)
    if devices[0].type == "cuda":
        torch.cuda.set_device(devices[0])
    return devices


def list_devices(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> list[torch.device]:
    """The devices of this process: `auto` and `cuda` mean all GPUs of CUDA_VISIBLE_DEVICES.

    With several processes, each of them has one.
    """
    name, count = config.DEVICE, torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and count == 0):
        return [torch.device("cpu")]
    if count == 0:
        raise ValueError(f"DEVICE is {name}, but torch sees no GPU here; use DEVICE cpu or auto")
    if dist.world_size > 1:
        return [_gpu_of_rank(dist, name, count)]
    if name in ("auto", "cuda"):
        return [torch.device("cuda", i) for i in range(count)]
    device = torch.device(name)
    if device.index >= count:
        raise ValueError(f"DEVICE is {name}, but torch sees only {count} GPUs, from cuda:0")
    return [device]


def _gpu_of_rank(dist: DistInfo, name: str, count: int) -> torch.device:
    if name not in ("auto", "cuda"):
        raise ValueError(f"DEVICE is {name}, but every process needs a GPU of its own; use auto")
    if dist.local_rank is None:
        raise ValueError(
            "RANK is set, but LOCAL_RANK is not, so that processes might share a GPU; start them "
            "with torchrun, or set LOCAL_RANK to the process's number on its machine (in Slurm: "
            "export LOCAL_RANK=$SLURM_LOCALID)"
        )
    if dist.local_rank >= count:
        raise ValueError(
            f"torch sees {count} GPUs for more processes; use torchrun --nproc-per-node {count}"
        )
    return torch.device("cuda", dist.local_rank)
