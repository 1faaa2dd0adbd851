"""Every map between image, network and heatmap pixels, and the two conventions they may follow.

In both, a joint's x, y and an image's column, row are moved by one and the same matrix, and a
mirror sends x to size - 1 - x in every frame.

`official` is the convention that the published weights were trained with. It is not symmetric:

* Coordinates are scaled as they stand, without half pixels: in an image of twice the size the
  joint at (8.7, 4) is at (17.4, 8).
* A cell of a heatmap with stride s is found by truncation: network pixel 8.7 is cell int(8.7 / 4)
  = 2 at stride 4. Decoding adds half a cell, so that cell 2 comes back as 2.5 * 4 = 10, the
  middle of the pixels 8 to 11 that it stands for.
* Truncation comes after the mirror. In a 512-pixel crop x = 8.7 becomes 502.3; its cell is not
  int(502.3 / 4) = 125 but the mirror of the unmirrored place 8.7 / 4 = 2.175 in the 128 cells:
  int(127 - 2.175) = 124. The cell cannot be told from mirrored pixels alone, hence `mirrored` in
  every batch, and `to_cells` as the only way to cells.

`exact` carries the centres of pixels through every map, and cuts nothing off:

* x is the centre of pixel x, which reaches from x - 0.5 to x + 0.5. Frames are scaled from their
  edge: add 0.5, map, take 0.5 off. In an image of twice the size pixel 0 is the pixels 0 and 1,
  and its centre (0 + 0.5) * 2 - 0.5 = 0.5 lies between them; 8.7 is at 17.9.
* Network pixel 8.7 is at (8.7 + 0.5) / 4 - 0.5 = 1.8 in the cells of stride 4, the centre of cell
  i being i. A Gaussian is drawn about 1.8; its tag is read in the nearest cell, 2, which stands
  for the pixels 8 to 11 and has its centre at pixel 9.5. Decoders count from the edge: they find
  2.3, which comes back as 2.3 * 4 - 0.5 = 8.7.
* In a 512-pixel crop the mirrored joint, 502.3, is at (502.3 + 0.5) / 4 - 0.5 = 125.2 = 127 - 1.8:
  whoever mirrors pixels has mirrored cells, and so it is with maps resized bilinearly.

This file imports no torch: a shipped model maps its poses back to the image without it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_HALF = {"official": 0.0, "exact": 0.5}
CONVENTIONS = tuple(_HALF)


def half_pixel(convention: str) -> float:
    """How far the coordinate 0 lies from the edge that its frame is scaled from."""
    if convention not in _HALF:
        raise ValueError(f"convention is {convention!r}; choose from {', '.join(CONVENTIONS)}")
    return _HALF[convention]


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

    def shifted(self, by: float) -> Affine:
        """The same map, and then `by` further right and down."""
        return Affine(self.matrix + [0, 0, by])

    def coarser(self, stride: int, convention: str = "official") -> Affine:
        """The same map to a frame of cells.

        Cell i is read at pixel `stride` * i (official), or at the middle of its pixels (exact).
        """
        return decoded_frame(self, stride, convention).shifted(-half_pixel(convention))

    def inverse(self) -> Affine:
        return Affine(cv2.invertAffineTransform(self.matrix))

    @property
    def scale(self) -> float:
        """How much longer a length becomes."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))


def about(
    centre: tuple[float, float],
    size: tuple[int, int],
    scale: float,
    degrees: float = 0.0,
    convention: str = "official",
) -> Affine:
    """Zoom by `scale`, turn about `centre`, and bring it to the middle of a frame `size` (w, h).

    centre: counted from the edge of the image, whose middle is half its width and height
    """
    half = half_pixel(convention)
    angle = math.radians(degrees)
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    pivot = np.array(centre, np.float64) - half
    middle = np.array(size, np.float64) / 2 - half
    return Affine(np.column_stack([turn, middle - turn @ pivot]))


def decoded_frame(to_network: Affine, stride: float, convention: str) -> Affine:
    """On to cells as decoders count them: from the edge of the map, the middle of cell 0 is 0.5.

    to_network: from wherever to network pixels   stride: network pixels per cell
    """
    return Affine(to_network.shifted(half_pixel(convention)).matrix / stride)


