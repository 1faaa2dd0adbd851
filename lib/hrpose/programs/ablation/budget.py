"""How much a row may cost: the experiment as it is, or so small that two CPU cores do it."""

from __future__ import annotations

import math
from collections.abc import Callable

from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.config.loading import read_entries
from hrpose.programs.ablation import REPOSITORY
from hrpose.programs.ablation.rows import setting, written

BENCH = REPOSITORY / "configs" / "bench.yaml"

_WHOLE = (
    # One data set in the place of another: none of the other's options may stay.
    "DATASET.ROOT",
    "DATASET.FORMAT",
    "DATASET.TRAIN",
    "DATASET.VAL",
    "DATASET.ANNOTATIONS",
    "DATASET.IMAGES",
    "DATASET.CATEGORY",
    "DATASET.IMAGE_IDS",
    "DATASET.SKELETON",
    "DATASET.SIGMAS",
    "DATASET.GROUPING_ORDER",
    "DATASET.IGNORE",
    # ImageNet weights do not fit a network of half the width.
    "MODEL.PRETRAINED",
    "MODEL.MAY_MISS",
)
"""Options that are bench.yaml's even where it is silent and means their defaults."""

SIZE, WIDTH = 1 / 4, 1 / 2
"""What bench leaves of an image's side and of a network's width: 512 -> 128, 32 -> 16."""


def as_it_is(config: CfgNode) -> list[str]:
    """No overrides: the experiment of the paper."""
    return []


def bench(config: CfgNode) -> list[str]:
    """Overrides KEY VALUE that make a row small: all that bench.yaml says, and what it halves.

    Sizes and widths are axes of the published tables. They shrink, lest their rows become one.
    """
    budget = load_config(BENCH)
    keys = dict.fromkeys([*(entry.key for entry in read_entries(BENCH)), *_WHOLE])
    values = {key: setting(budget, key) for key in keys} | _shrunk(config)
    return [word for key, value in values.items() for word in (key, written(value))]


SCALES: dict[str, Callable[[CfgNode], list[str]]] = {"full": as_it_is, "bench": bench}


def _shrunk(config: CfgNode) -> dict[str, float]:
    return {
        "DATASET.INPUT_SIZE": shrunk_size(config.DATASET.INPUT_SIZE),
        "TEST.INPUT_SIZE": shrunk_size(config.TEST.INPUT_SIZE),
        "LOSS.SHR": config.LOSS.SHR * SIZE,  # a person's width in network pixels
        "MODEL.WIDTH": max(1, int(config.MODEL.WIDTH * WIDTH)),
    }


def shrunk_size(side: int) -> int:
    """The nearest multiple of 32 (the larger of two) to 1/4 of a side; 0 stays 0."""
    return side and 32 * max(1, math.floor(side * SIZE / 32 + 0.5))
