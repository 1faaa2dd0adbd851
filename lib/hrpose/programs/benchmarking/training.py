"""How fast a config trains, and where the time goes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from hrpose.builders.training import build_training_loader
from hrpose.programs.benchmarking.loading import samples_per_second
from hrpose.programs.benchmarking.plain_data import plain_loader
from hrpose.programs.benchmarking.rates import matmul_rates, operations_of_an_image, rate_note
from hrpose.programs.benchmarking.report import Report, number, paired_report
from hrpose.programs.benchmarking.sides import (
    PHASES,
    Side,
    configured_side,
    fetched,
    measure,
    peak_memory,
    plain_side,
    release,
)
from hrpose.programs.benchmarking.timing import Measured, take_turns

CONFIGURED, PLAIN = "as configured", "plain"
BUILDERS = {CONFIGURED: configured_side, PLAIN: plain_side}
PEAK = "peak memory, GiB"


def benchmark_training(
    config: CfgNode, device: torch.device, against: str | None, steps: int, blocks: int
) -> Report:
    """images/s, phases, memory, share of what the device could do; beside the plain way's."""
    loaders: dict[str, DataLoader] = {CONFIGURED: build_training_loader(config)}
    if against:
        loaders[PLAIN] = plain_loader(config, loaders[CONFIGURED])
    builders = {name: partial(_build, name, config, device, loaders[name]) for name in loaders}
    peaks = {name: peak_memory(build) for name, build in builders.items()}
    precisions = {name: precision_of(name, config) for name in loaders}
    before = matmul_rates(device, precisions.values())
    measured = _measure_all(builders, steps, blocks)
    after = matmul_rates(device, precisions.values())
    rates = {precision: max(before[precision], after[precision]) for precision in before}
    work = operations_of_an_image(config)
    for name, figures in measured.items():
        figures["TFLOP/s"] = [work * pace / 1e12 for pace in figures["images/s"]]
        share = f"share of the {precisions[name]} matmul rate, %"  # of another, another quantity
        figures[share] = [1e14 * rate / rates[precisions[name]] for rate in figures["TFLOP/s"]]
        figures[PEAK] = [peaks[name] / 2**30]
    report = paired_report(measured, PHASES)
    report.notes += [_how(config, device, measured, steps)]
    report.notes += [rate_note(device, precision, rate) for precision, rate in rates.items()]
    _add_feed(report, config, loaders[CONFIGURED])
    return report


def _build(name: str, config: CfgNode, device: torch.device, loader: DataLoader) -> Side:
    return BUILDERS[name](config, device, fetched(loader))


def _measure_all(builders: Mapping[str, Callable[[], Side]], steps: int, blocks: int) -> Measured:
    """All sides stand side by side and take turns; they are gone when this returns."""
    release()
    sides = {name: build() for name, build in builders.items()}
    return take_turns({name: partial(measure, side, steps) for name, side in sides.items()}, blocks)


def precision_of(name: str, config: CfgNode) -> str:
    return "fp32" if name == PLAIN else config.TRAIN.PRECISION


def _how(config: CfgNode, device: torch.device, measured: Measured, steps: int) -> str:
    figures = measured[CONFIGURED]
    batch = round(figures["images/s"][0] * figures["step, ms"][0] / 1000)
    return (
        f"Batch {batch} of {config.DATASET.INPUT_SIZE} px, {config.WORKERS} workers, one device; "
        f"medians (least to most) over {len(figures['images/s'])} blocks of {steps} steps. "
        "images/s and step: steps in one go; the phases and their shares: step by step, the device "
        "waited for in between; of waiting for data the mean. Clearing gradients counts as host to "
        "device, looking at them as backward. Two floating-point operations per multiply-add, "
        "backward twice forward."
        + (" Peak memory is that of the whole process." if device.type == "cpu" else "")
    )


def _add_feed(report: Report, config: CfgNode, loader: DataLoader) -> None:
    """Whether the data path can feed the step."""
    pace = report.numbers["sides"][CONFIGURED]["images/s"]["median"]
    one = samples_per_second(config, loader)
    needed, cores = math.ceil(pace / one), os.cpu_count() or 1
    report.numbers["feed"] = {"samples/s of a worker": one, "workers needed": needed}
    report.notes.append(
        f"One worker makes {number(one)} samples/s, so {number(pace)} images/s need {needed} "
        f"of them; WORKERS is {config.WORKERS}, and here are {cores} cores."
    )
