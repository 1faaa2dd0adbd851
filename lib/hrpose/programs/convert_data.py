"""Annotations of a data set of another format as COCO JSON, and of any as those of a tool."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

from hrpose.data.coco import LAYOUTS, load_annotations, person_category
from hrpose.data.convert import (
    merge_annotations,
    mpii_annotations,
    read_mpii_truth,
    with_limbs,
)
from hrpose.data.convert_aic import aic_annotations
from hrpose.data.mpii_mat import read_mpii_release
from hrpose.data.rules import EVALUATION, TRAINING
from hrpose.data.statistics import DatasetView, Schema
from hrpose.data.validate import require
from hrpose.ops.atomic_io import read_json, write_json
from hrpose.programs.label_tools import (
    convert_coco,
    convert_label_studio,
    convert_yolo_pose,
    with_sizes,
    write_label_studio,
    write_yolo_pose,
)
from hrpose.skeletons import COCO, CROWDPOSE

AIC_FILES = "images, as AI Challenger's annotations are; files in COCO's format need no conversion"

VISIBILITIES = ("not labelled", "hidden", "visible")
"""What COCO's 0, 1 and 2 mean."""


def main(known: argparse.Namespace) -> None:
    refuse_words(known)
    truth, notes = CONVERTERS[known.source](known)
    if known.images and known.source not in LABEL_TOOLS:
        truth, swapped = with_sizes(truth, known.images)
        notes += [f"images whose width and height were swapped: {swapped}"] * (swapped > 0)
    joints = tuple(person_category(truth)["keypoints"])
    area_from = LAYOUTS.get(known.source, LAYOUTS["coco"]).area_from
    schema = Schema(joints, person_category(truth), area_from=area_from, ignore="box")
    view = DatasetView(truth, schema, {})
    for stage in (TRAINING, EVALUATION):
        require(view, stage, known.annotations[0])
    notes += LABEL_WRITERS[known.to](known, truth)
    print("\n".join([*describe_people(truth, known.output), *notes]))


def refuse_words(known: argparse.Namespace) -> None:
    """Errors: FileExistsError for an output that is there; ValueError for words without effect."""
    if os.path.lexists(known.output):
        raise FileExistsError(f"{known.output} is there already; name another --output")
    results = known.source == "coco" and len(known.annotations) == 2
    if len(known.annotations) > 1 and known.source != "crowdpose" and not results:
        raise ValueError(
            f"--from {known.source} takes one file of annotations; convert one split after the "
            "other, each to a file of its own"
        )
    if known.ground_truth and known.source != "mpii":
        raise ValueError(f"--ground-truth is MPII's gt_valid.mat; leave it out for {known.source}")
    for word, sources in TOOL_WORDS.items():
        if getattr(known, word) and known.source not in sources:
            raise ValueError(f"--{word} is for --from {' or '.join(sources)}; leave it out")
    if known.url and known.to != "label-studio":
        raise ValueError("--url is for --to label-studio; leave it out")


def write_coco(known: argparse.Namespace, truth: dict[str, Any]) -> list[str]:
    write_json(known.output, truth)
    return []


def describe_people(truth: dict[str, Any], path: Path) -> list[str]:
    """Lines with the counts of images, people, and joints by visibility."""
    people, images = truth["annotations"], truth["images"]
    flags = Counter(flag for one in people for flag in (one.get("keypoints") or [])[2::3])
    unlabelled = sum(not any((one.get("keypoints") or [])[2::3]) for one in people)
    bare = len({image["id"] for image in images} - {one["image_id"] for one in people})
    kinds = ", ".join(f"{flags[v]} {name} ({v})" for v, name in enumerate(VISIBILITIES))
    return [
        f"{len(people)} people with {flags[1] + flags[2]} labelled joints in {len(images)} images: "
        f"{path}",
        f"joints: {kinds}",
        f"people without a labelled joint: {unlabelled}; images without people: {bare}",
    ]


def convert_mpii(known: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The annotations and what is to be known of them."""
    [path] = known.annotations
    if path.suffix == ".mat":
        if known.ground_truth:
            raise ValueError(
                f"{path} has the head boxes itself; leave --ground-truth out, or give annot/*.json"
            )
        people, ground_truth, left_out = read_mpii_release(path)
        notes = [f"left out: {count} {what}" for what, count in left_out.items()]
        return mpii_annotations(people, ground_truth), notes
    people = read_json_list(path, "people, as MPII's annot/*.json are")
    if people and not any("joints" in each for each in people):
        raise ValueError(
            f"{path} has no joints: those of MPII's test split are not public; "
            "convert train, valid or trainval.json"
        )
    if not known.ground_truth:
        return mpii_annotations(people), [
            "no head sizes, for want of --ground-truth: to be trained on, not to be scored by PCKh"
        ]
    return mpii_annotations(people, read_mpii_truth(known.ground_truth)), []


def read_json_list(path: Path, what: str) -> list[dict[str, Any]]:
    """A JSON file that is a list of objects. Errors: ValueError, with the path, for others."""
    entries = read_json(path, "annotations")
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ValueError(f"{path} is not a list of {what}")
    return entries


def convert_aic(known: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Likewise, of AI Challenger."""
    entries = read_json_list(known.annotations[0], AIC_FILES)
    return aic_annotations(entries), []


def convert_crowdpose(known: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Likewise, of one or more splits of CrowdPose, which become one."""
    truth, *others = map(load_annotations, known.annotations)
    renumbered = 0
    for other in others:
        merged = merge_annotations(truth, other)
        truth, renumbered = merged.truth, renumbered + merged.renumbered
    notes = [f"annotations renumbered, as ids collided: {renumbered}"]
    if not known.images:
        notes.append(
            "sizes are those of the annotations; some copies have width and height swapped, which "
            "--images corrects"
        )
    return with_limbs(truth, CROWDPOSE), notes


def convert_ochuman(known: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Likewise, of OCHuman, whose files of each split are in COCO's format and have its joints."""
    [path] = known.annotations
    entries = read_json(path, "annotations")
    if isinstance(entries, dict) and "keypoint_names" in entries:
        raise ValueError(
            f"{path} is OCHuman's file of its own format; give the one in COCO's format of a split,"
            " ochuman_coco_format_{val,test}_range_0.00_1.00.json"
        )
    return with_limbs(load_annotations(path), COCO), []


CONVERTERS = {
    "mpii": convert_mpii,
    "aic": convert_aic,
    "crowdpose": convert_crowdpose,
    "ochuman": convert_ochuman,
    "coco": convert_coco,
    "yolo-pose": convert_yolo_pose,
    "label-studio": convert_label_studio,
}
"""--from -> the conversion"""

LABEL_WRITERS = {
    "coco": write_coco,
    "yolo-pose": write_yolo_pose,
    "label-studio": write_label_studio,
}
"""--to -> writing annotations in COCO's format; it returns lines to print"""

LABEL_TOOLS = ("coco", "yolo-pose", "label-studio")
"""Sources whose conversion reads the sizes of images itself."""

TOOL_WORDS = {
    "split": ("yolo-pose",),
    "joints": ("yolo-pose", "label-studio"),
    "category": ("yolo-pose", "label-studio"),
    "annotator": ("label-studio",),
}
"""Words of the command line -> the sources that take them."""
