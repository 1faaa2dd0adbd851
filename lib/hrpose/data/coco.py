"""COCO-format annotations and the images they speak of.

CrowdPose, and anybody's own set in COCO format, are read by the same few functions.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from hrpose.ops.files import read_json
from hrpose.ops.image import decode_annotated


class Layout(NamedTuple):
    """Where a data set keeps its files under DATASET.ROOT."""

    annotations: str
    images: str


LAYOUTS = {
    "coco": Layout("annotations/person_keypoints_{split}.json", "images/{split}"),
    "crowdpose": Layout("json/crowdpose_{split}.json", "images"),
}


class Record(NamedTuple):
    """What the annotations say of one image, in its pixels as stored."""

    image_id: int
    file_name: str
    joints: np.ndarray  # (N, K, 3) float32, the people of whom anything is labelled
    boxes: np.ndarray  # (N, 4) float32 x, y, width, height
    areas: np.ndarray  # (N,) float32
    ignore: tuple[Any, ...] = ()  # COCO segmentations where no heatmap is supervised
    annotated: bool = True  # whether anybody is, crowds and unlabelled people included


_ARCHIVE = re.compile(r"(.*?\.zip(?=@|$)|.*)(?:(?<=\.zip)@(.*))?", re.IGNORECASE)
"""A path, and what follows an archive's name; a folder may have an @ in its own."""


class Images:
    """Image files in a folder, in a zip archive (`x.zip`), or in a folder within one (`x.zip@y`).

    An archive is opened once in every process: workers that shared a handle would read garbage.
    """

    def __init__(self, place: str | Path):
        path, inner = _ARCHIVE.fullmatch(str(place)).groups("")  # type: ignore[union-attr]
        self.path = Path(path)
        self.inner = f"{inner.strip('/')}/" if inner else ""
        self.zipped = self.path.suffix.lower() == ".zip"
        if not (self.path.is_file() if self.zipped else self.path.is_dir()):
            raise FileNotFoundError(f"no images at {self.path}")
        if self.zipped and not zipfile.is_zipfile(self.path):
            raise ValueError(f"{self.path} is not a zip archive, or cut short; make it again")

    def read(self, file_name: str) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB, as stored."""
        return decode_annotated(self.bytes(file_name), self.name(file_name))

    def bytes(self, file_name: str) -> bytes:
        """The file as it is; FileNotFoundError names it."""
        if not self.zipped:
            return (self.path / file_name).read_bytes()
        try:
            return _archive(self.path, os.getpid()).read(self.inner + file_name)
        except KeyError:
            raise FileNotFoundError(f"no such file: {self.name(file_name)}") from None

    def name(self, file_name: str) -> str:
        """How a person would find the file."""
        return f"{self.path}@{self.inner}{file_name}" if self.zipped else f"{self.path / file_name}"


@lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """`process` is not used, but makes every process open its own."""
    return zipfile.ZipFile(path)


def load_annotations(path: Path) -> dict[str, Any]:
    """A COCO-format file; errors say what is not there and what it should look like."""
    return _load(path, ("images", "annotations", "categories"))


def load_image_list(path: Path) -> list[dict[str, Any]]:
    """The images of a COCO-format file that need not hold annotations, such as test-dev's."""
    return _load(path, ("images",))["images"]


