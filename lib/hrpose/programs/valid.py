"""Score a network, or a file of results, against annotations."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from hrpose.build import Split, build_evaluator, load_predictor, read_split
from hrpose.data.coco import AnnotatedImages
from hrpose.engine.evaluate import evaluate
from hrpose.evaluation.keypoints import format_table
from hrpose.ops.files import write_json
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.pictures import show_predictions
from hrpose.structures import Poses

Predictor = Callable[[np.ndarray], Poses]


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Evaluate TEST.MODEL_FILE, or a file of COCO results, on DATASET.VAL.")
    parser.add_argument("--results", type=Path, help="score this COCO results file instead")
    parser.add_argument("--output", type=Path, help="where to write; default: a new run folder")
    known, config = parsed_config(parser, arguments)
    split = read_split(config, config.DATASET.VAL)
    folder = known.output or Path(config.OUTPUT_DIR) / config.NAME / time.strftime("%Y%m%d-%H%M%S")
    if known.results:
        figures = score_results(config, split, known.results)
        write_json(folder / "results" / "metrics.json", figures)
    else:
        figures = score(config, load_predictor(config), split, folder)
    print(format_table(figures))
    print(f"written to {folder}")


def score(config: CfgNode, predictor: Predictor, split: Split, folder: Path) -> dict[str, float]:
    """Predict on a split; leave results, figures and pictures in `folder`."""
    evaluator = build_evaluator(config, split)
    figures = evaluate(predictor, AnnotatedImages(split.records, split.images), evaluator)
    write_json(folder / "results" / "keypoints.json", evaluator.results)
    write_json(folder / "results" / "metrics.json", figures)
    show_predictions(config, predictor, split, folder / "pictures")
    return figures


def score_results(config: CfgNode, split: Split, path: Path) -> dict[str, float]:
    """Score a file in COCO's results format."""
    evaluator = build_evaluator(config, split)
    evaluator.add_results(_read_results(path))
    return evaluator.summarize()


def _read_results(path: Path) -> list[dict]:
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}")
    try:
        results = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(results, list):
        raise ValueError(f"{path} is no list; COCO's results format is a list of poses")
    return results
