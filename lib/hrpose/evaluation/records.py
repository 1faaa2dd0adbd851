"""COCO's annotations and results: completed on a copy, and refused where wrong, with the cure.

pycocotools asks no questions: it counts NaN as a match, makes every OKS 0 where an area is 0, and
stumbles over an absent field. All of that is settled here, before it is asked.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from hrpose.ops.files import read_json

Truth = str | Path | Mapping[str, Any]
"""Annotations in COCO's format: a JSON file, or what is in it."""

BOX_FILL = 0.53
"""CrowdPose has no outlines: a person's area is this share of the box, as in its own code."""

_RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")


def read_truth(truth: Truth) -> dict[str, Any]:
    """The annotations, read if they are a file. ValueError where a list of COCO's is missing."""
    labels = truth if isinstance(truth, Mapping) else read_json(Path(truth), "annotations")
    missing = {"images", "annotations", "categories"} - set(labels)
    if missing:
        raise ValueError(f"the annotations have no {sorted(missing)}; COCO's format needs them")
    return dict(labels)


def with_box_areas(labels: Mapping[str, Any], fill: float = BOX_FILL) -> dict[str, Any]:
    """A copy in which everybody's area is `fill` times that of the box, in square pixels."""
    _refuse_without("bbox", labels["annotations"], "bbox is [x, y, width, height] in pixels")
    annotations = [
        {**person, "area": fill * person["bbox"][2] * person["bbox"][3]}
        for person in labels["annotations"]
    ]
    return {**labels, "annotations": annotations}


def pick_category(
    categories: Iterable[Mapping[str, Any]], wanted: int | None, joints: Sequence[str]
) -> int:
    """The id of the one category that has as many joints as named, and the wanted id if any.

    A category that names no joints fits. ValueError where none fits, or several, or where the same
    joints stand in another order.
    """
    named = {category["id"]: tuple(category.get("keypoints") or joints) for category in categories}
    fitting = [
        number
        for number, names in named.items()
        if len(names) == len(joints) and wanted in (None, number)
    ]
    if len(fitting) != 1:
        counts = {number: len(names) for number, names in named.items()}
        raise ValueError(
            f"need one category of {len(joints)} joints, as the skeleton has"
            f"{'' if wanted is None else f', with id {wanted}'}; the annotations have "
            f"(id: joints) {counts}. Give another skeleton or category_id"
        )
    names = named[fitting[0]]
    if sorted(names) == sorted(joints) and names != tuple(joints):
        raise ValueError(f"the skeleton orders its joints {joints}; the annotations, {names}")
    return fitting[0]


def pick_images(known: Collection[int], wanted: Collection[int] | None) -> Collection[int]:
    """The images that count: all known ones, or the wanted, which must be among them."""
    if wanted is None:
        return list(known)
    if not len(wanted):
        raise ValueError("image_ids is empty; name the images that count, or give None for all")
    refuse(set(wanted) - set(known), "image_ids names images that the annotations do not have")
    return wanted


def completed(labels: Mapping[str, Any], category_id: int, joint_count: int) -> dict[str, Any]:
    """A copy with all that pycocotools reads, and people of the one category only.

    ValueError where area (square pixels) or bbox is missing, an area is 0, the joint count is
    another, or a number is not finite. Absent keypoints are unlabelled ones.
    """
    people = [person for person in labels["annotations"] if person["category_id"] == category_id]
    _refuse_without(
        "area",
        people,
        "OKS needs everybody's area in square pixels: that of the outline, or 0.53 times that of "
        "the box, as with_box_areas gives",
    )
    _refuse_without("bbox", people, "bbox is [x, y, width, height] in pixels")
    refuse(
        (p["id"] for p in people if len(p.get("keypoints") or ()) not in (0, 3 * joint_count)),
        f"keypoints must be [x, y, visibility] of {joint_count} joints. Wrong in annotations",
    )
    # Numbered anew, as pycocotools takes a match with annotation 0 for none.
    whole = [_whole(person, number, joint_count) for number, person in enumerate(people, 1)]
    refuse(
        (p["id"] for p, w in zip(people, whole) if w["num_keypoints"] and w["area"] <= 0),
        "an area of 0 makes every OKS 0; give it in square pixels. Annotations",
    )
    refuse(
        (
            p["id"]
            for p, w in zip(people, whole)
            if not _finite(w["keypoints"], w["area"], *w["bbox"])
        ),
        "keypoints, area and bbox must be finite. Annotations",
    )
    return {**labels, "annotations": whole}


