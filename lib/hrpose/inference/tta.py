"""Test-time augmentation of crops: maps of a mirrored crop, brought back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrpose.ops.coordinates import CONVENTIONS


def flip_back(
    maps: Tensor, flip_order: Sequence[int] | Tensor, coordinates: str = "hrnet"
) -> Tensor:
    """Heatmaps of a mirrored crop, aligned with those of the crop itself.

    Columns are reversed and left and right joints exchanged; in `hrnet` coordinates the maps are
    then moved one cell to the right, the first column repeated (ops/coordinates.py).

    maps: (B, K, h, w)
    flip_order: (K,) index of each joint's mirror image; a tensor on the device spares a copy
    Returns (B, K, h, w).
    """
    order = torch.as_tensor(flip_order, device=maps.device)
    return CONVENTIONS[coordinates].align_flipped(maps.flip(-1).index_select(1, order))
