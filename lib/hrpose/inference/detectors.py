"""Detectors: an image -> boxes of the people in it, for top-down predictors.

A detector is any callable: image (H, W, 3) uint8 RGB -> boxes (N, 4) x, y, width, height in image
pixels, N may be 0, and their scores (N,). This module imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from hrpose.ops.coordinates import check_image
from hrpose.structures import Poses

Detector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""image (H, W, 3) uint8 RGB -> boxes (N, 4), scores (N,)"""

MARGIN = 0.25
"""Growth of a box about joints, in its sides, half of it at either end.

Labelled joints of COCO (409 people of val2017) give boxes of a mean IoU of .68 with the labelled
ones; without a margin .52, with twice as much .65.
"""


class DetectingPredictor:
    """A top-down predictor that detects people where it is given no boxes.

    predictor: as inference.topdown.TopDownPredictor
    """

    def __init__(self, detect: Detector, predictor: Callable[..., Poses]):
        self.detect = detect
        self.predictor = predictor

    def __call__(self, image: np.ndarray, boxes: Any = None, box_scores: Any = None) -> Poses:
        """The people in an image (H, W, 3) uint8 RGB, in its own pixels, best first."""
        if boxes is None:
            boxes, box_scores = self.detect(image)
        return self.predictor(image, boxes, box_scores)


def filter_boxes(detect: Detector, min_score: float = 0.0, max_per_image: int = 0) -> Detector:
    """A detector that gives the best boxes first, and no others; max_per_image 0: all."""

    def best(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes, scores = detect(image)
        order = np.argsort(-scores, kind="stable")
        kept = order[scores[order] >= min_score][: max_per_image or None]
        return boxes[kept], scores[kept]

    return best


# Bottom-up ------------------------------------------------------------------------------------


class BottomUpDetector:
    """Boxes about the people that a bottom-up predictor finds; their scores are those of the poses.

    predictor: image -> Poses, as inference.bottomup.BottomUpPredictor   margin: see `joint_boxes`
    """

    def __init__(self, predictor: Callable[[np.ndarray], Poses], margin: float = MARGIN):
        self.predictor = predictor
        self.margin = margin

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = check_image(image)
        poses = self.predictor(image)
        people, boxes = joint_boxes(poses.joints, size, self.margin)
        return boxes, poses.scores[people]


def joint_boxes(
    joints: np.ndarray, size: tuple[int, int], margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes about the found joints of people (N, K, 3), clipped to an image of size (W, H).

    Each side is `margin` longer than the joints' extent, and at least a pixel: a person seen from
    the side may have all joints above each other. People with fewer than two found joints (value
    above 0), with all of them at one place, or outside the image, have no box.
    Returns the indices (M,) of the people who have one, and the boxes (M, 4) float32.
    """
    found = (joints[..., 2] > 0)[..., None]
    low = np.where(found, joints[..., :2], np.inf).min(1)  # (N, 2)
    high = np.where(found, joints[..., :2], -np.inf).max(1)
    several = (found.sum((1, 2)) > 1) & (high > low).any(1)
    people = np.flatnonzero(several)
    low, high = low[people], high[people]
    grown = np.maximum((high - low) * (1 + margin), 1) - (high - low)
    low, high = (low - grown / 2).clip(0, size), (high + grown / 2).clip(0, size)
    inside = (high > low).all(1)
    return people[inside], np.hstack([low, high - low])[inside].astype(np.float32)


# torchvision ----------------------------------------------------------------------------------

COCO_PERSON = 1
"""The label of people in torchvision's detectors."""


class TorchvisionDetector:
    """People found by torchvision's Faster R-CNN (ResNet-50, FPN), which was trained on COCO.

    Sources: Ren et al. 2015 (Faster R-CNN); Lin et al. 2017 (FPN). Its weights, COCO_V1, are
    downloaded once, or read from a file; with either, norms are frozen, of epsilon 0, as they were
    trained.
    """

    def __init__(self, weights: Path | None = None, min_score: float = 0.05, device: Any = "cpu"):
        """weights: a file of them; None: torchvision's   min_score: of its boxes, at least

        Errors: ValueError where torchvision is missing or does not fit torch, with the command that
        installs it, and for other weights; FileNotFoundError, also where they cannot be downloaded
        """
        detection, norm = import_torchvision()
        origin = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
        backbone = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet50", weights=None
        )
        self.model = detection.FasterRCNN(backbone, 91, box_score_thresh=min_score)
        for module in self.model.modules():
            if isinstance(module, norm):
                module.eps = 0.0
        try:
            self.model.load_state_dict(_read_detector(origin, weights))
        except (RuntimeError, TypeError, EOFError, UnpicklingError) as error:
            raise ValueError(
                f"{weights or 'what was downloaded'} does not fit torchvision's Faster R-CNN "
                f"(ResNet-50, FPN); give the file {origin.url} ({f'{error}'.partition(chr(10))[0]})"
            ) from None
        self.model.to(device).eval()
        self.device = device

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        check_image(image)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.device)
            (found,) = self.model([pixels.permute(2, 0, 1).float() / 255])
        boxes, scores, labels = (
            found[name].float().cpu().numpy() for name in ("boxes", "scores", "labels")
        )
        boxes[:, 2:] -= boxes[:, :2]  # from corners
        kept = (labels == COCO_PERSON) & (boxes[:, 2:] > 0).all(1)
        return boxes[kept], scores[kept]


def import_torchvision() -> tuple[Any, Any]:
    """torchvision's module of detectors, and its frozen norm; imported here only.

    Beside a torch of another build, its import fails with a RuntimeError (`operator
    torchvision::nms does not exist`). ValueError with the command that installs the one that fits.
    """
    import torch

    try:
        from torchvision.models import detection
        from torchvision.ops import FrozenBatchNorm2d
    except Exception as error:
        raise ValueError(
            f"the detector needs the torchvision of this torch, {torch.__version__} ({error}); "
            f"install it as torch was (conda, uv, ...); with pip: {torchvision_command()}"
        ) from error
    return detection, FrozenBatchNorm2d


def torchvision_command() -> str:
    """The command that installs the torchvision of this torch: 0.21 is that of 2.6, and so on."""
    import torch

    version, _, build = torch.__version__.partition("+")
    minor = int(version.split(".")[1]) + 15
    known = re.fullmatch(r"cpu|cu\d+|rocm[\d.]+|xpu", build)
    index = f" --index-url https://download.pytorch.org/whl/{build}" if known else ""
    return f'pip uninstall -y torchvision; pip install "torchvision==0.{minor}.*"{index}'


def _read_detector(origin: Any, weights: Path | None) -> dict[str, Any]:
    """The tensors of a file, or of torchvision's weights, downloaded unless they are here."""
    import torch

    if weights:
        if not weights.is_file():
            raise FileNotFoundError(
                f"there is no file of weights at {weights}; download {origin.url}"
            )
        return torch.load(weights, map_location="cpu", weights_only=True)
    try:
        return origin.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        place = Path(torch.hub.get_dir(), "checkpoints", origin.url.rpartition("/")[2])
        raise FileNotFoundError(
            f"the detector's weights cannot be downloaded ({error}); put {origin.url} at {place}, "
            "or anywhere, and write TEST.BOXES detector:<file>"
        ) from None
