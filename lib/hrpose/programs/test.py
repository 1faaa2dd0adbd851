"""Predict poses without annotations: photos, videos, cameras, a benchmark's hidden test set."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import results_category
from hrpose.builders.detectors import BOX_SOURCES, TRUTH, PhotoBoxes, build_photo_boxes, is_detector
from hrpose.builders.families import (
    family,
    is_top_down,
    load_predictor,
    load_predictors,
)
from hrpose.builders.tracking import build_tracker
from hrpose.data.box_checks import are_corners
from hrpose.data.boxes import UNKNOWN_SIZE
from hrpose.data.coco import ImageAnnotation, ImageFiles, annotated_size, load_image_list
from hrpose.data.samples import BoxedImageDataset, ImageDataset
from hrpose.evaluation.results import RESULT_FIELDS
from hrpose.ops.progress import progress
from hrpose.programs.frame_loop import FrameLoop
from hrpose.programs.inputs import (
    Clip,
    Inputs,
    Photo,
    drawn_names,
    find_inputs,
    refuse_among_inputs,
)
from hrpose.programs.output_folder import ACCOUNT, OutputFolder
from hrpose.programs.recorder import BOXES, CATEGORIES, RESULTS, Recorder, as_json
from hrpose.structures import to_results
from hrpose.video import BackgroundThread, Excerpt


def main(known: argparse.Namespace, config: CfgNode) -> None:
    if config.TEST.GT_HEATMAPS:
        raise ValueError("TEST.GT_HEATMAPS needs annotations; use tools/valid.py")
    config = with_boxes(config, known.boxes)
    if known.image_info:
        if config.TEST.TRACK.ENABLED:
            raise ValueError(
                "TEST.TRACK follows people through videos, not through a list of images"
            )
        if config.TEST.BOXES == TRUTH:
            raise ValueError(
                f"TEST.BOXES is {TRUTH}, but a list of images has no labelled boxes; give --boxes "
                f"{BOX_SOURCES}, of these images"
            )
        images = listed_images(known.image_info, Path(known.input), config.DATASET.EXIF)
        submit(config, images, known.output, known.image_info.stem.removeprefix("image_info_"))
    else:
        predict_inputs(config, find_inputs(known.input), known)


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


def predict_inputs(config: CfgNode, inputs: Inputs, known: argparse.Namespace) -> None:
    """Draw the poses of photos and videos under the inputs' names, and write them as results.

    What an earlier run wrote into the folder goes; no other file in it is replaced. An input that
    cannot be read, or whose picture cannot be written, is named at the end and costs no other; so
    is a photo that is not in a file of boxes, and has none.
    """
    check_video_options(config, inputs, known)
    refuse_among_inputs(inputs.paths(), known.output)
    output, drawn = OutputFolder(known.output), drawn_names(inputs)
    files = [RESULTS[known.format], CATEGORIES]
    files += [BOXES] * bool(is_top_down(config) and inputs.photos)
    reserved = {*files, ACCOUNT} & {each.name.split("/")[0] for each in drawn}
    if reserved:
        raise ValueError(
            f"a folder of photos is named {reserved.pop()}, as a file of ours; rename it"
        )
    output.refuse_foreign([*files, *drawn_files(output.folder, drawn)])
    boxes = find_input_boxes(config, inputs)
    predictor = load_predictor(config)
    output.clear()
    recorder = Recorder(config, output, known.format, known.draw)
    begun = time.perf_counter()
    try:
        with BackgroundThread() as background:
            loop = FrameLoop(predictor, boxes, recorder, background, partial(build_tracker, config))
            loop.photos(inputs.photos, drawn)
            loop.clips(inputs.clips, drawn, Excerpt(known.every, known.start, known.end))
    finally:  # what was found before Ctrl-C is kept
        recorder.close(files)
        print(recorder.describe())
    rate = (recorder.images + recorder.frames) / (time.perf_counter() - begun)
    if rate:
        print(f"{rate:.3g} frames/s; each stage alone: {loop.times.describe()}")
    warn_of_corners([box["bbox"] for box in recorder.boxes], recorder.sizes)
    missing = f"it is not in {config.TEST.BOXES}, and no people are searched"
    unknown = [each.path for each in inputs.photos if each.image_id in boxes.unknown]
    doubtful = [f"{path}: {missing}" for path in unknown] + loop.doubtful
    if doubtful:
        print(f"warning: {len(doubtful)} images may not be what they should:", *doubtful, sep="\n")
    print(*(f"warning: {note}" for note in loop.notes), sep="\n", end="\n" * bool(loop.notes))
    if loop.broken:
        kind = "images" if len(inputs.photos) else "videos"
        raise ValueError(f"{len(loop.broken)} {kind} have no result:\n" + "\n".join(loop.broken))


def check_video_options(config: CfgNode, inputs: Inputs, known: argparse.Namespace) -> None:
    """ValueError for options that these inputs do not have."""
    if not inputs.clips and (known.every, known.start, known.end) != Excerpt():
        raise ValueError(
            f"--every, --start and --end choose frames of videos, and {known.input} has none"
        )
    if known.start >= known.end:
        raise ValueError(f"no frame is from second {known.start:g} on and before {known.end:g}")
    if inputs.photos and known.draw == "video":
        raise ValueError(
            f"--draw video: {inputs.photos[0].path} is a photo; leave --draw out: photos are drawn "
            "as images, and videos as videos"
        )
    if inputs.photos and config.TEST.TRACK.ENABLED:
        raise ValueError(
            f"TEST.TRACK follows people through a video, and {inputs.photos[0].path} is a photo; "
            "set TEST.TRACK.ENABLED false"
        )
    boxes = config.TEST.BOXES
    if is_top_down(config) and inputs.clips and boxes not in ("", TRUTH) and not is_detector(boxes):
        raise ValueError(
            f"TEST.BOXES {boxes} has the boxes of images, and {inputs.clips[0].label} is a video: "
            "give --boxes detector, or bottom_up:<config>,<weights>"
        )


def drawn_files(folder: Path, drawn: Mapping[Photo | Clip, str]) -> list[str]:
    """The files that may be drawn; of a clip also those in the folder of its drawn frames."""
    inside = [path for name in drawn.values() for path in (folder / name).rglob("*")]
    names = [path.relative_to(folder).as_posix() for path in inside if path.is_file()]
    return [name for name in drawn.values() if not (folder / name).is_dir()] + names


def warn_of_corners(boxes: Sequence[Any], sizes: Sequence[tuple[float, float]]) -> None:
    """Print how many boxes (N, 4) seem to be two corners; sizes: (W, H) of the image of each."""
    corners = are_corners(np.reshape(boxes, (-1, 4)), np.reshape(sizes, (-1, 2)))
    if corners.any():
        print(
            f"warning: {corners.sum()} of {len(boxes)} boxes seem to be two corners: they reach "
            "beyond their images, and fit as x1, y1, x2, y2; write x2 - x1 and y2 - y1 for the "
            "last two numbers"
        )


def find_input_boxes(config: CfgNode, inputs: Inputs) -> PhotoBoxes:
    """The boxes that TEST.BOXES names; a bottom-up network is given nothing but the image."""
    if not is_top_down(config):
        return PhotoBoxes(lambda number, image: (), "")
    boxes = build_photo_boxes(config, {photo.image_id: photo.name for photo in inputs.photos})
    print(f"boxes: {boxes.note}")
    return boxes


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
