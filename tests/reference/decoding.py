"""Decoding as the papers describe it: person by person, joint by joint, every cell of every map."""

from __future__ import annotations

import numpy as np
import torch
from munkres import Munkres
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from hrpose.inference.spec import PUBLISHED, DecoderConfig
from hrpose.skeletons import Skeleton


def decode(
    heatmaps: np.ndarray, tags: np.ndarray, skeleton: Skeleton, config: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """What hrpose.inference.decode.decode returns, for the published cost, scores and offsets.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    """
    peaks = find_peaks(heatmaps, tags, config.max_people, config.nms_kernel)
    people = group_by_tag(peaks, skeleton, config)
    return fill_and_sort(people, heatmaps, tags, config)


def find_peaks(heatmaps: np.ndarray, tags: np.ndarray, count: int, window: int) -> np.ndarray:
    """(K, M, 3 + T): column, row, score, tags. Equal peaks are in row order."""
    maps = torch.from_numpy(heatmaps)[None]
    highest = F.max_pool2d(maps, window, stride=1, padding=window // 2)
    flat = (maps * (maps == highest)).flatten(2)[0].numpy()
    width, found = heatmaps.shape[-1], []
    for k, values in enumerate(flat):
        cells = np.flatnonzero(values > 0)
        cells = cells[np.argsort(-values[cells], kind="stable")][:count]
        peaks = np.zeros((count, 3 + tags.shape[-1]), np.float32)
        for row, cell in zip(peaks, cells):
            y, x = cell // width, cell % width
            row[:] = [x, y, values[cell], *tags[k, y, x]]
        found.append(peaks)
    return np.stack(found)


def group_by_tag(
    peaks: np.ndarray, skeleton: Skeleton, config: DecoderConfig = PUBLISHED
) -> list[np.ndarray]:
    """People (K, 3 + T), in the order in which they were started."""
    people: list[np.ndarray] = []
    tags_of: list[list[np.ndarray]] = []
    for k in skeleton.grouping_indices:
        candidates = [peak for peak in peaks[k] if peak[2] > config.detection_threshold]
        means = [np.mean(tags, axis=0) for tags in tags_of[: config.max_people]]
        for peak, person in zip(candidates, match(candidates, means, config)):
            if person is None:
                person = len(people)
                people.append(np.zeros(peaks.shape[::2], np.float32))
                tags_of.append([])
            people[person][k] = peak
            tags_of[person].append(peak[3:])
    return people


def match(
    candidates: list[np.ndarray], means: list[np.ndarray], config: DecoderConfig
) -> list[int | None]:
    """For each candidate the person that it joins."""
    matches: list[int | None] = [None] * len(candidates)
    if not candidates or not means:
        return matches
    means = np.stack(means)  # (N, T)
    distance = np.array([np.sqrt(((peak[3:] - means) ** 2).sum(-1)) for peak in candidates], float)
    scores = np.array([float(peak[2]) for peak in candidates])
    cost = np.round(distance) * 100 - scores[:, None]
    for row, column in MATCHERS[config.matcher](cost):
        if column < len(means) and distance[row, column] < config.tag_threshold:
            matches[row] = column
    return matches


def munkres(cost: np.ndarray) -> list[tuple[int, int]]:
    """By the package `munkres`, with padding columns where people are too few."""
    rows, columns = cost.shape
    square = np.pad(cost, ((0, 0), (0, max(0, rows - columns))), constant_values=1e10)
    return Munkres().compute(square.tolist())


MATCHERS = {"munkres": munkres, "scipy": lambda cost: list(zip(*linear_sum_assignment(cost)))}


def fill_and_sort(
    people: list[np.ndarray],
    heatmaps: np.ndarray,
    tags: np.ndarray,
    config: DecoderConfig = PUBLISHED,
) -> tuple[np.ndarray, np.ndarray]:
    """The best people, their joints moved within their cells, missing ones filled in."""
    scores = np.array([person[:, 2].mean() for person in people], np.float32)
    best = np.argsort(-scores, kind="stable")[: config.max_people]
    people, scores = [people[i] for i in best], scores[best]
    for person in people:
        missing = [k for k in range(len(person)) if person[k, 2] == 0]
        for k in range(len(person)):
            if person[k, 2] > 0:
                person[k, :2] = quarter_offset(heatmaps[k], *person[k, :2].astype(int))
        if config.refine:
            fill_missing(person, missing, heatmaps, tags)
    shape = (len(people), len(heatmaps), 3 + tags.shape[-1])
    return np.array(people, np.float32).reshape(shape), scores


def quarter_offset(heat: np.ndarray, column: int, row: int) -> tuple[float, float]:
    """The centre of a cell, a quarter cell towards its higher neighbours; ties go left and up."""
    height, width = heat.shape
    right, left = heat[row, min(column + 1, width - 1)], heat[row, max(column - 1, 0)]
    below, above = heat[min(row + 1, height - 1), column], heat[max(row - 1, 0), column]
    return (
        column + 0.5 + (0.25 if right > left else -0.25),
        row + 0.5 + (0.25 if below > above else -0.25),
    )


def fill_missing(
    person: np.ndarray, missing: list[int], heatmaps: np.ndarray, tags: np.ndarray
) -> None:
    """Each missing joint at the best cell of the whole map by heat - round(tag distance).

    As in the released evaluation, every joint is searched, also those that are not missing.
    """
    mean = np.mean([joint[3:] for joint in person if joint[2] > 0], axis=0)
    for k in range(len(person)):
        distance = np.sqrt(((tags[k] - mean) ** 2).sum(-1))
        row, column = np.unravel_index((heatmaps[k] - np.round(distance)).argmax(), distance.shape)
        if k in missing and heatmaps[k, row, column] > 0:
            xy = quarter_offset(heatmaps[k], int(column), int(row))
            person[k] = [*xy, heatmaps[k, row, column], *tags[k, row, column]]
