"""What a shipped file is worth: how far it is from the network itself, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from hrpose.build import build_evaluator
from hrpose.data.coco import BareImages
from hrpose.engine.evaluate import evaluate, predict_sequentially
from hrpose.inference.runner import Network
from hrpose.programs.exporting.graphs import PeaksGraph, example
from hrpose.splits import Split
from hrpose.structures import Poses

Finder = Callable[[np.ndarray], Poses]
"""An image (H, W, 3) uint8 RGB -> the people in it"""

SIZES = ((64, 64), (96, 160), (256, 128), (320, 352))
BATCHES = (1, 3)
TOLERANCE = 1e-4
"""Largest difference of a map, in its largest absolute values. Of a W32, some 1e-6 are usual."""


class Look(NamedTuple):
    """How far apart two networks were on one batch, by the name of the output."""

    batch: int
    size: tuple[int, int]
    apart: dict[str, float]  # largest absolute difference over largest absolute value


def looks(graph: nn.Module, network: Network) -> Iterator[Look]:
    """The graph itself and its shipped form, on noise of several sizes and batches."""
    for size in SIZES:
        for batch in BATCHES:
            images = example(batch, size)
            with torch.inference_mode():
                ours = graph(images)
            theirs = network(images.numpy())
            yield Look(batch, size, dict(_apart(graph, ours, theirs)))


def _apart(
    graph: nn.Module, ours: Mapping[str, Tensor], theirs: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, float]]:
    """Maps are compared as they are. What is found in maps is compared with what should be found
    in the same ones: two maps that differ in the last digit may have their peaks in another order.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"the file gives {sorted(theirs)}, the network {sorted(ours)}")
    maps = [name for name in ours if name.startswith(("heatmaps", "tags"))]
    for name in maps:
        yield name, _distance(ours[name].numpy(), theirs[name])
    if isinstance(graph, PeaksGraph):
        whole = [torch.from_numpy(theirs[name]) for name in ("heatmaps", "tags")]
        for name, found in graph.looking.find(*whole).items():
            yield name, 0.0 if np.array_equal(found.numpy(), theirs[name]) else np.inf


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"the file gives {theirs.shape} numbers, the network {ours.shape}")
    return float(abs(ours - theirs).max() / max(abs(ours).max(), np.finfo(np.float32).tiny))


def table(seen: Sequence[Look]) -> str:
    """A line for every batch, a column for every output."""
    names = list(seen[0].apart)
    width = max(12, *map(len, names)) + 2
    lines = [f"{'batch':<7}{'size':<12}" + "".join(f"{name:>{width}}" for name in names)]
    for look in seen:
        figures = "".join(f"{look.apart[name]:>{width}.1e}" for name in names)
        lines.append(f"{look.batch:<7}{f'{look.size[0]} x {look.size[1]}':<12}{figures}")
    return "\n".join(lines)


def refuse_distant(seen: Sequence[Look], name: str) -> None:
    """ValueError where an output is further off than rounding explains."""
    figures = np.array([list(look.apart.values()) for look in seen])
    if not (figures <= TOLERANCE).all():  # NaN is not either
        worst = figures.max()
        raise ValueError(
            f"{name} is {worst:.1e} off the network, more than {TOLERANCE:.0e}: do not ship it. "
            "Another version of onnx, onnxscript and onnxruntime may do better; requirements.txt "
            "names those that were tried"
        )


def score(config: CfgNode, find: Finder, split: Split) -> dict[str, float]:
    """The figures of whatever finds poses in images."""
    evaluator = build_evaluator(config, split.truth)
    images = BareImages(split.records, split.images)
    return evaluate(predict_sequentially(find), images, evaluator)
