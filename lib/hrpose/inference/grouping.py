"""Candidates -> people: joints whose tags agree belong together. On the host, without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from munkres import Munkres
from scipy.optimize import linear_sum_assignment


class Settings(NamedTuple):
    """How heatmaps become people. The defaults are the published ones."""

    detection_threshold: float = 0.1  # a lower peak is no candidate
    tag_threshold: float = 1.0  # a candidate this far from everybody founds a new person
    max_people: int = 30  # candidates per joint, and people kept
    nms_kernel: int = 5  # cells; a peak is the highest of its neighbourhood
    adjust: bool = True  # move each joint a quarter cell towards its higher neighbour
    refine: bool = True  # look for the joints a person still misses
    solver: str = "munkres"


PUBLISHED = Settings()


class Person:
    """A person in the making."""

    def __init__(self, joints: int, values: int):
        self.joints = np.zeros((joints, values), np.float32)
        self.tags: list[np.ndarray] = []

    def take(self, joint: int, candidate: np.ndarray) -> None:
        self.joints[joint] = candidate
        self.tags.append(candidate[3:])


def group_by_tag(peaks: np.ndarray, order: list[int], settings: Settings = PUBLISHED) -> np.ndarray:
    """Assemble people, one joint after the other, giving candidates to whom their tags fit best.

    Of each joint's candidates at most one goes to each person, so that the sum of rounded tag
    distances is smallest (ties: the higher peak goes in). A candidate left over, or too far from
    its person's mean tag, founds a new one. Two people remain two even if their tags are equal.

    peaks: (K, M, 3 + T) x, y, score, tags   order: joints in the order in which they are assigned
    Returns (N, K, 3 + T), the best `max_people`, best first; a missing joint is all 0.
    Source: Newell et al. 2017, section 3.2; the cost is the authors' code's.
    """
    people: list[Person] = []
    for joint in order:
        found = peaks[joint][peaks[joint, :, 2] > settings.detection_threshold]
        known = people[: settings.max_people]
        for candidate, person in zip(found, _assign(found, known, settings)):
            if person is None:
                person = Person(*peaks.shape[::2])
                people.append(person)
            person.take(joint, candidate)
    grouped = np.array([person.joints for person in people], np.float32)
    grouped = grouped.reshape(len(people), *peaks.shape[::2])
    best = np.argsort(-pose_scores(grouped), kind="stable")[: settings.max_people]
    return grouped[best]


def pose_scores(people: np.ndarray) -> np.ndarray:
    """Mean joint score of each of the people (N, K, 3 + T), a missing joint counting as 0: (N,)."""
    return people[:, :, 2].mean(1)


def _assign(found: np.ndarray, known: list[Person], settings: Settings) -> list[Person | None]:
    """For each candidate (M, 3 + T) the person it joins, or None."""
    joins: list[Person | None] = [None] * len(found)
    if not known or not len(found):
        return joins
    means = np.array([np.mean(person.tags, axis=0) for person in known])  # (P, T)
    distance = np.linalg.norm(found[:, None, 3:] - means, axis=-1)  # (M, P)
    cost = np.round(distance) * 100 - found[:, 2:3]
    for row, column in SOLVERS[settings.solver](cost):
        if distance[row, column] < settings.tag_threshold:
            joins[row] = known[column]
    return joins


def _munkres(cost: np.ndarray) -> list[tuple[int, int]]:
    """The published solver: among equal assignments it picks those of the published figures."""
    rows, columns = cost.shape
    if rows > columns:  # it wants no more rows than columns; who gets a made-up column is left out
        cost = np.pad(cost, ((0, 0), (0, rows - columns)), constant_values=1e10)
    return [(row, column) for row, column in Munkres().compute(cost.tolist()) if column < columns]


def _scipy(cost: np.ndarray) -> list[tuple[int, int]]:
    """The same cost, many times faster; ties may fall otherwise."""
    return list(zip(*linear_sum_assignment(cost)))


SOLVERS: dict[str, Callable[[np.ndarray], list[tuple[int, int]]]] = {
    "munkres": _munkres,
    "scipy": _scipy,
}
