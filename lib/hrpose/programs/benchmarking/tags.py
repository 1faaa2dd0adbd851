"""How long the loss of the tags takes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hrpose.losses.associative_embedding import tag_loss
from hrpose.programs.benchmarking.plain_step import listed, looped_tag_loss
from hrpose.programs.benchmarking.report import Report, paired_report
from hrpose.programs.benchmarking.timing import Block, seconds_of, take_turns

LABELLED = 0.8
"""Share of the joints."""

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Crowd(NamedTuple):
    """How much there is to pull and push."""

    images: int = 12
    people: int = 30
    joints: int = 17
    size: int = 128  # rows and columns of the maps


def benchmark_tags(crowd: Crowd, against: str | None, blocks: int) -> Report:
    """Milliseconds for a batch; beside the plain loops'."""
    tags, cells = draw_crowd(crowd)
    sides = {"tag_loss": timing(tag_loss, tags, cells)}
    if against:
        sides["plain"] = timing(looped_tag_loss, tags, listed(cells))
    take_turns(sides, 1)
    report = paired_report(take_turns(sides, blocks))
    report.notes.append(
        f"{crowd.images} images of {crowd.people} people, {LABELLED:.0%} of {crowd.joints} joints "
        f"labelled, maps of {crowd.size} x {crowd.size}; {blocks} blocks; on the CPU."
    )
    return report


def draw_crowd(crowd: Crowd, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tags (B, K * H * W) and cells (B, N, K), -1 where nothing is labelled."""
    dice = torch.Generator().manual_seed(seed)
    area = crowd.size**2
    tags = torch.randn(crowd.images, crowd.joints * area, generator=dice)
    shape = crowd.images, crowd.people, crowd.joints
    cells = torch.randint(area, shape, generator=dice) + area * torch.arange(crowd.joints)
    return tags, cells.where(torch.rand(shape, generator=dice) < LABELLED, -1)


def timing(loss: Loss, tags: Tensor, marks: Tensor) -> Block:
    """A block: the loss of the tags at the marks, forward and backward, for a while."""

    def call() -> None:
        pull, push = loss(tags.clone().requires_grad_(), marks)
        (pull + push).sum().backward()

    return lambda: {"forward and backward, ms": 1000 * seconds_of(call)}
