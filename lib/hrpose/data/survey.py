"""What the annotations of a split hold, faults included, and what is to be counted in them.

Nothing here stumbles over a fault: `records` in data/coco.py does, and so would training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from hrpose.data.files import Seen

CROWDING = {"0": 0, "1": 1, "2": 2, "3-5": 3, "6-10": 6, "11-20": 11, "21-30": 21, "over 30": 31}
"""Steps of the histogram of people per image: name -> its least."""

AREAS = {"small": 0, "medium": 32**2, "large": 96**2}
"""COCO's sizes of people: name -> least square pixels."""

QUANTILES = (0, 5, 25, 50, 75, 95, 100)


class Rules(NamedTuple):
    """What the annotations must agree with."""

    joints: tuple[str, ...]  # names, in the order of the skeleton
    category: Mapping[str, Any]  # the entry of `categories` that is trained on
    max_people: int = 30  # whose tags are trained
    sized_by: str = "area"  # what the metric takes people's sizes from: area, or bbox
    ignore: str = "segmentation"  # a key of data.coco.IGNORE
    image_ids: tuple[int, ...] = ()  # the only images that are wanted; empty: all


@dataclass(frozen=True)
class Marks:
    """A split as its file has it, with what those image files showed that were looked at.

    P counts the annotations of the category, labelled or not.
    """

    truth: Mapping[str, Any]  # the annotation file
    rules: Rules
    seen: Mapping[str, Seen]  # file name -> what reading it showed

    @cached_property
    def images(self) -> dict[Any, dict]:
        """image id -> entry, of those that have both an id and a file name"""
        entries = self.truth["images"]
        return {i["id"]: i for i in entries if None not in (i.get("id"), i.get("file_name"))}

    @cached_property
    def people(self) -> list[dict]:
        """(P,) annotations of the category, and of none: training takes those for it."""
        wanted = self.rules.category.get("id")
        return [a for a in self.truth["annotations"] if a.get("category_id", wanted) == wanted]

    @cached_property
    def joints(self) -> np.ndarray:
        """(P, K, 3) x, y in pixels, visibility; 0 where the keypoints are not K joints."""
        joints = np.zeros((len(self.people), len(self.rules.joints), 3))
        for row, person in zip(joints, self.people):
            if has_joints(person, len(row)):
                row[:] = np.reshape(person["keypoints"], row.shape)
        return joints

    @cached_property
    def labelled(self) -> np.ndarray:
        """(P,) bool: of whom any joint is"""
        return np.any(self.joints[..., 2] > 0, axis=1)

    @cached_property
    def crowds(self) -> np.ndarray:
        """(P,) bool"""
        return np.array([bool(person.get("iscrowd")) for person in self.people], bool)

    @property
    def ignored(self) -> np.ndarray:
        """(P,) bool: whom heatmaps should not be told to be background"""
        return self.crowds | ~self.labelled

    @cached_property
    def sizes(self) -> np.ndarray:
        """(P, 2) width and height of their images, decoded or else annotated; NaN: unknown."""
        known = {number: self._size(image) for number, image in self.images.items()}
        unknown = (np.nan, np.nan)
        sizes = [known.get(person.get("image_id"), unknown) for person in self.people]
        return np.array(sizes, float).reshape(-1, 2)

    def _size(self, image: Mapping[str, Any]) -> tuple[Any, ...]:
        decoded = self.seen.get(image["file_name"], Seen()).size
        return decoded or (image.get("width") or np.nan, image.get("height") or np.nan)

    @cached_property
    def crowding(self) -> dict[Any, int]:
        """image id -> labelled people, of the known images"""
        count = dict.fromkeys(self.images, 0)
        for person, labelled in zip(self.people, self.labelled):
            if labelled and person.get("image_id") in count:
                count[person["image_id"]] += 1
        return count

    @cached_property
    def marked(self) -> set[Any]:
        """Image ids that any annotation of the category names."""
        return {person.get("image_id") for person in self.people}

    @cached_property
    def trained(self) -> set[Any]:
        """Image ids that training reads: with anybody labelled, or anything masked."""
        reasons = self.labelled | (self.ignored & (self.rules.ignore != "none"))
        return {person.get("image_id") for person in compress(self.people, reasons)}


def has_joints(person: Mapping[str, Any], count: int) -> bool:
    """Whether the keypoints are 3 numbers for each of so many joints."""
    numbers = person.get("keypoints") or ()
    return len(numbers) == 3 * count and all(isinstance(n, (int, float)) for n in numbers)


def counts(marks: Marks) -> dict[str, Any]:
    """What there is: plain numbers, and tables name -> number."""
    areas = _areas(marks)
    return {
        "images": len(marks.truth["images"]),
        "images trained on": sum(number in marks.trained for number in marks.images),
        "with labelled people": sum(count > 0 for count in marks.crowding.values()),
        "files looked at": len(marks.seen),
        "annotations": len(marks.people),
        "labelled people": int(marks.labelled.sum()),
        "crowds": int(marks.crowds.sum()),
        "unlabelled people": int((~marks.labelled & ~marks.crowds).sum()),
        "people per image": _steps(np.array(list(marks.crowding.values())), CROWDING),
        "joints of labelled people": _visibility(marks),
        "sizes of labelled people": _steps(areas, AREAS),
        "quantiles of their areas": _quantiles(areas),
    }


def _steps(values: np.ndarray, steps: Mapping[str, int]) -> dict[str, int]:
    """How many values lie in each step."""
    found = np.digitize(values, list(steps.values())) - 1
    return dict(zip(steps, np.bincount(found, minlength=len(steps)).tolist()))


def _visibility(marks: Marks) -> dict[str, dict[str, int]]:
    """Joint -> how often it is seen (2), hidden (1), and not labelled."""
    flags = marks.joints[marks.labelled, :, 2]
    seen, hidden = (flags == 2).sum(0), (flags == 1).sum(0)
    return {
        name: {"seen": int(s), "hidden": int(h), "unlabelled": len(flags) - int(s) - int(h)}
        for name, s, h in zip(marks.rules.joints, seen, hidden)
    }


def _areas(marks: Marks) -> np.ndarray:
    """Square pixels of labelled people, of their boxes if the metric goes by those."""
    size = area if marks.rules.sized_by == "area" else box_area
    areas = np.array([size(person) for person in compress(marks.people, marks.labelled)], float)
    return areas[np.isfinite(areas) & (areas > 0)]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """percent -> the value below which so many lie; none of no values"""
    levels = np.percentile(values, QUANTILES).round(1).tolist() if values.size else []
    return {f"{q} %": level for q, level in zip(QUANTILES, levels)}


def area(person: Mapping[str, Any]) -> float:
    """Square pixels; NaN where the annotation has none."""
    value = person.get("area")
    return float(value) if isinstance(value, (int, float)) else np.nan


def box_area(person: Mapping[str, Any]) -> float:
    """Square pixels, below 0 if any side is; NaN where there is no box of four numbers."""
    box = list(person.get("bbox") or ())
    if len(box) != 4 or not all(isinstance(n, (int, float)) for n in box):
        return np.nan
    _, _, width, height = box
    return float(-abs(width * height) if min(width, height) < 0 else width * height)
