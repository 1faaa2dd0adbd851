"""Empty places (street, park, square, room) and objects that stand in front of or behind people.

Objects are opaque: one drawn after a person occludes that person. Several are tall, thin or round
on purpose, similar to a limb or a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from hrpose.synthetic.body import Colour, Disc, choice
from hrpose.synthetic.drawing import BACKGROUND, IMAGE_SIZE, Canvas, draw_box, draw_hull, tint

Box = tuple[float, float, float, float]
Geometry = list[Disc] | Box
Shapes = list[tuple[Colour | float, Geometry]]
"""Colours, or tints of the object's own, and the hulls of discs (x, height, radius) or the boxes
(left, top, right, bottom) that have them; lengths: heights of a person standing there."""

# fmt: off
_WALLS = ((214, 190, 160), (178, 188, 196), (196, 150, 130), (160, 176, 150), (226, 214, 190),
          (150, 140, 160), (120, 140, 160))
_BRIGHT = ((206, 70, 60), (66, 128, 190), (240, 190, 70), (92, 160, 110), (150, 110, 170),
           (235, 235, 230), (120, 130, 140), (196, 140, 96))
_LEAVES = ((62, 120, 70), (92, 150, 74), (50, 98, 84), (140, 160, 70), (176, 120, 60))
_WOOD, _STEEL = (150, 104, 66), (92, 98, 108)
_RUBBER, _HUB, _GLASS = (36, 36, 42), (170, 172, 176), (150, 186, 204)


def _quad(*discs: float) -> list[Disc]:
    """Four discs symmetric about x = 0, given two on the right."""
    return [(sign * x, up, r) for x, up, r in (discs[:3], discs[3:]) for sign in (-1, 1)]


def _tree(rng: Generator) -> Shapes:
    crown = [(1 + 0.15 * r, [(0.35 * dx, 1.7 + 0.35 * up, 0.45 + 0.1 * r)])
             for dx, up, r in 2 * rng.random((4, 3)) - 1]
    return [(_WOOD, [(0, 0, 0.08), (0, 1.2, 0.05)]), *crown]


def _plant(rng: Generator) -> Shapes:
    leaves = [(1 + x, [(0.2 * x, 0.2, 0.015), (x, 0.6 - abs(x), 0.04)])
              for x in (-0.2, -0.1, 0.0, 0.12, 0.22)]
    return [*leaves, (choice(_BRIGHT, rng), _quad(0.08, 0.2, 0.02, 0.05, 0.02, 0.02))]


def _bookcase(rng: Generator) -> Shapes:
    shapes: Shapes = [(1.0, (-0.3, 1.1, 0.3, 0))]
    for low in (0.06, 0.4, 0.74):
        shapes.append((0.6, (-0.27, low + 0.3, 0.27, low)))
        for index, height in enumerate(rng.random(int(rng.integers(2, 7)))):
            left = -0.25 + 0.08 * index
            book = (left, low + 0.16 + 0.12 * height, left + 0.07, low)
            shapes.append((choice(_BRIGHT, rng), book))
    return shapes


# Half the width of the shadow, the colours to choose from, the shapes or what draws them at random.
_OBJECTS: dict[str, tuple[float, Sequence[Colour], Shapes | Callable[..., Shapes]]] = {
    "tree": (0.24, _LEAVES, _tree), "plant": (0.2, _LEAVES, _plant),
    "bookcase": (0.34, (_WOOD,), _bookcase),
    "bush": (0.5, _LEAVES, [
        (0.8, [(-0.3, 0.16, 0.2)]), (1.4, [(0.3, 0.16, 0.2)]), (1.1, [(0.0, 0.16, 0.2)])]),
    "lamp post": (0.1, (_STEEL,), [
        (1.0, [(0, 0, 0.05), (0, 1.9, 0.03)]), ((255, 240, 190), [(0, 1.95, 0.09)])]),
    "car": (0.95, _BRIGHT, [
        (1.0, [(-0.3, 0.72, 0.08), (0.25, 0.72, 0.08), (0.55, 0.4, 0.08), (-0.5, 0.4, 0.08)]),
        (_GLASS, [(-0.3, 0.72, 0.03), (0.25, 0.72, 0.03), (0.55, 0.4, 0.03), (-0.5, 0.4, 0.03)]),
        (1.0, (-0.02, 0.78, 0.03, 0.4)), (0.92, [(-0.75, 0.28, 0.14), (0.8, 0.28, 0.14)]),
        (_RUBBER, [(-0.5, 0.13, 0.15)]), (_HUB, [(-0.5, 0.13, 0.07)]),
        (_RUBBER, [(0.5, 0.13, 0.15)]), (_HUB, [(0.5, 0.13, 0.07)])]),
    "hydrant": (0.16, ((206, 52, 48), (240, 190, 60), (60, 110, 180)), [
        (0.8, [(-0.1, 0.24, 0.04), (0.1, 0.24, 0.04)]),
        (1.0, [(0, 0.03, 0.08), (0, 0.3, 0.07)]), (0.8, [(0, 0.38, 0.04)])]),
    "ball": (0.12, _BRIGHT, [(1.0, [(0, 0.1, 0.1)]), (1.4, [(-0.03, 0.13, 0.035)])]),
    "crate": (0.26, (_WOOD, (196, 160, 110), (120, 130, 140)), [
        (0.75, (-0.2, 0.4, 0.2, 0)), (1.0, (-0.185, 0.12, 0.185, 0.02)),
        (1.0, (-0.185, 0.25, 0.185, 0.15)), (1.0, (-0.185, 0.38, 0.185, 0.28))]),
    "bench": (0.55, (_WOOD,), [
        (_STEEL, (-0.42, 0.26, -0.37, 0)), (_STEEL, (0.37, 0.26, 0.42, 0)),
        *((1.0, (-0.5, top, 0.5, top - 0.075)) for top in (0.5, 0.39, 0.28))]),
    "sign": (0.08, _BRIGHT, [(_STEEL, [(0, 0, 0.025), (0, 1, 0.025)]),
                             ((240, 240, 240), [(0, 1.05, 0.15)]), (1.0, [(0, 1.05, 0.12)])]),
    "mannequin": (0.1, ((220, 208, 186), (170, 170, 174), (120, 96, 84)), [
        (_WOOD, [(0, 0, 0.02), (0, 0.5, 0.02)]), (1.0, _quad(0.09, 0.78, 0.04, 0.05, 0.5, 0.06)),
        (0.7, [(0, 0.86, 0.025)])]),
    "sofa": (0.62, _BRIGHT, [
        (0.8, _quad(0.5, 0.42, 0.06, 0.5, 0.1, 0.02)),
        (1.0, [(-0.42, 0.2, 0.05), (-0.06, 0.2, 0.05)]),
        (1.0, [(0.06, 0.2, 0.05), (0.42, 0.2, 0.05)]),
        *((0.9, [(x, 0.29, 0.07), (x, 0.08, 0.07)]) for x in (-0.54, 0.54))]),
    "floor lamp": (0.14, (_STEEL,), [
        (1.0, [(-0.08, 0.01, 0.015), (0.08, 0.01, 0.015)]),
        (1.0, [(0, 0, 0.015), (0, 0.9, 0.012)]),
        ((246, 226, 170), _quad(0.14, 0.82, 0.01, 0.08, 1.02, 0.01))]),
}
# An object named twice is twice as common.
_OUTDOORS = ("tree", "bush", "lamp post", "car", "hydrant", "hydrant", "ball", "ball", "crate",
             "crate", "bench", "sign", "sign")
_INDOORS = ("sofa", "plant", "plant", "floor lamp", "bookcase", "crate", "ball", "mannequin")
# fmt: on


def sample_object(
    names: Sequence[str], rng: Generator
) -> tuple[float, list[tuple[Colour, Geometry]]]:
    """One of the objects `names`: half the width of its shadow, and its shapes in their colours."""
    half_shadow, colours, shapes = _OBJECTS[choice(names, rng)]
    own = choice(colours, rng)
    shapes = shapes(rng) if callable(shapes) else shapes
    return half_shadow, [
        (colour if isinstance(colour, tuple) else tint(own, colour), geometry)
        for colour, geometry in shapes
    ]


def draw_object(
    canvas: Canvas, shapes: list[tuple[Colour, Geometry]], x: float, ground: float, unit: float
) -> None:
    """Draw shapes standing at `x` on the line y = `ground`; `unit` pixels: one person's height."""
    for colour, geometry in shapes:
        if isinstance(geometry, list):
            discs = [(x + dx * unit, ground - up * unit, r * unit) for dx, up, r in geometry]
            draw_hull(canvas, discs, colour)
        else:
            left, top, right, bottom = (edge * unit for edge in geometry)
            draw_box(canvas, (x + left, ground - top, x + right, ground - bottom), colour)


