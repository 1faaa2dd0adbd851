"""Weights from outside: renamed, and loaded whole or not at all. models/files.py reads them.

Three kinds of names are understood, each told by itself: ours; those of the published HigherHRNet
and SWAHR files; those of HRNet classifiers trained on ImageNet. models/names.py translates.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from hrpose.models.files import read_weights
from hrpose.models.names import (
    OWN_WRAPPER,
    bare_name,
    is_published,
    our_name,
    prefix,
    published_name,
)

KNOWN_LEFTOVERS = (
    "conv_scale_layers.*",  # SWAHR's scale branch, in a model without one
    # ImageNet classifiers: their head, under the names of either release ...
    *("incre_modules.*", "downsamp_modules.*", "final_layer.*", "classifier.*", "head.*"),
    "stage4.*.fuse_layers.[123].*",  # ... and the coarse branches, which it reads and we do not
)
"""Published names that may find no place in a model: nothing is lost with them."""

JOINT_DEPENDENT = ("heads.*", "deconvs.*.up.0.weight", "scale_branches.*")
"""Our names whose shapes follow from the number of joints; `may_miss` to fine-tune on others."""

BEYOND_BACKBONE = ("heads.*", "deconvs.*", "scale_branches.*")
"""Our names that a classifier's weights leave open; `may_miss` to start from ImageNet."""

SCALE_BRANCHES = ("scale_branches.*",)
"""Our names that a HigherHRNet leaves open in a SWAHR network; `may_miss` to go on from one."""

PUBLISHED_CONVENTION = "official"
"""Coordinates of all published files, which do not say so."""

_CONTAINERS = ("model", "state_dict", "best_state_dict")
_UNCOUNTED = ".num_batches_tracked"  # read by nothing: momentum is constant


class Difference(NamedTuple):
    """One tensor that both sides have, in different shapes."""

    name: str
    source: tuple[int, ...]
    model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} ({list(self.source)} in the source, {list(self.model)} in the model)"


class LoadReport(NamedTuple):
    """What became of every tensor; all names are ours, but for leftovers and unexpected ones."""

    used: tuple[str, ...]
    missing: tuple[str, ...]  # not in the source: the model keeps its own
    skipped: tuple[Difference, ...]  # of another shape: the model keeps its own
    leftovers: tuple[str, ...]  # in the source, known to be of no use here
    unexpected: tuple[str, ...]  # in the source, unknown here; none where loading succeeded

    def __str__(self) -> str:
        return "\n".join([f"{len(self.used)} tensors loaded", *self.remarks()])

    def remarks(self) -> list[str]:
        """A line on each group of tensors that did not simply find its place."""
        groups = (
            ("not in the source", self.missing),
            ("of another shape", self.skipped),
            ("not in the model", self.unexpected),
            ("known leftovers", self.leftovers),
        )
        return [f"{len(names)} {what}: {_brief(names)}" for what, names in groups if names]


