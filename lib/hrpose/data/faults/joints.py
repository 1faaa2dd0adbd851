"""What can be wrong with keypoints, and with the names of joints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hrpose.data.faults.finding import ERROR, NOTE, Check, Find, called
from hrpose.data.survey import Marks, has_joints
from hrpose.skeletons import Skeleton


def joints_where(holds: Callable[[Marks], np.ndarray]) -> Find:
    """A check of all joints at once; `holds` gives (P, K) bool."""

    def find(marks: Marks) -> list[str]:
        names, joints = marks.rules.joints, marks.joints
        return [
            f"{called(marks.people[p])}: {names[k]} ({', '.join(f'{n:g}' for n in joints[p, k])})"
            for p, k in np.argwhere(holds(marks))
        ]

    return find


def wrong_joint_count(marks: Marks) -> list[str]:
    count = len(marks.rules.joints)
    return [
        f"{called(person)}: {len(person['keypoints'])} entries, wanted {3 * count} numbers"
        for person in marks.people
        if person.get("keypoints") and not has_joints(person, count)
    ]


def not_finite(marks: Marks) -> np.ndarray:
    return ~np.isfinite(marks.joints).all(-1)


def odd_flags(marks: Marks) -> np.ndarray:
    flags = marks.joints[..., 2]
    return np.isfinite(flags) & ~np.isin(flags, (0, 1, 2))


def outside(marks: Marks) -> np.ndarray:
    """Labelled joints beyond their image, (P, K); none where the image's size is not known."""
    at, sizes = marks.joints[..., :2], marks.sizes[:, None]
    beyond = ((at < 0) | (at > sizes)).any(-1)
    return beyond & (marks.joints[..., 2] > 0)


def placed_but_unlabelled(marks: Marks) -> np.ndarray:
    return (marks.joints[..., 2] == 0) & (marks.joints[..., :2] != 0).any(-1)


def counted_where(holds: Callable[[Any, Any], Any]) -> Find:
    """A check of each one's num_keypoints against the number of joints that are labelled."""

    def find(marks: Marks) -> list[str]:
        count = len(marks.rules.joints)
        labelled = (marks.joints[..., 2] > 0).sum(1).tolist()
        return [
            f"{called(person)}: says {person['num_keypoints']}, has {has}"
            for person, has in zip(marks.people, labelled)
            if person.get("num_keypoints") is not None
            and has_joints(person, count)
            and holds(person["num_keypoints"], has)
        ]

    return find


def out_of_range_limbs(marks: Marks) -> list[str]:
    count = len(marks.rules.joints)
    limbs = marks.rules.category.get("skeleton") or ()
    return [str(limb) for limb in limbs if not all(1 <= end <= count for end in limb)]


def reordered_names(marks: Marks) -> list[str]:
    """Joints that stand elsewhere in the file than in the skeleton that is to be trained."""
    theirs = tuple(marks.rules.category.get("keypoints") or ())
    if sorted(theirs) != sorted(marks.rules.joints):
        return []
    return [f"{a} is read as {b}" for a, b in zip(theirs, marks.rules.joints) if a != b]


def other_names(marks: Marks) -> list[str]:
    """Joints that the skeleton calls otherwise, or that only one of the two has."""
    theirs = marks.rules.category.get("keypoints") or ()
    return sorted(set(theirs) ^ set(marks.rules.joints)) if theirs else []


def refused_names(marks: Marks) -> list[str]:
    """Why these names make no skeleton: repeated, or one-sided."""
    try:
        _skeleton(marks)
    except ValueError as error:
        return [str(error)]
    return []


def sideless_names(marks: Marks) -> list[str]:
    """All of the names, if none is that of a left or right joint."""
    if refused_names(marks):
        return []
    skeleton = _skeleton(marks)
    midline = skeleton.flip_order == list(range(len(skeleton.joints)))
    return list(skeleton.joints) if midline else []


def _skeleton(marks: Marks) -> Skeleton:
    names = marks.rules.joints
    return Skeleton(joints=names, sigmas=(1.0,) * len(names), grouping_order=names)


CHECKS = (
    Check(
        ERROR,
        "keypoints that are not 3 numbers for each joint of the skeleton",
        wrong_joint_count,
        "choose the DATASET.SKELETON of these annotations (file: from their categories), "
        "or complete them",
    ),
    Check(
        ERROR,
        "keypoints that are not finite",
        joints_where(not_finite),
        "write 0, 0, 0 for a joint that is not labelled",
    ),
    Check(
        ERROR,
        "visibility flags other than 0, 1 and 2",
        joints_where(odd_flags),
        "0: not labelled, 1: labelled but hidden, 2: seen. Scores of predictions do not "
        "belong here",
    ),
    Check(
        NOTE,
        "labelled joints outside of their image",
        joints_where(outside),
        "nothing to do for a few: they are trained only where a crop shows their place. "
        "Many: see the image sizes",
    ),
    Check(
        NOTE,
        "unlabelled joints with coordinates",
        joints_where(placed_but_unlabelled),
        "nothing to do if they are guesses: they are not trained. If they are labels, "
        "their flag must be 1 or 2",
    ),
    Check(
        ERROR,
        "people of whom nothing is labelled, but whose num_keypoints is above 0",
        counted_where(lambda says, has: says and not has),
        "count the joints whose flag is above 0; evaluation waits for these people in vain",
    ),
    Check(
        NOTE,
        "labelled people whose num_keypoints is 0",
        counted_where(lambda says, has: has and not says),
        "count the joints whose flag is above 0: these people are trained, but evaluation does "
        "not ask for them. CrowdPose means it so where only head or neck is labelled",
    ),
    Check(
        NOTE,
        "other num_keypoints than labelled joints",
        counted_where(lambda says, has: says and has and says != has),
        "nothing to do: only 0 or not matters (CrowdPose's leave out head and neck)",
    ),
    Check(
        NOTE,
        "limbs that name joints out of range",
        out_of_range_limbs,
        "nothing to do: they are left out of pictures (CrowdPose's file carries COCO's)",
    ),
    Check(
        ERROR,
        "joints in another order than the skeleton's",
        reordered_names,
        "set DATASET.SKELETON to file",
    ),
    Check(
        NOTE,
        "joint names that only the file or only the skeleton has",
        other_names,
        "see that both mean the same joints in the same order, or set DATASET.SKELETON to file",
    ),
    Check(
        ERROR,
        "joint names that make no skeleton",
        refused_names,
        "rename joints in `categories`, so that the mirror knows the left from the right",
    ),
    Check(
        NOTE,
        "no joint is left or right",
        sideless_names,
        "nothing to do if the body has no sides; else name its joints left_*, right_*, "
        "so that the mirror swaps them",
    ),
)
