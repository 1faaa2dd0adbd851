"""The sides of a comparison: a training as the config says, and one the plain way."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.build import build_model
from hrpose.builders.training import build_optimizer_step
from hrpose.engine.logger import memory_in_use
from hrpose.engine.trainer import Batch, to_device
from hrpose.programs.benchmarking.plain_step import PlainStep, build_plain_loss, plain_adam
from hrpose.programs.benchmarking.timing import Stopwatch, waiter

WARM_UP = 2
"""Steps that do not count: the second is the first for which everything has been allocated."""
WAIT = "wait for data, ms"
PHASES = (
    WAIT,
    "host to device, ms",
    "forward, ms",
    "loss, ms",
    "backward, ms",
    "optimiser, ms",
)


class Batches(NamedTuple):
    """What is trained on, for ever."""

    source: Iterator[Batch]
    size: int  # images of each
    ready: int = 0  # how many the workers have prepared when nobody fetched any for a while


class Side(NamedTuple):
    """Something that trains."""

    step: nn.Module
    optimizer: Optimizer
    take: Callable[[Batch], object]  # a step
    batches: Batches
    device: torch.device


def configured_side(config: CfgNode, device: torch.device, batches: Batches) -> Side:
    """The training of the config on one device."""
    torch.manual_seed(config.TRAIN.SEED)
    model = build_model(config).to(device)
    descent = build_optimizer_step(config, model, batches.size, [device])
    if descent.config.accumulation > 1:
        raise ValueError("phases are told apart in one pass alone; set TRAIN.IMAGES_PER_DEVICE 0")
    take = partial(descent.step, lr=config.TRAIN.LR, number=0)
    return Side(descent.train_step.train(), descent.optimizer, take, batches, device)


def plain_side(config: CfgNode, device: torch.device, batches: Batches) -> Side:
    """The same training the plain way, of the same network, on batches of plain_data."""
    torch.manual_seed(config.TRAIN.SEED)
    model = build_model(config).to(device)
    step = PlainStep(model, build_plain_loss(config)).train()
    optimizer = plain_adam(model, config.TRAIN.LR)
    return Side(step, optimizer, partial(descend, step, optimizer, device), batches, device)


def descend(step: nn.Module, optimizer: Optimizer, device: torch.device, batch: Batch) -> None:
    """One step down the mean loss of the batch."""
    optimizer.zero_grad(set_to_none=True)
    step(to_device(batch, device))["loss"].mean().backward()
    optimizer.step()


def fetched(loader: DataLoader) -> Batches:
    """The batches of one epoch after the other."""
    sampler: Any = loader.batch_sampler
    ready = loader.num_workers * (loader.prefetch_factor or 0)
    return Batches(_endless(loader, sampler), sampler.batch, ready)


def _endless(loader: DataLoader, sampler: Any) -> Iterator[Batch]:
    for epoch in itertools.count():
        sampler.enter(epoch)
        yield from loader


# Measuring ------------------------------------------------------------------------------------


def measure(side: Side, steps: int) -> dict[str, float]:
    """A block: `steps` steps in one go for the pace, then as many phase by phase.

    What the workers prepared while the other side trained is thrown away first, and a few steps
    are taken that do not count.
    """
    for _ in range(side.batches.ready):
        next(side.batches.source)
    for _ in range(WARM_UP):
        side.take(next(side.batches.source))
    seconds = _in_one_go(side, steps)
    laps = _phase_by_phase(side, steps)
    # Batches come in bursts, as many as there are workers: their median wait would be nothing.
    typical = {name: statistics.median(laps[name]) for name in PHASES}
    typical[WAIT] = statistics.mean(laps[WAIT])
    figures = {"images/s": steps * side.batches.size / seconds, "step, ms": 1000 * seconds / steps}
    return figures | {name: 1000 * passed for name, passed in typical.items()}


def _in_one_go(side: Side, steps: int) -> float:
    """Seconds; the device is asked for nothing before the end."""
    wait = waiter(side.device)
    wait()
    begun = time.perf_counter()
    for _ in range(steps):
        side.take(next(side.batches.source))
    wait()
    return time.perf_counter() - begun


def _phase_by_phase(side: Side, steps: int) -> dict[str, list[float]]:
    """Seconds of every phase in every step, the device having finished each before the next."""
    watch = Stopwatch(waiter(side.device))
    with watched(side, watch):
        watch.start()
        for _ in range(steps):
            batch = next(side.batches.source)
            watch.lap(WAIT)
            side.take(batch)
            watch.lap("optimiser, ms")
    return watch.laps


@contextmanager
def watched(side: Side, watch: Stopwatch) -> Iterator[None]:
    """Have a step end a lap where it passes from one phase to the next."""
    step: Any = side.step
    predict = step.predict

    def forward(images: torch.Tensor) -> Any:
        said = predict(images)
        watch.lap("forward, ms")
        return said

    with ExitStack() as until:
        for hook in (
            step.register_forward_pre_hook(lambda *_: watch.lap("host to device, ms")),
            step.register_forward_hook(lambda *_: watch.lap("loss, ms")),
            side.optimizer.register_step_pre_hook(lambda *_: watch.lap("backward, ms")),
        ):
            until.callback(hook.remove)
        step.predict = forward
        until.callback(delattr, step, "predict")
        yield


# Memory ---------------------------------------------------------------------------------------


def peak_memory(build: Callable[[], Side]) -> float:
    """Bytes that a few steps take at most: of the GPU or, on a CPU, of this whole process."""
    release()
    _forget_peak()
    side = build()
    for _ in range(WARM_UP):
        side.take(next(side.batches.source))
    waiter(side.device)()
    return memory_in_use(side.device)


def release() -> None:
    """Give back what nobody holds any more; compiled code is forgotten too."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _forget_peak() -> None:
    """Begin anew, where that can be done."""
    for i in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(i)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
