"""Loading weights: maps tensor names, and fills the model completely or not at all.

Files: models/weight_io.py; names: models/key_mapping.py; what a file is: models/weight_kinds.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hrpose.models.key_mapping import OWN_SCHEME, bare_name, name_in_single, published_name
from hrpose.models.weight_io import read_weights
from hrpose.models.weight_kinds import (
    PUBLISHED_SKELETONS,
    WeightInfo,
    brief,
    describe_weights,
    inspect_weights,
    stored_convention,
    tensors_in,
)

KNOWN_LEFTOVERS = (
    "conv_scale_layers.*",  # SWAHR's scale branch, in a model without one
    # ImageNet classifiers: their heads, under the names of both releases ...
    *("incre_modules.*", "downsamp_modules.*", "final_layer.*", "classifier.*", "head.*"),
    "stage4.*.fuse_layers.[123].*",  # ... and the fusion into coarse branches, which we omit
    "data_preprocessor.*",  # mmpose 1.x: mean and deviation of colours
)
"""Published names that a model may lack without loss."""

JOINT_DEPENDENT = ("heads.*", "deconvs.*.up.0.weight", "scale_branches.*", "head.*")
"""Our names whose shapes depend on the joints; `allow_missing` to fine-tune on other joints."""

BEYOND_BACKBONE = (
    *("heads.*", "deconvs.*", "scale_branches.*", "head.*"),
    *("neck.*", "backbone.*.fusions.*", "later.*.fusions.*"),  # GPR and RAM
    *("later.*.boundary.*", "later.*.links.*"),  # Multi-Stage HRNet
)
"""Our names that a classifier lacks; `allow_missing` to start from ImageNet weights."""

BEYOND_POSE_HRNET = (
    *("head.*", "neck.*", "backbone.*.fusions.*", "later.*.fusions.*"),
    *("heads.*", "later.*.boundary.*", "later.*.links.*"),
    "backbone.stage4.exchanges.*.routes.[123].*",  # GPR reads all branches, HRNet's head the first
)
"""Our names that a top-down HRNet lacks, or has for another head; `allow_missing` to start RAM and
GPR from its weights."""

SCALE_BRANCHES = ("scale_branches.*",)
"""Our names that a HigherHRNet lacks; `allow_missing` to start SWAHR from its weights."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_OF_SWAHR = "conv_scale_layers."
_UNUSED = ".num_batches_tracked"  # BatchNorm's momentum is constant


class LoadReport(NamedTuple):
    """What happened to every tensor: our names, but published ones for leftovers and unexpected."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # not in the source; the model keeps its values
    unexpected: tuple[str, ...]  # in the source, unknown; empty after successful loading
    leftovers: tuple[str, ...]  # in the source, known and not needed
    kind: str  # of the source: hrpose, or one of NETWORKS: swahr, higher_hrnet, hrnet, imagenet
    mismatched: dict[str, str]  # name -> its two shapes; the model keeps its values
    source: str  # in a line: describe_weights
    averaging: str = ""  # whether the tensors are an EMA; empty: not known

    def __str__(self) -> str:
        source = ", ".join(filter(None, (self.source, self.averaging)))
        return "\n".join([f"{len(self.loaded)} tensors loaded ({source})", *self.remarks()])

    def remarks(self) -> list[str]:
        """A line for each group of tensors that were not loaded."""
        groups = (
            ("not in the source", self.missing),
            (
                "of another shape or other joints",
                [f"{name} ({text})" for name, text in self.mismatched.items()],
            ),
            ("not in the model", self.unexpected),
            (
                "of SWAHR alone, whose file is called as HigherHRNet's (MODEL.NAME swahr has them)",
                [name for name in self.leftovers if name.startswith(_OF_SWAHR)],
            ),
            (
                "known leftovers",
                [name for name in self.leftovers if not name.startswith(_OF_SWAHR)],
            ),
        )
        return [f"{len(names)} {what}: {brief(names)}" for what, names in groups if names]


class WeightsMismatchError(ValueError):
    """The source does not fit the model, which is unchanged."""

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(message)
        self.report = report


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    allow_missing: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` from a file or a state dict, completely; on an error the model is unchanged.

    source: path (.pth, .safetensors) or mapping: a state dict, or a checkpoint that contains one
    allow_missing: globs over our names that may keep the model's values if the source lacks them
        or has them in another shape

    num_batches_tracked is ignored. Half precision is converted to the model's dtype.
    Errors: FileNotFoundError; ValueError (WeightsMismatchError) if the source does not fit, has
    other joints or another coordinate convention, or values that are no finite floats
    """
    if isinstance(allow_missing, str):
        raise ValueError(
            f"allow_missing is {allow_missing!r}; give a list of patterns: [{allow_missing!r}]"
        )
    if isinstance(source, Mapping):
        return load_contents(model, source, "the given weights", allow_missing)
    return load_contents(model, read_weights(source), os.fspath(source), allow_missing)


