"""Test-time augmentation of crops: maps of a mirrored crop, brought back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.offset import OffsetCodec


def flip_back(
    maps: Tensor,
    flip_order: Sequence[int] | Tensor,
    codec: HeatmapCodec | OffsetCodec,
    stride: int = 4,
) -> Tensor:
    """Maps of a mirrored crop, aligned with those of the crop itself.

    Columns are reversed and left and right joints exchanged; in `hrnet` coordinates the maps are
    then moved one cell to the right, the first column repeated (ops/coordinates.py), and offsets
    along x change their sign (codecs/offset.py).

    maps: (B, C * K, h, w), K maps of every kind that the codec decodes
    flip_order: (K,) index of each joint's mirror image; a tensor on the device spares a copy
    Returns the same shape.
    """
    order = torch.as_tensor(flip_order, device=maps.device)
    mirrored = maps.flip(-1).unflatten(1, (-1, len(order))).index_select(2, order)
    return codec.align_flipped(mirrored.flatten(1, 2), stride)
