"""The loss of a bottom-up network: every term at every resolution that it applies to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hrpose.losses.heatmap import masked_mse
from hrpose.losses.tags import tag_gap, tag_loss
from hrpose.ops.affine import mask_at, to_cells
from hrpose.ops.gaussian import draw_heatmaps, joint_cells
from hrpose.structures import ScaleOutput, Terms


class Targets(NamedTuple):
    """How a batch's joints become targets."""

    sigma: float = 2.0  # cells, the same at every resolution
    max_people: int = 30  # people whose tags are trained; heatmaps show everybody
    convention: str = "official"


class Truth(NamedTuple):
    """What is true of a batch at one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    mask: Tensor  # (B, H, W)
    cells: Tensor  # (B, N, K) flat cells of at most `max_people` people, -1 where not labelled


LossTerm = Callable[[ScaleOutput, Truth], dict[str, Tensor]]
Weights = Mapping[str, float | Sequence[float]]
"""name of a loss -> its factor, or one for each resolution, or a list of one for all"""


def multi_scale_loss(
    outputs: Sequence[ScaleOutput],
    batch: Mapping[str, Tensor],
    terms: Sequence[LossTerm],
    weights: Weights,
    targets: Targets,
) -> Terms:
    """All terms at all resolutions, named `term/stride`, with what each counts in the sum.

    outputs: coarse to fine   batch: see data/loaders.py
    """
    finest = outputs[-1].stride
    loss: dict[str, Tensor] = {}
    watch: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    for i, output in enumerate(outputs):
        truth = draw_truth(batch, output, finest, targets)
        for term in terms:
            for name, value in term(output, truth).items():
                loss[f"{name}/{output.stride}"] = value
                factors[f"{name}/{output.stride}"] = _factor(weights[name], i)
        if output.tags is not None:
            watch[f"tag_gap/{output.stride}"] = tag_gap(output.tags.flatten(1), truth.cells)
    return Terms(loss, factors, watch)


def draw_truth(
    batch: Mapping[str, Tensor], output: ScaleOutput, finest: int, targets: Targets
) -> Truth:
    """The targets of one resolution, drawn where the network's output lies."""
    size = (output.heatmaps.shape[-2], output.heatmaps.shape[-1])
    joints = to_cells(batch["joints"], output.stride, batch["mirrored"], targets.convention)
    return Truth(
        heatmaps=draw_heatmaps(joints, size, targets.sigma),
        mask=mask_at(batch["mask"], output.stride // finest, batch["mirrored"]),
        cells=joint_cells(joints[:, : targets.max_people], size),
    )


def heatmap_term(output: ScaleOutput, truth: Truth) -> dict[str, Tensor]:
    return {"heatmap": masked_mse(output.heatmaps, truth.heatmaps, truth.mask)}


def tag_term(output: ScaleOutput, truth: Truth, kind: str = "exp") -> dict[str, Tensor]:
    """Nothing at a resolution without tags."""
    if output.tags is None:
        return {}
    pull, push = tag_loss(output.tags.flatten(1), truth.cells, kind)
    return {"pull": pull, "push": push}


def _factor(weight: float | Sequence[float], resolution: int) -> float:
    if isinstance(weight, (int, float)):
        return weight
    return weight[resolution if len(weight) > 1 else 0]
