"""Interleaved timings, phases from the profiler, memory, and tables of them."""

from __future__ import annotations

import importlib
import itertools
import math
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

from hrpose.builders.devices import PRECISIONS
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


def measure(call: Call, min_run_time: float = 0.2) -> Measurement:
    """Time a call after one untimed call; the device is synchronized."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=min_run_time)


def compare_calls(
    sides: Mapping[str, Any],
    repeats: int,
    steps: int = 1,
    images: Mapping[str, int] | None = None,
    baseline: str = "",
    prepare: Callable[[Any], Call] = lambda call: call,
) -> list[Row]:
    """Time all sides alternately (A B A B), so that load from others slows all of them alike.

    Returns a row for each side: ms per step, images/s and, if there are several, the speed-up over
    `baseline`, by default the last.

    sides: calls of `steps` steps each, or objects that `prepare` turns into one before each turn
    images: per step; default: 1
    """
    batch = images or dict.fromkeys(sides, 1)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _, (name, side) in itertools.product(range(repeats), sides.items()):
        rates[name].append(steps * batch[name] / measure(prepare(side)).median)
    base = rates[baseline or list(sides)[-1]]
    rows = []
    for name, own in rates.items():
        row: Row = {"": name, "ms": spread(1000 * batch[name] / rate for rate in own)}
        row["images/s"] = spread(own)
        if len(sides) > 1:
            row["speed-up"] = spread(a / b for a, b in zip(own, base))
        rows.append(row)
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

    def synchronized(method: Callable) -> Callable:
        def run(*given: Any) -> Any:
            torch.cuda.synchronize(device)
            return method(*given)

        return run

    rows: list[Row] = [{"": name} for name in (*labels, "rest")]
    ends = ("__enter__", "__exit__") if device.type == "cuda" else ()
    for side, call in calls.items():
        call()
        profiler = profile(activities=[ProfilerActivity.CPU])
        with ExitStack() as stack:
            for end in ends:
                method = synchronized(getattr(record_function, end))
                stack.enter_context(patch.object(record_function, end, method))
            stack.enter_context(profiler)
            stack.enter_context(record_function("rest"))
            call()
        spent = _self_times(profiler.events() or [], [row[""] for row in rows])
        for row in rows:
            row[f"{side}, ms"] = spent[row[""]] / 1000 / steps
            row[f"{side}, %"] = 100 * spent[row[""]] / sum(spent.values())
    return rows


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


# Memory and arithmetic --------------------------------------------------------------------------


def peak_memory(call: Call, device: torch.device) -> float:
    """Peak GiB during a call: of the GPU or, on a CPU, of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the process
    call()
    return memory_in_use(device) / 2**30


def matmul_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations/s of large matrix products: the best, as others may use the CPU."""
    side = 8192 if device.type == "cuda" else 1024
    one, other = torch.randn(2, side, side, device=device).to(PRECISIONS[precision])
    return 2 * side**3 / min(measure(lambda: torch.matmul(one, other), 0.5).times)


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
    print("\n\n".join(report.notes))
    facts = {key: environment[key] for key in environment if key not in ("command", "options")}
    print("\n" + "; ".join(f"{name} {value}" for name, value in facts.items()))
    if path:
        write_json(path, {**vars(report), "environment": environment}, 1)
        print(f"written to {path}")


def _cell(value: Any) -> str:
    """Three digits or more; the range of a spread only where its ends differ."""
    if isinstance(value, dict):
        median, least, most = map(_cell, value.values())
        return median if least == most else f"{median} ({least} to {most})"
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if 0 < value < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0}f}"


def environment_of(device: torch.device, options: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware, software, options, and the load, which is that of others before measuring."""
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
