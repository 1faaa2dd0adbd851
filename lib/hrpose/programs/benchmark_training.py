"""Speed of training: the step and its phases, the options that speed it up, loading, tag loss."""

from __future__ import annotations

import gc
import itertools
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.builders.common import build_model, input_size
from hrpose.builders.training import build_optimizer_step, build_training_loader
from hrpose.config import load_config
from hrpose.data.samples import SampleDataset
from hrpose.engine.step import Batch
from hrpose.losses.associative_embedding import tag_loss
from hrpose.models.complexity import operations_in
from hrpose.programs import timing
from hrpose.programs.timing import CONFIGURED, REFERENCE, Call, Report, Row

PHASES = ("wait for data", "to_device", "forward", "loss", "backward", "optimizer")
LARGEST_BATCH = 1024
"""The largest batch that --sweep tries."""
SWEEP = (REFERENCE, "fp32", "bf16", "bf16, compiled")


# train ------------------------------------------------------------------------------------------


class Side(NamedTuple):
    """A training run: as the config has it, or by the reference."""

    name: str
    config: CfgNode
    batches: Iterator[Batch]
    size: int  # images per batch

    def build(self, device: torch.device, steps: int) -> Call:
        """Build a new network; returns a call that trains it for `steps`, without synchronizing."""
        gc.collect()
        torch.compiler.reset()
        torch.backends.cudnn.benchmark = True  # as in training
        if device.type == "cuda":
            torch.cuda.empty_cache()
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
        """Peak GiB of two steps: only the second has the optimizer's state from the start."""
        return timing.peak_memory(self.build(device, 2), device)


