"""Checks of keypoints and joint names: what violates a rule of data/rules.py, described."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress
from typing import Any

import numpy as np

from hrpose.data.checks import FindViolations, Mask, location
from hrpose.data.coco import MAX_COORDINATE, is_number
from hrpose.data.statistics import DatasetView
from hrpose.skeletons import Skeleton, from_category, named_pair

FAR = 0.6
"""Distance of a joint from its box, in longer sides of the box; 99.9 % of COCO's are nearer."""


def joints_where(violates: Mask) -> FindViolations:
    """A check of all joints at once; `violates` gives (P, K) bool."""

    def check(view: DatasetView) -> Iterator[str]:
        for p, k in np.argwhere(violates(view)):
            values = ", ".join(f"{value:g}" for value in view.joints[p, k])
            yield f"{location(view.people[p])}: {view.schema.joints[k]} ({values})"

    return check


def wrong_joint_count(view: DatasetView) -> list[str]:
    count = len(view.schema.joints)
    found = []
    for person in compress(view.people, ~view.has_joints):
        if values := person.get("keypoints"):
            odd = [repr(value) for value in values if not is_number(value)][:1]
            entries = f"{len(values)} entries{', among them '.join(['', *odd])}"
            found.append(f"{location(person)}: {entries}, wanted {3 * count} numbers")
    return found


def not_finite(view: DatasetView) -> np.ndarray:
    within = np.abs(view.joints) <= MAX_COORDINATE  # NaN is not
    return ~np.all(within, axis=-1)


def odd_flags(view: DatasetView) -> np.ndarray:
    flags = view.joints[..., 2]
    return np.isfinite(flags) & ~np.isin(flags, (0, 1, 2))


def outside_image(view: DatasetView) -> np.ndarray:
    """Labelled joints beyond their image; none where the image's size is unknown."""
    at, sizes = view.joints[..., :2], view.image_sizes[:, None]
    return ((at < 0) | (at > sizes)).any(-1) & (view.joints[..., 2] > 0)


def placed_but_unlabelled(view: DatasetView) -> np.ndarray:
    return (view.joints[..., 2] == 0) & (view.joints[..., :2] != 0).any(-1)


def labelled_at_origin(view: DatasetView) -> np.ndarray:
    return (view.joints[..., 2] > 0) & (view.joints[..., :2] == 0).all(-1)


def far_from_box(view: DatasetView) -> np.ndarray:
    """Labelled joints farther from their person's box than FAR."""
    at, boxes = view.joints[..., :2], view.boxes[:, None]  # (P, K, 2), (P, 1, 4)
    low, high = boxes[..., :2], boxes[..., :2] + boxes[..., 2:]
    distance = np.maximum(np.maximum(low - at, at - high), 0).max(-1)  # (P, K)
    reach = FAR * boxes[..., 2:].max(-1)
    return (view.joints[..., 2] > 0) & (reach > 0) & (distance > reach)


def has_fractions(view: DatasetView) -> np.ndarray:
    """People with 2 or more labelled joints, all between 0 and 1."""
    at, labelled = view.joints[..., :2], view.joints[..., 2] > 0
    within = ((at >= 0) & (at <= 1)).all(-1)
    return (labelled.sum(1) >= 2) & (within | ~labelled).all(1) & (at > 0).any((1, 2))


def has_one_point(view: DatasetView) -> np.ndarray:
    """People with 3 or more labelled joints, all at the same point."""
    at, labelled = view.joints[..., :2], view.joints[..., 2:] > 0
    low = np.where(labelled, at, np.inf).min(1, initial=np.inf)
    high = np.where(labelled, at, -np.inf).max(1, initial=-np.inf)
    return (labelled[..., 0].sum(1) >= 3) & (low == high).all(1)


def counted_where(violates: Callable[[Any, int], Any]) -> FindViolations:
    """A check of num_keypoints against the number of labelled joints."""

    def check(view: DatasetView) -> list[str]:
        labelled = (view.joints[..., 2] > 0).sum(1).tolist()
        return [
            f"{location(person)}: num_keypoints {person['num_keypoints']}, labelled {count}"
            for person, valid, count in zip(view.people, view.has_joints, labelled)
            if is_number(person.get("num_keypoints"))
            and (valid or not person.get("keypoints"))
            and violates(person["num_keypoints"], count)
        ]

    return check


# Joint names ----------------------------------------------------------------------------------


def _names(view: DatasetView) -> tuple[str, ...]:
    """The joint names of the file, which need not be those of the skeleton."""
    return tuple(view.schema.category.get("keypoints") or ())


def out_of_range_limbs(view: DatasetView) -> list[str]:
    limbs = view.schema.category.get("skeleton") or ()
    return [str(limb) for limb in limbs if not named_pair(limb, view.schema.joints)]


def reordered_names(view: DatasetView) -> list[str]:
    names, joints = _names(view), view.schema.joints
    if sorted(names) != sorted(joints):
        return []
    return [f"{a} is read as {b}" for a, b in zip(names, joints) if a != b]


def other_joint_count(view: DatasetView) -> list[str]:
    names, joints = _names(view), view.schema.joints
    differs = names and len(names) != len(joints)
    return [f"{len(names)} in the file, {len(joints)} in the skeleton"] if differs else []


def other_names(view: DatasetView) -> list[str]:
    """Joint names that only the file or only the skeleton has."""
    names = _names(view)
    return sorted(set(names) ^ set(view.schema.joints)) if names else []


def invalid_names(view: DatasetView) -> list[str]:
    """Why these names do not form a skeleton: repeated, or one-sided."""
    try:
        _skeleton(view)
    except ValueError as error:
        return [str(error)]
    return []


def sideless_names(view: DatasetView) -> list[str]:
    """All of the names, if none is a left or right joint."""
    if invalid_names(view):
        return []
    skeleton = _skeleton(view)
    midline = skeleton.flip_order == list(range(len(skeleton.joints)))
    return list(skeleton.joints) if midline else []


def _skeleton(view: DatasetView) -> Skeleton:
    category = view.schema.category
    return from_category({**category, "keypoints": view.schema.joints, "skeleton": []})
