"""What a synthetic scene is painted on: the picture and, beside it, who is seen at each pixel.

People and things are made of one primitive, the convex hull of a few discs. The picture is
anti-aliased, the owners are not, and corners are rounded to sixteenths of a pixel before anything
is filled: so the owners, and every label read from them, are the same on every machine.

Frame: COCO's, in which pixel i covers [i, i + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

Disc = tuple[float, float, float]
"""x, y and radius in pixels."""

SIZE = 512
SCENERY = 0
"""The owner of every pixel that shows nobody."""

_SHIFT = 4


class Canvas(NamedTuple):
    """A picture in the making."""

    image: np.ndarray  # (SIZE, SIZE, 3) uint8 RGB
    owner: np.ndarray  # (SIZE, SIZE) uint16: the code of whatever is seen there


def new_canvas(image: np.ndarray) -> Canvas:
    """A canvas that shows `image` (SIZE, SIZE, 3) and nobody yet."""
    return Canvas(image, np.full(image.shape[:2], SCENERY, np.uint16))


@lru_cache(maxsize=4)
def _circle(corners: int) -> np.ndarray:
    angle = np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (corners, 2)


def hull(discs: Sequence[Disc], grow: float = 0.0) -> np.ndarray:
    """The outline around all `discs`, each made `grow` larger: fixed-point corners (M, 1, 2)."""
    place = np.array(discs)  # (N, 3)
    largest = place[:, 2].max()
    circle = _circle(12 if largest < 6 else 24 if largest < 40 else 48)
    rim = place[:, None, :2] + circle * (place[:, 2, None, None] + grow)  # (N, corners, 2)
    fixed = np.rint((rim - 0.5) * (1 << _SHIFT)).astype(np.int32)
    return cv2.convexHull(fixed.reshape(-1, 2))


def paint(canvas: Canvas, outline: np.ndarray, colour: Colour) -> None:
    """Colour the inside of a hull; whoever is seen there stays so."""
    cv2.fillConvexPoly(canvas.image, outline, colour, cv2.LINE_AA, _SHIFT)


def claim(canvas: Canvas, outline: np.ndarray, code: int) -> None:
    """From now on the inside of a hull shows `code`."""
    cv2.fillConvexPoly(canvas.owner, outline, code, cv2.LINE_8, _SHIFT)


def cover(canvas: Canvas, discs: Sequence[Disc], colour: Colour) -> None:
    """Put a thing in front of everything so far: the hull of `discs`."""
    outline = hull(discs)
    paint(canvas, outline, colour)
    claim(canvas, outline, SCENERY)


def cover_box(canvas: Canvas, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Put an upright rectangle in front of everything so far. `box`: x0, y0, x1, y1."""
    x0, y0, x1, y1 = (round(edge) for edge in box)
    cv2.rectangle(canvas.image, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)
    cv2.rectangle(canvas.owner, (x0, y0), (x1 - 1, y1 - 1), SCENERY, cv2.FILLED)


def shade(canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """Darken an ellipse of the ground, as a shadow does."""
    (x, y), (rx, ry) = centre, radii
    left, top = max(int(x - rx), 0), max(int(y - ry), 0)
    patch = canvas.image[top : int(y + ry) + 2, left : int(x + rx) + 2]
    if patch.size:
        axes = (max(round(rx * 16), 1), max(round(ry * 16), 1))
        middle = (round((x - left - 0.5) * 16), round((y - top - 0.5) * 16))
        dark = cv2.ellipse(patch.copy(), middle, axes, 0, 0, 360, (30, 34, 48), -1, cv2.LINE_AA, 4)
        cv2.addWeighted(dark, 0.32, patch, 0.68, 0, dst=patch)


def tinted(colour: Colour, factor: float) -> Colour:
    """`colour` made lighter (factor above 1) or darker (below)."""
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue
