"""Scenes of people: who is in one, where they stand, and what hides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from hrpose.data.drawing.canvas import SIZE, Canvas, cover_box, shade
from hrpose.data.drawing.dice import pick_by_odds
from hrpose.data.drawing.figures import Figure, extent, place_figure
from hrpose.data.drawing.outfits import choose_outfit
from hrpose.data.drawing.people import draw_figure
from hrpose.data.drawing.postures import choose_posture
from hrpose.data.drawing.scenery import draw_backdrop, texture
from hrpose.data.drawing.things import Spot, Thing, draw_thing

SHORTEST, TALLEST = 32, 400  # pixels from the highest point of a body to the lowest

_PEOPLE_ODDS = (4, 16, 20, 18, 14, 9, 6, 4, 3, 2, 2, 1, 1)  # of 0, 1, ... 12 people
_HEIGHTS = ((0.0, 0.08, 0.5, 0.9, 1.0), (SHORTEST, 90, 195, 335, TALLEST))  # quantiles
_CROWD_SHARE, _UNLABELLED_SHARE, _TRUNCATED_SHARE = 0.12, 0.04, 0.1

CROWD = len(_PEOPLE_ODDS)
"""The number under which a crowd is painted: the one after the last person's."""


Act = tuple[float, Callable[[], None]]
"""Something to be painted, and the line on the ground, y in pixels, where it stands."""


class Scene(NamedTuple):
    """A finished picture and who is in it."""

    canvas: Canvas
    figures: list[Figure]  # figure n is painted with number n + 1
    labelled: list[bool]


class Ground(NamedTuple):
    """A level ground seen by an upright camera."""

    horizon: float  # y in pixels
    drop: float  # pixels below the horizon for each pixel of a standing person's height

    def under(self, height: float) -> float:
        """y at the feet of somebody who appears `height` pixels tall."""
        return self.horizon + self.drop * height


def compose(rng: np.random.Generator) -> Scene:
    """Paint a scene from the back to the front."""
    ground = Ground(150 + 100 * rng.random(), 0.6 + 0.3 * rng.random())
    figures = _cast(ground, rng)
    labelled = [bool(rng.random() >= _UNLABELLED_SHARE) for _ in figures]
    canvas, things = draw_backdrop(ground.horizon, rng)
    if rng.random() < _CROWD_SHARE:
        _draw_crowd(canvas, ground, rng)
    acts: list[Act] = [
        (_feet(figure), partial(_enter, canvas, figure, number))
        for number, figure in enumerate(figures, start=1)
    ]
    acts += _props(canvas, ground, things, rng)
    for _, act in sorted(acts, key=lambda act: act[0]):
        act()
    texture(canvas, rng)
    return Scene(canvas, figures, labelled)


def _cast(ground: Ground, rng: np.random.Generator) -> list[Figure]:
    """The people of a scene, each with a place that keeps clear of the others if it can."""
    count = pick_by_odds(range(len(_PEOPLE_ODDS)), _PEOPLE_ODDS, rng)
    figures: list[Figure] = []
    for _ in range(count):
        height = float(np.interp(rng.random(), *_HEIGHTS)) * (0.75 if count > 6 else 1.0)
        places = rng.random(3) * (SIZE + 20) - 10
        x = min(places, key=lambda place: _crowding(place, height, figures))
        figures.append(_person(float(x), max(height, SHORTEST), ground, rng))
    return figures


def _person(x: float, height: float, ground: Ground, rng: np.random.Generator) -> Figure:
    """Somebody who would be `height` pixels tall when standing upright."""
    posture = choose_posture(rng)
    tall = extent(posture)
    unit = min(max(height, SHORTEST / tall), TALLEST / tall)
    feet = ground.under(unit) + 0.05 * height * (rng.random() - 0.5)
    if rng.random() < _TRUNCATED_SHARE:
        feet += unit * (0.1 + 0.4 * rng.random())  # too near to be seen whole
    if posture.stance == "jumping":
        feet -= 0.08 * unit
    return place_figure(posture, choose_outfit(rng), unit, x, feet)


def _crowding(x: float, height: float, figures: list[Figure]) -> float:
    """How much somebody at `x` would stand in others' way."""
    reach = [0.2 * (height + figure.unit) for figure in figures]
    gaps = [abs(x - float(figure.points["pelvis"][0])) for figure in figures]
    return sum(max(0.0, 1 - gap / width) for gap, width in zip(gaps, reach))


def _feet(figure: Figure) -> float:
    return max(float(point[1]) for point in figure.points.values())


def _enter(canvas: Canvas, figure: Figure, number: int) -> None:
    """Paint a person, the shadow below and the seat that is sat on."""
    x, y, _ = (float(value) for value in figure.points["pelvis"])
    feet, unit = _feet(figure), figure.unit
    shade(canvas, (x, feet), (0.2 * unit, 0.045 * unit))
    if figure.stance == "sitting":
        seat = (x - 0.13 * unit, y + 0.03 * unit, x + 0.13 * unit, feet)
        cover_box(canvas, seat, (112, 82, 60))
        cover_box(canvas, (*seat[:3], seat[1] + 0.04 * unit), (160, 122, 88))
    draw_figure(canvas, figure, number)


def _draw_crowd(canvas: Canvas, ground: Ground, rng: np.random.Generator) -> None:
    """A knot of small people far off, who all share one number."""
    middle = 60 + (SIZE - 120) * rng.random()
    for place in np.sort(rng.random(int(rng.integers(6, 13)))):
        height = 34 + 16 * place
        x = middle + 90 * (rng.random() - 0.5)
        feet = ground.under(height)
        figure = place_figure(choose_posture(rng), choose_outfit(rng), height, x, feet)
        draw_figure(canvas, figure, CROWD)


def _props(
    canvas: Canvas, ground: Ground, things: Sequence[tuple[Thing, float]], rng: np.random.Generator
) -> list[Act]:
    """Three to ten things, mostly far enough to stand behind the people."""
    acts: list[Act] = []
    for _ in range(int(rng.integers(3, 11))):
        height = 40 + 220 * float(rng.random()) ** 2
        spot = Spot(canvas, float(rng.random()) * SIZE, ground.under(height), height)
        # Each rolls dice of its own, so that the order of painting does not matter.
        dice = np.random.default_rng(rng.integers(1 << 32))
        acts.append((spot.ground, partial(draw_thing, spot, things, dice)))
    return acts
