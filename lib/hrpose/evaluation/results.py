"""Collecting the poses of images in COCO's results format, whatever metric compares them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hrpose.ops.progress import listed
from hrpose.structures import Poses, to_results

RESULT_FIELDS = ("image_id", "category_id", "keypoints", "score")


class PoseEvaluator(ABC):
    """Collects the poses of images, checked; a subclass compares them with the annotations.

    images: the annotated ones   joint_count: K of every pose
    image_ids: the images that are scored, with or without poses; default: all
    Errors: ValueError for image_ids that are empty or that the annotations do not list
    """

    primary: str
    """The metric by which checkpoints are compared."""

    def __init__(
        self,
        images: Iterable[Mapping[str, Any]],
        joint_count: int,
        category_id: int,
        image_ids: Collection[int] | None = None,
    ) -> None:
        self.category_id = category_id
        self._joint_count = joint_count
        self._known = {image["id"] for image in images}
        if image_ids is not None:
            if not len(image_ids):
                raise ValueError("image_ids is empty; list the images to score, or None for all")
            unknown = set(image_ids) - self._known
            refuse(unknown, "image_ids has images that the annotations do not have")
        self.image_ids = set(self._known if image_ids is None else image_ids)
        self._results: list[dict[str, Any]] = []
        self._added: set[int] = set()

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
        refuse(
            {image_id} & self._added,
            "an image is scored once, but was added again (a distributed sampler repeats images to "
            "give every rank as many; drop these). Images",
        )
        self.add_results(to_results(image_id, poses, self.category_id))
        self._added.add(image_id)

    def add_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add poses in COCO's results format, such as those of a results file; all or none.

        Errors: ValueError for incomplete entries, other categories, unknown images, a wrong number
        of joints, and values that are not finite.
        """
        self._check_results(results)
        self._results += [dict(result) for result in results]

    @abstractmethod
    def summarize(self) -> dict[str, float]:
        """The metrics of all added poses, by name; exactly -1.0 without ground truth."""

    def _check_results(self, results: Sequence[Mapping[str, Any]]) -> None:
        refuse(
            (n for n, result in enumerate(results) if not set(RESULT_FIELDS) <= set(result)),
            f"a result needs {', '.join(RESULT_FIELDS)}. Incomplete are numbers",
        )
        refuse(
            (r["category_id"] for r in results if r["category_id"] != self.category_id),
            f"results of another category: the annotations that are scored have category_id "
            f"{self.category_id}. If these are the same people, change category_id in the results; "
            "else set DATASET.CATEGORY to the name of theirs. The results have category_id",
        )
        self._refuse_unknown(result["image_id"] for result in results)
        count = 3 * self._joint_count
        refuse(
            (n for n, result in enumerate(results) if len(result["keypoints"]) != count),
            f"keypoints must be [x, y, score] of {self._joint_count} joints. Wrong are results "
            "number",
        )
        values = [[*result["keypoints"], result["score"]] for result in results]
        refuse(
            (n for n, row in enumerate(values) if not np.isfinite(row).all()),
            "coordinates and scores must be finite, as pycocotools counts NaN as a match; check "
            "the network's outputs, half precision first. Wrong are results number",
        )

    def _refuse_unknown(self, image_ids: Iterable[int]) -> None:
        refuse(
            (number for number in image_ids if number not in self._known),
            "results of images that the annotations do not list: score them on the split they were "
            "made on (DATASET.VAL), or give each result the file_name of its image. Image ids",
        )


class MappedEvaluator:
    """An evaluator of poses in other joints than its annotations have.

    index: for each joint of the annotations, its number in the poses; -1: 0, as not found
    """

    def __init__(self, evaluator: PoseEvaluator, index: Sequence[int]) -> None:
        self.evaluator, self.primary = evaluator, evaluator.primary
        self._index = np.array(index)

    @property
    def results(self) -> list[dict[str, Any]]:
        """All poses so far, in the joints of the annotations."""
        return self.evaluator.results

    def add(self, image_id: int, poses: Poses) -> None:
        """Add the poses of an image, in joints of their own."""
        joints = poses.joints[:, self._index] * (self._index >= 0)[:, None]
        self.evaluator.add(image_id, replace(poses, joints=joints))

    def summarize(self) -> dict[str, float]:
        """The metrics of all added poses, by name."""
        return self.evaluator.summarize()


def people_of(truth: Mapping[str, Any], category_id: int) -> list[Mapping[str, Any]]:
    """The annotations of a category in the images that are listed."""
    images = {image["id"] for image in truth["images"]}
    people = (one for one in truth["annotations"] if one.get("image_id") in images)
    return [person for person in people if person["category_id"] == category_id]


def joints_array(people: Sequence[Mapping[str, Any]], joint_count: int) -> np.ndarray:
    """The keypoints of annotations or results (P, K, 3), float64."""
    rows = [person["keypoints"] for person in people]
    return np.array(rows, float).reshape(len(people), joint_count, 3)


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
    refuse(
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


def refuse(violations: Iterable[Any], complaint: str) -> None:
    """ValueError with the complaint and the first few violations, if there are any."""
    found = list(dict.fromkeys(violations))
    if found:
        raise ValueError(f"{complaint}: {listed(found)}")
