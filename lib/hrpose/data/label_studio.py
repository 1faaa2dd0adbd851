"""Label Studio's JSON export as COCO JSON.

A task has data (the image's URL), annotations (of people who label) and predictions (of models),
each with a list of regions: rectanglelabels, keypointlabels, relations, choices. Places are percent
of the image's width and height. A point belongs to the rectangle that is its parent (parentID), or
to which relations connect it. The format has no visibility: a point is hidden (1) where it has the
choice `hidden`, else visible (2). data/label_studio_tasks.py writes all of this.
Sources: https://labelstud.io/guide/task_format, .../tags/keypointlabels, .../tags/rectanglelabels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from hrpose.data.coco import bounding_box, is_number
from hrpose.data.convert import named_category, person_entries, refuse_entries, repeated_values
from hrpose.ops.image import IMAGE_SUFFIXES
from hrpose.skeletons import COCO

EXPORT_CURE = "export the project as JSON (not JSON-MIN)"

IMAGE = "image"
"""Key of the image's URL in a task's data."""

HIDDEN = ("hidden", "occluded")
"""Choices of a point that make its visibility 1; the first is written."""

FAR_PERCENT = (-100, 200)
"""Points beyond these percents of the image are refused."""


def file_names(task: Mapping[str, Any]) -> list[str]:
    """Names that the file of a task's image may have: with all of its folders, with fewer, bare.

    Then without the 8 digits that uploads are given (1a2b3c4d-photo.jpg is photo.jpg), and last, to
    be taken where none of them is a file: of a local file (?d=) the first, of others the bare one.
    Errors: ValueError for a task without an image
    """
    data = task.get("data")
    values = data if isinstance(data, dict) else {}
    urls = [values[IMAGE]] if isinstance(values.get(IMAGE), str) else [*values.values()]
    parsed = [urlsplit(url) for url in urls if isinstance(url, str)]
    local = [parse_qs(url.query).get("d", [""])[0] for url in parsed]
    paths = [path or unquote(url.path) for path, url in zip(local, parsed)]
    images = [n for n, path in enumerate(paths) if path.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) != 1:
        raise ValueError(
            f"{_name(task)} has {len(images)} images in its data; a task of this format has one, "
            f"`{IMAGE}`: {EXPORT_CURE}"
        )
    parts = paths[images[0]].strip("/").split("/")
    names = ["/".join(parts[n:]) for n in range(len(parts))]
    usual = names[0] if local[images[0]] else names[-1]
    return [*names, re.sub("^[0-9a-f]{8}-", "", names[-1]), usual]


def label_studio_annotations(
    tasks: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    joints: Sequence[str] = (),
    label: str = "",
    annotator: str = "",
) -> tuple[dict[str, Any], dict[str, int]]:
    """An export in COCO's format, its images numbered from 1, and what was left out or changed.

    names: file name of each task's image   joints: labels of the points in the skeleton's order;
    empty: COCO's, if there are no others   label: of the rectangles around people; empty: `person`,
    or the only one   annotator: whose annotations; empty: there is one of each task, or one is
    the ground truth
    Tasks without annotation are left out: predictions are no labels. A rotated rectangle becomes
    the box around it; a person without a rectangle has the box around its points.
    Errors: ValueError with the tasks that are not of this format, or whose points belong to no
    person or to several
    """
    odd = [
        f"task {n}"
        for n, task in enumerate(tasks)
        if "data" not in task or not isinstance(task.get("annotations"), list)
    ]
    refuse_entries(odd, "entries without data or annotations", EXPORT_CURE)
    counts: Counter[str] = Counter()
    chosen = []
    for task, name in zip(tasks, names):
        annotation = _annotation(task, annotator)
        if annotation is None:
            counts["left out: images without an annotation (predictions are no labels)"] += 1
        else:
            chosen.append((_name(task), name, annotation))
    refuse_entries(
        repeated_values(name for _, name, _ in chosen), "images of several tasks",
        "keep one task for each image; or name their folder, below which paths are found: --images",
    )  # fmt: skip
    people = []
    images: list[dict[str, Any]] = []
    for where, name, annotation in chosen:
        regions = Regions(annotation, where)
        size = dict(zip(("width", "height"), regions.size)) if regions.size else {}
        images.append({"id": len(images) + 1, "file_name": name, **size})
        people += [(len(images), where, *person) for person in regions.people()]
        counts += regions.counts
    return _assembled(images, people, _skeleton(people, joints), label, counts)


def _name(task: Mapping[str, Any]) -> str:
    return f"task {task.get('id', '(without id)')}"


def _annotation(task: Mapping[str, Any], annotator: str) -> Mapping[str, Any] | None:
    """The annotation that counts; None where there is none. Errors: ValueError for several."""
    done = [
        one for one in task["annotations"]
        if isinstance(one, dict) and isinstance(one.get("result"), list)
        and not one.get("was_cancelled")
    ]  # fmt: skip
    authors = [_author(one) for one in done]
    if annotator:
        done = [one for one, author in zip(done, authors) if annotator in author]
    if len(done) > 1:
        done = [one for one in done if one.get("ground_truth")] or done
    if len(done) > 1:
        raise ValueError(
            f"{_name(task)} has {len(done)} annotations, by {', '.join(a[0] for a in authors)}; "
            "choose whose to take, --annotator ID, or star one as ground truth and export again"
        )
    return done[0] if done else None


def _author(annotation: Mapping[str, Any]) -> list[str]:
    """Id and, if it is exported, the e-mail address of an annotation's author."""
    by = annotation.get("completed_by")
    known = [by.get("id"), by.get("email")] if isinstance(by, dict) else [by]
    return [f"{each}" for each in known if each is not None] or ["unknown"]


