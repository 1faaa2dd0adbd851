"""Predict on images, shared among processes, and score what was found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Protocol

from tqdm import tqdm

from hrpose.engine.distributed import World
from hrpose.structures import Images, Poses


class Evaluator(Protocol):
    def add(self, image_id: int, poses: Poses) -> None: ...

    def summarize(self) -> dict[str, float]: ...


Find = Callable[[Images], Generator[tuple[int, Poses], None, None]]
"""images -> (image id, its people), in the order of the images"""
ALONE = World()


class Part:
    """Some of the images."""

    def __init__(self, images: Images, chosen: Sequence[int]):
        self.images = images
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> tuple[int, Any]:
        return self.images[self.chosen[i]]


def one_by_one(predictor: Callable[[Any], Poses]) -> Find:
    """Each image when its turn comes, and nothing beside it."""

    def find(images: Images) -> Generator[tuple[int, Poses], None, None]:
        for i in range(len(images)):
            image_id, image = images[i]
            yield image_id, predictor(image)

    return find


def evaluate(
    find: Find, images: Images, evaluator: Evaluator, world: World = ALONE
) -> dict[str, float]:
    """The evaluator's figures for the people found, in every process.

    Every process looks at its share of the images; the leader hears of all people in the order of
    the images, as if it had found them alone.
    """
    mine = range(len(images))[world.rank :: world.size]
    quiet = None if world.leads else True
    with closing(find(Part(images, mine))) as share:
        shown = tqdm(share, "evaluating", len(mine), unit="image", leave=False, disable=quiet)
        found = [(i, *each) for i, each in zip(mine, shown, strict=True)]
    everything = sorted((i, *rest) for share in world.gathered(found) for i, *rest in share)
    figures: dict[str, float] = {}
    if world.leads:
        for _, image_id, poses in everything:
            evaluator.add(image_id, poses)
        figures = evaluator.summarize()
    return world.told(figures)
