"""Check what will be trained on: statistics, violated rules with cures, samples with targets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
)
from hrpose.data.coco import ImageFiles, load_annotations, person_category, select_images
from hrpose.data.convert import (
    CROWDPOSE_IMAGES,
    MergedAnnotations,
    merge_annotations,
    with_decoded_sizes,
)
from hrpose.data.statistics import DatasetView, ImageInfo, compute_statistics, inspect_images
from hrpose.data.validate import ERROR, NOTE, Finding, compare_splits, finding, validate
from hrpose.ops.atomic_io import write_json
from hrpose.ops.progress import progress
from hrpose.programs.visual_reports import save_samples

IMAGES_PER_PROCESS = 500
"""With fewer, a process takes longer to start than to read them."""


def main(known: argparse.Namespace, config: CfgNode) -> None:
    if known.build_trainval:
        print(build_trainval(config))
        return
    folder = Path(config.OUTPUT_DIR) / config.NAME / "check_data"
    report = check_data(config, known.images, folder)
    write_json(folder / "report.json", report, indent=1)
    print(format_report(report))
    print(f"written to {folder}")
    sys.exit(1 if report["errors"] else 0)


def check_data(config: CfgNode, limit: int | None, folder: Path) -> dict[str, Any]:
    """The report; pictures are written into `folder`.

    limit: images to decode of each split, None for all
    """
    data = config.DATASET
    views = {split: read_view(config, split, limit) for split in (data.TRAIN, data.VAL)}
    findings = {split: validate(view) for split, view in views.items()}
    if data.TRAIN != data.VAL:
        findings["both splits"] = compare_splits(views[data.TRAIN], views[data.VAL])
    else:
        cure = "nothing to do if it is to overfit; else set DATASET.VAL to images not trained on"
        what = "split both trained and evaluated on"
        findings["both splits"] = [finding("one-split", NOTE, what, ["DATASET.TRAIN, .VAL"], cure)]
    findings["training samples"] = training_errors(config, folder / "pictures")
    return {
        "counts": {split: compute_statistics(view) for split, view in views.items()},
        "findings": {place: [asdict(f) for f in found] for place, found in findings.items()},
        "errors": sum(f.severity == ERROR for found in findings.values() for f in found),
    }


def read_view(config: CfgNode, split: str, limit: int | None) -> DatasetView:
    """A split and the properties of up to `limit` of its image files."""
    truth, images = open_split(config, split)
    truth = select_images(truth, config.DATASET.IMAGE_IDS)
    if config.DATASET.SKELETON == "file":  # whose names may not form a skeleton
        train = load_annotations(annotation_path(config, config.DATASET.TRAIN))
        joints = tuple(person_category(train, config.DATASET.CATEGORY).get("keypoints") or ())
    else:
        joints = build_skeleton(config).joints
    names = list(dict.fromkeys(i["file_name"] for i in truth["images"] if i.get("file_name")))
    if limit is not None and limit < len(names):
        rng = np.random.default_rng(config.TRAIN.SEED)
        names = sorted(rng.choice(names, limit, replace=False).tolist())
    files = inspect_files(images, names, config.WORKERS, split)
    return DatasetView(truth, build_schema(config, truth, joints), files)


def inspect_files(
    images: ImageFiles, names: Sequence[str], workers: int, title: str
) -> dict[str, ImageInfo]:
    """file name -> its properties"""
    processes = min(workers, len(names) // IMAGES_PER_PROCESS)
    infos = inspect_images(images, names, processes)
    return dict(zip(names, progress(infos, title, len(names))))


def training_errors(config: CfgNode, folder: Path) -> list[Finding]:
    """The error that training would stop at, if any, while samples of it are drawn."""
    try:
        save_samples(config, folder)
    except Exception as error:  # any: the report lists it with all other findings
        cure = "correct the errors above, then run this again"
        what = "error that training would stop at while it reads its first samples"
        message = f"{type(error).__name__}: {error}"
        return [finding("training-samples", ERROR, what, [message], cure)]
    return []


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
    (train, images), (val, _) = (open_split(config, split) for split in ("train", "val"))
    merged = merge_annotations(train, val)
    names = [image["file_name"] for image in merged.truth["images"]]
    files = inspect_files(images, names, config.WORKERS, "trainval")
    merged = with_decoded_sizes(merged, files)
    path = annotation_path(config, "trainval")
    verb = "verified" if path.exists() else "written and verified"
    if not path.exists():
        write_json(path, merged.truth)
    if load_annotations(path) != merged.truth:
        raise ValueError(
            f"{path} is not the merge of train and val; move it away and run this again"
        )
    return _format_merge(f"{verb} {path}", merged, [len(each["images"]) for each in (train, val)])


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
