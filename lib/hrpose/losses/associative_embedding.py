"""Associative embedding: pull the tags of one person together, push those of people apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CLOSENESS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda difference: torch.exp(-(difference**2)),
    "max": lambda difference: (1 - difference.abs()).clamp(min=0),
}
"""Push penalty of the difference of two mean tags: 1 at 0, decreasing to 0."""


def tag_loss(tags: Tensor, cells: Tensor, kind: str = "exp") -> tuple[Tensor, Tensor]:
    """Pull the tags of one person together, push the mean tags of different people apart.

    pull: mean over people of the mean squared distance of a person's tags to their mean.
    push: half the mean closeness over all ordered pairs of two people.
    Both are 0 without people; push is 0 for one person. There is no loop over people or images
    and no copy to the host.

    tags: (B, K * H * W), one tag per joint and cell
    cells: (B, N, K) int64, flat cell of joint k of person n, -1 where it is not labelled
    Returns (pull, push), each (B,), in float32 or better.
    Source: Newell et al. 2017 (Associative Embedding), section 3.2; Cheng et al. 2020, section 3.6.
    """
    if kind not in CLOSENESS:
        raise ValueError(f"the push loss is {kind!r}; choose {' or '.join(CLOSENESS)}")
    mean, variance, labelled = _person_tags(tags, cells)
    person = labelled > 0
    people = person.sum(-1)  # (B,)
    pull = (variance * person).sum(-1) / people.clamp(min=1)

    pair = _pairs(person)
    closeness = CLOSENESS[kind](mean[:, :, None] - mean[:, None, :]) * pair
    push = 0.5 * closeness.sum((1, 2)) / (people * (people - 1)).clamp(min=1)
    return pull, push


def tag_statistics(tags: Tensor, cells: Tensor, threshold: float) -> dict[str, Tensor]:
    """Metrics of tag quality for grouping: small tag_std, large tag_separation, no conflicts.

    tag_std: standard deviation of a person's tags, averaged over people of two or more joints
    tag_separation: mean distance between the mean tags of two people
    tag_conflicts: fraction of pairs whose mean tags are closer than `threshold`, and would be
        grouped as one person

    tags, cells: see `tag_loss`
    Returns (B,) each, without a gradient; NaN where an image has no such people.
    """
    mean, variance, labelled = _person_tags(tags.detach(), cells)
    several, pair = labelled > 1, _pairs(labelled > 0)
    distance = (mean[:, :, None] - mean[:, None, :]).abs()  # (B, N, N)
    pairs = pair.sum((1, 2))
    return {
        "tag_std": (variance.sqrt() * several).sum(-1) / several.sum(-1),
        "tag_separation": (distance * pair).sum((1, 2)) / pairs,
        "tag_conflicts": ((distance < threshold) & pair).sum((1, 2)) / pairs,
    }


def _person_tags(tags: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean tag, variance and number of labelled joints of each person: (B, N) each."""
    labelled = cells >= 0
    tag = tags.gather(1, cells.clamp(min=0).flatten(1)).view(cells.shape)  # (B, N, K)
    tag = tag.float() if tag.itemsize < 4 else tag
    tag = tag.where(labelled, 0)
    count = labelled.sum(-1)
    mean = tag.sum(-1) / count.clamp(min=1)
    variance = ((tag - mean[..., None]) ** 2 * labelled).sum(-1) / count.clamp(min=1)
    return mean, variance, count


def _pairs(person: Tensor) -> Tensor:
    """(B, N) -> (B, N, N): True for two different people, both labelled."""
    others = ~torch.eye(person.shape[1], dtype=torch.bool, device=person.device)
    return person[:, :, None] & person[:, None, :] & others
