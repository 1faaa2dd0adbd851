"""Look once more for the joints that a person still misses, on the whole maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Place = Callable[[Tensor, Tensor, Tensor], Tensor]
"""heatmaps (K, H, W), joint (...), cells (..., 2) -> where in them the joint lies (..., 2)"""


def fill_missing(people: Tensor, heatmaps: Tensor, tags: Tensor, place: Place) -> Tensor:
    """Give each missing joint the cell where heat - round(tag distance to its person) is highest.

    A joint stays missing if the heat there is not above 0. Joints already found do not move. A
    person's tag is the mean over the joints found before.

    people: (N, K, 3 + T)   heatmaps: (K, H, W)   tags: (K, H, W, T)
    Returns (N, K, 3 + T).
    Source: the released evaluation of HigherHRNet; no equation in the papers.
    """
    found = people[..., 2:3] > 0  # (N, K, 1)
    mean = (people[..., 3:] * found).sum(1) / found.sum(1).clamp(min=1)  # (N, T)
    filled = people.clone()
    for joint in range(people.shape[1]):
        lacking = (~found[:, joint, 0]).nonzero()[:, 0]
        if len(lacking):
            best = _best_cells(heatmaps, tags, joint, mean[lacking], place)
            filled[lacking, joint] = best.where(best[:, 2:3] > 0, people[lacking, joint])
    return filled


def _best_cells(heatmaps: Tensor, tags: Tensor, joint: int, mean: Tensor, place: Place) -> Tensor:
    """The best cell of one joint for each of the people's tags (P, T): (P, 3 + T)."""
    distance = torch.linalg.vector_norm(tags[joint] - mean[:, None, None], dim=-1)  # (P, H, W)
    cell = (heatmaps[joint] - distance.round()).flatten(1).argmax(1)
    width = heatmaps.shape[-1]
    row, column = cell // width, cell % width
    xy = place(heatmaps, torch.full_like(cell, joint), torch.stack([column, row], -1))
    return torch.cat([xy, heatmaps[joint, row, column, None], tags[joint, row, column]], -1)
