"""Joints as cells of tag maps, and the tags that a network predicts in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hrpose.ops.coordinates import HIGHERHRNET, Convention
from hrpose.ops.targets import joint_cells


@dataclass(frozen=True)
class TagCodec:
    """One cell a joint, in the coordinates of a convention.

    Source: Newell et al. 2017 (associative embedding), section 3.2.
    """

    convention: Convention = HIGHERHRNET

    def encode(
        self, joints: Tensor, size: tuple[int, int], stride: int, flipped: Tensor | None = None
    ) -> Tensor:
        """Flat cells (B, N, K) int64: k * H * W + y * W + x; -1: not labelled, or outside the map.

        joints: (B, N, K, 3) network pixels, visibility, already flipped   size: (H, W) of the maps
        stride: network pixels per cell   flipped: (B,) bool, which images are
        """
        cells = self.convention.to_heatmap_coords(joints, stride, flipped)
        return joint_cells(cells, size, self.convention)

    def decode(self, maps: Tensor, cells: Tensor) -> Tensor:
        """The values of maps (B, K, H, W) in cells (B, N, K), NaN where a cell is -1: (B, N, K)."""
        values = maps.flatten(1).gather(1, cells.clamp(min=0).flatten(1)).view(cells.shape)
        return values.where(cells >= 0, torch.nan)
