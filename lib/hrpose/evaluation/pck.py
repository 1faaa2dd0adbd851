"""PCKh, MPII's metric: the percentage of joints that are found within a part of the head size.

Source: Andriluka et al., 2D Human Pose Estimation, CVPR 2014; http://human-pose.mpi-inf.mpg.de.
A metric is in percent, and exactly -1.0 where no joint is labelled.

Every labelled person is compared with the pose of its own box, so nothing is matched by place: a
pose has the `box_index` of its person, counted from 0 over the labelled people of the image in the
order of the annotations. A person without a pose is wrong at all joints; of several poses the one
of the highest score counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hrpose.evaluation.results import PoseEvaluator, joints_array, people_of, refuse
from hrpose.skeletons import Skeleton
from hrpose.structures import PERSON

LEFT_OUT = ("pelvis", "thorax")
"""Joints that published means leave out."""

LARGEST_HEAD = 1e5
"""Pixels, more than any image has."""

REPORTED_PARTS = {
    "Head": ("head_top",),
    **{
        name.capitalize(): (f"left_{name}", f"right_{name}")
        for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
}
"""Columns of published tables -> their joints. The upper neck enters the means alone."""


def head_normalized_errors(
    truth: np.ndarray, found: np.ndarray, head_sizes: np.ndarray
) -> np.ndarray:
    """Distances of joints in head sizes, (P, K): NaN if not labelled, inf if not found.

    truth: (P, K, 3) x, y, visibility   found: (P, K, 3) x, y, value, all 0 where not found
    head_sizes: (P,), in the same pixels
    """
    distances = np.linalg.norm(found[..., :2] - truth[..., :2], axis=-1) / head_sizes[:, None]
    distances = np.where((found != 0).any(-1), distances, np.inf)
    return np.where(truth[..., 2] > 0, distances, np.nan)


def pckh_metrics(errors: np.ndarray, joints: Sequence[str]) -> dict[str, float]:
    """The percentages of errors (P, K), of the joints so called, by name.

    PCKh@.5 is the one published as Mean: over labelled joints of all types but LEFT_OUT, hence
    weighted by how often a type is labelled. -16 is over all of MPII's 16 types; -plain means are
    those of the percentages of 14 and 16 types. PCKh@.11 is what is published as Mean@0.1.
    """
    published = [k for k, name in enumerate(joints) if name not in LEFT_OUT]
    types = np.array([_share(column, 0.5) for column in errors.T])  # (K,)
    parts = {
        part: _mean(types[[joints.index(name) for name in names]])
        for part, names in REPORTED_PARTS.items()
    }
    return {
        "PCKh@.5": _share(errors[:, published], 0.5),
        **parts,
        f"PCKh@.5-{len(joints)}": _share(errors, 0.5),
        f"PCKh@.5-plain-{len(published)}": _mean(types[published]),
        f"PCKh@.5-plain-{len(joints)}": _mean(types),
        "PCKh@.1": _share(errors[:, published], 0.1),
        "PCKh@.11": _share(errors[:, published], 0.11),
    }


def _share(errors: np.ndarray, threshold: float) -> float:
    """Of the labelled joints, the percentage within a threshold, which counts itself."""
    labelled = errors[~np.isnan(errors)]
    return 100 * float((labelled <= threshold).mean()) if labelled.size else -1.0


def _mean(percentages: np.ndarray) -> float:
    """The mean of those that are known."""
    known = percentages[percentages >= 0]
    return float(known.mean()) if known.size else -1.0


class PCKhEvaluator(PoseEvaluator):
    """Collects the poses of labelled boxes and compares them with MPII's annotations.

    truth: COCO annotations whose people have a `head_size` in pixels, as tools/convert_data.py
        writes them
    image_ids: the images that are scored, with or without poses; default: all
    Errors: ValueError for people without a head size, and for a skeleton without MPII's joints
    """

    primary = "PCKh@.5"

    def __init__(
        self, truth: Mapping[str, Any], skeleton: Skeleton, category_id: int = PERSON,
        image_ids: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(truth["images"], len(skeleton.joints), category_id, image_ids)
        self._joints = skeleton.joints
        wanted = (name for names in REPORTED_PARTS.values() for name in names)
        refuse(
            (name for name in wanted if name not in self._joints),
            "PCKh is of MPII's joints; set DATASET.SKELETON to mpii, or DATASET.FORMAT to coco for "
            "AP. The skeleton lacks",
        )
        everyone = people_of(truth, category_id)
        people = [p for p in everyone if any(flag > 0 for flag in (p.get("keypoints") or [])[2::3])]
        seen: Counter[int] = Counter()
        self._rows: dict[tuple[int, int], int] = {}  # image id, number in it -> row of the arrays
        for row, person in enumerate(people):
            self._rows[person["image_id"], seen[person["image_id"]]] = row
            seen[person["image_id"]] += 1
        counts = [p["image_id"] in self.image_ids and not p.get("iscrowd") for p in people]
        self._counts = np.array(counts, bool)  # (P,)
        self._truth = joints_array(people, self._joint_count)
        self._head_sizes = np.array([_head_size(p) for p in people])  # (P,)
        headless = np.flatnonzero(self._counts & np.isnan(self._head_sizes)).tolist()
        refuse(
            (people[row].get("id") for row in headless),
            "PCKh needs the head_size of every person, in pixels above 0; tools/convert_data.py "
            "writes it from MPII's gt_valid.mat (--ground-truth). Annotations without it",
        )

    def summarize(self) -> dict[str, float]:
        """The metrics of all added poses, by name, in percent."""
        best: dict[int, Mapping[str, Any]] = {}
        for result in self._results:
            row = self._rows[result["image_id"], result["box_index"]]
            if row not in best or result["score"] > best[row]["score"]:
                best[row] = result
        found = np.zeros_like(self._truth)
        found[list(best)] = joints_array(list(best.values()), self._joint_count)
        errors = head_normalized_errors(self._truth, found, self._head_sizes)
        return pckh_metrics(errors[self._counts], self._joints)

    def _check_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        super()._check_results(results)
        refuse(
            (n for n, result in enumerate(results) if type(result.get("box_index")) is not int),
            "PCKh compares every person with the pose of its own box: results need a box_index, "
            "the number of the labelled person in its image, from 0. Predict with a top-down "
            "network on TEST.BOXES truth, or add it. Missing in results number",
        )
        refuse(
            (
                f"{n} ({r['box_index']} in image {r['image_id']})"
                for n, r in enumerate(results)
                if (r["image_id"], r["box_index"]) not in self._rows
            ),
            "box_index is the number of a labelled person in its image, from 0; predict on the "
            "annotations that are scored (TEST.BOXES truth). There is no such person for results",
        )


def _head_size(person: Mapping[str, Any]) -> float:
    """The stated head size; NaN where there is none within reason."""
    size: Any = person.get("head_size")
    return float(size) if type(size) in (int, float) and 0 < size < LARGEST_HEAD else np.nan
