"""Precision over recall, the best score threshold, groups of people, and the worst images.

All of them read pycocotools' matches (`match_poses`), of the first of its sizes of people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.coco import Comparison, crowd_splits, pose_curves
from hrpose.evaluation.errors import (
    MATCHED_OKS,
    areas_of,
    labelled_people,
    matched_pairs,
    matches_by_image,
)
from hrpose.evaluation.results import joints_array
from hrpose.ops.oks import oks

CURVE_OKS = (0.5, 0.75, 0.9)

NUMBERS_OF_PEOPLE = {
    "1 person": (1, 1),
    "2 to 3 people": (2, 3),
    "4 to 7 people": (4, 7),
    "8 people and more": (8, np.inf),
}
"""Group of images -> fewest and most labelled people."""

NEIGHBOURS = {
    "neighbour OKS below .01": (0, 0.01),
    "neighbour OKS from .01": (0.01, MATCHED_OKS),
    "neighbour OKS from .1": (MATCHED_OKS, np.inf),
}
"""Group of images -> bounds of `crowding`; the upper one belongs to the next group."""


@dataclass(frozen=True)
class ImageErrors:
    """Who is found in an image and who is not, by numbers of annotations and poses."""

    image_id: int
    found: tuple[tuple[int, int, float], ...]  # annotation, pose, OKS
    missed: tuple[int, ...]  # annotations
    false: tuple[int, ...]  # poses

    @property
    def error(self) -> float:
        """What the image lacks in OKS: 1 for a missed person, 1 - OKS for one that is found."""
        return len(self.missed) + sum(1 - similarity for _, _, similarity in self.found)


def precision_recall(run: COCOeval, image_ids: Collection[int]) -> dict[str, dict[str, list]]:
    """At each OKS of CURVE_OKS the precision at 101 levels of recall, and the lowest score there.

    All -1 where there are no people; precision and score are 0 at a recall that is not reached.
    """
    curves = pose_curves(run, image_ids)
    params = curves["params"]
    places = {oks: int(np.isclose(params.iouThrs, oks).argmax()) for oks in CURVE_OKS}
    return {
        f"{threshold}": {
            "recall": params.recThrs.tolist(),
            "precision": curves["precision"][place, :, 0, 0, 0].tolist(),
            "score": curves["scores"][place, :, 0, 0, 0].tolist(),
        }
        for threshold, place in places.items()
    }


def best_f1(run: COCOeval, threshold: int = 0) -> dict[str, float] | None:
    """The score at and above which poses have the best F1, of precision and recall there.

    threshold: the place of an OKS threshold in `run`
    None where there are no poses or no people. Of equal F1 the highest score.
    """
    images = matches_by_image(run)
    people = sum(int((np.asarray(each["gtIgnore"]) == 0).sum()) for each in images)
    poses = [
        (score, person > 0)
        for each in images
        for score, person, ignored in zip(
            each["dtScores"], each["dtMatches"][threshold], each["dtIgnore"][threshold]
        )
        if not ignored
    ]
    if not poses or not people:
        return None
    scores, right = map(np.array, zip(*sorted(poses, key=lambda pose: -pose[0])))
    hits, count = np.cumsum(right), np.arange(1, len(right) + 1)
    f1 = 2 * hits / (count + people)
    f1[:-1][scores[:-1] == scores[1:]] = -1  # a threshold keeps all poses of a score, or none
    best = int(f1.argmax())
    precision, recall = hits[best] / count[best], hits[best] / people
    figures = {"score": scores[best], "f1": f1[best], "precision": precision, "recall": recall}
    return {name: float(value) for name, value in figures.items()}


def image_errors(run: COCOeval, pair: Comparison, threshold: int = 0) -> list[ImageErrors]:
    """The people and poses of each image at an OKS threshold of `run`, of most error first."""
    pose_of = dict(matched_pairs(run, threshold))
    images = []
    for each in matches_by_image(run):
        counted = [n for n, ignored in zip(each["gtIds"], each["gtIgnore"]) if not ignored]
        rows = zip(each["dtIds"], each["dtMatches"][threshold], each["dtIgnore"][threshold])
        false = [pose for pose, person, ignored in rows if not person and not ignored]
        found = [(n, pose_of[n], pose_oks(pair, n, pose_of[n])) for n in counted if n in pose_of]
        missed = [n for n in counted if n not in pose_of]
        images.append(ImageErrors(int(each["image_id"]), tuple(found), tuple(missed), tuple(false)))
    return sorted(images, key=lambda image: (-image.error, image.image_id))


def pose_oks(pair: Comparison, person: int, pose: int) -> float:
    """The OKS of a pose with an annotation, by their numbers."""
    one = pair.truth.anns[person]
    joints = joints_array([one, pair.detections.anns[pose]], len(pair.sigmas))
    truth, found = joints[:1], joints[1:]
    return float(oks(truth, found, areas_of([one]), pair.sigmas, truth[..., 2])[0, 0])


def crowding(pair: Comparison, image_id: int) -> float:
    """The highest OKS of two labelled people of an image, over the joints that both have.

    Area is that of one of them, whichever gives more; 0 for a person alone.
    """
    people = labelled_people(pair, image_id)
    joints, areas = joints_array(people, len(pair.sigmas)), areas_of(people)
    highest = 0.0
    for i in range(len(people)):
        one, others = joints[i : i + 1], np.delete(joints, i, 0)
        both = (others[..., 2] > 0) & (one[..., 2] > 0)
        alike = oks(others, one, np.full((len(others), 1), areas[i]), pair.sigmas, both)
        highest = max(highest, alike.max(initial=0))
    return float(highest)


def group_images(pair: Comparison) -> dict[str, set[int]]:
    """Images by how many people they show and how near these are; without people in no group.

    Where all images have a crowdIndex, CrowdPose's levels too.
    """
    counts = {number: len(labelled_people(pair, number)) for number in pair.image_ids}
    closeness = {number: crowding(pair, number) for number, count in counts.items() if count}
    groups = {
        name: {number for number, count in counts.items() if low <= count <= high}
        for name, (low, high) in NUMBERS_OF_PEOPLE.items()
    }
    for name, (low, high) in NEIGHBOURS.items():
        groups[name] = {number for number, value in closeness.items() if low <= value < high}
    images: list[Mapping[str, Any]] = [pair.truth.imgs[number] for number in pair.image_ids]
    if all("crowdIndex" in image for image in images):
        for name, members in crowd_splits(images).items():
            groups[f"crowdIndex {name}"] = set(members)
    return groups
