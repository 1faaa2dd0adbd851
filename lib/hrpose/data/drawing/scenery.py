"""Where the people of a synthetic scene are: an empty street, park, square or room."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from hrpose.data.drawing.canvas import SIZE, Canvas, Colour, cover, cover_box, new_canvas, tinted
from hrpose.data.drawing.dice import pick
from hrpose.data.drawing.things import BRIGHT, INDOORS, OUTDOORS, WOOD, Spot, Thing, draw_tree

_WALLS = ((214, 190, 160), (178, 188, 196), (196, 150, 130), (160, 176, 150), (226, 214, 190),
          (150, 140, 160), (120, 140, 160))  # fmt: skip


class Backdrop(NamedTuple):
    """A place without people, and what may stand about there."""

    canvas: Canvas
    things: tuple[tuple[Thing, float], ...]


def draw_backdrop(horizon: float, rng: np.random.Generator) -> Backdrop:
    """An empty street, park, square or room with its ground below `horizon`."""
    place, things = pick(
        ((_street, OUTDOORS), (_park, OUTDOORS), (_square, OUTDOORS), (_room, INDOORS)), rng
    )
    return Backdrop(place(horizon, rng), things)


def texture(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grain and uneven light over the whole picture."""
    top, left = rng.integers(0, SIZE, 2)
    grain = _grain()[top : top + SIZE, left : left + SIZE]
    light = cv2.resize(0.86 + 0.26 * rng.random((4, 4, 1)).astype(np.float32), (SIZE, SIZE))
    cv2.multiply(canvas.image, cv2.merge([light] * 3), canvas.image, dtype=cv2.CV_8U)
    cv2.add(canvas.image, cv2.merge([grain] * 3), canvas.image, dtype=cv2.CV_8U)


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """Noise of two sizes, (2 SIZE, 2 SIZE) int16; every scene shows another part of it."""
    rng = np.random.default_rng(0)
    fine = rng.integers(-7, 8, (2 * SIZE, 2 * SIZE)).astype(np.float32)
    coarse = rng.integers(-7, 8, (SIZE // 4, SIZE // 4)).astype(np.float32)
    return (fine + cv2.resize(coarse, fine.shape)).astype(np.int16)


def _gradient(top: Colour, horizon: float, low: Colour, bottom: Colour) -> Canvas:
    """A fresh canvas: from `top` to its haze at the horizon, from `low` there to `bottom`."""
    line = int(horizon)
    haze = tuple(0.5 * channel + 120 for channel in top)
    above = cv2.resize(np.array([[top], [haze]], np.float32), (SIZE, line))
    below = cv2.resize(np.array([[low], [bottom]], np.float32), (SIZE, SIZE - line))
    return new_canvas(np.concatenate([above, below]).clip(0, 255).astype(np.uint8))


def _street(horizon: float, rng: np.random.Generator) -> Canvas:
    """Houses with windows, a road and its markings."""
    grey = (118, 120, 126)
    canvas = _gradient((120, 170, 220), horizon, tinted(grey, 1.2), tinted(grey, 0.85))
    x = float(-rng.integers(60))
    while x < SIZE:
        width = 70 + 90 * float(rng.random())
        roof = horizon * (0.05 + 0.5 * float(rng.random()))
        _house(canvas, (x, roof, x + width, horizon + 2), rng)
        x += width
    kerb = horizon + 14 + 20 * float(rng.random())
    cover_box(canvas, (0, horizon, SIZE, kerb), (176, 172, 164))
    for left in range(int(rng.integers(80)), SIZE, 90):
        y = (kerb + SIZE) / 2
        cover_box(canvas, (left, y, left + 46, y + 7), (226, 224, 214))
    return canvas


def _house(
    canvas: Canvas, box: tuple[float, float, float, float], rng: np.random.Generator
) -> None:
    x0, y0, x1, y1 = box
    wall = pick(_WALLS, rng)
    cover_box(canvas, box, wall)
    pane = pick(((70, 90, 116), (236, 214, 140), (104, 128, 150)), rng)
    step = 22 + 12 * float(rng.random())
    for top in np.arange(y0 + 8, y1 - step, step):
        for left in np.arange(x0 + 7, x1 - 0.6 * step, step * 0.9):
            cover_box(canvas, (left, top, left + 0.5 * step, top + 0.62 * step), pane)
    cover_box(canvas, (x1 - 3, y0, x1, y1), tinted(wall, 0.7))


def _park(horizon: float, rng: np.random.Generator) -> Canvas:
    """Clouds, hills, grass with tufts, a path and trees far off."""
    green = pick(((126, 172, 88), (150, 180, 96), (96, 150, 90)), rng)
    canvas = _gradient((126, 186, 232), horizon, green, tinted(green, 0.78))
    for x, y, r in rng.random((4, 3)):
        puffs = [(x * SIZE + d, y * horizon * 0.5, 10 + 16 * r) for d in (-24, 0, 26)]
        cover(canvas, puffs, (244, 246, 250))
    for x, r in rng.random((3, 2)):
        hill = [(x * SIZE, horizon + 140, 150 + 60 * r), (x * SIZE + 90, horizon + 130, 150)]
        cover(canvas, hill, tinted(green, 0.8 + 0.15 * r))
    cover_box(canvas, (0, horizon + 8, SIZE, SIZE), green)
    path = [(rng.random() * SIZE, horizon + 9, 4), (rng.random() * SIZE, SIZE, 60)]
    cover(canvas, path, (214, 196, 160))
    for x, y in rng.random((60, 2)):
        ground = horizon + 12 + y * (SIZE - horizon)
        blade = [(x * SIZE, ground, 1.2), (x * SIZE + 2, ground - 3 - 9 * y, 0.5)]
        cover(canvas, blade, tinted(green, 0.72))
    for x in rng.random(5):
        draw_tree(Spot(canvas, x * SIZE, horizon + 10, 40), rng)
    return canvas


def _square(horizon: float, rng: np.random.Generator) -> Canvas:
    """A brick or tiled wall and a tiled floor."""
    wall, floor = pick(_WALLS, rng), pick(_WALLS, rng)
    canvas = _gradient(wall, horizon, floor, tinted(floor, 0.8))
    cover_box(canvas, (0, 0, SIZE, horizon), wall)
    width, height = (44, 18) if rng.random() < 0.6 else (40, 40)
    for row, y in enumerate(range(0, int(horizon), height)):
        cover_box(canvas, (0, y, SIZE, y + 2), tinted(wall, 0.82))
        for x in range((row % 2) * width // 2, SIZE, width):
            cover_box(canvas, (x, y, x + 2, min(y + height, horizon)), tinted(wall, 0.82))
    _floor_lines(canvas, horizon, tinted(floor, 0.82))
    return canvas


def _room(horizon: float, rng: np.random.Generator) -> Canvas:
    """Papered wall, boards, pictures and a rug."""
    wall = pick(_WALLS, rng)
    canvas = _gradient(wall, horizon, (196, 150, 104), (150, 106, 70))
    cover_box(canvas, (0, 0, SIZE, horizon), wall)
    stripe = int(rng.integers(16, 40))
    for x in range(0, SIZE, 2 * stripe):
        cover_box(canvas, (x, 0, x + stripe, horizon), tinted(wall, 1.08))
    _floor_lines(canvas, horizon, (132, 92, 60))
    cover_box(canvas, (0, horizon - 8, SIZE, horizon + 3), (240, 236, 228))
    for x, y, r in rng.random((4, 3)):
        _picture(canvas, (x * SIZE, y * horizon * 0.6, 26 + 50 * r), rng)
    rug = [(120 + 80 * rng.random(), 430, 46), (330 + 80 * rng.random(), 430, 46)]
    cover(canvas, rug, pick(BRIGHT, rng))
    return canvas


def _floor_lines(canvas: Canvas, horizon: float, colour: Colour) -> None:
    """Joints between tiles or boards, converging behind the horizon."""
    y, line = horizon, int(horizon)
    for x in range(-6 * SIZE, 7 * SIZE, 150):
        near = (x, SIZE)
        far = (SIZE // 2 + (x - SIZE // 2) // 4, line)
        cv2.line(canvas.image, far, near, colour, 2, cv2.LINE_AA)
    while y < SIZE:
        cover_box(canvas, (0, y, SIZE, y + 2), colour)
        y += 10 + (y - horizon) * 0.35


def _picture(canvas: Canvas, place: tuple[float, float, float], rng: np.random.Generator) -> None:
    """A framed picture on the wall."""
    x, y, size = place
    cover_box(canvas, (x, y, x + size, y + 0.8 * size), pick(((250, 246, 236), WOOD), rng))
    cover_box(canvas, (x + 5, y + 5, x + size - 5, y + 0.8 * size - 5), pick(BRIGHT, rng))
    knob = [(x + size * 0.5, y + size * 0.4, size * 0.15)]
    cover(canvas, knob, pick(BRIGHT, rng))
