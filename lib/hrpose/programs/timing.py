"""Interleaved timings on a machine that others use too; phases, memory, and tables of them."""

from __future__ import annotations

import gc
import importlib
import math
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from hrpose.builders.devices import PRECISIONS
from hrpose.engine.logger import memory_in_use
from hrpose.ops.atomic_io import write_json
from hrpose.programs.environment import environment_info

CONFIGURED, REFERENCE = "as configured", "reference"
Call = Callable[[], object]
Row = dict[str, Any]
"""A row of a table: head of the column -> text, number, Spread or None"""

MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the square matrices of `matmul_rate`, by kind of device."""


class Spread(NamedTuple):
    """Several measurements of one quantity."""

    median: float
    min: float
    max: float


def spread(values: Iterable[float]) -> Spread:
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def load_reference(module: str) -> Any:
    """A module of tests/reference, the slow implementation that only a checkout has."""
    tests = Path(__file__).parents[3] / "tests"
    if not (tests / "reference" / "__init__.py").is_file():
        raise FileNotFoundError(
            f"the reference implementation is tests/reference of a checkout, and there is no "
            f"{tests / 'reference'}; run tools/benchmark.py of a clone of the repository"
        )
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    return importlib.import_module(f"reference.{module}")


# Time -------------------------------------------------------------------------------------------


def seconds_of(call: Call) -> float:
    """Median seconds of a call after a first that does not count; the device is waited for."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange().median


def compare_calls(
    sides: Mapping[str, Any],
    repeats: int,
    count: int = 1,
    images: Mapping[str, int] | None = None,
    baseline: str = "",
    prepare: Callable[[Any], Call] = lambda call: call,
) -> list[Row]:
    """Time all sides in turns (A B A B), so that a slow spell slows all of them alike.

    A row for each: milliseconds, images/s and, beside others, how many times as fast as `baseline`,
    by default the last.

    sides: calls of `count` steps each, or what `prepare` makes one of, gone again after its turn
    images: of a step; by default 1
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            of_call = count * (images[name] if images else 1)
            rates[name].append(of_call / seconds_of(prepare(side)))
    base = rates[baseline or list(sides)[-1]]
    rows = []
    for name, own in rates.items():
        size = images[name] if images else 1
        row: Row = {"": name, "ms": spread(1000 * size / rate for rate in own)}
        row["images/s"] = spread(own)
        if len(sides) > 1:
            row["speed-up"] = spread(a / b for a, b in zip(own, base))
        rows.append(row)
    return rows


def phases(
    calls: Mapping[str, Call], labels: Sequence[str], device: torch.device, count: int = 1
) -> list[Row]:
    """A row for each `record_function` label and the `rest`: milliseconds of a step, and share.

    calls: of `count` steps each, called once before
    A label inside another does not count for the outer one. On a GPU, which is waited for wherever
    a label begins or ends, all of them are longer than they are without.
    """
    rows: list[Row] = [{"": name} for name in (*labels, "rest")]
    for side, call in calls.items():
        call()
        profiler = profile(activities=[ProfilerActivity.CPU])
        with _waiting_for(device), profiler, record_function("rest"):
            call()
        spent = _spent(profiler.events() or [], [row[""] for row in rows])
        for row in rows:
            row[f"{side}, ms"] = spent[row[""]] / 1000 / count
            row[f"{side}, %"] = 100 * spent[row[""]] / sum(spent.values())
    return rows


def _spent(events: Iterable[Any], labels: Sequence[str]) -> dict[str, float]:
    """Microseconds under each label, less those under labels inside it."""
    spent = dict.fromkeys(labels, 0.0)
    for event in events:
        if event.name in spent:
            spent[event.name] += event.time_range.elapsed_us()
            outer = event.cpu_parent
            while outer is not None and outer.name not in spent:
                outer = outer.cpu_parent
            if outer is not None:
                spent[outer.name] -= event.time_range.elapsed_us()
    return spent


def label(name: str, call: Callable) -> Callable:
    """The same function under a `record_function` label."""

    @wraps(call)
    def run(*given: Any, **named: Any) -> Any:
        with record_function(name):
            return call(*given, **named)

    return run


@contextmanager
def replaced(places: Iterable[tuple[Any, str, Callable[[Callable], Callable]]]) -> Iterator[None]:
    """Functions in other modules, classes or objects: (owner, name, old function -> new one)."""
    with ExitStack() as stack:
        for owner, name, change in places:
            before = getattr(owner, name)
            setattr(owner, name, change(before))
            stack.callback(setattr, owner, name, before)
        yield


def _waiting_for(device: torch.device) -> AbstractContextManager:
    """Labels begin and end when a GPU has done what was asked of it before."""

    def synchronized(method: Callable) -> Callable:
        def run(*given: Any) -> Any:
            torch.cuda.synchronize(device)
            return method(*given)

        return run

    names = ("__enter__", "__exit__") if device.type == "cuda" else ()
    return replaced((record_function, name, synchronized) for name in names)


@contextmanager
def one_thread() -> Iterator[None]:
    """As a worker of the loader has."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


# Memory and arithmetic --------------------------------------------------------------------------


def peak_memory(call: Call, device: torch.device) -> float:
    """GiB that a call takes at most: of the GPU or, on a CPU, of this whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the process
    call()
    return memory_in_use(device) / 2**30


def release_memory() -> None:
    """Free what is not referenced any more, compiled programs included."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def matmul_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations/s of large matrix products: the best, since others compute too."""
    side = MATMUL_SIZE[device.type]
    one, other = torch.randn(2, side, side, device=device).to(PRECISIONS[precision])
    call = {"call": lambda: torch.matmul(one, other)}
    timer = Timer("call()", globals=call, num_threads=torch.get_num_threads())
    return 2 * side**3 / min(timer.blocked_autorange(min_run_time=0.5).times)


# Reports ----------------------------------------------------------------------------------------


@dataclass
class Report:
    """Tables, each under its title, and what has to be known to read them."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def publish(report: Report, environment: Mapping[str, Any], path: Path | None) -> None:
    """Print the report; write the same numbers to a JSON file if one is named."""
    for title, rows in report.tables.items():
        print(f"{title}\n\n{markdown(rows)}\n")
    print("\n\n".join(report.notes))
    facts = {key: environment[key] for key in environment if key not in ("command", "options")}
    print("\n" + "; ".join(f"{name} {value}" for name, value in facts.items()))
    if path:
        tables = {title: [_plain(row) for row in rows] for title, rows in report.tables.items()}
        write_json(path, {"tables": tables, "notes": report.notes, "environment": environment}, 1)
        print(f"written to {path}")


def _plain(row: Row) -> Row:
    return {k: v._asdict() if isinstance(v, Spread) else v for k, v in row.items()}


def markdown(rows: Sequence[Row]) -> str:
    head = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[cell(row.get(column)) for column in head] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Text of a table's cell; of a Spread the median, and the extremes where they differ."""
    if isinstance(value, Spread):
        median, least, most = map(number, value)
        return median if least == most else f"{median} ({least} to {most})"
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value)


def number(value: float) -> str:
    """Three digits or more."""
    if 0 < value < 1e-3:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def environment_of(device: torch.device, options: Mapping[str, Any]) -> dict[str, Any]:
    """On what is measured and with which options; taken before, so that the load is of others."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        **environment_info([device]),
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
        "options": {name: str(value) for name, value in options.items() if value is not None},
    }
