"""A training step in float32, eager, contiguous; tags looped over; the optimizer not fused."""

from functools import partial

import torch
from torch.autograd.profiler import record_function
from torch.optim import Adam

from hrpose.builders.bottomup import LOSSES
from hrpose.builders.common import build_model
from hrpose.builders.families import is_top_down
from hrpose.losses.combine import Targets, at_resolution
from reference.losses import looped_joints_mse, looped_mse, looped_tag_loss


class ReferenceStep:
    """Trains the config's network on batches of reference/data.py, one call a step."""

    def __init__(self, config, device):
        torch.manual_seed(config.TRAIN.SEED)
        self.model = build_model(config).to(device).train()
        self.loss = reference_loss(config)
        self.optimizer = Adam(
            self.model.parameters(), lr=config.TRAIN.LR, foreach=False, fused=False
        )
        self.device = device

    def __call__(self, batch):
        """The losses of every image before the step: {"loss": weighted sum, every term}, (B,)."""
        with record_function("to_device"):
            batch = {name: value.to(self.device) for name, value in batch.items()}
        self.optimizer.zero_grad(set_to_none=True)
        with record_function("forward"):
            outputs = self.model(batch["image"])
        with record_function("loss"):
            losses = self.loss(outputs, batch)
        with record_function("backward"):
            losses["loss"].mean().backward()
        with record_function("optimizer"):
            self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}


def reference_loss(config):
    """(outputs, batch) -> {name: (B,)}. SWAHR's heatmap terms are the package's own."""
    if is_top_down(config):
        if list(config.LOSS.TERMS) != ["heatmap"]:
            raise ValueError("the reference has LOSS.TERMS [heatmap] only")
        return partial(_person_loss, weight=config.LOSS.HEATMAP[-1])
    chosen = {name: LOSSES[name](config) for name in config.LOSS.TERMS}
    weights = {name: weight for _, each in chosen.values() for name, weight in each.items()}
    terms = []
    if "heatmap" in chosen:
        adaptive = config.LOSS.SAHR or config.LOSS.WAHR
        terms.append(chosen["heatmap"][0] if adaptive else _heatmap_term)
    if "tags" in chosen:
        terms.append(partial(_tag_term, kind=config.LOSS.TAGS.KIND))
    return partial(_sum_of_terms, terms=terms, weights=weights)


def _sum_of_terms(outputs, batch, terms, weights):
    losses, total = {}, torch.zeros(len(batch["image"]), device=batch["image"].device)
    for i, output in enumerate(outputs):
        parts = (batch[f"{part}/{output.stride}"] for part in ("heatmaps", "mask", "cells"))
        truth = Targets(*parts)
        for term in terms:
            for name, value in term(output, truth).items():
                losses[f"{name}/{output.name}"] = value
                total = total + at_resolution(weights[name], i) * value
    return {"loss": total, **losses}


def _person_loss(outputs, batch, weight):
    [output] = outputs
    loss = looped_joints_mse(output.heatmaps, batch["heatmaps"], batch["weights"])
    return {"loss": weight * loss, f"heatmap/{output.name}": loss}


def _heatmap_term(output, truth):
    return {"heatmap": looped_mse(output.heatmaps, truth.heatmaps, truth.mask)}


def _tag_term(output, truth, kind):
    if output.tags is None:
        return {}
    pull, push = looped_tag_loss(output.tags.flatten(1), truth.cells, kind)
    return {"pull": pull, "push": push}