def draw_place(horizon: float, rng: Generator) -> tuple[Canvas, Sequence[str]]:
    """An empty place with its ground below `horizon`, and the names of objects found there."""
    place = choice((_street, _park, _square, _room), rng)
    return place(horizon, rng), _INDOORS if place is _room else _OUTDOORS


def _gradient(top: Colour, horizon: float, low: Colour, bottom: Colour) -> Canvas:
    """An empty canvas: from `top` to haze at the horizon, and from `low` there to `bottom`."""
    line = int(horizon)
    haze = tuple(0.5 * channel + 120 for channel in top)
    above = cv2.resize(np.array([[top], [haze]], np.float32), (IMAGE_SIZE, line))
    below = cv2.resize(np.array([[low], [bottom]], np.float32), (IMAGE_SIZE, IMAGE_SIZE - line))
    image = np.concatenate([above, below]).clip(0, 255).astype(np.uint8)
    return Canvas(image, np.full(image.shape[:2], BACKGROUND, np.uint16))


def _street(horizon: float, rng: Generator) -> Canvas:
    """Houses with windows, a road and its markings."""
    grey = (118, 120, 126)
    canvas = _gradient((120, 170, 220), horizon, tint(grey, 1.2), tint(grey, 0.85))
    x = float(-rng.integers(60))
    while x < IMAGE_SIZE:
        right, ground = x + (70 + 90 * float(rng.random())), horizon + 2
        roof = horizon * (0.05 + 0.5 * float(rng.random()))
        wall = choice(_WALLS, rng)
        draw_box(canvas, (x, roof, right, ground), wall)
        pane = choice(((70, 90, 116), (236, 214, 140), (104, 128, 150)), rng)
        step = 22 + 12 * float(rng.random())
        for top in np.arange(roof + 8, ground - step, step):
            for left in np.arange(x + 7, right - 0.6 * step, step * 0.9):
                draw_box(canvas, (left, top, left + 0.5 * step, top + 0.62 * step), pane)
        draw_box(canvas, (right - 3, roof, right, ground), tint(wall, 0.7))
        x = right
    kerb = horizon + 14 + 20 * float(rng.random())
    draw_box(canvas, (0, horizon, IMAGE_SIZE, kerb), (176, 172, 164))
    y = (kerb + IMAGE_SIZE) / 2
    for left in range(int(rng.integers(80)), IMAGE_SIZE, 90):
        draw_box(canvas, (left, y, left + 46, y + 7), (226, 224, 214))
    return canvas


