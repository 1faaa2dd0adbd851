"""Boxes of people, x, y, width, height in image pixels, and the crops that a network sees of them.

A crop is the box about its centre, extended to the proportions of the network's input and then by
`PADDING`. This module imports no torch.

Sources: Sun et al. 2019 (HRNet), section 4.1, and its released code; for `unbiased`, Huang et al.
2020 (UDP).
"""

from __future__ import annotations

from typing import Any

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


def padded_size(extent: Any, size: tuple[int, int], padding: float = PADDING) -> Any:
    """Width and height of a crop in image pixels, of the proportions of the input `size` (W, H).

    extent: width and height of its box; or of N boxes, (2, N)
    """
    width, height = extent
    aspect = size[0] / size[1]
    width = np.maximum(width, height * aspect)
    return width * padding, width / aspect * padding


def are_outside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool: boxes (N, 4) without a point in their image.

    sizes: (N, 2) or (2,) width, height of the images
    """
    return ((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(1)


def check_boxes(boxes: Any) -> np.ndarray:
    """Boxes (N, 4), or an empty list, as (N, 4) float64.

    Errors: ValueError with the index of one that is no box, and the cure.
    """
    try:
        boxes = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:  # texts, or rows of different lengths
        raise ValueError(
            f"boxes are not numbers ({error}); give (N, 4): x, y, width, height in pixels"
        ) from None
    boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes
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
