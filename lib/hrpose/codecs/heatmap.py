"""Joints as Gaussians on heatmaps, and back: the codec of a map's highest cell.

This module imports no torch: an exported model decodes its heatmaps without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hrpose.ops.coordinates import CONVENTIONS, Convention
from hrpose.ops.subpixel import SUBPIXEL

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HeatmapCodec:
    """One Gaussian a joint, in the coordinates of a convention."""

    coordinates: str = "hrnet"  # a name of CONVENTIONS
    sigma: float = 2.0  # cells
    subpixel: str | None = None  # a value of TEST.SUBPIXEL; None: the convention's

    fields: ClassVar[tuple[str, ...]] = ("heatmaps",)
    """Those of HeadOutput that are decoded."""

    @property
    def convention(self) -> Convention:
        return CONVENTIONS[self.coordinates]

    def encode(
        self,
        joints: Tensor,
        size: tuple[int, int],
        stride: int,
        flipped: Tensor | None = None,
        variances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Heatmaps (B, K, H, W) of all people, and the weights of their joints in a loss.

        joints: (B, N, K, 3), or (B, K, 3) of one person, network pixels and visibility, already
                flipped
        size: (H, W) of the maps   stride: network pixels per cell
        flipped: (B,) bool, which images are   variances: (B, N) factors of sigma^2
        The weights, (B, N, K) or (B, K) float32, are 1 for every joint that is supervised.
        """
        from hrpose.ops.targets import draw_heatmaps, drawn_joints

        people = joints[:, None] if joints.dim() == 3 else joints
        cells = self.convention.to_heatmap_coords(people, stride, flipped)
        maps = draw_heatmaps(cells, size, self.sigma, variances, self.convention)
        weights = drawn_joints(cells, size, self.sigma, self.convention).float()
        return maps, weights.view(joints.shape[:-1])

    def decode(self, heatmaps: Any, stride: int = 4) -> Any:
        """The highest cell of every map, and the place within it; of equal cells the first.

        heatmaps: (B, K, H, W) NumPy, or torch on any device, of which only 9 cells a map are copied
        Returns (B, K, 3) float32 as it was given, in host memory: x, y in network pixels, value;
        all 0 where no cell is above 0.
        Errors: FloatingPointError if a highest value is not finite.
        """
        convention = CONVENTIONS[self.coordinates]
        rule = SUBPIXEL[convention.subpixel_rule(self.subpixel or "convention")]
        height, width = heatmaps.shape[-2:]
        flat = heatmaps.reshape(*heatmaps.shape[:2], -1)
        cell = flat.argmax(-1)  # (B, K), of equal ones the first
        is_torch = not isinstance(heatmaps, np.ndarray)
        if is_torch:
            import torch

            from hrpose.ops.peaks import gather_cells

            packed = gather_cells(heatmaps, heatmaps[..., None][..., :0], cell[..., None])
            on_host = packed[:, :, 0].cpu().numpy()  # (B, K, 10)
            cell = on_host[..., 0].astype(int)
            patches = on_host[..., 1:].reshape(*cell.shape, 3, 3)
        else:
            edges = np.pad(heatmaps, ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
            every = np.lib.stride_tricks.sliding_window_view(edges, (3, 3), (2, 3))
            patches = every[(*np.indices(cell.shape), *np.divmod(cell, width))]
        value = patches[..., 1, 1]
        if not np.isfinite(value).all():
            raise FloatingPointError("heatmaps are not finite: the weights are broken")
        row, column = np.divmod(cell, width)
        step = rule(patches)
        step[~convention.may_step(column, row, (height, width))] = 0
        xy = np.stack([column, row], -1) + np.float32(convention.cell_centre) + step
        xy = xy * stride - convention.pixel_offset
        joints = np.concatenate([xy, value[..., None]], -1, dtype=np.float32)
        joints[value <= 0] = 0
        return torch.from_numpy(joints) if is_torch else joints

    def align_flipped(self, maps: Any, stride: int = 4) -> Any:
        """Maps (B, K, H, W) of a flipped image, flipped back -> aligned with those of the image."""
        return CONVENTIONS[self.coordinates].align_flipped(maps)
