"""AI Challenger's own score of keypoints, and COCO's AP under another name.

Source: Wu et al., AI Challenger: A Large-scale Dataset for Going Deeper in Image Understanding,
arXiv 1711.06475, and its evaluation program.
A metric is in 0..1, and exactly -1.0 where there is no ground truth.

The own score ranks nothing and assigns nothing: scores of poses have no effect, one pose may be the
best of several people, and every pose beyond the number of people counts as an error. It is not
comparable with COCO's AP, which other programs report for this data set: that is COCO-AP here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hrpose.evaluation.coco import Comparison, KeypointEvaluator, coco_metrics, with_box_areas
from hrpose.evaluation.results import joints_array
from hrpose.skeletons import AIC, Skeleton
from hrpose.structures import PERSON

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""An OKS must be above them; equal ones do not count."""

VISIBLE = 2
"""Of the visibilities of COCO: AI Challenger's 1. Joints of any other do not enter the score."""

OWN_METRICS = {"AIC-AP": None, "AIC-AP50": 0.5, "AIC-AP75": 0.75}
"""name: OKS threshold, None for the mean over THRESHOLDS"""

COCO_METRICS = ("AP", "AP50", "AP75", "AR")
"""Reported as COCO-AP and so on."""


def best_visible_oks(
    truth: np.ndarray, found: np.ndarray, boxes: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """The highest OKS of each person over all poses of the image, (P,) in 0..1; 0 without a pose.

    OKS = mean over the visible joints of exp(-d^2 / (2 (2 sigma)^2 (w h + 1))), and 0 for a person
    without a visible joint.

    truth: (P, K, 3) x, y, visibility of COCO   found: (N, K, 3) x, y, value, which is not read
    boxes: (P, 4) x, y, width, height   sigmas: (K,)
    """
    squares = ((truth[:, None, :, :2] - found[None, :, :, :2]) ** 2).sum(-1)  # (P, N, K)
    scales = 2 * np.outer(boxes[:, 2] * boxes[:, 3] + 1, (2 * np.asarray(sigmas)) ** 2)  # (P, K)
    visible = (truth[:, :, 2] == VISIBLE).astype(float)  # (P, K)
    similar = np.einsum("pnk,pk->pn", np.exp(-squares / scales[:, None]), visible)
    oks: np.ndarray = similar / np.maximum(visible.sum(-1), 1)[:, None]
    return oks.max(axis=1, initial=0)


def aic_metrics(pair: Comparison) -> dict[str, float]:
    """AI Challenger's score, also of two of its thresholds, and four of COCO's metrics.

    AIC-AP = mean over THRESHOLDS t of #(best OKS > t) / sum over images of max(#people, #poses)
    """
    hits, count, labelled = np.zeros(len(THRESHOLDS)), 0, 0
    for image_id in pair.image_ids:
        annotated = pair.truth.imgToAnns.get(image_id, [])
        people = [person for person in annotated if not person["iscrowd"]]
        poses = pair.detections.imgToAnns.get(image_id, [])
        labelled += len(people)
        count += max(len(people), len(poses))
        boxes = np.array([person["bbox"] for person in people], float).reshape(-1, 4)
        truth, found = (joints_array(each, len(pair.sigmas)) for each in (people, poses))
        best = best_visible_oks(truth, found, boxes, pair.sigmas)
        hits += (best[:, None] > THRESHOLDS).sum(axis=0)
    shares = hits / max(count, 1) if labelled else np.full(len(THRESHOLDS), -1.0)
    own = {
        name: float(shares[np.isclose(THRESHOLDS, threshold or THRESHOLDS)].mean())
        for name, threshold in OWN_METRICS.items()
    }
    coco = coco_metrics(pair)
    return own | {f"COCO-{name}": coco[name] for name in COCO_METRICS}


class AICEvaluator(KeypointEvaluator):
    """Collects the poses of images and compares them with AI Challenger's annotations.

    truth: COCO annotations, as tools/convert_data.py writes them; areas are taken from the boxes
    image_ids: the images that are scored, with or without poses; default: all
    Errors: ValueError for a skeleton of other joints or other tolerances
    """

    primary = "AIC-AP"

    def __init__(
        self, truth: Mapping[str, Any], skeleton: Skeleton, category_id: int = PERSON,
        image_ids: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        if (skeleton.joints, skeleton.sigmas) != (AIC.joints, AIC.sigmas):
            raise ValueError(
                "AI Challenger's score is of its own 14 joints and tolerances; set "
                "DATASET.SKELETON to aic, or DATASET.FORMAT to coco for AP. The skeleton has "
                f"{', '.join(skeleton.joints)}"
            )
        labels = with_box_areas(truth, category_id)
        super().__init__(labels, skeleton, category_id, image_ids, aic_metrics)
