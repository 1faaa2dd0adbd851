"""The experiments of an ablation: YAML files x a grid of options x seeds, and their keys."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.config.loading import BY_KEY, defaults, read_entries
from hrpose.config.options import DEPENDENCES, RUNTIME_OPTIONS
from hrpose.programs.ablation_tables import METRICS

REPOSITORY = Path(__file__).parents[3]
BENCH = REPOSITORY / "configs" / "bench.yaml"

RESULT_NEUTRAL = (
    *(key for key in RUNTIME_OPTIONS if key != "TRAIN.MICRO_BATCH"),
    *("NAME", "TRAIN.RESUME", "TRAIN.VALIDATE_EVERY", "TRAIN.VISUALIZE_EVERY", "TEST.MODEL_FILE"),
)
"""Options that say where, how fast and how closely watched a row runs, but not its result."""

_REFUSED = {
    "TRAIN.SEED": "an ablation's seeds are given as --seeds 0,1,2",
    "TRAIN.RESUME": "an ablation continues by itself; to train a row anew, delete its run",
    "TEST.MODEL_FILE": "an ablation trains its networks; tools/valid.py evaluates given ones",
}
"""Options that cannot be given, and why."""

PUBLISHED_ROOTS = ("data/coco", "data/crowdpose", "data/all", "data/synthetic")
"""DATASET.ROOT of configs/: the preset bench replaces these data by drawn scenes."""

_BENCH_DATA = (
    *("DATASET.ROOT", "DATASET.FORMAT", "DATASET.TRAIN", "DATASET.VAL", "DATASET.ANNOTATIONS"),
    *("DATASET.IMAGES", "DATASET.CATEGORY", "DATASET.IMAGE_IDS", "DATASET.SKELETON"),
    *("DATASET.OKS_SIGMAS", "DATASET.GROUPING_ORDER", "DATASET.IGNORE_REGIONS"),
    *("MODEL.PRETRAINED", "MODEL.ALLOW_MISSING"),  # ImageNet weights do not fit half the width
    *("TRAIN.WARMUP.STEPS", "TRAIN.WARMUP.FACTOR"),  # of a training of another length
)
"""Options that are bench.yaml's even where it leaves them at their defaults: one data set, or one
warm-up, replaces another as a whole."""


class Experiment(NamedTuple):
    """One row of a table with one seed."""

    name: str  # shared by its seeds
    config: CfgNode
    published: Mapping[str, float]  # metric -> percent
    options: dict[str, Any]  # all that its result depends on, as far as it is not at its default
    key: str  # equal experiments have equal keys
    training_key: str  # shared by rows that differ in TEST.* only
    replaced: str = ""  # what the preset set, for the user

    @property
    def seed(self) -> int:
        return self.config.TRAIN.SEED

    @property
    def label(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.config.OUTPUT_DIR) / "ablations" / self.training_key


def make_plan(
    places: Sequence[Path], overrides: Sequence[str], seeds: Sequence[int], preset: str
) -> list[Experiment]:
    """Every experiment with the first seed, then every one with the second, ...

    places: YAML files and folders of them; overrides: KEY VALUES, where several values are a grid;
    seeds: empty: each config's own. ValueError, FileNotFoundError: invalid rows, before any runs.
    """
    files, grid = find_configs(places), expand_grid(overrides)
    origins: dict[tuple[str, ...], str] = {}
    plan = []
    for seed in [["TRAIN.SEED", str(seed)] for seed in seeds] or [[]]:
        for file, (suffix, point) in itertools.product(files, grid):
            origin = f"{file}{suffix}"
            try:
                written = load_config(file)
                shrink = bench_overrides(written) if preset == "bench" else []
                config = load_config(file, [*shrink, *point, *seed])
                if config.DATASET.SOURCES:
                    raise ValueError(
                        "tables are of one data set; set DATASET.SOURCES [] and DATASET.ROOT, or "
                        "train this config by tools/train.py"
                    )
            except ValueError as error:
                raise ValueError(f"row {origin}: {error}") from None
            name = config.NAME.removeprefix("ablations/") + suffix
            row = (name, *seed)
            if row in origins:
                raise ValueError(
                    f"{origins[row]} and {origin} are both called {name}; "
                    "leave one out, or give it another NAME in its YAML"
                )
            origins[row] = origin
            published = read_published(file) if len(grid) == 1 else {}  # of one unknown point
            options = compared_options(config)
            training = {k: v for k, v in options.items() if not k.startswith("TEST.")}
            keys = digest(options), digest(training)
            replaced = f"{file}: {_replacements(written, shrink)}" if shrink else ""
            plan.append(Experiment(name, config, published, options, *keys, replaced))
    return plan


def find_configs(places: Iterable[Path]) -> list[Path]:
    """The YAML files, each once; those of a folder in natural order: gamma_0.05, 0.1, 1."""

    def natural(file: Path) -> list[Any]:
        parts = re.split(r"(\d+(?:\.\d+)?)", str(file.with_suffix("")))
        return [float(part) if i % 2 else part for i, part in enumerate(parts)]

    found: dict[Path, Path] = {}
    for place in places:
        files = sorted(place.rglob("*.yaml"), key=natural) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"--cfg {place}: no *.yaml in this folder")
        found |= {file.resolve(): file for file in files}
    return list(found.values())


def read_published(path: Path) -> dict[str, float]:
    """Metric -> percent from a comment `# Published: AP 67.1, AP-M 61.5`; empty without one."""
    comment = re.search(r"^# *Published:(.*)", path.read_text("utf-8-sig", "replace"), re.MULTILINE)
    pairs = [f"{part} ? ?".split()[:2] for part in comment[1].split(",")] if comment else []
    for metric, figure in pairs:
        if metric not in METRICS or not re.fullmatch(r"\d\d?(\.\d+)?", figure):
            raise ValueError(
                f"{path}: {metric} {figure} is no published figure; wanted "
                f"'# Published: AP 67.1, AP-M 61.5': {', '.join(METRICS)} in percent"
            )
    return {metric: float(figure) for metric, figure in pairs}


def expand_grid(overrides: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(suffix of the row's name, overrides) of each combination; the last key changes fastest."""
    if len(overrides) % 2:
        raise ValueError(f"options come in pairs KEY VALUES; {overrides[-1]!r} has no value")
    axes: dict[str, list[str]] = {}
    for key, text in zip(overrides[::2], overrides[1::2]):
        if key in _REFUSED:
            raise ValueError(f"{key}: {_REFUSED[key]}")
        if key in axes:
            raise ValueError(f"{key} occurs twice; several values are a grid: {key} 1,0.1")
        axes[key] = re.split(r",\s*(?![^\[]*\])", text)  # at commas outside of brackets
    grid = []
    for values in itertools.product(*axes.values()):
        point = list(zip(axes, values))
        suffix = "".join(f" {key}={value}" for key, value in point if len(axes[key]) > 1)
        grid.append((suffix, [word for pair in point for word in pair]))
    return grid


