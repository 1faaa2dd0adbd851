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

from hrpose.ops.oks import BOX_FILL
from hrpose.ops.progress import listed
from hrpose.skeletons import Skeleton
from hrpose.structures import PERSON, Poses, to_results

CROWDPOSE_BOUNDS = (0.2, 0.8)
"""crowdIndex at which medium and hard begin, in the code behind all published figures."""

RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")

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
    curves = _curves(pair, pair.image_ids, sizes=("all", "medium", "large"))
    return {name: _mean(curves, *which) for name, which in _METRICS.items()}


def crowdpose_metrics(pair: Comparison, splits: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """CrowdPose's nine metrics.

    splits: image ids of each level of crowding. Unlike in CrowdPose's own code, recall levels
    without ground truth (-1) do not enter the mean of a split, and nothing is rounded.
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

    Hard has no upper bound: by definition crowdIndex is at most 1, but some images have up to 3.
    """
    if bounds[0] > bounds[1]:
        raise ValueError(f"bounds are {bounds}; give the lower one first")
    images = list(images)
    _refuse(
        (image["id"] for image in images if "crowdIndex" not in image),
        "CrowdPose's easy, medium and hard need the 'crowdIndex' of every image; use its original "
        "files, or DATASET.FORMAT coco. Missing in images",
    )
    level = [sum(image["crowdIndex"] >= bound for bound in bounds) for image in images]
    return {
        name: [image["id"] for image, own in zip(images, level) if own == wanted]
        for wanted, name in enumerate(("easy", "medium", "hard"))
    }


def _curves(pair: Comparison, image_ids: Iterable[int], sizes: Collection[str]) -> dict[str, Any]:
    """pycocotools' precision (T, R, 1, A, 1) and recall (T, 1, A, 1).

    T OKS thresholds, R recall levels, A sizes of people; one category, at most 20 poses an image.
    """
    run = COCOeval(pair.truth, pair.detections, "keypoints")
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
    """Collects the poses of images and compares them with COCO annotations.

    truth: annotations that satisfy the rules of data/rules.py; they are completed on a copy
    image_ids: the images that are scored, with or without poses; default: all
    metrics: from the comparison to the metrics by name
    """

    primary = "AP"
    """The metric by which checkpoints are compared."""

    def __init__(
        self,
        truth: Mapping[str, Any],
        skeleton: Skeleton,
        category_id: int = PERSON,
        image_ids: Collection[int] | None = None,
        metrics: Callable[[Comparison], dict[str, float]] = coco_metrics,
    ) -> None:
        self.category_id = category_id
        self._joint_count, self._sigmas = len(skeleton.joints), skeleton.sigmas
        people = _people(truth, category_id)
        # Numbered from 1, as pycocotools takes a match with annotation 0 for none.
        completed = [_complete(each, i, self._joint_count) for i, each in enumerate(people, 1)]
        self._truth = _index({**truth, "annotations": completed})
        if image_ids is not None:
            if not len(image_ids):
                raise ValueError("image_ids is empty; list the images to score, or None for all")
            unknown = set(image_ids) - set(self._truth.imgs)
            _refuse(unknown, "image_ids has images that the annotations do not have")
        self._image_ids = list(self._truth.imgs) if image_ids is None else image_ids
        self._metrics = metrics
        self._results: list[dict[str, Any]] = []
        self._added: set[int] = set()

    @property
    def image_ids(self) -> set[int]:
        """The images that are scored."""
        return set(self._image_ids)

    @property
    def results(self) -> list[dict[str, Any]]:
        """All poses so far in COCO's results format, ready for `json.dump`."""
        return list(self._results)

    def add(self, image_id: int, poses: Poses) -> None:
        """Add the poses of an image: joints (N, K, 3) in pixels of the image file.

        Errors: ValueError for an image that is unknown or was added before, and for joints or
        scores that are not finite.
        """
        self._refuse_unknown([image_id])
        _refuse(
            {image_id} & self._added,
            "an image is scored once, but was added again (a distributed sampler repeats images to "
            "give every rank as many; drop these). Images",
        )
        self.add_results(to_results(image_id, poses, self.category_id))
        self._added.add(image_id)

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add poses in COCO's results format, such as those of a results file.

        Errors: ValueError for incomplete entries, other categories, unknown images, a wrong number
        of joints, and values that are not finite.
        """
        _refuse(
            (n for n, result in enumerate(results) if not set(RESULT_FIELDS) <= set(result)),
            f"a result needs {', '.join(RESULT_FIELDS)}. Incomplete are numbers",
        )
        _refuse(
            (r["category_id"] for r in results if r["category_id"] != self.category_id),
            f"results of another category: the annotations that are scored have category_id "
            f"{self.category_id}. If these are the same people, change category_id in the results; "
            "else set DATASET.CATEGORY to the name of theirs. The results have category_id",
        )
        self._refuse_unknown(result["image_id"] for result in results)
        count = 3 * self._joint_count
        _refuse(
            (n for n, result in enumerate(results) if len(result["keypoints"]) != count),
            f"keypoints must be [x, y, score] of {self._joint_count} joints. Wrong are results "
            "number",
        )
        values = [[*result["keypoints"], result["score"]] for result in results]
        _refuse(
            (n for n, row in enumerate(values) if not np.isfinite(row).all()),
            "coordinates and scores must be finite, as pycocotools counts NaN as a match; check "
            "the network's outputs, half precision first. Wrong are results number",
        )
        self._results += [dict(result) for result in results]

    def _refuse_unknown(self, image_ids: Iterable[int]) -> None:
        _refuse(
            (number for number in image_ids if number not in self._truth.imgs),
            "results of images that the annotations do not list: score them on the split they were "
            "made on (DATASET.VAL), or give each result the file_name of its image. Image ids",
        )

    def summarize(self) -> dict[str, float]:
        """The metrics of all added poses, by name."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
            detections = _index_results(self._truth, self._results)
            return self._metrics(
                Comparison(self._truth, detections, self.category_id, self._sigmas, self._image_ids)
            )


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
    people = [
        {**person, "area": BOX_FILL * person["bbox"][2] * person["bbox"][3]}
        for person in _people(truth, category_id)
    ]
    metrics = partial(crowdpose_metrics, splits=crowd_splits(truth["images"], bounds))
    labels = {**truth, "annotations": people}
    return KeypointEvaluator(labels, skeleton, category_id, image_ids, metrics)


def _people(truth: Mapping[str, Any], category_id: int) -> list[Mapping[str, Any]]:
    """The annotations of a category in the images that are listed."""
    listed = {image["id"] for image in truth["images"]}
    people = (one for one in truth["annotations"] if one.get("image_id") in listed)
    return [person for person in people if person["category_id"] == category_id]


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


def _index(labels: dict[str, Any]) -> COCO:
    """The annotations as pycocotools holds them; it will write into `labels`."""
    index = COCO()
    index.dataset = labels
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _index_results(truth: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    """The results, possibly none, as pycocotools holds them; the given ones are copied."""
    if not results:  # loadRes reads the first one
        return _index({**truth.dataset, "annotations": []})
    # loadRes takes sizes from boxes if the first result has one, and then needs one of each.
    boxes = ("bbox",) if all(result.get("bbox") for result in results) else ()
    # It also writes into what it is given, hence the copies.
    return truth.loadRes([{f: r[f] for f in (*RESULT_FIELDS, *boxes)} for r in results])


def match_images(
    results: Sequence[Mapping[str, Any]], images: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], bool]:
    """Results with the image ids of the annotations, and whether their own were other ones.

    Results that name their `file_name`, as tools/test.py writes it, are matched by that if it is
    not the name of their image_id; by its last part where folders differ and that is unambiguous.
    Errors: ValueError for a name that is not found, or is found twice
    """
    names = {image["id"]: str(image.get("file_name", "")) for image in images}
    same = all(
        isinstance(r.get("file_name"), str)
        and _last(names.get(r.get("image_id"), "")) == _last(r["file_name"])
        for r in results
    )
    if same or not all(isinstance(r.get("file_name"), str) for r in results):
        return list(results), False
    whole = all(r["file_name"] in names.values() for r in results)
    key = str if whole else _last
    ids: dict[str, list[int]] = {}
    for number, name in names.items():
        ids.setdefault(key(name), []).append(number)
    _refuse(
        (r["file_name"] for r in results if len(ids.get(key(r["file_name"]), [])) != 1),
        "image ids of the results are of another numbering, and these names are not of exactly one "
        "image of the annotations. Correct file_name, or remove it to go by image_id",
    )
    return [{**r, "image_id": ids[key(r["file_name"])][0]} for r in results], True


def _last(path: str) -> str:
    """The file's own name, without folders of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def describe_results(results: Sequence[Mapping[str, Any]], images: Collection[int]) -> str:
    """How many poses of these images there are, and how many repeat another one exactly."""
    scored = [r for r in results if r["image_id"] in images]
    distinct = {(r["image_id"], tuple(r["keypoints"])) for r in scored}
    covered = len({r["image_id"] for r in scored})
    text = f"scored {len(scored)} poses in {covered} of {len(images)} images"
    if len(distinct) < len(scored):
        text += f"; {len(scored) - len(distinct)} repeat another pose of their image exactly"
    if len(scored) < len(results):
        text += f"; {len(results) - len(scored)} are of images that are not scored"
    return text


def _refuse(violations: Iterable[Any], complaint: str) -> None:
    """ValueError with the complaint and the first few violations, if there are any."""
    found = list(dict.fromkeys(violations))
    if found:
        raise ValueError(f"{complaint}: {listed(found)}")


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
    values = [f"{value:.3f}" for value in metrics.values()]
    widths = [max(len(name), len(value)) for name, value in zip(metrics, values)]
    rows = [map(str.rjust, metrics, widths), ["-" * (width - 1) + ":" for width in widths],
            map(str.rjust, values, widths)]  # fmt: skip
    absent: dict[str, list[str]] = {}
    for name in (name for name, value in metrics.items() if value == -1):
        why = ABSENT.get(name[2:], "no people that count: all are crowds, or without labels")
        absent.setdefault(why, []).append(name)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += [f"-1 of {', '.join(names)}: the annotations have {w}" for w, names in absent.items()]
    return "\n".join(lines)
