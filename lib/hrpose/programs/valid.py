"""Score a network, or a file of results, against annotations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from hrpose.builders.datasets import (
    Split,
    build_evaluator,
    build_schema,
    build_skeleton,
    check_annotations,
    read_annotations,
    read_split,
)
from hrpose.builders.devices import build_devices
from hrpose.builders.families import box_source, family, load_predictors
from hrpose.builders.topdown import TRUTH
from hrpose.data.box_checks import check_box_set
from hrpose.data.coco import load_results, select_images
from hrpose.data.rules import ERROR, EVALUATION
from hrpose.data.samples import BoxedImageDataset, ImageDataset
from hrpose.data.statistics import DatasetView
from hrpose.engine.distributed import DistInfo, distributed_context
from hrpose.engine.evaluate import evaluate
from hrpose.engine.run_dir import create_run_folder, remove_empty
from hrpose.evaluation.coco import describe_results, format_table, match_images
from hrpose.ops.atomic_io import atomic_write, write_json
from hrpose.programs.environment import environment_info
from hrpose.programs.visual_reports import save_predictions
from hrpose.structures import Images


def main(known: argparse.Namespace, config: CfgNode) -> None:
    with distributed_context() as dist:
        folder = known.output
        if not folder:  # the main process makes a new one
            experiment = Path(config.OUTPUT_DIR) / config.NAME
            folder = dist.broadcast(create_run_folder(experiment) if dist.is_main else None)
        try:
            if known.results:
                metrics = score_results(config, folder, dist, known.results)
            else:
                metrics = score_network(config, folder, dist)
        except BaseException:
            if dist.is_main and not known.output:
                remove_empty(folder, Path(config.OUTPUT_DIR))
            raise
        if dist.is_main:
            boxes = "" if known.results else box_source(config)
            weights = {"weights": config.TEST.MODEL_FILE, "ensemble": [*config.TEST.ENSEMBLE]}
            facts = environment_info(build_devices(config, dist)) | weights
            facts |= {"boxes": boxes, "figures": metrics}
            write_json(folder / "run.json", facts, indent=1)
            atomic_write(folder / "config.yaml", lambda file: file.write(config.dump().encode()))
            networks = len(config.TEST.ENSEMBLE) + 1
            mean = f"mean of {networks} networks " * (networks > 1 and not known.results)
            print(f"{mean}on {boxes} boxes:\n" * bool(boxes) + format_table(metrics))
            print(f"written to {folder}")


def score_network(config: CfgNode, folder: Path, dist: DistInfo) -> dict[str, float]:
    """Metrics of TEST.MODEL_FILE on DATASET.VAL; the main process prints which boxes it has."""
    split = read_split(config, config.DATASET.VAL)
    images = family(config).build_test_images(config, split.records, split.images, dist)
    if dist.is_main:
        print(f"warning: {split.findings}\n" * bool(split.findings), end="")
        for line in describe_boxes(config, split, images):
            print(line)
    return score(config, load_predictors(config, dist), split, images, folder, dist)


def describe_boxes(config: CfgNode, split: Split, images: ImageDataset) -> list[str]:
    """Lines for the log: source and counts of the boxes, if any, and errors of a file of them."""
    lines = [f"boxes: {images.note}"] if images.note else []
    if isinstance(images, BoxedImageDataset) and config.TEST.BOXES != TRUTH:
        truth = select_images(split.truth, config.DATASET.IMAGE_IDS)
        schema = build_schema(config, truth, build_skeleton(config).joints)
        found = check_box_set(images.boxes, DatasetView(truth, schema, {}))
        wrong = [f"{each.what} ({each.count})" for each in found if each.severity == ERROR]
        if wrong:
            cure = "tools/check_data.py --boxes lists them with their cures"
            lines.append(f"warning: {config.TEST.BOXES}: {', '.join(wrong)}; {cure}")
    return lines


def score(
    config: CfgNode,
    predictors: Sequence[Any],
    split: Split,
    images: Images,
    folder: Path,
    dist: DistInfo,
) -> dict[str, float]:
    """Metrics of a split that all processes predict; the main one writes them into `folder`.

    images: of the split's records, as the family's `build_test_images` makes them
    """
    evaluator = build_evaluator(config, split.truth)
    predict_all = family(config).build_predict_all(config, predictors)
    metrics = evaluate(predict_all, images, evaluator, dist)
    if dist.is_main:
        boxes = box_source(config)
        name = f"keypoints_{boxes}_boxes.json" if boxes else "keypoints.json"
        write_json(folder / "results" / name, evaluator.results)
        write_json(folder / "results" / "metrics.json", metrics, indent=1)
        save_predictions(config, predict_all, images, split, folder / "pictures")
    return metrics


def score_results(config: CfgNode, folder: Path, dist: DistInfo, path: Path) -> dict[str, float]:
    """Metrics of a file in COCO's results format; the images themselves are not needed."""
    truth = read_annotations(config, config.DATASET.VAL)
    found = check_annotations(config, truth, config.DATASET.VAL, EVALUATION)
    if found and dist.is_main:
        print(f"warning: {found}")
    evaluator = build_evaluator(config, truth)
    results, renumbered = match_images(load_results(path), truth["images"])
    evaluator.add_results(results)
    metrics = evaluator.summarize()
    if dist.is_main:
        if renumbered:
            print(f"{path}: image ids are of another numbering; poses are matched by file_name")
        print(describe_results(results, evaluator.image_ids))
        write_json(folder / "results" / "metrics.json", metrics, indent=1)
    return metrics
