"""COCO's keypoint metrics and CrowdPose's, counted by pycocotools.

Source: https://cocodataset.org/#keypoints-eval; Li et al., CrowdPose, CVPR 2019.
A metric is in 0..1, and exactly -1.0, as in pycocotools, where there is no ground truth, such as no
large person. It is 0.0 where there is ground truth but no detection.

pycocotools counts NaN as a match and fails on absent fields: annotations are completed here, having
satisfied the rules of data/rules.py, and results are checked.
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

from hrpose.evaluation.results import RESULT_FIELDS, PoseEvaluator, people_of, refuse
from hrpose.ops.oks import BOX_FILL
from hrpose.skeletons import Skeleton
from hrpose.structures import PERSON

CROWDPOSE_BOUNDS = (0.2, 0.8)
"""crowdIndex at which medium and hard begin, in the code behind all published figures."""

SIZE_RANGES = {"all": (0, 1e10), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Square pixels of people, as pycocotools has them."""

# name: curve, OKS threshold (None: mean over .50:.05:.95), size range of people
_METRICS: dict[str, tuple[str, float | None, str]] = {
    f"{name}{suffix}": (curve, threshold, size)
    for name, curve in (("AP", "precision"), ("AR", "recall"))
    for suffix, threshold, size in (
        ("", None, "all"), ("50", 0.5, "all"), ("75", 0.75, "all"),
        ("-M", None, "medium"), ("-L", None, "large"),
    )
}  # fmt: skip


class Comparison(NamedTuple):
    """Ground truth and detections as pycocotools takes them."""

    truth: COCO
    detections: COCO
    category_id: int
    sigmas: Sequence[float]  # (K,)
    image_ids: Collection[int]  # the images that are scored


def coco_metrics(pair: Comparison) -> dict[str, float]:
    """COCO's ten metrics, over all, medium and large people (from 32^2 and 96^2 square pixels)."""
    curves = pose_curves(match_poses(pair, SIZE_RANGES), pair.image_ids)
    return {name: mean_metric(curves, *which) for name, which in _METRICS.items()}


