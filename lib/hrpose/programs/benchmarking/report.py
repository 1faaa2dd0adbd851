"""What was measured, as a table for a reader and as numbers for a file."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hrpose.ops.files import write_json
from hrpose.programs.benchmarking.timing import Measured, Spread, spread
from hrpose.programs.environment import environment_info

RATIO = "times better"
"""Head of the last column: above 1, the first side is better, whichever way better lies."""


@dataclass
class Report:
    """Everything that a benchmark has to say."""

    tables: list[str]
    numbers: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n\n".join([*self.tables, *self.notes])


def paired_report(measured: Measured, phases: Sequence[str] = ()) -> Report:
    """A column for each side and, where there are two, how many times better the first is.

    phases: quantities that make up one whole, of which each has a share
    """
    ratios = _ratios(measured)
    shares = {name: _shares(figures, phases) for name, figures in measured.items()}
    head = ["", *measured, *([RATIO] if ratios else [])]
    rows = []
    for quantity in _quantities(measured):
        cells = [
            _cell(measured[name].get(quantity), shares[name].get(quantity)) for name in measured
        ]
        ratio = [said(ratios[quantity]) if quantity in ratios else ""] if ratios else []
        rows.append([quantity, *cells, *ratio])
    sides = {
        name: {quantity: spread(values)._asdict() for quantity, values in figures.items()}
        for name, figures in measured.items()
    }
    numbers = {
        "sides": sides,
        "shares": shares,
        "ratios": {quantity: ratio._asdict() for quantity, ratio in ratios.items()},
    }
    return Report([markdown(head, rows)], numbers)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def said(values: Spread) -> str:
    """The median, with the least and the most where they differ."""
    median, least, most = (number(value) for value in values)
    return median if least == most else f"{median} ({least} to {most})"


def number(value: float) -> str:
    """Three digits or more, never an exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def _quantities(measured: Measured) -> list[str]:
    """Those of all sides, in the order of the first that knows them."""
    return list(dict.fromkeys(quantity for figures in measured.values() for quantity in figures))


def _ratios(measured: Measured) -> dict[str, Spread]:
    """How many times better the first side is, pair of blocks by pair of blocks."""
    if len(measured) != 2:
        return {}
    first, second = measured.values()
    return {
        quantity: spread(
            [_better(quantity, a, b) for a, b in zip(first[quantity], second[quantity])]
        )
        for quantity in first
        if quantity in second and min(*first[quantity], *second[quantity]) > 0
    }


def _better(quantity: str, one: float, other: float) -> float:
    """Of rates (images/s) more is better, of everything else less."""
    return one / other if "/s" in quantity or "share" in quantity else other / one


def _shares(figures: Mapping[str, Sequence[float]], phases: Sequence[str]) -> dict[str, float]:
    medians = {phase: spread(figures[phase]).median for phase in phases if phase in figures}
    whole = sum(medians.values())
    return {phase: value / whole for phase, value in medians.items()}


def _cell(values: Sequence[float] | None, share: float | None) -> str:
    if values is None:
        return ""
    return said(spread(values)) + (f", {share:.0%}" if share is not None else "")


# Circumstances --------------------------------------------------------------------------------


def surroundings(devices: Sequence[torch.device]) -> dict[str, Any]:
    """On what it was measured, and how busy that was with other things."""
    return {
        **environment_info(list(devices)),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def surroundings_line(facts: Mapping[str, Any]) -> str:
    """The circumstances in one line."""
    return (
        f"Device {', '.join(facts['device'])}; {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['threads']} threads, load {facts['load'][0]} at the start; "
        f"torch {facts['torch']}; commit {facts['git'] or 'unknown'}; {facts['started']}."
    )


def publish(report: Report, facts: Mapping[str, Any], path: Path | None) -> None:
    """Print everything; write the same numbers where a file is named."""
    print(report.text())
    print(f"\n{surroundings_line(facts)}")
    if path:
        write_json(path, {**report.numbers, "notes": report.notes, "circumstances": facts}, 1)
        print(f"written to {path}")
