"""Scenes: who is in one, where they stand, what occludes them, and their COCO annotations.

Areas, boxes, outlines and visibilities are counts over the ID buffer; coordinates are rounded to a
hundredth of a pixel. The last bit of a sine cannot change a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from hrpose.skeletons import COCO
from hrpose.synthetic import body, drawing
from hrpose.synthetic.body import SyntheticPerson, weighted_choice
from hrpose.synthetic.drawing import IDS_PER_PERSON, IMAGE_SIZE, PARTS, Canvas
from hrpose.synthetic.scenery import (
    Geometry,
    add_texture,
    draw_object,
    draw_place,
    sample_object,
)

SHORTEST, TALLEST = 32, 400  # pixels from the highest point of a body to the lowest
CROWD_NUMBER = 13  # the number, after the last person's, of all people of a crowd

_COUNT_WEIGHTS = dict(enumerate((4, 16, 20, 18, 14, 9, 6, 4, 3, 2, 2, 1, 1)))  # number of people
_HEIGHTS = ((0.0, 0.08, 0.5, 0.9, 1.0), (SHORTEST, 90, 195, 335, TALLEST))  # quantiles
_CROWD_SHARE, _UNLABELLED_SHARE, _TRUNCATED_SHARE = 0.12, 0.04, 0.1

_MIN_AREA, _MIN_LABELLED_AREA = 16, 32 * 32
"""Visible pixels below which a person is not annotated, or, as in COCO, has no joints."""

_BONES = {  # the parts on which a joint is visible; every other joint: the head
    "shoulder": ("torso", "{side}_upper_arm"), "elbow": ("{side}_upper_arm", "{side}_forearm"),
    "wrist": ("{side}_forearm", "{side}_hand"), "hip": ("torso", "{side}_thigh"),
    "knee": ("{side}_thigh", "{side}_shin"), "ankle": ("{side}_shin", "{side}_foot"),
}  # fmt: skip
Ground = Callable[[float], float]
"""y at the feet of a standing person who appears that many pixels tall."""


class Scene(NamedTuple):
    """A finished image and the people in it."""

    canvas: Canvas
    people: list[SyntheticPerson]  # person n has the number n + 1 in the ID buffer
    labelled: list[bool]  # False: an outline, but no joints


class StandingObject(NamedTuple):
    """An object and where it stands: x, y in pixels at its foot."""

    x: float
    y: float
    height: float  # pixels of a person who would stand there
    half_shadow: float
    shapes: list[tuple[body.Colour, Geometry]]

    def draw(self, canvas: Canvas) -> None:
        """Draw it in front of everything so far, with its shadow."""
        reach = self.half_shadow * self.height
        radii = (reach, min(0.2 * reach, 0.06 * self.height))
        drawing.draw_shadow(canvas, (self.x, self.y), radii)
        draw_object(canvas, self.shapes, self.x, self.y, self.height)


def sample_ground(rng: Generator) -> tuple[float, Ground]:
    """y of the horizon, and the ground below it."""
    horizon, slope = 150 + 100 * rng.random(), 0.6 + 0.3 * rng.random()
    return horizon, lambda height: horizon + slope * height


def sample_standing(
    names: Sequence[str], ground: Ground, height: float, rng: Generator
) -> StandingObject:
    """One of the objects `names`, anywhere along x."""
    x, y = float(rng.random()) * IMAGE_SIZE, ground(height)
    half_shadow, shapes = sample_object(names, np.random.default_rng(rng.integers(1 << 32)))
    return StandingObject(x, y, height, half_shadow, shapes)


def draw_in_order(
    canvas: Canvas, people: Sequence[SyntheticPerson], objects: Sequence[StandingObject]
) -> None:
    """Draw people and objects from back to front (painter's algorithm)."""
    drawings: list[tuple[float, Callable[[], None]]] = [
        (person.lowest(), partial(_draw_on_ground, canvas, person, number))
        for number, person in enumerate(people, start=1)
    ]
    drawings += [(each.y, partial(each.draw, canvas)) for each in objects]
    for _, draw in sorted(drawings, key=lambda item: item[0]):
        draw()


def compose_scene(rng: Generator) -> Scene:
    """Draw a scene of people and objects at random."""
    horizon, ground = sample_ground(rng)
    people = _sample_people(ground, rng)
    labelled = [bool(rng.random() >= _UNLABELLED_SHARE) for _ in people]
    canvas, names = draw_place(horizon, rng)
    if rng.random() < _CROWD_SHARE:
        _draw_crowd(canvas, ground, rng)
    objects = [  # mostly far enough to stand behind people
        sample_standing(names, ground, 40 + 220 * float(rng.random()) ** 2, rng)
        for _ in range(int(rng.integers(3, 11)))
    ]
    draw_in_order(canvas, people, objects)
    add_texture(canvas, rng)
    return Scene(canvas, people, labelled)


def _sample_people(ground: Ground, rng: Generator) -> list[SyntheticPerson]:
    """The people of a scene; each stands at the least crowded of three places."""
    people: list[SyntheticPerson] = []

    def crowding(x: float) -> float:
        distances = ((abs(x - float(each.points["pelvis"][0])), each.unit) for each in people)
        return sum(max(0.0, 1 - distance / (0.2 * (height + unit))) for distance, unit in distances)

    count = weighted_choice(_COUNT_WEIGHTS, rng)
    for _ in range(count):
        height = float(np.interp(rng.random(), *_HEIGHTS)) * (0.75 if count > 6 else 1.0)
        height, x = max(height, SHORTEST), min(rng.random(3) * (IMAGE_SIZE + 20) - 10, key=crowding)
        posture = body.sample_posture(rng)
        top, soles = body.body_extent(posture[1])
        unit = min(max(height, SHORTEST / (soles - top)), TALLEST / (soles - top))
        feet = ground(unit) + 0.05 * height * (rng.random() - 0.5)
        if rng.random() < _TRUNCATED_SHARE:
            feet += unit * (0.1 + 0.4 * rng.random())  # too near to be seen whole
        if posture[0] == "jumping":
            feet -= 0.08 * unit
        outfit = body.sample_outfit(rng)
        people.append(body.place_person(posture, outfit, unit, float(x), feet))
    return people


def _draw_on_ground(canvas: Canvas, person: SyntheticPerson, number: int) -> None:
    """Draw a person, the shadow below and the seat of a sitting one."""
    x, y, _ = (float(value) for value in person.points["pelvis"])
    feet, unit = person.lowest(), person.unit
    drawing.draw_shadow(canvas, (x, feet), (0.2 * unit, 0.045 * unit))
    if person.stance == "sitting":
        left, top, right = x - 0.13 * unit, y + 0.03 * unit, x + 0.13 * unit
        drawing.draw_box(canvas, (left, top, right, feet), (112, 82, 60))
        drawing.draw_box(canvas, (left, top, right, top + 0.04 * unit), (160, 122, 88))
    drawing.draw_person(canvas, person, number)


def _draw_crowd(canvas: Canvas, ground: Ground, rng: Generator) -> None:
    """A distant group of small people, who share one number."""
    middle = 60 + (IMAGE_SIZE - 120) * rng.random()
    for nearness in np.sort(rng.random(int(rng.integers(6, 13)))):
        height = 34 + 16 * nearness
        x = middle + 90 * (rng.random() - 0.5)
        posture, outfit = body.sample_posture(rng), body.sample_outfit(rng)
        person = body.place_person(posture, outfit, height, x, ground(height))
        drawing.draw_person(canvas, person, CROWD_NUMBER)


def annotate_scene(scene: Scene, joints: Sequence[str] = COCO.joints) -> list[dict[str, Any]]:
    """COCO annotations, without ids, of the visible people and of the crowd.

    joints: which of COCO's to annotate, in this order
    """
    return [annotation for _, annotation in annotate_people(scene, joints)]


def annotate_people(scene: Scene, joints: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers in the ID buffer, and annotations as by `annotate_scene`."""
    ids = scene.canvas.ids
    for number in (*range(1, len(scene.people) + 1), CROWD_NUMBER):
        mask = ids // IDS_PER_PERSON == number
        if (annotation := _annotate_mask(mask)) is None:
            continue
        keypoints = np.zeros((len(joints), 3), int)
        if number == CROWD_NUMBER:
            outline = {"size": list(mask.shape), "counts": run_lengths(mask)}
            annotation |= {"segmentation": outline, "iscrowd": 1}
        elif scene.labelled[number - 1] and annotation["area"] >= _MIN_LABELLED_AREA:
            keypoints = _keypoints(scene.people[number - 1], number, ids, joints)
        annotation["keypoints"] = keypoints.ravel().tolist()
        annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
        yield number, annotation


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE of `mask` (H, W) bool: column by column, starting with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    counts: list[int] = np.diff(edges, prepend=0, append=flat.size).tolist()
    return counts


def _annotate_mask(mask: np.ndarray) -> dict[str, Any] | None:
    """Area, box and polygons of `mask` (H, W) bool; None where it is too small.

    Contours are traced at twice the size: they run through the centres of the border pixels, and so
    cut off a quarter of a pixel instead of half.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    crop = mask[y : y + height, x : x + width].view(np.uint8)
    area = int(np.count_nonzero(crop))
    if area < _MIN_AREA:
        return None
    double = cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        simplified = cv2.approxPolyDP(contour, 1.0, closed=True)  # by half a pixel at most
        # Two corners enclose nothing: a sliver as thin as that keeps its traced contour.
        corners = (simplified if len(simplified) > 2 else contour).reshape(-1, 2)
        polygons.append(((corners + 0.5) / 2 + (x, y)).ravel().tolist())
    return {"area": area, "bbox": [x, y, width, height], "segmentation": polygons, "iscrowd": 0}


def _keypoints(
    person: SyntheticPerson, number: int, ids: np.ndarray, joints: Sequence[str]
) -> np.ndarray:
    """(K, 3): x, y, COCO visibility: 2 visible, 1 occluded, 0 not labelled.

    A joint occluded by another person or an object is labelled if one of its parts shows anywhere.
    """
    counts = np.bincount(ids.ravel(), minlength=(number + 1) * IDS_PER_PERSON)
    shown = counts[number * IDS_PER_PERSON : (number + 1) * IDS_PER_PERSON] > 0  # by part
    keypoints = np.zeros((len(joints), 3))
    for joint, row in zip(joints, keypoints):
        x, y = (round(float(value), 2) + 0.0 for value in person.points[joint][:2])  # no -0.0
        if not (0 <= x < IMAGE_SIZE and 0 <= y < IMAGE_SIZE):
            continue
        if person.faces_away() and ("eye" in joint or joint == "nose"):
            continue  # an annotator cannot place them
        side, _, kind = joint.partition("_")
        parts = [PARTS.index(part.format(side=side)) for part in _BONES.get(kind, ("head",))]
        part = int(ids[int(y), int(x)]) - number * IDS_PER_PERSON
        if part in parts and not (PARTS[part] in ("torso", "head") and person.hides(joint)):
            row[:] = x, y, 2
        elif 0 <= part < IDS_PER_PERSON or shown[parts].any():
            row[:] = x, y, 1
    return keypoints