def _park(horizon: float, rng: Generator) -> Canvas:
    """Clouds, hills, grass with tufts, a path and distant trees."""
    green = choice(((126, 172, 88), (150, 180, 96), (96, 150, 90)), rng)
    canvas = _gradient((126, 186, 232), horizon, green, tint(green, 0.78))
    for x, y, r in rng.random((4, 3)):
        cloud = [(x * IMAGE_SIZE + dx, y * horizon * 0.5, 10 + 16 * r) for dx in (-24, 0, 26)]
        draw_hull(canvas, cloud, (244, 246, 250))
    for x, r in rng.random((3, 2)):
        left = x * IMAGE_SIZE
        hill = [(left, horizon + 140, 150 + 60 * r), (left + 90, horizon + 130, 150)]
        draw_hull(canvas, hill, tint(green, 0.8 + 0.15 * r))
    draw_box(canvas, (0, horizon + 8, IMAGE_SIZE, IMAGE_SIZE), green)
    far, near = (rng.random() * IMAGE_SIZE for _ in range(2))
    draw_hull(canvas, [(far, horizon + 9, 4), (near, IMAGE_SIZE, 60)], (214, 196, 160))
    for x, y in rng.random((60, 2)):
        ground = horizon + 12 + y * (IMAGE_SIZE - horizon)
        tuft = [(x * IMAGE_SIZE, ground, 1.2), (x * IMAGE_SIZE + 2, ground - 3 - 9 * y, 0.5)]
        draw_hull(canvas, tuft, tint(green, 0.72))
    for x in rng.random(5):
        draw_object(canvas, sample_object(("tree",), rng)[1], x * IMAGE_SIZE, horizon + 10, 40)
    return canvas


