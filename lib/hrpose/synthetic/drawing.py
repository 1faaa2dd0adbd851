"""Drawing primitives on an image with an ID buffer, and people drawn with them.

People and objects are made of one primitive, the convex hull of a few discs. The image is
antialiased, the ID buffer is not, and corners are rounded to sixteenths of a pixel before filling:
the ID buffer, and every label computed from it, is the same on every machine.

Image frame: COCO's, pixel i covers [i, i + 1). Radii and depths of body parts: standing heights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from hrpose.synthetic.body import HEAD_RADIUS, SIDES, Colour, Disc, SyntheticPerson

IMAGE_SIZE = 512
BACKGROUND = 0
"""The ID of every pixel without a person."""

_BONES = ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
PARTS = ("torso", "head", *(f"{side}_{bone}" for side in SIDES for bone in _BONES))
IDS_PER_PERSON = 16
"""Person n = 1, 2, ... has the IDs n * IDS_PER_PERSON + index into PARTS."""

FAR_EAR, FAR_EYE = -0.62, 0.05
"""An ear or eye is hidden at this depth, in head radii, relative to the centre of the head."""

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
_FLESH = {"shoulder": 0.037, "elbow": 0.029, "wrist": 0.022,
          "hip": 0.05, "knee": 0.038, "ankle": 0.027}  # fmt: skip


class Canvas(NamedTuple):
    """An image and, for each pixel, the ID of what is visible there."""

    image: np.ndarray  # (IMAGE_SIZE, IMAGE_SIZE, 3) uint8 RGB
    ids: np.ndarray  # (IMAGE_SIZE, IMAGE_SIZE) uint16


class Shape(NamedTuple):
    """The hull of a few discs, belonging to a part of the body."""

    part: str
    discs: Sequence[Disc]
    colour: Colour


class Layer(NamedTuple):
    """Shapes of similar depth inside a common contour, and details on top, without a contour."""

    depth: float
    shapes: list[Shape]
    details: list[Shape]


@lru_cache(maxsize=4)
def _circle(corners: int) -> np.ndarray:
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (corners, 2)


def _hull(discs: Sequence[Disc], grow: float = 0.0) -> np.ndarray:
    """The outline around all `discs`, each made `grow` larger: fixed-point corners (M, 1, 2)."""
    circles = np.array(discs)  # (N, 3)
    largest = circles[:, 2].max()
    unit_circle = _circle(12 if largest < 6 else 24 if largest < 40 else 48)
    rim = circles[:, None, :2] + unit_circle * (circles[:, 2, None, None] + grow)
    fixed = np.rint((rim - 0.5) * (1 << _SHIFT)).astype(np.int32)  # (N, corners, 2)
    return cv2.convexHull(fixed.reshape(-1, 2))


def draw_hull(canvas: Canvas, discs: Sequence[Disc], colour: Colour) -> None:
    """Draw the hull of `discs` in front of everything so far, as background."""
    outline = _hull(discs)
    cv2.fillConvexPoly(canvas.image, outline, colour, cv2.LINE_AA, _SHIFT)
    cv2.fillConvexPoly(canvas.ids, outline, BACKGROUND, cv2.LINE_8, _SHIFT)


def draw_box(canvas: Canvas, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Draw an upright rectangle x0, y0, x1, y1 in front of everything so far, as background."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    cv2.rectangle(canvas.image, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)
    cv2.rectangle(canvas.ids, (x0, y0), (x1 - 1, y1 - 1), BACKGROUND, cv2.FILLED)


def draw_shadow(canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """Darken an ellipse of the ground."""
    (x, y), (rx, ry) = centre, radii
    left, top = max(int(x - rx), 0), max(int(y - ry), 0)
    patch = canvas.image[top : int(y + ry) + 2, left : int(x + rx) + 2]
    if patch.size:
        axes = (max(round(rx * 16), 1), max(round(ry * 16), 1))
        middle = (round((x - left - 0.5) * 16), round((y - top - 0.5) * 16))
        dark = patch.copy()
        cv2.ellipse(dark, middle, axes, 0, 0, 360, (30, 34, 48), -1, cv2.LINE_AA, _SHIFT)
        cv2.addWeighted(dark, 0.32, patch, 0.68, 0, dst=patch)


def tint(colour: Colour, factor: float) -> Colour:
    """`colour` made lighter (factor above 1) or darker (below)."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


