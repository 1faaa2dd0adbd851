"""Boxes of people, x, y, width, height in image pixels, and the crops that a network sees of them.

A crop is the box about its centre, extended to the proportions of the network's input and then by
`PADDING`. This module imports no torch.

Sources: Sun et al. 2019 (HRNet), section 4.1, and its released code; for `unbiased`, Huang et al.
2020 (UDP).
"""

from __future__ import annotations

import numpy as np

from hrpose.ops.coordinates import CONVENTIONS, Affine, similarity

PADDING = 1.25
"""Side of a crop, in sides of the box that has the network's proportions."""


def crop_transform(
    box: np.ndarray,
    size: tuple[int, int],
    padding: float = PADDING,
    rotation: float = 0.0,
    coordinates: str = "hrnet",
) -> Affine:
    """From image pixels to the network pixels of one person's crop.

    The box's centre (x + w / 2, y + h / 2) comes to the middle of the input: (W / 2, H / 2), or
    with `unbiased` coordinates ((W - 1) / 2, (H - 1) / 2).

    box: (4,) x, y, width, height   size: (W, H) of the network's input
    rotation: degrees; positive turns the picture counter-clockwise
    Errors: ValueError for a box that is not finite or not above 0 in width and height.
    """
    x, y, width, height = check_boxes(np.asarray(box)[None])[0]
    convention = CONVENTIONS[coordinates]
    edge = convention.pixel_offset  # from a coordinate to its distance from the image's edge
    centre = (x + width / 2 + edge, y + height / 2 + edge)
    scale = size[0] / padded_size((width, height), size, padding)[0]
    return similarity(centre, size, scale, rotation, convention)


def padded_size(
    extent: tuple[float, float], size: tuple[int, int], padding: float = PADDING
) -> tuple[float, float]:
    """Width and height of a crop in image pixels, of the proportions of the input `size` (W, H)."""
    width, height = extent
    aspect = size[0] / size[1]
    width = max(width, height * aspect)
    return width * padding, width / aspect * padding


def padded_areas(boxes: np.ndarray, size: tuple[int, int], padding: float = PADDING) -> np.ndarray:
    """Areas (N,) of the crops of boxes (N, 4) in square image pixels, without rotation."""
    aspect = size[0] / size[1]
    width = np.maximum(boxes[:, 2], boxes[:, 3] * aspect) * padding
    return width**2 / aspect


def check_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) as float64. ValueError with the index of one that is no box, and the cure."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are {boxes.shape}; give (N, 4): x, y, width, height in pixels")
    valid = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1)
    if not valid.all():
        index = int(np.flatnonzero(~valid)[0])
        raise ValueError(
            f"box {index} is {boxes[index].tolist()}; wanted finite x, y, width, height, the last "
            "two above 0 (not two corners)"
        )
    return boxes
