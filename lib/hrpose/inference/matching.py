"""Matching candidates to people at the lowest cost: the tables of matchers and costs.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from hrpose.inference.munkres import munkres

Pairs = list[tuple[int, int]]
"""(row, column)"""


def rounded_cost(distance: np.ndarray, threshold: float) -> np.ndarray:
    """The published cost: among tags equally far when rounded, the higher peak is matched."""
    return np.round(distance) * 100


def clipped_cost(distance: np.ndarray, threshold: float) -> np.ndarray:
    """The distance itself, clipped at `threshold`, beyond which candidates are not joined anyway.

    Without the clipping a pair that will be separated again may cost a good pair its match.
    """
    return np.minimum(distance, threshold) * 100


def scipy_matching(cost: np.ndarray) -> Pairs:
    """An assignment of the lowest cost; ties may fall differently from `munkres`."""
    return list(zip(*linear_sum_assignment(cost)))


MATCHING_COSTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "rounded": rounded_cost,
    "clipped": clipped_cost,
}
"""tag distances (M, P), tag threshold -> costs (M, P), before the peak's score is subtracted"""

MATCHERS: dict[str, Callable[[np.ndarray], Pairs]] = {"munkres": munkres, "scipy": scipy_matching}
"""costs (M, P) -> pairs of rows and columns"""
