"""Interleaved timings, phases from the profiler, memory, and tables of them."""

from __future__ import annotations

import importlib
import itertools
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Measurement, Timer

from hrpose.engine.logger import memory_in_use
from hrpose.ops.atomic_io import write_json
from hrpose.programs.environment import environment_info

CONFIGURED, REFERENCE = "as configured", "reference"
Call = Callable[[], object]
Row = dict[str, Any]
"""A row of a table: column -> text, number, `spread` or None"""


def load_reference(module: str) -> Any:
    """Import a module of tests/reference, the slow implementation, which only a checkout has."""
    tests = Path(__file__).parents[3] / "tests"
    if not (tests / "reference" / "__init__.py").is_file():
        raise FileNotFoundError(
            f"the reference implementation is tests/reference of a checkout, and there is no "
            f"{tests / 'reference'}; run tools/benchmark.py of a clone of the repository"
        )
    if str(tests) not in sys.path:
        sys.path.append(str(tests))
    return importlib.import_module(f"reference.{module}")


def speed_options(name: str, section: str) -> list[str]:
    """Overrides of TRAIN or TEST for e.g. "bf16, compiled"."""
    precision, *compiled = name.split(", ")
    return [f"{section}.PRECISION", precision, f"{section}.COMPILE", str(bool(compiled))]


# Time -------------------------------------------------------------------------------------------


def measure(call: Call) -> Measurement:
    """Time a call after one untimed call; the device is synchronized."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.2)


def compare_calls(
    sides: Mapping[str, Any],
    repeats: int,
    images: Mapping[str, int],
    steps: int = 1,
    prepare: Callable[[Any], Call] = lambda call: call,
) -> list[Row]:
    """Time all sides alternately (A B A B), so that load from others slows all of them alike.

    Returns a row for each side: ms per step, images/s and, if there are several, the speed-up over
    the first.

    sides: calls of `steps` steps each, or objects that `prepare` turns into one before each turn
    images: of each side, per step
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _, (name, side) in itertools.product(range(repeats), sides.items()):
        rates[name].append(steps * images[name] / measure(prepare(side)).median)
    base = next(iter(rates.values()))
    rows: list[Row] = []
    for name, own in rates.items():
        row = {"": name, "ms": spread(1000 * images[name] / rate for rate in own)}
        speed_up = {"speed-up": spread(a / b for a, b in zip(own, base))} if len(sides) > 1 else {}
        rows.append({**row, "images/s": spread(own), **speed_up})
    return rows


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def phases(
    calls: Mapping[str, Call], labels: Iterable[str], device: torch.device, steps: int = 1
) -> list[Row]:
    """A row for each `record_function` label and the `rest`: milliseconds per step, and share.

    The time of a label excludes labels nested in it. A GPU is synchronized wherever a label begins
    or ends, which makes every phase longer than it is in an unprofiled run.

    calls: of `steps` steps each; profiled after one warm-up call
    """

    rows: list[Row] = [{"": name} for name in (*labels, "rest")]
    for side, call in calls.items():
        call()
        with ExitStack() as stack:
            for end in ("__enter__", "__exit__") if device.type == "cuda" else ():
                method = _synchronized(getattr(record_function, end), device)
                stack.enter_context(patch.object(record_function, end, method))
            profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
            stack.enter_context(record_function("rest"))
            call()
        spent = _self_times(profiler.events() or [], [row[""] for row in rows])
        for row in rows:
            row[f"{side}, ms"] = spent[row[""]] / 1000 / steps
            row[f"{side}, %"] = 100 * spent[row[""]] / sum(spent.values())
    return rows


def _synchronized(method: Callable, device: torch.device) -> Callable:
    def run(*given: Any) -> Any:
        torch.cuda.synchronize(device)
        return method(*given)

    return run


def _self_times(events: Iterable[Any], labels: Sequence[str]) -> dict[str, float]:
    """Microseconds under each label, less those under labels nested in it."""
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


@contextmanager
def labelled(places: Iterable[tuple[Any, str, str]]) -> Iterator[None]:
    """Run functions of modules or objects under a label: (owner, name of the function, label)."""
    with ExitStack() as stack:
        for owner, name, label in places:
            function = record_function(label)(getattr(owner, name))
            stack.enter_context(patch.object(owner, name, function))
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch and OpenCV to one thread, as in a worker of the loader."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


# Memory -----------------------------------------------------------------------------------------


def peak_memory(call: Call, device: torch.device) -> float:
    """Peak GiB during a call: of the GPU or, on a CPU, of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the process
    call()
    return memory_in_use(device) / 2**30


# Reports ----------------------------------------------------------------------------------------


@dataclass
class Report:
    """Tables by title, and notes on how to read them."""

    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def publish(report: Report, environment: Mapping[str, Any], path: Path | None) -> None:
    """Print the report as Markdown; write the same numbers to a JSON file if one is named."""
    for title, rows in report.tables.items():
        head = list(dict.fromkeys(column for row in rows for column in row))
        cells = [[_cell(row.get(column)) for column in head] for row in rows]
        lines = [head, ["---"] + ["---:"] * (len(head) - 1), *cells]
        print(f"{title}\n", *(f"| {' | '.join(line)} |" for line in lines), sep="\n", end="\n\n")
    facts = "; ".join(f"{name} {value}" for name, value in environment.items() if name != "options")
    print("\n\n".join([*report.notes, facts]))
    if path:
        write_json(path, {**vars(report), "environment": environment}, 1)
        print(f"written to {path}")


def _cell(value: Any) -> str:
    """Three significant digits; the range of a spread only where its ends differ."""
    if isinstance(value, dict):
        median, least, most = map(_cell, value.values())
        return median if least == most else f"{median} ({least} to {most})"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def environment_of(device: torch.device, options: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware, software, options, and the load, which is that of others before measuring."""
    cpus = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpus.read_text()) if cpus.is_file() else None
    return {
        **environment_info([device]),
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "options": {name: str(value) for name, value in options.items() if value is not None},
    }
