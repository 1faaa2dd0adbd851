"""A person placed in a picture, as points and as layers of shapes yet to be painted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hrpose.data.drawing.canvas import Colour, Disc
from hrpose.data.drawing.outfits import Outfit
from hrpose.data.drawing.postures import HEAD_RADIUS, SIDES, Posture

_BONES = ("upper_arm", "forearm", "hand", "thigh", "shin", "foot")
PARTS = ("torso", "head", *(f"{side}_{bone}" for side, _ in SIDES for bone in _BONES))
PART = {name: index for index, name in enumerate(PARTS)}
CODES = 16
"""A figure owns the codes from its number times CODES on, one for each part."""


class Shape(NamedTuple):
    """The hull of a few discs, belonging to a part of the body."""

    part: str
    discs: list[Disc]
    colour: Colour


class Layer(NamedTuple):
    """Shapes painted as one, under a common contour, with trims that stay inside."""

    nearness: float
    shapes: list[Shape]
    trims: list[Shape]


class Figure(NamedTuple):
    """A person placed in the picture."""

    stance: str
    points: dict[str, np.ndarray]  # name -> (3,): x, y, nearness in pixels
    unit: float  # pixels per standing height
    outfit: Outfit

    def depth(self, name: str, reference: str) -> float:
        """How much nearer to us `name` is than `reference`, in standing heights."""
        return float(self.points[name][2] - self.points[reference][2]) / self.unit

    def disc(self, name: str, radius: float) -> Disc:
        """A disc about a point."""
        x, y, _ = self.points[name].tolist()
        return x, y, radius * self.unit

    def along(self, names: tuple[str, str], part: float, radius: float) -> Disc:
        """A disc `part` of the way from one point to another."""
        start, end = (self.points[name] for name in names)
        x, y, _ = (start + (end - start) * part).tolist()
        return x, y, radius * self.unit


def place_figure(posture: Posture, outfit: Outfit, unit: float, x: float, ground: float) -> Figure:
    """Stand a body of `unit` pixels on the line y = `ground` with its pelvis at `x`."""
    shift = np.array([x, ground - _sole(posture) * unit, 0.0])
    points = {name: point * unit + shift for name, point in posture.points.items()}
    return Figure(posture.stance, points, unit, outfit)


def extent(posture: Posture) -> float:
    """From the highest hair or finger to the sole, in standing heights."""
    hands = min(float(posture.points[f"{side}_hand"][1]) for side, _ in SIDES) - 0.034
    hair = float(posture.points["head"][1]) - 1.25 * HEAD_RADIUS
    return _sole(posture) - min(hands, hair)


def _sole(posture: Posture) -> float:
    ends = [f"{side}_{end}" for side, _ in SIDES for end in ("toe", "heel")]
    return max(float(posture.points[end][1]) for end in ends) + 0.022
