"""Check what will be trained on: statistics, violated rules with cures, samples with targets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import (
    annotation_path,
    build_schema,
    build_skeleton,
    image_path,
    open_split,
    read_annotations,
)
from hrpose.builders.sources import list_sources
from hrpose.data.box_checks import box_statistics, check_box_set
from hrpose.data.boxes import read_boxes
from hrpose.data.coco import (
    load_annotations,
    person_category,
    select_images,
)
from hrpose.data.convert import (
    CROWDPOSE_IMAGES,
    MergedAnnotations,
    merge_annotations,
    with_decoded_sizes,
)
from hrpose.data.fingerprints import keep_fingerprints
from hrpose.data.repair import repair
from hrpose.data.rules import ERROR, EVALUATION, NOTE
from hrpose.data.statistics import DatasetView, ImageInfo, compute_statistics, inspect_files
from hrpose.data.validate import Finding, compare_splits, finding, validate, violated
from hrpose.evaluation.boxes import box_ap
from hrpose.ops.atomic_io import write_json
from hrpose.programs.shared_images import shared_findings
from hrpose.programs.visual_reports import save_samples


def main(known: argparse.Namespace, config: CfgNode) -> None:
    if known.build_trainval:
        print(build_trainval(config))
        return
    if known.repair:
        both = "{split}" in str(known.repair)
        for split in (config.DATASET.TRAIN, config.DATASET.VAL)[: 1 + both]:
            target = Path(str(known.repair).replace("{split}", split))
            print(repair_split(config, split, target))
        return
    folder = Path(config.OUTPUT_DIR) / config.NAME / "check_data"
    if known.boxes:
        report, name = check_boxes_file(config, known.boxes), "boxes.json"
    else:
        report, name = check_data(config, known.images, folder), "report.json"
    write_json(folder / name, report, indent=1)
    print(format_report(report))
    print(f"written to {folder}")
    sys.exit(1 if report["errors"] else 0)


def check_data(config: CfgNode, limit: int | None, folder: Path) -> dict[str, Any]:
    """The report; pictures are written into `folder`.

    limit: images to decode of each split, None for all
    """
    views: dict[str, DatasetView] = {}
    findings: dict[str, Sequence[Finding]] = {}
    for source in list_sources(config):
        data = source.own.DATASET
        own = {s: read_view(source.own, s, limit) for s in (data.TRAIN, data.VAL) if s}
        views |= {source.key(split): view for split, view in own.items()}
        for split, view in own.items():
            found = validate(view)
            if not data.VAL:  # then there is nothing that evaluation could stop at
                found = violated(
                    replace(f, severity=NOTE) if f.stops == (EVALUATION,) else f for f in found
                )
            findings[source.key(split)] = found
        if len(own) == 2:
            findings[source.key("both splits")] = compare_splits(own[data.TRAIN], own[data.VAL])
        elif data.VAL:
            findings[source.key("both splits")] = [one_split()]
    if config.DATASET.SOURCES:
        findings["all data sets"] = shared_findings(config, views)
    findings["training samples"] = training_errors(config, folder / "pictures")
    return _report({split: compute_statistics(view) for split, view in views.items()}, findings)


def one_split() -> Finding:
    """Of a data set whose DATASET.VAL is DATASET.TRAIN."""
    cure = "nothing to do if it is to overfit; else set DATASET.VAL to images not trained on"
    what, where = "split both trained and evaluated on", ["DATASET.TRAIN, .VAL"]
    return finding("one-split", NOTE, what, where, cure)


def _report(counts: dict[str, Any], findings: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    return {
        "counts": counts,
        "findings": {place: [asdict(f) for f in found] for place, found in findings.items()},
        "errors": sum(f.severity == ERROR for found in findings.values() for f in found),
    }


def check_boxes_file(config: CfgNode, path: Path) -> dict[str, Any]:
    """The report on a detector's boxes of the images of DATASET.VAL, by their labels."""
    truth = read_annotations(config, config.DATASET.VAL)
    truth = select_images(truth, config.DATASET.IMAGE_IDS)
    view = view_of(config, config.DATASET.VAL, truth, {})
    try:
        filters = config.TEST.BOX_FILTER.MIN_SCORE, config.TEST.BOX_FILTER.MAX_PER_IMAGE
        boxes = read_boxes(path, view.images.values(), view.schema.category["id"], *filters)
    except ValueError as error:
        cure = "correct it, then run this again"
        found = finding(
            "boxes-unread", ERROR, "error that evaluation would stop at", [f"{error}"], cure
        )
        return _report({}, {path.name: [found]})
    table = box_statistics(boxes, view)
    results = boxes.to_results(view.schema.category["id"])
    people = list(compress(view.people, np.isfinite(view.boxes).all(1)))
    for where, images in ("", view.images), (", images with a box", boxes.images):
        table[f"box AP{where}"] = round(box_ap(people, results, images), 3)
    return _report({path.name: table}, {path.name: check_box_set(boxes, view)})


def read_view(config: CfgNode, split: str, limit: int | None) -> DatasetView:
    """A split and the properties of up to `limit` of its image files."""
    truth, images = open_split(config, split)
    truth = select_images(truth, config.DATASET.IMAGE_IDS)
    listed = [image for image in truth["images"] if image.get("file_name")]
    if limit is not None and limit < len(listed):
        rng = np.random.default_rng(config.TRAIN.SEED)
        listed = [listed[i] for i in sorted(rng.choice(len(listed), limit, replace=False))]
    files = inspect_files(images, listed, config.WORKERS, split)
    found = {name: info.fingerprint for name, info in files.items() if not info.problem}
    keep_fingerprints(annotation_path(config, split), found)
    return view_of(config, split, truth, files)


