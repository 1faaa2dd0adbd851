"""Predict poses in images without annotations: photos, or a benchmark's hidden test set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import build_skeleton, results_category
from hrpose.builders.detectors import BOX_SOURCES, TRUTH, PhotoBoxes, build_photo_boxes
from hrpose.builders.families import (
    box_source,
    family,
    is_top_down,
    load_predictor,
    load_predictors,
)
from hrpose.data.box_checks import are_corners
from hrpose.data.boxes import UNKNOWN_SIZE
from hrpose.data.coco import ImageAnnotation, ImageFiles, annotated_size, load_image_list
from hrpose.data.samples import BoxedImageDataset, ImageDataset
from hrpose.evaluation.results import RESULT_FIELDS
from hrpose.ops.atomic_io import DiskFullError
from hrpose.ops.image import describe_error, encode, read_with_doubts
from hrpose.ops.progress import progress
from hrpose.programs.output_folder import ACCOUNT, OutputFolder
from hrpose.programs.photos import Photo, find_photos, picture_names, refuse_among_photos
from hrpose.programs.visual_reports import draw_confident
from hrpose.structures import Poses, to_results

RESULTS = "keypoints.json"

CATEGORIES = "categories.json"
"""COCO's `categories` of these results: id, name, joints and limbs."""

BOXES = "boxes.json"
"""The boxes that a top-down network was given, as --boxes takes them."""


def main(known: argparse.Namespace, config: CfgNode) -> None:
    if config.TEST.GT_HEATMAPS:
        raise ValueError("TEST.GT_HEATMAPS needs annotations; use tools/valid.py")
    config = with_boxes(config, known.boxes)
    if known.image_info:
        if config.TEST.BOXES == TRUTH:
            raise ValueError(
                f"TEST.BOXES is {TRUTH}, but a list of images has no labelled boxes; give --boxes "
                f"{BOX_SOURCES}, of these images"
            )
        images = listed_images(known.image_info, Path(known.input), config.DATASET.EXIF)
        submit(config, images, known.output, known.image_info.stem.removeprefix("image_info_"))
    else:
        predict_photos(config, find_photos(known.input), known.output)


def with_boxes(config: CfgNode, boxes: str | None) -> CfgNode:
    """The config with --boxes as TEST.BOXES, whatever its annotations are scored with."""
    if not boxes:
        return config
    if not is_top_down(config):
        raise ValueError(
            f"--boxes {boxes}: MODEL.NAME {config.MODEL.NAME} is bottom-up, and finds people "
            "without boxes; leave --boxes out, or name the config of a top-down network"
        )
    changed = config.clone()
    changed.defrost()
    changed.TEST.BOXES = boxes
    changed.freeze()
    return changed


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


class PhotoResults:
    """Poses of photos as COCO results and, of a top-down network, the boxes that it was given."""

    def __init__(self, config: CfgNode):
        self.category = results_category(config)
        self.source = box_source(config)
        self.files = [RESULTS, CATEGORIES, *([BOXES] if is_top_down(config) else [])]
        self.poses: list[dict[str, Any]] = []
        self.boxes: list[dict[str, Any]] = []
        self.sizes: list[tuple[int, int]] = []  # (W, H) of the photo of each box

    def add(self, photo: Photo, image: np.ndarray, poses: Poses, *given: np.ndarray) -> None:
        """given: of a top-down network, the boxes (N, 4) and scores (N,) that it was given"""
        found = to_results(photo.image_id, poses, self.category["id"])
        boxes = [dict(zip(("bbox", "score"), pair)) for pair in zip(*(g.tolist() for g in given))]
        for pose in found:
            pose["file_name"] = photo.name
            if boxes:  # not "bbox": COCO's tools would take the pose for a box
                box = boxes[pose["box_index"]]
                pose |= {"box": box["bbox"], "box_score": box["score"], "box_source": self.source}
        shared = {"image_id": photo.image_id, "category_id": self.category["id"]}
        named = {"file_name": photo.name, "source": self.source}
        self.poses += found
        self.boxes += [{**shared, **box, **named} for box in boxes]
        self.sizes += [(image.shape[1], image.shape[0])] * len(boxes)

    def write(self, output: OutputFolder) -> None:
        """All files, of what was found so far."""
        contents = self.poses, [self.category], self.boxes
        for name, content in zip(self.files, contents):
            output.write(name, as_json(content))


