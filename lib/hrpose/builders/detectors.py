"""Boxes of images without labels: of the detectors and files that TEST.BOXES names.

DETECTORS is kind -> detector, of TEST.BOXES `kind` or `kind:what it needs`. To add one, write it in
inference/detectors.py and give it a line here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from yacs.config import CfgNode

from hrpose.builders import bottomup
from hrpose.builders.common import (
    build_inference_model,
    config_of_network,
    keywords,
    load_model,
)
from hrpose.builders.datasets import at_option, results_category
from hrpose.builders.devices import build_devices
from hrpose.config.options import BOTTOM_UP_MODELS
from hrpose.data.boxes import load_box_entries, select_boxes
from hrpose.data.photo_boxes import match_photos
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo
from hrpose.inference.detectors import (
    BottomUpDetector,
    Detector,
    TorchvisionDetector,
    filter_boxes,
)

TRUTH = "truth"
"""The value of TEST.BOXES for labelled boxes."""

BOX_SOURCES = (
    "detector (torchvision's), bottom_up:<config>,<weights> (a bottom-up network's people), or a "
    "file of detections in COCO's results format"
)


def _torchvision(config: CfgNode, device: torch.device, file: str) -> Detector:
    weights = Path(os.path.expanduser(file)) if file else None
    return TorchvisionDetector(weights, device=device)


def _bottom_up(config: CfgNode, device: torch.device, network: str) -> Detector:
    """The network of `<config>,<weights>`, on the device of the top-down one."""
    theirs, path = config_of_network(network, "bottom_up:"), network.partition(",")[0]
    if theirs.MODEL.NAME not in BOTTOM_UP_MODELS:
        raise ValueError(
            f"{path} has MODEL.NAME {theirs.MODEL.NAME}, which needs boxes itself; name the config "
            "of a bottom-up network"
        )
    try:
        model = load_model(theirs)
    except ValueError as error:
        raise ValueError(f"{error} (config: {path}; weights fit that of their run)") from error
    model = build_inference_model(theirs, model.to(device))
    return BottomUpDetector(bottomup.build_predictor(theirs, model))


DETECTORS: dict[str, Callable[[CfgNode, torch.device, str], Detector]] = {
    "detector": _torchvision,
    "bottom_up": _bottom_up,
}


def is_detector(boxes: str) -> bool:
    """Whether a value of TEST.BOXES names a detector, neither labels nor a file."""
    return boxes.partition(":")[0] in DETECTORS


def load_detector(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> Detector:
    """The detector that TEST.BOXES names, filtered by TEST.BOX_FILTER.

    It is on the first of this process's devices.
    Errors: ValueError, FileNotFoundError for what names none, or one that cannot be loaded
    """
    boxes = config.TEST.BOXES
    kind, _, rest = boxes.partition(":")
    if kind not in DETECTORS:
        raise ValueError(f"TEST.BOXES is {boxes!r}, no detector; give {BOX_SOURCES}")
    try:
        detect = DETECTORS[kind](config, build_devices(config, dist)[0], rest)
    except (ValueError, FileNotFoundError) as error:
        raise at_option(f"TEST.BOXES {boxes}", error) from error
    return filter_boxes(detect, **keywords(config.TEST.BOX_FILTER, "MIN_SCORE", "MAX_PER_IMAGE"))


def source_name(boxes: str) -> str:
    """A value of TEST.BOXES as results name it: truth, a detector with its config, or a file.

    No file is named as labels or as a detector: truth.json stays truth.json.
    """
    kind, _, rest = boxes.partition(":")
    if kind in DETECTORS:
        return "_".join([kind, *([Path(rest.partition(",")[0]).stem] if rest else [])])
    path = Path(boxes)
    reserved = boxes != TRUTH and path.stem.startswith((TRUTH, *DETECTORS))
    return path.name if reserved else path.stem


def read_box_entries(config: CfgNode) -> list[dict[str, Any]]:
    """The entries of the file that TEST.BOXES names, not checked yet."""
    try:
        return load_box_entries(Path(config.TEST.BOXES))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"TEST.BOXES: there is no file of boxes at {config.TEST.BOXES}; give truth (the "
            f"labelled boxes), {BOX_SOURCES}"
        ) from None


class PhotoBoxes(NamedTuple):
    """Boxes of photos."""

    find: Callable[[int, np.ndarray], tuple[np.ndarray, ...]]
    """id of a photo, the photo (H, W, 3) uint8 RGB -> boxes (N, 4), scores (N,)"""
    note: str  # on their source, for the log
    unknown: frozenset[int] = frozenset()  # ids of photos that are not in the file


def build_photo_boxes(config: CfgNode, names: Mapping[int, str]) -> PhotoBoxes:
    """The boxes that TEST.BOXES names, of photos without labels.

    names: id of a photo -> its path below a folder   Errors: ValueError, FileNotFoundError
    """
    boxes = config.TEST.BOXES
    if boxes in ("", TRUTH):
        raise ValueError(
            "a top-down network needs the boxes of people, and photos have no labelled ones: give "
            f"--boxes {BOX_SOURCES}; or, in Python, predictor(image, boxes)"
        )
    if is_detector(boxes):
        detect = load_detector(config)
        return PhotoBoxes(lambda _, image: detect(image), source_name(boxes))
    path, category = Path(boxes), results_category(config)["id"]
    filters = keywords(config.TEST.BOX_FILTER, "MIN_SCORE", "MAX_PER_IMAGE")
    entries = match_photos(path, read_box_entries(config), names)
    listed = [{"id": number} for number in names]
    found = select_boxes(path, entries, listed, category, **filters)
    unknown = names.keys() - {entry["image_id"] for entry in entries}
    return PhotoBoxes(lambda number, _: found.of(number), found.describe(), frozenset(unknown))
