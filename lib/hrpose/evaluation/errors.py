"""What is wrong with the joints of found people, and with their grouping.

Source of jitter, inversion, swap and miss: Ronchi and Perona, Benchmarking and Error Diagnosis in
Multi-Instance Pose Estimation, ICCV 2017. Merged and split people are ours.

Their unit is the similarity of a found joint to a labelled place, of the person's area and the
joint's tolerance: ks = exp(-d^2 / (2 area (2 sigma)^2)). OKS is its mean over a person's joints.
Annotations and poses are numbered from 1, in the order in which the evaluator has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.coco import SIZE_RANGES, Comparison, match_poses
from hrpose.evaluation.results import joints_array
from hrpose.skeletons import Skeleton

KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD_KS, JITTER_KS = 0.85, 0.5
"""Lowest ks of a good joint, and of one that is at least near some place."""

MATCHED_OKS = 0.1
"""OKS from which a pose is taken for one of the person."""

ANALYZED_RANGES = {**SIZE_RANGES, "all": (32**2, 1e10)}
"""Square pixels of the people whose errors are counted."""

PART = 0.2
"""Least share of joints that makes a part of a person."""

MOST_POSES = 20
"""Poses of an image that COCO's metrics count, the best ones."""


@dataclass(frozen=True, eq=False)
class JointErrors:
    """The joints of M people, each with the pose that COCO's rules match to it."""

    people: np.ndarray  # (M,) numbers of annotations
    poses: np.ndarray  # (M,) numbers of poses
    kinds: np.ndarray  # (M, K) of KINDS; empty where the person's joint is not labelled
    similarities: np.ndarray  # (M, K): the highest ks to any place; -1 where not labelled


@dataclass(frozen=True)
class GroupingErrors:
    """Poses that were assembled from parts of two people, and people who are in two poses."""

    poses: int  # that were examined, of at most MOST_POSES an image
    people: int  # with a labelled joint
    merged: tuple[int, ...]  # numbers of poses with PART of their joints from a second person
    split: tuple[int, ...]  # numbers of people covered by two poses
    foreign: float  # share of all poses' joints that are from the second person


def place_similarities(
    found: np.ndarray, people: np.ndarray, areas: np.ndarray, skeleton: Skeleton
) -> np.ndarray:
    """ks of found joints to two places of every person, (N, P, K, 2); -1: not labelled.

    The places of joint k are joint k itself and its left-right twin; a joint on the mid-line has
    the first only. Tolerance is that of k, area that of the person.

    found: (N, K, 2 | 3)   people: (P, K, 3) x, y, visibility   areas: (P,)
    """
    joints = np.arange(len(skeleton.joints))
    order = np.stack([joints, skeleton.flip_order], 1)  # (K, 2)
    places = people[:, order]  # (P, K, 2, 3)
    squares = ((found[:, None, :, None, :2] - places[..., :2]) ** 2).sum(-1)  # (N, P, K, 2)
    tolerance = 2 * (2 * np.asarray(skeleton.sigmas)[:, None]) ** 2  # (K, 1)
    # The smallest float step, as in pycocotools: an area of 0 does not divide 0 by 0.
    similar = np.exp(-squares / (tolerance * (areas[:, None, None] + np.spacing(1.0))))
    known = places[..., 2] > 0
    known[..., 1] &= order[:, 0] != order[:, 1]
    return np.where(known, similar, -1)


def classify_joints(similarities: np.ndarray, own: int) -> tuple[np.ndarray, np.ndarray]:
    """The kind (K,) of each joint of a pose of person `own`, and its highest ks (K,).

    Of the most similar place: good or jitter at the own joint, inversion at its twin, swap at
    either of another person; miss where no place has JITTER_KS. Of equal places the first.

    similarities: (P, K, 2), as `place_similarities` has them
    """
    own_first = np.concatenate([similarities[own : own + 1], np.delete(similarities, own, 0)])
    places = own_first.transpose(1, 0, 2).reshape(own_first.shape[1], -1)  # (K, 2P)
    highest, place = places.max(1), places.argmax(1)
    cases = {
        "": places[:, 0] < 0,
        "miss": highest < JITTER_KS,
        "swap": place > 1,
        "inversion": place == 1,
        "jitter": highest < GOOD_KS,
    }
    kinds = np.select(list(cases.values()), list(cases), "good")
    return kinds, np.where(kinds == "", -1, highest)


def labelled_people(pair: Comparison, image_id: int) -> list[Mapping[str, Any]]:
    """The annotations of an image that are of one person, with a labelled joint."""
    people = pair.truth.imgToAnns.get(image_id, [])
    labelled = (one for one in people if any(flag > 0 for flag in one["keypoints"][2::3]))
    return [one for one in labelled if not one["iscrowd"]]


