"""The experiments of an ablation: YAML files x a grid of options x seeds, and their keys."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.config.loading import BY_KEY, defaults, read_entries
from hrpose.config.options import RUNTIME_OPTIONS
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

PUBLISHED_ROOTS = ("data/coco", "data/crowdpose", "data/synthetic")
"""DATASET.ROOT of configs/: the preset bench replaces these data by drawn scenes."""

_BENCH_DATA = (
    *("DATASET.ROOT", "DATASET.FORMAT", "DATASET.TRAIN", "DATASET.VAL", "DATASET.ANNOTATIONS"),
    *("DATASET.IMAGES", "DATASET.CATEGORY", "DATASET.IMAGE_IDS", "DATASET.SKELETON"),
    *("DATASET.OKS_SIGMAS", "DATASET.GROUPING_ORDER", "DATASET.IGNORE_REGIONS"),
    *("MODEL.PRETRAINED", "MODEL.ALLOW_MISSING"),  # ImageNet weights do not fit half the width
)
"""Options that are bench.yaml's even where it leaves them at their defaults: one data set replaces
another as a whole."""


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

    def natural(file: Path) -> list[list[Any]]:
        parts = [re.split(r"(\d+(?:\.\d+)?)", part) for part in file.with_suffix("").parts]
        return [[float(w) if i % 2 else w for i, w in enumerate(part)] for part in parts]

    found: dict[Path, Path] = {}
    for place in places:
        files = sorted(place.rglob("*.yaml"), key=natural) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"--cfg {place}: no *.yaml in this folder")
        if not files[0].is_file():
            raise FileNotFoundError(
                f"--cfg {place}: no such file or folder; see configs/ablations/"
            )
        if files[0].suffix not in (".yaml", ".yml"):
            raise ValueError(f"--cfg {place} is no YAML file; name an experiment or a folder")
        found |= {file.resolve(): file for file in files}
    return list(found.values())


def read_published(path: Path) -> dict[str, float]:
    """Metric -> percent from a comment `# Published: AP 67.1, AP-M 61.5`; empty without one."""
    figures: dict[str, float] = {}
    for number, line in enumerate(path.read_text("utf-8-sig", "replace").splitlines(), 1):
        comment = re.match(r"#\s*Published:(.*)", line)
        for part in comment[1].split(",") if comment else ():
            entry = re.fullmatch(rf"({'|'.join(METRICS)}) (\d+(?:\.\d+)?)", part.strip())
            if not entry or entry[1] in figures or float(entry[2]) > 100:
                raise ValueError(
                    f"{path}:{number}: {part.strip()!r} is no published figure, or stands twice; "
                    f"wanted '# Published: AP 67.1, AP-M 61.5': {', '.join(METRICS)} in percent"
                )
            figures[entry[1]] = float(entry[2])
    return figures


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` -> 0, 1, 2; each once"""
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(","))) if text else []
    except ValueError:
        raise ValueError(f"--seeds {text}: wanted whole numbers such as 0,1,2") from None


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
        axes[key] = split_values(text)
    grid = []
    for values in itertools.product(*axes.values()):
        point = list(zip(axes, values))
        suffix = "".join(f" {key}={value}" for key, value in point if len(axes[key]) > 1)
        grid.append((suffix, [word for pair in point for word in pair]))
    return grid


def split_values(text: str) -> list[str]:
    """`[0.5,1,2],[1]` -> `[0.5,1,2]` and `[1]`: split at commas outside of brackets and quotes."""
    values, depth = [""], 0
    for token in re.findall(r"'[^']*'|\"[^\"]*\"|.", text):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and not depth:
            values.append("")
        else:
            values[-1] += token
    return [value.strip() for value in values]


# Keys -----------------------------------------------------------------------------------------


