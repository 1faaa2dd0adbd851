"""The Hungarian algorithm with the ties of the package `munkres`. Without torch."""

from __future__ import annotations

import numpy as np

PADDING_COST = 1e10
"""Cost of columns added to make the matrix square, as in the authors' code."""


def munkres(cost: np.ndarray) -> list[tuple[int, int]]:
    """The assignment that the published figures were made with.

    Where several have the lowest cost, which is common among rounded distances, it is the one that
    the package `munkres` finds: zeros are visited in the same order and each number results from
    the same operations, but the zeros of a row are bits and the matrix is updated as a whole.

    cost: (M, P)   Returns pairs (row, column).
    Source: Munkres 1957, in the six steps usually given.
    """
    rows, columns = cost.shape
    square = np.zeros((max(rows, columns),) * 2)
    square[:, columns:] = PADDING_COST
    square[:rows, :columns] = cost
    stars = _Stars(square).complete()
    return [(row, stars[row]) for row in range(rows) if stars[row] < columns]


class _Stars:
    """A partial assignment: starred zeros in a growing number of rows and columns.

    Rows and columns are covered while the next star is searched. Sets of columns are the bits of an
    integer.
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
            self._add_star()
        return self.of_row

    def _find_zeros(self) -> None:
        bits = np.packbits(self.cost == 0, axis=1, bitorder="little")
        self.zeros = [int.from_bytes(row, "little") for row in bits]

    def _star(self, row: int, column: int) -> None:
        self.of_row[row] = column
        if column >= 0:
            self.of_column[column] = row

    def _add_star(self) -> None:
        """Prime uncovered zeros until one has no star in its row, then augment along its path."""
        primes = [-1] * self.size
        covered = [False] * self.size  # rows
        uncovered = sum(1 << column for column in range(self.size) if self.of_column[column] < 0)
        row, column = 0, 0
        while True:
            zero = self._uncovered_zero(covered, uncovered, row, column)
            if zero is None:
                self._make_zeros(np.array(covered), uncovered)
                row, column = 0, 0
                continue
            row, primes[zero[0]] = zero
            column = self.of_row[row]
            if column < 0:
                return self._augment(row, primes)
            covered[row] = True
            uncovered |= 1 << column

    def _uncovered_zero(
        self, covered: list[bool], uncovered: int, row: int, column: int
    ) -> tuple[int, int] | None:
        """The first row from `row` on, cyclically; in it the last zero from `column` on."""
        before = (1 << column) - 1
        for i in (*range(row, self.size), *range(row)):
            zeros = 0 if covered[i] else self.zeros[i] & uncovered
            if zeros:
                return i, (zeros & before or zeros).bit_length() - 1
        return None

    def _make_zeros(self, covered: np.ndarray, uncovered: int) -> None:
        """Add at least one uncovered zero, keeping all starred and primed ones."""
        columns = np.array([bool(uncovered >> column & 1) for column in range(self.size)])
        least = self.cost[~covered][:, columns].min()
        self.cost[covered] += least
        self.cost[:, columns] -= least
        self._find_zeros()

    def _augment(self, row: int, primes: list[int]) -> None:
        """Star the prime of a row without a star; the row that held its column takes its prime."""
        while row >= 0:
            column = primes[row]
            other = self.of_column[column]
            self._star(row, column)
            row = other
