"""How good poses are: the keypoint figures of COCO, and those of CrowdPose.

pycocotools does the counting, on inputs that evaluation/records has completed and checked; here its
results get names, and CrowdPose its degrees of crowding.

A figure is in 0..1, and exactly -1.0, as in pycocotools, where there is nobody to find: no large
person among the truth, say. Nothing found where there was somebody is 0.0.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.records import (
    Truth,
    completed,
    indexed,
    indexed_results,
    pick_category,
    pick_images,
    read_truth,
    refuse,
    refuse_unknown,
    refuse_wrong_results,
    with_box_areas,
)
from hrpose.skeletons import Skeleton
from hrpose.structures import Poses, to_results

CROWDPOSE_BOUNDS = (0.2, 0.8)
"""Where easy ends and hard begins, in crowdIndex, in the code behind all published figures."""

# name: what is averaged, at which OKS (None: all ten of .50:.05:.95), over people of which size
_METRICS: dict[str, tuple[str, float | None, str]] = {
    "AP": ("precision", None, "all"),
    "AP50": ("precision", 0.5, "all"),
    "AP75": ("precision", 0.75, "all"),
    "AP-M": ("precision", None, "medium"),
    "AP-L": ("precision", None, "large"),
    "AR": ("recall", None, "all"),
    "AR50": ("recall", 0.5, "all"),
    "AR75": ("recall", 0.75, "all"),
    "AR-M": ("recall", None, "medium"),
    "AR-L": ("recall", None, "large"),
}


class Comparison(NamedTuple):
    """The truth and what was found, side by side as pycocotools wants them."""

    truth: COCO
    found: COCO
    category_id: int
    sigmas: Sequence[float]  # (K,)
    image_ids: Collection[int]  # the images that count


def coco_metrics(pair: Comparison) -> dict[str, float]:
    """COCO's ten figures, over all people and over medium and large ones (from 32^2, 96^2 px)."""
    curves = _curves(pair, pair.image_ids, sizes=("all", "medium", "large"))
    return {name: _mean(curves, *which) for name, which in _METRICS.items()}


