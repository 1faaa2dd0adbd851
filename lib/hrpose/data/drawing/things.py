"""Things that stand about, out of doors and in.

They are painted with `cover`, so one painted after a person hides that person. Several are tall,
thin or roundish on purpose: what a network may take for a limb or a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hrpose.data.drawing.canvas import Canvas, Colour, Disc, cover, cover_box, shade, tinted
from hrpose.data.drawing.dice import pick

BRIGHT: tuple[Colour, ...] = (
    (206, 70, 60), (66, 128, 190), (240, 190, 70), (92, 160, 110), (150, 110, 170),
    (235, 235, 230), (120, 130, 140), (196, 140, 96),
)  # fmt: skip
WOOD = (150, 104, 66)

_LEAVES = ((62, 120, 70), (92, 150, 74), (50, 98, 84), (140, 160, 70), (176, 120, 60))
_STEEL, _RUBBER, _GLASS = (92, 98, 108), (36, 36, 42), (150, 186, 204)


class Spot(NamedTuple):
    """A place on the ground. Lengths on it are in heights of a person who would stand there."""

    canvas: Canvas
    x: float  # pixels
    ground: float
    height: float

    def mass(self, discs: Sequence[Disc], colour: Colour) -> None:
        """The hull of `discs`: distance to the right, height above ground, radius."""
        x, ground, unit = self.x, self.ground, self.height
        placed = [(x + dx * unit, ground - up * unit, r * unit) for dx, up, r in discs]
        cover(self.canvas, placed, colour)

    def slab(self, box: tuple[float, float, float, float], colour: Colour) -> None:
        """An upright rectangle. `box`: left, upper edge, right, lower edge."""
        left, top, right, bottom = (edge * self.height for edge in box)
        x, ground = self.x, self.ground
        cover_box(self.canvas, (x + left, ground - top, x + right, ground - bottom), colour)


Thing = Callable[[Spot, np.random.Generator], None]
"""Paints itself on a spot."""


def draw_thing(spot: Spot, things: Sequence[tuple[Thing, float]], rng: np.random.Generator) -> None:
    """One of `things`, and its shadow."""
    thing, breadth = pick(things, rng)
    reach = breadth * spot.height
    shade(spot.canvas, (spot.x, spot.ground), (reach, min(0.2 * reach, 0.06 * spot.height)))
    thing(spot, rng)


def draw_tree(spot: Spot, rng: np.random.Generator) -> None:
    leaves = pick(_LEAVES, rng)
    spot.mass([(0, 0, 0.08), (0, 1.2, 0.05)], WOOD)
    for dx, up, r in 2 * rng.random((4, 3)) - 1:
        spot.mass([(0.35 * dx, 1.7 + 0.35 * up, 0.45 + 0.1 * r)], tinted(leaves, 1 + 0.15 * r))


def _bush(spot: Spot, rng: np.random.Generator) -> None:
    leaves = pick(_LEAVES, rng)
    for dx in (-0.3, 0.3, 0.0):
        spot.mass([(dx, 0.16, 0.2)], tinted(leaves, 1.1 + dx))


def _lamp_post(spot: Spot, rng: np.random.Generator) -> None:
    spot.mass([(0, 0, 0.05), (0, 1.9, 0.03)], _STEEL)
    spot.mass([(0, 1.95, 0.09)], (255, 240, 190))


def _car(spot: Spot, rng: np.random.Generator) -> None:
    paint = pick(BRIGHT, rng)
    corners = ((-0.3, 0.72), (0.25, 0.72), (0.55, 0.4), (-0.5, 0.4))
    spot.mass([(x, up, 0.08) for x, up in corners], paint)
    spot.mass([(x, up, 0.03) for x, up in corners], _GLASS)
    spot.slab((-0.02, 0.78, 0.03, 0.4), paint)
    spot.mass([(-0.75, 0.28, 0.14), (0.8, 0.28, 0.14)], tinted(paint, 0.92))
    for x in (-0.5, 0.5):
        spot.mass([(x, 0.13, 0.15)], _RUBBER)
        spot.mass([(x, 0.13, 0.07)], (170, 172, 176))


def _hydrant(spot: Spot, rng: np.random.Generator) -> None:
    paint = pick(((206, 52, 48), (240, 190, 60), (60, 110, 180)), rng)
    spot.mass([(-0.1, 0.24, 0.04), (0.1, 0.24, 0.04)], tinted(paint, 0.8))
    spot.mass([(0, 0.03, 0.08), (0, 0.3, 0.07)], paint)
    spot.mass([(0, 0.38, 0.04)], tinted(paint, 0.8))


def _ball(spot: Spot, rng: np.random.Generator) -> None:
    colour = pick(BRIGHT, rng)
    spot.mass([(0, 0.1, 0.1)], colour)
    spot.mass([(-0.03, 0.13, 0.035)], tinted(colour, 1.4))


def _crate(spot: Spot, rng: np.random.Generator) -> None:
    colour = pick((WOOD, (196, 160, 110), (120, 130, 140)), rng)
    spot.slab((-0.2, 0.4, 0.2, 0), tinted(colour, 0.75))
    for low in (0.02, 0.15, 0.28):
        spot.slab((-0.185, low + 0.1, 0.185, low), colour)


def _bench(spot: Spot, rng: np.random.Generator) -> None:
    for left in (-0.42, 0.37):
        spot.slab((left, 0.26, left + 0.05, 0), _STEEL)
    for top in (0.5, 0.39, 0.28):
        spot.slab((-0.5, top, 0.5, top - 0.075), WOOD)


def _sign(spot: Spot, rng: np.random.Generator) -> None:
    spot.mass([(0, 0, 0.025), (0, 1, 0.025)], _STEEL)
    spot.mass([(0, 1.05, 0.15)], (240, 240, 240))
    spot.mass([(0, 1.05, 0.12)], pick(BRIGHT, rng))


def _dummy(spot: Spot, rng: np.random.Generator) -> None:
    """A tailor's dummy: a trunk without head or limbs, on a stick."""
    cloth = pick(((220, 208, 186), (170, 170, 174), (120, 96, 84)), rng)
    spot.mass([(0, 0, 0.02), (0, 0.5, 0.02)], WOOD)
    spot.mass([(-0.09, 0.78, 0.04), (0.09, 0.78, 0.04), (-0.05, 0.5, 0.06), (0.05, 0.5, 0.06)],
              cloth)  # fmt: skip
    spot.mass([(0, 0.86, 0.025)], tinted(cloth, 0.7))


