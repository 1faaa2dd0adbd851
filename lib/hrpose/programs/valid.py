"""Score a network, or a file of results, against annotations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from yacs.config import CfgNode

from hrpose.builders.bottomup import (
    build_evaluator,
    build_pipeline_config,
    build_predict_fn,
    load_predictors,
)
from hrpose.builders.datasets import Split, annotation_path, read_split
from hrpose.builders.devices import build_devices
from hrpose.data.coco import load_annotations, load_results
from hrpose.data.samples import AnnotatedImageDataset, ImageDataset
from hrpose.engine.distributed import DistInfo, distributed_context
from hrpose.engine.evaluate import evaluate, predict_sequentially
from hrpose.engine.run_dir import create_run_folder
from hrpose.evaluation.coco import format_table
from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.pipeline import stream
from hrpose.ops.atomic_io import atomic_write, write_json
from hrpose.programs.cli import command, config_parser, parsed_config
from hrpose.programs.environment import environment_info
from hrpose.programs.visual_reports import save_predictions


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Evaluate TEST.MODEL_FILE, or a file of COCO results, on DATASET.VAL.")
    parser.add_argument("--results", type=Path, help="score this COCO results file instead")
    parser.add_argument("--output", type=Path, help="where to write; default: a new run folder")
    known, config = parsed_config(parser, arguments)
    judge = partial(score_results, path=known.results) if known.results else score_weights
    with distributed_context() as world:
        folder = _folder(config, known.output, world)
        try:
            figures = judge(config, folder, world)
        except BaseException:
            if world.is_main and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()  # nothing came of it
            raise
        if world.is_main:
            _keep(config, folder, figures, world)


def _folder(config: CfgNode, asked: Path | None, world: DistInfo) -> Path:
    """Where to write: what was asked for, or a new folder that the leader makes."""
    if asked or not world.is_main:
        return asked or Path(world.broadcast(""))
    return Path(world.broadcast(str(create_run_folder(Path(config.OUTPUT_DIR) / config.NAME))))


def _keep(config: CfgNode, folder: Path, figures: dict[str, float], world: DistInfo) -> None:
    """Leave the figures with what they came of, and print them."""
    facts = {**environment_info(build_devices(config, world)), "weights": config.TEST.MODEL_FILE}
    write_json(folder / "run.json", {**facts, "figures": figures}, indent=1)
    atomic_write(folder / "config.yaml", lambda file: file.write(config.dump().encode()))
    print(format_table(figures))
    print(f"written to {folder}")


def score_weights(config: CfgNode, folder: Path, world: DistInfo) -> dict[str, float]:
    """Score TEST.MODEL_FILE on DATASET.VAL."""
    split = read_split(config, config.DATASET.VAL)
    return score(config, load_predictors(config, world), split, folder, world)


def score(
    config: CfgNode,
    predictors: Sequence[BottomUpPredictor],
    split: Split,
    folder: Path,
    world: DistInfo,
) -> dict[str, float]:
    """Predict on a split, all processes together; the leader leaves what it found in `folder`."""
    evaluator, find = build_evaluator(config, split.truth), build_predict_fn(config, predictors[0])
    if config.TEST.GT_HEATMAPS:
        marked = AnnotatedImageDataset(split.records, split.images)
        figures = evaluate(predict_sequentially(find), marked, evaluator, world)
    else:
        find_all = partial(stream, predictors, config=build_pipeline_config(config, predictors))
        figures = evaluate(find_all, ImageDataset(split.records, split.images), evaluator, world)
    if world.is_main:
        write_json(folder / "results" / "keypoints.json", evaluator.results)
        write_json(folder / "results" / "metrics.json", figures, indent=1)
        save_predictions(config, find, split, folder / "pictures")
    return figures


def score_results(config: CfgNode, folder: Path, world: DistInfo, path: Path) -> dict[str, float]:
    """Score a file in COCO's results format; the images themselves are not needed."""
    evaluator = build_evaluator(
        config, load_annotations(annotation_path(config, config.DATASET.VAL))
    )
    evaluator.add_results(load_results(path))
    figures = evaluator.summarize()
    if world.is_main:
        write_json(folder / "results" / "metrics.json", figures, indent=1)
    return figures
