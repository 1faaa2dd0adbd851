"""What each means of computing faster brings, one after the other, at the batch that it allows."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose.builders.training import build_training_loader
from hrpose.config import load_config
from hrpose.engine.trainer import Batch
from hrpose.programs.benchmarking.plain_data import plain_loader
from hrpose.programs.benchmarking.rates import matmul_rates, operations_of_an_image, rate_note
from hrpose.programs.benchmarking.report import Report, markdown, number, said
from hrpose.programs.benchmarking.sides import (
    Batches,
    Side,
    configured_side,
    measure,
    peak_memory,
    plain_side,
    release,
)
from hrpose.programs.benchmarking.timing import spread

PLAIN = "plain"
FEW, LARGEST = 8, 1024


class Rung(NamedTuple):
    name: str
    overrides: tuple[str, ...]


def _rung(name: str, precision: str, channels_last: bool, compiled: bool = False) -> Rung:
    return Rung(
        name,
        (
            *("TRAIN.PRECISION", precision, "TRAIN.CHANNELS_LAST", str(channels_last).lower()),
            *("TRAIN.COMPILE", str(compiled).lower()),
        ),
    )


RUNGS = (
    Rung(PLAIN, ()),
    _rung("fp32", "fp32", False),
    _rung("fp32, channels last", "fp32", True),
    _rung("bf16", "bf16", False),
    _rung("bf16, channels last", "bf16", True),
    _rung("bf16, channels last, compiled", "bf16", True, compiled=True),
)


class Trial(NamedTuple):
    """A rung with the batch that it takes."""

    rung: Rung
    config: CfgNode
    batch: int
    peak: float  # bytes


class Ladder:
    """The rungs of a config on a device."""

    def __init__(self, cfg: str, overrides: Sequence[str], device: torch.device):
        self.cfg = cfg
        self.overrides = list(overrides)
        self.device = device
        self.failed: dict[str, str] = {}  # rung -> why it cannot be climbed here

    def config(self, rung: Rung) -> CfgNode:
        return load_config(self.cfg, [*self.overrides, *rung.overrides])

    @cached_property
    def few(self) -> dict[bool, Batch]:
        """A small batch of real images, for the plain way (True) and for the others."""
        config = load_config(self.cfg, [*self.overrides, "WORKERS", "0", "TRAIN.BATCH", str(FEW)])
        loader = build_training_loader(config)
        return {False: next(iter(loader)), True: next(iter(plain_loader(config, loader)))}

    def side(self, rung: Rung, config: CfgNode, batch: int) -> Side:
        """A training on one and the same batch, again and again."""
        is_plain = rung.name == PLAIN
        build = plain_side if is_plain else configured_side
        return build(config, self.device, repeated(self.few[is_plain], batch))

    def peak(self, rung: Rung, config: CfgNode, batch: int) -> float | None:
        """Bytes that a step takes; None if there are not so many."""
        try:
            return peak_memory(partial(self.side, rung, config, batch))
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
        release()  # not above, where the error still holds what did not fit
        return None

    def largest(self, rung: Rung, start: int) -> Trial:
        """The largest batch that fits, of `start` times a power of two."""
        config, fits = self.config(rung), {}
        batch = start
        while batch not in fits:
            peak = self.peak(rung, config, batch) if batch <= LARGEST else None
            fits[batch] = peak
            if peak is None and batch == 1:
                raise ValueError(f"not even one image of this config fits as {rung.name}")
            batch = batch * 2 if peak is not None else batch // 2
        best = max(size for size, peak in fits.items() if peak is not None)
        return Trial(rung, config, best, fits[best] or 0.0)

    def given(self, rung: Rung, batch: int) -> Trial:
        config = self.config(rung)
        peak = self.peak(rung, config, batch)
        if peak is None:
            raise ValueError(f"a batch of {batch} does not fit as {rung.name}; give a smaller one")
        return Trial(rung, config, batch, peak)

    def trials(self, batch: int | None) -> Iterator[Trial]:
        """Every rung; one that fails, for want of a compiler perhaps, costs no other."""
        start = 1
        for rung in RUNGS:
            try:
                trial = self.given(rung, batch) if batch else self.largest(rung, start)
            except RuntimeError as error:
                self.failed[rung.name] = f"{error}".strip().split("\n")[0]
                continue
            start = trial.batch
            yield trial


def repeated(few: Batch, batch: int) -> Batches:
    """Few images as often as it takes to make a batch of them, and that for ever."""
    times = -(-batch // len(few["image"]))
    whole = {name: torch.cat([value] * times)[:batch] for name, value in few.items()}
    pinned = {name: _pinned(value) for name, value in whole.items()}
    return Batches(itertools.repeat(pinned), batch)


def _pinned(value: Tensor) -> Tensor:
    return value.pin_memory() if torch.cuda.is_available() else value


def benchmark_ladder(ladder: Ladder, batch: int | None, steps: int, blocks: int) -> Report:
    """images/s of every rung, all of them once in every round."""
    if not batch and ladder.device.type == "cpu":
        raise ValueError("say with --batch N how many images; a CPU does not tell what fits")
    trials = list(ladder.trials(batch))
    if not trials:
        raise ValueError(f"not one rung can be climbed here: {ladder.failed}")
    paces: dict[str, list[float]] = defaultdict(list)
    for _ in range(blocks):
        for trial in trials:
            release()
            side = ladder.side(trial.rung, trial.config, trial.batch)
            pace = measure(side, steps)["images/s"]
            paces[trial.rung.name].append(pace)
            tqdm.write(f"{trial.rung.name}, batch {trial.batch}: {pace:.3g} images/s", sys.stderr)
            del side
    return _report(ladder, trials, paces, steps)


def _report(
    ladder: Ladder, trials: Sequence[Trial], paces: dict[str, list[float]], steps: int
) -> Report:
    precisions = {t.rung.name: _precision(t) for t in trials}
    rates = matmul_rates(ladder.device, precisions.values())
    work = operations_of_an_image(trials[0].config)
    first = paces[trials[0].rung.name]
    rows, numbers = [], []
    for trial in trials:
        mine, rate = paces[trial.rung.name], rates[precisions[trial.rung.name]]
        figures: dict[str, Any] = {
            "images/s": spread(mine),
            "ratio to the first": spread([a / b for a, b in zip(mine, first)]),
            "share of matmul rate, %": spread([100 * work * pace / rate for pace in mine]),
        }
        plain = {"rung": trial.rung.name, "batch": trial.batch, "peak memory, bytes": trial.peak}
        numbers.append({**plain, **{name: value._asdict() for name, value in figures.items()}})
        cells = [said(value) for value in figures.values()]
        rows.append([trial.rung.name, str(trial.batch), number(trial.peak / 2**30), *cells])
    head = ["", "batch", "peak memory, GiB", *figures]
    return Report(
        [markdown(head, rows)], {"rungs": numbers}, _notes(ladder, rates, steps, len(first))
    )


def _notes(ladder: Ladder, rates: dict[str, float], steps: int, rounds: int) -> list[str]:
    return [
        "One batch of real images again and again, copied to the device in every step: what the "
        "loader takes does not count. plain: loops over tags, heatmaps and images as the plain "
        f"data path ships them, an optimiser that is not fused. {rounds} rounds of {steps} steps.",
        *(f"Not measured: {name}, since {why}" for name, why in ladder.failed.items()),
        *(rate_note(ladder.device, precision, rate) for precision, rate in rates.items()),
    ]


def _precision(trial: Trial) -> str:
    return "fp32" if trial.rung.name == PLAIN else trial.config.TRAIN.PRECISION
