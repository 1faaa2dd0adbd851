"""Checks of an exported file: its differences from the network, and its metrics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hrpose.engine.evaluate import evaluate, predict_sequentially
from hrpose.evaluation.results import MappedEvaluator, PoseEvaluator
from hrpose.inference.spec import Network
from hrpose.programs.exporting.graphs import PeaksGraph, example
from hrpose.structures import Images, Poses

Predict = Callable[..., Poses]
"""Image (H, W, 3) uint8 RGB, and of a top-down model boxes and their scores -> poses"""

SIZES = ((64, 64), (96, 160), (256, 128), (320, 352))
BATCHES = (1, 3)
CROP_BATCHES = (1, 3, 33)
TOLERANCE = 1e-4
"""Largest difference of a map, relative to its largest absolute value; usual is 1e-6 for a W32."""


class BatchDifference(NamedTuple):
    """The differences of two networks on one batch, by the name of the output."""

    batch: int
    size: tuple[int, int]
    differences: dict[str, float]  # largest absolute difference over largest absolute value


def compare(
    graph: nn.Module, network: Network, only: tuple[int, int] | None = None
) -> Iterator[BatchDifference]:
    """The graph and its exported form, on noise of several sizes and batches.

    only: (H, W) of the crops that a top-down graph takes
    """
    cases = itertools.product([only], CROP_BATCHES) if only else itertools.product(SIZES, BATCHES)
    for size, batch in cases:
        images = example(batch, size)
        with torch.inference_mode():
            expected = {name: each.numpy() for name, each in graph(images).items()}
        yield BatchDifference(batch, size, _differences(graph, expected, network(images.numpy())))


def _differences(
    graph: nn.Module, expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Maps are compared directly, peaks with those of the exported file's own maps.

    Two maps that differ in the last digit may have their peaks in another order.
    """
    if set(expected) != set(actual):
        raise ValueError(f"the file outputs {sorted(actual)}, the network {sorted(expected)}")
    differences = {}
    for name in expected:
        true, found = expected[name], actual[name]
        if name == "peaks":
            continue
        if true.shape != found.shape:
            raise ValueError(f"the file outputs shape {found.shape}, the network {true.shape}")
        highest = max(abs(true).max(), np.finfo(np.float32).tiny)
        differences[name] = float(abs(true - found).max() / highest)
    if isinstance(graph, PeaksGraph):
        peaks = graph.peaks(*(torch.from_numpy(actual[name]) for name in ("heatmaps", "tags")))
        differences["peaks"] = 0.0 if np.array_equal(peaks.numpy(), actual["peaks"]) else np.inf
    return differences


def table(comparisons: Sequence[BatchDifference]) -> str:
    """A line for every batch, a column for every output."""
    names = list(comparisons[0].differences)
    width = max(12, *map(len, names)) + 2
    lines = [f"{'batch':<7}{'size':<12}" + "".join(f"{name:>{width}}" for name in names)]
    for batch, (height, columns), differences in comparisons:
        row = "".join(f"{differences[name]:>{width}.1e}" for name in names)
        lines.append(f"{batch:<7}{f'{height} x {columns}':<12}{row}")
    return "\n".join(lines)


def check_tolerance(comparisons: Sequence[BatchDifference], name: str) -> None:
    """ValueError if an output differs by more than rounding explains."""
    figures = np.array([list(each.differences.values()) for each in comparisons])
    if not (figures <= TOLERANCE).all():  # nor is NaN
        raise ValueError(
            f"{name} differs by {figures.max():.1e} from the network, more than {TOLERANCE:.0e}: "
            "do not ship it. Another version of onnx, onnxscript and onnxruntime may do better; "
            "requirements.txt names those that were tried"
        )


def evaluate_predictor(
    predict: Predict, images: Images, evaluator: PoseEvaluator | MappedEvaluator
) -> dict[str, float]:
    """The metrics of a predictor on images, of a top-down one with their boxes and scores."""

    def predict_one(given: Any) -> Poses:
        return predict(*given) if isinstance(given, tuple) else predict(given)

    return evaluate(predict_sequentially(predict_one), images, evaluator)