def _sofa(spot: Spot, rng: np.random.Generator) -> None:
    cloth = pick(BRIGHT, rng)
    spot.mass([(-0.5, 0.42, 0.06), (0.5, 0.42, 0.06), (-0.5, 0.1, 0.02), (0.5, 0.1, 0.02)],
              tinted(cloth, 0.8))  # fmt: skip
    for x in (-0.24, 0.24):
        spot.mass([(x - 0.18, 0.2, 0.05), (x + 0.18, 0.2, 0.05)], cloth)
    for x in (-0.54, 0.54):
        spot.mass([(x, 0.29, 0.07), (x, 0.08, 0.07)], tinted(cloth, 0.9))


def _plant(spot: Spot, rng: np.random.Generator) -> None:
    leaves = pick(_LEAVES, rng)
    for x in (-0.2, -0.1, 0.0, 0.12, 0.22):
        spot.mass([(0.2 * x, 0.2, 0.015), (x, 0.6 - abs(x), 0.04)], tinted(leaves, 1 + x))
    spot.mass([(-0.08, 0.2, 0.02), (0.08, 0.2, 0.02), (-0.05, 0.02, 0.02), (0.05, 0.02, 0.02)],
              pick(BRIGHT, rng))  # fmt: skip


def _floor_lamp(spot: Spot, rng: np.random.Generator) -> None:
    spot.mass([(-0.08, 0.01, 0.015), (0.08, 0.01, 0.015)], _STEEL)
    spot.mass([(0, 0, 0.015), (0, 0.9, 0.012)], _STEEL)
    spot.mass([(-0.14, 0.82, 0.01), (0.14, 0.82, 0.01), (-0.08, 1.02, 0.01), (0.08, 1.02, 0.01)],
              (246, 226, 170))  # fmt: skip


def _shelf(spot: Spot, rng: np.random.Generator) -> None:
    """A bookcase and its books."""
    spot.slab((-0.3, 1.1, 0.3, 0), WOOD)
    for low in (0.06, 0.4, 0.74):
        spot.slab((-0.27, low + 0.3, 0.27, low), tinted(WOOD, 0.6))
        for place, tall in enumerate(rng.random(int(rng.integers(2, 7)))):
            left = -0.25 + 0.08 * place
            spot.slab((left, low + 0.16 + 0.12 * tall, left + 0.07, low), pick(BRIGHT, rng))


# Each with half the breadth of its shadow; what is repeated is commoner.
OUTDOORS: tuple[tuple[Thing, float], ...] = (
    (draw_tree, 0.24), (_bush, 0.5), (_lamp_post, 0.1), (_car, 0.95), (_hydrant, 0.16),
    (_hydrant, 0.16), (_ball, 0.12), (_ball, 0.12), (_crate, 0.26), (_crate, 0.26),
    (_bench, 0.55), (_sign, 0.08), (_sign, 0.08),
)  # fmt: skip
INDOORS: tuple[tuple[Thing, float], ...] = (
    (_sofa, 0.62), (_plant, 0.2), (_plant, 0.2), (_floor_lamp, 0.14), (_shelf, 0.34),
    (_crate, 0.26), (_ball, 0.12), (_dummy, 0.1),
)  # fmt: skip
