"""What the folder of a run holds, read for its report; what is absent is noted, not refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from yacs.config import CfgNode

from hrpose.builders.common import build_model
from hrpose.builders.datasets import build_evaluator, build_skeleton
from hrpose.builders.families import family
from hrpose.builders.sources import DataSource, evaluated_sources, read_source_split
from hrpose.config import parse_config
from hrpose.data.coco import ImageFiles, load_results
from hrpose.evaluation.analysis import analyze_errors
from hrpose.evaluation.coco import Comparison, KeypointEvaluator
from hrpose.evaluation.results import joints_array
from hrpose.models.complexity import operations_in
from hrpose.ops.atomic_io import read_json
from hrpose.programs.error_analysis import ANALYZED_FORMATS
from hrpose.programs.valid import results_name
from hrpose.report.page import Picture
from hrpose.skeletons import Skeleton
from hrpose.visualize import draw_poses, side_by_side, titled

History = dict[str, tuple[list[float], list[float]]]
"""Metric -> steps and values."""

UNREADABLE = (ValueError, LookupError, OSError, TypeError, AttributeError)
"""Errors of data that moved, changed or were written by another version: that part is left out."""

PICTURES = 12
"""In each gallery."""

WIDE, TALL = 280, 240
"""Pixels of each half of a picture, at most."""


@dataclass(frozen=True)
class RecordedRun:
    """A run folder: run.json, config.yaml and metrics.jsonl."""

    folder: Path
    label: str
    facts: Mapping[str, Any]
    config: CfgNode | None
    history: History
    notes: Sequence[str]  # what is absent, and why


@dataclass(frozen=True)
class AnalyzedPoses:
    """The poses of a run's last evaluation on one data set, and what is wrong with them."""

    pair: Comparison
    skeleton: Skeleton
    analysis: Mapping[str, Any]  # see `analyze_errors`
    images: ImageFiles
    threshold: float  # of scores that are drawn


def label_runs(folders: Sequence[Path]) -> list[str]:
    """<experiment>/<time> of each; whole paths where that is not unique."""
    whole = [folder.resolve() for folder in folders]
    short = ["/".join(path.parts[-2:]) for path in whole]
    return short if len(set(short)) == len(short) else [f"{path}" for path in whole]


def read_run(folder: Path, label: str) -> RecordedRun:
    """FileNotFoundError: it has no run.json, so that it is not the folder of a run."""
    record = folder / "run.json"
    if not record.is_file():
        raise FileNotFoundError(f"no run at {folder} (no run.json); name an output/<config>/<time>")
    facts = read_json(record, "record of a run")
    if not isinstance(facts, dict):
        raise ValueError(f"{record} is not the record of a run")
    history, broken = read_history(folder / "metrics.jsonl")
    notes = [f"{broken} broken lines of metrics.jsonl are left out"] * bool(broken)
    if not history:
        notes.append("no curves: metrics.jsonl is absent or empty")
    try:
        path = folder / "config.yaml"
        config = parse_config(path.read_text(), f"{path}")
    except UNREADABLE as error:
        config = None
        notes.append(f"neither errors nor GMAC, since its config cannot be read: {error}")
    return RecordedRun(folder, label, facts, config, history, notes)


def read_history(path: Path) -> tuple[History, int]:
    """The finite numbers of metrics.jsonl, and how many lines are broken, as by a crash."""
    history: History = {}
    broken = 0
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            values = json.loads(line)
            step = float(values.pop("step"))
        except (ValueError, LookupError, TypeError, AttributeError):
            broken += 1
            continue
        for name, value in values.items():
            if isinstance(value, (int, float)) and np.isfinite(value):
                steps, numbers = history.setdefault(name, ([], []))
                steps.append(step)
                numbers.append(value)
    return history, broken


def count_gmac(config: CfgNode) -> float:
    """GMAC for an image of the size that is usual at test."""
    width, height = family(config).typical_size(config)
    with torch.device("meta"):
        model = build_model(config).eval()
    return operations_in(model, (height, width))


def analyzed_sets(run: RecordedRun) -> Iterator[tuple[str, AnalyzedPoses | str]]:
    """For each data set its name and the analysis, or why there is none."""
    if run.config is None:
        return
    try:
        sources = evaluated_sources(run.config)
    except UNREADABLE as error:
        yield "", f"errors are not analysed: {error}"
        return
    for source in sources:
        try:
            yield source.name, _analyze(run.folder, source)
        except UNREADABLE as error:
            yield source.name, f"errors are not analysed: {error}"


