"""Candidates -> people: joints of similar tags belong together. Without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hrpose.inference.matching import MATCHERS, MATCHING_COSTS
from hrpose.inference.spec import PUBLISHED, DecoderConfig


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
    joints, _, values = peaks.shape
    people: list[np.ndarray] = []  # (K, 3 + T) each
    tags: list[list[np.ndarray]] = []  # of each person's joints, in the order they were added
    means: list[np.ndarray] = []  # (T,) each
    for joint in order:
        candidates = peaks[joint][peaks[joint, :, 2] > config.detection_threshold]  # (M, 3 + T)
        matches = dict[int, int]()  # candidate -> person
        if people and len(candidates):
            known = np.array(means[: config.max_people])  # (P, T)
            distance = np.sqrt(((candidates[:, None, 3:] - known) ** 2).sum(-1))  # (M, P)
            # In float64 equal sums are equal; in float32 noise of 1e-8 would decide the matching.
            cost = MATCHING_COSTS[config.matching_cost](
                distance.astype(float), config.tag_threshold
            )
            pairs = MATCHERS[config.matcher](cost - candidates[:, 2:3])
            matches = {m: p for m, p in pairs if distance[m, p] < config.tag_threshold}
        for m, candidate in enumerate(candidates):
            person = matches.get(m, len(people))
            if person == len(people):
                people.append(np.zeros((joints, values), np.float32))
                tags.append([])
                means.append(candidate[3:])
            people[person][joint] = candidate
            tags[person].append(candidate[3:])
            means[person] = np.add.reduce(tags[person]) / len(tags[person])  # 5x faster than mean
    grouped = np.array(people, np.float32).reshape(len(people), joints, values)
    scores = grouped[:, :, 2].mean(1)
    best = np.argsort(-scores, kind="stable")[: config.max_people]
    return grouped[best], scores[best]
