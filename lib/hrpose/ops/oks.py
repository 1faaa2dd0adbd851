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
    areas:    (N,)           of the people in a, in square pixels of that frame
    sigmas:   (K,)           tolerance of each joint
    visible:  (N, K)         above 0 where a joint of a is labelled: flags 0 | 1 | 2, or booleans
    """
    step = joints_b[None, :, :, :2].astype(float) - joints_a[:, None, :, :2]  # (N, M, K, 2)
    tolerance = 2 * (2 * np.asarray(sigmas, dtype=float)) ** 2  # (K,)
    # The smallest float step, as in pycocotools: an area of 0 does not divide 0 by 0.
    area = np.asarray(areas, dtype=float)[:, None, None] + np.spacing(1.0)  # (N, 1, 1)
    similarity = np.exp(-(step**2).sum(-1) / (tolerance * area))  # (N, M, K)

    labelled = np.asarray(visible) > 0  # (N, K)
    count = labelled.sum(-1)[:, None]  # (N, 1)
    return (similarity * labelled[:, None]).sum(-1) / np.maximum(count, 1)


def oks_nms(poses: np.ndarray, sigmas: Sequence[float], threshold: float) -> np.ndarray:
    """Non-maximum suppression: drop poses whose OKS with a better, kept pose exceeds `threshold`.

    The area of a pose is that of the box around its joints.

    poses: (N, K, 3) x, y, score (0: not found), the best first   Returns indices, in order.
    """
    found = poses[..., 2] > 0
    xy = poses[..., :2].astype(float)
    low = np.where(found[..., None], xy, np.inf).min(1, initial=np.inf)
    high = np.where(found[..., None], xy, -np.inf).max(1, initial=-np.inf)
    areas = np.prod(np.maximum(high - low, 0), axis=1)
    is_duplicate = oks(poses, poses, areas, sigmas, found) > threshold  # (N, N)
    kept: list[int] = []
    for pose in range(len(poses)):
        if not is_duplicate[kept, pose].any():
            kept.append(pose)
    return np.array(kept, int)
