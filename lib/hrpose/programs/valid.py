"""Score a network, or a file of results, against annotations."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from hrpose.builders.datasets import (
    Split,
    build_evaluator,
    build_schema,
    build_skeleton,
    check_annotations,
    read_annotations,
)
from hrpose.builders.devices import build_devices
from hrpose.builders.families import box_source, family, load_predictors
from hrpose.builders.sources import (
    DataSource,
    build_source_evaluator,
    evaluated_sources,
    naming,
    read_source_split,
)
from hrpose.builders.topdown import TRUTH
from hrpose.config.loading import with_source_options
from hrpose.data.box_checks import check_box_set
from hrpose.data.coco import load_results, select_images
from hrpose.data.rules import ERROR, EVALUATION
from hrpose.data.samples import BoxedImageDataset
from hrpose.data.statistics import DatasetView
from hrpose.engine.distributed import DistInfo, distributed_context
from hrpose.engine.evaluate import evaluate
from hrpose.engine.run_dir import create_run_folder, remove_empty
from hrpose.evaluation.coco import format_table
from hrpose.evaluation.results import PoseEvaluator, describe_results, match_images
from hrpose.ops.atomic_io import atomic_write, write_json
from hrpose.programs.environment import environment_info
from hrpose.programs.error_analysis import require_analyzable, write_errors
from hrpose.programs.visual_reports import save_predictions
from hrpose.structures import Images


def main(known: argparse.Namespace, config: CfgNode) -> None:
    config = with_source_options(config)
    with distributed_context() as dist:
        folder = known.output
        if not folder:  # the main process makes a new one
            experiment = Path(config.OUTPUT_DIR) / config.NAME
            folder = dist.broadcast(create_run_folder(experiment) if dist.is_main else None)
        try:
            if known.errors:
                require_analyzable(config)
            if known.results:
                evaluator = read_results(config, dist, known.results)
                metrics = score_results(evaluator, folder, dist)
            else:
                tests = read_evaluation_sets(config, dist)
                metrics = score_network(config, tests, folder, dist)
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
            print(format_table(metrics) if known.results else describe_metrics(config, metrics))
            if known.errors:
                results = known.results and write_errors(config, evaluator, folder / "results")
                print(results or analyze_network(tests, folder))
            print(f"written to {folder}")


class EvaluationSet(NamedTuple):
    """A split that is predicted and scored."""

    source: DataSource
    split: Split
    images: Images  # of the split's records, as the family's `build_test_images` makes them


def score_network(
    config: CfgNode, tests: Sequence[EvaluationSet], folder: Path, dist: DistInfo
) -> dict[str, float]:
    """Metrics of TEST.MODEL_FILE; the main process prints which boxes it has."""
    for line in (line for test in tests for line in describe_evaluation_set(test)):
        print(f"{line}\n" * dist.is_main, end="")
    return score_evaluation_sets(tests, load_predictors(config, dist), folder, dist)


def analyze_network(tests: Sequence[EvaluationSet], folder: Path) -> str:
    """The errors of the poses that `score` has written, as tables for each data set."""
    tables = []
    for source, split, _ in tests:
        results = folder / source.name / "results"
        evaluator = build_evaluator(source.own, split.truth)
        evaluator.add_results(load_results(results / results_name(source.config)))
        name = f"errors of {source.name}:\n" * bool(source.name)
        tables.append(name + write_errors(source.own, evaluator, results))
    return "\n".join(tables)


def results_name(config: CfgNode) -> str:
    """Of the file of poses: with whose boxes they were found, if any."""
    boxes = box_source(config)
    return f"keypoints_{boxes}_boxes.json" if boxes else "keypoints.json"


def read_evaluation_sets(config: CfgNode, dist: DistInfo) -> list[EvaluationSet]:
    """DATASET.VAL, or that of each of DATASET.SOURCES."""
    tests = []
    for source in evaluated_sources(config):
        split = read_source_split(source, source.config.DATASET.VAL)
        build = family(config).build_test_images
        with naming(source):  # whose images a file of boxes may not have
            images = build(source.config, split.records, split.images, dist)
        tests.append(EvaluationSet(source, split, images))
    return tests


def describe_evaluation_set(test: EvaluationSet) -> list[str]:
    """Lines for the log: what is wrong with the annotations, the joints scored, the boxes."""
    source, split, images = test
    lines = [f"warning: {split.findings}"] * bool(split.findings)
    joints, missing = build_skeleton(source.own).joints, source.unpredicted
    if missing:
        count = f"{len(joints) - len(missing)} of its {len(joints)} joints"
        lines.append(f"{source.name}: scored by {count}, without {', '.join(missing)}")
    return lines + describe_boxes(source.own, split, images)


def score_evaluation_sets(
    tests: Sequence[EvaluationSet], predictors: Sequence[Any], folder: Path, dist: DistInfo
) -> dict[str, float]:
    """The metrics of all of them; those of one of DATASET.SOURCES as `<its name>/<metric>`."""
    metrics: dict[str, float] = {}
    for source, split, images in tests:
        own = score(source, predictors, split, images, folder / source.name, dist)
        metrics |= {source.key(name): value for name, value in own.items()}
    return metrics


def describe_metrics(config: CfgNode, metrics: Mapping[str, float]) -> str:
    """A table for each data set, below whose boxes they are of, and of how many networks."""
    boxes, networks = box_source(config), len(config.TEST.ENSEMBLE) + 1
    mean = f"mean of {networks} networks " * (networks > 1)
    heading = f"{mean}on {boxes} boxes:\n" * bool(boxes)
    return heading + format_metrics(evaluated_sources(config), metrics)


def format_metrics(sources: Sequence[DataSource], metrics: Mapping[str, float]) -> str:
    """A table for each data set."""
    tables = []
    for source in sources:
        prefix = source.key("")
        own = {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}
        tables.append(f"{source.name}:\n" * bool(source.name) + format_table(own))
    return "\n".join(tables)


def describe_boxes(config: CfgNode, split: Split, images: Any) -> list[str]:
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
    source: DataSource,
    predictors: Sequence[Any],
    split: Split,
    images: Images,
    folder: Path,
    dist: DistInfo,
) -> dict[str, float]:
    """Metrics of a split that all processes predict; the main one writes them into `folder`.

    images: of the split's records, as the family's `build_test_images` makes them
    """
    config, evaluator = source.config, build_source_evaluator(source, split.truth)
    predict_all = family(config).build_predict_all(config, predictors)
    metrics = evaluate(predict_all, images, evaluator, dist)
    if dist.is_main:
        write_json(folder / "results" / results_name(config), evaluator.results)
        write_json(folder / "results" / "metrics.json", metrics, indent=1)
        save_predictions(config, predict_all, images, split, folder / "pictures")
    return metrics


def read_results(config: CfgNode, dist: DistInfo, path: Path) -> PoseEvaluator:
    """An evaluator with the poses of a file in COCO's results format; images are not needed."""
    truth = read_annotations(config, config.DATASET.VAL)
    found = check_annotations(config, truth, config.DATASET.VAL, EVALUATION)
    if found and dist.is_main:
        print(f"warning: {found}")
    evaluator = build_evaluator(config, truth)
    results, renumbered = match_images(load_results(path), truth["images"])
    evaluator.add_results(results)
    if dist.is_main:
        if renumbered:
            print(f"{path}: image ids are of another numbering; poses are matched by file_name")
        print(describe_results(results, evaluator.image_ids))
    return evaluator


def score_results(evaluator: PoseEvaluator, folder: Path, dist: DistInfo) -> dict[str, float]:
    """Metrics of the poses that were read; the main process writes them."""
    metrics = evaluator.summarize()
    if dist.is_main:
        write_json(folder / "results" / "metrics.json", metrics, indent=1)
    return metrics
