"""How fast a config trains, where the time goes, and what each means of speed is worth."""

from __future__ import annotations

import itertools
import math
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer_step, build_training_loader
from hrpose.config import load_config
from hrpose.engine.step import Batch
from hrpose.models.complexity import operations_in
from hrpose.programs import timing
from hrpose.programs.benchmark_data import configured_samples, sample_keys
from hrpose.programs.timing import CONFIGURED, REFERENCE, Report, Row

PHASES = ("wait for data", "to_device", "forward", "loss", "backward", "optimizer")
FEW, LARGEST = 8, 1024
"""Real images that a batch of --sweep repeats, and its largest batch."""
SWEEP = {
    REFERENCE: (),
    **{
        name: (
            *("TRAIN.PRECISION", name[:4], "TRAIN.CHANNELS_LAST", str("last" in name)),
            *("TRAIN.COMPILE", str("compiled" in name)),
        )
        for name in (
            *("fp32", "fp32, channels last"),
            *("bf16", "bf16, channels last", "bf16, channels last, compiled"),
        )
    },
}
"""Means of speed, one after the other, as options."""


class Side(NamedTuple):
    """A training: as the config has it, or by the reference."""

    name: str
    config: CfgNode
    batches: Iterator[Batch]
    size: int  # images of a batch

    def build(self, device: torch.device, steps: int) -> Callable[[], None]:
        """A call that takes so many steps in one go; nothing is waited for but data."""
        timing.release_memory()
        if self.name == REFERENCE:
            step = timing.load_reference("training_step").ReferenceStep(self.config, device)
        else:
            torch.manual_seed(self.config.TRAIN.SEED)
            model = build_model(self.config).to(device)
            stepper = build_optimizer_step(self.config, model, self.size, [device])
            stepper.train_step.train()
            step = partial(stepper.step, lr=self.config.TRAIN.LR, number=0)

        def call() -> None:
            for _ in range(steps):
                with record_function("wait for data"):
                    batch = next(self.batches)
                step(batch)

        return call

    def peak(self, device: torch.device) -> float:
        """GiB that two steps take: the second is the first with the optimizer's state."""
        return timing.peak_memory(self.build(device, 2), device)

    @property
    def precision(self) -> str:
        return "fp32" if self.name == REFERENCE else self.config.TRAIN.PRECISION


