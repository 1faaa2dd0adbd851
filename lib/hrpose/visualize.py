"""Pictures: poses on images, heatmaps, tags and values over them, scatter plots, sheets of all.

Everything here takes and gives images (H, W, 3) uint8 RGB, and changes none in place.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from hrpose.skeletons import Skeleton, side
from hrpose.structures import NO_TRACK

LEFT, RIGHT, MIDDLE = (66, 190, 255), (255, 140, 60), (240, 240, 120)
"""Colours of joints by side of the body: blue left, orange right."""

WHITE, BLACK = (255, 255, 255), (0, 0, 0)

FONT, FONT_SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def draw_poses(
    image: np.ndarray,
    joints: np.ndarray,
    skeleton: Skeleton,
    least: float = 0.0,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """People (N, K, 3) on an image: limbs in a colour per person, joints in a colour per side.

    joints: x, y in pixels of the image, and score or visibility; those not above `least` are
    left out
    track_ids: (N,) of which each has its colour in all images, NO_TRACK white; None: by order
    """
    picture = image.copy()
    thick = max(1, round(max(image.shape[:2]) / 300))
    ids = np.arange(len(joints)) if track_ids is None else track_ids
    for number, person in zip(ids.tolist(), joints, strict=True):
        hue = (0.13 + 0.618034 * number) % 1  # distant hues
        saturation = 0 if number == NO_TRACK else 0.75
        colour = tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, 1))
        shown = (person[:, 2] > least) & np.isfinite(person[:, :2]).all(1)
        at = np.rint(np.nan_to_num(person[:, :2]).clip(-1e4, 1e4)).astype(int).tolist()
        for a, b in skeleton.limb_indices:
            if shown[a] and shown[b]:
                cv2.line(picture, at[a], at[b], colour, thick + 1, cv2.LINE_AA)
        for joint in np.flatnonzero(shown).tolist():
            cv2.circle(picture, at[joint], thick + 1, side_colour(skeleton, joint), -1, cv2.LINE_AA)
    return picture


def side_colour(skeleton: Skeleton, joint: int) -> tuple[int, int, int]:
    """The colour of a joint's side: left, right, or neither."""
    return {"left": LEFT, "right": RIGHT, "": MIDDLE}[side(skeleton.joints[joint])]


def overlay_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """The maximum over joints of heatmaps (K, h, w) over an image, as colours of 0 to 1."""
    heat = heatmaps.max(0).clip(0, 1)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return _blend(image, colours, 0.25 + 0.5 * heat)


def draw_mask(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The image with the cells that are not supervised, 0 in mask (h, w), darkened; None: none."""
    if mask is None:
        return image
    scaled = cv2.resize(
        mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    return (image * (0.35 + 0.65 * scaled[..., None])).astype(np.uint8)


def draw_tags(image: np.ndarray, heatmaps: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Where heat is high, the tag (K, h, w) of the joint of highest heat, as a colour.

    Tags separate people well if each person has one colour, and no two people the same.
    """
    best = heatmaps.argmax(0)[None]
    heat = np.take_along_axis(heatmaps, best, 0)[0].clip(0, 1)
    tag = np.take_along_axis(tags, best, 0)[0]
    seen = tag[heat > 0.3]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 1.0)
    level = ((tag - low) / max(high - low, 1e-6)).clip(0, 1)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_HSV)[..., ::-1]
    return _blend(image, colours, (heat * 1.5).clip(0, 1))


def draw_values(
    image: np.ndarray, values: np.ndarray, bounds: tuple[float, float], share: np.ndarray
) -> np.ndarray:
    """Values (h, w) over a grey version of the image, in the colours of `colour_bar`.

    bounds: the values of the first colour and of the last
    share: (h, w) opacity of the values, from 0 to 1
    """
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, _rainbow(values, bounds), share)


