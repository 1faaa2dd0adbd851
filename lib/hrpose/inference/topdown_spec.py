"""Everything between boxes of people and their poses but the network: crops, scores, suppression.

The predictor has one `TopDownSpec`, as a bottom-up one has the `InferenceSpec` of spec.py. This
module imports no torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.offset import OffsetCodec
from hrpose.inference.scoring import rescore
from hrpose.ops.boxes import PADDING, are_outside, check_boxes, crop_transform, padded_size
from hrpose.ops.coordinates import check_image
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
    views: tuple[str, ...] = ("identity", "flip")  # names of spec.VIEWS
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

    def preprocess(
        self, image: np.ndarray, boxes: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Crops (N, H, W, 3) uint8 of boxes (N, 4); black outside the image.

        out: where to write them; None: new memory
        """
        width, height = self.input_size
        crops = np.empty((len(boxes), height, width, 3), np.uint8) if out is None else out
        for box, crop in zip(boxes, crops, strict=True):
            to_crop = crop_transform(
                box, self.input_size, self.padding, coordinates=self.coordinates
            )
            matrix = to_crop.matrix
            cv2.warpAffine(image, matrix, self.input_size, dst=crop, flags=cv2.INTER_LINEAR)
        return crops

    def postprocess(self, joints: np.ndarray, boxes: np.ndarray, box_scores: np.ndarray) -> Poses:
        """Joints (N, K, 3) in pixels of the crops of boxes (N, 4), as poses in image pixels.

        The best come first: of equal scores that of the better box, then of the lower index.
        Before suppression a missing joint counts as the crop's corner, as in the authors' code.
        """
        in_image = joints.astype(np.float32)
        for box, pose in zip(boxes, in_image):
            to_crop = crop_transform(
                box, self.input_size, self.padding, coordinates=self.coordinates
            )
            pose[:, :2] = to_crop.inverse().points(pose[:, :2])
        scores = rescore(box_scores, joints[..., 2])
        order = np.lexsort((-box_scores, -scores))  # stable
        kept = order[scores[order] >= self.min_score]
        if self.oks_nms < 1:
            widths, heights = padded_size(boxes[kept, 2:].T, self.input_size, self.padding)
            areas = widths * heights
            given = in_image[kept], scores[kept], areas, self.skeleton.sigmas, self.oks_nms
            kept = kept[oks_nms(*given)]
        in_image[joints[..., 2] <= 0] = 0
        return Poses(in_image[kept], scores[kept], boxes[kept].astype(np.float32), kept)


def predict_in_boxes(
    steps: Any, image: np.ndarray, boxes: Any = None, box_scores: Any = None
) -> Poses:
    """The people in boxes of an image (H, W, 3) uint8 RGB, in its own pixels, best first.

    Memory does not grow with the number of boxes, but for the joints.

    steps: a predictor with `spec`, and the steps preprocess, forward and decode (topdown.py)
    boxes: (N, 4) x, y, width, height in image pixels, N may be 0   box_scores: (N,); None: 1
    Errors: ValueError as by `TopDownSpec.check_inputs`; FloatingPointError where maps are not
    finite.
    """
    spec: TopDownSpec = steps.spec
    boxes, box_scores = spec.check_inputs(image, boxes, box_scores)
    joints = [np.zeros((0, len(spec.skeleton.joints), 3), np.float32)]
    for start in range(0, len(boxes), spec.batch):
        crops = steps.preprocess(image, boxes[start : start + spec.batch])
        joints.append(steps.decode(steps.forward(crops)))
    return spec.postprocess(np.concatenate(joints), boxes, box_scores)
