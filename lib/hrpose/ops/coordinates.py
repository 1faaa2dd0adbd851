"""Transforms between image, network and heatmap coordinates, and the table of conventions.

Three frames: image pixels, network pixels (the resized or cropped image), and the cells of a
heatmap, of which one stands for stride x stride network pixels. A joint's x, y and an image's
column, row are moved by the same matrix, and a horizontal flip sends x to size - 1 - x in every
frame. What else is done in a frame is the convention's; each is one class below, and no other code
branches on it:

                    higherhrnet             hrnet                   unbiased
                    published, bottom-up    published, top-down     of both families
joint -> cell       x / s, truncated after  x / s + 0.5, truncated  (x + 0.5) / s - 0.5, fractional
                    the flip
Gaussian            about the cell          about the cell          about the joint
  patch, sigma 2    15 x 15                 13 x 13                 15 x 15
  cell outside      not drawn               drawn where it reaches  not drawn
                                            into the map
decoded cell c      c + 0.5                 c                       c + 0.5, counted from the edge
  step within it    1/4, ties left and up   1/4, 0 for ties and at  DARK
                                            the border
flipped maps        as they are             moved right by a cell   as they are
image -> network    scaled as it stands     scaled as it stands     scaled from its edge

`higherhrnet` is the convention that the weights of HigherHRNet and SWAHR were trained with. It is
not symmetric:

* Coordinates are scaled as they stand, without half pixels: in an image of twice the size the
  joint at (8.7, 4) is at (17.4, 8).
* A cell of a heatmap with stride s is found by truncation: network pixel 8.7 is cell int(8.7 / 4)
  = 2 at stride 4. Decoding adds half a cell, so that cell 2 comes back as 2.5 * 4 = 10, the
  middle of the pixels 8 to 11 that it stands for.
* Truncation comes after the flip. In a 512-pixel crop x = 8.7 becomes 502.3; its cell is not
  int(502.3 / 4) = 125 but the flip of the unflipped position 8.7 / 4 = 2.175 in the 128 cells:
  int(127 - 2.175) = 124. Flipped pixels alone do not determine the cell, hence `flipped` in every
  batch, and `to_heatmap_coords` as the only way to cells.

`hrnet` is the convention that the weights of top-down HRNet were trained with. It rounds:

* Coordinates are scaled as they stand, and cell i is network pixel 4 * i: pixel 8.7 is cell
  int(8.7 / 4 + 0.5) = 2, which comes back as 2 * 4 = 8; the half that was added is not taken off
  again. int() truncates towards 0: joints up to 1.5 cells left of the map are in its column 0.
* A joint at pixel -15 is in cell int(-3.75 + 0.5) = -3. The 13 x 13 patch about it reaches from
  cell -9 to 3, and the columns 0 to 3 are drawn. Only a joint whose patch misses the map is not
  supervised.
* Images are flipped before they are cropped, so that flipped joints need no special case. But in a
  crop of 192 pixels the flip of cell 2 = pixel 8 is pixel 183, cell int(183 / 4 + 0.5) = 46, and
  the flip of that in 48 cells is 1: heatmaps of a flipped image, flipped back, lie a cell too far
  left (for 3/4 of all positions), and are moved right by one before they are averaged.

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
Sources: the released code of HigherHRNet and of HRNet; for `unbiased`, Huang et al. 2020 (UDP).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MAX_ASPECT_RATIO = 32
"""Longest side over shortest side of an image: at 512 px its maps then take some gigabytes."""


# The table of conventions ---------------------------------------------------------------------


@dataclass(frozen=True)
class Convention:
    """What a coordinate convention decides, as most of them do; each subclass states the rest."""

    name: str = ""  # in CONVENTIONS
    pixel_offset: float = 0.0  # from the edge of a frame to its coordinate 0
    cell_centre: float = 0.5  # of cell 0, as decoders count
    subpixel: str = "quarter"  # value of TEST.SUBPIXEL for which `convention` stands
    quarter: str = "signed_quarter"  # rule of ops/subpixel.py for which `quarter` stands
    duplicate_peaks: bool = False  # whether one joint may give several equally high peaks
    centre_unit: float = 0.5  # pixels, up to a multiple of which an image's middle is rounded

    def to_heatmap_coords(
        self, joints: Tensor, stride: int, flipped: Tensor | None = None
    ) -> Tensor:
        """Joints in network pixels -> cells of a heatmap, possibly outside of it.

        joints: (B, N, K, 3) x, y, visibility   flipped: (B,) bool; None: no image is
        Returns (B, N, K, 3) float.
        """
        raise NotImplementedError

    def nearest_cell(self, coords: Tensor) -> Tensor:
        """The whole cell of heatmap coordinates: where tags are read and patches are centred."""
        return coords.trunc()

    def patch_radius(self, sigma: float) -> int:
        """Cells from the centre of a Gaussian's patch to its border."""
        return math.ceil(3 * sigma) + 1

    def patch_margin(self, sigma: float) -> tuple[int, int]:
        """How far before the first and after the last cell of a map a joint is still supervised."""
        return 0, 0

    def gaussian(
        self, offset: Tensor, reach: Tensor, sigma: float, variances: Tensor | None = None
    ) -> Tensor:
        """Patches exp(-d^2 / 2 sigma^2) of value 1 at their centre.

        offset: (B, N, K, 2) of the joint from its cell   reach: (P,) cells from the centre
        variances: (B, N) factors of sigma^2   Returns (P, P), (B, N, 1, P, P) or (B, N, K, P, P).
        """
        square = (reach[:, None] ** 2 + reach**2).float()
        patch = (-square / (2 * sigma**2)).exp()
        return patch if variances is None else patch ** (1 / variances)[:, :, None, None, None]

    def may_step(self, column: np.ndarray, row: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Whether decoders move a joint within its cell; size: (H, W) of the map."""
        return np.ones(np.shape(column), bool)

    def align_flipped(self, maps: Any) -> Any:
        """Maps (..., W) of a flipped image, flipped back -> aligned with those of the image."""
        return maps

    def flip_displacement(self, stride: int) -> float:
        """Cells by which a place in the flipped image, flipped back in its cells, is too far right.

        Pixel x is at (x + pixel_offset) / s - cell_centre in the cells, and its flip at W - 1 - x.
        """
        return (1 - 2 * self.pixel_offset) / stride + 2 * self.cell_centre - 1

    def downsample_mask(self, mask: Tensor, step: int, flipped: Tensor) -> Tensor:
        """A mask (B, H, W) of 0 and 1 -> (B, H / step, W / step), read at every `step`-th cell.

        That is the mask warped to the coarser frame: its cell i is cell step * i of the finer one.
        """
        return mask[:, ::step, ::step]

    def subpixel_rule(self, option: str) -> str:
        """The name in ops.subpixel.SUBPIXEL for a value of TEST.SUBPIXEL."""
        rule = self.subpixel if option == "convention" else option
        return self.quarter if rule == "quarter" else rule


@dataclass(frozen=True)
class HigherHRNetCoordinates(Convention):
    """Published, bottom-up: scaled as it stands, truncated to cells after the flip."""

    name: str = "higherhrnet"
    quarter: str = "quarter"
    centre_unit: float = 1.0

    def to_heatmap_coords(
        self, joints: Tensor, stride: int, flipped: Tensor | None = None
    ) -> Tensor:
        """Whole cells.

        Truncation is towards 0, as in the authors' code: a joint up to one cell left of the map, or
        above it, is drawn in its first column or row.
        """
        cells = joints.clone()
        turned = 0 if flipped is None else flipped.to(joints.dtype)[:, None, None]
        cells[..., 0] = ((joints[..., 0] + turned) / stride - turned).trunc()
        cells[..., 1] = (joints[..., 1] / stride).trunc()
        return cells

    def downsample_mask(self, mask: Tensor, step: int, flipped: Tensor) -> Tensor:
        """In a flipped image column i is column step * i + step - 1 of the finer mask, because each
        frame is flipped separately."""
        rows = mask[:, ::step]
        return rows[:, :, ::step].where(~flipped[:, None, None], rows[:, :, step - 1 :: step])


@dataclass(frozen=True)
class HRNetCoordinates(Convention):
    """Published, top-down: scaled as it stands, rounded to cells, decoded without the half cell."""

    name: str = "hrnet"
    cell_centre: float = 0.0

    def to_heatmap_coords(
        self, joints: Tensor, stride: int, flipped: Tensor | None = None
    ) -> Tensor:
        """Whole cells; halves are rounded up, and what is below 0 is truncated towards 0."""
        cells = joints.clone()
        cells[..., :2] = (joints[..., :2] / stride + 0.5).trunc()
        return cells

    def patch_radius(self, sigma: float) -> int:
        return int(3 * sigma)

    def patch_margin(self, sigma: float) -> tuple[int, int]:
        """A patch that ends one cell before the map is supervised too, as in the authors' code."""
        return self.patch_radius(sigma) + 1, self.patch_radius(sigma)

    def may_step(self, column: np.ndarray, row: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Not in the first two and the last column and row, where neither x nor y is moved."""
        height, width = size
        return (column >= 2) & (column <= width - 2) & (row >= 2) & (row <= height - 2)

    def align_flipped(self, maps: Any) -> Any:
        """Moved one cell to the right; the first column is repeated."""
        moved = maps + 0  # a copy, of an array as of a tensor
        moved[..., 1:] = maps[..., :-1]  # an index of columns would be copied to the device
        return moved


@dataclass(frozen=True)
class UnbiasedCoordinates(Convention):
    """Pixel centres are carried through every transform; joints lie between the cells."""

    name: str = "unbiased"
    pixel_offset: float = 0.5
    subpixel: str = "dark"
    duplicate_peaks: bool = True  # a joint halfway between cells has two or four highest ones

    def to_heatmap_coords(
        self, joints: Tensor, stride: int, flipped: Tensor | None = None
    ) -> Tensor:
        """Fractional cells, the centre of cell i being i."""
        cells = joints.clone()
        cells[..., :2] = (joints[..., :2] + self.pixel_offset) / stride - self.pixel_offset
        return cells

    def nearest_cell(self, coords: Tensor) -> Tensor:
        """Ties go to the right and down."""
        return (coords + 0.5).floor()

    def gaussian(
        self, offset: Tensor, reach: Tensor, sigma: float, variances: Tensor | None = None
    ) -> Tensor:
        """About the joint: its highest cell is at least exp(-1 / 4 sigma^2), .939 for sigma = 2."""
        variance = sigma**2 * (1 if variances is None else variances[:, :, None, None])
        across, down = (
            (-((place[..., None] - reach) ** 2) / (2 * variance)).exp()
            for place in offset.unbind(-1)
        )
        return down[..., :, None] * across[..., None, :]

    def downsample_mask(self, mask: Tensor, step: int, flipped: Tensor) -> Tensor:
        """1 where at least half of the finer cells are 1.

        With a step of 2 that is the finer mask warped bilinearly, since its four cells are equally
        far from the centre of the coarser one.
        """
        blocks = mask.unflatten(1, (-1, step)).unflatten(3, (-1, step))  # (B, h, step, w, step)
        return (2 * blocks.sum((2, 4)) >= step * step).to(mask.dtype)


HIGHERHRNET, HRNET, UNBIASED = HigherHRNetCoordinates(), HRNetCoordinates(), UnbiasedCoordinates()
CONVENTIONS: dict[str, Convention] = {each.name: each for each in (HIGHERHRNET, HRNET, UNBIASED)}
BOTTOM_UP: dict[str, Convention] = {"published": HIGHERHRNET, "unbiased": UNBIASED}
"""MODEL.COORDINATES -> the convention of a bottom-up network."""

TOP_DOWN: dict[str, Convention] = {"published": HRNET, "unbiased": UNBIASED}
"""MODEL.COORDINATES -> the convention of a top-down network."""


# Transforms -----------------------------------------------------------------------------------


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

    def to_cell_frame(self, stride: float, convention: Convention) -> Affine:
        """From a transform to network pixels: on to cells as decoders count them.

        The middle of cell 0 is `convention.cell_centre`.   stride: network pixels per cell
        """
        return Affine((self.matrix + [0, 0, convention.pixel_offset]) / stride)

    def to_stride(self, stride: int, convention: Convention = HIGHERHRNET) -> Affine:
        """From a transform to network pixels: on to cells as images and masks count them.

        Cell i is read at pixel `stride` * i (published), or at the middle of its pixels (unbiased).
        """
        cells = self.to_cell_frame(stride, convention).matrix
        return Affine(cells - [0, 0, convention.pixel_offset])

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
    convention: Convention = HIGHERHRNET,
) -> Affine:
    """Scale, rotate about `centre`, and move it to the middle of a frame of `size` (w, h).

    centre: counted from the edge of the image, whose middle is half its width and height
    degrees: positive turns the picture counter-clockwise
    """
    offset = convention.pixel_offset
    angle = math.radians(degrees)
    rotation = scale * np.array(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
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
    convention: Convention = HIGHERHRNET,
) -> tuple[tuple[int, int], Affine]:
    """The size of an image in the network, and the transform from image to network pixels.

    The shorter side becomes `input_size` * `scale`, and the longer follows. Both are rounded up to
    multiples of 64 at the smallest scale of the set: all scales show the same part of the plane.

    image_size: (width, height)   Returns (width, height), Affine.
    Source: the resize rule of HigherHRNet's released evaluation.
    """
    width, height = image_size
    base = -(-int(smallest * input_size) // 64) * 64  # the next multiple of 64
    short = int(base * scale / smallest)
    padded = -(-int(base / min(image_size) * max(image_size)) // 64) * 64
    long = int(padded * scale / smallest)
    size = (short, long) if width < height else (long, short)
    zoom, unit, offset = short / min(image_size), convention.centre_unit, convention.pixel_offset
    centre = np.ceil(np.array(image_size) / (2 * unit)) * unit
    shift = np.array(size) / 2 - offset - zoom * (centre - offset)
    return size, Affine(np.column_stack([zoom * np.eye(2), shift]))


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
