"""What annotations lack and can be computed from the rest: areas, boxes, counts, flags and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from hrpose.data.checks import has_bad_numbers, has_no_count
from hrpose.data.coco import (
    MAX_INTEGER,
    bounding_box,
    count_labelled,
    is_drawable,
    is_number,
)
from hrpose.data.samples import pack_outline
from hrpose.data.statistics import DatasetView
from hrpose.ops.oks import BOX_FILL

FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "False": 0, "True": 1}
"""Texts of iscrowd that can only mean one thing, and false and true as texts."""


def repair(view: DatasetView) -> tuple[dict[str, Any], list[str]]:
    """A copy of the annotations with what can be filled in, and a line for each kind of change.

    Values that are there and possible stay. People of other categories, and of images that are not
    listed, are only renumbered.
    """
    labelled = view.is_labelled
    stated = np.array([person.get("num_keypoints") == 0 for person in view.people], bool)
    recount = bool((stated & labelled).sum() > labelled.sum() / 2)  # else they are CrowdPose's
    done: Counter[str] = Counter()
    filled: dict[int, dict[str, Any]] = {}
    for person, valid in zip(view.people, view.has_joints):
        changes = _flag(person)
        if valid or not person.get("keypoints"):
            changes |= _count(person, recount)
            changes |= _box(person)
        changes |= _area({**person, **{field: value for field, (value, _) in changes.items()}})
        filled[id(person)] = {field: value for field, (value, _) in changes.items()}
        done.update(f"{field}: {how}" for field, (_, how) in changes.items())
    people = [{**one, **filled.get(id(one), {})} for one in view.truth["annotations"]]
    lines = [f"{what}, in {count} annotations" for what, count in done.items()]
    images = [dict(image) for image in view.truth["images"]]
    lines += _number_images(images, people) + _number(people, "annotations")
    return {**view.truth, "images": images, "annotations": people}, lines


Changes = dict[str, tuple[Any, str]]
"""field -> (its value, how it was found)"""


def _flag(person: Mapping[str, Any]) -> Changes:
    value = person.get("iscrowd")
    if value is None:
        return {"iscrowd": (0, "0 where there was none")}
    known = isinstance(value, str | bool) and str(value) in FLAGS
    return {"iscrowd": (FLAGS[str(value)], "0 or 1 for a text")} if known else {}


def _count(person: Mapping[str, Any], recount: bool) -> Changes:
    count, stated = count_labelled(person), person.get("num_keypoints")
    absent = stated is None or has_no_count(person)
    if absent or (stated and not count) or (recount and count and not stated):
        return {"num_keypoints": (count, "the joints whose visibility is above 0 were counted")}
    return {}


def _box(person: Mapping[str, Any]) -> Changes:
    """That of the outline, or of the labelled joints, where it has an extent."""
    if person.get("bbox") and not has_bad_numbers({"bbox": person["bbox"]}):
        return {}
    if outlined := _outlined(person):
        return {"bbox": (outlined[0], "that around the outline")}
    table = np.array(person.get("keypoints") or [], float).reshape(-1, 3)
    points = table[table[:, 2] > 0, :2]
    if len(points) < 2 or not np.isfinite(points).all() or not np.ptp(points, axis=0).all():
        return {}
    how = "that around the labelled joints, smaller than the person's"
    return {"bbox": (bounding_box(points), how)}


def _area(person: Mapping[str, Any]) -> Changes:
    """That of the outline, or BOX_FILL of the box's, where there is one above 0."""
    area, box = person.get("area"), person.get("bbox")
    if is_number(area) and float(area or 0) > 0:
        return {}
    if outlined := _outlined(person):
        return {"area": (outlined[1], "that of the outline")}
    if box and not has_bad_numbers({"bbox": box}) and min(box[2:]) > 0:
        return {"area": (round(BOX_FILL * box[2] * box[3], 2), f"{BOX_FILL} of the box")}
    return {}


def _outlined(person: Mapping[str, Any]) -> tuple[list[float], float] | None:
    """Box and area of an outline; None where there is none, or it has no extent."""
    outline = person.get("segmentation")
    if not outline or not is_drawable(outline):
        return None
    if isinstance(outline, dict):
        packed = pack_outline(outline, outline["size"])
        box, area = coco_mask.toBbox(packed)[0].tolist(), float(coco_mask.area(packed)[0])
    else:
        polygons = [np.reshape(polygon, (-1, 2)) for polygon in outline]
        box, area = bounding_box(np.concatenate(polygons)), sum(map(_polygon_area, polygons))
    return (box, round(area, 2)) if area > 0 else None


def _polygon_area(points: np.ndarray) -> float:
    """The shoelace formula; points: (N, 2)"""
    x, y = points.T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _number_images(images: list[dict[str, Any]], people: list[dict[str, Any]]) -> list[str]:
    """Number images in place, and their people with them; repeated ids could be either's."""
    before = [image.get("id") for image in images]
    known = [one for one in before if one is not None]
    if len(set(known)) < len(known):
        return ["not repaired: image ids are repeated; renumber the images and their annotations"]
    lines = _number(images, "images")
    now = {old: image["id"] for old, image in zip(before, images) if old is not None}
    for person in people:
        if person.get("image_id") in now:
            person["image_id"] = now[person["image_id"]]
    return lines


def _number(entries: list[dict[str, Any]], listed: str) -> list[str]:
    """Number entries from 1, in place, unless their ids are different whole numbers."""
    ids = [entry.get("id") for entry in entries]
    odd = [one for one in ids if type(one) is not int or abs(one) > MAX_INTEGER]
    if not odd and len(set(ids)) == len(ids):
        return []
    for number, entry in enumerate(entries, 1):
        entry["id"] = number
    why = f"some were no whole numbers, e.g. {odd[0]!r:.40}" if odd else "some were repeated"
    return [f"id: {listed} numbered from 1, as {why}"]
