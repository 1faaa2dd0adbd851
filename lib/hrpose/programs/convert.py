"""Convert weights between checkpoints of runs, releases and published files.

The network is built and loaded before anything is written, so weights that do not fit their config
are refused with a report.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

import hrpose
from hrpose.builders.common import build_model, require_same_network
from hrpose.builders.datasets import build_skeleton
from hrpose.config import load_config, parse_config
from hrpose.models.key_mapping import OWN_SCHEME, bare_name
from hrpose.models.weight_io import check_target, read_weights, write_weights
from hrpose.models.weight_kinds import (
    PUBLISHED_CONVENTION,
    PUBLISHED_SKELETONS,
    STORED_CONVENTIONS,
    WeightInfo,
    inspect_weights,
)
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    LoadReport,
    WeightsMismatchError,
    load_contents,
    to_published,
)
from hrpose.programs.train import checkpoint_metadata, config_yaml

Tensors = Mapping[str, Tensor]

PUBLISHED_CONFIGS = {
    17: ("COCO", "configs/w32_512.yaml"),
    14: ("CrowdPose", "configs/crowdpose/w32_512.yaml"),
    16: ("MPII", "configs/mpii/hrnet_w32_256x256.yaml"),
}
"""Number of joints of published files -> data set and config."""

MAPS_OF_A_JOINT = {"heatmap": 1, "offset": 3}
"""MODEL.CODEC -> maps of a head for each joint."""

TOP_DOWN_CONFIG = "configs/topdown/hrnet_w32_256x192.yaml"

KEYS: dict[str, Callable[[Tensors], dict[str, Tensor]]] = {
    "hrpose": dict,
    "published": to_published,
}


class Source(NamedTuple):
    """A file of weights, read."""

    path: Path
    contents: dict[str, Any]
    info: WeightInfo


def main(known: argparse.Namespace) -> None:
    check_target(known.target)
    source = read_source(known.source, known.weights)
    coordinates = with_coordinates(source, known.coordinates)
    config = config_of(source, known.cfg, [*coordinates, *known.overrides])
    require_same_network(config, source.contents, str(source.path))
    model = build_model(config)
    own = {bare_name(name): tensor for name, tensor in model.state_dict().items()}
    source = source._replace(info=inspect_weights(source.contents, str(source.path), own))
    notes = assumptions(source, config)
    report = fill_model(model, source)
    whole = bool(source.info.joints)  # backbone weights are written without heads
    state = {k: v for k, v in model.state_dict().items() if whole or "backbone." in k}
    print("\n".join([f"{source.path}: {report}", *notes]))
    tensors = KEYS[known.keys](to_half(state) if known.half else state)
    bare = known.keys == "published" and known.target.suffix == ".pth"
    digest = write_weights(known.target, tensors, {} if bare else metadata(config, source))
    count = sum(each.numel() for name, each in model.named_parameters() if name in state)
    print(
        f"written: {known.target}, {len(tensors)} tensors (keys: {known.keys}), "
        f"{count / 1e6:.2f} M parameters ({count})\nsha256 {digest}"
    )


# Reading ----------------------------------------------------------------------------------------


def read_source(path: Path, weights: str) -> Source:
    """A file of weights; of a checkpoint with an EMA, the chosen ones ("model" or "ema")."""
    contents = read_weights(path)
    if weights == "ema" and contents.get("network") != "ema":  # a best.pth may be the EMA itself
        if "average" not in contents:
            raise ValueError(
                f"{path} holds no EMA: only the last.pth of a run with TRAIN.EMA does, or a "
                "best.pth where the EMA was best"
            )
        contents |= {"model": contents.pop("average")["model"], "network": "ema"}
    return Source(path, contents, inspect_weights(contents, str(path)))


def with_coordinates(source: Source, coordinates: str | None) -> list[str]:
    """Store the coordinates of weights with them; returns the config overrides that follow."""
    if not coordinates:
        return []
    stored = source.contents.setdefault("convention", coordinates)
    if not source.info.joints or STORED_CONVENTIONS.get(stored, stored) != coordinates:
        known = f"has {stored} coordinates stored" if source.info.joints else "is a backbone"
        raise ValueError(f"{source.path} {known}; leave --coordinates out")
    return ["MODEL.COORDINATES", coordinates]


def config_of(source: Source, path: str | None, overrides: Sequence[str]) -> CfgNode:
    """The config in the file `path`, or the one stored with the weights."""
    own = [*overrides, "TEST.MODEL_FILE", str(source.path)]
    if path:
        return load_config(path, own)
    text = source.contents.get("config")
    if not isinstance(text, str):
        like = PUBLISHED_CONFIGS.get(source.info.joints, PUBLISHED_CONFIGS[17])[-1]
        raise ValueError(
            f"{source.path} has no config stored with it; name the config, e.g. --cfg {like} "
            f"or, top-down, {TOP_DOWN_CONFIG}"
        )
    try:
        return parse_config(text, str(source.path), own)
    except ValueError as error:
        raise ValueError(f"{error}. Another config can be named: --cfg") from None


def assumptions(source: Source, config: CfgNode) -> list[str]:
    """Notes on what is removed from the source or assumed about it. Errors: ValueError"""
    _, contents, info = source
    notes = [f"prefix removed: {prefix}" for prefix in info.prefixes]
    notes += [f"{dtype} converted to float32" for dtype in info.dtypes if dtype != "float32"]
    if contents.get("network") == "ema":
        notes.append("the weights are the EMA")
    elif "average" in contents:
        notes.append("the file also has the EMA of the weights: --weights ema")
    if not info.joints:
        return [*notes, "no heads: written as a backbone, for MODEL.PRETRAINED"]
    if "skeleton" not in contents:
        notes.append(_assumed_joints(source, config))
    if "convention" not in contents:
        notes.append(f"no coordinate convention is stored; {_assumed_convention(source, config)}")
    return notes


def _assumed_joints(source: Source, config: CfgNode) -> str:
    """The config's joints, if there are as many."""
    joints, count, codec = build_skeleton(config).joints, source.info.joints, config.MODEL.CODEC
    data_set, example = PUBLISHED_CONFIGS.get(count, ("", ""))
    if count != MAPS_OF_A_JOINT[codec] * len(joints):
        cure = f"use a {data_set} config, e.g. --cfg {example}" if data_set else "use its config"
        for name, maps in MAPS_OF_A_JOINT.items():
            if count == maps * len(joints):
                cure = f"set MODEL.CODEC {name}"
        raise ValueError(
            f"{source.path} has {count} maps of joints, the config {len(joints)} joints; {cure}"
        )
    known = PUBLISHED_SKELETONS.get(len(joints))
    published = known is not None and joints == known.joints
    names = PUBLISHED_CONFIGS[len(joints)][0] if published else ", ".join(joints)
    return f"its {len(joints)} joints are not named; assumed: {names}"


