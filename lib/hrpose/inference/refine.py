"""Look once more for the joints that a person still misses. On the host, without torch.

A missing joint goes to the cell where heat - round(tag distance to its person) is highest, over the
whole map; it stays missing if the heat there is not above 0. Joints already found do not move. A
person's tag is the mean over the joints found before.

Source: the released evaluation of HigherHRNet; no equation in the papers.

The maps need not be searched person by person, because no cell scores more than its heat. Either
the highest cells of each joint suffice (`fill_from_cells`), or a map is taken in blocks, most of
which cannot hold the best cell (`fill_from_maps`). Both give what a search of everything gives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hrpose.inference.search import best_cells, tag_distance
from hrpose.ops.blocks import HeatBlocks, TagBlocks
from hrpose.ops.cells import Place, describe
from hrpose.structures import Highest


class Missing(NamedTuple):
    """The joints that people lack, and what is looked for: (L,) each, and (L, T)."""

    person: np.ndarray
    joint: np.ndarray
    tags: np.ndarray  # the mean tags of the person


def missing_joints(people: np.ndarray) -> Missing:
    """What people (N, K, 3 + T) of at least one joint each lack, joint after joint."""
    found = people[..., 2] > 0
    means = [np.mean(person[seen, 3:], axis=0) for person, seen in zip(people, found)]
    joint, person = np.nonzero(~found.T)
    tags = np.array(means, np.float32).reshape(len(people), people.shape[2] - 3)
    return Missing(person, joint, tags[person])


def fill_from_cells(people: np.ndarray, highest: Highest) -> tuple[np.ndarray, np.ndarray]:
    """Fill in what the highest cells of each joint settle.

    No other cell scores more than the floor of their heat: a score above it is the map's best.

    people: (N, K, 3 + T)
    Returns people (N, K, 3 + T), and what is not settled (N, K) bool.
    """
    filled, unsettled = people.copy(), np.zeros(people.shape[:2], bool)
    missing = missing_joints(people)
    for joint in np.unique(missing.joint):
        person, said = missing.person[missing.joint == joint], highest.said[joint]
        tags = missing.tags[missing.joint == joint]  # (P, T)
        score = said[:, 2] - np.rint(tag_distance(said.T[3:], tags.T[..., None]))  # (P, C)
        top = score.max(1, keepdims=True)
        cell = np.where(score == top, highest.cells[joint], np.iinfo(int).max)  # of several, first
        settled = top[:, 0] > highest.floor[joint]
        best = said[cell.argmin(1)]
        take = settled & (best[:, 2] > 0)
        filled[person[take], joint] = best[take]
        unsettled[person[~settled], joint] = True
    return filled, unsettled


def fill_from_maps(
    people: np.ndarray, heat: HeatBlocks, tags: TagBlocks, place: Place
) -> np.ndarray:
    """Fill in everything in people (N, K, 3 + T)."""
    filled = people.copy()
    missing = missing_joints(people)
    cell = np.empty(len(missing.joint), int)
    for joint in np.unique(missing.joint):
        mine = missing.joint == joint
        cell[mine] = best_cells(heat, tags, joint, missing.tags[mine])
    found = describe(heat.maps, tags.maps, missing.joint, cell, place)
    take = found[:, 2] > 0
    filled[missing.person[take], missing.joint[take]] = found[take]
    return filled
