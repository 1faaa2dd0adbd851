"""Ship a trained network: one file that finds poses without this repository's config or torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose import __version__
from hrpose.build import build_predictor, load_model, output_strides
from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.grouping import Settings
from hrpose.inference.recipe import Recipe
from hrpose.inference.runner import Runner
from hrpose.ops.files import refuse_unwritable
from hrpose.ops.heatmaps import find_peaks, gather_cells
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.exporting.formats import FORMATS, require_extra, sha256, write
from hrpose.programs.exporting.graphs import Looking, NetworkGraph, Outputs, PeaksGraph
from hrpose.programs.exporting.int8 import quantise
from hrpose.programs.exporting.verify import (
    TOLERANCE,
    Finder,
    looks,
    refuse_distant,
    score,
    table,
)
from hrpose.splits import Split, first, read_split

CALIBRATION = 64
"""Images that --int8 measures ranges on, where nobody says how many."""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    known, config = parsed_config(_parser(), arguments)
    _refuse_unusable(known, config)
    count = known.calibrate or CALIBRATION
    shown = first(read_split(config, config.DATASET.VAL), known.data) if known.data else None
    seen = first(read_split(config, config.DATASET.TRAIN), count) if known.int8 else None
    predictor = build_predictor(config, load_model(config))
    graph = GRAPHS[known.decode](config, predictor)
    recipe = _recipe(config, predictor, known.decode)
    shipped = Shipped(known.output, FORMATS[known.format].load)
    write(known.output, FORMATS[known.format], graph, recipe)
    print(f"written to {known.output} ({known.output.stat().st_size / 1e6:.1f} MB)")
    files = [shipped, *([_whole_numbers(shipped, seen)] if seen else [])]
    if known.verify:
        _verify(graph, files)
    if shown:
        _compare_figures(config, predictor, files, shown)


def _parser() -> argparse.ArgumentParser:
    parser = config_parser("Write TEST.MODEL_FILE as one file that is run without this repository.")
    parser.add_argument("--output", required=True, type=Path, help="model.onnx, or model.pt2")
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx")
    parser.add_argument(
        "--decode",
        choices=sorted(GRAPHS),
        default="network",
        help="what is in the graph: the network alone; or also its views, averages and peaks",
    )
    parser.add_argument("--verify", action="store_true", help="compare the file with the network")
    parser.add_argument(
        "--data", type=int, default=0, metavar="N", help="score both on N images of DATASET.VAL"
    )
    parser.add_argument("--int8", action="store_true", help="write model.int8.onnx beside it")
    parser.add_argument(
        "--calibrate",
        type=int,
        metavar="N",
        help=f"images of DATASET.TRAIN that --int8 measures on (default: {CALIBRATION})",
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    return parser


class Shipped(NamedTuple):
    """A file that was written, and how it is run."""

    path: Path
    load: Callable[[Path], Runner]


def int8_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.int8{path.suffix}")


def _refuse_unusable(known: argparse.Namespace, config: CfgNode) -> None:
    """What cannot be done is said before anything is read."""
    _refuse_arguments(known)
    if known.decode == "peaks" and len(config.TEST.SCALE_FACTOR) > 1:
        raise ValueError(
            f"a graph with peaks looks at one scale, TEST.SCALE_FACTOR is "
            f"{list(config.TEST.SCALE_FACTOR)}; add TEST.SCALE_FACTOR [1], or use --decode network"
        )
    if config.TEST.HEATMAPS != "predicted":
        raise ValueError("TEST.HEATMAPS annotated needs annotations, which no photo has")
    wanted = [known.output, *([int8_path(known.output)] if known.int8 else [])]
    there = [path for path in wanted if path.exists()]
    if there and not known.force:
        raise ValueError(f"{there[0]} is there already; choose another --output, or --force")
    for path in wanted:
        refuse_unwritable(path)
    if known.format == "onnx":
        require_extra()


def _refuse_arguments(known: argparse.Namespace) -> None:
    suffix = FORMATS[known.format].suffix
    if known.output.suffix != suffix:
        raise ValueError(f"--output is {known.output}; --format {known.format} writes *{suffix}")
    if known.int8 and known.format != "onnx":
        raise ValueError(f"--int8 goes with --format onnx, not {known.format}")
    if known.calibrate is not None and not known.int8:
        raise ValueError("--calibrate says on how many images --int8 measures; give that too")
    if known.calibrate == 0 or min(known.calibrate or 0, known.data) < 0:
        raise ValueError("--calibrate must be above 0, and --data not below")


def _network_graph(config: CfgNode, predictor: BottomUpPredictor) -> nn.Module:
    return NetworkGraph(predictor.model)


def _peaks_graph(config: CfgNode, predictor: BottomUpPredictor) -> nn.Module:
    find = partial(found, settings=predictor.settings)
    sizing = predictor.sizing
    looking = Looking(predictor.views, sizing.stride, sizing.outputs, find)
    return PeaksGraph(predictor.model, looking)


GRAPHS = {"network": _network_graph, "peaks": _peaks_graph}


def found(heatmaps: Tensor, tags: Tensor, settings: Settings) -> Outputs:
    """The peaks of every joint with what lies there: peaks (B, K, M, 10 + T), see gather_cells."""
    cells = find_peaks(heatmaps, settings.max_people, settings.nms_kernel)
    return {"peaks": gather_cells(heatmaps, tags, cells)}


def _recipe(config: CfgNode, predictor: BottomUpPredictor, graph: str) -> Recipe:
    sizing = predictor.sizing
    return Recipe(
        skeleton=predictor.skeleton,
        graph=graph,
        strides=tuple(output_strides(config)),
        input_size=sizing.input_size,
        scales=tuple(map(float, sizing.scales)),
        stride=sizing.stride,
        averaged=tuple(sizing.outputs),
        views=("plain", "mirrored") if config.TEST.FLIP_TEST else ("plain",),
        convention=config.MODEL.CONVENTION,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        settings=predictor.settings,
        weights_sha256=sha256(Path(config.TEST.MODEL_FILE)),
        hrpose=__version__,
    )


def _whole_numbers(shipped: Shipped, split: Split) -> Shipped:
    """The same in eight bits, in a file beside it."""
    runner = shipped.load(shipped.path)
    target = int8_path(shipped.path)
    quantise(shipped.path, target, _calibration(runner, split))
    print(f"written to {target} ({target.stat().st_size / 1e6:.1f} MB)")
    return Shipped(target, shipped.load)


def _calibration(runner: Runner, split: Split) -> Iterator[np.ndarray]:
    """Every image of the split as the network sees it, (3, H, W) uint8, at every scale."""
    for record in tqdm(split.records, "calibrating", unit="image", leave=False, disable=None):
        image = split.images.read(record.file_name)
        for scale in runner.recipe.scales:
            yield np.ascontiguousarray(runner.pixels(image, scale))


def _compare_figures(
    config: CfgNode, predictor: BottomUpPredictor, files: Sequence[Shipped], split: Split
) -> None:
    """What the network finds, and what each file."""
    finders: dict[str, Finder] = {"network": predictor}
    finders |= {path.name: load(path) for path, load in files}
    figures = {name: score(config, find, split) for name, find in finders.items()}
    width = max(map(len, figures)) + 2
    columns = list(figures["network"])
    print(f"\n{len(split.records)} images of {config.DATASET.VAL}")
    print(" " * width + "".join(f"{name:>8}" for name in columns))
    for name, row in figures.items():
        print(f"{name:<{width}}" + "".join(f"{row[column]:>8.3f}" for column in columns))


def _verify(graph: nn.Module, files: Sequence[Shipped]) -> None:
    """Largest differences of each file; of the first, which is in float, they must be small."""
    for i, (path, load) in enumerate(files):
        seen = list(looks(graph, load(path).network))
        print(f"\n{path.name}: largest difference, in the largest absolute value\n{table(seen)}")
        if isinstance(graph, PeaksGraph):
            print("peaks: those of the file against ours of the same file's maps; 0 if equal")
        if i == 0:
            refuse_distant(seen, path.name)
            print(f"{path.name} says what the network says: no more than {TOLERANCE:.0e} off")
        else:
            print(f"{path.name} is rounded, and not judged by this: --data N tells its AP")