def draw_person(canvas: Canvas, person: SyntheticPerson, number: int) -> None:
    """Draw a person in front of everything so far, with the IDs of `number`: farthest layer first.

    Limbs are sorted by depth (painter's algorithm), so that arms cross in front of or behind the
    trunk.
    """
    contour = tint(person.outfit.tops["right"], 0.45)
    width = min(max(0.6, 0.007 * person.unit), 2.2)
    for layer in sorted(_layers(person), key=lambda layer: layer.depth):
        for shape in layer.shapes:
            outline, part_id = _hull(shape.discs, width), PARTS.index(shape.part)
            cv2.fillConvexPoly(canvas.image, outline, contour, cv2.LINE_AA, _SHIFT)
            part_id += number * IDS_PER_PERSON
            cv2.fillConvexPoly(canvas.ids, outline, part_id, cv2.LINE_8, _SHIFT)
        for shape in layer.shapes + layer.details:
            outline = _hull(shape.discs)
            cv2.fillConvexPoly(canvas.image, outline, shape.colour, cv2.LINE_AA, _SHIFT)


def _layers(person: SyntheticPerson) -> Iterator[Layer]:
    yield _hips(person)
    yield _torso(person)
    yield from _head(person)
    for side in SIDES:
        yield _arm(person, side)
        yield _leg(person, side)


def _hips(person: SyntheticPerson) -> Layer:
    """What is visible between the jacket and the legs, behind everything else."""
    disc, outfit = person.disc, person.outfit
    halves = [
        Shape("torso", [disc(f"{side}_hip", 0.044 * outfit.girth), disc("pelvis", 0.03)],
              outfit.legs[side])
        for side in SIDES
    ]  # fmt: skip
    return Layer(-1.0, halves, [])


def _torso(person: SyntheticPerson) -> Layer:
    """Neck, skirt and a jacket in two colours, with a neckline and zip in front, a yoke behind."""
    disc, between, outfit = person.disc, person.disc_between, person.outfit
    skin, tops, girth = outfit.skin, outfit.tops, outfit.girth
    front = person.depth("chest_front", "chest") > 0
    far, near = sorted(SIDES, key=lambda side: person.depth(f"{side}_shoulder", "chest"))
    flanks = {side: [disc(f"{side}_shoulder", 0.034), disc(f"{side}_waist", 0.038 * girth)]
              for side in SIDES}  # fmt: skip
    shapes = [Shape("torso", [disc("neck", 0.03), disc("head", 0.03)], skin)]
    if outfit.bottoms == "skirt":
        left, right = (
            [disc(f"{side}_hip", 0.05), between(f"{side}_hip", f"{side}_knee", 0.6, 0.055)]
            for side in SIDES
        )
        shapes += [Shape("torso", left + right, outfit.legs["right"]),
                   Shape("torso", left, outfit.legs["left"])]  # fmt: skip
    jacket = [disc("chest", 0.068 * girth), *flanks[far], *flanks[near]]
    shapes.append(Shape("torso", jacket, tops[near]))

    seam = ("chest_front", "fly") if front else ("chest_back", "tail")
    fold = [between(*seam, fraction, 0.004) for fraction in (0.0, 0.9)]
    details = [Shape("torso", flanks[side] + fold, tops[side]) for side in (far, near)]
    if front:
        neckline = [disc("neck", 0.03), between("neck", "chest_front", 0.8, 0.01)]
        zipper = [between(*seam, fraction, 0.004) for fraction in (0.2, 0.9)]
        details += [Shape("torso", neckline, skin),
                    Shape("torso", zipper, tint(tops["right"], 0.6))]  # fmt: skip
    else:
        yoke = [between("chest_back", f"{side}_shoulder", 0.6, 0.014) for side in SIDES]
        details.append(Shape("torso", yoke, outfit.accent))
    belt = [between("left_waist", "right_waist", fraction, 0.011) for fraction in (-0.2, 1.2)]
    return Layer(0.0, shapes, [*details, Shape("torso", belt, outfit.accent)])