def crowdpose_metrics(pair: Comparison, splits: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """CrowdPose's nine figures.

    splits: ids of the images of each degree of crowding. Unlike in the benchmark's own tool, recall
    levels without truth (-1) do not enter a split's mean, and nothing is rounded.
    """
    curves = _curves(pair, pair.image_ids, sizes=("all",))
    overall = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")
    figures = {name: _mean(curves, *_METRICS[name]) for name in overall}
    for name, members in splits.items():
        curves = _curves(pair, set(members) & set(pair.image_ids), sizes=("all",))
        figures[f"AP-{name}"] = _mean(curves, *_METRICS["AP"])
    return figures


def crowd_splits(
    images: Iterable[Mapping[str, Any]], bounds: tuple[float, float] = CROWDPOSE_BOUNDS
) -> dict[str, list[int]]:
    """Image ids by crowdIndex: easy < bounds[0] <= medium < bounds[1] <= hard.

    Hard has no upper end: crowdIndex is said to be at most 1, but some images have up to 3.
    """
    if bounds[0] > bounds[1]:
        raise ValueError(f"bounds are {bounds}; give the lower one first")
    images = list(images)
    refuse(
        (image["id"] for image in images if "crowdIndex" not in image),
        "CrowdPose's easy, medium and hard need the 'crowdIndex' of every image; use its original "
        "files, or COCO's figures. Missing in images",
    )
    degree = [sum(image["crowdIndex"] >= bound for bound in bounds) for image in images]
    return {
        name: [image["id"] for image, own in zip(images, degree) if own == wanted]
        for wanted, name in enumerate(("easy", "medium", "hard"))
    }


def _curves(pair: Comparison, image_ids: Iterable[int], sizes: Collection[str]) -> dict[str, Any]:
    """pycocotools' precision (T, R, 1, A, 1) and recall (T, 1, A, 1).

    T OKS thresholds, R recall levels, A sizes of people; one category, at most 20 poses an image.
    """
    run = COCOeval(pair.truth, pair.found, "keypoints")
    run.params.imgIds = sorted(image_ids)
    run.params.catIds = [pair.category_id]
    run.params.kpt_oks_sigmas = np.asarray(pair.sigmas)
    ranges = dict(zip(run.params.areaRngLbl, run.params.areaRng))
    run.params.areaRngLbl = list(sizes)
    run.params.areaRng = [ranges[size] for size in sizes]
    run.evaluate()
    run.accumulate()
    return run.eval


def _mean(curves: Mapping[str, Any], quantity: str, threshold: float | None, size: str) -> float:
    params = curves["params"]
    values = curves[quantity][..., params.areaRngLbl.index(size), :]  # (T, ...)
    if threshold is not None:
        values = values[np.isclose(params.iouThrs, threshold)]
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


class KeypointEvaluator:
    """Collects poses image by image and compares them with the annotations.

    All images of the annotations count, found or not, unless `image_ids` names those that do.
    Without `category_id` it is the one category with as many joints as the skeleton. `metrics`
    says what is computed. Annotations without `iscrowd` or `num_keypoints` are completed; wrong or
    incomplete ones raise ValueError. The caller's truth and results are never changed.
    """

    primary = "AP"

    def __init__(
        self,
        truth: Truth,
        skeleton: Skeleton,
        category_id: int | None = None,
        image_ids: Collection[int] | None = None,
        metrics: Callable[[Comparison], dict[str, float]] = coco_metrics,
    ) -> None:
        labels = read_truth(truth)
        self.category_id = pick_category(labels["categories"], category_id, skeleton.joints)
        self._truth = indexed(completed(labels, self.category_id, len(skeleton.joints)))
        self._skeleton = skeleton
        self._image_ids = pick_images(self._truth.imgs, image_ids)
        self._metrics = metrics
        self._results: list[dict[str, Any]] = []
        self._added: set[int] = set()

    @property
    def results(self) -> list[dict[str, Any]]:
        """All poses so far in COCO's results format, ready for `json.dump`."""
        return list(self._results)

    def add(self, image_id: int, poses: Poses) -> None:
        """Take what was found in one image: joints (N, K, 3) in pixels of the image file.

        Raises ValueError for an image that is unknown or came before, and for joints or scores
        that are not finite.
        """
        refuse_unknown([image_id], self._truth.imgs)
        refuse(
            {image_id} & self._added,
            "an image counts once, but came again (a distributed sampler repeats images to "
            "even out its shares; drop these). Images",
        )
        self.add_results(to_results(image_id, poses, self.category_id))
        self._added.add(image_id)

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Take poses in COCO's results format, such as a results file holds.

        Raises ValueError for incomplete entries, other categories, unknown images, a wrong joint
        count, and numbers that are not finite.
        """
        refuse_wrong_results(results, self._truth.imgs, self.category_id, self._skeleton.joints)
        self._results += [dict(result) for result in results]

    def summarize(self) -> dict[str, float]:
        """The figures of all that was added, by name."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports every step
            found = indexed_results(self._truth, self._results)
            pair = Comparison(
                self._truth, found, self.category_id, self._skeleton.sigmas, self._image_ids
            )
            return self._metrics(pair)


def crowdpose_evaluator(
    truth: Truth,
    skeleton: Skeleton,
    category_id: int | None = None,
    image_ids: Collection[int] | None = None,
    bounds: tuple[float, float] = CROWDPOSE_BOUNDS,
) -> KeypointEvaluator:
    """An evaluator for CrowdPose: areas taken from the boxes, AP also by how crowded an image is.

    bounds: crowdIndex at which medium and hard begin. Published figures use the default.
    """
    labels = with_box_areas(read_truth(truth))
    splits = crowd_splits(labels["images"], bounds)
    metrics = partial(crowdpose_metrics, splits=splits)
    return KeypointEvaluator(labels, skeleton, category_id, image_ids, metrics)


def format_table(metrics: Mapping[str, float]) -> str:
    """The figures as a Markdown table of three lines: names, rule, values to three decimals."""
    values = [f"{value:.3f}" for value in metrics.values()]
    widths = [max(len(name), len(value)) for name, value in zip(metrics, values)]
    rows = [
        [name.rjust(width) for name, width in zip(metrics, widths)],
        ["-" * (width - 1) + ":" for width in widths],
        [value.rjust(width) for value, width in zip(values, widths)],
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
