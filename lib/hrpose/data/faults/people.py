"""What can be wrong with annotations, their joints apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any

import numpy as np

from hrpose.data.faults.finding import ERROR, NOTE, Check, Find, called, repeated
from hrpose.data.survey import Marks, area, box_area


def people_where(holds: Callable[[dict], Any], among: Callable[[Marks], Any] | None = None) -> Find:
    """A check of each annotation, or of those that the mask (P,) of `among` has."""

    def find(marks: Marks) -> list[str]:
        people = compress(marks.people, among(marks)) if among else marks.people
        return [called(person) for person in people if holds(person)]

    return find


def lacks(field: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: entry.get(field) is None


def labelled(marks: Marks) -> np.ndarray:
    return marks.labelled


def sized_by_area(marks: Marks) -> np.ndarray:
    """Those whose `area` the metric needs: everybody, or nobody."""
    return np.full(len(marks.people), marks.rules.sized_by == "area")


def labelled_by_area(marks: Marks) -> np.ndarray:
    return marks.labelled & sized_by_area(marks)


def ignored_by(choice: str) -> Callable[[Marks], np.ndarray]:
    """Crowds and unlabelled people, where DATASET.IGNORE is this."""
    return lambda marks: marks.ignored & (marks.rules.ignore == choice)


by_outline = ignored_by("segmentation")


def unknown_images(marks: Marks) -> list[str]:
    known = {image.get("id") for image in marks.truth["images"]}
    return [called(a) for a in marks.truth["annotations"] if a.get("image_id") not in known]


def unknown_categories(marks: Marks) -> list[str]:
    known = {category.get("id") for category in marks.truth["categories"]}
    return [
        f"{called(a)}: {a.get('category_id')}"
        for a in marks.truth["annotations"]
        if a.get("category_id") not in known
    ]


def other_categories(marks: Marks) -> list[str]:
    names = {c.get("id"): c.get("name") for c in marks.truth["categories"]}
    others = set(names) - {marks.rules.category.get("id")}
    return [called(a) for a in marks.truth["annotations"] if a.get("category_id") in others]


def twice_marked(marks: Marks) -> list[str]:
    """People who stand a second time in the same image, joint for joint."""
    first: dict[Any, dict] = {}
    twins = []
    for person, joints, labelled in zip(marks.people, marks.joints, marks.labelled):
        if labelled:
            known = first.setdefault((person.get("image_id"), joints.tobytes()), person)
            if known is not person:
                twins.append(f"{called(person)} = {known.get('id')}")
    return twins


def has_no_area(person: Mapping[str, Any]) -> bool:
    return area(person) <= 0


def has_no_extent(person: Mapping[str, Any]) -> bool:
    return box_area(person) <= 0


def has_no_region(person: Mapping[str, Any]) -> bool:
    return not person.get("segmentation") and not person.get("bbox")


def masked(marks: Marks) -> np.ndarray:
    """Crowds and unlabelled people, unless DATASET.IGNORE is none."""
    return marks.ignored & (marks.rules.ignore != "none")


def has_bad_numbers(person: Mapping[str, Any]) -> bool:
    numbers = [*(person.get("bbox") or ()), person.get("area") or 0]
    return not all(isinstance(n, (int, float)) and np.isfinite(n) for n in numbers)


def has_bad_outline(person: Mapping[str, Any]) -> bool:
    """Whether there is an outline, but none that can be drawn."""
    outline = person.get("segmentation") or []
    if isinstance(outline, dict):
        return "counts" not in outline or "size" not in outline
    return not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in outline)


def outlines_of_other_sizes(marks: Marks) -> list[str]:
    """Masks that are drawn on another size than that of their image."""
    return [
        f"{called(person)}: {outline['size'][1]} x {outline['size'][0]}, image {w:g} x {h:g}"
        for person, (w, h), masked in zip(marks.people, marks.sizes, by_outline(marks))
        if masked
        and w > 0
        and isinstance(outline := person.get("segmentation"), dict)
        and tuple(outline.get("size", (h, w))) != (h, w)
    ]


CHECKS = (
    Check(
        ERROR,
        "annotations without an id",
        people_where(lacks("id")),
        "number the annotations",
    ),
    Check(
        ERROR,
        "annotation ids that stand twice",
        repeated("annotations", "id"),
        "number the annotations anew; if two files were joined, see that nobody is marked twice",
    ),
    Check(
        ERROR,
        "annotations of images that are not listed",
        unknown_images,
        "list the images, or take the annotations out; they are not read",
    ),
    Check(
        ERROR,
        "annotations of a category that is not listed",
        unknown_categories,
        "list it in `categories`, or correct category_id; evaluation needs one that is listed",
    ),
    Check(
        NOTE,
        "annotations of other categories",
        other_categories,
        "nothing to do: they are not read. DATASET.CATEGORY chooses",
    ),
    Check(
        NOTE,
        "people marked twice, joint for joint",
        twice_marked,
        "take one of the two out: they tell the tags that one person is two",
    ),
    Check(
        ERROR,
        "labelled people without a box",
        people_where(lacks("bbox"), labelled),
        "give bbox as [x, y, width, height] in pixels",
    ),
    Check(
        ERROR,
        "labelled people whose box has no extent",
        people_where(has_no_extent, labelled),
        "give bbox as [x, y, width, height] in pixels, not as two corners",
    ),
    Check(
        ERROR,
        "boxes or areas that are not finite numbers",
        people_where(has_bad_numbers),
        "bbox is 4 numbers, area is 1",
    ),
    Check(
        ERROR,
        "people without an area",
        people_where(lacks("area"), sized_by_area),
        "give area in square pixels: that of the outline, or 0.53 times that of the box; "
        "without it AP is 0",
    ),
    Check(
        ERROR,
        "labelled people whose area is 0 or less",
        people_where(has_no_area, labelled_by_area),
        "give area in square pixels: that of the outline, or 0.53 times that of the box; "
        "at 0 AP is 0",
    ),
    Check(
        NOTE,
        "annotations without keypoints",
        people_where(lacks("keypoints")),
        "nothing to do: they are people of whom nothing is labelled, and masked as "
        "DATASET.IGNORE says",
    ),
    Check(
        NOTE,
        "annotations without iscrowd",
        people_where(lacks("iscrowd")),
        "nothing to do: taken for 0",
    ),
    Check(
        NOTE,
        "annotations without num_keypoints",
        people_where(lacks("num_keypoints")),
        "nothing to do: the flags are counted",
    ),
    Check(
        ERROR,
        "crowds and unlabelled people with neither outline nor box",
        people_where(has_no_region, masked),
        "give bbox, or heatmaps are told that nobody is there",
    ),
    Check(
        NOTE,
        "crowds and unlabelled people without an outline",
        people_where(lacks("segmentation"), by_outline),
        "nothing to do: their box is left unsupervised instead",
    ),
    Check(
        NOTE,
        "crowds and unlabelled people who are trained as background",
        people_where(bool, ignored_by("none")),
        "as published for CrowdPose; DATASET.IGNORE box leaves their boxes unsupervised",
    ),
    Check(
        ERROR,
        "outlines that cannot be drawn",
        people_where(has_bad_outline, by_outline),
        "polygons are lists of 3 or more points [x, y, x, y, ...]; run lengths have "
        "counts and size",
    ),
    Check(
        ERROR,
        "crowds drawn on another size than their image's",
        outlines_of_other_sizes,
        "use the annotations of these images",
    ),
)
