"""The loss of a network: a weighted sum of named terms over all its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.offset import OffsetCodec
from hrpose.codecs.tags import TagCodec
from hrpose.losses.associative_embedding import tag_loss, tag_statistics
from hrpose.losses.heatmap import joints_mse, masked_mse
from hrpose.losses.offset import offset_loss
from hrpose.losses.swahr import scale_regularisation, scaled_target, weighted_mse
from hrpose.ops.coordinates import HIGHERHRNET, Convention
from hrpose.structures import HeadOutput, LossOutput

PerResolution = float | Sequence[float]
"""One value per resolution, coarse to fine, or one (bare, or in a list) for all."""


class TargetConfig(NamedTuple):
    """How targets are generated from joints."""

    sigma: PerResolution = 2.0  # cells
    max_people: int = 30  # people in the tag loss; heatmaps are drawn for all
    convention: Convention = HIGHERHRNET  # of coordinates
    unit_width: float = 0.0  # SHR: box width in network pixels at which sigma applies; 0: no SHR
    disc_radius: float = 0.0  # top-down: of discs with offsets, in longer sides; 0: Gaussians


class Targets(NamedTuple):
    """Targets of a batch at one resolution."""

    heatmaps: Tensor  # (B, K, H, W)
    mask: Tensor  # (B, H, W)
    cells: Tensor  # (B, N, K) flat cells of at most `max_people` people, -1 where not labelled


LossTerm = Callable[[HeadOutput, Targets], dict[str, Tensor]]
Weights = Mapping[str, PerResolution]
"""loss name -> weight in the total"""
Distance = Callable[[Tensor, Tensor, Targets], Tensor]
"""predicted and target heatmaps (B, K, H, W), targets -> loss (B,)"""
PersonDistance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""predicted and target heatmaps (B, K, H, W), weights (B, K) -> loss (B,)"""
PersonTerm = Callable[[HeadOutput, Tensor, Tensor], Tensor]
"""output, target maps (B, C, H, W) of its codec, weights (B, K) of the joints -> loss (B,)"""


def multi_resolution_loss(
    outputs: Sequence[HeadOutput],
    batch: Mapping[str, Tensor],
    terms: Sequence[LossTerm],
    weights: Weights,
    config: TargetConfig,
    tag_threshold: float = 1.0,
) -> LossOutput:
    """Losses of all terms at all resolutions, named `term/output`, with their weights.

    outputs: coarse to fine   batch: see data/loaders.py
    tag_threshold: grouping's tag threshold, for the metric tag_conflicts
    """
    _require_unique_names(outputs)
    losses: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    all_targets = make_targets(batch, [output.stride for output in outputs], config)
    if "annotated_joints" in batch:
        outputs = [without_joints(output, ~batch["annotated_joints"]) for output in outputs]
    for i, (output, targets) in enumerate(zip(outputs, all_targets)):
        for term in terms:
            for name, value in term(output, targets).items():
                key = f"{name}/{output.name}"
                _check_term(term, name, value, len(output.heatmaps), weights, key in losses)
                losses[key], factors[key] = value, at_resolution(weights[name], i)
        if output.tags is not None:
            statistics = tag_statistics(output.tags.flatten(1), targets.cells, tag_threshold)
            metrics |= {f"{name}/{output.name}": value for name, value in statistics.items()}
    return LossOutput(losses, factors, metrics)


def without_joints(output: HeadOutput, unknown: Tensor) -> HeadOutput:
    """Heatmaps and scales with 0 in the maps of joints that an image's data set does not label.

    Their targets are 0 too, since none of these joints is drawn: every loss of heatmaps is 0 there,
    and so is its gradient. Tags are taken at labelled joints only.
    unknown: (B, K) bool
    """
    off = unknown[:, :, None, None]
    scales = None if output.scales is None else output.scales.masked_fill(off, 0)
    return output._replace(heatmaps=output.heatmaps.masked_fill(off, 0), scales=scales)


def _require_unique_names(outputs: Sequence[HeadOutput]) -> None:
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):  # their losses would overwrite each other
        raise ValueError(
            f"outputs are named {', '.join(names)}; give every HeadOutput its own name"
        )


def _check_term(
    term: LossTerm, name: str, value: Tensor, images: int, weights: Weights, taken: bool
) -> None:
    """ValueError for a loss that cannot be added to the others."""
    if taken:
        raise ValueError(f'two terms of LOSS.TERMS return "{name}"; give each its own name')
    if name not in weights or value.shape != (images,):
        function = getattr(getattr(term, "func", term), "__name__", term)
        raise ValueError(
            f'{function} returns "{name}" of shape {tuple(value.shape)}; wanted are names that '
            f"LOSSES weighs ({', '.join(weights)}), and a value for each image, ({images},)"
        )


def person_loss(
    outputs: Sequence[HeadOutput],
    batch: Mapping[str, Tensor],
    terms: Mapping[str, PersonTerm],
    weights: Weights,
    config: TargetConfig,
) -> LossOutput:
    """The top-down twin: every sample shows one person, whose joints have weights of their own."""
    _require_unique_names(outputs)
    losses: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    frames = [((o.heatmaps.shape[-2], o.heatmaps.shape[-1]), o.stride) for o in outputs]
    all_targets = make_person_targets(batch, frames, config)
    for i, (output, (maps, joint_weights)) in enumerate(zip(outputs, all_targets)):
        for name, term in terms.items():
            losses[f"{name}/{output.name}"] = term(output, maps, joint_weights)
            factors[f"{name}/{output.name}"] = at_resolution(weights[name], i)
    return LossOutput(losses, factors, {})


