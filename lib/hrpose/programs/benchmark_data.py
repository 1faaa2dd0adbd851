"""How fast one worker makes samples, and how fast the tag loss is: both on the CPU."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.builders.training import build_training_loader
from hrpose.data.samples import BottomUpDataset
from hrpose.losses.associative_embedding import tag_loss
from hrpose.programs import timing
from hrpose.programs.timing import CONFIGURED, REFERENCE, Report

Keys = list[list[tuple[int, int]]]
"""(epoch, index) of every sample of every batch"""


def benchmark_data(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """samples/s, phases and bytes of one worker of one thread, files being in memory."""
    loader = build_training_loader(config)
    keys = sample_keys(loader, options.samples)
    count, labels = sum(map(len, keys)), ["read", *config.DATASET.AUGMENTATIONS, "collate"]
    calls = {CONFIGURED: configured_samples(config, loader, keys)}
    if options.against:
        theirs = timing.load_reference("data").reference_loader(config, loader)
        calls[REFERENCE] = partial(make_batches, theirs.dataset, theirs.collate_fn, keys)
        labels.insert(-1, "draw heatmaps")
    with timing.one_thread():
        rows = timing.compare_calls(calls, options.repeats, count)
        parts = timing.phases(calls, labels, device, count)
    for row in rows:
        row["MB shipped"] = calls[row[""]]() / count / 1e6
    note = (
        f"One worker with one thread, {count} samples of {config.DATASET.INPUT_SIZE} px in one go, "
        f"collated {len(keys[0])} at a time, from files that were read before."
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
    read = timing.label("read", source.images.read)
    images: Any = SimpleNamespace(read=read, name=source.images.name)
    names = config.DATASET.AUGMENTATIONS
    steps = [timing.label(name, step) for name, step in zip(names, source.augmentations)]
    dataset = BottomUpDataset(source.records, images, steps, source.seed)
    return partial(make_batches, dataset, loader.collate_fn, keys)


def make_batches(dataset: Any, collate: Callable, keys: Keys) -> int:
    """Make all batches; the bytes of their tensors."""
    shipped = 0
    for batch in keys:
        samples = [dataset[key] for key in batch]
        with record_function("collate"):
            collated = collate(samples)
        shipped += sum(value.nbytes for value in collated.values())
    return shipped


def benchmark_tags(options: Namespace, config: None, device: torch.device) -> Report:
    """Milliseconds of the tag loss on random tags, 80 % of the joints being labelled."""
    generator = torch.Generator().manual_seed(0)
    area, shape = options.size**2, (options.images, options.people, options.joints)
    tags = torch.randn(options.images, options.joints * area, generator=generator)
    cells = torch.randint(area, shape, generator=generator) + area * torch.arange(options.joints)
    cells = cells.where(torch.rand(shape, generator=generator) < 0.8, -1)
    losses: dict[str, Callable] = {CONFIGURED: tag_loss}
    if options.against:
        losses[REFERENCE] = timing.load_reference("losses").looped_tag_loss

    def call(loss: Callable) -> None:
        pull, push = loss(tags.clone().requires_grad_(), cells)
        (pull + push).sum().backward()

    calls = {name: partial(call, loss) for name, loss in losses.items()}
    rows = timing.compare_calls(calls, options.repeats, images=dict.fromkeys(calls, options.images))
    return Report({"Tag loss, forward and backward": rows})
