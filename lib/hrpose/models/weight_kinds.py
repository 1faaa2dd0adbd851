"""What a state dict is, by its names and shapes: whose names, which network, for how many joints.

A file states none of this. Names: models/key_mapping.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor

from hrpose.models.key_mapping import (
    OWN_SCHEME,
    OWN_WRAPPER,
    our_name,
    prefix,
    scheme_of,
)
from hrpose.skeletons import COCO, CROWDPOSE, MPII

NETWORKS = {
    "later.*": ("hrnet", "Multi-Stage HRNet{}"),
    "neck.*": ("hrnet", "top-down HRNet{} with GPR"),
    "scale_branches.*": ("swahr", "SWAHR{}"),
    "deconvs.*": ("higher_hrnet", "HigherHRNet{}"),
    "heads.*": ("hrnet", "bottom-up HRNet{}"),
    "head.weight": ("hrnet", "top-down HRNet{}"),
    "classifier.*": ("imagenet", "HRNet{} classifier (the authors' or timm's)"),
    "backbone.*": ("imagenet", "HRNet{} backbone"),
}
"""Our names -> the network, by the first that occurs: its kind, and its title with the width."""

_FIRST_OF_WIDTH = "backbone.stage2.exchanges.0.branches.0.0.body.0.0.weight"

PUBLISHED_CONVENTION = "published"
"""Coordinates of files that do not state them, all but those of UDP, which have the same names."""

PUBLISHED_SKELETONS = {17: COCO, 14: CROWDPOSE, 16: MPII}
"""Number of joints -> those of the published files, which do not name them."""

STORED_CONVENTIONS = {"official": "published", "exact": "unbiased"}
"""Names of conventions in our older files -> today's."""

_CONTAINERS = ("model", "state_dict", "best_state_dict")


class WeightInfo(NamedTuple):
    """Properties inferred from a state dict."""

    scheme: str  # whose names: scheme_of
    kind: str  # of NETWORKS
    title: str  # of the network, e.g. HigherHRNet-W32
    prefixes: tuple[str, ...]  # of wrappers, e.g. module.
    dtypes: tuple[str, ...]  # floating-point ones: float32, float16 ...
    joints: int  # of the heads, three times as many with offsets; 0: a backbone without heads


def inspect_weights(
    contents: Mapping[str, Any], origin: str, own: Mapping[str, Tensor] | None = None
) -> WeightInfo:
    """What weights are, bare or in a checkpoint; own: tensors of the model that they are for."""
    state, tensors = tensors_in(contents, origin, own)
    floats = {str(each.dtype) for each in state.values() if each.is_floating_point()}
    heads = [name for name in tensors if fnmatchcase(name, "heads.*.weight")]
    # The finest head has K channels, or 2K with the tags where it is the only one.
    channels = len(tensors[max(heads)]) if heads else 0
    if "head.weight" in tensors:  # top-down
        channels = len(tensors["head.weight"])
    width = f"-W{len(tensors[_FIRST_OF_WIDTH])}" if _FIRST_OF_WIDTH in tensors else ""
    kinds = (kind for name, kind in NETWORKS.items() if any(fnmatchcase(n, name) for n in tensors))
    kind, title = next(kinds, ("unknown", "an unknown network"))
    return WeightInfo(
        scheme=scheme_of(state),
        kind=kind,
        title=title.format(width),
        prefixes=tuple(sorted({prefix(name) for name in state} - {"", OWN_WRAPPER})),
        dtypes=tuple(sorted(kind.removeprefix("torch.") for kind in floats)),
        joints=channels // 2 if len(heads) == 1 else channels,
    )


def stored_convention(contents: Mapping[str, Any], info: WeightInfo) -> str | None:
    """Coordinates of weights: those stored with them, or of published files; None: not known."""
    known = PUBLISHED_CONVENTION if info.joints and info.scheme != OWN_SCHEME else None
    stored = contents.get("convention", known)
    return STORED_CONVENTIONS.get(stored, stored)


def describe_weights(contents: Mapping[str, Any], info: WeightInfo, maps_of_a_joint: int) -> str:
    """In a line, e.g. mmpose 0.x, HigherHRNet-W32, 17 joints, published coordinates."""
    convention = stored_convention(contents, info)
    joints = f"{info.joints // maps_of_a_joint} joints" if info.joints else ""
    parts = (info.scheme, info.title, joints, convention and f"{convention} coordinates")
    return ", ".join(filter(None, parts))


def tensors_in(
    contents: Mapping[str, Any], origin: str, own: Mapping[str, Tensor] | None = None
) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
    """The state dict in a checkpoint, or the contents themselves: as it is, and by our names.

    own: those of the model that they are for, by our names, where it is known
    """
    inside = (contents.get(key) for key in _CONTAINERS)
    state = next((found for found in inside if isinstance(found, Mapping)), contents)
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"{origin}: {brief(others)} should be tensors; give a state dict, or a checkpoint "
            f"that holds one under {', '.join(_CONTAINERS)}"
        )
    renamed = {our_name(name): tensor for name, tensor in state.items()}
    if len(renamed) < len(state):
        raise ValueError(f"{origin} holds tensors twice, with and without a prefix; remove one set")
    if _is_bottom_up(renamed, own or {}):
        lone = {f"head.{part}": f"heads.0.{part}" for part in ("weight", "bias")}
        renamed = {lone.get(name, name): tensor for name, tensor in renamed.items()}
    return state, renamed


def _is_bottom_up(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether a lone head is that of a bottom-up model: mmpose calls it as a top-down network's.

    As many maps as published top-down networks have are not, unless the model has as many.
    """
    maps = len(tensors.get("head.weight", ()))
    if "heads.0.weight" not in own or any(name.startswith("later.") for name in own):
        return False
    return maps == len(own["heads.0.weight"]) or maps not in PUBLISHED_SKELETONS


def brief(names: Sequence[object], most: int = 4) -> str:
    """The first of many names, for a message."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(str, names[:most]), *more])
