"""Detected boxes against the images and the labelled people of a split: counts, recall, faults."""

from __future__ import annotations

from itertools import compress
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hrpose.data.boxes import UNKNOWN_SIZE, BoxSet
from hrpose.data.checks import BOX_TOLERANCE, location
from hrpose.data.coco import annotated_size
from hrpose.data.rules import BOX_CURE, ERROR, KEEP, MOST, NOTE
from hrpose.data.statistics import DatasetView
from hrpose.data.validate import Finding, finding, violated

FITTING_IOU = 0.5
"""IoU from which on a box is that of a labelled person."""

TOO_MANY_CORNERS = 0.2
"""Share of all boxes; where more would fit as corners, and do not fit as they are, they are."""


def box_statistics(boxes: BoxSet, view: DatasetView) -> dict[str, Any]:
    """Counts of boxes, and the share of labelled people who have one, by name."""
    counts = [len(boxes.of(number).scores) for number in view.images]
    people, covered = _are_single(view), _are_covered(boxes, view)
    found = best_ious(boxes, view) >= FITTING_IOU
    levels = np.percentile(counts or [0], (0, 50, 100)).tolist()
    table = {
        "images": len(counts),
        "with a box": sum(count > 0 for count in counts),
        "boxes": sum(counts),
        "boxes per image": dict(zip(("min", "median", "max"), levels)),
        **{f"left out: {reason}": count for reason, count in boxes.dropped.items()},
        "labelled people": int(people.sum()),
        "in images with a box": int((people & covered).sum()),
    }
    for where, mask in (("", people), (", images with a box", people & covered)):
        if mask.any():
            table[f"recall at IoU {FITTING_IOU}{where}"] = round(float(found[mask].mean()), 3)
    return table


def best_ious(boxes: BoxSet, view: DatasetView) -> np.ndarray:
    """(P,) the highest IoU of each annotation of the category with a box of its image."""
    best, known = np.zeros(len(view.people)), np.isfinite(view.boxes).all(1)
    by_image: dict[int, list[int]] = {}
    for i in np.flatnonzero(known & _are_covered(boxes, view)).tolist():
        by_image.setdefault(view.people[i]["image_id"], []).append(i)
    for number, own in by_image.items():
        found = boxes.of(number).boxes.astype(float)
        best[own] = coco_mask.iou(found, view.boxes[own], [0] * len(own)).max(0)
    return best


def check_box_set(boxes: BoxSet, view: DatasetView) -> list[Finding]:
    """What is wrong with the boxes of a split, or worth knowing."""
    numbers = [number for number, own in boxes.images.items() for _ in own.scores]
    every = np.concatenate([np.zeros((0, 4)), *(own.boxes for own in boxes.images.values())])
    sizes = {number: annotated_size(image) or UNKNOWN_SIZE for number, image in view.images.items()}
    size = np.array([sizes[number] for number in numbers]).reshape(-1, 2)
    beyond, corners = _are_beyond(every, size), are_corners(every, size)
    fractions = np.full(len(every), bool((every <= 1).all()))
    people = _are_single(view) & _are_covered(boxes, view)
    missed = people & (best_ious(boxes, view) < FITTING_IOU)

    def at(mask: np.ndarray) -> list[str]:
        rows = zip(compress(numbers, mask), every[mask].round(1).tolist())
        return [f"{box} of image {number}" for number, box in rows]

    # fmt: off
    return violated([
        finding("boxes-corners", ERROR, "boxes that seem to be two corners", at(corners),
                f"{BOX_CURE}: these reach beyond their images, and fit as corners x1, y1, x2, y2; "
                "write x2 - x1 and y2 - y1 for the last two"),
        finding("boxes-fractions", ERROR, "boxes within the first pixel", at(fractions),
                "multiply x and width by the image's width, y and height by its height: boxes are "
                "in pixels"),
        finding("boxes-beyond-image", NOTE, "boxes that reach beyond their image",
                at(beyond & ~corners), f"{KEEP} for a few; many: write them in pixels of the "
                "images as annotated, not as the detector scaled them"),
        finding("images-without-box", NOTE, "images without a box",
                [f"{number}" for number in view.images if number not in boxes.images],
                "run the detector on all images of the split: where there is no box, no pose is "
                "found, and labelled people count as missed"),
        finding("people-without-box", ERROR if missed.sum() > MOST * people.sum() else NOTE,
                f"labelled people without a box of IoU {FITTING_IOU} or more, in images with boxes",
                map(location, compress(view.people, missed)),
                f"{KEEP} for some: a top-down network does not find them. Most: check image ids, "
                "and that boxes are x, y, width, height in pixels of the images as annotated"),
    ])
    # fmt: on


def are_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: boxes (N, 4) that reach beyond their images, but fit as corners x1, y1, x2, y2.

    None of them where these are few, as boxes of people at a border may be.
    sizes: (N, 2) width, height of the images
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = (high > low).all(1) & (high <= sizes + BOX_TOLERANCE).all(1)
    fits = _are_beyond(boxes, sizes) & inside
    return fits & (fits.sum() > TOO_MANY_CORNERS * len(boxes))


def _are_beyond(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: boxes that reach beyond their images by more than rounding does"""
    low, extent = boxes[:, :2], boxes[:, 2:]
    return (np.maximum(low + extent - sizes, -low) > BOX_TOLERANCE).any(1)


def _are_single(view: DatasetView) -> np.ndarray:
    """(P,) bool: labelled people who are no crowd"""
    return view.is_labelled & ~view.is_crowd


def _are_covered(boxes: BoxSet, view: DatasetView) -> np.ndarray:
    """(P,) bool: annotations in images with a box"""
    return np.array([person["image_id"] in boxes.images for person in view.people], bool)
