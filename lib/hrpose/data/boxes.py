"""Boxes of the people that top-down networks see, from labels or from a detector's results.

Boxes are x, y, width, height in pixels of the image as ImageFiles reads it. What is left out is
counted by reason: the published code loses people to its filters silently, foremost those whose
annotation has no area. Areas are not read here: completed as by data/repair.py, from the outline or
the box, they are above 0 for every box with an extent. This module imports no torch.

Source: the data sets of Sun et al. 2019 (HRNet), its released code.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrpose.data.coco import MAX_INTEGER, ImageAnnotation, annotated_size, load_result_list
from hrpose.ops.boxes import are_outside

CROWD = "of crowds"
UNLABELLED = "without a labelled joint"
OUTSIDE = "wholly outside their image"
FLAT = "of one pixel or less in their image"
OTHER_IMAGES = "of images that are not in the set"
OTHER_CATEGORIES = "of other categories"
UNKNOWN_SIZE = (math.inf, math.inf)


class Boxes(NamedTuple):
    """The boxes of one image, best first; labelled ones in the order of the annotations."""

    boxes: np.ndarray  # (N, 4) float32 x, y, width, height in image pixels
    scores: np.ndarray  # (N,) float32; 1 for labelled ones


NO_BOXES = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


class BoxSet(NamedTuple):
    """The boxes of a split, and how many were left out by reason."""

    name: str  # "truth", or the stem of the file
    images: dict[int, Boxes]  # image id -> its boxes, of the images that have any
    dropped: dict[str, int]

    def of(self, image_id: int) -> Boxes:
        """The boxes of an image, possibly none."""
        return self.images.get(image_id, NO_BOXES)

    def to_results(self, category_id: int) -> list[dict[str, Any]]:
        """The boxes in COCO's results format, as `read_boxes` reads them."""
        return [
            {"image_id": number, "category_id": category_id, "bbox": box, "score": score}
            for number, own in self.images.items()
            for box, score in zip(own.boxes.tolist(), own.scores.tolist())
        ]

    def describe(self) -> str:
        """Source, counts, and what was left out and why, in one line."""
        count = sum(len(each.scores) for each in self.images.values())
        dropped = ", ".join(f"{number} {reason}" for reason, number in self.dropped.items())
        text = f"{self.name}: {count} boxes in {len(self.images)} images"
        return f"{text}; left out: {dropped}" if dropped else text


def label_boxes(
    record: ImageAnnotation, clip: bool = True
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The people of an image that a top-down network sees: indices (M,) of the record's, boxes.

    boxes: (M, 4) float32, clipped to the image as published: from max(x, 0) over w - 1 pixels, at
    most to W - 1, which is the size that is kept; likewise y. Unlike published, boxes of size 0
    after it, and those that end before the image begins, are left out: {reason: count}.
    clip: False for boxes about a labelled centre, such as MPII's: all of them, as they are
    """
    if not clip:
        return np.arange(len(record.boxes)), record.boxes, {}
    size = np.array(record.size or UNKNOWN_SIZE)
    boxes = record.boxes.astype(float)
    low = np.maximum(boxes[:, :2], 0)
    high = np.fmin(low + np.maximum(boxes[:, 2:] - 1, 0), size - 1)
    crowds = np.zeros(len(boxes), bool) if record.crowds is None else record.crowds
    kept, dropped = _select(
        {CROWD: crowds, OUTSIDE: are_outside(boxes, size), FLAT: ~(high > low).all(1)}
    )
    if record.unlabelled:
        dropped = {UNLABELLED: record.unlabelled, **dropped}
    return kept, np.hstack([low, high - low])[kept].astype(np.float32), dropped


def truth_boxes(records: Iterable[ImageAnnotation], clip: bool = True) -> BoxSet:
    """The labelled boxes of a split, of score 1; clip: see `label_boxes`"""
    images, dropped = {}, Counter[str]()
    for record in records:
        _, boxes, own = label_boxes(record, clip)
        dropped.update(own)
        if len(boxes):
            images[record.image_id] = Boxes(boxes, np.ones(len(boxes), np.float32))
    return BoxSet("truth", images, dict(dropped))


def read_boxes(
    path: Path,
    images: Iterable[Mapping[str, Any]],
    category_id: int,
    min_score: float = 0.0,
    max_per_image: int = 0,
) -> BoxSet:
    """The boxes of a detector: COCO's results format, image_id, category_id, bbox and score.

    As published, they are neither clipped nor suppressed. Of an image the best come first, those of
    equal score in the file's order.
    images: the entries of the split's `images`   max_per_image: of the best; 0: all
    Errors: FileNotFoundError; ValueError with the number of the entry that is no box, for a file of
    poses, and for one without a box of the category in these images
    """
    entries = load_box_entries(path)
    return select_boxes(path, entries, images, category_id, min_score, max_per_image)


def load_box_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a file of boxes, not checked yet. Errors: FileNotFoundError, ValueError"""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of boxes at {path}; give a detector's results in COCO's results "
            "format, or TEST.BOXES truth for the labelled boxes"
        )
    return load_result_list(path, "boxes", "bbox", "the best 100 are enough")


