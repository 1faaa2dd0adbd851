"""The Hungarian algorithm with the ties of the package `munkres`. Without torch.

Zeros are visited in the same order as in that package, and each number results from the same
operations; but the matrix is updated as a whole, and sets of columns are the bits of an integer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PADDING_COST = 1e10
"""Cost of columns added to make the matrix square, as in the authors' code."""


def munkres(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The assignment that the published figures were made with.

    Where several have the lowest cost, which is common among rounded distances, it is the one that
    the package `munkres` finds.   cost: (M, P)   Returns rows and columns, as SciPy does.
    Source: Munkres 1957, in the six steps usually given.
    """
    rows, columns = cost.shape
    size = max(rows, columns)
    square = np.zeros((size, size))
    square[:, columns:] = PADDING_COST
    square[:rows, :columns] = cost
    square -= square.min(1, keepdims=True)
    star_of_row, star_of_column, primes = [-1] * size, [-1] * size, [-1] * size
    free = (1 << size) - 1  # columns without a star
    zeros = _make_zeros(square, [False] * size, free)
    for row, bits in enumerate(zeros):
        column = (bits & free & -(bits & free)).bit_length() - 1  # the first zero
        if column >= 0:
            star_of_row[row], star_of_column[column] = column, row
            free &= ~(1 << column)
    start, column, uncovered, covered_rows = 0, 0, free, [False] * size
    while -1 in star_of_row:
        for row in (*range(start, size), *range(start)):
            if not covered_rows[row] and zeros[row] & uncovered:
                break
        else:
            zeros = _make_zeros(square, covered_rows, uncovered)
            start = column = 0
            continue
        bits = zeros[row] & uncovered
        primes[row] = (bits & ((1 << column) - 1) or bits).bit_length() - 1  # the last zero
        column = star_of_row[row]
        if column >= 0:
            covered_rows[row] = True
            uncovered |= 1 << column
            start = row
            continue
        while row >= 0:  # a prime becomes a star; the row of its column's star takes its own prime
            column = primes[row]
            star_of_row[row], row, star_of_column[column] = column, star_of_column[column], row
        free &= ~(1 << column)
        start, column, uncovered, covered_rows = 0, 0, free, [False] * size
    stars = np.array(star_of_row[:rows])
    matched = np.flatnonzero(stars < columns)
    return matched, stars[matched]


def _make_zeros(square: np.ndarray, covered_rows: Sequence[bool], uncovered: int) -> list[int]:
    """Subtract the least uncovered cost, keep starred and primed zeros; the zeros of each row."""
    covered = np.array(covered_rows)
    columns = np.array([uncovered >> column & 1 for column in range(len(square))], bool)
    least = square[~covered][:, columns].min()
    square[covered] += least
    square[:, columns] -= least
    bits = np.packbits(square == 0, axis=1, bitorder="little")
    return [int.from_bytes(row, "little") for row in bits]