def benchmark_train(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """images/s of the config's training, workers included, and where the time goes."""
    if options.sweep:
        return _sweep(options, device)
    if options.batch:
        raise ValueError("--batch belongs to --sweep; without it, give TRAIN.BATCH N")
    loaders: dict[str, DataLoader] = {CONFIGURED: build_training_loader(config)}
    if options.against:
        reference_loader = timing.load_reference("data").reference_loader
        loaders[REFERENCE] = reference_loader(config, loaders[CONFIGURED])
    size = loaders[CONFIGURED].batch_sampler.batch  # type: ignore[union-attr]
    sides = [Side(name, config, _endless(loader), size) for name, loader in loaders.items()]
    # The first call of each turn does not count, and uses up what workers had prepared.
    steps = max(options.steps, config.WORKERS * (loaders[CONFIGURED].prefetch_factor or 0))
    rows = _measure(sides, device, steps, options.repeats)
    parts = timing.phases(
        {side.name: side.build(device, steps) for side in sides}, PHASES, device, steps
    )
    notes = [
        f"{config.DATASET.INPUT_SIZE} px, {config.WORKERS} workers, one device; {steps} steps in "
        "one go; medians (least to most) over the repeats. Phases are of as many steps more.",
        _feed(config, loaders[CONFIGURED], rows[0]["images/s"].median),
    ]
    return Report({"A step": rows, "Where the time of a step goes": parts}, notes)


def _endless(loader: DataLoader) -> Iterator[Batch]:
    sampler: Any = loader.batch_sampler
    for epoch in itertools.count():
        sampler.enter(epoch)
        yield from loader


def _measure(
    sides: Sequence[Side], device: torch.device, steps: int, repeats: int, baseline: str = ""
) -> list[Row]:
    """A row of a step for each side; each is built anew for its turns, and alone on the device.

    % of matmul: of what large matrix products reach here, two operations a multiply-add, backward
    taking twice as many as forward. What is there in training only (SWAHR's scale branches) is
    not counted, nor is the loss.
    """
    peaks = {side.name: side.peak(device) for side in sides}
    rows = timing.compare_calls(
        {side.name: side for side in sides},
        repeats,
        steps,
        {side.name: side.size for side in sides},
        baseline,
        prepare=lambda side: side.build(device, steps),
    )
    precisions = dict.fromkeys(side.precision for side in sides)
    rates = {precision: timing.matmul_rate(device, precision) for precision in precisions}
    config = sides[0].config
    work = 6e9 * operations_in(build_model(config), (config.DATASET.INPUT_SIZE,) * 2)
    for side, row in zip(sides, rows):
        share = 100 * work / rates[side.precision]
        row["% of matmul"] = timing.spread(share * rate for rate in row["images/s"])
        row |= {"batch": side.size, "peak memory, GiB": peaks[side.name]}
    return rows


def _feed(config: CfgNode, loader: DataLoader, pace: float) -> str:
    """Whether the data path can feed the step."""
    keys = sample_keys(loader, 24)
    with timing.one_thread():
        rate = sum(map(len, keys)) / timing.seconds_of(configured_samples(config, loader, keys))
    return (
        f"One worker makes {rate:.0f} samples/s, so {pace:.0f} images/s need "
        f"{math.ceil(pace / rate)} of them; WORKERS is {config.WORKERS}, of {os.cpu_count()} cores."
    )


def _sweep(options: Namespace, device: torch.device) -> Report:
    """images/s of every means of speed, at --batch or else at the largest batch that fits."""
    if options.against:
        raise ValueError("--sweep begins with the reference; leave --against out")
    if not options.batch and device.type == "cpu":
        raise ValueError("give --batch N with --sweep; on a CPU no batch is the largest that fits")
    config = lambda *more: load_config(options.cfg, [*options.overrides, *more])  # noqa: E731
    small = config("WORKERS", "0", "TRAIN.BATCH", str(FEW))
    loader = build_training_loader(small)
    theirs = timing.load_reference("data").reference_loader(small, loader)
    few = {False: next(iter(loader)), True: next(iter(theirs))}
    sides: list[Side] = []
    failed: dict[str, str] = {}
    for name, means in SWEEP.items():
        sized = partial(_resident_side, name, config(*means), few[name == REFERENCE])
        try:
            start = sides[-1].size if sides else 1
            size = options.batch or largest_that_fits(sized, start, device)
            sized(size).peak(device)
            sides.append(sized(size))
        except RuntimeError as error:  # for want of a compiler, or of memory
            failed[name] = str(error).strip().split("\n")[0]
    if not sides:
        raise ValueError(f"nothing can be measured here: {failed}; try a smaller --batch")
    notes = [
        f"One batch of real images, {options.steps} times in one go: loading does not count. "
        "The speed-up is in images/s, to the first row.",
        *(f"Not measured: {name}, since {why}" for name, why in failed.items()),
    ]
    rows = _measure(sides, device, options.steps, options.repeats, sides[0].name)
    return Report({"Means of speed": rows}, notes)


def _resident_side(name: str, config: CfgNode, images: Batch, size: int) -> Side:
    """Training on the same images for ever, as many times as it takes to make a batch."""
    times = -(-size // len(images["image"]))
    batch = {key: torch.cat([value] * times)[:size] for key, value in images.items()}
    if torch.cuda.is_available():
        batch = {key: value.pin_memory() for key, value in batch.items()}
    return Side(name, config, itertools.repeat(batch), size)


def largest_that_fits(sized: Callable[[int], Side], size: int, device: torch.device) -> int:
    """The largest batch that fits, of `size` times a power of two.

    RuntimeError: not one image fits, or something other than memory is wanting
    """
    while size and not _fits(sized(size), device):
        size //= 2
    if not size:
        raise RuntimeError("not one image fits")
    while size < LARGEST and _fits(sized(2 * size), device):
        size *= 2
    return size


def _fits(side: Side, device: torch.device) -> bool:
    try:
        side.peak(device)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return False
    return True