def predict_photos(config: CfgNode, photos: Sequence[Photo], folder: Path) -> None:
    """Draw the poses of photos under the photos' names, and write them as COCO results.

    What an earlier run wrote into the folder goes; no other file in it is replaced. A photo that
    cannot be read, or whose picture cannot be written, is named at the end and costs no other; so
    is one that is not in a file of boxes, and has none.
    """
    refuse_among_photos(photos, folder)
    output, results = OutputFolder(folder), PhotoResults(config)
    reserved = {*results.files, ACCOUNT} & {photo.name.split("/")[0] for photo in photos}
    if reserved:
        raise ValueError(
            f"a folder of photos is named {reserved.pop()}, as a file of ours; rename it"
        )
    pictures = picture_names(photos)
    output.refuse_foreign([*results.files, *pictures.values()])
    boxes, skeleton = find_photo_boxes(config, photos), build_skeleton(config)
    predictor = load_predictor(config)
    output.clear()
    broken: list[str] = []
    missing = f"it is not in {config.TEST.BOXES}, and no people are searched"
    doubtful = [f"{each.path}: {missing}" for each in photos if each.image_id in boxes.unknown]
    try:
        for photo in progress(photos, "predicting", len(photos)):
            try:
                image, doubts = read_with_doubts(photo.path)
                doubtful += [f"{photo.path}: {doubt}" for doubt in doubts]
                given = boxes.find(photo.image_id, image)
                poses = predictor(image, *given)
                picture = draw_confident(image, poses, skeleton, config.TEST.DETECTION_THRESHOLD)
                output.write(pictures[photo], encode(picture, Path(pictures[photo]).suffix))
            except DiskFullError:
                raise
            except (ValueError, OSError, MemoryError, cv2.error) as error:
                broken.append(describe_error(photo.path, error))
                continue
            results.add(photo, image, poses, *given)
    finally:  # what was found before Ctrl-C is kept
        results.write(output)
    count = len(photos) - len(broken)
    print(f"{len(results.poses)} people in {count} images; written to {folder}")
    warn_of_corners([box["bbox"] for box in results.boxes], results.sizes)
    if doubtful:
        print(f"warning: {len(doubtful)} images may not be what they should:", *doubtful, sep="\n")
    if broken:
        raise ValueError(f"{len(broken)} images have no result:\n" + "\n".join(broken))


def warn_of_corners(boxes: Sequence[Any], sizes: Sequence[tuple[float, float]]) -> None:
    """Print how many boxes (N, 4) seem to be two corners; sizes: (W, H) of the image of each."""
    corners = are_corners(np.reshape(boxes, (-1, 4)), np.reshape(sizes, (-1, 2)))
    if corners.any():
        print(
            f"warning: {corners.sum()} of {len(boxes)} boxes seem to be two corners: they reach "
            "beyond their images, and fit as x1, y1, x2, y2; write x2 - x1 and y2 - y1 for the "
            "last two numbers"
        )


def find_photo_boxes(config: CfgNode, photos: Sequence[Photo]) -> PhotoBoxes:
    """The boxes that TEST.BOXES names; a bottom-up network is given nothing but the photo."""
    if not is_top_down(config):
        return PhotoBoxes(lambda number, image: (), "")
    boxes = build_photo_boxes(config, {photo.image_id: photo.name for photo in photos})
    print(f"boxes: {boxes.note}")
    return boxes


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
    if isinstance(listed, BoxedImageDataset):
        sizes = {each.image_id: each.size or UNKNOWN_SIZE for each in images.records}
        by_image = listed.boxes.images.items()
        every = [box for _, own in by_image for box in own.boxes]
        warn_of_corners(every, [sizes[number] for number, own in by_image for _ in own.boxes])
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
