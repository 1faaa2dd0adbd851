"""Checks of images and annotations: what violates a rule of data/rules.py, described."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import compress
from typing import Any

import numpy as np

from hrpose.data.coco import MAX_COORDINATE, MAX_INTEGER, is_drawable, is_number
from hrpose.data.statistics import DatasetView, ImageInfo

FindViolations = Callable[[DatasetView], Iterable[str]]
Mask = Callable[[DatasetView], np.ndarray]
"""(P,) bool: the annotations that a check applies to"""

BOX_TOLERANCE = 2
"""Pixels by which a box may reach beyond its image."""


def location(person: Mapping[str, Any]) -> str:
    """Where an annotation is, for messages."""
    return f"annotation {person.get('id')!r:.40} of image {person.get('image_id')!r:.40}"


def repeats(listed: str, field: str) -> FindViolations:
    """Values of a field that occur more than once in a list of the annotation file."""

    def check(view: DatasetView) -> list[str]:
        values = Counter(entry[field] for entry in view.truth[listed] if field in entry)
        return [f"{value} ({count} times)" for value, count in values.items() if count > 1]

    return check


# Image entries and files ----------------------------------------------------------------------


def files_where(violates: Callable[[dict, ImageInfo], Any]) -> FindViolations:
    """A check of every image whose file was decoded."""

    def check(view: DatasetView) -> Iterator[str]:
        for image in view.images.values():
            name = image.get("file_name", "")
            info = view.files.get(name)
            if info is None or not violates(image, info):
                continue
            annotated = f"{image.get('width')} x {image.get('height')}"
            size = (
                f" is {info.size[0]} x {info.size[1]}, annotated {annotated}" if info.size else ""
            )
            yield f"{name}{size}"

    return check


def problem_is(kind: str) -> FindViolations:
    return files_where(lambda image, info: info.problem == kind)


def is_swapped(image: Mapping[str, Any], info: ImageInfo) -> bool:
    """Whether the annotated width is the decoded height, and vice versa."""
    annotated = (image.get("width"), image.get("height"))
    return len(info.size) == 2 and info.size != annotated and info.size[::-1] == annotated


def is_resized(image: Mapping[str, Any], info: ImageInfo) -> bool:
    """Whether the decoded size differs from the annotated one, unless they are swapped."""
    annotated = (image.get("width"), image.get("height"))
    return None not in annotated and info.size not in ((), annotated, annotated[::-1])


def images_lacking(*fields: str) -> FindViolations:
    return lambda view: [
        f"image {image.get('id')}: {field}"
        for image in view.truth["images"]
        for field in fields
        if image.get(field) is None
    ]


def unlisted_image_ids(view: DatasetView) -> list[str]:
    return [str(number) for number in view.schema.image_ids if number not in view.images]


def images_where(violates: Callable[[dict], Any]) -> FindViolations:
    return lambda view: [f"{i.get('file_name')}" for i in view.images.values() if violates(i)]


def is_damaged_file(image: Mapping[str, Any], info: ImageInfo) -> bool:
    return info.damaged


def is_dark_file(image: Mapping[str, Any], info: ImageInfo) -> bool:
    return info.dark


def odd_image_ids(view: DatasetView) -> list[str]:
    return [
        f"{number!r:.40}"
        for number in view.images
        if type(number) is not int or abs(number) > MAX_INTEGER
    ]


def equal_files(view: DatasetView) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, info in view.files.items():
        if info.digest:
            groups.setdefault(info.digest, []).append(name)
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def unannotated_images(view: DatasetView) -> list[str]:
    annotated = {person.get("image_id") for person in view.people}
    return [
        f"{image.get('file_name')}"
        for number, image in view.images.items()
        if number not in annotated
    ]


def crowded_images(view: DatasetView) -> list[str]:
    return [
        f"{view.images[number].get('file_name')}: {count} people"
        for number, count in view.people_per_image.items()
        if count > view.schema.max_people
    ]


# Annotations ----------------------------------------------------------------------------------


def people_where(violates: Callable[[dict], Any], among: Mask | None = None) -> FindViolations:
    """A check of each annotation of the category, or of those in the mask of `among`."""

    def check(view: DatasetView) -> list[str]:
        people = compress(view.people, among(view)) if among else view.people
        return [location(person) for person in people if violates(person)]

    return check


def people_in(mask: Mask) -> FindViolations:
    """The annotations of the category in a mask."""
    return lambda view: [location(person) for person in compress(view.people, mask(view))]


def lacks(field: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: entry.get(field) in (None, [], "")


def ignored_by(option: str) -> Mask:
    """Crowds and unlabelled people, where DATASET.IGNORE_REGIONS has this value."""
    return lambda view: view.is_ignored & (view.schema.ignore == option)


def is_masked(view: DatasetView) -> np.ndarray:
    """Crowds and unlabelled people, unless DATASET.IGNORE_REGIONS is none."""
    return view.is_ignored & (view.schema.ignore != "none")


def has_flat_box(view: DatasetView) -> np.ndarray:
    return view.is_labelled & (view.box_areas <= 0)


def needs_area(view: DatasetView) -> np.ndarray:
    """All or none: whether the metric uses the field `area`."""
    return np.full(len(view.people), view.schema.area_from == "area")


def has_zero_area(view: DatasetView) -> np.ndarray:
    """People who count in the metric, in the area that it uses."""
    counted = [bool(person.get("num_keypoints")) for person in view.people]
    return (view.is_labelled | np.array(counted, bool)) & (view.areas <= 0)


def has_bad_numbers(person: Mapping[str, Any]) -> bool:
    """Whether bbox or area are there, but not as 4 finite numbers within reason and 1."""
    box = [0] * 4 if lacks("bbox")(person) else person["bbox"]
    area = 0 if lacks("area")(person) else person["area"]
    values: list[Any] = [*box, area] if isinstance(box, list) and len(box) == 4 else [None]
    if not all(is_number(value) and math.isfinite(value) for value in values):
        return True
    return max(map(abs, box)) > MAX_COORDINATE


def has_bad_outline(person: Mapping[str, Any]) -> bool:
    return bool(person.get("segmentation")) and not is_drawable(person["segmentation"])


def has_no_count(person: Mapping[str, Any]) -> bool:
    """Whether num_keypoints is there, but no number of joints."""
    count = person.get("num_keypoints")
    return count is not None and not (is_number(count) and count >= 0 and count % 1 == 0)


def lacks_labels(view: DatasetView) -> list[str]:
    """The split, if none of its people has a labelled joint, and their keypoints can be read."""
    unread = any(person.get("keypoints") for person in compress(view.people, ~view.has_joints))
    known = unread or view.is_labelled.any()
    return [] if known else [f"it is empty: no labelled keypoints in {len(view.images)} images"]


def has_no_region(person: Mapping[str, Any]) -> bool:
    return not person.get("segmentation") and not person.get("bbox")


def without_category(view: DatasetView) -> list[str]:
    return [location(a) for a in view.truth["annotations"] if "category_id" not in a]


def unknown_images(view: DatasetView) -> list[str]:
    known = {image.get("id") for image in view.truth["images"]}
    return [location(a) for a in view.truth["annotations"] if a.get("image_id") not in known]


def unknown_categories(view: DatasetView) -> list[str]:
    known = {category.get("id") for category in view.truth["categories"]}
    return [
        f"{location(a)}: {a['category_id']}"
        for a in view.truth["annotations"]
        if "category_id" in a and a["category_id"] not in known
    ]


def other_categories(view: DatasetView) -> list[str]:
    names = {c.get("id") for c in view.truth["categories"]}
    others = names - {view.schema.category.get("id")}
    return [location(a) for a in view.truth["annotations"] if a.get("category_id") in others]


def duplicate_people(view: DatasetView) -> list[str]:
    """Labelled people with the joints of another person in the same image."""
    first: dict[Any, dict] = {}
    twins = []
    for person, joints in compress(zip(view.people, view.joints), view.is_labelled):
        known = first.setdefault((person.get("image_id"), joints.tobytes()), person)
        if known is not person:
            twins.append(f"{location(person)} = {known.get('id')}")
    return twins


def masks_of_other_sizes(view: DatasetView) -> list[str]:
    """Run lengths of ignored annotations that do not have the size of their image."""
    found = []
    by_outline = ignored_by("segmentation")(view)
    for person, (w, h) in compress(zip(view.people, view.image_sizes), by_outline):
        outline = person.get("segmentation")
        if not isinstance(outline, dict) or not is_drawable(outline):
            continue
        size = outline["size"]
        if w > 0 and size != [h, w]:
            found.append(f"{location(person)}: {size[1]} x {size[0]}, image {w:g} x {h:g}")
    return found


def _beyond_image(view: DatasetView) -> np.ndarray:
    """(P,) bool: boxes that reach beyond their image"""
    ends = view.boxes[:, :2] + view.boxes[:, 2:]
    over = np.maximum(ends - view.image_sizes, -view.boxes[:, :2]).max(1)
    return over > BOX_TOLERANCE


def _fits_as_corners(view: DatasetView) -> np.ndarray:
    """(P,) bool: the labelled joints lie between (x, y) and (width, height) of the box"""
    at, unlabelled = view.joints[..., :2], view.joints[..., 2] <= 0  # (P, K, 2), (P, K)
    low, high = view.boxes[:, None, :2], view.boxes[:, None, 2:]
    inside = ((at >= low - BOX_TOLERANCE) & (at <= high + BOX_TOLERANCE)).all(-1)
    return view.is_labelled & (high > low)[:, 0].all(1) & (inside | unlabelled).all(1)


def boxes_as_corners(view: DatasetView) -> np.ndarray:
    return _beyond_image(view) & _fits_as_corners(view)


def boxes_beyond_image(view: DatasetView) -> np.ndarray:
    return _beyond_image(view) & ~_fits_as_corners(view)


def only_crowds(view: DatasetView) -> list[str]:
    """All labelled annotations, if every one of them is a crowd."""
    labelled = view.is_labelled
    if (labelled & ~view.is_crowd).any():
        return []
    return [location(person) for person in compress(view.people, labelled)]