def select_boxes(
    path: Path,
    entries: Sequence[Mapping[str, Any]],
    images: Iterable[Mapping[str, Any]],
    category_id: int,
    min_score: float = 0.0,
    max_per_image: int = 0,
) -> BoxSet:
    """The boxes of `read_boxes`, of entries that were read from `path`."""
    rows = [_numbers(entry, f"{path}: result {i}") for i, entry in enumerate(entries)]
    values = np.array(rows).reshape(-1, 6)
    ids, scores, boxes = [e["image_id"] for e in entries], values[:, 1], values[:, 2:]
    sizes = {image["id"]: annotated_size(image) or UNKNOWN_SIZE for image in images}
    own_sizes = np.array([sizes.get(each, UNKNOWN_SIZE) for each in ids]).reshape(-1, 2)
    others = values[:, 0] != category_id
    unlisted = np.array([each not in sizes for each in ids], bool)
    _refuse_useless(path, entries, others, unlisted, category_id)
    flat = (boxes[:, 2:].astype(np.float32) <= 0).any(1) & ~others & ~unlisted
    for i in np.flatnonzero(flat)[:1].tolist():
        raise ValueError(
            f"{path}: result {i}: bbox is {boxes[i].tolist()}; wanted x, y, width, height in "
            "pixels, the last two above 0 (not two corners). Correct it, or remove the entry"
        )
    kept, dropped = _select(
        {
            OTHER_CATEGORIES: others,
            OTHER_IMAGES: unlisted,
            OUTSIDE: are_outside(boxes, own_sizes),
            f"of a score below {min_score:g}": scores < min_score,
        }
    )
    by_image: dict[int, list[int]] = {number: [] for number in sizes}
    for i in kept[np.argsort(-scores[kept], kind="stable")].tolist():
        by_image[ids[i]].append(i)
    best = {number: own[: max_per_image or None] for number, own in by_image.items() if own}
    if beyond := len(kept) - sum(map(len, best.values())):
        dropped[f"beyond the best {max_per_image} of their image"] = beyond
    columns = boxes.astype(np.float32), scores.astype(np.float32)
    found = {number: Boxes(*(column[own] for column in columns)) for number, own in best.items()}
    return BoxSet(path.stem, found, dropped)


def _numbers(entry: Mapping[str, Any], where: str) -> list[float]:
    """(6,) category, score, x, y, width, height of an entry whose four fields hold numbers."""
    if "bbox" not in entry and "keypoints" in entry:
        raise ValueError(
            f"{where} is a pose: keypoints and no bbox. TEST.BOXES is the file of a detector's "
            "boxes; poses are scored by tools/valid.py --results"
        )
    box = entry.get("bbox")
    fields: dict[str, list[Any]] = {f: [entry.get(f)] for f in ("image_id", "category_id", "score")}
    fields["bbox"] = box if isinstance(box, list) and len(box) == 4 else [None]
    for field, values in fields.items():
        if not all(type(value) in (int, float) and abs(value) <= MAX_INTEGER for value in values):
            wanted = "4 finite numbers, x, y, width, height" if field == "bbox" else "a number"
            shown = json.dumps(entry[field]) if field in entry else "absent"
            raise ValueError(
                f"{where}: {field} is {shown:.80}; wanted {wanted}. Correct it, or remove the entry"
            )
    return [*fields["category_id"], *fields["score"], *fields["bbox"]]


def _refuse_useless(
    path: Path,
    entries: Sequence[Mapping[str, Any]],
    others: np.ndarray,
    unlisted: np.ndarray,
    category_id: int,
) -> None:
    """ValueError if there are entries, (D,) bool others and unlisted, but none of use."""
    if not entries or not (others | unlisted).all():
        return
    if others.all():
        categories = ", ".join(map(str, sorted({entry["category_id"] for entry in entries})[:5]))
        raise ValueError(
            f"{path}: no entry has category_id {category_id}, that of people in the annotations, "
            f"but {categories}. If these are people, write {category_id}"
        )
    example = entries[int(np.argmin(others))]["image_id"]
    raise ValueError(
        f"{path}: none of its boxes of category {category_id} is of an image in the set, e.g. "
        f"image_id {example}; run the detector on the images of DATASET.VAL, and "
        "write the ids that the annotations give them"
    )


def _select(reasons: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Indices (M,) to which no reason (N,) bool applies; of others, how often each did first."""
    first = np.argmax([*reasons.values()], axis=0)  # (N,)
    out = np.any([*reasons.values()], axis=0)
    counts = np.bincount(first[out], minlength=len(reasons)).tolist()
    return np.flatnonzero(~out), {r: n for r, n in zip(reasons, counts) if n}