def benchmark_train(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """images/s of the config's training, workers included, and where the time goes."""
    if options.sweep:
        return _sweep(options, device)
    if options.batch:
        raise ValueError("--batch belongs to --sweep; without it, give TRAIN.BATCH N")
    loader, workers = build_training_loader(config), config.WORKERS
    loaders: dict[str, DataLoader] = {CONFIGURED: loader}
    if options.against:
        theirs = timing.load_reference("data").reference_loader(config, loader)
        loaders = {REFERENCE: theirs, CONFIGURED: loader}
    size = loader.batch_sampler.batch  # type: ignore[union-attr]
    sides = [Side(name, config, _endless(each), size) for name, each in loaders.items()]
    # The untimed first call of each turn uses up what workers had prepared.
    steps = max(options.steps, workers * (loader.prefetch_factor or 0))
    rows = _compare(sides, device, steps, options.repeats)
    calls = {side.name: side.build(device, steps) for side in sides}
    parts = timing.phases(calls, PHASES, device, steps)
    note = (
        f"{_crop(config)}, {workers} workers, one device; {steps} steps per run; median (min to "
        "max) over the repeats. Phases are of a separate profiled run."
    )
    return Report({"A step": rows, "Where the time of a step goes": parts}, [note])


def _crop(config: CfgNode) -> str:
    return "{} x {} px".format(*input_size(config))


def _endless(loader: DataLoader) -> Iterator[Batch]:
    sampler: Any = loader.batch_sampler
    for epoch in itertools.count():
        sampler.enter(epoch)
        yield from loader


def _compare(sides: list[Side], device: torch.device, steps: int, repeats: int) -> list[Row]:
    """A row per side; each is built anew for its turns, so that it is alone on the device.

    TFLOP/s: at two operations a multiply-add and a backward pass of twice the forward pass. Layers
    that exist in training only (SWAHR's scale branches) and the loss are not counted.
    """
    config = sides[0].config
    work = 6e-3 * operations_in(build_model(config), input_size(config)[::-1])
    rows = timing.compare_calls(
        {side.name: side for side in sides},
        repeats,
        {side.name: side.size for side in sides},
        steps,
        prepare=lambda side: side.build(device, steps),
    )
    for side, row in zip(sides, rows):
        row["TFLOP/s"] = timing.spread(work * rate for rate in row["images/s"].values())
        row |= {"batch": side.size, "peak memory, GiB": side.peak(device)}
    return rows


def _sweep(options: Namespace, device: torch.device) -> Report:
    """images/s of each row of SWEEP, at --batch or else at the largest batch that fits."""
    if options.against:
        raise ValueError("--sweep begins with the reference; leave --against out")
    if not options.batch and device.type == "cpu":
        raise ValueError("give --batch N with --sweep; on a CPU no batch is the largest that fits")
    small = load_config(options.cfg, [*options.overrides, "WORKERS", "0", "TRAIN.BATCH", "8"])
    loader = build_training_loader(small)
    theirs = timing.load_reference("data").reference_loader(small, loader)
    ours, slow = next(iter(loader)), next(iter(theirs))
    sides, failed = list[Side](), dict[str, str]()
    for name in SWEEP:
        overrides = () if name == REFERENCE else timing.speed_options(name, "TRAIN")
        config = load_config(options.cfg, [*options.overrides, *overrides])
        images = slow if name == REFERENCE else ours
        sized = partial(repeated_side, name, config, images, device)
        try:
            if options.batch:
                sized(options.batch).peak(device)
            start = sides[-1].size if sides else 1
            sides.append(sized(options.batch or largest_that_fits(sized, start, device)))
        except (RuntimeError, ValueError) as error:  # not enough memory, or no compiler
            failed[name] = str(error).strip().split("\n")[0]
    if not sides:
        raise ValueError(f"nothing can be measured here: {failed}; try a smaller --batch")
    notes = [
        f"One batch of real images, {options.steps} steps per run, without loading. "
        "The speed-up is in images/s, relative to the first row.",
        *(f"Not measured: {name}, since {why}" for name, why in failed.items()),
    ]
    return Report(
        {"Training options": _compare(sides, device, options.steps, options.repeats)}, notes
    )


def repeated_side(
    name: str, config: CfgNode, images: Batch, device: torch.device, size: int
) -> Side:
    """Training on the same few images forever, repeated to fill a batch of `size`.

    Only batches for a GPU are pinned, as the loader's are: a CPU's would make a context on GPU 0.
    """
    times = -(-size // len(images["image"]))
    batch = {key: torch.cat([value] * times)[:size] for key, value in images.items()}
    if device.type == "cuda":
        batch = {key: value.pin_memory() for key, value in batch.items()}
    return Side(name, config, itertools.repeat(batch), size)


def largest_that_fits(sized: Callable[[int], Side], size: int, device: torch.device) -> int:
    """The largest batch that fits, `size` times a power of two.

    RuntimeError: not one image fits, or an error other than lack of memory
    """

    def fits(count: int) -> bool:
        try:
            sized(count).peak(device)
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            return False
        return True

    while size and not fits(size):
        size //= 2
    if not size:
        raise RuntimeError("not one image fits")
    while size < LARGEST_BATCH and fits(2 * size):
        size *= 2
    return size


# data -------------------------------------------------------------------------------------------

Keys = list[list[tuple[int, int]]]
"""(epoch, index) of every sample of every batch"""


def benchmark_data(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """samples/s, phases and bytes of one worker with one thread, files being cached."""
    loader = build_training_loader(config)
    keys = sample_keys(loader, options.samples)
    count, labels = sum(map(len, keys)), ["read", *config.DATASET.AUGMENTATIONS, "collate"]
    calls: dict[str, Callable[[], int]] = {}
    if options.against:
        theirs = timing.load_reference("data").reference_loader(config, loader)
        calls[REFERENCE] = partial(_make_batches, theirs.dataset, theirs.collate_fn, keys)
        labels.insert(-1, "draw heatmaps")
    calls[CONFIGURED] = configured_samples(config, loader, keys)
    with timing.one_thread():
        rows = timing.compare_calls(calls, options.repeats, dict.fromkeys(calls, 1), count)
        parts = timing.phases(calls, labels, device, count)
    for row in rows:
        row["MB shipped"] = calls[row[""]]() / count / 1e6
    note = (
        f"One worker with one thread, {count} samples of {_crop(config)} per run, "
        f"collated {len(keys[0])} at a time, from cached files."
    )
    return Report({"A sample": rows, "Where the time of a sample goes": parts}, [note])


def sample_keys(loader: DataLoader, samples: int) -> Keys:
    """The first batches in shuffled order, epoch after epoch, of the config's size."""
    sampler: Any = loader.batch_sampler
    size, keys, epoch = min(sampler.batch, samples), list[tuple[int, int]](), 0
    while len(keys) < samples:
        sampler.enter(epoch)
        keys += [key for batch in sampler for key in batch]
        epoch += 1
    return [keys[i : i + size] for i in range(0, samples - size + 1, size)]


def configured_samples(config: CfgNode, loader: DataLoader, keys: Keys) -> Callable[[], int]:
    """A call that makes the batches as training does, with a label for each augmentation."""
    source: Any = loader.dataset
    read = record_function("read")(source.images.read)
    images: Any = SimpleNamespace(read=read, name=source.images.name, doubtful={})
    named = zip(config.DATASET.AUGMENTATIONS, source.augmentations)
    steps = [record_function(name)(step) for name, step in named]
    dataset = SampleDataset(source.records, images, steps, source.seed, source.read)
    return partial(_make_batches, dataset, loader.collate_fn, keys)


def _make_batches(dataset: Any, collate: Callable, keys: Keys) -> int:
    """Make all batches; returns the bytes of their tensors."""
    shipped = 0
    for batch in keys:
        samples = [dataset[key] for key in batch]
        with record_function("collate"):
            collated = collate(samples)
        shipped += sum(value.nbytes for value in collated.values())
    return shipped


# tags -------------------------------------------------------------------------------------------


def benchmark_tags(options: Namespace, config: None, device: torch.device) -> Report:
    """Milliseconds of the tag loss on random tags, 80 % of the joints being labelled."""
    generator = torch.Generator().manual_seed(0)
    area, shape = options.size**2, (options.images, options.people, options.joints)
    tags = torch.randn(options.images, options.joints * area, generator=generator)
    cells = torch.randint(area, shape, generator=generator) + area * torch.arange(options.joints)
    cells = cells.where(torch.rand(shape, generator=generator) < 0.8, -1)
    losses: dict[str, Callable] = {}
    if options.against:
        losses[REFERENCE] = timing.load_reference("losses").looped_tag_loss
    losses[CONFIGURED] = tag_loss

    def call(loss: Callable) -> None:
        pull, push = loss(tags.clone().requires_grad_(), cells)
        (pull + push).sum().backward()

    calls = {name: partial(call, loss) for name, loss in losses.items()}
    rows = timing.compare_calls(calls, options.repeats, dict.fromkeys(calls, options.images))
    return Report({"Tag loss, forward and backward": rows})
