"""Which rows an ablation has: YAML files, times a grid of options, times seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.programs.ablation.budget import SCALES
from hrpose.programs.ablation.rows import FIGURES, Row

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_PUBLISHED = re.compile(r"#\s*Published:(.*)")
_PUBLISHED_FIGURE = re.compile(rf"({'|'.join(FIGURES)}) (\d+(?:\.\d+)?)")
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


class Variant(NamedTuple):
    """One point of a grid: what it adds to a row's name, and its overrides KEY VALUE."""

    suffix: str
    overrides: list[str]


def make_plan(
    places: Sequence[Path], overrides: Sequence[str], seeds: Sequence[int], scale: str
) -> list[Row]:
    """Every experiment with the first seed, then every one with the second, ...

    places: YAML files, and folders of them   overrides: KEY VALUES, several of which are a grid
    seeds: none: each config's own            scale: a name of SCALES
    ValueError, FileNotFoundError: what cannot be a row, named before any of them is run.
    """
    files, variants = find_configs(places), expand(overrides)
    _refuse_what_rows_decide(overrides)
    with_seed = [["TRAIN.SEED", str(seed)] for seed in seeds] or [[]]
    points = list(itertools.product(files, variants))
    rounds = [[_row(*point, scale, words) for point in points] for words in with_seed]
    _refuse_equal_names(rounds[0], [f"{file}{variant.suffix}" for file, variant in points])
    if len(variants) > 1:  # a paper's figure belongs to one point of its grid, nobody knows which
        rounds = [[row._replace(published={}) for row in rows] for rows in rounds]
    return [row for rows in rounds for row in rows]


def _row(file: Path, variant: Variant, scale: str, seed: list[str]) -> Row:
    try:
        config = load_config(file)
        config = load_config(file, [*SCALES[scale](config), *variant.overrides, *seed])
    except ValueError as error:
        raise ValueError(f"row {file}{variant.suffix}: {error}") from None
    return Row(f"{experiment(config)}{variant.suffix}", config, read_published(file), scale)


def experiment(config: CfgNode) -> str:
    """ablations/swahr_table3/sahr -> swahr_table3/sahr"""
    return config.NAME.removeprefix("ablations/")


def _refuse_what_rows_decide(overrides: Sequence[str]) -> None:
    refused = {
        "TRAIN.SEED": "an ablation's seeds are given as --seeds 0,1,2",
        "TRAIN.RESUME": "an ablation goes on by itself; to begin a row anew, delete its run",
        "TEST.MODEL_FILE": "an ablation trains its networks; tools/valid.py looks at given ones",
    }
    for key in overrides[::2]:
        if key in refused:
            raise ValueError(f"{key}: {refused[key]}")


def _refuse_equal_names(rows: Sequence[Row], origins: Sequence[str]) -> None:
    """Two lines of a table with one name would be read as one experiment."""
    first: dict[str, str] = {}
    for row, origin in zip(rows, origins):
        if row.name in first:
            raise ValueError(
                f"{first[row.name]} and {origin} are both called {row.name}; "
                "leave one out, or give it another NAME in its YAML"
            )
        first[row.name] = origin


# Files ----------------------------------------------------------------------------------------


def find_configs(places: Iterable[Path]) -> list[Path]:
    """The YAML files, each once; those of a folder in their natural order."""
    found = [file for place in places for file in _configs_at(place)]
    return list({file.resolve(): file for file in found}.values())


def _configs_at(place: Path) -> list[Path]:
    if place.is_dir():
        files = sorted(place.rglob("*.yaml"), key=lambda file: natural(file.relative_to(place)))
        if not files:
            raise ValueError(f"--cfg {place}: no *.yaml in this folder")
        return files
    if not place.is_file():
        raise FileNotFoundError(f"--cfg {place}: no such file or folder; see configs/ablations/")
    if place.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--cfg {place} is no YAML file; name an experiment or a folder of them")
    return [place]


def natural(path: Path) -> list[list[Any]]:
    """A key that sorts gamma_0.05 before gamma_0.1, and size_512 before size_1024."""
    parts = [_NUMBER.split(part) for part in path.with_suffix("").parts]  # text, number, text ...
    return [[float(w) if i % 2 else w for i, w in enumerate(words)] for words in parts]


def read_published(path: Path) -> dict[str, float]:
    """Figure -> percent from a comment `# Published: AP 67.1, AP-M 61.5`; none if there is none."""
    figures: dict[str, float] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        said = _PUBLISHED.match(line)
        for part in said[1].split(",") if said else ():
            entry = _PUBLISHED_FIGURE.fullmatch(part.strip())
            if not entry or entry[1] in figures or float(entry[2]) > 100:
                raise ValueError(
                    f"{path}:{number}: {part.strip()!r} is no published figure, or stands twice; "
                    f"wanted '# Published: AP 67.1, AP-M 61.5': {', '.join(FIGURES)} in percent"
                )
            figures[entry[1]] = float(entry[2])
    return figures


# The grid -------------------------------------------------------------------------------------


def expand(overrides: Sequence[str]) -> list[Variant]:
    """All combinations of KEY VALUES, the last key changing fastest.

    A key with one value is an ordinary override; one with several also goes into the row's name.
    """
    if len(overrides) % 2:
        raise ValueError(f"options come in pairs KEY VALUES; {overrides[-1]!r} has no value")
    axes: dict[str, list[str]] = {}
    for key, text in zip(overrides[::2], overrides[1::2]):
        if key in axes:
            raise ValueError(f"{key} stands twice; several values are a grid: {key} 1,0.1")
        axes[key] = split_values(text)
    return [_variant(axes, point) for point in itertools.product(*axes.values())]


def _variant(axes: dict[str, list[str]], point: Sequence[str]) -> Variant:
    pairs = list(zip(axes, point))
    suffix = "".join(f" {key}={value}" for key, value in pairs if len(axes[key]) > 1)
    return Variant(suffix, [word for pair in pairs for word in pair])


def split_values(text: str) -> list[str]:
    """`[0.5,1,2],[1]` -> `[0.5,1,2]` and `[1]`: split at commas outside of brackets and quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if letter in _QUOTES and quote in ("", letter):
            quote = "" if quote else letter
        elif not quote:
            depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and not (depth or quote):
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]
