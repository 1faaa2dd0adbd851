"""A row of an ablation: one experiment with one seed, and by what it is known again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from hrpose.config.loading import BY_KEY, defaults
from hrpose.programs.train import RUNTIME_OPTIONS

FIGURES = ("AP", "AP50", "AP75", "AP-M", "AP-L")
"""What the tables show, in their order."""

FREE = (
    "NAME",
    *(key for key in RUNTIME_OPTIONS if key != "TRAIN.IMAGES_PER_DEVICE"),
    "TRAIN.RESUME",
    "TRAIN.VALIDATE_EVERY",
    "TRAIN.PICTURES_EVERY",
    "TEST.MODEL_FILE",
)
"""Options that say where, how fast and how closely watched a row is run, not what comes of it."""

_PATHS = ("DATASET.ROOT", "MODEL.PRETRAINED")


class Row(NamedTuple):
    """One experiment with one seed."""

    name: str  # of the experiment; its other seeds have the same
    config: CfgNode
    published: Mapping[str, float]  # figure -> percent, as the paper prints it
    scale: str = "full"  # how it came to be so small; the config tells it all the same

    @property
    def seed(self) -> int:
        return self.config.TRAIN.SEED

    @property
    def label(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def options(self) -> dict[str, Any]:
        """What makes the experiment: options that differ from their defaults, less the free ones.

        So a new option, which has its default everywhere, leaves finished rows finished. Whoever
        changes a default changes what finished rows mean; to run them again, delete both
        docs/ablations/rows and OUTPUT_DIR/ablations.
        """
        usual, chosen = defaults(), changed(self.config).items()
        here = {key: _portable(key, value) for key, value in chosen if key not in FREE}
        return {key: value for key, value in here.items() if value != plain(usual[key])}

    @property
    def key(self) -> str:
        """By this a finished row is known: equal experiments have equal keys."""
        return _digest(self.options)

    @property
    def training_key(self) -> str:
        """Rows that only look at a network in different ways have one training in common."""
        options = self.options.items()
        return _digest({key: value for key, value in options if not key.startswith("TEST.")})


def changed(config: CfgNode) -> dict[str, Any]:
    """key -> value, as JSON and YAML have it, of every option that is not at its default."""
    usual = defaults()
    values = {key: setting(config, key) for key in BY_KEY}
    return {key: plain(values[key]) for key in values if values[key] != usual[key]}


def setting(config: CfgNode, key: str) -> Any:
    """The value of an option, e.g. of TRAIN.LR."""
    for name in key.split("."):
        config = config[name]
    return config


def plain(value: Any) -> Any:
    """A value in the one form that JSON and YAML both keep: lists, 1 for 1.0, "inf"."""
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def written(value: object) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(plain(value), default_flow_style=True).removesuffix("...\n").strip()


def _portable(key: str, value: Any) -> Any:
    """A path as it is seen from here: a row must not depend on whose machine it ran on."""
    return os.path.relpath(value) if key in _PATHS and value else value


def _digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
