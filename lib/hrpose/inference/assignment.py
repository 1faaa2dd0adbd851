"""Who goes to whom: the assignment of candidates to people that costs least. Without torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

Pairs = list[tuple[int, int]]
"""(row, column)"""

NOBODY = 1e10
"""What it costs to go to a made-up person, where there are too few; as in the authors' code."""


def _rounded(distance: np.ndarray, threshold: float) -> np.ndarray:
    """The published cost: among tags equally far, when rounded, the higher peak goes in."""
    return np.round(distance) * 100


def _clipped(distance: np.ndarray, threshold: float) -> np.ndarray:
    """The distance itself, and no more than `threshold`, beyond which nobody is joined anyway.

    Without the limit a pair that will be parted again may cost a good pair its match.
    """
    return np.minimum(distance, threshold) * 100


COSTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "rounded": _rounded,
    "clipped": _clipped,
}


def munkres(cost: np.ndarray) -> Pairs:
    """The assignment that the published figures were made with.

    Where several cost the same, which is often so among rounded distances, it is the one that the
    package `munkres` finds: the same zeros are looked at in the same order, and each number comes
    of the same operations, but zeros are bits of a row and the matrix changes as a whole.

    cost: (M, P)
    Source: Munkres 1957, in the six steps usually given.
    """
    rows, columns = cost.shape
    square = np.zeros((max(rows, columns),) * 2)
    square[:, columns:] = NOBODY
    square[:rows, :columns] = cost
    stars = _Stars(square).complete()
    return [(row, stars[row]) for row in range(rows) if stars[row] < columns]


def _scipy(cost: np.ndarray) -> Pairs:
    """The same cost, faster still; ties may fall otherwise."""
    return list(zip(*linear_sum_assignment(cost)))


SOLVERS: dict[str, Callable[[np.ndarray], Pairs]] = {"munkres": munkres, "scipy": _scipy}


class _Stars:
    """An assignment in the making: a starred zero in ever more rows and columns.

    Lines are covered while the next star is looked for. Sets of columns are the bits of a number.
    """

    def __init__(self, cost: np.ndarray):
        """cost: (S, S) float64"""
        self.cost = cost - cost.min(1, keepdims=True)
        self.size = len(cost)
        self.of_row = [-1] * self.size
        self.of_column = [-1] * self.size
        self._find_zeros()
        free = (1 << self.size) - 1
        for row, zeros in enumerate(self.zeros):
            first = zeros & free & -(zeros & free)  # the lowest bit
            free &= ~first
            self._star(row, first.bit_length() - 1)

    def complete(self) -> list[int]:
        """The column of every row."""
        while -1 in self.of_row:
            self._add_one()
        return self.of_row

    def _find_zeros(self) -> None:
        bits = np.packbits(self.cost == 0, axis=1, bitorder="little")
        self.zeros = [int.from_bytes(row, "little") for row in bits]

    def _star(self, row: int, column: int) -> None:
        self.of_row[row] = column
        if column >= 0:
            self.of_column[column] = row

    def _add_one(self) -> None:
        """One star more, some of the others moving to where zeros were primed on the way."""
        primes = [-1] * self.size
        covered = [False] * self.size  # rows
        open_ = sum(1 << column for column in range(self.size) if self.of_column[column] < 0)
        row, column = 0, 0
        while True:
            found = self._uncovered_zero(covered, open_, row, column)
            if found is None:
                self._make_zeros(np.array(covered), open_)
                row, column = 0, 0
                continue
            row, primes[found[0]] = found
            column = self.of_row[row]
            if column < 0:
                return self._exchange(row, primes)
            covered[row] = True
            open_ |= 1 << column

    def _uncovered_zero(
        self, covered: list[bool], open_: int, row: int, column: int
    ) -> tuple[int, int] | None:
        """The first row from `row` on, around; in it the last zero from `column` on, around."""
        before = (1 << column) - 1
        for i in (*range(row, self.size), *range(row)):
            zeros = 0 if covered[i] else self.zeros[i] & open_
            if zeros:
                return i, (zeros & before or zeros).bit_length() - 1
        return None

    def _make_zeros(self, covered: np.ndarray, open_: int) -> None:
        """At least one more where nothing is covered; none of those in use is lost."""
        uncovered = np.array([bool(open_ >> column & 1) for column in range(self.size)])
        least = self.cost[~covered][:, uncovered].min()
        self.cost[covered] += least
        self.cost[:, uncovered] -= least
        self._find_zeros()

    def _exchange(self, row: int, primes: list[int]) -> None:
        """Star the prime of a row without a star; whoever had its column takes its own prime."""
        while row >= 0:
            column = primes[row]
            other = self.of_column[column]
            self._star(row, column)
            row = other