def _analyze(folder: Path, source: DataSource) -> AnalyzedPoses:
    config = source.own
    if config.DATASET.FORMAT not in ANALYZED_FORMATS:
        raise ValueError(
            f"DATASET.FORMAT {config.DATASET.FORMAT} is not scored by OKS; figures are above"
        )
    if not Path(config.DATASET.ROOT).is_dir():
        raise FileNotFoundError(
            f"there is no folder {config.DATASET.ROOT}; call tools/report.py where the run was "
            "started, with its data in place"
        )
    path = folder / source.name / "results" / results_name(source.config)
    if not path.is_file():
        raise FileNotFoundError(f"no results in {path.parent}: the run was never validated")
    split, skeleton = read_source_split(source, config.DATASET.VAL), build_skeleton(config)
    evaluator = build_evaluator(config, split.truth)
    assert isinstance(evaluator, KeypointEvaluator)
    evaluator.add_results(load_results(path))
    pair = evaluator.comparison()
    analysis = analyze_errors(pair, skeleton)
    threshold = config.TEST.DETECTION_THRESHOLD
    return AnalyzedPoses(pair, skeleton, analysis, split.images, threshold)


# Galleries ------------------------------------------------------------------------------------


def draw_galleries(poses: AnalyzedPoses) -> dict[str, list[Picture]]:
    """The images of most error, the false poses of highest score, and the largest missed people."""
    pair, images = poses.pair, poses.analysis["images"]
    worst = [each for each in images if each["error"] > 0][:PICTURES]
    found, people = pair.detections.anns, pair.truth.anns
    false = sorted((n for each in images for n in each["false"]), key=lambda n: -found[n]["score"])
    missed = sorted(
        (n for each in images for n in each["missed"]), key=lambda n: -people[n]["area"]
    )
    return {
        "Images of most error: missed people, and what the found ones lack in OKS": [
            _draw_place(poses, each["image_id"], None, _describe(each)) for each in worst
        ],
        "False poses of highest score, at OKS .5": [
            _draw_place(poses, found[n]["image_id"], found[n], f"score {found[n]['score']:.3f}")
            for n in false[:PICTURES]
        ],
        "Largest missed people, at OKS .5": [
            _draw_place(poses, people[n]["image_id"], people[n], f"{people[n]['area']:.0f} px²")
            for n in missed[:PICTURES]
        ],
    }


def _describe(image: Mapping[str, Any]) -> str:
    counts = {name: len(image[name]) for name in ("found", "missed", "false")}
    return f"error {image['error']:.2f}: " + ", ".join(f"{n} {name}" for name, n in counts.items())


def _draw_place(
    poses: AnalyzedPoses, image_id: int, one: Mapping[str, Any] | None, note: str
) -> Picture:
    """Truth beside prediction, of the whole image or around one person or pose."""
    pair, skeleton = poses.pair, poses.skeleton
    record, count = pair.truth.imgs[image_id], len(poses.skeleton.joints)
    caption = f"{record.get('file_name', '')}, image {image_id}: {note}"
    size = (record["width"], record["height"]) if "width" in record else None
    try:
        image = poses.images.read(record["file_name"], size)
    except UNREADABLE as error:
        return Picture(np.full((40, WIDE, 3), 220, np.uint8), f"{caption} (unreadable: {error})")
    people = joints_array(pair.truth.imgToAnns.get(image_id, []), count)
    drawn = [
        pose
        for pose in pair.detections.imgToAnns.get(image_id, [])
        if pose["score"] > poses.threshold or pose is one
    ]
    least = poses.threshold
    views = [draw_poses(image, people, skeleton)]
    views.append(draw_poses(image, joints_array(drawn, count), skeleton, least))
    area = _around(one, count, image.shape) if one else (slice(None), slice(None))
    halves = [titled(_fitted(view[area]), t) for view, t in zip(views, ("truth", "prediction"))]
    return Picture(side_by_side(halves), caption)


def _around(
    one: Mapping[str, Any], joint_count: int, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Rows and columns of the known joints and as much around them."""
    joints = joints_array([one], joint_count)[0]
    known = joints[(joints[:, :2] != 0).any(1), :2]
    if not len(known):
        return slice(None), slice(None)
    low, high = known.min(0), known.max(0)
    margin = max(0.5 * (high - low).max(), 16)
    limits = np.array(shape[1::-1])
    left, top = np.minimum((low - margin).clip(0), limits - 2).astype(int)
    right, bottom = np.minimum((high + margin).clip(2), limits).astype(int)
    return slice(top, max(bottom, top + 2)), slice(left, max(right, left + 2))


def _fitted(image: np.ndarray) -> np.ndarray:
    """The image, shrunk or enlarged to fit half of a picture."""
    factor = min(WIDE / image.shape[1], TALL / image.shape[0], 3)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)
