"""See what will be trained on: counts, faults with their cures, samples with their targets."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from yacs.config import CfgNode

from hrpose.data.coco import Images, load_annotations, person_category
from hrpose.data.faults import find_faults
from hrpose.data.faults.finding import ERROR, NOTE, Finding, found
from hrpose.data.faults.splits import overlaps
from hrpose.data.files import Seen, look_at_all
from hrpose.data.survey import Marks, Rules, counts
from hrpose.data.trainval import PUBLISHED, Merged, merged, with_decoded_sizes
from hrpose.ops.files import write_json
from hrpose.programs.command import command, config_parser, parsed_config
from hrpose.programs.visual_reports import save_samples
from hrpose.splits import annotation_path, build_skeleton, image_path, open_split

WORTH_A_PROCESS = 500
"""Images; with fewer, a process takes longer to begin than to read them."""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = config_parser("Look at what a config trains and evaluates on; status 1: has errors.")
    parser.add_argument("--images", type=int, help="decode so many of each split, chosen by chance")
    parser.add_argument(
        "--build-trainval", action="store_true", help="join CrowdPose's train and val, and stop"
    )
    known, config = parsed_config(parser, arguments)
    if known.build_trainval:
        print(build_trainval(config))
        return
    folder = Path(config.OUTPUT_DIR) / config.NAME / "inspect"
    report = inspect(config, known.images, folder)
    write_json(folder / "report.json", report, indent=1)
    print(format_report(report))
    print(f"written to {folder}")
    sys.exit(1 if report["errors"] else 0)


def inspect(config: CfgNode, limit: int | None, folder: Path) -> dict[str, Any]:
    """The report; pictures go into `folder`.

    limit: images to decode of each split, None for all
    """
    data = config.DATASET
    marks = {split: read_marks(config, split, limit) for split in (data.TRAIN, data.VAL)}
    faults = {split: find_faults(marked) for split, marked in marks.items()}
    faults["both splits"] = shared_by_splits(marks[data.TRAIN], marks[data.VAL])
    faults["training samples"] = training_faults(config, folder / "pictures")
    return {
        "counts": {split: counts(marked) for split, marked in marks.items()},
        "findings": {place: [asdict(f) for f in faults[place]] for place in faults},
        "errors": sum(f.level == ERROR for place in faults.values() for f in place),
    }


def read_marks(config: CfgNode, split: str, limit: int | None) -> Marks:
    """A split as it is, with the images that were looked at."""
    truth, images = open_split(config, split)
    category = person_category(truth, config.DATASET.CATEGORY)
    truth = _only(truth, config.DATASET.IMAGE_IDS)
    names = list(dict.fromkeys(i["file_name"] for i in truth["images"] if i.get("file_name")))
    if limit is not None and limit < len(names):
        rng = np.random.default_rng(config.TRAIN.SEED)
        names = sorted(rng.choice(names, limit, replace=False).tolist())
    return Marks(truth, _rules(config, category), look(images, names, config.WORKERS, split))


def _only(truth: dict[str, Any], image_ids: Sequence[int]) -> dict[str, Any]:
    """The part of the annotations that DATASET.IMAGE_IDS chooses; empty: all."""
    if not image_ids:
        return truth
    wanted = set(image_ids)
    images = [image for image in truth["images"] if image.get("id") in wanted]
    people = [person for person in truth["annotations"] if person.get("image_id") in wanted]
    return {**truth, "images": images, "annotations": people}


def _rules(config: CfgNode, category: Mapping[str, Any]) -> Rules:
    data = config.DATASET
    from_file = data.SKELETON == "file"
    return Rules(
        joints=_names_of_file(config) if from_file else build_skeleton(config).joints,
        category=category,
        max_people=data.MAX_NUM_PEOPLE,
        sized_by="bbox" if data.FORMAT == "crowdpose" else "area",
        ignore=data.IGNORE,
        image_ids=data.IMAGE_IDS,
    )


def _names_of_file(config: CfgNode) -> tuple[str, ...]:
    """Joints of SKELETON file, of whom a skeleton may not be possible."""
    truth = load_annotations(annotation_path(config, config.DATASET.TRAIN))
    return tuple(person_category(truth, config.DATASET.CATEGORY).get("keypoints") or ())


def look(images: Images, names: Sequence[str], workers: int, title: str) -> dict[str, Seen]:
    """file name -> what reading it showed"""
    processes = min(workers, len(names) // WORTH_A_PROCESS)
    seen = look_at_all(images, names, processes)
    return dict(zip(names, tqdm(seen, title, total=len(names), unit="image", disable=None)))


def shared_by_splits(train: Marks, val: Marks) -> list[Finding]:
    """What the splits have in common; only a note where they are one, which must be on purpose."""
    if train is not val:
        return overlaps(train, val)
    cure = "nothing to do if it is to overfit; else set DATASET.VAL to images not trained on"
    return [found(NOTE, "split both trained and evaluated on", ["DATASET.TRAIN, .VAL"], cure)]


def training_faults(config: CfgNode, folder: Path) -> list[Finding]:
    """What training itself stumbles over, if anything, while samples of it are drawn."""
    try:
        save_samples(config, folder)
    except Exception as error:  # whatever it is: an inspector reports it, with all else it found
        cure = (
            "see the errors above; if there are none, this is a fault of hrpose: please report it"
        )
        what = "training cannot read its samples"
        return [found(ERROR, what, [f"{type(error).__name__}: {error}"], cure)]
    return []


# The report -----------------------------------------------------------------------------------


def format_report(report: Mapping[str, Any]) -> str:
    """The report as plain text."""
    blocks = [_format_counts(split, table) for split, table in report["counts"].items()]
    for place, findings in report["findings"].items():
        lines = [line for finding in findings for line in _format_finding(finding)]
        blocks.append("\n".join([f"== {place}: {_verdict(findings)}", *lines]))
    return "\n\n".join(blocks)


def _format_counts(split: str, table: Mapping[str, Any]) -> str:
    lines = [f"== {split}"]
    for name, value in table.items():
        if not isinstance(value, dict):
            lines.append(f"{name:30} {value:>8}")
        elif any(isinstance(entry, dict) for entry in value.values()):
            lines += [f"{name}:", *_format_table(value)]
        else:
            lines.append(f"{name}: " + ", ".join(f"{key}: {n:g}" for key, n in value.items()))
    return "\n".join(lines)


def _format_table(table: Mapping[str, Mapping[str, int]]) -> Iterable[str]:
    columns = list(next(iter(table.values())))
    yield " " * 18 + "".join(f"{column:>12}" for column in columns)
    for name, row in table.items():
        yield f"  {name:16}" + "".join(f"{row[column]:>12}" for column in columns)


def _verdict(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "nothing wrong"
    errors = sum(finding["level"] == ERROR for finding in findings)
    return f"{errors} kinds of errors, {len(findings) - errors} of notes"


def _format_finding(finding: Mapping[str, Any]) -> Iterable[str]:
    yield f"{finding['level']}: {finding['count']} {finding['what']}"
    yield from (f"    {example}" for example in finding["examples"])
    if finding["count"] > len(finding["examples"]):
        yield "    ..."
    yield f"  cure: {finding['cure']}"


# CrowdPose's training set ---------------------------------------------------------------------


def build_trainval(config: CfgNode) -> str:
    """Join the annotations of the splits train and val in that of trainval; says what it did."""
    if image_path(config, "train") != image_path(config, "val"):
        raise ValueError("--build-trainval is for sets with one folder of images, as CrowdPose")
    parts = [open_split(config, split) for split in ("train", "val")]
    merge = merged(parts[0][0], parts[1][0])
    names = [image["file_name"] for image in merge.truth["images"]]
    merge = with_decoded_sizes(merge, look(parts[0][1], names, config.WORKERS, "trainval"))
    path = annotation_path(config, "trainval")
    verb = _write_once(path, merge.truth)
    return _format_merge(f"{verb} {path}", merge, [len(truth["images"]) for truth, _ in parts])


def _write_once(path: Path, truth: dict[str, Any]) -> str:
    """Write the file, or see that it is the same; what is on the disk is read back either way."""
    verb = "verified" if path.exists() else "written and verified"
    if not path.exists():
        write_json(path, truth)
    if load_annotations(path) != truth:
        raise ValueError(
            f"{path} is not what train and val make together; move it away and run this again"
        )
    return verb


def _format_merge(title: str, merge: Merged, images: Sequence[int]) -> str:
    lines = [
        title,
        f"  images       {len(merge.truth['images'])} = {' + '.join(map(str, images))}",
        f"  annotations  {len(merge.truth['annotations'])}",
        f"  annotations numbered anew, as ids collided: {merge.renumbered}",
        f"  images whose width and height were swapped: {merge.swapped}",
    ]
    if tuple(images) != PUBLISHED:
        published = " + ".join(map(str, PUBLISHED))
        lines.append(f"  note: the published training set has {published} images")
    return "\n".join(lines)