def draw_notes(image: np.ndarray, places: np.ndarray, notes: Sequence[str]) -> np.ndarray:
    """A note above each place (N, 2), in white on black, moved to lie within the image."""
    picture = image.copy()
    for note, (x, y) in zip(notes, places):
        (width, height), _ = cv2.getTextSize(note, FONT, FONT_SIZE, 1)
        left = round(np.clip(x, 0, max(image.shape[1] - width, 0)).item())
        foot = round(np.clip(y, height + 2, image.shape[0] - 2).item())
        picture[foot - height - 2 : foot + 2, left : left + width] = BLACK
        _put_text(picture, note, (left, foot), WHITE)
    return picture


def draw_boxes(image: np.ndarray, boxes: np.ndarray, notes: Sequence[str] = ()) -> np.ndarray:
    """Boxes (N, 4) x, y, width, height, and, if there are notes, one at each upper left corner."""
    picture = image.copy()
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]).clip(-1e4, 1e4)
    for left, top, right, bottom in np.rint(corners).astype(int).tolist():
        cv2.rectangle(picture, (left, top), (right, bottom), WHITE, 1)
    return draw_notes(picture, boxes[:, :2], notes)


def colour_bar(width: int, bounds: tuple[float, float]) -> np.ndarray:
    """A strip `width` pixels wide with the colours of `draw_values` and their values."""
    strip = np.full((42, width, 3), 255, np.uint8)
    left, right = 40, width - 40
    strip[2:20, left:right] = _rainbow(np.linspace(*bounds, right - left)[None], bounds)
    digits = max(2, 1 + math.ceil(-math.log10(bounds[1] - bounds[0])))
    for place, value in zip(np.linspace(left, right, 5), np.linspace(*bounds, 5)):
        _put_text(strip, f"{value:.{digits}f}", (round(place) - 22, 36), BLACK)
    return strip


def scatter(
    x: np.ndarray, panels: Mapping[str, np.ndarray], names: tuple[str, str], level: float
) -> np.ndarray:
    """Dots in panels with common axes, x in powers of 2, with the medians of y along x.

    x: (N,) above 0   panels: title -> y (N,)
    names: of x and y   level: of y, to compare with; a dashed line
    """
    try:  # a second to import, and nothing else needs it
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a scatter plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(5.5 * len(panels), 4.5), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    groups = [part for part in np.array_split(np.argsort(x), 8) if len(part)]  # along x
    plots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, y) in zip(plots, panels.items()):
        medians = [[np.median(values[part]) for part in groups] for values in (x, y)]
        axes.axhline(level, color="grey", linestyle="--", linewidth=1)
        axes.scatter(x, y, s=9, alpha=0.5, linewidths=0)
        axes.plot(*medians, "o-", color="black", markersize=4, label="median")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(title=title, xlabel=names[0], ylabel=names[1])
        axes.legend()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def side_by_side(images: Sequence[np.ndarray], columns: int = 0) -> np.ndarray:
    """Images of any sizes in a grid, row by row, on white; 0 columns: one row."""
    columns = columns or len(images)
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    heights = [max(image.shape[0] for image in row) + 4 for row in rows]
    widths = [max(image.shape[1] for image in images[i::columns]) + 4 for i in range(columns)]
    sheet = np.full((sum(heights), sum(widths), 3), 255, np.uint8)
    for row, top in zip(rows, np.cumsum([0, *heights])):
        for image, left in zip(row, np.cumsum([0, *widths])):
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a line of text."""
    strip = np.full((22, image.shape[1], 3), 255, np.uint8)
    _put_text(strip, title, (4, 16), BLACK)
    return np.concatenate([strip, image])


def _put_text(
    picture: np.ndarray, text: str, foot: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Write into the picture itself; `foot` is where the text's base line begins."""
    cv2.putText(picture, text, foot, FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)


def _blend(image: np.ndarray, colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`colours` (h, w, 3) over the image, weighted by `share` (h, w)."""
    size = image.shape[1::-1]
    colours = cv2.resize(colours, size).astype(np.float32)
    share = cv2.resize(share.astype(np.float32), size)[..., None]
    return (image * (1 - share) + colours * share).astype(np.uint8)


def _rainbow(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The colours (h, w, 3) of values (h, w): blue, green, red, distinct from a grey image."""
    level = ((values - bounds[0]) / (bounds[1] - bounds[0])).clip(0, 1)
    return cv2.applyColorMap(np.rint(255 * level).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