# Keys -----------------------------------------------------------------------------------------


def compared_options(config: CfgNode) -> dict[str, Any]:
    """The options that a result depends on, less those at their defaults.

    A new option at its default thus leaves finished rows finished. Changing a default changes what
    finished rows mean: then delete both docs/ablations/rows and OUTPUT_DIR/ablations.
    """
    options = {key: get_option(config, key) for key in BY_KEY if key not in RESULT_NEUTRAL}
    for key in ("DATASET.ROOT", "MODEL.PRETRAINED", "TEST.BOXES"):
        # Relative paths are equal on every machine.
        options[key] = options[key] and os.path.relpath(options[key])
    return without_defaults(options)


def without_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at their defaults, as JSON keeps them."""
    usual = {key: to_plain(value) for key, value in defaults().items()}
    values = {key: to_plain(value) for key, value in options.items()}
    return {key: value for key, value in values.items() if value != usual.get(key, ...)}


def get_option(config: CfgNode, key: str) -> Any:
    """The value of an option, e.g. of TRAIN.LR."""
    return reduce(getitem, key.split("."), config)


def to_plain(value: Any) -> Any:
    """A value in the one form that JSON keeps: lists, 1 for 1.0, "inf"."""
    if isinstance(value, (tuple, list)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_override(value: object) -> str:
    """A value as one would type it on the command line."""
    return value if isinstance(value, str) else json.dumps(to_plain(value))


def digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# The bench preset -------------------------------------------------------------------------------


def bench_overrides(config: CfgNode) -> list[str]:
    """Overrides for minutes on two CPU cores: bench.yaml, with sides / 4 and MODEL.WIDTH / 2.

    Sides and widths are axes of the published tables, whose rows must stay apart. An experiment on
    data of one's own keeps it, and sides of 128 and widths of 8 at least, as far as it has them.
    """
    own = config.DATASET.ROOT not in PUBLISHED_ROOTS or bool(config.DATASET.SOURCES)
    bench = load_config(BENCH)
    keys = [*(entry.key for entry in read_entries(BENCH)), *_BENCH_DATA]
    if own:
        keys = [key for key in keys if key not in _BENCH_DATA or key.startswith(("MODEL", "TRAIN"))]

    def quarter(side: Any) -> Any:
        """The nearest multiple of 32, the larger of two; 0 stays 0. (W, H): each"""
        if isinstance(side, tuple):
            return [quarter(each) for each in side]
        smaller = side and 32 * max(1, math.floor(side / 128 + 0.5))
        return min(side, max(128, smaller)) if own else smaller

    width = config.MODEL.WIDTH
    values = {key: get_option(bench, key) for key in keys} | {
        "DATASET.INPUT_SIZE": quarter(config.DATASET.INPUT_SIZE),
        "TEST.INPUT_SIZE": quarter(config.TEST.INPUT_SIZE),
        "LOSS.SHR": config.LOSS.SHR / 4,  # a person's width in network pixels
        "MODEL.WIDTH": min(width, max(8, width // 2)) if own else max(1, width // 2),
    }
    other = [needed for needed in DEPENDENCES if needed.on == "MODEL.NAME"]
    other = [needed for needed in other if not needed.holds(config.MODEL.NAME)]
    idle = {key for needed in other for key in needed.options}  # of networks of the other family
    kept = {key: value for key, value in values.items() if key not in idle}
    return [word for key, value in kept.items() for word in (key, as_override(value))]


def _replacements(config: CfgNode, overrides: Sequence[str]) -> str:
    """What overrides change in a config: `KEY old -> new, ...`"""
    pairs = [
        (key, as_override(get_option(config, key)), value)
        for key, value in zip(overrides[::2], overrides[1::2])
    ]
    return ", ".join(
        f"{key} {old or repr(old)} -> {new or repr(new)}" for key, old, new in pairs if old != new
    )


# Sizes ----------------------------------------------------------------------------------------


def measure_networks(experiments: Iterable[Experiment]) -> dict[str, tuple[int, float]]:
    """key -> (parameters, GMAC at the test's size). ValueError: an option names nothing known."""
    import torch  # only now: the arguments are valid

    from hrpose.builders.common import build_model
    from hrpose.builders.datasets import build_skeleton
    from hrpose.builders.families import family
    from hrpose.builders.training import build_optimizer, build_schedule
    from hrpose.models.complexity import count_parameters, operations_in

    sizes: dict[str, tuple[int, float]] = {}
    networks: dict[str, tuple[int, float]] = {}
    for e in experiments:
        width, height = family(e.config).typical_size(e.config)
        try:
            family(e.config).build_loss(e.config)
            build_schedule(e.config)
            build_optimizer(e.config, torch.nn.Linear(1, 1))  # any network: its name is checked
            network = f"{e.config.MODEL} {build_skeleton(e.config).joints} {width} {height}"
            if network not in networks:
                with torch.device("meta"):
                    model = build_model(e.config).eval()
                networks[network] = count_parameters(model), operations_in(model, (height, width))
        except ValueError as error:
            raise ValueError(f"row {e.name}: {error}") from None
        sizes[e.key] = networks[network]
    return sizes