def load_contents(
    model: nn.Module, contents: Mapping[str, Any], origin: str, allow_missing: Sequence[str] = ()
) -> LoadReport:
    """`load_weights` from contents already read; errors name their `origin`."""
    state = model.state_dict()
    places = {bare_name(name): name for name in state}  # our name -> the model's, with prefixes
    own = {name: state[place] for name, place in places.items()}
    info = inspect_weights(contents, origin, own)
    _, tensors = tensors_in(contents, origin, own)
    three_maps = 0 < info.joints == 3 * getattr(model, "joints", 0)
    described = describe_weights(contents, info, 3 if three_maps else 1)
    if three_maps and info.scheme.startswith("mmpose"):
        raise ValueError(
            f"{origin} ({described}) has three maps a joint, and neither their order nor the unit "
            "of their offsets is known to be ours; take a file of heatmaps, MODEL.CODEC heatmap"
        )
    _check_convention(model, contents, info, f"{origin} ({described})")
    other_joints = _has_other_joints(model, contents, info)
    kept = [n for n in places if _matches(n, JOINT_DEPENDENT) and _matches(n, allow_missing)]
    if other_joints and not any(name.startswith("head") for name in kept):
        raise ValueError(f"{origin} {other_joints}")
    tensors = _for_all_networks(tensors, own)
    kind = "hrpose" if info.scheme == OWN_SCHEME else info.kind
    report = _compare(own, tensors, kept if other_joints else (), kind, described)
    report = report._replace(averaging=_averaging(contents))
    _check_fit(report, allow_missing, origin)
    fitting = {
        place: tensors[name]
        for name, place in places.items()
        if name in tensors
        and name not in report.mismatched
        and tensors[name].shape == state[place].shape
    }
    _check_values(fitting, origin)
    model.load_state_dict(fitting, strict=False)
    return report


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under published names."""
    return {published_name(name): tensor for name, tensor in state.items()}


def _for_all_networks(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A single network's tensors under the names of all networks in cascade that start from them.

    own: the model's tensors; without networks in cascade, or where the source has them: no change
    """
    if not any(name.startswith("later.") for name in own.keys() - tensors.keys()):
        return tensors
    if any(name.startswith("later.") for name in tensors):
        return tensors
    copies = {name: name_in_single(name) for name in own if name_in_single(name) in tensors}
    used = {*copies.values()}
    rest = {name: tensor for name, tensor in tensors.items() if name not in used}
    return {name: tensors[single] for name, single in copies.items()} | rest


def _compare(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    other_joints: Sequence[str],
    kind: str,
    source: str,
) -> LoadReport:
    """own: the model's tensors, tensors: the source's, both by our names;
    other_joints: names of those that are for other joints
    """
    wanted = [name for name in own if not name.endswith(_UNUSED)]
    foreign = [name for name in tensors if name not in own and not name.endswith(_UNUSED)]
    foreign = [published_name(name) for name in foreign]
    mismatched = {
        name: f"{list(tensors[name].shape)} in the source, {list(own[name].shape)} in the model"
        for name in wanted
        if name in tensors and tensors[name].shape != own[name].shape
    }
    also = [name for name in other_joints if name in tensors and name not in mismatched]
    mismatched |= dict.fromkeys(also, "for other joints in the source")
    return LoadReport(
        loaded=tuple(name for name in wanted if name in tensors and name not in mismatched),
        missing=tuple(name for name in wanted if name not in tensors),
        unexpected=tuple(name for name in foreign if not _matches(name, KNOWN_LEFTOVERS)),
        leftovers=tuple(name for name in foreign if _matches(name, KNOWN_LEFTOVERS)),
        kind=kind,
        mismatched=mismatched,
        source=source,
    )


