"""Loading weights: maps tensor names, and fills the model completely or not at all.

Three naming schemes are recognised: ours, that of the published HigherHRNet and SWAHR files, and
that of HRNet classifiers trained on ImageNet. Files: models/weight_io.py; names:
models/key_mapping.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hrpose.models.key_mapping import (
    OWN_WRAPPER,
    bare_name,
    is_published,
    name_in_single,
    our_name,
    prefix,
    published_name,
)
from hrpose.models.weight_io import read_weights
from hrpose.skeletons import COCO, CROWDPOSE, MPII

KNOWN_LEFTOVERS = (
    "conv_scale_layers.*",  # SWAHR's scale branch, in a model without one
    # ImageNet classifiers: their heads, under the names of both releases ...
    *("incre_modules.*", "downsamp_modules.*", "final_layer.*", "classifier.*", "head.*"),
    "stage4.*.fuse_layers.[123].*",  # ... and the fusion into coarse branches, which we omit
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

PUBLISHED_CONVENTION = "published"
"""Coordinate convention of all published files, which do not state it."""

PUBLISHED_SKELETONS = {17: COCO, 14: CROWDPOSE, 16: MPII}
"""Number of joints -> those of the published files, which do not name them."""

STORED_CONVENTIONS = {"official": "published", "exact": "unbiased"}
"""Names of conventions in our older files -> today's."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CONTAINERS = ("model", "state_dict", "best_state_dict")
_UNUSED = ".num_batches_tracked"  # BatchNorm's momentum is constant


class LoadReport(NamedTuple):
    """What happened to every tensor: our names, but published ones for leftovers and unexpected."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # not in the source; the model keeps its values
    unexpected: tuple[str, ...]  # in the source, unknown; empty after successful loading
    leftovers: tuple[str, ...]  # in the source, known and not needed
    kind: str  # of the source: hrpose, swahr, higher_hrnet, hrnet or imagenet
    mismatched: dict[str, str]  # name -> its two shapes; the model keeps its values
    averaging: str = ""  # whether the tensors are an EMA; empty: not known

    def __str__(self) -> str:
        source = ", ".join(filter(None, (self.kind, self.averaging)))
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
            ("known leftovers", self.leftovers),
        )
        return [f"{len(names)} {what}: {_brief(names)}" for what, names in groups if names]


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
    info = inspect_weights(contents, origin)
    _check_convention(model, contents, info, origin)
    other_joints = _has_other_joints(model, contents, info)
    source, tensors = _tensors_in(contents, origin)
    state = model.state_dict()
    places = {bare_name(name): name for name in state}  # our name -> the model's, with prefixes
    kept = [n for n in places if _matches(n, JOINT_DEPENDENT) and _matches(n, allow_missing)]
    if other_joints and not any(name.startswith("head") for name in kept):
        raise ValueError(f"{origin} {other_joints}")
    own = {name: state[place] for name, place in places.items()}
    tensors = _for_all_networks(tensors, own)
    report = _compare(own, tensors, source, kept if other_joints else ())
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


class WeightInfo(NamedTuple):
    """Properties inferred from a state dict."""

    published: bool  # naming scheme of the published files
    prefixes: tuple[str, ...]  # of wrappers, e.g. module.
    dtypes: tuple[str, ...]  # floating-point ones: float32, float16 ...
    joints: int  # of the heads, three times as many with offsets; 0: a backbone without heads


def inspect_weights(contents: Mapping[str, Any], origin: str) -> WeightInfo:
    """Naming scheme, wrapper prefixes, dtypes and joints of weights, bare or in a checkpoint."""
    state, tensors = _tensors_in(contents, origin)
    floats = {str(each.dtype) for each in state.values() if each.is_floating_point()}
    heads = [name for name in tensors if fnmatchcase(name, "heads.*.weight")]
    # The finest head has K channels, or 2K with the tags where it is the only one.
    channels = len(tensors[max(heads)]) if heads else 0
    if "head.weight" in tensors:  # top-down
        channels = len(tensors["head.weight"])
    return WeightInfo(
        published=any(map(is_published, state)),
        prefixes=tuple(sorted({prefix(name) for name in state} - {"", OWN_WRAPPER})),
        dtypes=tuple(sorted(kind.removeprefix("torch.") for kind in floats)),
        joints=channels // 2 if len(heads) == 1 else channels,
    )


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under published names."""
    return {published_name(name): tensor for name, tensor in state.items()}


def _tensors_in(
    contents: Mapping[str, Any], origin: str
) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
    """The state dict in a checkpoint, or the contents themselves: as it is, and by our names."""
    inside = (contents.get(key) for key in _CONTAINERS)
    state = next((found for found in inside if isinstance(found, Mapping)), contents)
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{origin}: {_brief(others)} should be tensors; give a state dict, or a checkpoint "
            f"that holds one under {', '.join(_CONTAINERS)}"
        )
    renamed = {our_name(name): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        raise ValueError(f"{origin} holds tensors twice, with and without a prefix; remove one set")
    return state, renamed


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


def _kind_of(names: Iterable[str]) -> str:
    """The network of a source, by its names: the authors' files have similar ones."""
    bare = [bare_name(name) for name in names]
    if not any(map(is_published, bare)):
        return "hrpose"
    kinds = _PUBLISHED_KINDS.items()
    return next(
        (kind for start, kind in kinds if any(n.startswith(start) for n in bare)), "imagenet"
    )


_PUBLISHED_KINDS = {
    "conv_scale_layers.": "swahr",
    "deconv_layers.": "higher_hrnet",
    "final_layers.": "hrnet",  # bottom-up, without deconvolutions
    "final_layer.weight": "hrnet",  # top-down; those of classifiers are final_layer.0
}
"""Beginning of a published name -> the network that has it; the first that occurs applies."""


def _compare(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    source: Iterable[str],
    other_joints: Sequence[str],
) -> LoadReport:
    """own: the model's tensors, tensors: the source's, both by our names; source: its own names;
    other_joints: our names of those that are for other joints
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
        kind=_kind_of(source),
        mismatched=mismatched,
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
                cure = f"to keep the model's values for these, set MODEL.ALLOW_MISSING {needed}"
    message = [f"{origin} does not fit; the model is unchanged", *refused.remarks(), cure]
    raise WeightsMismatchError("\n".join(message), report)


def _check_convention(
    model: nn.Module, contents: Mapping[str, Any], info: WeightInfo, origin: str
) -> None:
    """Our checkpoints store their convention, published files have a known one, backbones none."""
    known = PUBLISHED_CONVENTION if info.published and info.joints else None
    stored = contents.get("convention", known)
    theirs, ours = STORED_CONVENTIONS.get(stored, stored), getattr(model, "convention", None)
    if theirs and ours and theirs != ours:
        raise ValueError(
            f"{origin} were trained with {theirs} coordinates, this model uses {ours} ones; "
            f"set MODEL.COORDINATES {theirs}"
        )


def _has_other_joints(model: nn.Module, contents: Mapping[str, Any], info: WeightInfo) -> str:
    """How the joints differ, not only in number, and the cure; empty if they do not.

    Our files name their joints; those of published files are known by their number.
    """
    stored, known = contents.get("skeleton"), None
    if info.published and info.joints in PUBLISHED_SKELETONS:
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


def _brief(names: Sequence[object], most: int = 4) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(str, names[:most]), *more])