def counted_people(pair: Comparison, image_id: int, size: str = "all") -> list[Mapping[str, Any]]:
    """Those of a size that COCO's rules do not ignore."""
    low, high = ANALYZED_RANGES[size]
    people = labelled_people(pair, image_id)
    return [one for one in people if one["num_keypoints"] and low <= one["area"] <= high]


def find_joint_errors(pair: Comparison, skeleton: Skeleton) -> JointErrors:
    """The joints of all people that COCO's rules match at MATCHED_OKS, classified."""
    run = match_poses(pair, {"all": ANALYZED_RANGES["all"]}, [MATCHED_OKS])
    pairs, kinds, similarities = matched_pairs(run), [], []
    for person, pose in pairs:
        people = labelled_people(pair, pair.truth.anns[person]["image_id"])
        truth = joints_array(people, len(skeleton.joints))
        found = joints_array([pair.detections.anns[pose]], len(skeleton.joints))
        (similar,) = place_similarities(found, truth, areas_of(people), skeleton)
        own = [one["id"] for one in people].index(person)
        kind, highest = classify_joints(similar, own)
        kinds.append(kind)
        similarities.append(highest)
    shape = (len(pairs), len(skeleton.joints))
    numbers = np.array(pairs, int).reshape(-1, 2)
    return JointErrors(
        numbers[:, 0], numbers[:, 1],
        np.array(kinds, str).reshape(shape), np.array(similarities, float).reshape(shape),
    )  # fmt: skip


def matches_by_image(run: COCOeval) -> list[dict[str, Any]]:
    """pycocotools' matches in the images with people or poses, of the first size of people."""
    return [each for each in run.evalImgs[: len(run.params.imgIds)] if each]


def matched_pairs(run: COCOeval, threshold: int = 0) -> list[tuple[int, int]]:
    """(annotation, pose) of the people that count, at one of the OKS thresholds of `run`."""
    return [
        (int(person), pose)
        for each in matches_by_image(run)
        for pose, person, ignored in zip(
            each["dtIds"], each["dtMatches"][threshold], each["dtIgnore"][threshold]
        )
        if person and not ignored
    ]


def areas_of(people: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([person["area"] for person in people], float)


def find_grouping_errors(pair: Comparison, skeleton: Skeleton) -> GroupingErrors:
    """Merged and split people of all images.

    A found joint (not at 0, 0) is from the person of the most similar place, if that has JITTER_KS.
    A pose covers the person whose joints it is most similar to, if their OKS is above .5 over the
    joints that it found, and these are PART of the labelled ones.
    """
    merged: list[int] = []
    split: list[int] = []
    poses_in_all = people_in_all = joints_in_all = foreign_in_all = 0
    for image_id in sorted(pair.image_ids):
        people = labelled_people(pair, image_id)
        poses = pair.detections.imgToAnns.get(image_id, [])
        poses = sorted(poses, key=lambda pose: -pose["score"])[:MOST_POSES]
        poses_in_all, people_in_all = poses_in_all + len(poses), people_in_all + len(people)
        if not people or not poses:
            continue
        truth, found = (joints_array(each, len(skeleton.joints)) for each in (people, poses))
        present = (found[..., :2] != 0).any(-1)  # (N, K)
        similar = place_similarities(found, truth, areas_of(people), skeleton)
        similar = np.where(present[:, None, :, None], similar, -1)
        counts = joints_by_person(similar)
        second = np.sort(counts, 1)[:, -2] if len(people) > 1 else np.zeros(len(poses), int)
        total = counts.sum(1)
        joints_in_all, foreign_in_all = joints_in_all + total.sum(), foreign_in_all + second.sum()
        is_merged = second >= np.maximum(PART * total, 1)
        merged += [pose["id"] for pose, yes in zip(poses, is_merged) if yes]
        covering = covered_people(similar[..., 0], (truth[..., 2] > 0).sum(1))
        split += [person["id"] for person, n in zip(people, covering.sum(0)) if n > 1]
    share = float(foreign_in_all / max(joints_in_all, 1))
    return GroupingErrors(poses_in_all, people_in_all, tuple(merged), tuple(split), share)


def joints_by_person(similarities: np.ndarray) -> np.ndarray:
    """How many joints of each pose are from each person, (N, P), by similarities (N, P, K, 2)."""
    nearest = similarities.max(-1)  # (N, P, K)
    near = nearest.max(1) >= JITTER_KS  # (N, K)
    owner = np.where(near, nearest.argmax(1), -1)
    return (owner[:, None] == np.arange(nearest.shape[1])[:, None]).sum(-1)


def covered_people(similarities: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(N, P) bool: whether the pose covers the person, by ks to the same joints (N, P, K).

    labelled: (P,) joints of each person; ks is -1 where a joint is not labelled or not found
    """
    known = similarities >= 0
    alike = np.where(known, similarities, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    alike[known.sum(-1) < PART * labelled] = 0
    best = np.arange(alike.shape[1]) == alike.argmax(1)[:, None]
    return best & (alike > 0.5)
