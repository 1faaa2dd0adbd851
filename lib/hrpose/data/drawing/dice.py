"""Draws by lot that come out the same on every machine: uniform numbers and sums of them only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, all alike."""
    return options[int(rng.integers(len(options)))]


def pick_by_odds(options: Sequence[T], odds: Sequence[int], rng: np.random.Generator) -> T:
    """One of `options`, in proportion to `odds`."""
    ticket = rng.integers(sum(odds))
    return options[int(np.searchsorted(np.cumsum(odds), ticket, side="right"))]


def bell(rng: np.random.Generator) -> float:
    """A bell-shaped number in -1..1."""
    return float(rng.random(3).sum() / 1.5 - 1)
