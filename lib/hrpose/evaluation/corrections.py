"""Poses as they were if one kind of error were gone after the other, to see what each costs.

Source: Ronchi and Perona, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, ICCV
2017. The distance of a corrected joint is that of OKS itself; see `released_distance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.coco import Comparison, index_annotations
from hrpose.evaluation.errors import (
    GOOD_KS,
    JITTER_KS,
    JointErrors,
    areas_of,
    counted_people,
)
from hrpose.evaluation.results import joints_array
from hrpose.ops.oks import joint_areas, oks

CORRECTED_KS = {"miss": JITTER_KS, "swap": None, "inversion": None, "jitter": GOOD_KS}
"""Kind, in order of correction -> ks to which joints are moved; None: that at the wrong place."""

DECAY = 0.5
"""Of soft NMS: a pose's score is multiplied by exp(-OKS^2 / DECAY) for each better pose."""

KsDistance = Callable[[Any, float, np.ndarray], np.ndarray]


def ks_distance(similarity: Any, area: float, sigmas: np.ndarray) -> np.ndarray:
    """The distance at which ks = exp(-d^2 / (2 area (2 sigma)^2)) is `similarity`."""
    return 2 * sigmas * np.sqrt(-2 * np.log(similarity) * area)


def released_distance(similarity: Any, area: float, sigmas: np.ndarray) -> np.ndarray:
    """That of the released code, half of it: ks becomes the fourth root of `similarity`."""
    return sigmas * np.sqrt(-2 * np.log(similarity) * area)


def correct_in_turn(
    pair: Comparison, errors: JointErrors, distance: KsDistance = ks_distance
) -> Iterator[tuple[str, Comparison]]:
    """(kind, poses without it and those before it), and at last score; errors: those of `pair`"""
    for kind in CORRECTED_KS:
        pair = correct_joints(pair, errors, kind, distance)
        yield kind, pair
    yield "score", with_best_scores(pair)


def correct_joints(
    pair: Comparison, errors: JointErrors, kind: str, distance: KsDistance = ks_distance
) -> Comparison:
    """Move the joints of one kind straight towards their labelled places, to CORRECTED_KS."""
    sigmas, keypoints = np.asarray(pair.sigmas), {}
    for row in np.flatnonzero((errors.kinds == kind).any(1)):
        person = pair.truth.anns[errors.people[row]]
        pose = pair.detections.anns[errors.poses[row]]
        truth, joints = joints_array([person, pose], len(sigmas))
        wrong = errors.kinds[row] == kind
        wanted = CORRECTED_KS[kind] or errors.similarities[row, wrong]
        step = joints[wrong, :2] - truth[wrong, :2]
        length = distance(wanted, person["area"], sigmas[wrong])
        factor = length / np.linalg.norm(step, axis=-1)
        joints[wrong, :2] = truth[wrong, :2] + factor[:, None] * step
        keypoints[pose["id"]] = joints.ravel().tolist()
    return _with_field(pair, "keypoints", keypoints)


def with_best_scores(pair: Comparison) -> Comparison:
    """Each pose scored by its highest OKS with a person that counts, then lowered by soft NMS."""
    scores: dict[int, float] = {}
    for image_id in pair.image_ids:
        poses = pair.detections.imgToAnns.get(image_id, [])
        people = counted_people(pair, image_id)
        truth, found = (joints_array(each, len(pair.sigmas)) for each in (people, poses))
        alike = oks(truth, found, areas_of(people), pair.sigmas, truth[..., 2])  # (P, N)
        best = soft_nms(found, alike.max(0, initial=0), np.asarray(pair.sigmas))
        scores |= {pose["id"]: float(score) for pose, score in zip(poses, best)}
    return _with_field(pair, "score", scores)


def soft_nms(joints: np.ndarray, scores: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """The scores (N,), lowered by the OKS with every pose that ranks before, of the mean area.

    joints: (N, K, 3) x, y, value; both x and y are 0 where a joint was not found
    """
    present = (joints[..., :2] != 0).any(-1)
    areas = joint_areas(np.dstack([joints[..., :2], present]))
    scores, waiting = np.array(scores, float), np.arange(len(joints))
    while len(waiting):
        best = waiting[scores[waiting].argmax()]
        waiting = waiting[waiting != best]
        one = slice(best, best + 1)
        pairs = (areas[best] + areas[waiting])[None] / 2
        alike = oks(joints[one], joints[waiting], pairs, sigmas, present[one])[0]
        scores[waiting] *= np.exp(-(alike**2) / DECAY)
    return scores


def drop_unmatched(run: COCOeval) -> None:
    """Leave poses without a person out of the curves of `run`, at every OKS threshold."""
    for image in filter(None, run.evalImgs):
        image["dtIgnore"] = image["dtIgnore"] | (image["dtMatches"] == 0)


def _with_field(pair: Comparison, field: str, values: Mapping[int, Any]) -> Comparison:
    """The poses with other values of a field, by their numbers; their sizes stay as they were."""
    poses = pair.detections.dataset["annotations"]
    changed = [{**pose, field: values.get(pose["id"], pose[field])} for pose in poses]
    labels = {**pair.detections.dataset, "annotations": changed}
    return pair._replace(detections=index_annotations(labels))
