"""How long a network takes at test, in one way after the other, and what it then says."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose.build import build_inference_model, load_model
from hrpose.config import load_config
from hrpose.models.counting import operations_in
from hrpose.programs.benchmarking.rates import matmul_rates, rate_note
from hrpose.programs.benchmarking.report import Report, markdown, number, said
from hrpose.programs.benchmarking.timing import Block, Spread, seconds_of, spread, take_turns
from hrpose.programs.benchmarking.ways import (
    PLAIN,
    Maps,
    Side,
    Warm,
    Way,
    network_side,
    random_network,
    shipped_side,
    warmed,
)
from hrpose.programs.exporting.graphs import example

MS = "forward, ms"
RATIO = "of the plain time"
SHARE = "% of the matmul rate"
FIRST = "first images, s"


class Task(NamedTuple):
    """A network, where it lies, and what it looks at."""

    cfg: str
    overrides: Sequence[str]
    device: torch.device
    sizes: Sequence[int]  # sides of square images
    batch: int

    def config(self, way: Way) -> CfgNode:
        return load_config(self.cfg, [*self.overrides, *way.overrides])


def benchmark_forward(
    task: Task, ways: Sequence[Way], shipped: Sequence[Path], blocks: int
) -> Report:
    """A table for every size, in which all ways take turns.

    ways: the plain one first   shipped: ONNX files of the same weights
    """
    config = task.config(ways[0])
    learnt = bool(config.TEST.MODEL_FILE)
    model = (load_model(config) if learnt else random_network(config)).to(task.device)
    rates = matmul_rates(task.device, [way.precision for way in ways])
    failed: dict[str, str] = {}
    sides = [*_sides(task, ways, model, failed), *map(shipped_side, shipped)]
    report = Report([], {"weights": config.TEST.MODEL_FILE or "random", "sizes": {}})
    for size in task.sizes:
        work = 2e9 * task.batch * operations_in(model, (size, size))
        images = example(task.batch, (size, size)).to(task.device)
        rows = _compare(list(_warmed(sides, images, failed)), blocks, work, rates)
        report.numbers["sizes"][size] = rows
        report.tables.append(_table(rows))
        report.notes.append(_said_of_size(task, size, work, rates))
    report.notes += [rate_note(task.device, precision, rate) for precision, rate in rates.items()]
    report.notes.append(_said_of_all(learnt, blocks))
    report.notes += [f"Not measured: {name}, since {why}" for name, why in failed.items()]
    return report


def _sides(
    task: Task, ways: Sequence[Way], model: nn.Module, failed: dict[str, str]
) -> Iterator[Side]:
    """Every way that can be gone here; one that cannot, for want of a compiler, costs no other."""
    for way in ways:
        try:
            network = build_inference_model(task.config(way), model)
        except ValueError as error:
            failed[way.name] = str(error)
            continue
        yield network_side(way, network, task.device)


def _warmed(sides: Sequence[Side], images: Tensor, failed: dict[str, str]) -> Iterator[Warm]:
    for side in sides:
        try:
            warm = warmed(side, images)
        except RuntimeError as error:
            if side.name == PLAIN:
                raise
            failed[side.name] = f"{error}".strip().split("\n")[0]
            continue
        tqdm.write(f"{side.name}: first images after {number(warm.first)} s", sys.stderr)
        yield warm


def _compare(
    sides: Sequence[Warm], blocks: int, work: float, rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What every side did, beside the first of them.

    work: floating-point operations of a look   rates: those in a second, by precision
    """
    looks = {warm.side.name: _block(warm) for warm in sides}
    times = {name: figures[MS] for name, figures in take_turns(looks, blocks).items()}
    plain, rows = sides[0], []
    for side, maps, first in ((warm.side, warm.maps, warm.first) for warm in sides):
        mine, rate = times[side.name], rates.get(side.precision)
        shares = [100 * work / (ms / 1000) / rate for ms in mine] if rate else []
        rows.append(
            {
                "": side.name,
                MS: spread(mine)._asdict(),
                RATIO: spread([a / b for a, b in zip(mine, times[plain.side.name])])._asdict(),
                SHARE: spread(shares)._asdict() if shares else None,
                "heatmaps off by": farthest("heatmaps", maps, plain.maps),
                "tags off by": farthest("tags", maps, plain.maps),
                FIRST: first,
            }
        )
    return rows


def _block(warm: Warm) -> Block:
    return lambda: {MS: 1000 * seconds_of(warm.look)}


def farthest(kind: str, maps: Maps, plain: Maps) -> float | None:
    """The largest difference of maps of a kind, of the range of the plain ones.

    None where they cannot be compared: a file may give other maps.
    """
    names = [name for name in plain if name.startswith(kind)]
    if any(name not in maps or maps[name].shape != plain[name].shape for name in names):
        return None
    away = [(maps[name] - plain[name]).abs().max() / _range(plain[name]) for name in names]
    return max(float(each) for each in away)


def _range(maps: Tensor) -> Tensor:
    return maps.max() - maps.min()


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return said(Spread(**value))
    if isinstance(value, float):
        return f"{value:.1e}" if value < 0.01 else number(value)
    return value or ""


def _said_of_size(task: Task, size: int, work: float, rates: Mapping[str, float]) -> str:
    """What a look takes at least, if convolutions multiply as fast as large matrices do."""
    least = ", ".join(f"{number(1000 * work / rates[name])} ms in {name}" for name in rates)
    return (
        f"{task.batch} x {size} x {size}: {number(work / 1e9)} GFLOP, at the matmul rate {least}."
    )


def _said_of_all(learnt: bool, blocks: int) -> str:
    weights = "" if learnt else "Random weights, in which rounding grows as in no trained network. "
    return (
        f"{weights}Noise is looked at, its normalisation included; medians (least to most) over "
        f"{blocks} rounds, ratios within each. off by: the largest difference to the plain way, of "
        "the range of what that says. Two floating-point operations per multiply-add, of "
        "convolutions alone."
    )