def _square(horizon: float, rng: Generator) -> Canvas:
    """A brick or tiled wall and a tiled floor."""
    wall, floor = choice(_WALLS, rng), choice(_WALLS, rng)
    canvas = _gradient(wall, horizon, floor, tint(floor, 0.8))
    draw_box(canvas, (0, 0, IMAGE_SIZE, horizon), wall)
    width, height = (44, 18) if rng.random() < 0.6 else (40, 40)
    for row, y in enumerate(range(0, int(horizon), height)):
        draw_box(canvas, (0, y, IMAGE_SIZE, y + 2), tint(wall, 0.82))
        for x in range((row % 2) * width // 2, IMAGE_SIZE, width):
            draw_box(canvas, (x, y, x + 2, min(y + height, horizon)), tint(wall, 0.82))
    _draw_floor_lines(canvas, horizon, tint(floor, 0.82))
    return canvas


def _room(horizon: float, rng: Generator) -> Canvas:
    """Wallpaper, floorboards, framed pictures and a rug."""
    wall = choice(_WALLS, rng)
    canvas = _gradient(wall, horizon, (196, 150, 104), (150, 106, 70))
    draw_box(canvas, (0, 0, IMAGE_SIZE, horizon), wall)
    stripe = int(rng.integers(16, 40))
    for left in range(0, IMAGE_SIZE, 2 * stripe):
        draw_box(canvas, (left, 0, left + stripe, horizon), tint(wall, 1.08))
    _draw_floor_lines(canvas, horizon, (132, 92, 60))
    draw_box(canvas, (0, horizon - 8, IMAGE_SIZE, horizon + 3), (240, 236, 228))
    for x, y, size in rng.random((4, 3)) * (IMAGE_SIZE, horizon * 0.6, 50) + (0, 0, 26):
        frame = choice(((250, 246, 236), _WOOD), rng)
        draw_box(canvas, (x, y, x + size, y + 0.8 * size), frame)
        inside = (x + 5, y + 5, x + size - 5, y + 0.8 * size - 5)
        draw_box(canvas, inside, choice(_BRIGHT, rng))
        draw_hull(canvas, [(x + size * 0.5, y + size * 0.4, size * 0.15)], choice(_BRIGHT, rng))
    rug = [(left + 80 * rng.random(), 430, 46) for left in (120, 330)]
    draw_hull(canvas, rug, choice(_BRIGHT, rng))
    return canvas


def _draw_floor_lines(canvas: Canvas, horizon: float, colour: Colour) -> None:
    """Joints between tiles or boards, which converge behind the horizon."""
    for x in range(-6 * IMAGE_SIZE, 7 * IMAGE_SIZE, 150):
        far = (IMAGE_SIZE // 2 + (x - IMAGE_SIZE // 2) // 4, int(horizon))
        cv2.line(canvas.image, far, (x, IMAGE_SIZE), colour, 2, cv2.LINE_AA)
    y = horizon
    while y < IMAGE_SIZE:
        draw_box(canvas, (0, y, IMAGE_SIZE, y + 2), colour)
        y += 10 + (y - horizon) * 0.35


def add_texture(canvas: Canvas, rng: Generator) -> None:
    """Noise and uneven illumination over the whole image."""
    top, left = rng.integers(0, IMAGE_SIZE, 2)
    noise = _noise()[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
    coarse = 0.86 + 0.26 * rng.random((4, 4, 1)).astype(np.float32)
    light = cv2.resize(coarse, (IMAGE_SIZE, IMAGE_SIZE))
    cv2.multiply(canvas.image, cv2.merge([light] * 3), canvas.image, dtype=cv2.CV_8U)
    cv2.add(canvas.image, cv2.merge([noise] * 3), canvas.image, dtype=cv2.CV_8U)


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Noise of two sizes, (2 IMAGE_SIZE, 2 IMAGE_SIZE) int16; each scene uses a part of it."""
    rng = np.random.default_rng(0)
    fine = rng.integers(-7, 8, (2 * IMAGE_SIZE, 2 * IMAGE_SIZE)).astype(np.float32)
    coarse = rng.integers(-7, 8, (IMAGE_SIZE // 4, IMAGE_SIZE // 4)).astype(np.float32)
    return (fine + cv2.resize(coarse, fine.shape)).astype(np.int16)