def crowdpose_metrics(pair: Comparison, splits: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """CrowdPose's nine metrics.

    splits: image ids of each level of crowding. Unlike in CrowdPose's own code, recall levels
    without ground truth (-1) do not enter the mean of a split, and nothing is rounded.
    """
    run = match_poses(pair, {"all": SIZE_RANGES["all"]})
    curves = pose_curves(run, pair.image_ids)
    overall = ("AP", "AP50", "AP75", "AR", "AR50", "AR75")
    figures = {name: mean_metric(curves, *_METRICS[name]) for name in overall}
    for name, members in splits.items():
        curves = pose_curves(run, set(members))
        figures[f"AP-{name}"] = mean_metric(curves, *_METRICS["AP"])
    return figures


def crowd_splits(
    images: Iterable[Mapping[str, Any]], bounds: tuple[float, float] = CROWDPOSE_BOUNDS
) -> dict[str, list[int]]:
    """Image ids by crowdIndex: easy < bounds[0] <= medium < bounds[1] <= hard.

    Hard has no upper bound: by definition crowdIndex is at most 1, but some images have up to 3.
    """
    if bounds[0] > bounds[1]:
        raise ValueError(f"bounds are {bounds}; give the lower one first")
    images = list(images)
    refuse(
        (image["id"] for image in images if "crowdIndex" not in image),
        "CrowdPose's easy, medium and hard need the 'crowdIndex' of every image; use its original "
        "files, or DATASET.FORMAT coco. Missing in images",
    )
    level = [sum(image["crowdIndex"] >= bound for bound in bounds) for image in images]
    return {
        name: [image["id"] for image, own in zip(images, level) if own == wanted]
        for wanted, name in enumerate(("easy", "medium", "hard"))
    }


def match_poses(
    pair: Comparison, sizes: Mapping[str, tuple[float, float]], thresholds: Sequence[float] = ()
) -> COCOeval:
    """pycocotools' matches of at most 20 poses an image, in its `evalImgs`.

    sizes: square pixels of the people that count   thresholds: of OKS; default: .50:.05:.95
    """
    run = COCOeval(pair.truth, pair.detections, "keypoints")
    run.params.imgIds = sorted(pair.image_ids)
    run.params.catIds = [pair.category_id]
    run.params.kpt_oks_sigmas = np.asarray(pair.sigmas)
    run.params.areaRngLbl, run.params.areaRng = list(sizes), [list(s) for s in sizes.values()]
    if len(thresholds):
        run.params.iouThrs = np.asarray(thresholds)
    run.evaluate()
    return run


def pose_curves(run: COCOeval, image_ids: Collection[int]) -> dict[str, Any]:
    """pycocotools' precision and scores (T, R, 1, A, 1), and recall (T, 1, A, 1), of some images.

    T OKS thresholds, R recall levels, A sizes of people; one category.
    """
    matches = run.evalImgs
    run.evalImgs = [each if each and each["image_id"] in image_ids else None for each in matches]
    run.accumulate()
    run.evalImgs = matches
    return run.eval


def mean_metric(
    curves: Mapping[str, Any], quantity: str, threshold: float | None, size: str
) -> float:
    """The mean precision or recall at one or all OKS thresholds; -1 without ground truth."""
    params = curves["params"]
    values = curves[quantity][..., params.areaRngLbl.index(size), :]  # (T, ...)
    if threshold is not None:
        values = values[np.isclose(params.iouThrs, threshold)]
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


class KeypointEvaluator(PoseEvaluator):
    """Collects the poses of images and compares them with COCO annotations.

    truth: annotations that satisfy the rules of data/rules.py; they are completed on a copy
    image_ids: the images that are scored, with or without poses; default: all
    metrics: from the comparison to the metrics by name
    """

    primary = "AP"

    def __init__(
        self,
        truth: Mapping[str, Any],
        skeleton: Skeleton,
        category_id: int = PERSON,
        image_ids: Collection[int] | None = None,
        metrics: Callable[[Comparison], dict[str, float]] = coco_metrics,
    ) -> None:
        super().__init__(truth["images"], len(skeleton.joints), category_id, image_ids)
        people = people_of(truth, category_id)
        # Numbered from 1, as pycocotools takes a match with annotation 0 for none.
        completed = [_complete(each, i, self._joint_count) for i, each in enumerate(people, 1)]
        self._truth = index_annotations({**truth, "annotations": completed})
        self._sigmas, self._metrics = skeleton.sigmas, metrics

    def comparison(self) -> Comparison:
        """The annotations and all added poses, numbered from 1 in their order."""
        with contextlib.redirect_stdout(io.StringIO()):
            found = _index_results(self._truth, self._results)
        return Comparison(self._truth, found, self.category_id, self._sigmas, self.image_ids)

    def summarize(self) -> dict[str, float]:
        """The metrics of all added poses, by name."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
            return self._metrics(self.comparison())


def crowdpose_evaluator(
    truth: Mapping[str, Any],
    skeleton: Skeleton,
    category_id: int = PERSON,
    image_ids: Collection[int] | None = None,
    bounds: tuple[float, float] = CROWDPOSE_BOUNDS,
) -> KeypointEvaluator:
    """An evaluator for CrowdPose: areas from the boxes, AP also by level of crowding.

    bounds: crowdIndex at which medium and hard begin; published figures use the default
    """
    labels = with_box_areas(truth, category_id)
    metrics = partial(crowdpose_metrics, splits=crowd_splits(truth["images"], bounds))
    return KeypointEvaluator(labels, skeleton, category_id, image_ids, metrics)


def with_box_areas(truth: Mapping[str, Any], category_id: int) -> dict[str, Any]:
    """The annotations of a category, each with BOX_FILL of its box as area."""
    people = [
        {**person, "area": BOX_FILL * person["bbox"][2] * person["bbox"][3]}
        for person in people_of(truth, category_id)
    ]
    return {**truth, "annotations": people}


def _complete(person: Mapping[str, Any], number: int, joint_count: int) -> dict[str, Any]:
    """A copy with all fields that pycocotools reads; absent keypoints are unlabelled.

    Whoever has a labelled joint counts, unless num_keypoints is 0: CrowdPose's benchmark leaves out
    people with only head or neck.
    """
    keypoints = person.get("keypoints") or [0] * (3 * joint_count)
    labelled = sum(flag > 0 for flag in keypoints[2::3])
    return {
        **{field: person[field] for field in ("image_id", "category_id", "bbox", "area")},
        "id": number,
        "iscrowd": int(bool(person.get("iscrowd"))),
        "num_keypoints": 0 if person.get("num_keypoints") == 0 else labelled,
        "keypoints": keypoints,
    }


def index_annotations(labels: dict[str, Any]) -> COCO:
    """Complete annotations as pycocotools holds them; it will write into `labels`."""
    index = COCO()
    index.dataset = labels
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _index_results(truth: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    """The results, possibly none, as pycocotools holds them; the given ones are copied."""
    if not results:  # loadRes reads the first one
        return index_annotations({**truth.dataset, "annotations": []})
    # loadRes takes sizes from boxes if the first result has one, and then needs one of each.
    boxes = ("bbox",) if all(result.get("bbox") for result in results) else ()
    # It also writes into what it is given, hence the copies.
    return truth.loadRes([{f: r[f] for f in (*RESULT_FIELDS, *boxes)} for r in results])


ABSENT = {
    "-M": "no people of 32^2 to 96^2 square pixels",
    "-L": "no people of 96^2 square pixels or more",
    "-easy": f"no images with crowdIndex below {CROWDPOSE_BOUNDS[0]}",
    "-medium": f"no images with crowdIndex from {CROWDPOSE_BOUNDS[0]} to {CROWDPOSE_BOUNDS[1]}",
    "-hard": f"no images with crowdIndex of {CROWDPOSE_BOUNDS[1]} or more",
}
"""End of a metric's name -> what the annotations lack where it is -1."""


def format_table(metrics: Mapping[str, float]) -> str:
    """The metrics as a Markdown table of three lines: names, rule, values to three decimals.

    A line below explains every -1.
    """
    absent: dict[str, list[str]] = {}
    for name in (name for name, value in metrics.items() if value == -1):
        why = ABSENT.get(name[2:], "no people that count: all are crowds, or without labels")
        absent.setdefault(why, []).append(name)
    lines = aligned_table([[*metrics], [f"{value:.3f}" for value in metrics.values()]])
    lines += [f"-1 of {', '.join(names)}: the annotations have {w}" for w, names in absent.items()]
    return "\n".join(lines)


def aligned_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, aligned to the right; the first row has the names."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    names, *rest = [[*map(str.rjust, row, widths)] for row in rows]
    rule = ["-" * (width - 1) + ":" for width in widths]
    return [f"| {' | '.join(row)} |" for row in [names, rule, *rest]]
