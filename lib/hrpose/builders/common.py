"""What the networks of all families share: their table, their weights, and how they compute."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from yacs.config import CfgNode

from hrpose.builders.datasets import at_option, build_skeleton
from hrpose.builders.devices import PRECISIONS
from hrpose.config.loading import load_config, network_differences
from hrpose.config.options import SUBPIXEL_RULES, TOP_DOWN_MODELS, as_yaml
from hrpose.data.augment import (
    Augment,
    CutoutConfig,
    PhotometricConfig,
    cutout,
    photometric,
    random_flip,
)
from hrpose.models.blocks import kaiming_init, normal_init
from hrpose.models.gpr import GPR, equation_step, reducing_step
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import FuseFactory, HRNet, SumFusion
from hrpose.models.multi_stage import CASCADES, MultiStageHRNet
from hrpose.models.optimize import prepare_for_inference
from hrpose.models.pose_hrnet import FinestBranch, PoseHRNet
from hrpose.models.ram import RAM, HiddenScores, linear_scores
from hrpose.models.swahr import SWAHR
from hrpose.models.weight_io import read_weights
from hrpose.models.weights import LoadReport, load_contents, load_weights
from hrpose.ops.normalize import IMAGENET_MEAN


def pick(table: Mapping[str, Any], name: str, option: str) -> Any:
    """An entry of a table, or an error that names the others."""
    if name not in table:
        raise ValueError(f"{option} is {name!r}; choose from {', '.join(sorted(table))}")
    return table[name]


def keywords(options: CfgNode, *names: str) -> dict[str, Any]:
    """Options as the keyword arguments of the same names, in lower case."""
    return {name.lower(): options[name] for name in names}


def input_size(config: CfgNode) -> tuple[int, int]:
    """(width, height) of a training crop in network pixels."""
    size = config.DATASET.INPUT_SIZE
    return size if isinstance(size, tuple) else (size, size)


def build_flip(config: CfgNode) -> Augment:
    """The horizontal flip of a training sample."""
    flip_order = build_skeleton(config).flip_order
    return partial(random_flip, probability=config.DATASET.FLIP, flip_order=flip_order)


FILLS = {"mean": tuple(round(255 * level) for level in IMAGENET_MEAN), "black": (0, 0, 0)}
"""DATASET.CUTOUT.FILL -> RGB of hidden pixels."""


def build_cutout(config: CfgNode) -> Augment:
    """The hidden squares of a training sample, which must be cropped by then."""
    data = config.DATASET
    names = ("PROBABILITY", "SQUARES", "SIDE", "MIN_SQUARES", "MIN_SIDE")
    options = keywords(data.CUTOUT, *names)
    return partial(cutout, config=CutoutConfig(FILLS[data.CUTOUT.FILL], **options))


def build_photometric(config: CfgNode) -> Augment:
    """The changes of a training crop's colours."""
    names = ("PROBABILITY", "BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")
    options = keywords(config.DATASET.PHOTOMETRIC, *names)
    return partial(photometric, config=PhotometricConfig(**options))


# Networks: config -> module. To add one, write it in models/ and give it a line in MODELS.


def _backbone(config: CfgNode, branches: Sequence[int] = (0,)) -> HRNet:
    model = config.MODEL
    names = ("MODULES", "BLOCKS", "STEM", "BOTTLENECKS")
    fuse: FuseFactory = SumFusion
    if model.RAM.ENABLED:
        fuse = partial(RAM, scores=HiddenScores if model.RAM.HIDDEN else linear_scores)
    return HRNet(
        model.WIDTH,
        **keywords(model.BACKBONE, *names),
        branches=branches,
        fuse=fuse,
        last_fuse=SumFusion if model.RAM.SKIP_LAST else fuse,
    )


