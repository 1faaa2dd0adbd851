"""Object keypoint similarity (OKS) of poses, from 0 (far apart) to 1 (the same), and its NMS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BOX_FILL = 0.53
"""Of a box, the fraction that CrowdPose's code takes for the person's area: it has no outlines."""


def oks(
    joints_a: np.ndarray,
    joints_b: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float] | np.ndarray,
    visible: np.ndarray,
) -> np.ndarray:
    """The similarity of every ground-truth person a to every predicted person b, (N, M) float64.

    exp(-d^2 / (2 area (2 sigma)^2)), averaged over the labelled joints of a; d is the distance of
    the joint in a to the joint in b. It is 0 for a person without labelled joints.

    joints_a: (N, K, 2 | 3)  x, y in pixels, of the ground truth; a third column is ignored
    joints_b: (M, K, 2 | 3)  in the same frame
    areas:    (N,)           of the people in a, in square pixels of that frame; or of pairs (N, M)
    sigmas:   (K,)           tolerance of each joint
    visible:  (N, K)         above 0 where a joint of a is labelled: flags 0 | 1 | 2, or booleans;
              or of pairs (N, M, K)
    """
    step = joints_b[None, :, :, :2].astype(float) - joints_a[:, None, :, :2]  # (N, M, K, 2)
    tolerance = 2 * (2 * np.asarray(sigmas, dtype=float)) ** 2  # (K,)
    areas = np.asarray(areas, dtype=float)
    # The smallest float step, as in pycocotools: an area of 0 does not divide 0 by 0.
    area = (areas if areas.ndim == 2 else areas[:, None])[..., None] + np.spacing(1.0)
    similarity = np.exp(-(step**2).sum(-1) / (tolerance * area))  # (N, M, K)

    labelled = np.asarray(visible) > 0
    labelled = labelled if labelled.ndim == 3 else labelled[:, None]  # (N, 1 | M, K)
    return (similarity * labelled).sum(-1) / np.maximum(labelled.sum(-1), 1)


def oks_nms(
    joints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float] | np.ndarray,
    threshold: float,
    visible: np.ndarray | None = None,
) -> np.ndarray:
    """Non-maximum suppression: drop poses whose OKS with a better, kept pose exceeds `threshold`.

    The area of a pair is the mean of both; of equal scores the lower index is better.

    joints: (N, K, 2 | 3)   scores, areas: (N,)
    visible: (N, K), joints of the better pose that count; None: all
    Returns indices (M,), best first.
    Source: the released code of HRNet.
    """
    if visible is None:
        visible = np.ones(joints.shape[:2])
    areas = np.asarray(areas, dtype=float)
    waiting, kept = np.argsort(-np.asarray(scores), kind="stable"), []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        pairs = (areas[best] + areas[waiting]) / 2
        # Of one pose to all others, so that memory grows with their number only.
        one = slice(best, best + 1)
        alike = oks(joints[one], joints[waiting], pairs[None], sigmas, visible[one])[0]
        waiting = waiting[alike <= threshold]
    return np.array(kept, int)


def joint_areas(joints: np.ndarray) -> np.ndarray:
    """Areas (N,) of the boxes around the joints found, of (N, K, 3) x, y, score (0: not found)."""
    found, xy = joints[..., 2] > 0, joints[..., :2].astype(float)
    low = np.where(found[..., None], xy, np.inf).min(1, initial=np.inf)
    high = np.where(found[..., None], xy, -np.inf).max(1, initial=-np.inf)
    return np.prod(np.maximum(high - low, 0), axis=1)
