"""Weights from one format to another: runs, releases and published files, by either names.

The network is built and filled before anything is written, so a file that does not fit its config
is refused here, with the report, and not where somebody else wants to use it.
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
from hrpose.build import build_model
from hrpose.config import load_config, parse_config
from hrpose.models.files import check_target, read_weights, write_weights
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    PUBLISHED_CONVENTION,
    LoadReport,
    Nature,
    WeightsMismatch,
    load_contents,
    nature,
    to_published,
)
from hrpose.programs.command import command
from hrpose.programs.train import checkpoint_metadata, config_yaml
from hrpose.skeletons import COCO, CROWDPOSE
from hrpose.splits import build_skeleton

Tensors = Mapping[str, Tensor]

PUBLISHED_JOINTS = {
    17: ("COCO", COCO.joints, "configs/w32_512.yaml"),
    14: ("CrowdPose", CROWDPOSE.joints, "configs/crowdpose/w32_512.yaml"),
}
"""Number of joints -> whose they are in published files, which do not say; a config of theirs."""

NAMES: dict[str, Callable[[Tensors], dict[str, Tensor]]] = {"ours": dict, "published": to_published}


class Source(NamedTuple):
    """A file of weights, read."""

    path: Path
    contents: dict[str, Any]
    nature: Nature


@command
def main(arguments: Sequence[str] | None = None) -> None:
    known = _parser().parse_intermixed_args(arguments)
    check_target(known.target)
    source = read_source(known.source, known.network)
    config = config_of(source, known.cfg, known.overrides)
    assumed = assumptions(source, config)
    model, report = filled_model(config, source)
    state = {name: tensor for name, tensor in model.state_dict().items() if _kept(name, source)}
    print("\n".join([f"{source.path}: {report}", *assumed]))
    tensors = NAMES[known.names](halved(state) if known.half else state)
    bare = known.names == "published" and known.target.suffix == ".pth"
    digest = write_weights(known.target, tensors, {} if bare else facts(config, source))
    said = f"{len(tensors)} tensors (names: {known.names}), {_size(model, state)}"
    print(f"written: {known.target}, {said}\nsha256 {digest}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write weights in another format, once they are known to fit their network."
    )
    parser.add_argument("source", type=Path, help="a run's, a published file, or a release")
    parser.add_argument("target", type=Path, help="a new file: .safetensors (a release) or .pth")
    parser.add_argument("--cfg", help="what the network is built from; default: as SOURCE says")
    parser.add_argument("--names", choices=tuple(NAMES), default="ours", help="default: ours")
    parser.add_argument(
        "--network", choices=("val", "ema"), default="val", help="ema: the average in a last.pth"
    )
    parser.add_argument("--half", action="store_true", help="write float16: half the size")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the config")
    return parser


# What there is ----------------------------------------------------------------------------------


def read_source(path: Path, network: str) -> Source:
    """A file of weights and, of the networks in a run's checkpoint, the chosen one."""
    contents = read_weights(path)
    if network == "ema":
        contents = {**contents, "model": _average(contents, path)}
        contents.pop("average", None)
    return Source(path, contents, nature(contents, str(path)))


def _average(contents: Mapping[str, Any], path: Path) -> Tensors:
    if contents.get("network") == "ema":  # a best.pth, which holds one network alone
        return contents["model"]
    if "average" not in contents:
        raise ValueError(
            f"{path} holds no average of the weights: only a last.pth of a run with TRAIN.EMA "
            "does, or a best.pth where the average was best"
        )
    return contents["average"]["model"]


def config_of(source: Source, path: str | None, overrides: Sequence[str]) -> CfgNode:
    """The config of a file, or else the one that the weights keep; joints are the weights' own."""
    own = [*overrides, "TEST.MODEL_FILE", str(source.path)]
    if path:
        return load_config(path, own)
    text = source.contents.get("config")
    if not isinstance(text, str):
        raise ValueError(
            f"{source.path} does not say what network it is of; name its config, e.g. "
            f"--cfg {_config_like(source.nature.joints)}"
        )
    try:
        return parse_config(text, str(source.path), own)
    except ValueError as error:
        raise ValueError(f"{error}. Another config can be named: --cfg") from None


def _config_like(joints: int) -> str:
    _, _, config = PUBLISHED_JOINTS.get(joints, PUBLISHED_JOINTS[17])
    return config


