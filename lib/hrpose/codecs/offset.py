"""Joints as discs of cells, each with its offset to the joint, and back: the codec of votes.

A joint at x sets all cells p within R of it to 1, and their offsets to (x - p) / R: each of them
has a vote, p + R offset, for where the joint is, between the cells and outside the map too.
R is a fraction of the map: it also divides the offsets, which learn the same at every size.

Sources: Papandreou et al. 2017 (G-RMI), section 3.2; Huang et al. 2020 (UDP), section 4.3, whose
decoding is `blur`.

This module imports no torch: an exported model decodes its maps without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from hrpose.ops.coordinates import CONVENTIONS, Convention

if TYPE_CHECKING:
    from torch import Tensor

DISC_RADIUS = 0.0546875
"""Of a disc, in longer sides of the map: 3.5 cells of 64, 7 of 128."""

DISC_BLUR, OFFSET_BLUR = 15, 7
"""Cells of the kernels that `blur` convolves discs and offsets with."""


@dataclass(frozen=True)
class OffsetCodec:
    """A disc and two offset maps a joint: (B, 3K, H, W) discs, offsets along x, along y."""

    coordinates: str = "hrnet"  # a name of CONVENTIONS
    radius: float = DISC_RADIUS  # of discs, in longer sides of the map
    subpixel: str | None = None  # a name of VOTES, or convention; None too: voting

    fields: ClassVar[tuple[str, ...]] = ("heatmaps", "offsets")
    """Those of HeadOutput that are decoded, one after the other along the channels."""

    @property
    def convention(self) -> Convention:
        return CONVENTIONS[self.coordinates]

    def cells(self, size: tuple[int, int]) -> float:
        """R, the radius of a disc in cells of a map of `size` (H, W)."""
        return self.radius * max(size)

    def encode(self, joints: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
        """Maps (B, 3K, H, W) of one person each, in the precision of the joints, and weights.

        A joint that is not labelled, or further than R from every cell, has no disc; offsets are 0
        outside of discs.

        joints: (B, K, 3) network pixels and visibility, already flipped
        size: (H, W) of the maps   stride: network pixels per cell
        The weights (B, K) float32 are 1 for every labelled joint, outside the map too, where it
        learns an empty disc, as in the authors' code.
        """
        import torch

        convention, reach = self.convention, self.cells(size)
        rows, columns = (torch.arange(side, device=joints.device) for side in size)
        places = (joints[..., :2] + convention.pixel_offset) / stride - convention.cell_centre
        across = places[..., 0, None, None] - columns  # (B, K, 1, W)
        down = places[..., 1, None, None] - rows[:, None]  # (B, K, H, 1)
        labelled = joints[..., 2] > 0
        discs = (across**2 + down**2 <= reach**2) & labelled[..., None, None]
        offsets = ((side / reach).where(discs, 0) for side in (across, down))
        return torch.cat([discs.to(joints.dtype), *offsets], 1), labelled.float()

    def decode(self, maps: Any, stride: int = 4) -> Any:
        """The mean vote of the cells about the highest one of each disc, weighted by their heat.

        `voting` counts the cells within R of it: exact wherever discs are, at borders too. `blur`,
        as published, first convolves discs and offsets with Gaussians, and counts one cell: near
        borders the highest cell of a reflected disc moves outwards, and offsets are averaged across
        the rim, which errs by up to 5 network pixels at stride 4.

        maps: (B, 3K, H, W) NumPy, or torch on any device, of which only these cells are copied
        Returns (B, K, 3) as it was given, in host memory, float32 or float64 as the maps: x, y in
        network pixels, value, that of the highest cell; all 0 where no cell is above 0.
        Errors: FloatingPointError if a value is not finite.
        """
        size = height, width = maps.shape[-2:]
        is_torch, reach, convention = _is_torch(maps), self.cells(size), self.convention
        rule = "voting" if self.subpixel in (None, "convention") else self.subpixel
        prepare, counted = VOTES[str(rule)]
        window = _disc(counted * reach)
        cell, discs, offsets = _cells_near_highest(prepare(maps), window)
        x, y = cell[..., None] % width + window[:, 0], cell[..., None] // width + window[:, 1]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        value = discs[..., 0]  # the highest cell itself
        if not (np.isfinite(discs).all() and np.isfinite(offsets).all()):
            raise FloatingPointError("maps are not finite: the weights are broken")
        votes = np.stack([x, y], 1) + reach * offsets  # (B, 2, K, P)
        heat = np.where(inside, discs.clip(0), 0)
        heat[value <= 0] = 1  # of no consequence
        xy = (heat[:, None] * votes).sum(-1) / heat.sum(-1)[:, None]
        xy = (xy + convention.cell_centre) * stride - convention.pixel_offset
        joints = np.concatenate([xy.transpose(0, 2, 1), value[..., None]], -1).astype(discs.dtype)
        joints[value <= 0] = 0
        if is_torch:
            import torch

            return torch.from_numpy(joints)
        return joints

    def align_flipped(self, maps: Any, stride: int = 4) -> Any:
        """Maps (B, 3K, H, W) of a flipped image, flipped back -> aligned with those of the image.

        Cells vote for the places that they voted for, flipped, wherever the convention moves them:
        offsets along x change their sign, and are then as long as their new cell asks for.
        """
        count, width = maps.shape[1] // 3, maps.shape[-1]
        along_x, reach = slice(count, 2 * count), self.cells(maps.shape[-2:])
        aligned = self.convention.align_flipped(maps) + 0  # a copy
        columns = _as(maps, np.arange(width))
        votes = self.convention.align_flipped(columns - reach * maps[:, along_x])
        votes = votes - self.convention.flip_displacement(stride)
        aligned[:, along_x] = (votes - columns) / reach
        return aligned


def _unchanged(maps: Any) -> Any:
    return maps


def _blurred(maps: Any) -> Any:
    """Discs and offsets (B, 3K, H, W), convolved with Gaussians; borders are reflected."""
    count = maps.shape[1] // 3
    blurred = maps + 0  # a copy
    for channels, kernel in ((slice(count), DISC_BLUR), (slice(count, None), OFFSET_BLUR)):
        down, across = (_as(maps, _gaussian_blur(side, kernel)) for side in maps.shape[-2:])
        blurred[:, channels] = down @ maps[:, channels] @ across.T
    return blurred


VOTES: dict[str, tuple[Callable[[Any], Any], float]] = {
    "voting": (_unchanged, 1.0),
    "blur": (_blurred, 0.0),
}
"""TEST.SUBPIXEL -> what is done to maps, and up to how many R from the highest cell votes count."""


@lru_cache
def _gaussian_blur(side: int, kernel: int) -> np.ndarray:
    """(side, side): the matrix that blurs a column of as many cells, as OpenCV does."""
    return cv2.GaussianBlur(np.eye(side), (1, kernel), 0)


@lru_cache
def _disc(reach: float) -> np.ndarray:
    """(P, 2) x, y of the cells within `reach` of one, itself first."""
    steps = np.mgrid[-int(reach) : reach + 1, -int(reach) : reach + 1].reshape(2, -1).T[:, ::-1]
    away = (steps**2).sum(1)
    return steps[np.argsort(away, kind="stable")][: (away <= reach**2).sum()].astype(int)


def _cells_near_highest(maps: Any, window: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The highest cell of every disc map, of equal ones the first, and what is near it.

    maps: (B, 3K, H, W)   window: (P, 2) x, y of cells about it
    Returns on the host: flat cells (B, K), discs (B, K, P) and offsets (B, 2, K, P); outside the
    map the nearest cell inside is repeated.
    """
    height, width = maps.shape[-2:]
    flat = maps.reshape(len(maps), 3, maps.shape[1] // 3, height * width)
    cell = flat[:, 0].argmax(-1)  # (B, K)
    steps = _as(cell, window)
    x = ((cell % width)[..., None] + steps[:, 0]).clip(0, width - 1)
    y = ((cell // width)[..., None] + steps[:, 1]).clip(0, height - 1)
    index = (y * width + x)[:, None]  # (B, 1, K, P)
    if _is_torch(maps):
        values = flat.gather(-1, index.expand(-1, 3, -1, -1)).cpu().numpy()
        return cell.cpu().numpy(), values[:, 0], values[:, 1:]
    values = np.take_along_axis(flat, index, -1)
    return cell, values[:, 0], values[:, 1:]


def _is_torch(values: Any) -> bool:
    return not isinstance(values, np.ndarray)


def _as(values: Any, array: np.ndarray) -> Any:
    """An array of the library, device and precision of `values`."""
    return values.new_tensor(array) if _is_torch(values) else array.astype(values.dtype)
