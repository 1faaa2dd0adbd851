"""Every map between image, network and heatmap pixels, and the coordinate convention they follow.

`official` is the convention that the published weights were trained with. It is not symmetric:

* A joint's x, y and an image's column, row are moved by one and the same matrix, without half
  pixels: the joint at (8.7, 4) is the pixel in column 8.
* A cell of a heatmap with stride s is found by truncation: network pixel 8.7 is cell int(8.7 / 4)
  = 2 at stride 4. Decoding adds half a cell, so that cell 2 comes back as 2.5 * 4 = 10, the
  middle of the pixels 8 to 11 that it stands for.
* A mirror sends x to size - 1 - x in every frame, and truncation comes last. In a 512-pixel crop
  x = 8.7 becomes 502.3; its cell is not int(502.3 / 4) = 125 but the mirror of the unmirrored
  place 8.7 / 4 = 2.175 in the 128 cells: int(127 - 2.175) = 124. The cell cannot be told from
  mirrored pixels alone, hence `mirrored` in every batch, and `to_cells` as the only way to cells.

This file imports no torch: a shipped model maps its poses back to the image without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CONVENTIONS = ("official",)


class Affine(NamedTuple):
    """An affine map of the plane: pixels of one frame to pixels of another."""

    matrix: np.ndarray  # (2, 3) float64

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Where the points (..., 2) go."""
        return np.asarray(xy, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def joints(self, joints: np.ndarray) -> np.ndarray:
        """Joints (..., 2 + any) with x, y moved and the rest (visibility, score) kept."""
        return np.concatenate([self.points(joints[..., :2]), joints[..., 2:]], -1)

    def image(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The image (H, W[, 3]) seen through the map in a frame of size (width, height).

        What lies outside the image is 0.
        """
        return cv2.warpAffine(image, self.matrix, size, flags=cv2.INTER_LINEAR)

    def coarser(self, stride: int) -> Affine:
        """The same map to a frame of cells, where cell i stands at pixel `stride` * i."""
        return Affine(self.matrix / stride)

    def inverse(self) -> Affine:
        return Affine(cv2.invertAffineTransform(self.matrix))

    @property
    def scale(self) -> float:
        """How much longer a length becomes."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))


def about(
    centre: tuple[float, float], size: tuple[int, int], scale: float, degrees: float = 0.0
) -> Affine:
    """Zoom by `scale`, turn about `centre`, and bring it to the middle of a frame `size` (w, h)."""
    angle = math.radians(degrees)
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    middle = np.array(size, np.float64) / 2
    return Affine(np.column_stack([turn, middle - turn @ np.array(centre, np.float64)]))


def fit(
    image_size: tuple[int, int], input_size: int, scale: float = 1.0, smallest: float = 1.0
) -> tuple[tuple[int, int], Affine]:
    """How an image is brought to the network: its size there, and the map from image to network.

    The shorter side becomes `input_size` * `scale`; the longer is padded to a multiple of 64 at
    the smallest scale of the set, so that all scales show the same part of the plane.

    image_size: (width, height)   Returns (width, height), Affine.
    Source: the resize rule of HigherHRNet's released evaluation.
    """
    width, height = image_size
    base = _next_64(int(smallest * input_size))
    short = int(base * scale / smallest)
    long = int(_next_64(int(base / min(image_size) * max(image_size))) * scale / smallest)
    size = (short, long) if width < height else (long, short)
    centre = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    return size, about(centre, size, short / min(image_size))


def _next_64(pixels: int) -> int:
    return (pixels + 63) // 64 * 64


def mirror_joints(joints: np.ndarray, width: int, flip_order: list[int]) -> np.ndarray:
    """Joints (N, K, 3) as they stand in the mirrored image of `width` pixels."""
    mirrored = joints[:, flip_order].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def mirror_image(image: np.ndarray) -> np.ndarray:
    """The image or mask (H, W[, 3]), of bytes or bool, from right to left.

    A copy: a view that runs backwards would be slow to read for everybody after.
    """
    return cv2.flip(image.view(np.uint8), 1).view(image.dtype)  # OpenCV knows no bool


def to_cells(joints: Tensor, stride: int, mirrored: Tensor, convention: str) -> Tensor:
    """Joints of network pixels as cells of a heatmap: whole numbers, possibly outside of it.

    joints: (B, N, K, 3) x, y, visibility   mirrored: (B,) bool
    Returns (B, N, K, 3) float.
    Truncation is towards 0, as in the authors' code: a joint up to one cell left of the map, or
    above it, is drawn in its first column or row.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; choose from {', '.join(CONVENTIONS)}")
    cells = joints.clone()
    turned = mirrored.to(joints.dtype)[:, None, None]
    cells[..., 0] = ((joints[..., 0] + turned) / stride - turned).trunc()
    cells[..., 1] = (joints[..., 1] / stride).trunc()
    return cells


def mask_at(mask: Tensor, step: int, mirrored: Tensor) -> Tensor:
    """A finer mask (B, H, W) read at every `step`-th cell, as the coarser frame would be warped.

    Column i of the coarser frame is column step * i of the finer one, and in a mirrored image
    step * i + step - 1, because each frame is mirrored for itself.
    """
    rows = mask[:, ::step]
    return rows[:, :, ::step].where(~mirrored[:, None, None], rows[:, :, step - 1 :: step])