def _higher_hrnet(config: CfgNode) -> HigherHRNet:
    model = config.MODEL
    dilations = list(model.DILATIONS) * (model.NUM_BASIC_BLOCKS // len(model.DILATIONS))
    joints = len(build_skeleton(config).joints)
    network = HigherHRNet(_backbone(config), joints, model.NUM_DECONVS, dilations, model.CAT_OUTPUT)
    INITS[model.INIT](network)
    return network


def _pose_hrnet(config: CfgNode) -> PoseHRNet:
    model = config.MODEL
    branches: Sequence[int] = (0,)
    neck: FinestBranch | GPR = FinestBranch(model.WIDTH)
    if model.GPR.ENABLED:
        branches = range(4)
        step = pick(PYRAMID_STEPS, model.GPR.MODE, "MODEL.GPR.MODE")
        neck = GPR([model.WIDTH << branch for branch in branches], step)
    joints, offsets = len(build_skeleton(config).joints), model.CODEC == "offset"
    network = PoseHRNet(_backbone(config, branches), joints, neck, offsets)
    INITS[model.INIT](network)
    return network


def _multi_stage_hrnet(config: CfgNode) -> MultiStageHRNet:
    model = config.MODEL
    layout = pick(CASCADES, model.STAGES.PRESET, "MODEL.STAGES.PRESET")
    # Without links nothing reads the others: their weights would have no gradient.
    branches = layout.branches if model.STAGES.LINKS else layout.branches[:2]
    later = model.STAGES.WIDTHS or (model.WIDTH,)
    widths = later if len(later) > 1 else later * (model.STAGES.COUNT - 1)
    joints, backbone = len(build_skeleton(config).joints), _backbone(config, branches)
    heads = {"links": model.STAGES.LINKS, "offsets": model.CODEC == "offset"}
    network = MultiStageHRNet(backbone, joints, widths, layout, **heads)
    INITS[model.INIT](network)
    return network


def _swahr(config: CfgNode) -> SWAHR:
    """With branches that learn only where a loss reads them."""
    network = SWAHR(_higher_hrnet(config))
    if not is_scale_adaptive(config):  # processes that learn together wait for every gradient
        network.scale_branches.requires_grad_(False)
    return network


def is_scale_adaptive(config: CfgNode) -> bool:
    """Whether scales are learned: an infinite LAMBDA holds them all at 1."""
    return config.LOSS.SAHR and math.isfinite(config.LOSS.LAMBDA)


MODELS: dict[str, Callable[[CfgNode], nn.Module]] = {
    "higher_hrnet": _higher_hrnet,
    "swahr": _swahr,
    "pose_hrnet": _pose_hrnet,
    "multi_stage_hrnet": _multi_stage_hrnet,
}
PYRAMID_STEPS = {"reduce": reducing_step, "eq_only": equation_step}
INITS = {"published": normal_init, "fan_in": kaiming_init}


def build_model(config: CfgNode) -> nn.Module:
    """The network with its initial weights; `load_pretrained` and `load_weights` bring better."""
    network = pick(MODELS, config.MODEL.NAME, "MODEL.NAME")(config)
    network.convention = config.MODEL.COORDINATES
    network.joint_names = build_skeleton(config).joints
    return network


def load_pretrained(config: CfgNode, model: nn.Module) -> LoadReport | None:
    """MODEL.PRETRAINED into the model; None for training from scratch.

    A missing file is an error: training from scratch unnoticed would pass for a bad method.
    """
    if not config.MODEL.PRETRAINED:
        return None
    try:
        return load_weights(model, Path(config.MODEL.PRETRAINED), config.MODEL.ALLOW_MISSING)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"MODEL.PRETRAINED: {error}. python tools/zoo.py lists weights that have names; "
            "MODEL.PRETRAINED '' MODEL.INIT fan_in trains from scratch"
        ) from None


def config_of_network(named: str, kind: str = "") -> CfgNode:
    """The config of a network given as `<config>,<weights>`, these as its TEST.MODEL_FILE.

    kind: what stands before it in the option, for the error
    """
    path, _, weights = map(os.path.expanduser, named.partition(","))
    if not path or not weights:
        raise ValueError(
            f"wanted {kind}<config>,<weights>, e.g. {kind}configs/quickstart.yaml,"
            "output/quickstart/<time>/checkpoints/best.pth"
        )
    return load_config(path, ["TEST.MODEL_FILE", weights])


