"""What DDP and SyncBatchNorm ask of NCCL and cuDNN, done by gloo and on the host.

As with torch's own pair of backends, CPU tensors are gloo's. Where NCCL would hang or refuse, an
AssertionError is raised: tensors on two GPUs of one process, or not contiguous.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

CALLS: list[str] = []
"""The collectives of GPU tensors so far."""


class Done(dist._Work):
    """A collective that is complete."""

    def __init__(self, result: object):
        super().__init__()
        self.future = Future()
        self.future.set_result(result)

    def wait(self, timeout=None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def get_future(self) -> Future:
        return self.future


class SimulatedNCCL(dist.ProcessGroup):
    group_name = "0"

    def __init__(self, store, rank, size, timeout):
        super().__init__(rank, size)
        self.gloo = dist.ProcessGroupGloo(store, rank, size, timeout)
        self.devices: set[torch.device] = set()

    def getBackendName(self) -> str:
        return "nccl"

    def allreduce(self, tensors, opts=None):
        host = self._to_host(tensors, "all_reduce")
        self.gloo.allreduce(host, opts or dist.AllreduceOptions()).wait()
        return _to_device(host, tensors)

    def broadcast(self, tensors, opts):
        host = self._to_host(tensors, "broadcast")
        self.gloo.broadcast(host, opts).wait()
        return _to_device(host, tensors)

    def allgather(self, outputs, inputs, opts=None):
        for gathered, values in zip(outputs, self._gather(inputs, "all_gather")):
            _to_device(values, gathered)
        return Done(outputs)

    def all_gather_single(self, output, given, opts=None):
        (values,) = self._gather([given], "all_gather")
        return _to_device([torch.cat([value.flatten() for value in values])], [output.view(-1)])

    _allgather_base = all_gather_single

    def barrier(self, opts=None):
        self.gloo.barrier().wait()
        return Done([])

    def _gather(self, inputs: list[Tensor], collective: str) -> list[list[Tensor]]:
        host = self._to_host(inputs, collective)
        values = [[torch.empty_like(value) for _ in range(self.size())] for value in host]
        self.gloo.allgather(values, host).wait()
        return values

    def _to_host(self, tensors: list[Tensor], collective: str) -> list[Tensor]:
        for tensor in tensors:
            if not tensor.is_cuda:
                continue
            CALLS.append(collective)
            self.devices.add(tensor.device)
            layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
            dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=layout)
            assert dense, "NCCL: tensors must be contiguous"
        assert len(self.devices) <= 1, f"one process on {self.devices}: NCCL would hang"
        return [tensor.detach().cpu().contiguous() for tensor in tensors]


def _to_device(host: list[Tensor], tensors: list[Tensor]) -> Done:
    for tensor, value in zip(tensors, host):
        tensor.detach().copy_(value)
    return Done(tensors)


def install() -> torch.library.Library:
    """For init_process_group() and SyncBatchNorm, as long as the library lives."""
    dist.Backend.register_backend("simulated", SimulatedNCCL, devices=["cpu", "cuda"])
    init = dist.init_process_group
    dist.init_process_group = lambda **options: init("simulated", **options)
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in SYNC_BN_KERNELS.items():
        library.impl(name, kernel, "CUDA")
    return library


# SyncBatchNorm's kernels, which a CPU lacks ------------------------------------------------------


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _stats(x, eps):
    x, dims = x.float(), _all_but_channels(x)
    return x.mean(dims), (x.var(dims, unbiased=False) + eps).rsqrt()


def _gather_stats(x, mean, invstd, running_mean, running_var, momentum, eps, counts):  # noqa: PLR0913
    count = counts.view(-1, 1)
    total = count.sum()
    common = (mean * count).sum(0) / total
    variance = ((invstd**-2 - eps + mean**2) * count).sum(0) / total - common**2
    running_mean.lerp_(common, momentum)
    running_var.lerp_(variance * total / (total - 1), momentum)
    return common, (variance + eps).rsqrt()


def _normalise(x, weight, bias, mean, invstd, eps):  # noqa: PLR0913
    y = (x.float() - _per_channel(mean, x)) * _per_channel(invstd * weight, x)
    return (y + _per_channel(bias, x)).to(x.dtype)


def _backward_reduce(dy, x, mean, invstd, weight, *_):
    dy, centred, dims = dy.float(), x.float() - _per_channel(mean, x), _all_but_channels(x)
    sum_dy, sum_dy_x = dy.sum(dims), (dy * centred).sum(dims)
    return sum_dy, sum_dy_x, sum_dy_x * invstd, sum_dy.clone()


def _backward(dy, x, mean, invstd, weight, sum_dy, sum_dy_x, count):  # noqa: PLR0913
    total = count.sum()
    centred = (x.float() - _per_channel(mean, x)) * _per_channel(invstd**2 * sum_dy_x / total, x)
    dx = (dy.float() - _per_channel(sum_dy / total, x) - centred) * _per_channel(invstd * weight, x)
    return dx.to(x.dtype)


SYNC_BN_KERNELS = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gather_stats,
    "batch_norm_elemt": _normalise,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward,
}
