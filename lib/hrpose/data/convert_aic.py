"""AI Challenger's keypoints as COCO JSON.

Its files are lists of images: image_id, the file's name without .jpg; keypoint_annotations, name of
a person -> 14 times x, y, visibility; human_annotations, the same names -> box as two corners.
Source: Wu et al., AI Challenger, arXiv 1711.06475.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hrpose.data.convert import category_of, person_entries, refuse_entries, repeated_values
from hrpose.skeletons import AIC

COCO_VISIBILITY = np.array([0, 2, 1, 0])
"""By AI Challenger's: 1 visible, 2 labelled but hidden, 3 not labelled; it has no 0."""

BEYOND_IMAGES = 1e6
"""Pixels, more than any image has."""

AIC_CURE = "use the official keypoint_{train,validation}_annotations file, or correct the entries"


def aic_annotations(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """AI Challenger's images and people in COCO's format, in their order, ids from 1.

    The area is BOX_FILL of the box's, as there are no outlines. Joints that are not labelled become
    0, 0, 0. `human` keeps a person's name in its image, and images keep their `url`.
    Errors: ValueError with the images and people whose fields are absent, of a wrong type or size,
    whose corners are exchanged, or whose visibility is none of 1, 2 and 3
    """
    names = [entry.get("image_id") for entry in entries]
    odd = [n for n, name in enumerate(names) if not isinstance(name, str) or not name]
    refuse_entries(odd, "entries whose image_id is not a text", AIC_CURE)
    refuse_entries(repeated_values(names), "images that are listed more than once", AIC_CURE)
    people = list(_people(entries))
    labels = [f"{names[n]} {human}" for n, human, *_ in people]
    joints = _numbers([one[2] for one in people], 3 * len(AIC.joints), labels, "keypoints")
    joints = joints.reshape(-1, len(AIC.joints), 3)
    corners = _numbers([one[3] for one in people], 4, labels, "box corners")
    odd_flags = ~np.isin(joints[..., 2], (1, 2, 3)).all(axis=1)
    refuse_entries(
        [labels[n] for n in np.flatnonzero(odd_flags)],
        "people with a visibility other than 1 (visible), 2 (hidden) and 3 (not labelled)",
        f"{AIC_CURE}; files with COCO's 0, 1 and 2 need no conversion",
    )
    reversed_corners = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    refuse_entries(
        [labels[n] for n in np.flatnonzero(reversed_corners)],
        "people whose box is not left, top, right, bottom",
        f"{AIC_CURE}; x, y, width, height are no corners",
    )
    joints[..., 2] = COCO_VISIBILITY[joints[..., 2].astype(int)]
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    more = [{"human": human} for _, human, *_ in people]
    annotations = person_entries([n + 1 for n, *_ in people], joints, boxes, more)
    images = [
        {"id": n, "file_name": f"{name}.jpg"} | ({"url": entry["url"]} if "url" in entry else {})
        for n, (name, entry) in enumerate(zip(names, entries), 1)
    ]
    return {"images": images, "annotations": annotations, "categories": [category_of(AIC)]}


def _people(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Any, Any]]:
    """Number of the entry, name, keypoints and corners of every person.

    Errors: ValueError unless every entry has both of every person
    """
    pairs = [(e.get("keypoint_annotations"), e.get("human_annotations")) for e in entries]
    odd = [
        entry["image_id"]
        for entry, (joints, boxes) in zip(entries, pairs)
        if not isinstance(joints, dict) or not isinstance(boxes, dict) or {*joints} != {*boxes}
    ]
    refuse_entries(
        odd,
        "images whose keypoint_annotations and human_annotations are not of the same people",
        f"{AIC_CURE}; the challenge's files of results have no boxes",
    )
    for n, (joints, boxes) in enumerate(pairs):
        for human in joints:  # type: ignore[union-attr]
            yield n, human, joints[human], boxes[human]  # type: ignore[index]


def _numbers(rows: Sequence[Any], count: int, labels: Sequence[str], what: str) -> np.ndarray:
    """Rows of `count` finite numbers (P, count), float64; texts and booleans are none."""
    odd = [
        label
        for label, row in zip(labels, rows)
        if not isinstance(row, list)
        or len(row) != count
        or not {*map(type, row)} <= {int, float}
        or not all(abs(value) < BEYOND_IMAGES for value in row)
    ]
    refuse_entries(odd, f"people whose {what} are not {count} finite numbers", AIC_CURE)
    return np.array(rows, float).reshape(-1, count)