def _load(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    truth = read_json(path, "annotations")
    missing = [key for key in wanted if not isinstance(truth, dict) or key not in truth]
    if missing:
        raise ValueError(f"{path} is not in COCO format: it lacks {', '.join(missing)}")
    return truth


def load_results(path: Path) -> list[dict[str, Any]]:
    """The poses in a file of COCO's results format, each with `keypoints` as a flat list.

    Older programs of the HRNet family wrote keypoints as {"__ndarray__": lists of numbers, ...};
    these are read too. Whatever else a file may name stays text.
    Errors: FileNotFoundError; ValueError with the number of the pose that is wrong
    """
    results = read_json(path, "results")
    if not isinstance(results, list):
        raise ValueError(f"{path} is no list; COCO's results format is a list of poses")
    for number, pose in enumerate(results):
        if not isinstance(pose, dict):
            raise ValueError(
                f"{path}: result {number} is {_kind(pose)}; a pose is an object with image_id, "
                "category_id, keypoints and score"
            )
    return [_pose(pose, f"{path}: result {number}") for number, pose in enumerate(results)]


def _pose(pose: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A pose of a results file with numbers where numbers belong; missing fields stay missing."""
    marks = pose.get("keypoints", [])
    if isinstance(marks, dict):
        marks = marks.get("__ndarray__")
    rows = marks if isinstance(marks, list) else [marks]
    keypoints = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    box = pose.get("bbox") or []
    numbers = {
        **{field: [pose[field]] for field in ("image_id", "category_id", "score") if field in pose},
        "keypoints": keypoints,
        "bbox": box if isinstance(box, list) and len(box) in (0, 4) else [box],
    }
    for field, values in numbers.items():
        wrong = [value for value in values if not _is_number(value)]
        if wrong:
            wanted = {"keypoints": "a list [x, y, score, x, y, ...]", "bbox": "[x, y, w, h]"}
            raise ValueError(
                f"{where}: {field} holds {_kind(wrong[0])}; wanted {wanted.get(field, 'a number')}"
            )
    return {**pose, "keypoints": keypoints} if "keypoints" in pose else dict(pose)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a number that a float can hold; true and false are none."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _kind(value: Any) -> str:
    """A JSON value as a message names it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "null" if value is None else f"{json.dumps(value):.40}"


def person_category(truth: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The category called `name`, or, without a name, the only one that lists joints."""
    names = [category.get("name", "") for category in truth["categories"]]
    if name:
        chosen = [category for category in truth["categories"] if category.get("name") == name]
    else:
        chosen = [category for category in truth["categories"] if category.get("keypoints")]
        chosen = chosen or truth["categories"][:1] * (len(truth["categories"]) == 1)
    if len(chosen) != 1:
        raise ValueError(
            f"{len(chosen)} categories fit; set DATASET.CATEGORY to one of: {', '.join(names)}"
        )
    return chosen[0]


def records(
    truth: Mapping[str, Any],
    joints: int,
    category_id: int,
    ignore: str = "segmentation",
    image_ids: Sequence[int] = (),
) -> list[Record]:
    """One record for every image of the file, or only for those of `image_ids` that it has.

    joints: how many each annotation must have   ignore: a key of IGNORE
    """
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in truth["annotations"]:
        if "category_id" not in annotation:
            raise ValueError(
                f"annotation {annotation.get('id')} has no category_id; see tools/inspect.py"
            )
        if annotation["category_id"] == category_id:
            by_image[annotation["image_id"]].append(annotation)
    wanted = {image["id"]: image for image in truth["images"]}
    ids = [i for i in image_ids if i in wanted] if image_ids else list(wanted)
    return [_record(wanted[i], by_image[i], joints, IGNORE[ignore]) for i in ids]


def _record(image: Mapping[str, Any], people: list[dict], joints: int, ignore: Any) -> Record:
    labelled = []
    for person in people:
        keypoints = _keypoints(person, joints)
        if (keypoints[:, 2] > 0).any():
            labelled.append((keypoints, person))
    return Record(
        image_id=image["id"],
        file_name=image["file_name"],
        joints=_stack([keypoints for keypoints, _ in labelled], (joints, 3)),
        boxes=_stack([person.get("bbox") or _around(marks) for marks, person in labelled], (4,)),
        areas=_stack([person.get("area", 0) for _, person in labelled], ()),
        ignore=tuple(region for person in people for region in ignore(person)),
        annotated=bool(people),
    )


def _around(keypoints: np.ndarray) -> list[float]:
    """The box x, y, width, height of the labelled joints among (K, 3)."""
    seen = keypoints[keypoints[:, 2] > 0, :2]
    return [*seen.min(0), *np.ptp(seen, axis=0)]


def _stack(rows: list, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(len(rows), *shape)


def _keypoints(person: Mapping[str, Any], joints: int) -> np.ndarray:
    """(K, 3); an annotation without keypoints is one of which nothing is labelled."""
    numbers = np.array(person.get("keypoints") or np.zeros(3 * joints), np.float32)
    if numbers.size != 3 * joints:
        raise ValueError(
            f"annotation {person.get('id')} has {numbers.size} keypoint numbers, not 3 x {joints}; "
            "DATASET.SKELETON does not fit these annotations"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"annotation {person.get('id')} has a keypoint that is not a finite number"
        )
    return numbers.reshape(joints, 3)


def is_ignored(person: Mapping[str, Any]) -> bool:
    """Whether heatmaps must not be told that nobody is there: a crowd, or a person unlabelled."""
    return bool(person.get("iscrowd", 0)) or not any((person.get("keypoints") or ())[2::3])


def _segmentations(person: Mapping[str, Any]) -> list[Any]:
    """Where the annotation has no segmentation, its box."""
    if not is_ignored(person):
        return []
    return [person["segmentation"]] if person.get("segmentation") else _boxes(person)


def _boxes(person: Mapping[str, Any]) -> list[Any]:
    if not is_ignored(person) or not person.get("bbox"):
        return []
    x, y, w, h = person["bbox"]
    return [[[x, y, x + w, y, x + w, y + h, x, y + h]]]


IGNORE = {"segmentation": _segmentations, "box": _boxes, "none": lambda person: []}
"""What of crowds and unlabelled people is left unsupervised."""


def supervised(record: Record, size: tuple[int, int], name: str) -> np.ndarray:
    """Where heatmaps are supervised, (H, W) bool: everywhere but on the record's regions.

    size: (H, W) of the decoded image, not of the annotations (CrowdPose's are swapped in places)
    """
    if not record.ignore:
        return np.ones(size, bool)
    parts = [part for region in record.ignore for part in _run_lengths(region, size, name)]
    for height, width in (part["size"] for part in parts):
        if (height, width) != size:
            raise ValueError(
                f"{name} is {size[1]} x {size[0]}, but a crowd region of it was drawn on "
                f"{width} x {height}; use the annotations of this image"
            )
    covered = coco_mask.decode(coco_mask.merge(parts))  # column by column in memory
    return cv2.transpose(covered.T) == 0


def _run_lengths(region: Any, size: tuple[int, int], name: str) -> list[Any]:
    """COCO's three forms (polygons, plain and packed run lengths) in the packed one."""
    if isinstance(region, dict):
        packed = not isinstance(region["counts"], list)
        return [region if packed else coco_mask.frPyObjects(region, *size)]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in region):
        raise ValueError(f"a segmentation of {name} is no polygon of three or more points x, y")
    return coco_mask.frPyObjects(region, *size)


class BareImages:
    """(image id, image) of every record, read when asked for."""

    def __init__(self, marked: Sequence[Record], images: Images):
        self.marked = marked
        self.images = images

    def __len__(self) -> int:
        return len(self.marked)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray]:
        return self.marked[i].image_id, self.images.read(self.marked[i].file_name)


class AnnotatedImages:
    """(image id, (image, joints)) of every record, read when asked for."""

    def __init__(self, marked: Sequence[Record], images: Images):
        self.marked = marked
        self.images = images

    def __len__(self) -> int:
        return len(self.marked)

    def __getitem__(self, i: int) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        record = self.marked[i]
        return record.image_id, (self.images.read(record.file_name), record.joints)
