"""Drawn people: trunk and limbs, and how a whole person is painted.

All radii and lengths are in standing heights.
"""

from __future__ import annotations

from collections.abc import Iterator

from hrpose.data.drawing.canvas import Canvas, Colour, Disc, claim, hull, paint, tinted
from hrpose.data.drawing.figures import CODES, PART, Figure, Layer, Shape
from hrpose.data.drawing.heads import head_layers
from hrpose.data.drawing.postures import SIDES

_RADII = {"shoulder": 0.037, "elbow": 0.029, "wrist": 0.022, "hip": 0.05, "knee": 0.038,
          "ankle": 0.027}  # fmt: skip


def draw_figure(canvas: Canvas, figure: Figure, number: int) -> None:
    """Paint a person in front of everything so far, as the owner of `number`'s codes."""
    contour = tinted(figure.outfit.tops["right"], 0.45)
    width = min(max(0.6, 0.007 * figure.unit), 2.2)
    for layer in sorted(_layers(figure), key=lambda layer: layer.nearness):
        for piece in layer.shapes:
            outline = hull(piece.discs, width)
            paint(canvas, outline, contour)
            claim(canvas, outline, number * CODES + PART[piece.part])
        for piece in layer.shapes + layer.trims:
            paint(canvas, hull(piece.discs), piece.colour)


def _layers(figure: Figure) -> Iterator[Layer]:
    yield _hips(figure)
    yield _torso(figure)
    yield from head_layers(figure)
    for side, _ in SIDES:
        yield _arm(figure, side)
        yield _leg(figure, side)


def _hips(figure: Figure) -> Layer:
    """What shows between the jacket and the legs."""
    outfit = figure.outfit
    shapes = [
        Shape("torso", [figure.disc(f"{side}_hip", 0.044 * outfit.girth),
                        figure.disc("pelvis", 0.03)], outfit.legs[side])
        for side, _ in SIDES
    ]  # fmt: skip
    return Layer(-1.0, shapes, [])


def _torso(figure: Figure) -> Layer:
    """Neck and a jacket of two colours, with a collar in front or a yoke behind."""
    outfit = figure.outfit
    front = figure.depth("chest_front", "chest") > 0
    far, near = sorted(
        ("left", "right"), key=lambda side: figure.depth(f"{side}_shoulder", "chest")
    )
    chest = figure.disc("chest", 0.068 * outfit.girth)
    jacket = [chest, *_flank(figure, far), *_flank(figure, near)]
    shapes = [
        Shape("torso", [figure.disc("neck", 0.03), figure.disc("head", 0.03)], outfit.skin),
        *(_skirt(figure) if outfit.bottoms == "skirt" else []),
        Shape("torso", jacket, outfit.tops[near]),
    ]
    seam = ("chest_front", "fly") if front else ("chest_back", "tail")
    fold = [figure.along(seam, part, 0.004) for part in (0.0, 0.9)]
    halves = [Shape("torso", _flank(figure, s) + fold, outfit.tops[s]) for s in (far, near)]
    details = _collar(figure) if front else _yoke(figure)
    return Layer(0.0, shapes, [*halves, *details, _belt(figure)])


def _flank(figure: Figure, side: str) -> list[Disc]:
    """The outer edge of one half of the jacket."""
    girth = figure.outfit.girth
    return [figure.disc(f"{side}_shoulder", 0.034), figure.disc(f"{side}_waist", 0.038 * girth)]


def _collar(figure: Figure) -> list[Shape]:
    """Skin in the neckline and a zip down the front."""
    neckline = [figure.disc("neck", 0.03), figure.along(("neck", "chest_front"), 0.8, 0.01)]
    zipper = [figure.along(("chest_front", "fly"), part, 0.004) for part in (0.2, 0.9)]
    return [
        Shape("torso", neckline, figure.outfit.skin),
        Shape("torso", zipper, tinted(figure.outfit.tops["right"], 0.6)),
    ]


