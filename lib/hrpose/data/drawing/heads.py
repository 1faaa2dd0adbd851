"""The head of a drawn person: hair, face, ears and cap, on a ball that turns.

All radii are in standing heights, by way of the head's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from hrpose.data.drawing.canvas import tinted
from hrpose.data.drawing.figures import Figure, Layer, Shape
from hrpose.data.drawing.postures import HEAD_RADIUS, SIDES

FAR_EAR, FAR_EYE = -0.62, 0.05
"""An ear or eye less near to us than the middle of the head by this many radii is not seen."""


def head_layers(figure: Figure) -> Iterator[Layer]:
    """Hair, face and ears; from behind all hair."""
    outfit, r = figure.outfit, HEAD_RADIUS
    facing = figure.depth("nose", "head") / r
    seen = facing > -0.25
    if outfit.hairdo == "long":
        mane = [figure.disc("head", 0.98 * r), figure.along(("head", "neck"), 1.0, 0.78 * r)]
        yield Layer(-0.14 if facing > 0 else 0.01, [Shape("head", mane, outfit.hair)], [])
    jaw = [figure.disc("head", 0.86 * r), figure.along(("head", "chin"), 0.9, 0.34 * r)]
    skull = [
        figure.along(("head", "crown"), 0.2, 0.92 * r),
        figure.along(("head", "nape"), 0.4, 0.7 * r),
    ]
    shapes = [
        Shape("head", jaw, outfit.skin if seen else outfit.hair),
        Shape("head", skull, outfit.hair),
    ]
    if outfit.hairdo == "bun":
        bun = [figure.along(("head", "crown"), 1.4, 0.36 * r)]
        shapes.insert(0, Shape("head", bun, outfit.hair))
    face = _face(figure, facing) if seen else []
    yield Layer(0.02, shapes + _ears(figure), face + _cap(figure))


def _ears(figure: Figure) -> list[Shape]:
    ears = [f"{side}_ear" for side, _ in SIDES]
    seen = [ear for ear in ears if figure.depth(ear, "head") > FAR_EAR * HEAD_RADIUS]
    skin = tinted(figure.outfit.skin, 0.93)
    return [Shape("head", [figure.disc(ear, 0.19 * HEAD_RADIUS)], skin) for ear in seen]


def _face(figure: Figure, facing: float) -> list[Shape]:
    """Skin within the hair, and what a face has on it."""
    outfit, r = figure.outfit, HEAD_RADIUS
    spots = [(f"{side}_cheek", 0.46) for side, _ in SIDES]
    spots += [(f"{side}_brow", 0.3) for side, _ in SIDES]
    seen = [(spot, size) for spot, size in spots if figure.depth(spot, "head") > -0.05 * r]
    jaw = figure.along(("head", "chin"), 0.9, 0.32 * r)
    shapes = [Shape("head", [figure.disc(s, size * r) for s, size in seen] + [jaw], outfit.skin)]
    if outfit.extra == "beard":
        beard = [figure.along((f"{side}_cheek", "chin"), 0.45, 0.24 * r) for side, _ in SIDES]
        shapes.append(Shape("head", [*beard, jaw], outfit.hair))
    for side, _ in SIDES:
        shapes += _eye(figure, side)
    nose = [figure.along(("head", "nose"), 0.96, 0.12 * r), figure.disc("nose", 0.1 * r)]
    shapes.append(Shape("head", nose, tinted(outfit.skin, 0.78)))
    if facing > 0.3:
        edges = [f"{side}_{edge}" for side, _ in SIDES for edge in ("smile", "lip")]
        shapes.append(Shape("head", [figure.disc(e, 0.045 * r) for e in edges], (190, 60, 66)))
    return shapes


def _eye(figure: Figure, side: str) -> list[Shape]:
    """White, pupil, brow and the glass before it, where they are on our side of the head."""
    eye, r = f"{side}_eye", HEAD_RADIUS
    if figure.depth(eye, "head") < FAR_EYE * r:
        return []
    brows = (f"{side}_brow", "right_brow" if side == "left" else "left_brow")
    brow = [figure.along(brows, part, 0.055 * r) for part in (-0.18, 0.2)]
    shapes = [
        Shape("head", [figure.disc(eye, 0.2 * r)], (255, 255, 255)),
        Shape("head", [figure.disc(eye, 0.125 * r)], (36, 28, 30)),
        Shape("head", brow, figure.outfit.hair),
    ]
    if figure.outfit.extra == "glasses":
        shapes.insert(0, Shape("head", [figure.disc(eye, 0.29 * r)], (40, 40, 52)))
    return shapes


def _cap(figure: Figure) -> list[Shape]:
    """A cap and its peak, for those who wear one."""
    if figure.outfit.hairdo != "cap":
        return []
    r, accent = HEAD_RADIUS, figure.outfit.accent
    rim = [figure.disc(f"{side}_temple", 0.12 * r) for side, _ in SIDES]
    dome = [*rim, figure.along(("head", "crown"), 0.8, 0.42 * r)]
    peak = [figure.along((f"{s}_brow", f"{s}_temple"), 0.3, 0.06 * r) for s, _ in SIDES]
    peak.append(figure.disc("peak", 0.12 * r))
    shapes = [Shape("head", dome, accent), Shape("head", peak, tinted(accent, 0.7))]
    return shapes if figure.depth("peak", "head") > 0 else shapes[::-1]