def view_of(
    config: CfgNode, split: str, truth: dict[str, Any], files: dict[str, ImageInfo]
) -> DatasetView:
    """Annotations as the rules see them; `files`: the properties of image files by their names."""
    if config.DATASET.SKELETON == "file":  # whose names may not form a skeleton
        train = read_annotations(config, config.DATASET.TRAIN)
        joints = tuple(person_category(train, config.DATASET.CATEGORY).get("keypoints") or ())
    else:
        joints = build_skeleton(config).joints
    return DatasetView(truth, build_schema(config, truth, joints), files)


def training_errors(config: CfgNode, folder: Path) -> list[Finding]:
    """The error that training would stop at while samples of it are drawn, or its remarks."""
    try:
        notes = save_samples(config, folder)
    except Exception as error:  # any: the report lists it with all other findings
        cure = "correct the errors above, then run this again"
        what = "error that training would stop at while it reads its first samples"
        message = f"{type(error).__name__}: {error}"
        return [finding("training-samples", ERROR, what, [message], cure)]
    what, cure = "remarks that training begins with", "nothing to do if this is as expected"
    return violated([finding("training-notes", NOTE, what, notes, cure)])


# Repairs --------------------------------------------------------------------------------------


def repair_split(config: CfgNode, split: str, target: Path) -> str:
    """Write the annotations of a split with what can be filled in; returns what was done.

    Errors: FileExistsError, as for the annotations themselves
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is there already; name a new file for --repair")
    path = annotation_path(config, split)
    truth, lines = repair(view_of(config, split, read_annotations(config, split), {}))
    try:
        write_json(target, truth)
    except ValueError:
        raise ValueError(
            f"{path} holds NaN or infinity, which JSON does not have; check_data.py without "
            "--repair lists where. Correct these values first"
        ) from None
    left = validate(view_of(config, split, truth, {}))
    lines += [f"left: {found.what} ({found.count})" for found in left if found.severity == ERROR]
    return "\n".join([f"{path} -> {target}", *(f"  {line}" for line in lines or ["nothing to do"])])


# The report -----------------------------------------------------------------------------------


def format_report(report: Mapping[str, Any]) -> str:
    """The report as plain text."""
    blocks = [_format_counts(split, table) for split, table in report["counts"].items()]
    for place, findings in report["findings"].items():
        errors = sum(each["severity"] == ERROR for each in findings)
        verdict = f"{errors} kinds of errors, {len(findings) - errors} of notes"
        lines = [f"== {place}: {verdict if findings else 'nothing wrong'}"]
        for each in findings:
            lines.append(f"{each['severity']}: {each['count']} {each['what']}")
            more = ["..."] * (each["count"] > len(each["examples"]))
            lines += [f"    {example}" for example in (*each["examples"], *more)]
            lines.append(f"  cure: {each['cure']}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _format_counts(split: str, table: Mapping[str, Any]) -> str:
    """Numbers, histograms, and the table of joints."""
    lines = [f"== {split}"]
    for name, value in table.items():
        if not isinstance(value, dict):
            lines.append(f"{name:30} {value:>8}")
        elif not any(isinstance(entry, dict) for entry in value.values()):
            lines.append(f"{name}: " + ", ".join(f"{key}: {n:g}" for key, n in value.items()))
        else:
            columns = next(iter(value.values()))
            lines += [f"{name}:", " " * 18 + "".join(f"{column:>12}" for column in columns)]
            for row, counts in value.items():
                lines.append(f"  {row:16}" + "".join(f"{counts[column]:>12}" for column in columns))
    return "\n".join(lines)


# CrowdPose's training set ---------------------------------------------------------------------


def build_trainval(config: CfgNode) -> str:
    """Merge the annotations of train and val into those of trainval; returns a summary."""
    if image_path(config, "train") != image_path(config, "val"):
        raise ValueError("--build-trainval is for sets with one folder of images, as CrowdPose")
    parts = [open_split(config, split) for split in ("train", "val")]
    merged = merge_annotations(parts[0][0], parts[1][0])
    listed = merged.truth["images"]
    merged = with_decoded_sizes(
        merged, inspect_files(parts[0][1], listed, config.WORKERS, "trainval")
    )
    path = annotation_path(config, "trainval")
    verb = "verified" if path.exists() else "written and verified"
    if not path.exists():
        write_json(path, merged.truth)
    if load_annotations(path) != merged.truth:
        raise ValueError(
            f"{path} is not the merge of train and val; move it away and run this again"
        )
    return _format_merge(f"{verb} {path}", merged, [len(each["images"]) for each, _ in parts])


def _format_merge(title: str, merged: MergedAnnotations, images: Sequence[int]) -> str:
    lines = [
        title,
        f"  images       {len(merged.truth['images'])} = {' + '.join(map(str, images))}",
        f"  annotations  {len(merged.truth['annotations'])}",
        f"  annotations renumbered, as ids collided: {merged.renumbered}",
        f"  images whose width and height were swapped: {merged.swapped}",
    ]
    if tuple(images) != CROWDPOSE_IMAGES:
        published = " + ".join(map(str, CROWDPOSE_IMAGES))
        lines.append(f"  note: the published training set has {published} images")
    return "\n".join(lines)