def _assumed_convention(source: Source, config: CfgNode) -> str:
    convention = config.MODEL.COORDINATES
    if source.info.scheme == OWN_SCHEME:
        return f"assumed: {convention}, from the config"
    if convention != PUBLISHED_CONVENTION:
        raise ValueError(
            f"{source.path} has {source.info.scheme}, and published weights were trained with "
            f"{PUBLISHED_CONVENTION} coordinates; MODEL.COORDINATES is {convention}: leave it out, "
            f"or, for weights of UDP, state --coordinates {convention}"
        )
    return f"assumed: {PUBLISHED_CONVENTION}, as for all published files but UDP's (--coordinates)"


def fill_model(model: nn.Module, source: Source) -> LoadReport:
    """Load the weights into their config's network; backbone weights fill only its backbone.

    Joints that the source does not name are those of the config, as `assumptions` has printed.
    """
    allow_missing = () if source.info.joints else BEYOND_BACKBONE
    if "skeleton" not in source.contents:
        del model.joint_names  # nothing to compare
    try:
        return load_contents(model, source.contents, str(source.path), allow_missing)
    except WeightsMismatchError as error:
        remarks = "\n".join(error.report.remarks())
        raise ValueError(
            f"{source.path} ({error.report.source}) does not fit the config:\n{remarks}\n"
            "use the config that it was made with: --cfg, or KEY VALUE over it"
        ) from None


# Writing ----------------------------------------------------------------------------------------


def metadata(config: CfgNode, source: Source) -> dict[str, Any]:
    """Version, skeleton, convention and config of the weights; of a backbone only the version."""
    version = {"hrpose": hrpose.__version__}
    if not source.info.joints:
        return version
    public = config.clone()
    public.defrost()
    public.TEST.MODEL_FILE = ""  # a path on this machine
    known = {name: source.contents[name] for name in ("network",) if name in source.contents}
    return {**version, **known, **checkpoint_metadata(config), "config": config_yaml(public)}


def to_half(state: Tensors) -> dict[str, Tensor]:
    """float16, with 11 of float32's 24 significant bits; the largest error is printed."""
    halves = {n: each.half() if each.is_floating_point() else each for n, each in state.items()}
    errors = {name: _relative_error(state[name], half) for name, half in halves.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] == torch.inf:
        raise ValueError(
            f"{worst} has values beyond {torch.finfo(torch.float16).max:g}, the largest of "
            "float16; leave --half out"
        )
    print(
        f"float16: values change by up to {errors[worst]:.1e} of the largest in their tensor "
        f"({worst}); loading converts back to float32 without restoring them"
    )
    return halves


def _relative_error(tensor: Tensor, half: Tensor) -> float:
    """Largest absolute error, relative to the largest absolute value."""
    if half is tensor or not tensor.any():
        return 0.0
    return float((half.to(tensor.dtype) - tensor).abs().max() / tensor.abs().max())
