"""What "a person" is: joint names, and all that follows from them.

Joints are named once; flips, limbs and the grouping order refer to the names. No other file
states a joint count or a left-right pair.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

DEFAULT_SIGMA = 0.05
"""OKS tolerance of a joint whose data set gives none; COCO's run from .025 (eye) to .107 (hip)."""

_SIDE = re.compile(
    r"[Ll]eft|LEFT|[Rr]ight|RIGHT"  # left_eye, eyeLeft, LEFT_EYE
    r"|(?<![A-Za-z])[LlRr](?=[A-Z]|[^A-Za-z]|$)"  # l_eye, L-Eye, LEye, lEye
    r"|(?<=[a-z])[LR](?![A-Za-z])"  # eyeL
)
_LOWER = re.compile("pelvis|hip|knee|ankle|heel|foot|toe", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


ALIASES: dict[str, str] = {
    f"{letter}_{joint}": f"{side}_{joint}"
    for letter, side in (("l", "left"), ("r", "right"))
    for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
"""Other spellings of joints -> the names used here.

Joints that were annotated at different points of the body stay apart: CrowdPose's `head` is not
the `head_top` of MPII and AIC, and `neck` (CrowdPose, AIC) is not MPII's `upper_neck`.
"""

AMBIGUOUS = ("neck",)
"""Names that data sets give to different points: CrowdPose's and AIC's necks are not the same."""


@dataclass(frozen=True)
class Skeleton:
    """The joints of one kind of body."""

    joints: tuple[str, ...]  # in the order of the annotation files
    sigmas: tuple[float, ...]  # OKS tolerance of each joint
    grouping_order: tuple[str, ...]  # joints in the order in which people are assembled
    limbs: tuple[tuple[str, str], ...] = ()  # what a picture connects
    flip_pairs: tuple[tuple[str, str], ...] = ()  # left and right; empty: by the joints' names

    def __post_init__(self) -> None:
        _refuse_repeats(self.joints)
        if not self.flip_pairs:
            _refuse_hidden_pairs(self.joints)
        if len(self.sigmas) != len(self.joints):
            raise ValueError(
                f"{len(self.sigmas)} sigmas for {len(self.joints)} joints; give one for each in "
                f"DATASET.OKS_SIGMAS: {', '.join(self.joints)}"
            )
        if any(sigma <= 0 for sigma in self.sigmas):
            raise ValueError(f"sigmas are {self.sigmas}; each must be above 0")
        if sorted(self.grouping_order) != sorted(self.joints):
            joints, order = set(self.joints), self.grouping_order
            twice = sorted({name for name in order if order.count(name) > 1})
            raise ValueError(
                "the grouping order (DATASET.GROUPING_ORDER) must name every joint once; missing: "
                f"{sorted(joints - {*order})}, unknown: {sorted({*order} - joints)}, twice: {twice}"
            )
        # Computed here, so that ambiguous names fail now and not in the middle of training.
        self.flip_order, self.grouping_indices  # noqa: B018

    @cached_property
    def flip_order(self) -> list[int]:
        """Index of each joint's left-right twin; a joint on the mid-line is its own."""
        pairs = {name: twin for a, b in self.flip_pairs for name, twin in ((a, b), (b, a))}
        if pairs:
            return [self.joints.index(pairs.get(name, name)) for name in self.joints]
        return [self.joints.index(_twin(name, self.joints)) for name in self.joints]

    @cached_property
    def grouping_indices(self) -> list[int]:
        """`grouping_order` as indices of `joints`."""
        return [self.joints.index(name) for name in self.grouping_order]

    @property
    def upper_joints(self) -> list[int]:
        """Indices of the joints above the hips: all but `lower_joints`."""
        lower = self.lower_joints
        return [k for k in range(len(self.joints)) if k not in lower]

    @property
    def lower_joints(self) -> list[int]:
        """Indices of the joints whose names have a word of the body from the pelvis down."""
        return [k for k, name in enumerate(self.joints) if _LOWER.search(name)]

    @property
    def limb_indices(self) -> list[tuple[int, int]]:
        """`limbs` as indices of `joints`."""
        return [(self.joints.index(a), self.joints.index(b)) for a, b in self.limbs]


def side(name: str) -> str:
    """left, right, or nothing for a joint on the mid-line."""
    found = _SIDE.search(name)
    return {"l": "left", "r": "right"}[found[0][0].lower()] if found else ""


def _refuse_hidden_pairs(joints: Sequence[str]) -> None:
    """`rkne` and `lkne` are two sides to a person, but only two names to us."""
    for name in joints:
        for at in (0, len(name) - 1):
            other = _OTHER_SIDE.get(name[at].lower(), name[at])
            twin = name[:at] + _like(name[at], other) + name[at + 1 :]
            if twin != name and twin in joints and not side(name):
                raise ValueError(
                    f"are joints {name!r} and {twin!r} two sides of a body? Call them left_... and "
                    "right_..., or l_... and r_..."
                )


def _refuse_repeats(joints: Sequence[str]) -> None:
    repeated = sorted({name for name in joints if joints.count(name) > 1})
    if repeated or not joints or "" in joints:
        raise ValueError(f"joint names must be unique texts, at least one; repeated: {repeated}")


def _twin(name: str, joints: Sequence[str]) -> str:
    """The joint that `name` becomes in a mirror."""
    sides = _SIDE.findall(name)
    if not sides:
        return name
    if len(sides) > 1:
        raise ValueError(f"joint {name!r} names {' and '.join(sides)}: which side is it on?")
    twin = _SIDE.sub(lambda side: _like(side[0], _OTHER_SIDE[side[0].lower()]), name)
    if twin not in joints:
        raise ValueError(
            f"joint {name!r} is named as one of a pair, but there is no {twin!r}; "
            f"rename it, or add its twin. Joints: {', '.join(joints)}"
        )
    return twin


def _like(example: str, word: str) -> str:
    if example.isupper():
        return word.upper()
    return word.capitalize() if example[0].isupper() else word


def map_joints(source: Skeleton, target: Skeleton) -> list[int]:
    """For each joint of `target`, the index of the same joint of `source`; -1 where it has none.

    Joints are the same if ALIASES gives them one name. Those of AMBIGUOUS are the same only
    between skeletons of equal joints, and between those that NECKS gives the same.
    """
    if source.joints == target.joints:
        return list(range(len(target.joints)))
    named = {point: k for k, point in enumerate(_points(source)) if point}
    return [named.get(point, -1) for point in _points(target)]


def _points(skeleton: Skeleton) -> list[str]:
    """The name of the point that each joint marks; empty for a name of AMBIGUOUS in other sets.

    Right Hip, right-hip and right_hip are one.
    """
    plain = [re.sub("[ _-]+", "_", name).lower() for name in skeleton.joints]
    neck = NECKS.get(tuple(plain), "")
    return [neck if name in AMBIGUOUS else ALIASES.get(name, name) for name in plain]


def from_plain(fields: Mapping[str, Any]) -> Skeleton:
    """The skeleton that was written as plain values, lists for tuples; the rest is not read."""
    known = Skeleton.__dataclass_fields__
    return Skeleton(**{name: _tuples(value) for name, value in fields.items() if name in known})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def from_category(category: Mapping[str, Any], sigmas: Sequence[float] = ()) -> Skeleton:
    """The skeleton that a COCO `categories` entry describes.

    Its limbs count joints from 1 or name them; limbs of a joint that is not there are dropped with
    a warning (CrowdPose's files carry COCO's). Joints whose names have no left and right may be
    paired by `flip_pairs`, in the form of limbs. Without `sigmas` every joint gets DEFAULT_SIGMA.
    People are assembled in the order of the file.
    """
    if not category.get("keypoints"):
        raise ValueError(f"category {category.get('name')!r} lists no 'keypoints' (joint names)")
    joints = tuple(category["keypoints"])
    limbs = [named_pair(limb, joints) for limb in category.get("skeleton") or ()]
    known = tuple(limb for limb in limbs if limb)
    if len(known) < len(limbs):
        warnings.warn(
            f"{len(limbs) - len(known)} of {len(limbs)} limbs name joints beyond {len(joints)} "
            "and are dropped",
            stacklevel=2,
        )
    pairs = [named_pair(pair, joints) for pair in category.get("flip_pairs") or ()]
    ends = [name for pair in pairs if pair for name in pair]
    if None in pairs or len(ends) > len(set(ends)):
        raise ValueError(
            f"flip_pairs of category {category.get('name')!r} are {category['flip_pairs']}; list "
            "pairs of joints, each joint at most once, by name or counted from 1"
        )
    return Skeleton(
        joints=joints,
        sigmas=tuple(sigmas) or (DEFAULT_SIGMA,) * len(joints),
        grouping_order=joints,
        limbs=known,
        flip_pairs=tuple(pair for pair in pairs if pair),
    )


def named_pair(ends: Any, joints: Sequence[str]) -> tuple[str, str] | None:
    """Two joints, each by its name or its number from 1, as names; None for anything else."""
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    names = dict(enumerate(joints, 1)) | {name: name for name in joints}
    a, b = (names.get(end) if type(end) in (int, str) else None for end in ends)
    return (a, b) if a and b else None


def _paired(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for name in names for side in ("left", "right"))


def _published_order(joints: Sequence[str]) -> tuple[str, ...]:
    """Head, shoulders and hips before arms and legs; cut to `joints`, as the authors' code does."""
    order = [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16]
    return tuple(joints[i] for i in order[: len(joints)])


_LIMBS_OF_THE_BODY = (
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    *((f"{side}_shoulder", f"{side}_hip") for side in ("left", "right")),
    *((f"{side}_shoulder", f"{side}_elbow") for side in ("left", "right")),
    *((f"{side}_elbow", f"{side}_wrist") for side in ("left", "right")),
    *((f"{side}_hip", f"{side}_knee") for side in ("left", "right")),
    *((f"{side}_knee", f"{side}_ankle") for side in ("left", "right")),
)

_COCO_JOINTS = (
    "nose",
    *_paired("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
)
_CROWDPOSE_JOINTS = (
    *_paired("shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
    "head",
    "neck",
)

# fmt: off
COCO = Skeleton(
    joints=_COCO_JOINTS,
    sigmas=(.026, .025, .025, .035, .035, .079, .079, .072, .072, .062, .062,
            .107, .107, .087, .087, .089, .089),
    grouping_order=_published_order(_COCO_JOINTS),
    limbs=_LIMBS_OF_THE_BODY + (
        ("nose", "left_eye"), ("nose", "right_eye"),
        ("left_eye", "left_ear"), ("right_eye", "right_ear"),
        ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
    ),
)
CROWDPOSE = Skeleton(
    joints=_CROWDPOSE_JOINTS,
    sigmas=(.079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089, .079, .079),
    # Anatomically odd, but it is what gives the published CrowdPose figures.
    grouping_order=_published_order(_CROWDPOSE_JOINTS),
    limbs=_LIMBS_OF_THE_BODY + (
        ("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
    ),
)
_AIC_JOINTS = (
    *(f"{side}_{name}" for side in ("right", "left") for name in ("shoulder", "elbow", "wrist")),
    *(f"{side}_{name}" for side in ("right", "left") for name in ("hip", "knee", "ankle")),
    "head_top", "neck",
)
# AI Challenger. Tolerances: its official evaluation.
AIC = Skeleton(
    joints=_AIC_JOINTS,
    sigmas=(.01388152, .01515228, .01057665, .01417709, .01497891, .01402144, .03909642,
            .03686941, .01981803, .03843971, .03412318, .02415081, .01291456, .01236173),
    grouping_order=_AIC_JOINTS,
    limbs=_LIMBS_OF_THE_BODY + (
        ("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
    ),
)
_MPII_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "pelvis", "thorax", "upper_neck", "head_top",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
)
# MPII is scored by PCKh; its OKS tolerances are ours: COCO's for the limbs, the hip's for the
# pelvis, the shoulder's for the other joints of the mid-line.
MPII = Skeleton(
    joints=_MPII_JOINTS,
    sigmas=(.089, .087, .107, .107, .087, .089, .107, .079, .079, .079,
            .062, .072, .079, .079, .072, .062),
    grouping_order=_MPII_JOINTS,
    limbs=_LIMBS_OF_THE_BODY + (
        ("head_top", "upper_neck"), ("upper_neck", "thorax"), ("thorax", "pelvis"),
    ),
)
_UNION_JOINTS = (*_COCO_JOINTS, "head_top", "neck", "pelvis", "thorax")
# All joints of COCO, MPII and AI Challenger that are one point of the body in each set that has
# them. Its neck is AI Challenger's; MPII's upper neck, CrowdPose's neck and head are other points.
UNION = Skeleton(
    joints=_UNION_JOINTS,
    sigmas=(*COCO.sigmas, .079, .079, .107, .079),  # of MPII above
    grouping_order=(*COCO.grouping_order, "head_top", "neck", "pelvis", "thorax"),
    limbs=COCO.limbs + (
        ("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
        ("thorax", "pelvis"),
    ),
)
# fmt: on

SKELETONS = {"coco": COCO, "crowdpose": CROWDPOSE, "mpii": MPII, "aic": AIC, "union": UNION}
"""Built-in skeletons by their names in DATASET.SKELETON."""

NECKS = {
    AIC.joints: "neck of AI Challenger",
    UNION.joints: "neck of AI Challenger",
    CROWDPOSE.joints: "neck of CrowdPose",
}
"""Joints of a built-in skeleton -> whose neck theirs is."""
