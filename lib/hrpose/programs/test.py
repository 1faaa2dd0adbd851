"""Predict poses in images without annotations: photos, or a benchmark's hidden test set."""

from __future__ import annotations

import argparse
import glob
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton, results_category
from hrpose.builders.families import family, is_top_down, load_predictor, load_predictors
from hrpose.builders.topdown import TRUTH
from hrpose.data.coco import ImageAnnotation, ImageFiles, annotated_size, load_image_list
from hrpose.data.samples import ImageDataset
from hrpose.evaluation.results import RESULT_FIELDS
from hrpose.ops.atomic_io import DiskFullError
from hrpose.ops.image import (
    IMAGE_SUFFIXES,
    can_encode,
    describe_error,
    encode,
    read_with_doubts,
)
from hrpose.ops.progress import progress
from hrpose.programs.output_folder import ACCOUNT, OutputFolder
from hrpose.programs.visual_reports import draw_confident
from hrpose.structures import to_results

RESULTS = "keypoints.json"

CATEGORIES = "categories.json"
"""COCO's `categories` of these results: id, name, joints and limbs."""


class Photo(NamedTuple):
    """An image to predict on."""

    image_id: int
    path: Path
    name: str  # its path below --input, with /


def main(known: argparse.Namespace, config: CfgNode) -> None:
    if config.TEST.GT_HEATMAPS:
        raise ValueError("TEST.GT_HEATMAPS needs annotations; use tools/valid.py")
    if known.image_info:
        if config.TEST.BOXES == TRUTH:
            raise ValueError(
                f"TEST.BOXES is {TRUTH}, but a list of images has no labelled boxes; give a file "
                "of detections in these images"
            )
        images = listed_images(known.image_info, Path(known.input), config.DATASET.EXIF)
        submit(config, images, known.output, known.image_info.stem.removeprefix("image_info_"))
    elif is_top_down(config):
        raise ValueError(
            "a top-down network needs the boxes of people: give --image-info and TEST.BOXES, a "
            "file of detections in these images; or, in Python, predictor(image, boxes)"
        )
    else:
        predict_photos(config, find_photos(known.input), known.output)


def find_photos(pattern: str) -> list[Photo]:
    """The images of a path or pattern, numbered from 1 in the order of their names.

    A folder is searched with its sub-folders, less what an earlier run drew below it. A photo's
    name is its path below the folder, or below the pattern's part without wildcards.
    """
    place = Path(pattern)
    base, paths = place.parent, [place]
    if place.is_dir():
        base, paths = place, [path for path in place.rglob("*") if not _is_hidden(path, place)]
    elif not place.is_file():
        fixed = takewhile(lambda part: not glob.has_magic(part), place.parts)
        base, paths = Path(*fixed), [Path(name) for name in glob.glob(pattern)]
    files = sorted(path for path in paths if path.is_file())
    images = [path for path in files if is_photo(path)]
    if not images:
        raise FileNotFoundError(f"no image at {pattern} (known: {', '.join(IMAGE_SUFFIXES)})")
    if len(images) < len(files):
        passed = Counter(path.suffix.lower() or path.name for path in files if path not in images)
        kinds = ", ".join(f"{count} {kind}" for kind, count in passed.items())
        print(f"passed over, as OpenCV does not read them: {kinds}")
    names = [path.relative_to(base).as_posix() for path in images]
    return [Photo(i, path, name) for i, (path, name) in enumerate(zip(images, names), 1)]


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file is hidden (`._a.jpg` of macOS is no photo) or in a folder of pictures."""
    parents = [parent for parent in path.parents if folder in parent.parents]
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or any((parent / ACCOUNT).is_file() for parent in parents)


def is_photo(path: Path) -> bool:
    """Whether the suffix, or else the content, is that of a format that OpenCV reads."""
    if path.name.startswith("._"):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(str(path))


def listed_images(image_info: Path, folder: Path, exif: str = "auto") -> ImageDataset:
    """The images of a COCO list, read as labels of them would be; all must be in the folder.

    exif: DATASET.EXIF
    """
    entries = load_image_list(image_info)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"id", "file_name"} <= set(entry):
            raise ValueError(f"{image_info}: image {number} has no id or no file_name")
    unlabelled = (np.empty((0, 0, 3), np.float32), np.empty((0, 4), np.float32))
    records = [
        ImageAnnotation(e["id"], e["file_name"], *unlabelled, size=annotated_size(e))
        for e in entries
    ]
    missing = [f"{folder / r.file_name}" for r in records if not (folder / r.file_name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} images are missing, e.g. {missing[0]}"
        )
    return ImageDataset(records, ImageFiles(folder, exif))


def predict_photos(config: CfgNode, photos: Sequence[Photo], folder: Path) -> None:
    """Draw the poses of photos under the photos' names, and write them as COCO results.

    What an earlier run wrote into the folder goes; no other file in it is replaced. A photo that
    cannot be read, or whose picture cannot be written, is named at the end and costs no other.
    """
    refuse_among_photos(photos, folder)
    output = OutputFolder(folder)
    reserved = {RESULTS, CATEGORIES, ACCOUNT} & {photo.name.split("/")[0] for photo in photos}
    if reserved:
        raise ValueError(
            f"a folder of photos is named {reserved.pop()}, as a file of ours; rename it"
        )
    pictures = picture_names(photos)
    output.refuse_foreign([RESULTS, CATEGORIES, *pictures.values()])
    category, skeleton = results_category(config), build_skeleton(config)
    predictor = load_predictor(config)
    output.clear()
    results: list[dict] = []
    broken: list[str] = []
    doubtful: list[str] = []
    try:
        for photo in progress(photos, "predicting", len(photos)):
            try:
                image, doubts = read_with_doubts(photo.path)
                doubtful += [f"{photo.path}: {doubt}" for doubt in doubts]
                poses = predictor(image)
                picture = draw_confident(image, poses, skeleton, config.TEST.DETECTION_THRESHOLD)
                output.write(pictures[photo], encode(picture, Path(pictures[photo]).suffix))
            except DiskFullError:
                raise
            except (ValueError, OSError, MemoryError, cv2.error) as error:
                broken.append(describe_error(photo.path, error))
                continue
            named = to_results(photo.image_id, poses, category["id"])
            results += [{**pose, "file_name": photo.name} for pose in named]
    finally:  # what was found before Ctrl-C is kept
        output.write(RESULTS, as_json(results))
        output.write(CATEGORIES, as_json([category]))
    print(f"{len(results)} people in {len(photos) - len(broken)} images; written to {folder}")
    if doubtful:
        print(f"warning: {len(doubtful)} images may not be what they should:", *doubtful, sep="\n")
    if broken:
        raise ValueError(f"{len(broken)} images have no result:\n" + "\n".join(broken))


def picture_names(photos: Sequence[Photo]) -> dict[Photo, str]:
    """Each photo's picture: its own name, with .jpg added where OpenCV cannot write its format."""
    names: dict[Photo, str] = {}
    taken = {photo.name for photo in photos}
    for photo in photos:
        name = photo.name
        while not can_encode(Path(name).suffix) or (name != photo.name and name in taken):
            name += ".jpg"
        taken.add(name)
        names[photo] = name
    return names


