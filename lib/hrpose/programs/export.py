"""Export a trained network to one file that predicts poses without the config or torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from yacs.config import CfgNode

from hrpose import __version__
from hrpose.builders.common import load_model, require_one_network
from hrpose.builders.datasets import Split
from hrpose.builders.families import box_source, family, is_top_down
from hrpose.builders.sources import (
    build_source_evaluator,
    evaluated_sources,
    list_sources,
    read_first,
)
from hrpose.evaluation.results import MappedEvaluator, PoseEvaluator
from hrpose.inference.onnx_bottomup import to_planes
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import ExportedModel
from hrpose.models.weight_cache import local_file
from hrpose.ops.atomic_io import atomic_write, check_writable, sha256
from hrpose.ops.progress import progress
from hrpose.programs.exporting.formats import FORMATS, require_extra
from hrpose.programs.exporting.graphs import NetworkGraph, PeaksGraph
from hrpose.programs.exporting.int8 import quantize
from hrpose.programs.exporting.verify import (
    TOLERANCE,
    Predict,
    check_tolerance,
    compare,
    evaluate_predictor,
    table,
)
from hrpose.structures import Images

CALIBRATION = 64
"""Images of DATASET.TRAIN that --int8 calibrates on by default."""


def main(known: argparse.Namespace, config: CfgNode) -> None:
    _check_options(known, config)
    parts, count = family(config), known.calibrate or CALIBRATION
    if known.data:
        tested = evaluated_sources(config)[0]
        scored = read_first(tested, tested.config.DATASET.VAL, known.data)
        images: Any = parts.build_test_images(tested.config, scored.records, scored.images)
    if known.int8:
        trained = list_sources(config)[0]
        seen = read_first(trained, trained.config.DATASET.TRAIN, count)
    predictor = parts.build_predictor(config, load_model(config))
    graph: nn.Module = (
        PeaksGraph(predictor.model, predictor.spec)
        if known.decode == "peaks"
        else NetworkGraph(predictor.model)
    )
    strides = tuple(parts.output_strides(config))
    digest = sha256(local_file(config.TEST.MODEL_FILE))
    model = ExportedModel(predictor.spec, known.decode, strides, digest, __version__)
    format_ = FORMATS[known.format]
    content = format_.encode(graph, model)
    atomic_write(known.output, lambda file: file.write(content))
    print(f"written to {known.output} ({known.output.stat().st_size / 1e6:.1f} MB)")
    exported = {known.output: format_.load(known.output)}
    if known.int8:
        target = int8_path(known.output)
        quantize(known.output, target, _calibration(exported[known.output], seen))
        print(f"written to {target} ({target.stat().st_size / 1e6:.1f} MB)")
        exported[target] = format_.load(target)
    if known.verify:
        _verify(graph, exported)
    if known.data:
        boxes = box_source(config)
        print(f"\n{len(scored.records)} images of {tested.key(tested.config.DATASET.VAL)}", end="")
        print(f", on {boxes} boxes" * bool(boxes))
        predictors: dict[str, Predict] = {"network": predictor}
        predictors |= {path.name: each for path, each in exported.items()}
        ids = [record.image_id for record in scored.records]
        _compare_metrics(
            predictors, images, partial(build_source_evaluator, tested, scored.truth, ids)
        )


def int8_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.int8{path.suffix}")


def _check_options(known: argparse.Namespace, config: CfgNode) -> None:
    """ValueError for options that do not fit together, before anything is read."""
    _check_arguments(known)
    require_one_network(config)
    if is_top_down(config) and (known.decode == "peaks" or known.int8):
        raise ValueError(
            f"--decode peaks and --int8 are for bottom-up networks; MODEL.NAME {config.MODEL.NAME} "
            "is top-down: leave them out"
        )
    if known.decode == "peaks" and len(config.TEST.SCALE_FACTOR) > 1:
        raise ValueError(
            f"a graph with peaks has one scale, TEST.SCALE_FACTOR is "
            f"{list(config.TEST.SCALE_FACTOR)}; add TEST.SCALE_FACTOR [1], or use --decode network"
        )
    if config.TEST.GT_HEATMAPS:
        raise ValueError("TEST.GT_HEATMAPS needs annotations, which no photo has")
    for path in (known.output, int8_path(known.output))[: 1 + known.int8]:
        if path.exists() and not known.force:
            raise ValueError(f"{path} exists already; choose another --output, or --force")
        check_writable(path)
    if known.format == "onnx":
        require_extra()


def _check_arguments(known: argparse.Namespace) -> None:
    suffix = FORMATS[known.format].suffix
    if known.output.suffix != suffix:
        raise ValueError(f"--output is {known.output}; --format {known.format} writes *{suffix}")
    if known.int8 and known.format != "onnx":
        raise ValueError(f"--int8 goes with --format onnx, not {known.format}")
    if known.calibrate is not None and not known.int8:
        raise ValueError("--calibrate is the number of images for --int8; give --int8 too")
    if known.calibrate == 0 or min(known.calibrate or 0, known.data) < 0:
        raise ValueError("--calibrate must be above 0, and --data not below")


def _calibration(predictor: OnnxPredictor, split: Split) -> Iterator[np.ndarray]:
    """Every image of the split as network input, (3, H, W) uint8, at every scale."""
    for record in progress(split.records, "calibrating", len(split.records), False):
        image = split.images.read(record.file_name, record.size)
        yield from map(to_planes, predictor.steps.preprocess(image).pixels)


def _verify(graph: nn.Module, exported: Mapping[Path, OnnxPredictor]) -> None:
    """Print the largest differences of each file; those of the first, in float, must be small."""
    for i, (path, predictor) in enumerate(exported.items()):
        compared = list(compare(graph, predictor.network, predictor.spec.network_size))
        print(f"\n{path.name}: largest difference, relative to the largest value")
        print(table(compared))
        if isinstance(graph, PeaksGraph):
            print("peaks: those of the file against ours of the same file's maps; 0 if equal")
        if i == 0:
            check_tolerance(compared, path.name)
            print(f"{path.name} agrees with the network: no difference above {TOLERANCE:.0e}")
        else:
            print(f"{path.name} is quantized, and not judged by this: use --data N for its AP")


def _compare_metrics(
    predictors: Mapping[str, Predict],
    images: Images,
    make_evaluator: Callable[[], PoseEvaluator | MappedEvaluator],
) -> None:
    """Print the metrics of the network and of each file."""
    rows = {
        name: evaluate_predictor(predict, images, make_evaluator())
        for name, predict in predictors.items()
    }
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(f"{name:>8}" for name in rows["network"]))
    for name, row in rows.items():
        print(f"{name:<{width}}" + "".join(f"{value:>8.3f}" for value in row.values()))