def make_person_targets(
    batch: Mapping[str, Tensor],
    frames: Sequence[tuple[tuple[int, int], int]],
    config: TargetConfig,
) -> list[tuple[Tensor, Tensor]]:
    """Maps (B, C, h, w) of every output, and the weights (B, K) of the joints in the loss.

    C is K, heatmaps, or 3K, discs and offsets. A weight is 1 for a labelled joint whose Gaussian
    reaches into the map; with discs for every labelled one.
    batch: see data/loaders.py, of one person a sample   frames: (h, w) and stride of every output
    """
    codecs = (person_codec(config, i) for i in range(len(frames)))
    return [codec.encode(batch["joints"][:, 0], *frame) for codec, frame in zip(codecs, frames)]


def person_codec(config: TargetConfig, resolution: int = -1) -> HeatmapCodec | OffsetCodec:
    """The codec of one person's targets, at the finest resolution where none is given."""
    if config.disc_radius:
        return OffsetCodec(config.convention.name, config.disc_radius)
    return HeatmapCodec(config.convention.name, at_resolution(config.sigma, resolution))


def make_targets(
    batch: Mapping[str, Tensor], strides: Sequence[int], config: TargetConfig
) -> list[Targets]:
    """Heatmaps, loss mask and tag cells at every output resolution.

    batch: see data/loaders.py   strides: of the network's outputs, coarse to fine
    """
    variances, targets = _person_variances(batch, config.unit_width), []
    convention, joints, flipped = config.convention, batch["joints"], batch["flipped"]
    for i, stride in enumerate(strides):
        mask = convention.downsample_mask(batch["mask"], stride // strides[-1], flipped)
        size = (mask.shape[-2], mask.shape[-1])
        codec = HeatmapCodec(convention.name, at_resolution(config.sigma, i))
        heatmaps, _ = codec.encode(joints, size, stride, flipped, variances)
        tagged = joints[:, : config.max_people]
        cells = TagCodec(convention).encode(tagged, size, stride, flipped)
        targets.append(Targets(heatmaps, mask, cells))
    return targets


def _person_variances(batch: Mapping[str, Tensor], unit_width: float) -> Tensor | None:
    """SHR: variances proportional to the widths of people's boxes, (B, N) (SWAHR, Table 4)."""
    if not unit_width:
        return None
    return batch["boxes"][..., 2].clamp(min=1) / unit_width  # padded rows have width 0


def mse(predicted: Tensor, target: Tensor, targets: Targets) -> Tensor:
    return masked_mse(predicted, target, targets.mask)


def wahr_mse(
    predicted: Tensor, target: Tensor, targets: Targets, weigh: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """WAHR. The weight depends on the unscaled target H, not on SAHR's scaled one.

    weigh: predicted and unscaled target heatmaps -> weights, all (B, K, H, W)
    """
    return weighted_mse(predicted, target, weigh(predicted, targets.heatmaps), targets.mask)


def heatmap_term(
    output: HeadOutput, targets: Targets, distance: Distance = mse
) -> dict[str, Tensor]:
    """Heatmap regression against the drawn targets."""
    return {"heatmap": distance(output.heatmaps, targets.heatmaps, targets)}


def sahr_term(output: HeadOutput, targets: Targets, distance: Distance = mse) -> dict[str, Tensor]:
    """SAHR: regression against targets of the predicted scales, which are regularised towards 1."""
    if output.scales is None:
        raise ValueError("SAHR needs a network that predicts scales, in training mode")
    target = scaled_target(targets.heatmaps, output.scales)
    return {
        "heatmap": distance(output.heatmaps, target, targets),
        "scale": scale_regularisation(targets.heatmaps, output.scales, targets.mask),
    }


def tag_term(output: HeadOutput, targets: Targets, kind: str = "exp") -> dict[str, Tensor]:
    """Associative embedding; empty at a resolution without tags."""
    if output.tags is None:
        return {}
    pull, push = tag_loss(output.tags.flatten(1), targets.cells, kind)
    return {"pull": pull, "push": push}


def person_heatmap_term(
    output: HeadOutput, maps: Tensor, weights: Tensor, distance: PersonDistance = joints_mse
) -> Tensor:
    """Regression of one person's heatmaps, or discs."""
    return distance(output.heatmaps, maps[:, : weights.shape[1]], weights)


def person_offset_term(
    output: HeadOutput, maps: Tensor, weights: Tensor, kind: str = "l2"
) -> Tensor:
    """Regression of one person's offsets, within the discs."""
    if output.offsets is None:
        raise ValueError("offsets need a network that predicts them; set MODEL.CODEC offset")
    discs, offsets = maps.split([weights.shape[1], output.offsets.shape[1]], 1)
    return offset_loss(output.offsets, offsets, discs, kind)


def at_resolution(values: PerResolution, resolution: int) -> float:
    """The value for a resolution; 0 is the coarsest."""
    if isinstance(values, (int, float)):
        return values
    return values[resolution if len(values) > 1 else 0]
