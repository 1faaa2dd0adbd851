"""Candidates -> people: joints whose tags agree belong together. On the host, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hrpose.inference.assignment import COSTS, SOLVERS


class Settings(NamedTuple):
    """How heatmaps become people. The defaults are the published ones."""

    detection_threshold: float = 0.1  # 0 or more; a lower peak is no candidate
    tag_threshold: float = 1.0  # a candidate this far from everybody founds a new person
    max_people: int = 30  # candidates per joint, and people kept
    nms_kernel: int = 5  # cells; a peak is the highest of its neighbourhood
    adjust: bool = True  # move each joint from the middle of its cell, by `step`
    refine: bool = True  # look for the joints a person still misses
    solver: str = "munkres"  # a name of assignment.SOLVERS
    cost: str = "rounded"  # what joining a candidate and a person costs: a name of assignment.COSTS
    step: str = "quarter"  # a name of ops.cells.STEPS
    score: str = "all"  # what a pose's score is the mean of: a name of decoding.SCORES
    min_score: float = 0.0  # a pose of less is dropped
    suppress: float = 1.0  # a pose is dropped whose OKS with a better one exceeds this


PUBLISHED = Settings()


class Person:
    """A person in the making."""

    def __init__(self, joints: int, values: int):
        self.joints = np.zeros((joints, values), np.float32)
        self.tags = np.empty((joints, values - 3), np.float32)  # in the order they were taken
        self.taken = 0
        self.mean = np.empty(values - 3, np.float32)

    def take(self, joint: int, candidate: np.ndarray) -> None:
        self.joints[joint] = candidate
        self.tags[self.taken] = candidate[3:]
        self.taken += 1
        self.mean = np.add.reduce(self.tags[: self.taken]) / self.taken  # np.mean, in a fifth of it


def group_by_tag(
    peaks: np.ndarray, order: Sequence[int], settings: Settings = PUBLISHED
) -> np.ndarray:
    """Assemble people, one joint after the other, giving candidates to whom their tags fit best.

    Of each joint's candidates at most one goes to each person, so that the sum of costs is
    smallest. A candidate left over, or too far from its person's mean tag, founds a new one. Two
    people remain two even if their tags are equal.

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
    means = np.array([person.mean for person in known])  # (P, T)
    distance = np.sqrt(((found[:, None, 3:] - means) ** 2).sum(-1))  # (M, P)
    # In float64 equal sums are equal; in float32 noise of 1e-8 would decide who goes to whom.
    cost = COSTS[settings.cost](distance.astype(float), settings.tag_threshold) - found[:, 2:3]
    for row, column in SOLVERS[settings.solver](cost):
        if distance[row, column] < settings.tag_threshold:
            joins[row] = known[column]
    return joins
