"""Decoding the plain way: the steps as the papers tell them, person by person, joint by joint."""

from __future__ import annotations

import numpy as np
import torch
from munkres import Munkres
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from hrpose.inference.spec import PUBLISHED, DecoderConfig
from hrpose.skeletons import Skeleton


def plain_decode(
    heatmaps: np.ndarray, tags: np.ndarray, skeleton: Skeleton, settings: DecoderConfig = PUBLISHED
) -> tuple[np.ndarray, np.ndarray]:
    """What inference.decode.decode returns, for the published costs, scores and steps.

    heatmaps: (K, H, W)   tags: (K, H, W, T)
    """
    peaks = plain_peaks(heatmaps, tags, settings.max_people, settings.nms_kernel)
    people = plain_groups(peaks, skeleton, settings)
    return plain_finish(people, heatmaps, tags, settings)


def plain_finish(
    people: list[np.ndarray], heatmaps: np.ndarray, tags: np.ndarray, settings: DecoderConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The best people, a quarter cell nearer to their joints, and what they lack filled in."""
    scores = np.array([person[:, 2].mean() for person in people], np.float32)
    best = np.argsort(-scores, kind="stable")[: settings.max_people]
    people, scores = [people[i] for i in best], scores[best]
    for person in people:
        missing = [k for k in range(len(person)) if person[k, 2] == 0]
        for k in range(len(person)):
            if person[k, 2] > 0:
                person[k, :2] = plain_place(heatmaps[k], *person[k, :2].astype(int))
        if settings.refine:
            plain_fill(person, missing, heatmaps, tags)
    shape = (len(people), len(heatmaps), 3 + tags.shape[-1])
    return np.array(people, np.float32).reshape(shape), scores


def plain_peaks(heatmaps: np.ndarray, tags: np.ndarray, count: int, window: int) -> np.ndarray:
    """(K, M, 3 + T): column, row, score, tags. Of equal peaks the first in the map comes first."""
    maps = torch.from_numpy(heatmaps)[None]
    summit = F.max_pool2d(maps, window, stride=1, padding=window // 2)
    flat = (maps * (maps == summit)).flatten(2)[0].numpy()
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


def plain_groups(
    peaks: np.ndarray, skeleton: Skeleton, settings: DecoderConfig
) -> list[np.ndarray]:
    """People (K, 3 + T), in the order in which they were founded."""
    people: list[np.ndarray] = []
    heard: list[list[np.ndarray]] = []
    for k in skeleton.grouping_indices:
        found = [peak for peak in peaks[k] if peak[2] > settings.detection_threshold]
        means = [np.mean(tags, axis=0) for tags in heard[: settings.max_people]]
        joins = plain_assignment(found, means, settings)
        for peak, mine in zip(found, joins):
            if mine is None:
                mine = len(people)
                people.append(np.zeros(peaks.shape[::2], np.float32))
                heard.append([])
            people[mine][k] = peak
            heard[mine].append(peak[3:])
    return people


def plain_assignment(
    found: list[np.ndarray], means: list[np.ndarray], settings: DecoderConfig
) -> list[int | None]:
    """For each candidate the person that it joins."""
    joins: list[int | None] = [None] * len(found)
    if not found or not means:
        return joins
    away = np.array(
        [[np.sqrt(((peak[3:] - mean) ** 2).sum()) for mean in means] for peak in found], float
    )
    cost = np.round(away) * 100 - np.array([float(peak[2]) for peak in found])[:, None]
    for row, column in ASSIGN[settings.matcher](cost):
        if column < len(means) and away[row, column] < settings.tag_threshold:
            joins[row] = column
    return joins


def plain_munkres(cost: np.ndarray) -> list[tuple[int, int]]:
    """With made-up people where there are too few."""
    rows, columns = cost.shape
    filled = np.pad(cost, ((0, 0), (0, max(0, rows - columns))), constant_values=1e10)
    return Munkres().compute(filled.tolist())


ASSIGN = {"munkres": plain_munkres, "scipy": lambda cost: list(zip(*linear_sum_assignment(cost)))}


def plain_place(heat: np.ndarray, column: int, row: int) -> tuple[float, float]:
    """The middle of a cell, a quarter cell towards its higher neighbours; ties go left and up."""
    height, width = heat.shape
    right, left = heat[row, min(column + 1, width - 1)], heat[row, max(column - 1, 0)]
    below, above = heat[min(row + 1, height - 1), column], heat[max(row - 1, 0), column]
    return (
        column + 0.5 + (0.25 if right > left else -0.25),
        row + 0.5 + (0.25 if below > above else -0.25),
    )


def plain_fill(
    person: np.ndarray, missing: list[int], heatmaps: np.ndarray, tags: np.ndarray
) -> None:
    """Each missing joint at the best cell of the whole map by heat - round(tag distance).

    As in the released evaluation, every joint is looked for, also those that are not missing.
    """
    mean = np.mean([joint[3:] for joint in person if joint[2] > 0], axis=0)
    for k in range(len(person)):
        away = np.sqrt(((tags[k] - mean) ** 2).sum(-1))
        row, column = np.unravel_index((heatmaps[k] - np.round(away)).argmax(), away.shape)
        if k in missing and heatmaps[k, row, column] > 0:
            xy = plain_place(heatmaps[k], int(column), int(row))
            person[k] = [*xy, heatmaps[k, row, column], *tags[k, row, column]]