def network_frame(to_decoded: Affine, stride: float, convention: str) -> Affine:
    """The map to network pixels that `decoded_frame` carried on to cells."""
    return Affine(to_decoded.matrix * stride).shifted(-half_pixel(convention))


LONGEST = 32
"""Times its shorter side that an image may be long: at 512 px its maps then fill some gigabytes."""


def size_of(image: np.ndarray) -> tuple[int, int]:
    """(width, height) of an image to look at. ValueError for what is none, or is too long."""
    is_array = isinstance(image, np.ndarray)
    if not is_array or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        found = f"{image.shape} {image.dtype}" if is_array else type(image).__name__
        raise ValueError(f"an image is (H, W, 3) uint8 RGB; this is {found}")
    height, width = image.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(
            f"an image of {width} x {height} is more than {LONGEST} times as long as wide, and "
            "would be enlarged until its shorter side fits: cut it into pieces"
        )
    return width, height


def fit(
    image_size: tuple[int, int],
    input_size: int,
    scale: float = 1.0,
    smallest: float = 1.0,
    convention: str = "official",
) -> tuple[tuple[int, int], Affine]:
    """How an image is brought to the network: its size there, and the map from image to network.

    The shorter side becomes `input_size` * `scale`; the longer is padded to a multiple of 64 at
    the smallest scale of the set, so that all scales show the same part of the plane.
    In the middle of the frame stands that of the image; official: the next whole pixel from it.

    image_size: (width, height)   Returns (width, height), Affine.
    Source: the resize rule of HigherHRNet's released evaluation.
    """
    width, height = image_size
    base = _next_64(int(smallest * input_size))
    short = int(base * scale / smallest)
    long = int(_next_64(int(base / min(image_size) * max(image_size))) * scale / smallest)
    size = (short, long) if width < height else (long, short)
    centre = (width / 2, height / 2)
    if convention == "official":
        centre = (int(width / 2 + 0.5), int(height / 2 + 0.5))
    return size, about(centre, size, short / min(image_size), convention=convention)


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
    """Joints of network pixels in cells of a heatmap, possibly outside of it.

    official: whole numbers. Truncation is towards 0, as in the authors' code: a joint up to one
    cell left of the map, or above it, is drawn in its first column or row.
    exact: fractions, the centre of cell i being i; `mirrored` is of no account.

    joints: (B, N, K, 3) x, y, visibility   mirrored: (B,) bool
    Returns (B, N, K, 3) float.
    """
    half = half_pixel(convention)
    cells = joints.clone()
    if convention == "exact":
        cells[..., :2] = (joints[..., :2] + half) / stride - half
        return cells
    turned = mirrored.to(joints.dtype)[:, None, None]
    cells[..., 0] = ((joints[..., 0] + turned) / stride - turned).trunc()
    cells[..., 1] = (joints[..., 1] / stride).trunc()
    return cells


def mask_at(mask: Tensor, step: int, mirrored: Tensor, convention: str = "official") -> Tensor:
    """A finer mask (B, H, W) of 0 and 1 as the coarser frame of H / step x W / step shows it."""
    half_pixel(convention)  # refuses what is none
    return _most_of(mask, step) if convention == "exact" else _every(mask, step, mirrored)


def _every(mask: Tensor, step: int, mirrored: Tensor) -> Tensor:
    """The mask read at every `step`-th cell, as the coarser frame would be warped.

    Column i of the coarser frame is column step * i of the finer one, and in a mirrored image
    step * i + step - 1, because each frame is mirrored for itself.
    """
    rows = mask[:, ::step]
    return rows[:, :, ::step].where(~mirrored[:, None, None], rows[:, :, step - 1 :: step])


def _most_of(mask: Tensor, step: int) -> Tensor:
    """1 where at least half of the `step` x `step` finer cells are, also where just half are.

    With a step of 2 that is the finer mask warped bilinearly, since its four cells lie equally far
    from the middle of the coarser one.
    """
    blocks = mask.unflatten(1, (-1, step)).unflatten(3, (-1, step))  # (B, h, step, w, step)
    return (2 * blocks.sum((2, 4)) >= step * step).to(mask.dtype)
