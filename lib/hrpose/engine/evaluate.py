"""Predict on a set of images, sharded over processes, and score the poses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, Protocol, cast

from torch.utils.data import Subset

from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo
from hrpose.ops.progress import progress
from hrpose.structures import Images, Poses


class Evaluator(Protocol):
    """Compares poses with annotations. `primary` is the metric that selects the best checkpoint."""

    primary: str

    def add(self, image_id: int, poses: Poses) -> None: ...

    def summarize(self) -> dict[str, float]: ...


PredictFn = Callable[[Images], Generator[tuple[int, Poses], None, None]]
"""images -> (image id, poses), in the order of the images"""


def predict_sequentially(predictor: Callable[[Any], Poses]) -> PredictFn:
    """A PredictFn that reads and predicts one image after the other, in this thread."""

    def predict(images: Images) -> Generator[tuple[int, Poses], None, None]:
        for i in range(len(images)):
            image_id, image = images[i]
            yield image_id, predictor(image)

    return predict


def evaluate(
    predict: PredictFn, images: Images, evaluator: Evaluator, dist: DistInfo = SINGLE_PROCESS
) -> dict[str, float]:
    """The evaluator's metrics, in every process.

    Every process predicts its share of the images; the main one adds all poses to the evaluator in
    the order of the images, as a single process would.
    """
    own = range(len(images))[dist.rank :: dist.world_size]
    subset = cast(Images, Subset(cast(Any, images), own))
    with closing(predict(subset)) as results:
        shown: Iterator[tuple[int, Poses]] = results
        if dist.is_main:
            shown = progress(results, "evaluating", len(own), leave=False)
        poses: list[Any] = [(i, *result) for i, result in zip(own, shown, strict=True)]
    shards = dist.all_gather(poses)
    metrics: dict[str, float] = {}
    if dist.is_main:
        for _, image_id, found in sorted((i, *rest) for shard in shards for i, *rest in shard):
            evaluator.add(image_id, found)
        metrics = evaluator.summarize()
    return dist.broadcast(metrics)