def assumptions(source: Source, config: CfgNode) -> list[str]:
    """What is taken off the source, and for granted; ValueError: what cannot be."""
    path, contents, found = source
    said = [f"taken off its names: {prefix}" for prefix in found.prefixes]
    said += [f"{kind} read as float32" for kind in found.kinds if kind != "float32"]
    said += _networks(contents)
    if not found.joints:
        return [*said, "no heads: written as a backbone alone, for MODEL.PRETRAINED"]
    if "skeleton" not in contents:
        said.append(f"it does not name its {found.joints} joints; {_joints_taken(source, config)}")
    if "convention" not in contents:
        said.append(f"it does not name its coordinates; {_convention_taken(source, config)}")
    return said


def _networks(contents: Mapping[str, Any]) -> list[str]:
    """Which network of a run it is, where there could be two."""
    if contents.get("network") == "ema":
        return ["it is the average of the weights (ema), which was best"]
    return ["it holds the average of the weights as well: --network ema"] * ("average" in contents)


def _joints_taken(source: Source, config: CfgNode) -> str:
    """As many joints are taken for the config's."""
    joints, count = build_skeleton(config).joints, source.nature.joints
    whose, theirs, their_config = PUBLISHED_JOINTS.get(count, ("", (), ""))
    if len(joints) != count:
        cure = f"use a config of {whose}, e.g. --cfg {their_config}" if whose else "use its config"
        raise ValueError(
            f"{source.path} is for {count} joints, the config for {len(joints)}; {cure}"
        )
    return f"taken for {whose}'s" if joints == theirs else f"taken for {', '.join(joints)}"


def _convention_taken(source: Source, config: CfgNode) -> str:
    convention = config.MODEL.CONVENTION
    if not source.nature.published:
        return f"taken for {convention}, as the config says"
    if convention != PUBLISHED_CONVENTION:
        raise ValueError(
            f"{source.path} has published names, and all published weights were trained with "
            f"{PUBLISHED_CONVENTION} coordinates; MODEL.CONVENTION is {convention}: leave it out"
        )
    return f"taken for {PUBLISHED_CONVENTION}, as in all published files"


def filled_model(config: CfgNode, source: Source) -> tuple[nn.Module, LoadReport]:
    """The network of the config with the weights, all of them; of a backbone's, the backbone."""
    model = build_model(config)
    may_miss = () if source.nature.joints else BEYOND_BACKBONE
    try:
        return model, load_contents(model, source.contents, str(source.path), may_miss)
    except WeightsMismatch as error:
        raise ValueError(
            "\n".join([f"{source.path} does not fit the config:", *error.report.remarks()])
            + "\nuse the config that it was made with: --cfg, or KEY VALUE over it"
        ) from None


# What is written --------------------------------------------------------------------------------


def _kept(name: str, source: Source) -> bool:
    """Of a backbone's weights, nothing but the backbone."""
    return bool(source.nature.joints) or "backbone." in name


def facts(config: CfgNode, source: Source) -> dict[str, Any]:
    """What users of the file must know, and programs can check."""
    version = {"hrpose": hrpose.__version__}
    if not source.nature.joints:
        return version
    public = config.clone()
    public.defrost()
    public.TEST.MODEL_FILE = ""  # a place on the disk of who converted it
    return {**version, **checkpoint_metadata(config), "config": config_yaml(public)}


def halved(state: Tensors) -> dict[str, Tensor]:
    """float16, which has 11 binary digits of each number's 24; what that comes to is printed."""
    halves = {n: each.half() if each.is_floating_point() else each for n, each in state.items()}
    changed = {name: _change(state[name], half) for name, half in halves.items()}
    worst = max(changed, key=lambda name: changed[name])
    if changed[worst] == torch.inf:
        raise ValueError(
            f"{worst} has values beyond {torch.finfo(torch.float16).max:g}, the largest of "
            "float16; leave --half out"
        )
    print(
        f"float16: loading gives float32 again, but not the digits that are lost: a tensor's "
        f"values move by up to {changed[worst]:.1e} of its largest ({worst})"
    )
    return halves


def _change(tensor: Tensor, half: Tensor) -> float:
    """The largest change of a value, as a share of the largest value."""
    if half is tensor or not tensor.any():
        return 0.0
    return float((half.to(tensor.dtype) - tensor).abs().max() / tensor.abs().max())


def _size(model: nn.Module, state: Tensors) -> str:
    count = sum(each.numel() for name, each in model.named_parameters() if name in state)
    return f"{count / 1e6:.2f} M parameters ({count})"
