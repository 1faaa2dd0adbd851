"""Means and scores of top-down poses. This module imports no torch."""

from __future__ import annotations

import numpy as np


def rescore(box_scores: np.ndarray, joint_values: np.ndarray, threshold: float = 0.2) -> np.ndarray:
    """The score of each pose: of its box, times the mean of its joints' values above a threshold.

    It is 0 where no value is above the threshold.

    box_scores: (N,)   joint_values: (N, K), the heatmaps' highest values   Returns (N,) float32.
    Source: the released code of HRNet (IN_VIS_THRE).
    """
    values = np.asarray(joint_values, np.float64)
    counted = values > threshold
    total = np.where(counted, values, 0).sum(1)
    mean = total / np.maximum(counted.sum(1), 1)
    return (np.asarray(box_scores, np.float64) * mean).astype(np.float32)


def average_views(joints: np.ndarray, to_unit: np.ndarray) -> np.ndarray:
    """The mean place and value of each joint over the crops that show it, (N, K, 3) float32.

    A crop votes where its value is above 0 and the joint is within it: the joint's first estimate,
    the mean over all crops weighted by value. Where no crop is left, all of a value above 0 vote,
    and where there is none, all. Votes are equal, so that a crop without the joint changes neither
    its place nor its value. One crop is returned as it is, and so is the mean of equal ones.

    joints: (N, V, K, 3) float32 x, y in image pixels, value   to_unit: (N, V, 2, 3) from image
    pixels to crops whose width and height are 1
    Source: Multi-Stage HRNet, which averages "the position in images"; who votes is ours.
    """
    xy, values = joints[..., :2].astype(float), np.maximum(joints[..., 2].astype(float), 0)
    total = np.maximum(values.sum(1, keepdims=True), np.finfo(float).tiny)  # (N, 1, K)
    estimate = (values[..., None] * xy).sum(1, keepdims=True) / total[..., None]  # (N, 1, K, 2)
    in_crops = estimate @ to_unit[..., :2].swapaxes(-1, -2) + to_unit[..., None, :, 2]
    inside = ((in_crops >= 0) & (in_crops <= 1)).all(-1)  # (N, V, K)
    rank = (values > 0) * (1 + inside)
    votes = (rank == rank.max(1, keepdims=True))[..., None]
    mean = np.where(votes, joints, 0).sum(1, dtype=float) / votes.sum(1)
    return mean.astype(np.float32)