def _arm(person: SyntheticPerson, side: str) -> Layer:
    """Sleeve, patch on the elbow, cuff and hand."""
    outfit = person.outfit
    elbow, wrist = f"{side}_elbow", f"{side}_wrist"
    long, sleeve = outfit.sleeves == "long", outfit.tops[side]
    ends = [_flesh(person, side, joint) for joint in ("shoulder", "elbow", "wrist")]
    shapes = [
        Shape(f"{side}_hand", [person.disc(f"{side}_hand", 0.028)], outfit.skin),
        Shape(f"{side}_forearm", ends[1:], sleeve if long else outfit.skin),
        Shape(f"{side}_upper_arm", ends[:2], sleeve),
    ]
    cuff = [person.disc_between(elbow, wrist, t, 0.02 * outfit.girth) for t in (0.88, 1.0)]
    details = [
        Shape(f"{side}_forearm", [person.disc(elbow, 0.02)], _patch_colour(sleeve)),
        Shape(f"{side}_forearm", cuff, outfit.accent if long else outfit.shoes[side]),
    ]
    depth = 0.5 * (person.depth(elbow, "chest") + person.depth(wrist, "chest")) + 0.03
    return Layer(depth, shapes, details)


def _leg(person: SyntheticPerson, side: str) -> Layer:
    """Thigh and shin, patch on the knee, sock and shoe."""
    outfit = person.outfit
    knee, ankle = f"{side}_knee", f"{side}_ankle"
    trousers, cloth, shoe = outfit.bottoms == "trousers", outfit.legs[side], outfit.shoes[side]
    ends = [_flesh(person, side, joint) for joint in ("hip", "knee", "ankle")]
    foot = [person.disc(f"{side}_heel", 0.024), person.disc(f"{side}_toe", 0.02)]
    shapes = [
        Shape(f"{side}_shin", ends[1:], cloth if trousers else outfit.skin),
        Shape(f"{side}_foot", foot, shoe),
        Shape(f"{side}_thigh", ends[:2], cloth),
    ]
    sock = [person.disc_between(knee, ankle, t, 0.024 * outfit.girth) for t in (0.86, 1.0)]
    details = [
        Shape(f"{side}_shin", [person.disc(knee, 0.026)], _patch_colour(cloth)),
        Shape(f"{side}_shin", sock, outfit.accent if trousers else shoe),
    ]
    return Layer(person.depth(knee, "pelvis") - 0.1, shapes, details)


def _flesh(person: SyntheticPerson, side: str, joint: str) -> Disc:
    """The disc of flesh and cloth about a joint."""
    return person.disc(f"{side}_{joint}", _FLESH[joint] * person.outfit.girth)


def _patch_colour(cloth: Colour) -> Colour:
    """A colour that contrasts with `cloth`."""
    return tint(cloth, 0.74 if sum(cloth) > 384 else 1.55)


