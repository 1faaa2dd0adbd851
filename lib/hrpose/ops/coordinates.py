"""Transforms between image, network and heatmap coordinates, and the table of conventions.

Each convention is one dataclass in `COORDINATES`; no other code branches on its name. In both, a
joint's x, y and an image's column, row are moved by the same matrix, and a horizontal flip sends x
to size - 1 - x in every frame.

`published` is the convention that the published weights were trained with. It is not symmetric:

* Coordinates are scaled as they stand, without half pixels: in an image of twice the size the
  joint at (8.7, 4) is at (17.4, 8).
* A cell of a heatmap with stride s is found by truncation: network pixel 8.7 is cell int(8.7 / 4)
  = 2 at stride 4. Decoding adds half a cell, so that cell 2 comes back as 2.5 * 4 = 10, the
  middle of the pixels 8 to 11 that it stands for.
* Truncation comes after the flip. In a 512-pixel crop x = 8.7 becomes 502.3; its cell is not
  int(502.3 / 4) = 125 but the flip of the unflipped position 8.7 / 4 = 2.175 in the 128 cells:
  int(127 - 2.175) = 124. Flipped pixels alone do not determine the cell, hence `mirrored` in every
  batch, and `to_heatmap_coords` as the only way to cells.

`unbiased` carries pixel centres through every transform and truncates nothing:

* x is the centre of pixel x, which extends from x - 0.5 to x + 0.5. Frames are scaled from their
  edge: add 0.5, transform, subtract 0.5. In an image of twice the size pixel 0 is the pixels 0
  and 1, and its centre (0 + 0.5) * 2 - 0.5 = 0.5 lies between them; 8.7 is at 17.9.
* Network pixel 8.7 is at (8.7 + 0.5) / 4 - 0.5 = 1.8 in the cells of stride 4, the centre of cell
  i being i. A Gaussian is drawn about 1.8; its tag is read in the nearest cell, 2, which stands
  for the pixels 8 to 11 and has its centre at pixel 9.5. Decoders count from the edge: they find
  2.3, which comes back as 2.3 * 4 - 0.5 = 8.7.
* In a 512-pixel crop the flipped joint, 502.3, is at (502.3 + 0.5) / 4 - 0.5 = 125.2 = 127 - 1.8:
  flipping pixels flips cells, and the same holds for bilinearly resized maps.

This module imports no torch: an exported model maps its poses back to the image without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MAX_ASPECT_RATIO = 32
"""Longest side over shortest side of an image: at 512 px its maps then take some gigabytes."""


@dataclass(frozen=True)
class PublishedCoordinates:
    """The convention of the published weights: scaled as they stand, truncated to cells."""

    pixel_offset: float = 0.0  # from the edge of a frame to its coordinate 0
    subpixel: str = "quarter"  # the offset rule of its decoder: ops/subpixel.py
    duplicate_peaks: bool = False  # whether one joint may give several equally high peaks

    def image_centre(self, image_size: tuple[int, int]) -> tuple[float, float]:
        """The point that the resized frame is centred on: the next whole pixel from the middle."""
        width, height = image_size
        return int(width / 2 + 0.5), int(height / 2 + 0.5)

    def to_heatmap_coords(self, joints: Tensor, stride: int, flipped: Tensor) -> Tensor:
        """Joints in network pixels -> whole cells of a heatmap, possibly outside of it.

        Truncation is towards 0, as in the authors' code: a joint up to one cell left of the map, or
        above it, is drawn in its first column or row.

        joints: (B, N, K, 3) x, y, visibility   flipped: (B,) bool   Returns (B, N, K, 3) float.
        """
        cells = joints.clone()
        turned = flipped.to(joints.dtype)[:, None, None]
        cells[..., 0] = ((joints[..., 0] + turned) / stride - turned).trunc()
        cells[..., 1] = (joints[..., 1] / stride).trunc()
        return cells

    def downsample_mask(self, mask: Tensor, step: int, flipped: Tensor) -> Tensor:
        """A mask (B, H, W) of 0 and 1 -> (B, H / step, W / step), read at every `step`-th cell.

        That is the mask warped to the coarser frame. Column i of the coarser frame is column
        step * i of the finer one, and in a flipped image step * i + step - 1, because each frame is
        flipped separately.
        """
        rows = mask[:, ::step]
        return rows[:, :, ::step].where(~flipped[:, None, None], rows[:, :, step - 1 :: step])


@dataclass(frozen=True)
class UnbiasedCoordinates:
    """Pixel centres are carried through every transform; joints lie between the cells."""

    pixel_offset: float = 0.5
    subpixel: str = "dark"
    duplicate_peaks: bool = True  # a joint halfway between cells has two or four highest ones

    def image_centre(self, image_size: tuple[int, int]) -> tuple[float, float]:
        """The point that the resized frame is centred on: the middle of the image."""
        return image_size[0] / 2, image_size[1] / 2

    def to_heatmap_coords(self, joints: Tensor, stride: int, flipped: Tensor) -> Tensor:
        """Joints in network pixels -> fractional cells, the centre of cell i being i.

        joints: (B, N, K, 3) x, y, visibility   flipped: (B,), not used   Returns (B, N, K, 3).
        """
        cells = joints.clone()
        cells[..., :2] = (joints[..., :2] + self.pixel_offset) / stride - self.pixel_offset
        return cells

    def downsample_mask(self, mask: Tensor, step: int, flipped: Tensor) -> Tensor:
        """(B, H, W) -> (B, H / step, W / step): 1 where at least half of the finer cells are 1.

        With a step of 2 that is the finer mask warped bilinearly, since its four cells are equally
        far from the centre of the coarser one.
        """
        blocks = mask.unflatten(1, (-1, step)).unflatten(3, (-1, step))  # (B, h, step, w, step)
        return (2 * blocks.sum((2, 4)) >= step * step).to(mask.dtype)


Coordinates = PublishedCoordinates | UnbiasedCoordinates
COORDINATES: dict[str, Coordinates] = {
    "published": PublishedCoordinates(),
    "unbiased": UnbiasedCoordinates(),
}


def coordinates(convention: str) -> Coordinates:
    """The convention of a name; ValueError names the others."""
    if convention not in COORDINATES:
        raise ValueError(f"convention is {convention!r}; choose from {', '.join(COORDINATES)}")
    return COORDINATES[convention]


class Affine(NamedTuple):
    """An affine transform of the plane: coordinates of one frame to those of another."""

    matrix: np.ndarray  # (2, 3) float64

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Transform points (..., 2)."""
        return np.asarray(xy, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def joints(self, joints: np.ndarray) -> np.ndarray:
        """Transform x, y of joints (..., 2 + any) and keep the rest (visibility, score)."""
        return np.concatenate([self.points(joints[..., :2]), joints[..., 2:]], -1)

    def image(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Warp an image (H, W[, 3]) to a frame of size (width, height); 0 outside the image."""
        return cv2.warpAffine(image, self.matrix, size, flags=cv2.INTER_LINEAR)

    def to_cell_frame(self, stride: float, convention: str) -> Affine:
        """From a transform to network pixels: on to cells as decoders count them.

        They count from the edge of the map: the middle of cell 0 is 0.5.
        stride: network pixels per cell
        """
        offset = coordinates(convention).pixel_offset
        return Affine((self.matrix + [0, 0, offset]) / stride)

    def to_stride(self, stride: int, convention: str = "published") -> Affine:
        """From a transform to network pixels: on to cells as images and masks count them.

        Cell i is read at pixel `stride` * i (published), or at the middle of its pixels (unbiased).
        """
        offset = coordinates(convention).pixel_offset
        return Affine(self.to_cell_frame(stride, convention).matrix - [0, 0, offset])

    def inverse(self) -> Affine:
        return Affine(cv2.invertAffineTransform(self.matrix))

    @property
    def scale(self) -> float:
        """The factor by which lengths grow."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))


def similarity(
    centre: tuple[float, float],
    size: tuple[int, int],
    scale: float,
    degrees: float = 0.0,
    convention: str = "published",
) -> Affine:
    """Scale, rotate about `centre`, and move it to the middle of a frame of `size` (w, h).

    centre: counted from the edge of the image, whose middle is half its width and height
    """
    offset = coordinates(convention).pixel_offset
    angle = math.radians(degrees)
    rotation = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    pivot = np.array(centre, np.float64) - offset
    middle = np.array(size, np.float64) / 2 - offset
    return Affine(np.column_stack([rotation, middle - rotation @ pivot]))


def check_image(image: np.ndarray) -> tuple[int, int]:
    """(width, height) of an image (H, W, 3) uint8; ValueError if it is none, or too long."""
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        actual = f"{image.shape} {image.dtype}" if is_array else type(image).__name__
        raise ValueError(f"an image is (H, W, 3) uint8 RGB; this is {actual}")
    height, width = image.shape[:2]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"an image of {width} x {height} is more than {MAX_ASPECT_RATIO} times as long as "
            "wide, and would be enlarged until its shorter side fits: cut it into pieces"
        )
    return width, height


def resize_transform(
    image_size: tuple[int, int],
    input_size: int,
    scale: float = 1.0,
    smallest: float = 1.0,
    convention: str = "published",
) -> tuple[tuple[int, int], Affine]:
    """The size of an image in the network, and the transform from image to network pixels.

    The shorter side becomes `input_size` * `scale`; the longer is padded to a multiple of 64 at
    the smallest scale of the set, so that all scales show the same part of the plane.

    image_size: (width, height)   Returns (width, height), Affine.
    Source: the resize rule of HigherHRNet's released evaluation.
    """
    width, height = image_size
    base = -(-int(smallest * input_size) // 64) * 64  # the next multiple of 64
    short = int(base * scale / smallest)
    padded = -(-int(base / min(image_size) * max(image_size)) // 64) * 64
    long = int(padded * scale / smallest)
    size = (short, long) if width < height else (long, short)
    centre = coordinates(convention).image_centre(image_size)
    return size, similarity(centre, size, short / min(image_size), convention=convention)


def mirror_joints(joints: np.ndarray, width: int, flip_order: list[int]) -> np.ndarray:
    """Joints (N, K, 3) in the horizontally flipped image of `width` pixels."""
    mirrored = joints[:, flip_order].copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored


def mirror_image(image: np.ndarray) -> np.ndarray:
    """The image or mask (H, W[, 3]) of bytes or bool, flipped horizontally.

    A copy: a view with a negative stride would slow down every later read.
    """
    return cv2.flip(image.view(np.uint8), 1).view(image.dtype)  # OpenCV has no bool
