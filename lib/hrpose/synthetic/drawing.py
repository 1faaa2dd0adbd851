"""Drawing primitives on an image with an ID buffer, and people drawn with them.

People and objects are made of one primitive, the convex hull of a few discs. The image is
antialiased, the ID buffer is not, and corners are rounded to sixteenths of a pixel before filling:
the ID buffer, and every label computed from it, is the same on every machine.

Image frame: COCO's, pixel i covers [i, i + 1). Radii and depths of body parts: standing heights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from hrpose.synthetic.body import HEAD_RADIUS, SIDES, Colour, Disc, SyntheticPerson

IMAGE_SIZE = 512
BACKGROUND = 0  # the ID of every pixel without a person

_BONES = ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
PARTS = ("torso", "head", *(f"{side}_{bone}" for side in SIDES for bone in _BONES))
IDS_PER_PERSON = 16
"""Person n = 1, 2, ... has the IDs n * IDS_PER_PERSON + index into PARTS."""

_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates


class Canvas(NamedTuple):
    """An image and, for each pixel, the ID of what is visible there."""

    image: np.ndarray  # (IMAGE_SIZE, IMAGE_SIZE, 3) uint8 RGB
    ids: np.ndarray  # (IMAGE_SIZE, IMAGE_SIZE) uint16


class Shape(NamedTuple):
    """The convex hull of a few discs."""

    part: str  # of the body; "": a detail, without a contour or an ID of its own
    colour: Colour
    discs: Sequence[Disc]


class _Limb(NamedTuple):
    """What an arm and a leg differ in, from the trunk outwards; radii in standing heights."""

    joints: dict[str, float]  # radii of the flesh
    tips: dict[str, float]  # radii of the points of the hand or foot
    parts: dict[str, int]  # in the order of drawing: 0 next to the trunk, 2 the hand or foot
    colours: tuple[str, str]  # of the cloth and of the hand or foot
    patch: float  # radius of the patch on the middle joint
    band: tuple[float, float]  # the cuff's or sock's radius and where on the lower bone it starts


# fmt: off
_ARM = _Limb({"shoulder": 0.037, "elbow": 0.029, "wrist": 0.022}, {"hand": 0.028},
             {"hand": 2, "forearm": 1, "upper_arm": 0}, ("{}_top", "skin"), 0.02, (0.02, 0.88))
_LEG = _Limb({"hip": 0.05, "knee": 0.038, "ankle": 0.027}, {"heel": 0.024, "toe": 0.02},
             {"shin": 1, "foot": 2, "thigh": 0}, ("{}_leg", "{}_shoe"), 0.026, (0.024, 0.86))
# fmt: on


def _hull(discs: Sequence[Disc], grow: float = 0.0) -> np.ndarray:
    """The outline around all `discs`, each made `grow` larger: fixed-point corners (M, 1, 2)."""
    circles = np.array(discs)  # (N, 3)
    largest = circles[:, 2].max()
    corners = 12 if largest < 6 else 24 if largest < 40 else 48
    angle = np.arange(corners) * (2 * np.pi / corners)
    unit_circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (corners, 2)
    rim = circles[:, None, :2] + unit_circle * (circles[:, 2, None, None] + grow)
    fixed = np.rint((rim - 0.5) * (1 << _SHIFT)).astype(np.int32)  # (N, corners, 2)
    return cv2.convexHull(fixed.reshape(-1, 2))


def draw_hull(
    canvas: Canvas, discs: Sequence[Disc], colour: Colour, own: int = BACKGROUND, grow: float = 0.0
) -> None:
    """Draw the hull of `discs`, `grow` pixels larger, in front of everything so far; ID: `own`."""
    outline = _hull(discs, grow)
    cv2.fillConvexPoly(canvas.image, outline, colour, cv2.LINE_AA, _SHIFT)
    cv2.fillConvexPoly(canvas.ids, outline, own, cv2.LINE_8, _SHIFT)


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
    return tuple(max(0, min(255, round(channel * factor))) for channel in colour)


def draw_person(canvas: Canvas, person: SyntheticPerson, number: int) -> None:
    """Draw a person in front of everything so far, with the IDs of `number`.

    Farthest layer first (painter's algorithm): arms cross in front of or behind the trunk.
    """
    contour = tint(person.outfit.colours["right_top"], 0.45)
    width = min(max(0.6, 0.007 * person.unit), 2.2)
    for _, shapes in sorted(_layers(person), key=lambda layer: layer[0]):
        for part, _, discs in shapes:
            if part:
                own = number * IDS_PER_PERSON + PARTS.index(part)
                draw_hull(canvas, discs, contour, own, grow=width)
        for _, colour, discs in shapes:
            cv2.fillConvexPoly(canvas.image, _hull(discs), colour, cv2.LINE_AA, _SHIFT)


def _layers(person: SyntheticPerson) -> Iterator[tuple[float, list[Shape]]]:
    """Depths, and shapes of similar depth inside a common contour, followed by their details."""
    disc, colours, styles, girth = person.disc, *person.outfit
    hips = {side: [disc(0.044 * girth, f"{side}_hip"), disc(0.03, "pelvis")] for side in SIDES}
    yield -1.0, [Shape("torso", colours[f"{side}_leg"], hips[side]) for side in SIDES]
    yield 0.0, list(_torso(person))
    if styles["hair"] == "long":
        mane = [disc(0.98 * HEAD_RADIUS, "head"), disc(0.78 * HEAD_RADIUS, "neck")]
        depth = -0.14 if person.depth("nose", "head") > 0 else 0.01
        yield depth, [Shape("head", colours["hair"], mane)]
    yield 0.02, list(_head(person))
    for side in SIDES:
        reach = person.depth(f"{side}_elbow", "chest") + person.depth(f"{side}_wrist", "chest")
        yield 0.5 * reach + 0.03, _limb(person, side, _ARM, covered=styles["sleeves"] == "long")
        trousers = styles["bottoms"] == "trousers"
        yield person.depth(f"{side}_knee", "pelvis") - 0.1, _limb(person, side, _LEG, trousers)


def _torso(person: SyntheticPerson) -> Iterator[Shape]:
    """Neck, skirt and a jacket in two colours, with a neckline and zip in front, a yoke behind."""
    disc, colours, styles, girth = person.disc, *person.outfit
    yield Shape("torso", colours["skin"], [disc(0.03, "neck"), disc(0.03, "head")])
    if styles["bottoms"] == "skirt":
        left, right = ([disc(0.05, f"{side}_hip"), disc(0.055, f"{side}_hip", f"{side}_knee", 0.6)]
                       for side in SIDES)  # fmt: skip
        yield Shape("torso", colours["right_leg"], left + right)
        yield Shape("torso", colours["left_leg"], left)
    far, near = sorted(SIDES, key=lambda side: person.depth(f"{side}_shoulder", "chest"))
    flanks = {side: [disc(0.034, f"{side}_shoulder"), disc(0.038 * girth, f"{side}_waist")]
              for side in SIDES}  # fmt: skip
    jacket = [disc(0.068 * girth, "chest"), *flanks[far], *flanks[near]]
    yield Shape("torso", colours[f"{near}_top"], jacket)
    front = person.depth("chest_front", "chest") > 0
    seam = ("chest_front", "fly") if front else ("chest_back", "tail")
    fold = [disc(0.004, *seam, fraction) for fraction in (0.0, 0.9)]
    for side in (far, near):
        yield Shape("", colours[f"{side}_top"], flanks[side] + fold)
    if front:
        neckline = [disc(0.03, "neck"), disc(0.01, "neck", "chest_front", 0.8)]
        yield Shape("", colours["skin"], neckline)
        zipper = [disc(0.004, *seam, fraction) for fraction in (0.2, 0.9)]
        yield Shape("", tint(colours["right_top"], 0.6), zipper)
    else:
        yoke = [disc(0.014, "chest_back", f"{side}_shoulder", 0.6) for side in SIDES]
        yield Shape("", colours["accent"], yoke)
    belt = [disc(0.011, "left_waist", "right_waist", fraction) for fraction in (-0.2, 1.2)]
    yield Shape("", colours["accent"], belt)


def _limb(person: SyntheticPerson, side: str, limb: _Limb, covered: bool) -> list[Shape]:
    """Sleeve or trouser leg, hand or foot, patch on the elbow or knee, cuff or sock."""
    disc, colours, _, girth = person.disc, *person.outfit
    cloth, end = (colours[name.format(side)] for name in limb.colours)
    flesh = [disc(radius * girth, f"{side}_{joint}") for joint, radius in limb.joints.items()]
    tips = [disc(radius, f"{side}_{tip}") for tip, radius in limb.tips.items()]
    hulls = (flesh[:2], flesh[1:], tips)
    fills = (cloth, cloth if covered else colours["skin"], end)
    parts = [Shape(f"{side}_{part}", fills[i], hulls[i]) for part, i in limb.parts.items()]
    _, middle, outer = (f"{side}_{joint}" for joint in limb.joints)
    contrast = tint(cloth, 0.74 if sum(cloth) > 384 else 1.55)
    radius, start = limb.band
    band = [disc(radius * girth, middle, outer, fraction) for fraction in (start, 1.0)]
    trim = colours["accent" if covered else f"{side}_shoe"]
    return [*parts, Shape("", contrast, [disc(limb.patch, middle)]), Shape("", trim, band)]


def _head(person: SyntheticPerson) -> Iterator[Shape]:
    """Bun, jaw, hair, ears and face, only hair from behind; a cap's dome and its peak."""
    disc, r, (colours, styles, _) = person.disc, HEAD_RADIUS, person.outfit
    skin, hair, accent = colours["skin"], colours["hair"], colours["accent"]
    if styles["hair"] == "bun":
        yield Shape("head", hair, [disc(0.36 * r, "head", "crown", 1.4)])
    jaw = [disc(0.86 * r, "head"), disc(0.34 * r, "head", "chin", 0.9)]
    yield Shape("head", hair if person.faces_away() else skin, jaw)
    skull = [disc(0.92 * r, "head", "crown", 0.2), disc(0.7 * r, "head", "nape", 0.4)]
    yield Shape("head", hair, skull)
    for side in SIDES:
        if not person.hides(f"{side}_ear"):
            yield Shape("head", tint(skin, 0.93), [disc(0.19 * r, f"{side}_ear")])
    if not person.faces_away():
        yield from _face(person)
    if styles["hair"] == "cap":
        dome = [disc(0.12 * r, f"{side}_temple") for side in SIDES]
        dome.append(disc(0.42 * r, "head", "crown", 0.8))
        peak = [disc(0.06 * r, f"{side}_brow", f"{side}_temple", 0.3) for side in SIDES]
        peak.append(disc(0.12 * r, "peak"))
        cap = [Shape("", accent, dome), Shape("", tint(accent, 0.7), peak)]
        yield from cap if person.depth("peak", "head") > 0 else reversed(cap)  # the nearer last


def _face(person: SyntheticPerson) -> Iterator[Shape]:
    """Skin within the hair, beard, eyes, nose and mouth, where they are on the visible side."""
    disc, r, (colours, styles, _) = person.disc, HEAD_RADIUS, person.outfit
    skin, hair = colours["skin"], colours["hair"]
    spots = {"left_cheek": 0.46, "right_cheek": 0.46, "left_brow": 0.3, "right_brow": 0.3}
    flesh = [disc(radius * r, spot) for spot, radius in spots.items()
             if person.depth(spot, "head") > -0.05 * r]  # fmt: skip
    jaw = disc(0.32 * r, "head", "chin", 0.9)
    yield Shape("", skin, [*flesh, jaw])
    if styles["face"] == "beard":
        beard = [disc(0.24 * r, f"{side}_cheek", "chin", 0.45) for side in SIDES]
        yield Shape("", hair, [*beard, jaw])
    for side, other in zip(SIDES, reversed(SIDES)):
        eye = f"{side}_eye"
        if person.hides(eye):
            continue
        if styles["face"] == "glasses":
            yield Shape("", (40, 40, 52), [disc(0.29 * r, eye)])
        yield Shape("", (255, 255, 255), [disc(0.2 * r, eye)])
        yield Shape("", (36, 28, 30), [disc(0.125 * r, eye)])
        brow = [disc(0.055 * r, f"{side}_brow", f"{other}_brow", t) for t in (-0.18, 0.2)]
        yield Shape("", hair, brow)
    yield Shape("", tint(skin, 0.78), [disc(0.12 * r, "head", "nose", 0.96), disc(0.1 * r, "nose")])
    if person.depth("nose", "head") > 0.3 * r:
        lips = [disc(0.045 * r, f"{side}_{edge}") for side in SIDES for edge in ("smile", "lip")]
        yield Shape("", (190, 60, 66), lips)
