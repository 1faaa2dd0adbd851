"""Checks of option values, each with a description for error messages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], str | None]
"""value -> what it must be, or None if it is valid"""


def rule(holds: Callable[[Any], bool], wanted: str) -> Check:
    return lambda value: None if holds(value) else wanted


def one_of(*choices: str) -> Check:
    return rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def each(check: Check) -> Check:
    """A list of which every entry passes."""
    return lambda values: next((f"a list; each {w}" for w in map(check, values) if w), None)


def some_of(check: Check) -> Check:
    """A list of at least one, of which every entry passes."""
    return lambda values: each(check)(values) if values else "a list of at least one"


def _is_template(text: str) -> bool:
    try:
        text.format(split="")
    except (KeyError, IndexError, ValueError):
        return False
    return True


def _is_device(name: str) -> bool:
    return name in ("auto", "cpu", "cuda") or bool(re.fullmatch(r"cuda:\d+", name))


def _sides(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else (size, size)


anything = rule(lambda value: True, "")
above_0 = rule(lambda value: 0 < value < math.inf, "above 0 and finite")
above_0_or_inf = rule(lambda value: value > 0, "above 0, or .inf")
at_least_1 = rule(lambda value: 1 <= value < math.inf, "1 or more and finite")
not_negative = rule(lambda value: 0 <= value < math.inf, "0 or more and finite")
not_negative_or_inf = rule(lambda value: value >= 0, "0 or more, or .inf")
fraction = rule(lambda value: 0 <= value <= 1, "between 0 and 1")
sizes_by_32 = rule(
    lambda value: all(side > 0 and side % 32 == 0 for side in _sides(value)),
    "a multiple of 32 (HRNet halves five times), or [width, height] of such",
)
by_32_or_0 = rule(lambda value: value >= 0 and value % 32 == 0, "a multiple of 32, or 0")
a_device = rule(_is_device, "auto, cpu, cuda or cuda:N")
template = rule(_is_template, "a path in which braces stand around nothing but {split}")
scales = rule(
    lambda values: values and min(values) > 0 and (len(values) == 1 or 1 in values),
    "scales above 0, 1 among them if there are several",
)
rotations = rule(
    lambda values: (
        values and all(abs(v) <= 180 for v in values) and (len(values) == 1 or 0 in values)
    ),
    "degrees from -180 to 180, 0 among them if there are several",
)
named = rule(lambda value: bool(value), "not empty")
some = rule(lambda value: len(value) > 0, "a list of at least one")