class WeightsMismatch(ValueError):
    """Source and model do not belong together; the model is as it was."""

    def __init__(self, message: str, report: LoadReport) -> None:
        super().__init__(message)
        self.report = report


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    may_miss: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` from a file or a state dict: entirely, or with an error and not at all.

    source:    path (.pth, .safetensors) or mapping; bare tensors, or a checkpoint around them
    may_miss:  patterns (as in file names) of our names that may keep the model's own values,
               be it that the source lacks them or has them in another shape

    Counters of batches seen never matter. Half precision becomes the model's own.
    """
    if isinstance(may_miss, str):
        raise ValueError(f"may_miss is {may_miss!r}; give a list of patterns: [{may_miss!r}]")
    if isinstance(source, Mapping):
        return load_contents(model, source, "the given weights", may_miss)
    return load_contents(model, read_weights(source), os.fspath(source), may_miss)


def load_contents(
    model: nn.Module, contents: Mapping[str, Any], origin: str, may_miss: Sequence[str] = ()
) -> LoadReport:
    """`load_weights` of what was read already; errors name `origin` as where it is from."""
    _refuse_other_convention(model, contents, origin)
    _refuse_other_joints(model, contents, origin, may_miss)
    tensors = _by_our_names(_tensors_in(contents, origin), origin)
    state = model.state_dict()
    places = {bare_name(name): name for name in state}  # ours -> the model's
    own = {name: state[place] for name, place in places.items()}
    report = _compare(own, tensors)
    _refuse_mismatch(report, may_miss, origin)
    fitting = {
        place: tensors[name]
        for name, place in places.items()
        if _fits(own[name], tensors.get(name))
    }
    model.load_state_dict(fitting, strict=False)
    return report


class Nature(NamedTuple):
    """What can be told of weights by their tensors alone."""

    published: bool  # named as in the published files
    prefixes: tuple[str, ...]  # of wrappers, before those names
    kinds: tuple[str, ...]  # of floating-point numbers: float32, float16 ...
    joints: int  # that the heads are for; 0: a backbone without heads


def nature(contents: Mapping[str, Any], origin: str) -> Nature:
    """What weights are of, whatever surrounds them and however they are named."""
    state = _tensors_in(contents, origin)
    tensors = _by_our_names(state, origin)
    floats = {str(each.dtype) for each in state.values() if each.is_floating_point()}
    return Nature(
        published=any(map(is_published, state)),
        prefixes=tuple(sorted({prefix(name) for name in state} - {"", OWN_WRAPPER})),
        kinds=tuple(sorted(kind.removeprefix("torch.") for kind in floats)),
        joints=_joints_of(tensors),
    )


def _joints_of(tensors: Mapping[str, Tensor]) -> int:
    """The finest head predicts a heatmap of every joint; an only one its tags as well."""
    heads = [name for name in tensors if fnmatchcase(name, "heads.*.weight")]
    rows = len(tensors[max(heads)]) if heads else 0
    return rows // 2 if len(heads) == 1 else rows


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours under the names of the published files."""
    return {published_name(name): tensor for name, tensor in state.items()}


def _tensors_in(contents: Mapping[str, Any], origin: str) -> Mapping[str, Tensor]:
    """The state dict itself, out of whatever checkpoint surrounds it."""
    inside = (contents.get(key) for key in _CONTAINERS)
    state = next((found for found in inside if isinstance(found, Mapping)), contents)
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(
            f"{origin}: {_brief(strangers)} should be tensors; give a state dict, or a checkpoint "
            f"that holds one under {', '.join(_CONTAINERS)}"
        )
    return state


def _by_our_names(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    renamed = {our_name(name): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        raise ValueError(f"{origin} holds tensors twice, with and without a prefix; remove one set")
    return renamed


def _compare(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> LoadReport:
    wanted = [name for name in own if not name.endswith(_UNCOUNTED)]
    foreign = [name for name in tensors if name not in own and not name.endswith(_UNCOUNTED)]
    foreign = [published_name(name) for name in foreign]
    return LoadReport(
        used=tuple(name for name in wanted if _fits(own[name], tensors.get(name))),
        missing=tuple(name for name in wanted if name not in tensors),
        skipped=tuple(
            Difference(name, tuple(tensors[name].shape), tuple(own[name].shape))
            for name in wanted
            if name in tensors and not _fits(own[name], tensors[name])
        ),
        leftovers=tuple(name for name in foreign if _matches(name, KNOWN_LEFTOVERS)),
        unexpected=tuple(name for name in foreign if not _matches(name, KNOWN_LEFTOVERS)),
    )


def _fits(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and tensor.shape == other.shape


def _refuse_mismatch(report: LoadReport, may_miss: Sequence[str], origin: str) -> None:
    refused = report._replace(
        missing=tuple(name for name in report.missing if not _matches(name, may_miss)),
        skipped=tuple(one for one in report.skipped if not _matches(one.name, may_miss)),
        leftovers=(),
    )
    if refused.remarks() or not report.used:
        lines = [f"{origin}: no fit, the model stays as it was", *refused.remarks(), _cure(refused)]
        raise WeightsMismatch("\n".join(lines), report)


def _cure(refused: LoadReport) -> str:
    names = [*refused.missing, *(difference.name for difference in refused.skipped)]
    same_build = refused.used and not refused.unexpected
    for constant, patterns in _MAY_MISS.items():
        if same_build and all(_matches(name, patterns) for name in names):
            return f"if these may keep the model's own values, pass may_miss={constant} {patterns}"
    return "build the model as these weights were: width, deconvolutions, residual blocks, joints"


_MAY_MISS = {
    "SCALE_BRANCHES": SCALE_BRANCHES,
    "JOINT_DEPENDENT": JOINT_DEPENDENT,
    "BEYOND_BACKBONE": BEYOND_BACKBONE,
}


def _refuse_other_convention(model: nn.Module, contents: Mapping[str, Any], origin: str) -> None:
    theirs, ours = _convention_of(contents, origin), getattr(model, "convention", None)
    if theirs and ours and theirs != ours:
        raise ValueError(
            f"{origin} were trained with the coordinates {theirs!r}, this model reads {ours!r}; "
            f"set MODEL.CONVENTION: {theirs}"
        )


def _convention_of(contents: Mapping[str, Any], origin: str) -> str | None:
    """What a checkpoint says; else that of the published files, of which backbones have none."""
    kind = nature(contents, origin)
    known = PUBLISHED_CONVENTION if kind.published and kind.joints else None
    return contents.get("convention", known)


def _refuse_other_joints(
    model: nn.Module, contents: Mapping[str, Any], origin: str, may_miss: Sequence[str]
) -> None:
    """As many joints need not be the same ones; heads that may be missed may be of others."""
    skeleton = contents.get("skeleton")
    theirs = skeleton.get("joints") if isinstance(skeleton, Mapping) else None
    ours = getattr(model, "joint_names", None)
    if theirs and ours and list(theirs) != list(ours) and "heads.*" not in may_miss:
        raise ValueError(
            f"{origin} were trained for the joints {', '.join(theirs)}, this model is for "
            f"{', '.join(ours)}; set DATASET.SKELETON, or may_miss JOINT_DEPENDENT to fine-tune"
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _brief(names: Sequence[object], most: int = 4) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(str, names[:most]), *more])