class Regions:
    """The rectangles and points of one annotation, and how they are connected.

    Errors: ValueError with the task for a region that is not of this format
    """

    def __init__(self, annotation: Mapping[str, Any], where: str):
        self.where = where
        self.boxes: dict[str, Mapping[str, Any]] = {}  # region id -> region
        self.points: dict[str, Mapping[str, Any]] = {}
        self.hidden: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._links: list[tuple[str, str]] = []
        for region in annotation["result"]:
            self._sort(region if isinstance(region, dict) else {})
        shown = [*self.boxes.values(), *self.points.values()]
        stated: list[Any] = [
            (one.get("original_width"), one.get("original_height")) for one in shown
        ]
        whole = all(is_number(side) and side > 0 for size in stated for side in size)
        sizes: set[Any] = set(stated) if whole else set()
        if not whole or len(sizes) > 1:
            raise ValueError(
                f"{where}: regions state {stated[:3]} as original_width and original_height; "
                f"wanted one size in pixels: {EXPORT_CURE}"
            )
        self.size: tuple[int, int] | tuple[()] = sizes.pop() if sizes else ()
        if any(one.get("image_rotation") for one in shown):
            raise ValueError(f"{where}: its image was rotated; rotate the file, and label it again")

    def _sort(self, region: Mapping[str, Any]) -> None:
        kind, own, value = region.get("type"), f"{region.get('id')}", region.get("value")
        if kind == "relation":
            self._links.append((f"{region.get('from_id')}", f"{region.get('to_id')}"))
        elif kind == "choices" and isinstance(value, dict):
            chosen = value.get("choices")
            if isinstance(chosen, list) and {f"{each}".lower() for each in chosen} & {*HIDDEN}:
                self.hidden.add(own)
        elif kind in ("rectanglelabels", "keypointlabels"):
            fields = ("x", "y", "width", "height")[: 4 if kind == "rectanglelabels" else 2]
            value = value if isinstance(value, dict) else {}
            labels = value.get(kind)
            if not isinstance(labels, list) or [type(each) for each in labels] != [str]:
                raise ValueError(f"{self.where}: region {own} has {labels} as labels; wanted one")
            turned = value.get("rotation") or 0
            if not all(is_number(each) for each in [turned, *map(value.get, fields)]):
                raise ValueError(f"{self.where}: region {own} lacks {', '.join(fields)} in percent")
            (self.boxes if kind == "rectanglelabels" else self.points)[own] = region
            if region.get("parentID"):
                self._links.append((own, f"{region['parentID']}"))
        else:
            self.counts[f"left out: regions of type {kind}"] += 1

    def people(self) -> Iterator[tuple[str | None, list[float] | None, dict[str, Any]]]:
        """Label and box of the rectangle, if any, and label -> x, y, visibility of each point."""
        groups = self._groups()
        if len(self.boxes) <= 1 and sum(len(group) > 1 for group in groups) <= len(self.boxes):
            groups = [[*self.boxes, *self.points]] if groups else []  # of the only person
        for group in groups:
            boxes = [own for own in group if own in self.boxes]
            labels = [self._label(own) for own in group if own in self.points]
            if len(boxes) > 1 or (not boxes and len(group) < 2):
                raise ValueError(
                    f"{self.where}: {', '.join(labels)} belong to {len(boxes)} rectangles; drag "
                    "each point below its person's rectangle in the list of regions"
                )
            if twice := repeated_values(labels):
                raise ValueError(
                    f"{self.where}: a person has two points {twice[0]}; delete one, or drag each "
                    "below its person's rectangle in the list of regions"
                )
            points = [self._point(own) for own in group if own in self.points]
            label, box = (self._label(boxes[0]), self._box(boxes[0])) if boxes else (None, None)
            yield label, box, dict(zip(labels, points))

    def _groups(self) -> list[list[str]]:
        """Ids of connected regions, of each group in the order of the file, rectangles first.

        Rectangles are not connected to each other: a relation between people makes them not one.
        """
        regions = [*self.boxes, *self.points]
        group = {own: n for n, own in enumerate(regions)}
        parents = dict(link for link in self._links if link[0] in self.points)
        lost = [own for own in parents if parents[own] not in group]
        refuse_entries(
            lost, f"regions of {self.where} belong to none of its rectangles", EXPORT_CURE
        )
        for a, b in self._links:
            if a in group and b in group and not {a, b} <= {*self.boxes}:
                old, new = group[a], group[b]
                group = {own: new if n == old else n for own, n in group.items()}
        numbers = dict.fromkeys(group.values())
        return [[own for own in regions if group[own] == n] for n in numbers]

    def _label(self, own: str) -> str:
        region = self.boxes.get(own) or self.points[own]
        return region["value"][region["type"]][0]

    def _point(self, own: str) -> list[float]:
        percent = [self.points[own]["value"][axis] for axis in "xy"]
        low, high = FAR_PERCENT
        if min(percent) < low or max(percent) > high:
            raise ValueError(
                f"{self.where}: {self._label(own)} is at {percent} percent of its image"
            )
        return [*(np.multiply(percent, self.size) / 100).tolist(), 1 if own in self.hidden else 2]

    def _box(self, own: str) -> list[float]:
        """The box around the rectangle, which `rotation` turns clockwise about its corner x, y."""
        value = self.boxes[own]["value"]
        x, y, w, h = (value[side] * s / 100 for side, s in zip(
            ("x", "y", "width", "height"), 2 * [*self.size]))  # fmt: skip
        angle = np.deg2rad(value.get("rotation") or 0)
        if angle:
            self.counts["rotated rectangles, of which the boxes around them were taken"] += 1
        across, down = (
            np.array([np.cos(angle), np.sin(angle)]),
            np.array([-np.sin(angle), np.cos(angle)]),
        )
        corners = np.array([0 * across, w * across, h * down, w * across + h * down])
        return bounding_box(corners + [x, y])


