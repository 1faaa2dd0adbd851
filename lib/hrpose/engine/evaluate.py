"""Predict on images, shared among processes, and score what was found."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol

from tqdm import tqdm

from hrpose.engine.distributed import World
from hrpose.structures import Poses


class Evaluator(Protocol):
    def add(self, image_id: int, poses: Poses) -> None: ...

    def summarize(self) -> dict[str, float]: ...


class Images(Sized, Protocol):
    def __getitem__(self, i: int, /) -> tuple[int, Any]: ...


ALONE = World()


def evaluate(
    predictor: Callable[[Any], Poses],
    images: Images,
    evaluator: Evaluator,
    world: World = ALONE,
) -> dict[str, float]:
    """The evaluator's figures for what the predictor finds, in every process.

    Every process looks at its share of the images; the leader hears of all people in the order of
    the images, as if it had found them alone.

    images: (image_id, what the predictor takes) pairs
    """
    mine = range(len(images))[world.rank :: world.size]
    shown = tqdm(
        mine, "evaluating", unit="image", leave=False, disable=None if world.leads else True
    )
    found = [(i, images[i][0], predictor(images[i][1])) for i in shown]
    everything = sorted((i, *rest) for share in world.gathered(found) for i, *rest in share)
    figures: dict[str, float] = {}
    if world.leads:
        for _, image_id, poses in everything:
            evaluator.add(image_id, poses)
        figures = evaluator.summarize()
    return world.told(figures)