def _whole(person: Mapping[str, Any], number: int, joint_count: int) -> dict[str, Any]:
    keypoints = person.get("keypoints") or [0] * (3 * joint_count)
    labelled = sum(flag > 0 for flag in keypoints[2::3])
    return {
        **{field: person[field] for field in ("image_id", "category_id", "bbox", "area")},
        "id": number,
        "iscrowd": person.get("iscrowd", 0),
        "num_keypoints": person.get("num_keypoints", labelled),
        "keypoints": keypoints,
    }


def indexed(labels: dict[str, Any]) -> COCO:
    """The annotations as pycocotools holds them; it keeps `labels` and will write into them."""
    index = COCO()
    index.dataset = labels
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def indexed_results(truth: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    """The results as pycocotools holds them, none included; the given ones stay as they are."""
    if not results:  # loadRes reads the first one
        return indexed({**truth.dataset, "annotations": []})
    # loadRes takes sizes from boxes if the first result has one, and then needs one of each.
    boxes = ("bbox",) if all(result.get("bbox") for result in results) else ()
    # It also writes into what it is given, hence the copies.
    return truth.loadRes([{f: r[f] for f in (*_RESULT_FIELDS, *boxes)} for r in results])


def refuse_wrong_results(
    results: Sequence[Mapping[str, Any]],
    images: Collection[int],
    category_id: int,
    joints: Sequence[str],
) -> None:
    """ValueError for what pycocotools would stumble over or count wrongly.

    That is: incomplete results, another category, images not in `images`, another joint count, NaN.
    """
    refuse(
        (n for n, result in enumerate(results) if not set(_RESULT_FIELDS) <= set(result)),
        f"a result needs {', '.join(_RESULT_FIELDS)}. Incomplete are numbers",
    )
    refuse(
        (result["category_id"] for result in results if result["category_id"] != category_id),
        f"the annotations' people have category_id {category_id}; write that into the results, or "
        "choose theirs. The results have",
    )
    refuse_unknown((result["image_id"] for result in results), images)
    refuse(
        (n for n, result in enumerate(results) if len(result["keypoints"]) != 3 * len(joints)),
        f"keypoints must be [x, y, score] of {len(joints)} joints. Wrong are results number",
    )
    refuse(
        (n for n, r in enumerate(results) if not _finite(r["keypoints"], r["score"])),
        "coordinates and scores must be finite, as pycocotools counts NaN as a match; look at the "
        "network's outputs, half precision first. Wrong are results number",
    )


def refuse_unknown(image_ids: Iterable[int], images: Collection[int]) -> None:
    """ValueError for image ids that are not in `images`."""
    refuse(
        (number for number in image_ids if number not in images),
        "the annotations lack images of the results; score results on their own split. Lacking",
    )


def _finite(numbers: Sequence[float], *more: float) -> bool:
    return bool(np.isfinite([*numbers, *more]).all())


def _refuse_without(field: str, people: Iterable[Mapping[str, Any]], cure: str) -> None:
    lacking = (person["id"] for person in people if person.get(field) is None)
    refuse(lacking, f"{cure}. No {field!r} in annotations")


def refuse(culprits: Iterable[Any], complaint: str, shown: int = 5) -> None:
    """ValueError with the complaint and the first few culprits, if there are any."""
    found = list(dict.fromkeys(culprits))
    if found:
        more = f" and {len(found) - shown} more" if len(found) > shown else ""
        raise ValueError(f"{complaint}: {', '.join(map(str, found[:shown]))}{more}")
