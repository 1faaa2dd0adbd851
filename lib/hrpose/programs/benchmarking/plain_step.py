"""The plain way to take a step: float32, eager, contiguous, tags looped over.

The formulas are those of losses/heatmap.py and losses/tags.py, and so are the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from yacs.config import CfgNode

from hrpose.build import LOSSES
from hrpose.losses.multi_scale import LossTerm, Truth, Weights, at_resolution
from hrpose.losses.tags import CLOSENESS
from hrpose.structures import ScaleOutput

Loss = Callable[[Sequence[ScaleOutput], Mapping[str, Tensor]], dict[str, Tensor]]


class PlainStep(nn.Module):
    """A batch of plain_data -> its losses."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.loss(self.predict(batch["image"]), batch)

    def predict(self, images: Tensor) -> Any:
        return self.model(images)


def plain_adam(model: nn.Module, rate: float) -> Adam:
    """One parameter after the other."""
    return Adam(model.parameters(), lr=rate, foreach=False, fused=False)


def build_plain_loss(config: CfgNode) -> Loss:
    """SWAHR's heatmap terms are the package's own, on the worker's heatmaps."""
    chosen = {name: LOSSES[name](config) for name in config.LOSS.TERMS}
    weights = {name: weight for _, each in chosen.values() for name, weight in each.items()}
    adaptive = config.LOSS.SAHR or config.LOSS.WAHR
    terms: dict[str, LossTerm] = {}
    if "heatmap" in chosen:
        terms["heatmap"] = chosen["heatmap"][0] if adaptive else mean_square_term
    if "tags" in chosen:
        terms["tags"] = partial(looped_tag_term, kind=config.LOSS.AE_TYPE)
    return partial(plain_loss, terms=list(terms.values()), weights=weights)


def plain_loss(
    outputs: Sequence[ScaleOutput],
    batch: Mapping[str, Tensor],
    terms: Sequence[LossTerm],
    weights: Weights,
) -> dict[str, Tensor]:
    """{"loss": what is descended, then every term unweighted}, each (B,)."""
    losses: dict[str, Tensor] = {}
    total = torch.zeros(len(batch["image"]), device=batch["image"].device)
    for i, output in enumerate(outputs):
        parts = (batch[f"{part}/{output.stride}"] for part in ("heatmaps", "mask", "joints"))
        truth = Truth(*parts)  # its cells are joints/s, as the loops want them
        for term in terms:
            for name, value in term(output, truth).items():
                losses[f"{name}/{output.stride}"] = value
                total = total + at_resolution(weights[name], i) * value
    return {"loss": total, **losses}


def mean_square_term(output: ScaleOutput, truth: Truth) -> dict[str, Tensor]:
    error = (output.heatmaps - truth.heatmaps) ** 2 * truth.mask[:, None]
    return {"heatmap": error.mean((1, 2, 3))}


def looped_tag_term(output: ScaleOutput, truth: Truth, kind: str) -> dict[str, Tensor]:
    if output.tags is None:
        return {}
    pull, push = looped_tag_loss(output.tags.flatten(1), truth.cells, kind)
    return {"pull": pull, "push": push}


def looped_tag_loss(tags: Tensor, joints: Tensor, kind: str = "exp") -> tuple[Tensor, Tensor]:
    """losses.tags.tag_loss, image by image, person by person, joint by joint.

    tags: (B, K * H * W)   joints: (B, N, K, 2), flat cell, and 1 where there is one
    Returns (pull, push), each (B,).
    """
    both = [_pull_and_push(*image, kind) for image in zip(tags, joints)]
    return torch.stack([pull for pull, _ in both]), torch.stack([push for _, push in both])


def _pull_and_push(tags: Tensor, people: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """One image's."""
    pull = push = tags[:0].sum()  # nothing, but it has a gradient
    means = []
    for person in people:
        mine = [tags[cell] for cell, seen in person if seen > 0]
        if mine:
            own = torch.stack(mine)
            means.append(own.mean())
            pull = pull + ((own - means[-1]) ** 2).mean()
    count = len(means)
    if count > 1:
        mean = torch.stack(means)
        closeness = CLOSENESS[kind](mean[:, None] - mean)
        push = 0.5 * (closeness.sum() - count) / (count * (count - 1))
    return pull / max(count, 1), push


def listed(cells: Tensor) -> Tensor:
    """Cells (B, N, K), -1 where not labelled, as the loops want them: (B, N, K, 2)."""
    return torch.stack([cells.clamp(min=0), (cells >= 0).long()], -1)
