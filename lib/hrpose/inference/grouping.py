"""Candidates -> people: joints of similar tags belong together. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hrpose.inference.matching import MATCHERS, MATCHING_COSTS
from hrpose.inference.spec import PUBLISHED, DecoderConfig


class PersonBuilder:
    """A person to which joints are added one by one."""

    def __init__(self, joints: int, values: int):
        self.joints = np.zeros((joints, values), np.float32)
        self.tags = np.empty((joints, values - 3), np.float32)  # in the order they were added
        self.count = 0
        self.mean_tag = np.empty(values - 3, np.float32)

    def add(self, joint: int, candidate: np.ndarray) -> None:
        self.joints[joint] = candidate
        self.tags[self.count] = candidate[3:]
        self.count += 1
        self.mean_tag = np.add.reduce(self.tags[: self.count]) / self.count  # 5x faster than mean


def group_by_tag(
    peaks: np.ndarray, order: Sequence[int], config: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """Assemble people joint by joint, matching candidates to the people of most similar tags.

    Of each joint's candidates at most one goes to each person, so that the sum of costs is lowest.
    A candidate left over, or too far from its person's mean tag, starts a new one. Two people
    remain two even if their tags are equal.

    peaks: (K, M, 3 + T) x, y, score, tags   order: joints in the order in which they are assigned
    Returns the best `max_people` people (N, K, 3 + T), best first, a missing joint being all 0; and
    their scores (N,): the mean over all joints.
    Source: Newell et al. 2017, section 3.2; the cost is that of the authors' code.
    """
    people: list[PersonBuilder] = []
    for joint in order:
        candidates = peaks[joint][peaks[joint, :, 2] > config.detection_threshold]
        known = people[: config.max_people]
        for candidate, person in zip(candidates, _match(candidates, known, config)):
            if person is None:
                person = PersonBuilder(*peaks.shape[::2])
                people.append(person)
            person.add(joint, candidate)
    grouped = np.array([person.joints for person in people], np.float32)
    grouped = grouped.reshape(len(people), *peaks.shape[::2])
    scores = grouped[:, :, 2].mean(1)
    best = np.argsort(-scores, kind="stable")[: config.max_people]
    return grouped[best], scores[best]


def _match(
    candidates: np.ndarray, people: list[PersonBuilder], config: DecoderConfig
) -> list[PersonBuilder | None]:
    """For each candidate (M, 3 + T) the person it joins, or None."""
    matches: list[PersonBuilder | None] = [None] * len(candidates)
    if not people or not len(candidates):
        return matches
    means = np.array([person.mean_tag for person in people])  # (P, T)
    distance = np.sqrt(((candidates[:, None, 3:] - means) ** 2).sum(-1))  # (M, P)
    # In float64 equal sums are equal; in float32 noise of 1e-8 would decide the matching.
    cost = MATCHING_COSTS[config.matching_cost](distance.astype(float), config.tag_threshold)
    for row, column in MATCHERS[config.matcher](cost - candidates[:, 2:3]):
        if distance[row, column] < config.tag_threshold:
            matches[row] = people[column]
    return matches
