"""MOTA, identity switches and IDF1 by plain loops, and the One-Euro filter of one number.

Sources: Bernardin and Stiefelhagen 2008 (CLEAR MOT); Ristani et al. 2016 (IDF1); Casiez et al.
2012 (One-Euro).
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment


class TrackingCounts(NamedTuple):
    """What is counted over the frames of one clip, or, added up, of several."""

    people: int = 0  # in all frames
    found: int = 0  # poses with an id, in all frames
    missed: int = 0
    false: int = 0
    switches: int = 0  # a person is matched to another id than when matched last
    id_matches: int = 0  # of the best one-to-one pairing of people and ids over the whole clip

    @property
    def mota(self):
        return 1 - (self.missed + self.false + self.switches) / self.people

    @property
    def idf1(self):
        return 2 * self.id_matches / (self.people + self.found)

    def plus(self, other):
        return TrackingCounts(*map(sum, zip(self, other)))


def count_clip(frames, threshold=0.5):
    """Counts of one clip.

    frames: for each, the ids of the people, the ids found, and similarities [person][found]; those
    below the threshold cannot match
    """
    last, together = {}, Counter()
    totals = TrackingCounts()
    for people, found, alike in frames:
        matches = match_frame(people, found, alike, last, threshold)
        for i, person in enumerate(people):
            for j, track in enumerate(found):
                together[person, track] += alike[i][j] >= threshold
        switches = sum(last.get(person, track) != track for person, track in matches.items())
        last.update(matches)
        missed, false = len(people) - len(matches), len(found) - len(matches)
        counts = len(people), len(found), missed, false, switches
        totals = totals.plus(TrackingCounts(*counts))
    return totals._replace(id_matches=best_pairing(together))


def match_frame(people, found, alike, last, threshold):
    """person -> id: as in the frame before where that still fits, then the best assignment."""
    matches = {}
    for i, person in enumerate(people):
        if last.get(person) in found and alike[i][found.index(last[person])] >= threshold:
            matches[person] = last[person]
    rows = [i for i, person in enumerate(people) if person not in matches]
    columns = [j for j, track in enumerate(found) if track not in matches.values()]
    gain = [[alike[i][j] * (alike[i][j] >= threshold) for j in columns] for i in rows]
    for row, column in solve(gain):
        if gain[row][column] > 0:
            matches[people[rows[row]]] = found[columns[column]]
    return matches


def best_pairing(together):
    """The most frames in which people and ids match, each person with one id at most."""
    people = sorted({person for person, _ in together})
    tracks = sorted({track for _, track in together})
    gain = [[together[person, track] for track in tracks] for person in people]
    return sum(gain[row][column] for row, column in solve(gain))


def solve(gain):
    """Pairs (row, column) of greatest sum."""
    return list(zip(*linear_sum_assignment(np.array(gain), maximize=True))) if gain else []


def one_euro(values, times, min_cutoff, beta, d_cutoff=1.0):
    """The filter of a sequence of points (x, y), as in algorithm 1 of the paper, but for points."""

    def alpha(cutoff, step):
        return 1 / (1 + 1 / (2 * math.pi * cutoff * step))

    (x, y), (dx, dy) = values[0], (0.0, 0.0)
    smoothed = [(x, y)]
    for (a, b), before, now in zip(values[1:], times, times[1:]):
        step = now - before
        share = alpha(d_cutoff, step)
        dx = share * (a - x) / step + (1 - share) * dx
        dy = share * (b - y) / step + (1 - share) * dy
        share = alpha(min_cutoff + beta * math.hypot(dx, dy), step)
        x, y = share * a + (1 - share) * x, share * b + (1 - share) * y
        smoothed.append((x, y))
    return smoothed