def _check_fit(report: LoadReport, allow_missing: Sequence[str], origin: str) -> None:
    """WeightsMismatchError, with the cure, if tensors are unknown or lack without permission."""
    different = report.mismatched.items()
    refused = report._replace(
        missing=tuple(name for name in report.missing if not _matches(name, allow_missing)),
        mismatched={name: text for name, text in different if not _matches(name, allow_missing)},
        leftovers=(),
    )
    if report.loaded and not refused.remarks():
        return
    cure = "use the config of these weights: width, deconvolutions, residual blocks, joints"
    if report.loaded and not refused.unexpected:
        names = [*refused.missing, *refused.mismatched]
        choices = (BEYOND_BACKBONE, BEYOND_POSE_HRNET, JOINT_DEPENDENT, SCALE_BRANCHES)
        for patterns in choices:  # the last that fits, with the fewest names, wins
            if all(_matches(name, patterns) for name in names):
                needed = [p for p in patterns if any(_matches(name, [p]) for name in names)]
                cure = (
                    "TEST.MODEL_FILE needs all: use the config of these weights, or others. "
                    "MODEL.PRETRAINED does not: to keep the model's values for these in training, "
                    f"set MODEL.ALLOW_MISSING {needed}"
                )
    source = f"{origin} ({report.source})"
    message = [f"{source} does not fit; the model is unchanged", *refused.remarks(), cure]
    raise WeightsMismatchError("\n".join(message), report)


def _check_convention(
    model: nn.Module, contents: Mapping[str, Any], info: WeightInfo, origin: str
) -> None:
    """ValueError for weights of other coordinates than the model's; backbones have none."""
    theirs, ours = stored_convention(contents, info), getattr(model, "convention", None)
    if theirs and ours and theirs != ours:
        unnamed = (
            ". They do not state it: those of UDP are unbiased, and can be used once "
            f"tools/convert.py --coordinates {ours} has written them with it"
        )
        raise ValueError(
            f"{origin} were trained with {theirs} coordinates, this model uses {ours} ones; "
            f"set MODEL.COORDINATES {theirs}{'' if 'convention' in contents else unnamed}"
        )


def _has_other_joints(model: nn.Module, contents: Mapping[str, Any], info: WeightInfo) -> str:
    """How the joints differ, not only in number, and the cure; empty if they do not.

    Our files name their joints; those of published files are known by their number.
    """
    stored, known = contents.get("skeleton"), None
    if info.scheme != OWN_SCHEME and info.joints in PUBLISHED_SKELETONS:
        known = PUBLISHED_SKELETONS[info.joints].joints
    theirs = stored.get("joints") if isinstance(stored, Mapping) else known
    ours = getattr(model, "joint_names", None)
    if not theirs or not ours or list(theirs) == list(ours):
        return ""
    unnamed = "; if they were trained for these, convert them with this --cfg: tools/convert.py"
    return (
        f"were trained for the joints {', '.join(theirs)}; this model has {', '.join(ours)}; to "
        "find theirs, set DATASET.SKELETON; to train on from them for others, set MODEL.PRETRAINED "
        f"and MODEL.ALLOW_MISSING {list(JOINT_DEPENDENT)}{'' if stored else unnamed}"
    )


def _averaging(contents: Mapping[str, Any]) -> str:
    """Whether a checkpoint's weights are an EMA; empty where that is not known."""
    if contents.get("network") == "ema":
        return "the EMA of the weights"
    if "average" in contents:
        return "the raw weights; their EMA, also in the file: tools/convert.py --weights ema"
    return "the raw weights" if "network" in contents else ""


def _check_values(tensors: Mapping[str, Tensor], origin: str) -> None:
    """ValueError for weights that no training wrote: integers, NaN, infinite ones."""
    for name, tensor in tensors.items():
        if name.endswith(_UNUSED):
            continue
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{origin}: {name} is {kind}, not floating point; quantized weights without their "
                "scales cannot be read, so take the file from before they were quantized"
            )
        count = int((~tensor.isfinite()).sum())
        if count:
            raise ValueError(
                f"{origin}: {count} of {tensor.numel()} values of {name} are NaN or infinite; the "
                "training diverged or the file was damaged: use an earlier checkpoint"
            )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
