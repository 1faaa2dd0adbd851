"""Everything between boxes of people and their poses but the network: crops, scores, suppression.

The predictor has one `TopDownSpec`, as a bottom-up one has the `InferenceSpec` of spec.py. This
module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.offset import OffsetCodec
from hrpose.inference.scoring import average_views, rescore
from hrpose.ops.boxes import PADDING, are_outside, check_boxes, crop_transform, padded_size
from hrpose.ops.coordinates import CONVENTIONS, Affine, check_image
from hrpose.ops.oks import oks_nms
from hrpose.skeletons import Skeleton
from hrpose.structures import Poses

BOXES_WANTED = (
    "a top-down model needs the boxes of people: call the predictor with the image and boxes "
    "(N, 4) x, y, width, height in its pixels, from labels or a detector, or load a bottom-up model"
)


class TopDownSpec(NamedTuple):
    """How boxes become crops, outputs become maps, and maps become poses."""

    skeleton: Skeleton
    input_size: tuple[int, int] = (192, 256)  # (W, H) of a crop, multiples of 32
    views: tuple[str, ...] = ("identity", "flip")  # names of spec.VIEWS, of every crop
    stride: int = 4  # network pixels per cell of the maps
    coordinates: str = "hrnet"  # a name of ops.coordinates.CONVENTIONS
    subpixel: str = "convention"  # a value of TEST.SUBPIXEL
    padding: float = PADDING  # side of a crop, in sides of its box
    batch: int = 32  # crops of a forward pass
    min_score: float = 0.0  # people of a lower score are dropped
    oks_nms: float = 0.9  # people whose OKS with a better one exceeds this are dropped; 1: none
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # of the normalization, in units of 255
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    disc_radius: float = 0.0  # of discs with offsets, in longer sides of a map; 0: heatmaps
    rotations: tuple[float, ...] = (0.0,)  # degrees; positive: the picture counter-clockwise
    scales: tuple[float, ...] = (1.0,)  # sides of the crops of a box, in those of its plain crop
    cross_views: bool = True  # every rotation at every scale, or one of them at a time

    def build_codec(self) -> HeatmapCodec | OffsetCodec:
        """What decodes the maps of the network."""
        if self.disc_radius:
            return OffsetCodec(self.coordinates, self.disc_radius, self.subpixel)
        return HeatmapCodec(self.coordinates, subpixel=self.subpixel)

    @property
    def network_size(self) -> tuple[int, int]:
        """(H, W) of every network input."""
        return self.input_size[1], self.input_size[0]

    def check_inputs(
        self, image: np.ndarray, boxes: Any, box_scores: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) and their scores (N,) as float64; the scores are 1 where none are given.

        boxes: x, y, width, height in pixels of the image (H, W, 3) uint8 RGB; they may reach beyond
               it, where a crop is black
        Errors: ValueError for no image, and with its index for what is no box, for a box wholly
        outside the image, and for a score that is not finite.
        """
        if boxes is None:
            raise ValueError(BOXES_WANTED)
        width, height = check_image(image)
        boxes = check_boxes(boxes)
        outside = are_outside(boxes, np.array([width, height]))
        if outside.any():
            index = int(outside.argmax())
            raise ValueError(
                f"box {index}, {boxes[index].tolist()}, is wholly outside its image of {width} x "
                f"{height}; give x, y, width, height in pixels of this image, or leave it out"
            )
        given = np.ones(len(boxes)) if box_scores is None else box_scores
        try:
            scores = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"box scores are not numbers ({error}); give one a box") from None
        if scores.shape != (len(boxes),):
            raise ValueError(f"box scores are {scores.shape}; give one a box: ({len(boxes)},)")
        if not np.isfinite(scores).all():
            index = int(np.isfinite(scores).argmin())
            raise ValueError(f"the score of box {index} is {scores[index]}; give finite scores")
        return boxes, scores

    @property
    def crop_views(self) -> list[tuple[float, float]]:
        """(rotation, scale) of all crops of a box, V of them.

        Not crossed, rotations are at scale 1 and scales at rotation 0, or at the only one there is.
        """
        if self.cross_views:
            return [*product(self.rotations, self.scales)]
        rotation = 0.0 if len(self.rotations) > 1 else self.rotations[0]
        scale = 1.0 if len(self.scales) > 1 else self.scales[0]
        turned = [(each, scale) for each in self.rotations]
        return [*dict.fromkeys([*turned, *((rotation, each) for each in self.scales)])]

    def place_crops(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) -> places of their crops (N * V, 6): the box, a rotation and a scale.

        Those of a box follow one another.
        """
        views = np.array(self.crop_views)
        every = np.repeat(boxes, len(views), axis=0)
        return np.concatenate([every, np.tile(views, (len(boxes), 1))], 1)

    def to_crop(self, place: np.ndarray) -> Affine:
        """From image pixels to the network pixels of a crop; place: (6,), or a box (4,) alone."""
        rotation, scale = place[4:] if len(place) > 4 else (0.0, 1.0)
        padding = self.padding * scale
        return crop_transform(place[:4], self.input_size, padding, rotation, self.coordinates)

    def preprocess(
        self, image: np.ndarray, places: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Crops (N, H, W, 3) uint8 at places (N, 6), or of boxes (N, 4); black outside the image.

        out: where to write them; None: new memory
        """
        width, height = self.input_size
        crops = np.empty((len(places), height, width, 3), np.uint8) if out is None else out
        for place, crop in zip(places, crops, strict=True):
            matrix = self.to_crop(place).matrix
            cv2.warpAffine(image, matrix, self.input_size, dst=crop, flags=cv2.INTER_LINEAR)
        return crops

    def locate(self, joints: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints (N * V, K, 3) in pixels of the crops of boxes (N, 4), in image pixels.

        Returns (N, V, K, 3) float32, and transforms (N, V, 2, 3) from image pixels to crops whose
        width and height are 1.
        """
        in_image = joints.astype(np.float32)
        to_unit = np.empty((len(joints), 2, 3))
        edge = [0, 0, CONVENTIONS[self.coordinates].pixel_offset]
        for place, pose, unit in zip(self.place_crops(boxes), in_image, to_unit, strict=True):
            to_crop = self.to_crop(place)
            pose[:, :2] = to_crop.inverse().points(pose[:, :2])
            unit[:] = (to_crop.matrix + edge) / np.array(self.input_size)[:, None]
        views = len(boxes), len(self.crop_views)
        return in_image.reshape(*views, *joints.shape[1:]), to_unit.reshape(*views, 2, 3)

    def postprocess(self, joints: np.ndarray, boxes: np.ndarray, box_scores: np.ndarray) -> Poses:
        """Joints (N * V, K, 3) in pixels of the crops of boxes (N, 4), as poses in image pixels."""
        return merge_crops([self], [joints], boxes, box_scores)


def merge_crops(
    specs: Sequence[TopDownSpec],
    joints: Sequence[np.ndarray],
    boxes: np.ndarray,
    box_scores: np.ndarray,
) -> Poses:
    """What one or several networks found in all crops of boxes (N, 4), as poses in image pixels.

    Joints are averaged over the crops that show them (scoring.average_views), of all networks;
    then people are scored and suppressed once. The best come first: of equal scores that of the
    better box, then of the lower index. Before suppression a missing joint counts as the corner of
    the crop, as in the authors' code; of several crops, as the mean of their corners.

    specs: of every network; they differ in their crops and coordinates only
    joints: (N * V, K, 3) of every network, in pixels of its crops   box_scores: (N,)
    """
    first = specs[0]
    located = [spec.locate(each, boxes) for spec, each in zip(specs, joints, strict=True)]
    people = average_views(*(np.concatenate(parts, 1) for parts in zip(*located)))
    scores = rescore(box_scores, people[..., 2])
    order = np.lexsort((-box_scores, -scores))  # stable
    kept = order[scores[order] >= first.min_score]
    if first.oks_nms < 1:
        sizes = [padded_size(boxes[kept, 2:].T, each.input_size, each.padding) for each in specs]
        areas = np.mean([width * height for width, height in sizes], 0)
        given = people[kept], scores[kept], areas, first.skeleton.sigmas, first.oks_nms
        kept = kept[oks_nms(*given)]
    people[people[..., 2] <= 0] = 0
    return Poses(people[kept], scores[kept], boxes[kept].astype(np.float32), kept)


def predict_crops(steps: Any, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Joints (N * V, K, 3) in pixels of all crops of boxes (N, 4), a batch of them at a time.

    steps: a predictor with `spec`, and the steps preprocess, forward and decode (topdown.py)
    """
    places = steps.spec.place_crops(boxes)
    joints = [np.zeros((0, len(steps.spec.skeleton.joints), 3), np.float32)]
    for start in range(0, len(places), steps.spec.batch):
        crops = steps.preprocess(image, places[start : start + steps.spec.batch])
        joints.append(steps.decode(steps.forward(crops)))
    return np.concatenate(joints)


def predict_in_boxes(
    steps: Any, image: np.ndarray, boxes: Any = None, box_scores: Any = None
) -> Poses:
    """The people in boxes of an image (H, W, 3) uint8 RGB, in its own pixels, best first.

    Memory does not grow with the number of boxes, but for the joints.

    steps: a predictor with `members`, itself or several, each with the steps of `predict_crops`
    boxes: (N, 4) x, y, width, height in image pixels, N may be 0   box_scores: (N,); None: 1
    Errors: ValueError as by `TopDownSpec.check_inputs`; FloatingPointError where maps are not
    finite.
    """
    specs = [member.spec for member in steps.members]
    boxes, box_scores = specs[0].check_inputs(image, boxes, box_scores)
    joints = [predict_crops(member, image, boxes) for member in steps.members]
    return merge_crops(specs, joints, boxes, box_scores)
