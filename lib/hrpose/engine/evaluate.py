"""Predict on images, one after the other, and score what was found."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from hrpose.structures import Poses


class Evaluator(Protocol):
    def add(self, image_id: int, poses: Poses) -> None: ...

    def summarize(self) -> dict[str, float]: ...


class AnnotatedImages(Sized, Protocol):
    def __iter__(self) -> Any: ...


def evaluate(
    predictor: Callable[[np.ndarray], Poses], images: AnnotatedImages, evaluator: Evaluator
) -> dict[str, float]:
    """The evaluator's figures for what the predictor finds.

    images: (image_id, image (H, W, 3) uint8 RGB) pairs
    """
    for image_id, image in tqdm(images, desc="evaluating", unit="image", leave=False, disable=None):
        evaluator.add(image_id, predictor(image))
    return evaluator.summarize()
