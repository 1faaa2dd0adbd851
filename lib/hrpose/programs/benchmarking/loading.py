"""How fast one worker makes samples, and where its time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from hrpose.builders.training import build_training_loader
from hrpose.data.bottomup import BottomUpDataset
from hrpose.data.coco import Images
from hrpose.programs.benchmarking.plain_data import PlainDataset, plain_loader
from hrpose.programs.benchmarking.report import Report, paired_report
from hrpose.programs.benchmarking.timing import one_thread, take_turns

Keys = list[tuple[int, int]]
Tally = dict[str, float]
"""name -> seconds"""

READ, COLLATE, REST = "read and decode", "collate", "mask and the rest"


class TimedImages:
    """Images that tell how long they were read."""

    def __init__(self, images: Images, tally: Tally):
        self.read = timed(tally, READ, images.read)
        self.name = images.name


def timed(tally: Tally, name: str, call: Callable) -> Callable:
    """The same function; the seconds that it takes are added up."""

    def run(*given: Any) -> Any:
        begun = time.perf_counter()
        result = call(*given)
        tally[name] += time.perf_counter() - begun
        return result

    return run


def benchmark_loading(config: CfgNode, against: str | None, samples: int, blocks: int) -> Report:
    """samples/s, phases and bytes of one worker; beside those of the plain path."""
    return time_loading(config, build_training_loader(config), against, samples, blocks)


def time_loading(
    config: CfgNode, loader: DataLoader, against: str | None, samples: int, blocks: int
) -> Report:
    batches = _batches(loader, samples)
    sides = {"as configured": partial(run_configured, config, loader, batches)}
    if against:
        sides["plain"] = partial(run_plain, plain_loader(config, loader), batches)
    with one_thread():
        take_turns(sides, 1)  # now the files are in memory
        measured = take_turns(sides, blocks)
    phases = [name for figures in measured.values() for name in figures if name.startswith("- ")]
    report = paired_report(measured, list(dict.fromkeys(phases)))
    report.notes.append(
        f"One worker with one thread, {sum(map(len, batches))} samples of "
        f"{config.DATASET.INPUT_SIZE} px a block, {blocks} blocks, collated {len(batches[0])} at a "
        "time, from files that were read before. Phases (-) are parts of a sample's time."
    )
    return report


def samples_per_second(config: CfgNode, loader: DataLoader) -> float:
    """Of one worker."""
    report = time_loading(config, loader, None, samples=48, blocks=3)
    return report.numbers["sides"]["as configured"]["samples/s"]["median"]


def _batches(loader: DataLoader, samples: int) -> list[Keys]:
    """Keys of the samples in shuffled order, epoch after epoch, in batches of the config's size."""
    sampler: Any = loader.batch_sampler
    size, keys, epoch = min(sampler.batch, samples), list[tuple[int, int]](), 0
    while len(keys) < samples:
        sampler.enter(epoch)
        keys += [key for batch in sampler for key in batch]
        epoch += 1
    return [keys[i : i + size] for i in range(0, samples - size + 1, size)]


def run_configured(
    config: CfgNode, loader: DataLoader, batches: Sequence[Keys]
) -> dict[str, float]:
    """A block of the package's own path."""
    source: Any = loader.dataset
    tally: Tally = defaultdict(float)
    images: Any = TimedImages(source.images, tally)
    names = config.DATASET.AUGMENTATIONS
    steps = [timed(tally, name, step) for name, step in zip(names, source.augmentations)]
    dataset = BottomUpDataset(source.records, images, steps, source.seed)
    return _run(dataset, loader.collate_fn, batches, tally)


def run_plain(loader: DataLoader, batches: Sequence[Keys]) -> dict[str, float]:
    """A block of the plain path."""
    plain: Any = loader.dataset
    tally: Tally = defaultdict(float)
    dataset = PlainDataset(plain.source, plain.rules)
    dataset.images = TimedImages(plain.images, tally)
    dataset.warp = timed(tally, "affine", plain.warp)
    dataset.draw = timed(tally, "draw heatmaps", plain.draw)
    return _run(dataset, loader.collate_fn, batches, tally)


def _run(
    dataset: Dataset, collate: Callable, batches: Sequence[Keys], tally: Tally
) -> dict[str, float]:
    collate, shipped = timed(tally, COLLATE, collate), 0
    begun = time.perf_counter()
    for keys in batches:
        shipped += bytes_of(collate([dataset[key] for key in keys]))
    passed = time.perf_counter() - begun
    count = sum(map(len, batches))
    tally[REST] = passed - sum(tally.values())
    return {
        "samples/s": count / passed,
        "sample, ms": 1000 * passed / count,
        "shipped, MB per sample": shipped / count / 1e6,
        **{f"- {name}, ms": 1000 * seconds / count for name, seconds in tally.items()},
    }


def bytes_of(batch: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in batch.values())
