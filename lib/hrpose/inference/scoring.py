"""Scores of top-down poses. This module imports no torch."""

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