def _skeleton(people: Sequence[Any], joints: Sequence[str]) -> list[str]:
    """The labels of points in order. Errors: ValueError with the tasks that have others."""
    known = [*(joints or COCO.joints)]
    odd = [f"{where}: {name}" for _, where, _, _, points in people for name in points
           if name not in known]  # fmt: skip
    cure = "correct --joints" if joints else "name all in their order: --joints nose,left_eye,..."
    refuse_entries(odd, "points with a label that is no joint of the skeleton", cure)
    return known


def _assembled(
    images: list[dict[str, Any]],
    people: Sequence[tuple[int, str, str | None, list[float] | None, dict[str, Any]]],
    joints: Sequence[str],
    label: str,
    counts: Counter[str],
) -> tuple[dict[str, Any], dict[str, int]]:
    """COCO's annotations of people as `Regions` has them, and counts of what was left out."""
    labels = {kind: None for _, _, kind, _, _ in people if kind is not None}
    person = label or next((kind for kind in labels if kind.lower() == "person"), "")
    if not person and len(labels) > 1:
        raise ValueError(
            f"rectangles have the labels {', '.join(labels)}; name that of people: --category"
        )
    person = person or next(iter(labels), "person")
    kept = [one for one in people if one[2] in (None, person)]
    if len(kept) < len(people):
        counts["left out: rectangles with other labels"] += len(people) - len(kept)
    rows = np.zeros((len(kept), len(joints), 3))
    boxes = np.zeros((len(kept), 4))
    for n, (_, _, _, box, points) in enumerate(kept):
        for name, point in points.items():
            rows[n, joints.index(name)] = point
        boxes[n] = box or bounding_box(rows[n, rows[n, :, 2] > 0, :2])
    annotations = person_entries([one[0] for one in kept], rows, boxes, [{}] * len(kept))
    categories = [named_category(joints, person)]
    return {"images": images, "annotations": annotations, "categories": categories}, counts