def _yoke(figure: Figure) -> list[Shape]:
    """A bar across the shoulder blades."""
    ends = [figure.along(("chest_back", f"{side}_shoulder"), 0.6, 0.014) for side, _ in SIDES]
    return [Shape("torso", ends, figure.outfit.accent)]


def _belt(figure: Figure) -> Shape:
    """A band around the hem of the jacket, just above the hips."""
    ends = [figure.along(("left_waist", "right_waist"), part, 0.011) for part in (-0.2, 1.2)]
    return Shape("torso", ends, figure.outfit.accent)


def _skirt(figure: Figure) -> list[Shape]:
    """Cloth over both thighs, lighter on the left."""
    panels = {
        side: [figure.disc(f"{side}_hip", 0.05),
               figure.along((f"{side}_hip", f"{side}_knee"), 0.6, 0.055)]
        for side, _ in SIDES
    }  # fmt: skip
    legs = figure.outfit.legs
    return [
        Shape("torso", panels["left"] + panels["right"], legs["right"]),
        Shape("torso", panels["left"], legs["left"]),
    ]


def _arm(figure: Figure, side: str) -> Layer:
    """Sleeve, patch on the elbow, cuff and hand."""
    outfit = figure.outfit
    shoulder, elbow, wrist = (f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist"))
    long, cloth = outfit.sleeves == "long", outfit.tops[side]
    joints = {joint: _round(figure, side, joint) for joint in ("shoulder", "elbow", "wrist")}
    shapes = [
        Shape(f"{side}_hand", [figure.disc(f"{side}_hand", 0.028)], outfit.skin),
        Shape(f"{side}_forearm", [joints["elbow"], joints["wrist"]],
               cloth if long else outfit.skin),
        Shape(f"{side}_upper_arm", [joints["shoulder"], joints["elbow"]], cloth),
    ]  # fmt: skip
    cuff = [figure.along((elbow, wrist), part, 0.02 * outfit.girth) for part in (0.88, 1.0)]
    trims = [
        Shape(f"{side}_forearm", [figure.disc(elbow, 0.02)], _patch(cloth)),
        Shape(f"{side}_forearm", cuff, outfit.accent if long else outfit.shoes[side]),
    ]
    nearness = 0.5 * (figure.depth(elbow, "chest") + figure.depth(wrist, "chest")) + 0.03
    return Layer(nearness, shapes, trims)


def _leg(figure: Figure, side: str) -> Layer:
    """Thigh and shin, patch on the knee, sock and shoe."""
    outfit = figure.outfit
    knee, ankle = f"{side}_knee", f"{side}_ankle"
    cloth, shoe = outfit.legs[side], outfit.shoes[side]
    covered = outfit.bottoms == "trousers"
    joints = {joint: _round(figure, side, joint) for joint in ("hip", "knee", "ankle")}
    foot = [figure.disc(f"{side}_heel", 0.024), figure.disc(f"{side}_toe", 0.02)]
    shapes = [
        Shape(f"{side}_shin", [joints["knee"], joints["ankle"]], cloth if covered else outfit.skin),
        Shape(f"{side}_foot", foot, shoe),
        Shape(f"{side}_thigh", [joints["hip"], joints["knee"]], cloth),
    ]
    sock = [figure.along((knee, ankle), part, 0.024 * outfit.girth) for part in (0.86, 1.0)]
    trims = [
        Shape(f"{side}_shin", [figure.disc(knee, 0.026)], _patch(cloth)),
        Shape(f"{side}_shin", sock, outfit.accent if covered else shoe),
    ]
    return Layer(figure.depth(knee, "pelvis") - 0.1, shapes, trims)


def _round(figure: Figure, side: str, joint: str) -> Disc:
    """The disc of flesh and cloth about a joint."""
    return figure.disc(f"{side}_{joint}", _RADII[joint] * figure.outfit.girth)


def _patch(cloth: Colour) -> Colour:
    """A colour that shows on `cloth`."""
    return tinted(cloth, 0.74 if sum(cloth) > 384 else 1.55)
