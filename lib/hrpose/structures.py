"""The few objects that travel between the parts of hrpose.

Legend of every shape in this package: B images, N people, K joints, M candidates per joint,
T tag values, H and W rows and columns of whatever frame the text names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any


@dataclass(frozen=True)
class Sample:
    """One annotated image, or a person in it, on its way to the network."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    joints: np.ndarray  # (N, K, 3) float32: x, y in pixels of `image`, visibility 0 | 1 | 2
    mask: np.ndarray | None
    """bool, True where heatmaps are supervised: (H, W), and once the image is cropped to the
    network's size (H / s, W / s), s the stride of its finest output. None of a single person."""
    image_id: int
    flipped: bool = False
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(N, 4) float32: x, y, width, height of each person in pixels of `image`; a rotated box keeps
    its proportions about its centre. Empty where boxes are not known."""
    annotated_joints: np.ndarray | None = None
    """(K,) bool: the joints that the image's data set labels at all, of anybody; None: all K."""


class HeadOutput(NamedTuple):
    """The predictions of one head; None for what it does not predict."""

    name: str  # unique among a network's outputs, part of loss names: "1_4" at stride 4, "stage1"
    stride: int  # network pixels per cell
    heatmaps: Tensor  # (B, K, H, W)
    tags: Tensor | None = None  # (B, K, H, W)
    scales: Tensor | None = None  # (B, K, H, W): 1 / s - 1, s the factor of a Gaussian's variance
    offsets: Tensor | None = None  # (B, 2K, H, W), in disc radii: x of all joints, then y


class LossOutput(NamedTuple):
    """Named loss terms of every image, their weights in the total, and metrics."""

    losses: dict[str, Tensor]  # name -> (B,), unweighted
    weights: dict[str, float]  # name -> weight in the total
    metrics: dict[str, Tensor]  # name -> (B,), without a gradient


class TopCells(NamedTuple):
    """The highest cells of every joint's heatmap, in which missing joints are searched first."""

    cells: np.ndarray  # (K, C) flat cells of the map
    keypoints: np.ndarray  # (K, C, 3 + T): x, y in cells, heat, tags
    floor: np.ndarray  # (K,): no other cell has more heat; -inf where there is no other


class Candidates(NamedTuple):
    """The peaks of one image, on the host."""

    peaks: np.ndarray  # (K, M, 3 + T): x, y in cells, score (0: no peak), tags
    top: TopCells | None = None  # of maps on a device


@dataclass(frozen=True, eq=False)
class Poses:
    """The people found in one image, the best first."""

    joints: np.ndarray  # (N, K, 3) float32: x, y in image pixels, value (0: not found)
    scores: np.ndarray  # (N,) float32
    boxes: np.ndarray | None = None  # (N, 4) x, y, width, height, of a top-down model
    box_indices: np.ndarray | None = None  # (N,) of the boxes that the predictor was given
    track_ids: np.ndarray | None = None
    """(N,) of the same person in all images of a video, from 1; NO_TRACK: not known (yet)."""


NO_TRACK = -1
"""The track id of a pose that continues no confirmed track."""

PERSON = 1
"""COCO's category id of people."""


def to_results(image_id: int, poses: Poses, category_id: int) -> list[dict[str, Any]]:
    """One image's poses in COCO's results format: keypoints are [x, y, score] * K, all floats.

    Poses of boxes also have `box_index`, the box's number among those the predictor was given, and
    those of confirmed tracks `track_id`.
    """
    results = [
        {
            "image_id": int(image_id),
            "category_id": category_id,
            "keypoints": np.asarray(joints, dtype=float).ravel().tolist(),
            "score": float(score),
        }
        for joints, score in zip(poses.joints, poses.scores, strict=True)
    ]
    if poses.box_indices is not None:
        for result, index in zip(results, poses.box_indices, strict=True):
            result["box_index"] = int(index)
    if poses.track_ids is not None:
        for result, track_id in zip(results, poses.track_ids, strict=True):
            result |= {"track_id": int(track_id)} if track_id != NO_TRACK else {}
    return results


class Images(Protocol):
    """(image id, what a predictor takes) pairs, each read when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> tuple[int, Any]: ...