def _head(person: SyntheticPerson) -> Iterator[Layer]:
    """Hair, ears, face and cap; only hair from behind."""
    disc, between, r = person.disc, person.disc_between, HEAD_RADIUS
    skin, hair, style = person.outfit.skin, person.outfit.hair, person.outfit.hairstyle
    facing = person.depth("nose", "head") / r
    has_face = facing > -0.25
    if style == "long":
        mane = [disc("head", 0.98 * r), between("head", "neck", 1.0, 0.78 * r)]
        yield Layer(-0.14 if facing > 0 else 0.01, [Shape("head", mane, hair)], [])
    shapes = [Shape("head", [between("head", "crown", 1.4, 0.36 * r)], hair)] * (style == "bun")
    jaw = [disc("head", 0.86 * r), between("head", "chin", 0.9, 0.34 * r)]
    skull = [between("head", "crown", 0.2, 0.92 * r), between("head", "nape", 0.4, 0.7 * r)]
    shapes += [Shape("head", jaw, skin if has_face else hair), Shape("head", skull, hair)]
    for ear in (f"{side}_ear" for side in SIDES):
        if person.depth(ear, "head") > FAR_EAR * r:
            shapes.append(Shape("head", [disc(ear, 0.19 * r)], tint(skin, 0.93)))
    details = _face(person, facing) if has_face else []
    if style == "cap":
        details += _cap(person)
    yield Layer(0.02, shapes, details)


def _face(person: SyntheticPerson, facing: float) -> list[Shape]:
    """Skin within the hair, beard, eyes, nose and mouth, where they are on the visible side."""
    disc, between, r = person.disc, person.disc_between, HEAD_RADIUS
    skin, hair, kind = person.outfit.skin, person.outfit.hair, person.outfit.face
    spots = [(f"{side}_{spot}", radius) for spot, radius in (("cheek", 0.46), ("brow", 0.3))
             for side in SIDES]  # fmt: skip
    flesh = [disc(spot, radius * r) for spot, radius in spots
             if person.depth(spot, "head") > -0.05 * r]  # fmt: skip
    jaw = between("head", "chin", 0.9, 0.32 * r)
    shapes = [Shape("head", [*flesh, jaw], skin)]
    if kind == "beard":
        beard = [between(f"{side}_cheek", "chin", 0.45, 0.24 * r) for side in SIDES]
        shapes.append(Shape("head", [*beard, jaw], hair))
    for eye, own, other in (("left_eye", "left_brow", "right_brow"),
                            ("right_eye", "right_brow", "left_brow")):  # fmt: skip
        if person.depth(eye, "head") >= FAR_EYE * r:
            brow = [between(own, other, fraction, 0.055 * r) for fraction in (-0.18, 0.2)]
            if kind == "glasses":
                shapes.append(Shape("head", [disc(eye, 0.29 * r)], (40, 40, 52)))
            shapes += [Shape("head", [disc(eye, 0.2 * r)], (255, 255, 255)),
                       Shape("head", [disc(eye, 0.125 * r)], (36, 28, 30)),
                       Shape("head", brow, hair)]  # fmt: skip
    nose = [between("head", "nose", 0.96, 0.12 * r), disc("nose", 0.1 * r)]
    shapes.append(Shape("head", nose, tint(skin, 0.78)))
    if facing > 0.3:
        lips = [disc(f"{side}_{edge}", 0.045 * r) for side in SIDES for edge in ("smile", "lip")]
        shapes.append(Shape("head", lips, (190, 60, 66)))
    return shapes


def _cap(person: SyntheticPerson) -> list[Shape]:
    """A dome and its peak, the nearer one last."""
    r, accent = HEAD_RADIUS, person.outfit.accent
    dome = [person.disc(f"{side}_temple", 0.12 * r) for side in SIDES]
    dome.append(person.disc_between("head", "crown", 0.8, 0.42 * r))
    peak = [person.disc_between(f"{s}_brow", f"{s}_temple", 0.3, 0.06 * r) for s in SIDES]
    peak.append(person.disc("peak", 0.12 * r))
    shapes = [Shape("head", dome, accent), Shape("head", peak, tint(accent, 0.7))]
    return shapes if person.depth("peak", "head") > 0 else shapes[::-1]
