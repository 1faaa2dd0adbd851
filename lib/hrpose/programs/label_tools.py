"""Labels of labelling tools: what tools/convert_data.py reads of them, and writes for them."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hrpose.config.loading import read_plain_yaml
from hrpose.data.coco import (
    ImageFiles,
    annotated_size,
    bounding_box,
    is_number,
    load_annotations,
    load_results,
    person_category,
    single_people,
)
from hrpose.data.convert import (
    MergedAnnotations,
    person_entries,
    refuse_entries,
    with_decoded_sizes,
)
from hrpose.data.label_studio import file_names, label_studio_annotations
from hrpose.data.label_studio_tasks import label_studio_tasks, labeling_config
from hrpose.data.statistics import inspect_files
from hrpose.data.yolo_pose import (
    LEFT_CROWDS,
    class_names,
    label_path,
    yolo_category,
    yolo_pose_annotations,
    yolo_pose_labels,
    yolo_pose_settings,
)
from hrpose.ops.atomic_io import atomic_write, naming_full_disk, read_json, write_json
from hrpose.programs.inputs import is_photo
from hrpose.skeletons import SKELETONS

Converted = tuple[dict[str, Any], list[str]]
"""Annotations in COCO's format, and lines to print."""

LOCAL_FILES = "/data/local-files/?d="
"""URL of a file of Label Studio's local storage, before its path."""

FOUND = 0.2
"""Least score of a predicted joint that becomes a pre-label."""


def with_sizes(
    truth: dict[str, Any], folder: Path, exif: str = "auto"
) -> tuple[dict[str, Any], int]:
    """The annotations with the decoded width and height of every image; how many were swapped."""
    files = inspect_files(ImageFiles(folder, exif), truth["images"], os.cpu_count() or 1, "images")
    merged = with_decoded_sizes(MergedAnnotations(truth), files)
    return merged.truth, merged.swapped


def joint_names(text: str) -> tuple[str, ...]:
    """The joints of --joints: of a built-in skeleton, of a JSON file with a category, or a list."""
    if text in SKELETONS:
        return SKELETONS[text].joints
    if text.endswith(".json"):
        content = read_json(Path(text).expanduser(), "joints")
        truth = content if isinstance(content, dict) else {"categories": content}
        return tuple(person_category(truth).get("keypoints") or ())
    return tuple(name.strip() for name in text.split(",")) if text else ()


# Reading -----------------------------------------------------------------------------------------


