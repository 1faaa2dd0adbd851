"""Predict on images, one after the other, and score what was found."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol

from tqdm import tqdm

from hrpose.structures import Poses


class Evaluator(Protocol):
    def add(self, image_id: int, poses: Poses) -> None: ...

    def summarize(self) -> dict[str, float]: ...


class Images(Sized, Protocol):
    def __iter__(self) -> Any: ...


def evaluate(
    predictor: Callable[[Any], Poses], images: Images, evaluator: Evaluator
) -> dict[str, float]:
    """The evaluator's figures for what the predictor finds.

    images: (image_id, what the predictor takes) pairs
    """
    for image_id, image in tqdm(images, desc="evaluating", unit="image", leave=False, disable=None):
        evaluator.add(image_id, predictor(image))
    return evaluator.summarize()
