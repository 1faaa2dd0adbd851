"""YAML -> a frozen config, or an error with the place of the mistake and the nearest valid name."""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from hrpose.config.options import (
    DEPENDENCES,
    EMPTY_BY_DEFAULT,
    OPTIONS,
    PATH_OPTIONS,
    RANGES,
    SIZE_OPTIONS,
    SOURCE_OPTIONS,
    SUBPIXEL_RULES,
    TOP_DOWN_MODELS,
)
from hrpose.config.renamed import RENAMED, current

BY_KEY = {option.key: option for option in OPTIONS}

MOST_VALUES = 10_000
"""Bound on the values of one YAML file, aliases expanded; hrpose has about a hundred options."""


_DIGITS = re.compile(r"[-+]?\d+(_\d+)*")

_COMMAND_LINE = "command line"

_NOT_PLAIN = (yaml.YAMLError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors of PyYAML, and of its constructors for a text that does not fit its tag (!!bool 3)."""


class Entry(NamedTuple):
    """A value of an option, and where it was written."""

    key: str
    value: Any
    where: str

    @property
    def source(self) -> str:
        """The file, without the line, or the command line."""
        return self.where.rpartition(":")[0] or self.where


class _Loader(yaml.SafeLoader):
    """Safe YAML whose numbers are decimal: 024 is 24, and what YAML 1.1 reads in another base
    (1:30 is 90 there, 0x10 is 16) stays text, which no option with numbers takes."""


def _decimal_int(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    text = loader.construct_scalar(node)
    return int(text) if _DIGITS.fullmatch(text) else text


def _decimal_float(loader: _Loader, node: yaml.ScalarNode) -> float | str:
    text = loader.construct_scalar(node)
    return text if ":" in text else loader.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal_float)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a YAML file over the defaults, then `overrides` over both.

    overrides: ["TRAIN.LR", "1e-3", ...]
    Returns a frozen yacs node.
    Errors: ValueError for an unknown key, a wrong type or value; FileNotFoundError for the file or
    its BASE
    """
    path = Path(os.path.expanduser(path))
    return _config_of(read_entries(path), overrides, _experiment(path))


def parse_config(text: str, origin: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The same from the config stored in a checkpoint or release; errors name its `origin`."""
    return _config_of(stored_entries(text, origin), overrides, "", record=True)


def load_source(source: str | Mapping[str, Any], config: CfgNode) -> CfgNode:
    """`config` with NAME and SOURCE_OPTIONS of one of DATASET.SOURCES, or as by default.

    Errors: those of `load_config`; ValueError for a YAML that has sources itself
    """
    values = {key: reduce(getitem, key.split("."), config) for key in BY_KEY}
    usual = defaults()
    joining = ("DATASET.SOURCES", "DATASET.MIXING.WEIGHTS", "DATASET.MIXING.SHARED_IMAGES")
    values |= {key: usual[key] for key in (*SOURCE_OPTIONS, *joining)} | _source_options(source)
    _check_together(values)
    return _as_node(values)


def with_source_options(config: CfgNode) -> CfgNode:
    """`config` that no longer depends on the files of DATASET.SOURCES, but has their options.

    Errors: those of `load_source`
    """
    resolved = config.clone()
    resolved.defrost()
    resolved.DATASET.SOURCES = tuple(map(_source_options, config.DATASET.SOURCES))
    resolved.freeze()
    return resolved


def _source_options(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """NAME and SOURCE_OPTIONS, those at their defaults left out, of a YAML or as listed."""
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(os.path.expanduser(source))
    written = {entry.key: _checked(entry) for entry in read_entries(path)}
    if written.get("DATASET.SOURCES"):
        raise ValueError(f"{path} has DATASET.SOURCES; list these themselves, not their config")
    usual = defaults()
    named = {"NAME": written.get("NAME") or _experiment(path)}
    return named | {k: v for k, v in written.items() if k in SOURCE_OPTIONS and v != usual[k]}


def stored_entries(text: str, origin: str, section: str = "") -> list[Entry]:
    """The options of a stored config, or of a section, under today's names (config/renamed.py)."""
    place = Path(f"{origin}, its config")
    entries = []
    for entry in _flatten(_parse(text, place), place, {}):
        if not entry.key.startswith(section):
            continue
        try:
            known = current(entry.key, entry.value)
        except ValueError:
            if not entry.key.startswith("TRAIN."):  # how it was trained, its weights no longer need
                raise
            known = None
        if known:
            entries.append(Entry(*known, entry.where))
    return entries


def network_differences(config: CfgNode, text: str, origin: str) -> list[tuple[str, Any, Any]]:
    """What a stored config's network computes otherwise: options, their values there and here.

    Not compared are the initial weights, the coordinate convention, which weights have beside their
    config, and names of one family, since a network without scale branches reads one with them.
    Errors: ValueError for a stored config of another version
    """
    there = defaults() | {e.key: _checked(e) for e in stored_entries(text, origin, "MODEL.")}
    here = {key: reduce(getitem, key.split("."), config) for key in BY_KEY}
    if len({values["MODEL.NAME"] in TOP_DOWN_MODELS for values in (here, there)}) > 1:
        return [("MODEL.NAME", there["MODEL.NAME"], here["MODEL.NAME"])]
    ours, theirs = _network(here), _network(there)
    different = [key for key in ours if ours[key] != theirs.get(key)]
    return [(key, there[key], here[key]) for key in different]


def _network(values: dict[str, Any]) -> dict[str, Any]:
    """The options of MODEL that change what weights compute, as far as they have an effect."""
    deconvs, blocks = values["MODEL.NUM_DECONVS"], values["MODEL.NUM_BASIC_BLOCKS"]
    parts = tuple(f"MODEL.{part}." for part in ("BACKBONE", "RAM", "GPR", "STAGES", "OFFSET"))
    names = [key for key in values if key.startswith(parts)] + ["MODEL.WIDTH"]
    if values["MODEL.NAME"] in TOP_DOWN_MODELS:
        return {key: values[key] for key in ("MODEL.NAME", *names, "MODEL.CODEC")}
    names += ["MODEL.NUM_DECONVS"]
    names += ["MODEL.NUM_BASIC_BLOCKS", "MODEL.CAT_OUTPUT"] if deconvs else []
    dilations = values["MODEL.DILATIONS"]
    each = dilations * (blocks // len(dilations)) if deconvs else ()
    return {**{key: values[key] for key in names}, "MODEL.DILATIONS": each}


def _config_of(
    written: Sequence[Entry], overrides: Sequence[str], name: str, record: bool = False
) -> CfgNode:
    """`written` over the defaults, `overrides` over both; `name` where NAME is empty.

    record: `written` lists every option, those without effect too
    """
    entries = [
        entry._replace(value=_checked(entry)) for entry in (*written, *_override_entries(overrides))
    ]
    values = defaults() | {entry.key: entry.value for entry in entries}
    values["NAME"] = values["NAME"] or name
    _settle_ineffective(entries, values, {each.source for each in written} if record else set())
    _check_together(values)
    return _as_node(values)


def _settle_ineffective(
    entries: Sequence[Entry], values: dict[str, Any], records: Collection[str]
) -> None:
    """Refuse options that were set without effect; those of an earlier choice become defaults.

    An option is of an earlier choice if what it depends on was set in a later file, or before in
    the same one; in `records`, which list every option, all may be.
    """
    files = [list(group) for _, group in itertools.groupby(entries, lambda entry: entry.source)]
    usual = defaults()
    for needed in DEPENDENCES:
        for key in needed.options:
            if needed.holds(values[needed.on]) or values[key] == usual[key]:
                continue
            last = max(i for i, file in enumerate(files) if any(e.key == key for e in file))
            entry = next(entry for entry in reversed(files[last]) if entry.key == key)
            chosen = [[e for e in file if e.key == needed.on] for file in files[last:]]
            held = any(needed.holds(choice.value) for choice in chosen[0])
            if not (held or any(chosen[1:]) or entry.source in records):
                refusal = needed.refusal(key, values[needed.on])
                raise ValueError(f"{entry.where}: {refusal}")
            values[key] = usual[key]


def defaults() -> dict[str, Any]:
    """key -> default"""
    return {o.key: () if o.key in EMPTY_BY_DEFAULT else o.default for o in OPTIONS}


def read_entries(path: Path, below: tuple[Path, ...] = ()) -> list[Entry]:
    """All entries of a YAML file and of the files in its BASE, in order of precedence."""
    path = path.resolve()
    if path in below:
        raise ValueError(f"BASE goes round in a circle: {' -> '.join(map(str, (*below, path)))}")
    if not os.path.isfile(path):  # Path's own method fails at names that are too long
        listed = path.parent.glob("*.yaml") if os.path.isdir(path.parent) else ()
        near = sorted(other.name for other in listed)
        more = f" and {len(near) - 8} more" * (len(near) > 8)
        there = f"in {path.parent} are {', '.join(near[:8])}{more}"
        shipped = path.parent / "configs" / f"{path.stem}.yaml"
        if os.path.isfile(shipped):
            there = f"did you mean {os.path.relpath(shipped)}?"
        elif not near:
            there = "give the path of a .yaml"
        raise FileNotFoundError(f"there is no config file {path}; {there}")
    written = list(_flatten(_parse(path.read_bytes(), path), path, {}))
    bases = [entry for entry in written if entry.key == "BASE"]
    inherited: list[Entry] = []
    for base in bases:
        for name in _as_list(base.value):
            if not isinstance(name, str):
                raise ValueError(f"{base.where}: BASE is {base.value!r}; wanted a path, or a list")
            inherited += read_entries(path.parent / os.path.expanduser(name), (*below, path))
    return inherited + [entry for entry in written if entry.key != "BASE"]


def read_plain_yaml(path: Path) -> Any:
    """The plain values of a YAML file that is no config, read by the same bounds."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    root = _parse(path.read_bytes(), path)
    return None if root is None else _plain(root, f"{path}")


@lru_cache(maxsize=128)  # many files have the same BASE
def _parse(text: str | bytes, path: Path) -> yaml.Node | None:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for a config") from None
    _refuse_endless(root, path)
    return root


def _refuse_endless(root: yaml.Node | None, path: Path) -> None:
    """Bound the size: a few lines of nested aliases can expand to billions of values."""
    waiting, count = [root], 0
    while waiting:
        count += 1
        if count > MOST_VALUES:
            raise ValueError(
                f"{path}: its aliases (*name) expand to more than {MOST_VALUES} values; write the "
                "values out"
            )
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _flatten(
    node: yaml.Node | None, path: Path, seen: dict[str, str], prefix: str = ""
) -> Iterator[Entry]:
    """A YAML tree as entries `A.B.C`; a key that occurs twice, in any form, is an error."""
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{_place(node, path)}: wanted `KEY: value`, found {node.value!r}")
    for key_node, value_node in node.value:
        key, where = f"{prefix}{key_node.value}", _place(key_node, path)
        if key in seen:
            raise ValueError(f"{where}: {key} occurs twice; the first is at {seen[key]}")
        seen[key] = where
        if isinstance(value_node, yaml.MappingNode):
            yield from _flatten(value_node, path, seen, f"{key}.")
        else:
            yield Entry(key, _plain(value_node, where), where)


def _place(node: yaml.Node, path: Path) -> str:
    return f"{path}:{node.start_mark.line + 1}"


def _plain(node: yaml.Node, where: str) -> Any:
    try:
        return _Loader("").construct_object(node, deep=True)
    except _NOT_PLAIN as error:
        raise ValueError(f"{where}: only plain YAML values are read: {error}") from None


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _override_entries(overrides: Sequence[str]) -> list[Entry]:
    for key, sign, value in (word.partition("=") for word in overrides if isinstance(word, str)):
        if sign and key in BY_KEY:
            raise ValueError(f"{_COMMAND_LINE}: {key}={value} is one word; write {key} {value}")
    if len(overrides) % 2:
        values = overrides[1::2]
        lone = next((i for i, value in enumerate(values) if value in BY_KEY), len(values))
        raise ValueError(f"overrides come in pairs KEY VALUE; {overrides[2 * lone]!r} has no value")
    pairs = zip(overrides[::2], overrides[1::2])
    return [Entry(key, _override_value(key, text), _COMMAND_LINE) for key, text in pairs]


def _override_value(key: str, text: Any) -> Any:
    """The value as YAML reads it; for text options the text, and what is no text as it is."""
    if not isinstance(text, str) or (key in BY_KEY and isinstance(BY_KEY[key].default, str)):
        return text
    try:
        return _Loader(text).get_single_data()
    except _NOT_PLAIN as error:
        raise ValueError(
            f"{_COMMAND_LINE}: {key} {text!r:.60} is not a YAML value: {error}"
        ) from None


def _checked(entry: Entry) -> Any:
    """The value in the type of its option. Errors: ValueError with the place and what is valid"""
    if entry.key in RENAMED:
        raise ValueError(f"{entry.where}: {entry.key} is called {RENAMED[entry.key]} now")
    if entry.key not in BY_KEY:
        fields = [key for key in BY_KEY if key.startswith(f"{entry.key}.")]
        near = difflib.get_close_matches(entry.key, BY_KEY, 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; see config/options.py"
        if fields:
            cure = f"set {fields[0]}" if entry.where == _COMMAND_LINE else "write a mapping"
            hint = f": it has fields, such as {fields[0]}; {cure}"
        raise ValueError(f"{entry.where}: unknown option {entry.key}{hint}")
    option = BY_KEY[entry.key]
    like = option.default
    if (
        entry.key in SIZE_OPTIONS
        and isinstance(entry.value, (list, tuple))
        and len(entry.value) == 2
    ):
        like = (like,)
    value = _coerced(entry.value, like)
    if entry.key == "DATASET.SOURCES":
        value = _coerced_sources(entry)
    if value is None:
        raise ValueError(
            f"{entry.where}: {entry.key} is {entry.value!r}, but must be {_kind(option.default)}. "
            f"{option.meaning}"
        )
    wanted = option.check(value)
    if wanted:
        raise ValueError(
            f"{entry.where}: {entry.key} is {entry.value!r}, but must be {wanted}. {option.meaning}"
        )
    return os.path.expanduser(value) if entry.key in PATH_OPTIONS else value


def _coerced_sources(entry: Entry) -> tuple[Any, ...] | None:
    """DATASET.SOURCES: paths of YAMLs, or their options, as `with_source_options` lists them."""
    sources = [
        {k: _checked(Entry(f"{k}", v, entry.where)) for k, v in source.items()}
        if isinstance(source, Mapping)
        else _coerced(source, "")
        for source in _as_list(entry.value)
    ]
    for options in (source for source in sources if isinstance(source, Mapping)):
        if not options.get("NAME") or not options.keys() <= {"NAME", *SOURCE_OPTIONS}:
            raise ValueError(
                f"{entry.where}: one of DATASET.SOURCES lists {', '.join(options)}; give NAME, and "
                f"of the others only {', '.join(SOURCE_OPTIONS)}; or the path of a YAML"
            )
    return None if None in sources else tuple(sources)


def _coerced(value: Any, like: Any) -> Any:
    """`value` in the type of `like`, or None if that would lose or invent something."""
    if isinstance(like, tuple):
        entries = [_coerced(entry, like[0]) for entry in _as_list(value)]
        return None if None in entries else tuple(entries)
    if isinstance(like, bool) or isinstance(value, bool):
        return value if type(value) is type(like) else None
    if isinstance(like, str):  # a path below ~, however it was given, is in the home folder
        return os.path.expanduser(value) if isinstance(value, str) else None
    return _number(value, type(like))


def _number(value: Any, kind: type) -> Any:
    """An int or float from a number, or from text such as 1e-3, which YAML takes for text.

    None for what is none, and for a float too large to know its last digit where an int is wanted.
    """
    if not isinstance(value, (int, float, str)):
        return None
    try:
        if kind is int and isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if kind is int and not isinstance(value, int):
        return int(number) if number.is_integer() and abs(number) < 2**53 else None
    return value if kind is int else None if math.isnan(number) else number


def _kind(like: Any) -> str:
    if isinstance(like, tuple):
        return f"a list, each {_kind(like[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[
        type(like)
    ]


def _check_together(values: dict[str, Any]) -> None:
    """Rules on several options together."""
    _check_sources(values)
    if values["MODEL.NAME"] not in TOP_DOWN_MODELS:
        _check_scale_set(values["TEST.SCALE_FACTOR"])
    _check_resolutions(values)
    _check_scale_losses(values)
    _check_subpixel(values)
    truth = values["MODEL.NAME"] in TOP_DOWN_MODELS and values["TEST.BOXES"] == "truth"
    if values["DATASET.FORMAT"] == "mpii" and values["DATASET.VAL"] and not truth:
        raise ValueError(
            "DATASET.FORMAT mpii is scored person by person (PCKh), which takes a top-down "
            'MODEL.NAME and TEST.BOXES truth; as one of DATASET.SOURCES with DATASET.VAL "" it is '
            "not scored"
        )
    for low, high in RANGES:
        if values[low] > values[high]:
            raise ValueError(f"{low} {values[low]} is above {high} {values[high]}")


def _check_sources(values: dict[str, Any]) -> None:
    sources, weights = values["DATASET.SOURCES"], values["DATASET.MIXING.WEIGHTS"]
    if sources and values["DATASET.SKELETON"] == "file":
        raise ValueError(
            "DATASET.SOURCES are mapped onto the joints of a named skeleton; set DATASET.SKELETON "
            "coco, union, crowdpose, mpii or aic"
        )
    if weights and len(weights) != len(sources):
        raise ValueError(
            f"DATASET.MIXING.WEIGHTS has {len(weights)} entries for {len(sources)} "
            "DATASET.SOURCES; give one for each, or [], which is 1 for all"
        )


def _check_scale_set(scales: Sequence[float]) -> None:
    for scale in scales:
        side = 64 * scale / min(scales)  # at the smallest scale, sides are multiples of 64
        if side % 32:
            raise ValueError(
                f"TEST.SCALE_FACTOR {list(scales)} gives sides at scale {scale} that are multiples "
                f"of {side:g}, not of 32; use ratios such as [0.5, 1, 1.5] or [0.5, 1, 2]"
            )


def _check_resolutions(values: dict[str, Any]) -> None:
    deconvs = values["MODEL.NUM_DECONVS"]
    outputs, of_what = deconvs + 1, "resolutions"
    if values["MODEL.NAME"] in TOP_DOWN_MODELS:
        outputs = 1
    if values["MODEL.NAME"] == "multi_stage_hrnet":
        outputs, of_what = values["MODEL.STAGES.COUNT"], "networks in cascade"
        if values["MODEL.STAGES.WIDTHS"]:
            _one_or_each(values, "MODEL.STAGES.WIDTHS", outputs - 1, "networks after the first")
    _one_or_each(values, "LOSS.HEATMAP", outputs, of_what)
    _one_or_each(values, "LOSS.SIGMA", outputs, of_what)
    _one_or_each(values, "MODEL.DILATIONS", values["MODEL.NUM_BASIC_BLOCKS"], "residual blocks")
    strides = strides_of(deconvs)
    chosen = values["TEST.AGGREGATE"]
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(strides):
        raise ValueError(
            f"TEST.AGGREGATE is {list(chosen)}; MODEL.NUM_DECONVS {deconvs} gives outputs of "
            f"stride {', '.join(map(str, strides))}; list each at most once"
        )


def strides_of(deconvs: int) -> list[int]:
    """Network pixels per cell of each output, coarse to fine."""
    return [4 >> i for i in range(deconvs + 1)]


def _one_or_each(values: dict[str, Any], key: str, count: int, of_what: str) -> None:
    if len(values[key]) not in (1, count):
        raise ValueError(f"{key} has {len(values[key])} entries for {count} {of_what}")


def _check_subpixel(values: dict[str, Any]) -> None:
    codec, rule = values["MODEL.CODEC"], values["TEST.SUBPIXEL"]
    rules = SUBPIXEL_RULES[codec]
    if rule not in rules:
        raise ValueError(
            f"TEST.SUBPIXEL {rule} does not decode MODEL.CODEC {codec}; set TEST.SUBPIXEL "
            f"{' or '.join(rules)}"
        )


def _check_scale_losses(values: dict[str, Any]) -> None:
    if values["LOSS.SAHR"] and values["MODEL.NAME"] != "swahr":
        raise ValueError("LOSS.SAHR needs a network that predicts scales; use MODEL.NAME swahr")
    if values["LOSS.SAHR"] and values["LOSS.SHR"]:
        raise ValueError(
            "LOSS.SAHR and LOSS.SHR both set the width of the Gaussians; use one of them"
        )


def _experiment(path: Path) -> str:
    """configs/crowdpose/w32_512.yaml -> crowdpose/w32_512"""
    parts = path.resolve().with_suffix("").parts
    last = max((i for i, part in enumerate(parts[:-1]) if part == "configs"), default=-2)
    return "/".join(parts[last + 1 :]) if last >= 0 else parts[-1]


def _as_node(values: dict[str, Any]) -> CfgNode:
    root = CfgNode()
    for key, value in values.items():
        *groups, last = key.split(".")
        node = root
        for group in groups:
            node = node.setdefault(group, CfgNode())
        node[last] = value
    root.freeze()
    return root