def convert_yolo_pose(known: argparse.Namespace) -> Converted:
    """The annotations of a split of a YOLO-pose set, and what is to be known of them."""
    [path] = known.annotations
    settings = read_plain_yaml(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is not the YAML of a YOLO-pose set, with names and kpt_shape")
    files = find_split(settings, path, known.split, known.images)
    folder = known.images or Path(os.path.commonpath([file.parent for file in files]))
    names = class_names(settings, path)
    people = [name for name in names if name.lower() == "person"] or names
    chosen = known.category or people[0]
    if chosen not in names or (not known.category and len(people) > 1):
        raise ValueError(f"{path}: classes are {', '.join(names)}; name that of people: --category")
    category = yolo_category(settings, path, names.index(chosen), joint_names(known.joints))
    listed = [{"file_name": file.relative_to(folder).as_posix()} for file in files]
    sized, _ = with_sizes({"images": listed}, folder, "apply")
    labels = [label_path(file) for file in files]
    truth, left_out = yolo_pose_annotations(sized["images"], labels, settings, path, category)
    notes = [f"left out: {count} {what}" for what, count in left_out.items()]
    without = sum(not label.is_file() for label in labels)
    notes += [f"images without a label file, so without people: {without}"] * (without > 0)
    return truth, [*notes, f"file names are paths below {folder}, for DATASET.IMAGES"]


def find_split(
    settings: Mapping[str, Any], path: Path, split: str, folder: Path | None
) -> list[Path]:
    """The image files of a split of a YOLO-pose set, or of a folder, sorted.

    A split is a folder, a text file with a path a line, or a list of these; relative to `path` of
    the YAML or to the YAML itself. Errors: FileNotFoundError, ValueError
    """
    if folder:
        return _photos(folder)
    splits = [name for name in ("train", "val", "test") if settings.get(name)]
    split = split or (splits[0] if len(splits) == 1 else "")
    if split not in splits:
        raise ValueError(
            f"{path} has the splits {', '.join(splits) or '(none)'}; choose one: --split NAME, or "
            "name its folder of images: --images"
        )
    entries = settings[split] if isinstance(settings[split], list) else [settings[split]]
    roots = [path.parent / f"{settings.get('path') or '.'}", path.parent]
    files: list[Path] = []
    for entry in map(str, entries):
        bare = entry.removeprefix("../")  # Roboflow's are relative to a folder that is not there
        tried = [*(root / entry for root in roots), path.parent / bare]
        found = next((place for place in tried if place.exists()), None)
        if found is None:
            raise FileNotFoundError(
                f"{path}: {split} is {entry}, but there is no {tried[0]}, nor {tried[-1]}; correct "
                "path in the YAML, or name the folder of images: --images"
            )
        if found.is_dir():
            files += _photos(found)
        else:
            lines = found.read_text("utf-8-sig").splitlines()
            files += [found.parent / line.strip() for line in lines if line.strip()]
    return sorted(set(files))


def _photos(folder: Path) -> list[Path]:
    """All image files below a folder. Errors: FileNotFoundError if there are none."""
    files = (path for path in folder.rglob("*") if path.is_file() and is_photo(path))
    photos = sorted(path for path in files if not path.name.startswith("."))
    if not photos:
        raise FileNotFoundError(f"no images in {folder}; export the set with its images")
    return photos


def convert_label_studio(known: argparse.Namespace) -> Converted:
    """Likewise, of Label Studio's JSON export."""
    [path] = known.annotations
    tasks = read_json(path, "annotations")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, dict) for t in tasks):
        raise ValueError(f"{path} is not a list of tasks; export the project as JSON")
    try:
        possible = map(file_names, tasks)
        there = known.images or Path(os.devnull)  # below which there are no files
        names = [next((n for n in names if (there / n).is_file()), names[-1]) for names in possible]
        truth, counts = label_studio_annotations(
            tasks, names, joint_names(known.joints), known.category, known.annotator
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if known.images:
        truth, _ = with_sizes(truth, known.images, "apply")  # as browsers show images
    return truth, [f"{what}: {count}" for what, count in counts.items()]


def convert_coco(known: argparse.Namespace) -> Converted:
    """COCO annotations as they are; or the poses of a results file as people with a score."""
    *listed, path = known.annotations
    if known.to == "coco":
        raise ValueError(f"{path} needs no conversion to COCO's format; choose another --to")
    if not listed and not isinstance(read_json(path, "annotations"), list):
        truth = load_annotations(path)
        return (with_sizes(truth, known.images)[0] if known.images else truth), []
    results = load_results(path)
    if listed:
        truth = load_annotations(listed[0])
    else:
        categories = read_json(path.parent / "categories.json", "names of the joints")
        named = {pose.get("image_id"): pose.get("file_name") for pose in results}
        images = [{"id": number, "file_name": name} for number, name in named.items()]
        if None in named.values():
            raise ValueError(
                f"{path} has poses without file_name, as tools/test.py writes it; give the "
                "annotation file of their images before it"
            )
        truth = {"images": images, "categories": categories}
        if known.images:
            truth, _ = with_sizes(truth, known.images, "apply")  # as tools/test.py reads photos
    people, left = results_as_people(results, truth, path)
    what = f"poses with fewer than two joints of {FOUND} or more"
    return {**truth, "annotations": people}, [f"left out: {left} {what}"] * (left > 0)


def results_as_people(
    results: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], path: Path
) -> tuple[list[dict[str, Any]], int]:
    """Poses as annotations with a score, whose joints of FOUND or more are visible.

    truth: images and categories   Returns also how many have fewer than two such joints, without
    which there is no box.   Errors: ValueError with the poses that do not fit
    """
    category, listed = person_category(truth), {image["id"] for image in truth["images"]}
    count = len(category.get("keypoints") or ())
    odd = [
        f"result {n}"
        for n, pose in enumerate(results)
        if len(pose.get("keypoints") or ()) != 3 * count
        or pose.get("image_id") not in listed
        or not is_number(pose.get("score"))
    ]
    cure = "give the annotation file of their images and joints before it"
    refuse_entries(odd, f"poses of {path} lack an image, {count} joints or a score", cure)
    joints = np.reshape([pose["keypoints"] for pose in results], (-1, count, 3)).astype(float)
    joints[..., 2] = 2 * (joints[..., 2] >= FOUND)
    kept = np.flatnonzero((joints[..., 2] > 0).sum(1) > 1).tolist()
    boxes = [bounding_box(joints[n][joints[n, :, 2] > 0, :2]) for n in kept]
    more = [{"score": results[n]["score"], "category_id": category["id"]} for n in kept]
    ids = [results[n]["image_id"] for n in kept]
    people = person_entries(ids, joints[kept], np.reshape(boxes, (-1, 4)), more)
    return people, len(results) - len(kept)


# Writing -----------------------------------------------------------------------------------------


def write_yolo_pose(known: argparse.Namespace, truth: dict[str, Any]) -> list[str]:
    """Write a new folder with data.yaml and labels/, whole or not at all; lines to print."""
    category = _sized_category(truth)
    texts, changes = yolo_pose_labels(truth, category)
    settings = yaml.safe_dump(
        yolo_pose_settings(category), allow_unicode=True, sort_keys=False, default_flow_style=None
    )
    folder = known.output
    with naming_full_disk(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=f".{folder.name[:40]}."
        ) as parts:
            for name, text in {
                **{f"labels/{n}": t for n, t in texts.items()},
                "data.yaml": settings,
            }.items():
                path = Path(parts, "set", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8", newline="\n")
            Path(parts, "set").replace(folder)
    images = f"put the images, or a link to their folder, at {folder / 'images'}"
    return [*(f"{what}: {count}" for what, count in changes.items()), images]


def write_label_studio(known: argparse.Namespace, truth: dict[str, Any]) -> list[str]:
    """Write tasks to import, and the labeling interface of their project beside; lines to print."""
    interface = known.output.with_suffix(".xml")
    if os.path.lexists(interface):
        raise FileExistsError(f"{interface} is there already; name a new file for --output")
    category = _sized_category(truth)
    scored = any("score" in person for person in truth["annotations"])
    field = "predictions" if scored else "annotations"
    write_json(known.output, label_studio_tasks(truth, category, known.url or LOCAL_FILES, field))
    content = labeling_config(category).encode()
    atomic_write(interface, lambda file: file.write(content))
    left = len(truth["annotations"]) - len(single_people(truth, category))
    notes = [f"{LEFT_CROWDS}: {left}"] * (left > 0)
    return [*notes, f"imported as {field}; the code of the labeling interface: {interface}"]


def _sized_category(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The category of people. Errors: ValueError unless every image has its size."""
    unsized = [image["file_name"] for image in truth["images"] if not annotated_size(image)]
    refuse_entries(unsized, "images without width and height", "name their folder: --images")
    return person_category(truth)
