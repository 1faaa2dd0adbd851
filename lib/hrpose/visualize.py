"""Pictures: poses on images, heatmaps and tags over them, and several side by side.

Everything here takes and gives images (H, W, 3) uint8 RGB, and changes none in place.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from hrpose.skeletons import Skeleton, side

LEFT, RIGHT, MIDDLE = (66, 190, 255), (255, 140, 60), (240, 240, 120)
"""Colours of joints by side of the body: blue left, orange right."""


def draw_poses(
    image: np.ndarray, joints: np.ndarray, skeleton: Skeleton, least: float = 0.0
) -> np.ndarray:
    """People (N, K, 3) on an image: limbs in a colour per person, joints in a colour per side.

    joints: x, y in pixels of the image, and score or visibility; those not above `least` are
    left out
    """
    picture = image.copy()
    thick = max(1, round(max(image.shape[:2]) / 300))
    for person, colour in zip(joints, _colours(len(joints))):
        shown = (person[:, 2] > least) & np.isfinite(person[:, :2]).all(1)
        at = [
            tuple(map(int, np.rint(np.clip(xy, -1e4, 1e4)))) for xy in np.nan_to_num(person[:, :2])
        ]
        for a, b in skeleton.limb_indices:
            if shown[a] and shown[b]:
                cv2.line(picture, at[a], at[b], colour, thick + 1, cv2.LINE_AA)
        for joint in np.flatnonzero(shown).tolist():
            cv2.circle(picture, at[joint], thick + 1, side_colour(skeleton, joint), -1, cv2.LINE_AA)
    return picture


def side_colour(skeleton: Skeleton, joint: int) -> tuple[int, int, int]:
    """Left, right, or neither."""
    return {"left": LEFT, "right": RIGHT, "": MIDDLE}[side(skeleton.joints[joint])]


def draw_heatmaps(image: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """The highest of all joints' heatmaps (K, h, w) over an image; 1 glows, 0 does not."""
    return _glow(image, heatmaps.max(0).clip(0, 1))


def draw_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What is not supervised, mask (h, w), darkened."""
    scaled = cv2.resize(
        mask.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    return (image * (0.35 + 0.65 * scaled[..., None])).astype(np.uint8)


def draw_tags(image: np.ndarray, heatmaps: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """The tag (K, h, w) of whatever joint stands highest at a place, as a colour, where one stands.

    One person should be of one colour, and two people of two.
    """
    best = heatmaps.argmax(0)[None]
    heat = np.take_along_axis(heatmaps, best, 0)[0].clip(0, 1)
    tag = np.take_along_axis(tags, best, 0)[0]
    seen = tag[heat > 0.3]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 1.0)
    level = ((tag - low) / max(high - low, 1e-6)).clip(0, 1)
    colours = cv2.applyColorMap((255 * level).astype(np.uint8), cv2.COLORMAP_HSV)[..., ::-1]
    return _blend(image, colours, (heat * 1.5).clip(0, 1))


def side_by_side(images: Sequence[np.ndarray], columns: int = 0) -> np.ndarray:
    """Images of any sizes in a grid, row by row, on white."""
    columns = columns or len(images)
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + 4), columns * (width + 4), 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 4), i % columns * (width + 4)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a line of text."""
    strip = np.full((22, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])


def _glow(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return _blend(image, colours, 0.25 + 0.5 * heat)


def _blend(image: np.ndarray, colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`colours` (h, w, 3) over the image, as much of them as `share` (h, w) says."""
    size = image.shape[1::-1]
    colours = cv2.resize(colours, size).astype(np.float32)
    share = cv2.resize(share.astype(np.float32), size)[..., None]
    return (image * (1 - share) + colours * share).astype(np.uint8)


def _colours(count: int) -> list[tuple[int, int, int]]:
    """So many colours, far apart."""
    return [_rgb((0.13 + 0.618034 * i) % 1) for i in range(count)]


def _rgb(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1)
    return int(255 * red), int(255 * green), int(255 * blue)
