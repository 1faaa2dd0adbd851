"""Times, and what many of them say on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import cv2
import torch

Block = Callable[[], Mapping[str, float]]
"""Measures for a while: quantity -> value."""
Measured = dict[str, dict[str, list[float]]]
"""side -> quantity -> its value in every block"""


class Spread(NamedTuple):
    """What several measurements of one thing say."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


class Stopwatch:
    """Laps under names; each ends when `wait` returns, so that a GPU has done what was asked."""

    def __init__(self, wait: Callable[[], object]):
        self.wait = wait
        self.laps: dict[str, list[float]] = defaultdict(list)
        self.last = 0.0

    def start(self) -> None:
        self.wait()
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What was done since the last lap is called so."""
        self.wait()
        now = time.perf_counter()
        self.laps[name].append(now - self.last)
        self.last = now


def waiter(device: torch.device) -> Callable[[], object]:
    """A function that returns when the device has nothing left to do."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return lambda: None


def take_turns(sides: Mapping[str, Block], blocks: int) -> Measured:
    """A B A B: what slows the machine for a while slows both."""
    measured: Measured = {name: defaultdict(list) for name in sides}
    for _ in range(blocks):
        for name, block in sides.items():
            for quantity, value in block().items():
                measured[name][quantity].append(value)
    return measured


def seconds_of(call: Callable[[], object], at_least: float = 0.2) -> float:
    """Mean seconds of a call, repeated for `at_least` seconds."""
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < at_least or not count:
        call()
        count += 1
    return passed / count


@contextmanager
def one_thread() -> Iterator[None]:
    """What a worker of the loader has."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