def refuse_among_photos(photos: Sequence[Photo], folder: Path) -> None:
    """ValueError if the folder to write to is, or holds, that of the photos."""
    target = folder.resolve()
    places = [photo.path.parent.resolve() for photo in photos]
    within = [
        photo.path for photo, place in zip(photos, places) if target in (place, *place.parents)
    ]
    if within:
        raise ValueError(
            f"--output {folder} holds {len(within)} of the photos, e.g. {within[0]}; pictures "
            "would be drawn among them. Name a folder of its own"
        )


def as_json(results: Sequence[dict]) -> bytes:
    """Results as COCO's tools read them, which take no NaN."""
    return json.dumps(results, allow_nan=False).encode()


def as_submitted(result: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the server reads, coordinates rounded to .1, as it recommends."""
    keypoints = [round(v, 1) if i % 3 < 2 else v for i, v in enumerate(result["keypoints"])]
    return {**{field: result[field] for field in RESULT_FIELDS}, "keypoints": keypoints}


def submit(config: CfgNode, images: ImageDataset, folder: Path, split: str) -> None:
    """Write the results file that COCO's evaluation server takes; nothing is evaluated.

    An interrupted run writes its results to *_part.json and leaves an earlier file as it is.
    """
    stem = f"person_keypoints_{split}_hrpose_results"
    whole, part = f"{stem}.json", f"{stem}_part.json"
    output = OutputFolder(folder)
    output.refuse_foreign([whole, part])
    category = results_category(config)["id"]
    predictors = load_predictors(config)
    parts = family(config)
    listed = parts.build_test_images(config, images.records, images.images)
    if listed.note:
        print(f"boxes: {listed.note}")
    found = parts.build_predict_all(config, predictors)(listed)
    results: list[dict] = []
    try:
        for image_id, poses in progress(found, "predicting", len(images)):
            results += map(as_submitted, to_results(image_id, poses, category))
    except BaseException:  # what was found before Ctrl-C, or a broken image, is kept
        output.write(part, as_json(results))
        raise
    output.write(whole, as_json(results))
    output.discard(part)
    print(f"{len(results)} people in {len(images)} images; written to {folder / whole}")