def compared_options(config: CfgNode) -> dict[str, Any]:
    """The options that a result depends on, less those at their defaults.

    A new option at its default thus leaves finished rows finished. Changing a default changes what
    finished rows mean: then delete both docs/ablations/rows and OUTPUT_DIR/ablations.
    """
    options = {k: v for k, v in changed_options(config).items() if k not in RESULT_NEUTRAL}
    for key in ("DATASET.ROOT", "MODEL.PRETRAINED"):  # relative: equal on every machine
        if options.get(key):
            options[key] = os.path.relpath(options[key])
    return without_defaults(options)


def changed_options(config: CfgNode) -> dict[str, Any]:
    """All options of a config that are not at their defaults."""
    return without_defaults({key: get_option(config, key) for key in BY_KEY})


def without_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at their defaults, as JSON and YAML keep them."""
    usual = {key: to_plain(value) for key, value in defaults().items()}
    values = {key: to_plain(value) for key, value in options.items()}
    return {key: value for key, value in values.items() if value != usual.get(key, ...)}


def get_option(config: CfgNode, key: str) -> Any:
    """The value of an option, e.g. of TRAIN.LR."""
    return reduce(getitem, key.split("."), config)


def to_plain(value: Any) -> Any:
    """A value in the one form that JSON and YAML both keep: lists, 1 for 1.0, "inf"."""
    if isinstance(value, (tuple, list)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_override(value: object) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(to_plain(value), default_flow_style=True).removesuffix("...\n").strip()


def digest(options: Mapping[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# The bench preset -------------------------------------------------------------------------------


@cache
def _bench_options() -> dict[str, Any]:
    bench = load_config(BENCH)
    return {k: get_option(bench, k) for k in [*(e.key for e in read_entries(BENCH)), *_BENCH_DATA]}


def bench_overrides(config: CfgNode) -> list[str]:
    """Overrides for minutes on two CPU cores: bench.yaml, with sides / 4 and MODEL.WIDTH / 2.

    Sides and widths are axes of the published tables, whose rows must stay apart. An experiment on
    data of one's own keeps it, and sides of 128 and widths of 8 at least, as far as it has them.
    """
    own = config.DATASET.ROOT not in PUBLISHED_ROOTS
    values = _bench_options()
    if own:
        values = {k: v for k, v in values.items() if k not in _BENCH_DATA or k[:5] == "MODEL"}

    def quarter(side: int) -> int:
        """The nearest multiple of 32, the larger of two; 0 stays 0."""
        smaller = side and 32 * max(1, math.floor(side / 128 + 0.5))
        return min(side, max(128, smaller)) if own else smaller

    crop, width = config.DATASET.INPUT_SIZE, config.MODEL.WIDTH
    values = values | {
        "DATASET.INPUT_SIZE": tuple(map(quarter, crop))
        if isinstance(crop, tuple)
        else quarter(crop),
        "TEST.INPUT_SIZE": quarter(config.TEST.INPUT_SIZE),
        "LOSS.SHR": config.LOSS.SHR / 4,  # a person's width in network pixels
        "MODEL.WIDTH": min(width, max(8, width // 2)) if own else max(1, width // 2),
    }
    return [word for key, value in values.items() for word in (key, as_override(value))]


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

    from hrpose.builders.bottomup import build_loss, inference_side
    from hrpose.builders.common import build_model
    from hrpose.builders.training import build_optimizer, build_schedule
    from hrpose.models.complexity import count_parameters, operations_in

    sizes: dict[str, tuple[int, float]] = {}
    networks: dict[str, tuple[int, float]] = {}
    for e in experiments:
        data, side = e.config.DATASET, inference_side(e.config)
        joints = (data.SKELETON, data.ROOT, data.TRAIN, data.ANNOTATIONS, data.CATEGORY)
        network = f"{sorted(e.config.MODEL.items())} {joints} {side}"
        try:
            build_loss(e.config)
            build_schedule(e.config)
            build_optimizer(e.config, torch.nn.Linear(1, 1))  # any network: its name is checked
            if network not in networks:
                with torch.device("meta"):
                    model = build_model(e.config).eval()
                networks[network] = count_parameters(model), operations_in(model, (side, side))
        except ValueError as error:
            raise ValueError(f"row {e.name}: {error}") from None
        sizes[e.key] = networks[network]
    return sizes
