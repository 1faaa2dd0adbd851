"""What a camera would see of drawn people, in the words of a COCO annotation file.

Areas, boxes, outlines and visibilities are counts over the owners of pixels; coordinates are
rounded to a hundredth of a pixel. No last bit of a sine can reach a label.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from hrpose.data.drawing.canvas import SIZE
from hrpose.data.drawing.figures import CODES, PART, Figure
from hrpose.data.drawing.heads import FAR_EAR, FAR_EYE
from hrpose.data.drawing.postures import HALF_HIPS, HALF_SHOULDERS, HEAD_RADIUS
from hrpose.skeletons import COCO

_SMALLEST_SEEN = 16
"""Pixels: a sliver below this is no person to an annotator."""

_SMALLEST_LABELLED = 32 * 32
"""Pixels: like COCO, people who show less carry an outline but no joints."""

_FAR_SIDE = 0.85  # a shoulder turned away by 58 degrees is behind the trunk
_BONES = {
    "shoulder": ("torso", "{side}_upper_arm"),
    "elbow": ("{side}_upper_arm", "{side}_forearm"),
    "wrist": ("{side}_forearm", "{side}_hand"),
    "hip": ("torso", "{side}_thigh"),
    "knee": ("{side}_thigh", "{side}_shin"),
    "ankle": ("{side}_shin", "{side}_foot"),
}


def annotate_person(
    figure: Figure, number: int, owner: np.ndarray, labelled: bool = True
) -> dict[str, Any] | None:
    """The annotation of figure `number`, None where next to nothing of it is seen.

    owner: (SIZE, SIZE) codes. Unless `labelled`, as in COCO, it has an outline but no joints.
    """
    mask = owner // CODES == number
    annotation = _outline(mask)
    if annotation is None:
        return None
    joints = np.zeros((len(COCO.joints), 3))
    if labelled and annotation["area"] >= _SMALLEST_LABELLED:
        joints = _joints(figure, number, owner)
    annotation["keypoints"] = [_plain(value) for value in joints.ravel()]
    annotation["num_keypoints"] = int((joints[:, 2] > 0).sum())
    return annotation


def annotate_crowd(number: int, owner: np.ndarray) -> dict[str, Any] | None:
    """One region for all who were drawn as `number`; None where there are none."""
    mask = owner // CODES == number
    annotation = _outline(mask)
    if annotation is None:
        return None
    return annotation | {
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
        "iscrowd": 1,
        "keypoints": [0] * (3 * len(COCO.joints)),
        "num_keypoints": 0,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts of `mask` (H, W) bool: column by column, unset pixels first."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[0], edges, [mask.size]])
    counts = np.diff(bounds)
    return [int(count) for count in (counts[:-1] if counts[-1] == 0 else counts)]


def _outline(mask: np.ndarray) -> dict[str, Any] | None:
    """Area, box and polygons of `mask` (H, W) bool."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    crop = mask[y : y + height, x : x + width].view(np.uint8)
    area = int(np.count_nonzero(crop))
    if area < _SMALLEST_SEEN:
        return None
    return {
        "area": area,
        "bbox": [x, y, width, height],
        "segmentation": _polygons(crop, (x, y)),
        "iscrowd": 0,
    }


def _polygons(crop: np.ndarray, corner: tuple[int, int]) -> list[list[float]]:
    """Outer outlines of a mask whose first pixel lies at `corner`.

    Traced at twice the size: a contour runs through the middle of the pixels at the edge, and so
    cuts off a quarter of a pixel instead of half.
    """
    double = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    simple = [cv2.approxPolyDP(contour, 1.0, closed=True) for contour in contours]  # half a pixel
    # Two corners enclose nothing; a splinter as thin as that is kept as it was traced.
    kept = [few if len(few) > 2 else traced for few, traced in zip(simple, contours)]
    outlines = [(contour.reshape(-1, 2) + 0.5) / 2 + corner for contour in kept]
    return [[float(value) for value in outline.ravel()] for outline in outlines]


def _joints(figure: Figure, number: int, owner: np.ndarray) -> np.ndarray:
    """(K, 3): x, y, visibility of COCO's joints."""
    counts = np.bincount(owner.ravel(), minlength=(number + 1) * CODES)
    shown = counts[number * CODES : (number + 1) * CODES] > 0  # by part
    joints = np.zeros((len(COCO.joints), 3))
    for joint, row in zip(COCO.joints, joints):
        x, y = (round(float(value), 2) for value in figure.points[joint][:2])
        if not (0 <= x < SIZE and 0 <= y < SIZE) or _unknowable(figure, joint):
            continue
        parts = _parts(joint)
        bare = int(owner[int(y), int(x)]) - number * CODES
        if bare in parts and not _turned_away(figure, joint, bare):
            row[:] = x, y, 2
        elif 0 <= bare < CODES or shown[parts].any():
            row[:] = x, y, 1
    return joints


def _parts(joint: str) -> list[int]:
    """The parts on which a joint is seen."""
    side, _, kind = joint.partition("_")
    names = _BONES.get(kind, ("head",))
    return [PART[name.format(side=side)] for name in names]


def _unknowable(figure: Figure, joint: str) -> bool:
    """Nobody places the eyes and the nose of a person who looks away."""
    away = figure.depth("nose", "head") < -0.25 * HEAD_RADIUS
    return away and ("eye" in joint or joint == "nose")


def _turned_away(figure: Figure, joint: str, part: int) -> bool:
    """Whether a joint lies behind the very part of its body that is seen there."""
    _, _, kind = joint.partition("_")
    if kind in ("eye", "ear"):
        limit = {"eye": FAR_EYE, "ear": FAR_EAR}[kind]
        return figure.depth(joint, "head") < limit * HEAD_RADIUS
    if kind in ("shoulder", "hip") and part == PART["torso"]:
        middle, half = {"shoulder": ("chest", HALF_SHOULDERS), "hip": ("pelvis", HALF_HIPS)}[kind]
        return figure.depth(joint, middle) < -_FAR_SIDE * half
    return False


def _plain(value: float) -> int | float:
    """A number as short as JSON writes it."""
    return int(value) if value == int(value) else round(float(value), 2)