def ensemble_configs(config: CfgNode) -> list[CfgNode]:
    """The configs of TEST.MODEL_FILE and of every network of TEST.ENSEMBLE, all with this TEST.

    Errors: ValueError, FileNotFoundError for an entry that names no top-down network
    """
    members = [config]
    for named in config.TEST.ENSEMBLE:
        try:
            members.append(_member_config(config, named))
        except (ValueError, FileNotFoundError) as error:
            raise at_option(f"TEST.ENSEMBLE {named}", error) from error
    return members


def _member_config(config: CfgNode, named: str) -> CfgNode:
    member, weights, test = config.clone(), os.path.expanduser(named), config.TEST.clone()
    if "," in named or named.endswith((".yaml", ".yml")):
        if "," not in named:
            raise ValueError("wanted <config>,<weights>, in a list within quotes")
        member = config_of_network(named).clone()
        weights = member.TEST.MODEL_FILE
    if member.MODEL.NAME not in TOP_DOWN_MODELS:
        raise ValueError(
            f"MODEL.NAME is {member.MODEL.NAME}, which is bottom-up; only top-down networks are "
            "averaged, person by person: leave it out"
        )
    if test.SUBPIXEL not in SUBPIXEL_RULES[member.MODEL.CODEC]:
        raise ValueError(
            f"TEST.SUBPIXEL {test.SUBPIXEL} does not decode its MODEL.CODEC {member.MODEL.CODEC}; "
            "set TEST.SUBPIXEL convention: every network then decodes as its own codec does"
        )
    test.defrost()
    test.MODEL_FILE = weights
    member.defrost()
    member.TEST = test
    member.freeze()
    return member


def require_one_network(config: CfgNode) -> None:
    """ValueError for an ensemble, where one network is exported or timed."""
    if config.TEST.ENSEMBLE:
        raise ValueError(
            "TEST.ENSEMBLE names more networks, and this program takes one; leave TEST.ENSEMBLE "
            "out, and name each in turn as TEST.MODEL_FILE"
        )


def load_model(config: CfgNode) -> nn.Module:
    """The network with the weights of TEST.MODEL_FILE."""
    if not config.TEST.MODEL_FILE:
        raise ValueError(
            "TEST.MODEL_FILE is empty; name weights, output/<config>/<time>/checkpoints/best.pth"
        )
    contents = read_weights(config.TEST.MODEL_FILE)
    require_same_network(config, contents, config.TEST.MODEL_FILE)
    model = build_model(config)
    report = load_contents(model, contents, config.TEST.MODEL_FILE)
    logging.getLogger(__name__).info("%s: %s", config.TEST.MODEL_FILE, report)
    return model


def require_same_network(config: CfgNode, contents: Mapping[str, Any], origin: str) -> None:
    """ValueError for weights of a network that computes otherwise: a dilation changes no shape."""
    stored = contents.get("config")
    different = network_differences(config, stored, origin) if isinstance(stored, str) else []
    if different:
        both = [f"{key} {as_yaml(there)}, not {as_yaml(here)}" for key, there, here in different]
        values = [f"{key} {as_yaml(there)}".replace(", ", ",") for key, there, _ in different]
        cure = f"set {' '.join(values)}"
        if different[0][0] == "MODEL.NAME":  # of the other family, with other options throughout
            cure += " by the config.yaml of their run, or name other weights"
        raise ValueError(f"{origin} were trained with {'; '.join(both)}; {cure}")


def build_inference_model(config: CfgNode, model: nn.Module) -> nn.Module:
    """A copy of a network that computes as TEST specifies, on the same device."""
    test = config.TEST
    precision = PRECISIONS[test.PRECISION]
    return prepare_for_inference(model, precision, test.COMPILE)
