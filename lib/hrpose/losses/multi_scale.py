"""The loss of a bottom-up network: every term at every resolution that it applies to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hrpose.losses.heatmap import masked_mse
from hrpose.losses.scale_adaptive import scale_penalty, scaled_target, weighted_mse
from hrpose.losses.tags import tag_loss, tag_statistics
from hrpose.ops.coordinates import coordinates
from hrpose.ops.gaussian import DRAWINGS
from hrpose.structures import ScaleOutput, Terms

PerResolution = float | Sequence[float]
"""One value for each resolution, coarse to fine, or one (bare, or in a list) for all."""


class Targets(NamedTuple):
    """How a batch's joints become targets."""

    sigma: PerResolution = 2.0  # cells
    max_people: int = 30  # people whose tags are trained; heatmaps show everybody
    convention: str = "official"  # of coordinates: see ops/coordinates.py
    unit_width: float = 0.0  # box width whose Gaussians have deviation sigma; 0: everybody's have


class Truth(NamedTuple):
    """What is true of a batch at one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    mask: Tensor  # (B, H, W)
    cells: Tensor  # (B, N, K) flat cells of at most `max_people` people, -1 where not labelled


LossTerm = Callable[[ScaleOutput, Truth], dict[str, Tensor]]
Weights = Mapping[str, PerResolution]
"""name of a loss -> its factor"""
Distance = Callable[[Tensor, Tensor, Truth], Tensor]
"""predicted heatmaps, what they should be (B, K, H, W), truth -> how far they are apart (B,)"""


def multi_scale_loss(
    outputs: Sequence[ScaleOutput],
    batch: Mapping[str, Tensor],
    terms: Sequence[LossTerm],
    weights: Weights,
    targets: Targets,
    tag_threshold: float = 1.0,
) -> Terms:
    """All terms at all resolutions, named `term/stride`, with what each counts in the sum.

    outputs: coarse to fine   batch: see data/loaders.py
    tag_threshold: tags of less distance are grouped as one person's; only watched
    """
    loss: dict[str, Tensor] = {}
    watch: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    truths = draw_truths(batch, [output.stride for output in outputs], targets)
    for i, (output, truth) in enumerate(zip(outputs, truths)):
        for term in terms:
            for name, value in term(output, truth).items():
                loss[f"{name}/{output.stride}"] = value
                factors[f"{name}/{output.stride}"] = at_resolution(weights[name], i)
        if output.tags is not None:
            seen = tag_statistics(output.tags.flatten(1), truth.cells, tag_threshold)
            watch |= {f"{name}/{output.stride}": value for name, value in seen.items()}
    return Terms(loss, factors, watch)


def draw_truths(
    batch: Mapping[str, Tensor], strides: Sequence[int], targets: Targets
) -> list[Truth]:
    """The targets at every resolution.

    batch: see data/loaders.py   strides: of the network's outputs, coarse to fine
    """
    variances, truths = _person_variances(batch, targets.unit_width), []
    for i, stride in enumerate(strides):
        coarser = stride // strides[-1]
        convention = coordinates(targets.convention)
        mask = convention.downsample_mask(batch["mask"], coarser, batch["mirrored"])
        size = (mask.shape[-2], mask.shape[-1])
        joints = convention.to_heatmap_coords(batch["joints"], stride, batch["mirrored"])
        drawing = DRAWINGS[targets.convention]
        drawn = drawing.heatmaps(joints, size, at_resolution(targets.sigma, i), variances)
        truths.append(Truth(drawn, mask, drawing.cells(joints[:, : targets.max_people], size)))
    return truths


def _person_variances(batch: Mapping[str, Tensor], unit_width: float) -> Tensor | None:
    """SHR: a person's Gaussians are as wide as the box is, by a fixed rule (SWAHR, table 4)."""
    if not unit_width:
        return None
    return batch["widths"].clamp(min=1) / unit_width  # the rows of nobody have no width


def plain_distance(predicted: Tensor, target: Tensor, truth: Truth) -> Tensor:
    return masked_mse(predicted, target, truth.mask)


def weight_adaptive_distance(
    predicted: Tensor, target: Tensor, truth: Truth, weigh: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """WAHR. The weight looks at the heatmaps as drawn, not at what SAHR makes of them.

    weigh: predicted heatmaps, drawn heatmaps -> weights, all (B, K, H, W)
    """
    return weighted_mse(predicted, target, weigh(predicted, truth.heatmaps), truth.mask)


def heatmap_term(
    output: ScaleOutput, truth: Truth, distance: Distance = plain_distance
) -> dict[str, Tensor]:
    return {"heatmap": distance(output.heatmaps, truth.heatmaps, truth)}


def scale_adaptive_term(
    output: ScaleOutput, truth: Truth, distance: Distance = plain_distance
) -> dict[str, Tensor]:
    """SAHR: the target follows the scales that the network says, which had better stay near 1."""
    if output.scales is None:
        raise ValueError("SAHR needs a network that predicts scales, in training mode")
    target = scaled_target(truth.heatmaps, output.scales)
    return {
        "heatmap": distance(output.heatmaps, target, truth),
        "scale": scale_penalty(truth.heatmaps, output.scales, truth.mask),
    }


def tag_term(output: ScaleOutput, truth: Truth, kind: str = "exp") -> dict[str, Tensor]:
    """Nothing at a resolution without tags."""
    if output.tags is None:
        return {}
    pull, push = tag_loss(output.tags.flatten(1), truth.cells, kind)
    return {"pull": pull, "push": push}


def at_resolution(values: PerResolution, resolution: int) -> float:
    """The value for a resolution, 0 being the coarsest."""
    if isinstance(values, (int, float)):
        return values
    return values[resolution if len(values) > 1 else 0]
