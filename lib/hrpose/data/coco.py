"""COCO JSON: the one reader of annotations, image lists and results, and of the images they name.

Source: the data format of https://cocodataset.org. CrowdPose and custom data sets use it too.
What is read here is not trusted: data/rules.py has the rules that it must satisfy.
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

import numpy as np

from hrpose.ops.atomic_io import read_json
from hrpose.ops.image import decode_image


class Layout(NamedTuple):
    """Paths of a data set's files under DATASET.ROOT, and what its boxes are."""

    annotations: str
    images: str
    clips_boxes: bool = True  # whether boxes are of what is seen of people; or about their centres
    area_from: str = "area"  # field that the metric takes the areas of people from: area or bbox


LAYOUTS = {
    "coco": Layout("annotations/person_keypoints_{split}.json", "images/{split}"),
    "crowdpose": Layout("json/crowdpose_{split}.json", "images", area_from="bbox"),
    "aic": Layout("annotations/aic_{split}.json", "images/{split}", area_from="bbox"),
    "mpii": Layout("annotations/mpii_{split}.json", "images", clips_boxes=False),
}


class ImageAnnotation(NamedTuple):
    """The annotations of one image, in pixels of the image as ImageFiles reads it."""

    image_id: int
    file_name: str
    joints: np.ndarray  # (N, K, 3) float32 x, y, visibility; people with a labelled joint
    boxes: np.ndarray  # (N, 4) float32 x, y, width, height
    ignore: tuple[Any, ...] = ()  # COCO segmentations excluded from the heatmap loss
    annotated: bool = True  # whether there is any annotation, crowds and unlabelled people included
    size: tuple[int, int] | None = None  # annotated width and height
    crowds: np.ndarray | None = None  # (N,) bool: iscrowd; None: no crowd among them
    unlabelled: int = 0  # annotations of the category without a labelled joint: not among the N
    annotated_joints: np.ndarray | None = None  # (K,) bool: those its set labels at all; None: all


_ARCHIVE = re.compile(r"(.*?\.zip(?=@|$)|.*)(?:(?<=\.zip)@(.*))?", re.IGNORECASE)
"""A path and, after an archive, the folder within it; a folder's own name may contain an @."""


LARGEST_FILE = 1 << 29
"""Bytes of an image file in an archive, unpacked."""


class ImageFiles:
    """Image files in a folder, in a zip archive (`x.zip`), or in a folder within one (`x.zip@y`).

    Every process opens an archive for itself: a file handle shared by workers has one position.
    exif: of `ops.image.decode_image`, DATASET.EXIF
    Errors: FileNotFoundError, ValueError for a file that is not a zip archive.
    """

    def __init__(self, location: str | Path, exif: str = "auto"):
        self.exif = exif
        path, inner = _ARCHIVE.fullmatch(str(location)).groups("")  # type: ignore[union-attr]
        self.path = Path(path)
        self.inner = f"{inner.strip('/')}/" if inner else ""
        self.zipped = self.path.suffix.lower() == ".zip"
        if not (self.path.is_file() if self.zipped else self.path.is_dir()):
            raise FileNotFoundError(f"no images at {self.path}")
        if self.zipped and not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.path} is not a zip archive, or cut short; download or create it again"
            )

    def read(self, file_name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB as it was labelled; size: annotated width and height."""
        return decode_image(self.bytes(file_name), self.name(file_name), size, self.exif)

    def bytes(self, file_name: str) -> bytes:
        """The encoded file. Errors: FileNotFoundError with its path."""
        if not self.zipped:
            path = self.path / file_name
            if not os.path.isfile(path):  # a device would be read without end
                hint = " (in a file_name write / between folders, not \\)" * ("\\" in file_name)
                raise FileNotFoundError(f"no such file: {path}{hint}; add it, or remove its entry")
            return path.read_bytes()
        try:
            archive = _archive(self.path, os.getpid())
            entry = archive.getinfo(self.inner + file_name)
            if entry.file_size > LARGEST_FILE:
                raise ValueError(
                    f"{self.name(file_name)} has {entry.file_size} bytes unpacked; an image has at "
                    f"most {LARGEST_FILE}"
                )
            return archive.read(entry)
        except KeyError:
            raise FileNotFoundError(f"no such file: {self.name(file_name)}") from None

    def name(self, file_name: str) -> str:
        """The path for messages; `archive.zip@folder/file` within an archive."""
        return f"{self.path}@{self.inner}{file_name}" if self.zipped else f"{self.path / file_name}"


@lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """`process` is only a cache key: every process opens its own handle."""
    return zipfile.ZipFile(path)


def load_annotations(path: Path) -> dict[str, Any]:
    """Images, annotations and categories. Errors: FileNotFoundError, ValueError, with the path."""
    return _load(path, ("images", "annotations", "categories"))


def load_image_list(path: Path) -> list[dict[str, Any]]:
    """The images of a COCO JSON file without annotations, such as that of test-dev."""
    return _load(path, ("images",))["images"]


def _load(path: Path, wanted: Sequence[str]) -> dict[str, Any]:
    truth = read_json(path, "annotations")
    missing = [key for key in wanted if not isinstance(truth, dict) or key not in truth]
    if missing:
        raise ValueError(f"{path} is not in COCO format: it lacks {', '.join(missing)}")
    for listed in wanted:
        _check_entries(truth[listed], f"{path}: {listed}")
    for category in truth.get("categories") or ():
        name, joints = category.get("name"), category.get("keypoints") or []
        if category.get("id") is None or not all(isinstance(joint, str) for joint in joints):
            raise ValueError(
                f"{path}: category {name!r} needs an id, and a list of texts as keypoints, the "
                "names of its joints"
            )
    return truth


LARGEST_RESULTS = 1 << 30
"""Bytes of a results file; 30 poses in each image of COCO's largest split take about half of it."""

NULLABLE_LISTS, SCALARS = ("keypoints", "skeleton"), ("id", "image_id", "category_id")
"""Fields of an entry that are lists, and those that are numbers or texts; or null."""


def _check_entries(entries: Any, where: str) -> None:
    """ValueError unless this is a list of objects whose fields have COCO's JSON types."""
    if not isinstance(entries, list):
        raise ValueError(f"{where} is {_kind(entries)}; COCO's format has a list there")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: entry {number} is {_kind(entry)}; wanted an object")
        wrong = [
            *(f for f in NULLABLE_LISTS if not isinstance(entry.get(f), list | None)),
            *(f for f in SCALARS if isinstance(entry.get(f), list | dict)),
            *(f for f in ("file_name", "name") if not isinstance(entry.get(f), str | None)),
        ]
        if wrong:
            wanted = "a list" if wrong[0] in NULLABLE_LISTS else "a number or a text"
            raise ValueError(
                f"{where}: entry {number}: {wrong[0]} is {_kind(entry[wrong[0]])}; wanted {wanted}"
            )


def load_results(path: Path) -> list[dict[str, Any]]:
    """The poses in a file of COCO's results format, each with `keypoints` as a flat list.

    Older programs of the HRNet family wrote keypoints as {"__ndarray__": lists of numbers, ...};
    these are read too. No other object of a file is interpreted.
    Errors: FileNotFoundError; ValueError with the number of the pose that is wrong
    """
    results = load_result_list(path, "poses", "keypoints", "the best 20 are scored")
    return [_pose(pose, f"{path}: result {number}") for number, pose in enumerate(results)]


def load_result_list(path: Path, kind: str, field: str, cap: str) -> list[dict[str, Any]]:
    """The entries of a file in COCO's results format, as they are; a list of objects, no more.

    kind, field, cap: for messages, what an entry is, the field that makes it so, and how many of an
    image are used   Errors: FileNotFoundError, ValueError
    """
    if path.is_file() and path.stat().st_size > LARGEST_RESULTS:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, but results are read whole and may have "
            f"{LARGEST_RESULTS}; write fewer {kind} of each image: {cap}"
        )
    results = read_json(path, "results")
    if not isinstance(results, list):
        cure = "; the labelled ones of annotations are TEST.BOXES truth" * (field == "bbox")
        raise ValueError(f"{path} is not a list; COCO's results format is a list of {kind}{cure}")
    for number, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{path}: result {number} is {_kind(entry)}; {kind} are objects with "
                f"image_id, category_id, {field} and score"
            )
    return results


def _pose(pose: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A pose of a results file, its values checked to be numbers; missing fields stay missing."""
    values = pose.get("keypoints", [])
    if isinstance(values, dict):
        values = values.get("__ndarray__", values)
    rows = values if isinstance(values, list) else [values]
    keypoints = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    box = pose.get("bbox") or []
    numbers = {
        **{field: [pose[field]] for field in ("image_id", "category_id", "score") if field in pose},
        "keypoints": keypoints,
        "bbox": box if isinstance(box, list) and len(box) in (0, 4) else [box],
    }
    for field, values in numbers.items():
        wrong = [value for value in values if not is_number(value)]
        if wrong:
            wanted = {"keypoints": "a list [x, y, score, x, y, ...]", "bbox": "[x, y, w, h]"}
            raise ValueError(
                f"{where}: {field} holds {_kind(wrong[0])}; wanted {wanted.get(field, 'a number')}"
            )
    return {**pose, "keypoints": keypoints} if "keypoints" in pose else dict(pose)


MAX_INTEGER = 2**63 - 1


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number within the range of float64; true and false are not."""
    return type(value) is float or (type(value) is int and abs(value) <= MAX_INTEGER)


def unpack_run_lengths(packed: str) -> list[int]:
    """COCO's packed counts: 5 bits a character from "0" on, the lowest first; 32: more follow.

    From the third on, a count is the difference to that two before. Source: pycocotools, maskApi.c
    """
    counts: list[int] = []
    value = bits = 0
    for character in packed:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if bits > 60:
            return [-1]
        if not code & 32:
            value -= (code & 16) and 1 << bits  # the last bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = bits = 0
    return counts if not bits else [-1]


def _kind(value: Any) -> str:
    """A JSON value as a message names it."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return "null" if value is None else f"{json.dumps(value):.40}"


def person_category(truth: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """The category called `name`, or, without a name, the only one that lists joints."""
    categories = truth["categories"]
    if name:
        chosen = [category for category in categories if category.get("name") == name]
        what = f"DATASET.CATEGORY is {name!r}, the name of {len(chosen)} categories"
    else:
        chosen = [category for category in categories if category.get("keypoints")]
        what = f"{len(chosen)} of {len(categories)} categories list joint names (`keypoints`)"
        chosen = chosen or categories[:1] * (len(categories) == 1)
    if len(chosen) != 1:
        names = ", ".join(f"{category.get('name')}" for category in chosen or categories)
        cure = f"set DATASET.CATEGORY to that of the people: {names or 'add it to the file'}"
        raise ValueError(f"{what}; {cure}")
    return chosen[0]


def select_images(truth: Mapping[str, Any], image_ids: Sequence[int]) -> dict[str, Any]:
    """A copy with only these images and their annotations; without ids, with all."""
    if not image_ids:
        return dict(truth)
    wanted = set(image_ids)
    images = [image for image in truth["images"] if image.get("id") in wanted]
    people = [person for person in truth["annotations"] if person.get("image_id") in wanted]
    return {**truth, "images": images, "annotations": people}


def image_annotations(
    truth: Mapping[str, Any],
    joints: int,
    category_id: int,
    ignore: str = "segmentation",
    image_ids: Sequence[int] = (),
) -> list[ImageAnnotation]:
    """The annotations of every image of a file, or only of those in `image_ids` that it lists.

    joints: K of each annotation   ignore: a key of IGNORE_REGIONS
    """
    images = {image["id"]: image for image in truth["images"]}
    people = [
        one
        for one in truth["annotations"]
        if one["category_id"] == category_id and one.get("image_id") in images
    ]
    # An annotation without keypoints is a person without a labelled joint.
    keypoints = [person.get("keypoints") or [0] * (3 * joints) for person in people]
    every = np.array(keypoints, np.float32).reshape(len(people), joints, 3)  # (P, K, 3)
    labelled = np.any(every[..., 2] > 0, axis=1)  # (P,)
    crowds = np.array([bool(person.get("iscrowd")) for person in people], bool)  # (P,)
    boxes = np.zeros((len(people), 4), np.float32)
    for i in np.flatnonzero(labelled).tolist():
        boxes[i] = people[i].get("bbox") or bounding_box(every[i][every[i, :, 2] > 0, :2])
    regions = IGNORE_REGIONS[ignore]
    by_image: dict[int, list[int]] = defaultdict(list)  # image id -> indices of its people
    for i, person in enumerate(people):
        by_image[person["image_id"]].append(i)
    records = []
    for image_id in image_ids or images:
        if image_id not in images:
            continue
        own = by_image.get(image_id, [])
        kept = [i for i in own if labelled[i]]
        records.append(
            ImageAnnotation(
                image_id=image_id,
                file_name=images[image_id]["file_name"],
                joints=every[kept],
                boxes=boxes[kept],
                ignore=tuple(region for i in own for region in regions(people[i])),
                annotated=bool(own),
                size=annotated_size(images[image_id]),
                crowds=crowds[kept],
                unlabelled=len(own) - len(kept),
            )
        )
    return records


def annotated_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of an entry of `images`; None if it does not have both."""
    width, height = (image.get(side, None) for side in ("width", "height"))
    return (width, height) if is_number(width) and is_number(height) else None


def bounding_box(points: np.ndarray) -> list[float]:
    """The box x, y, width, height around points (N, 2)."""
    return [*points.min(0).tolist(), *np.ptp(points, axis=0).tolist()]


def count_labelled(person: Mapping[str, Any]) -> int:
    """The labelled joints of an annotation: those whose visibility is above 0."""
    return sum(flag > 0 for flag in (person.get("keypoints") or ())[2::3])


def is_ignored(person: Mapping[str, Any]) -> bool:
    """Whether an annotation is excluded from the heatmap loss: a crowd, or no labelled joint."""
    return bool(person.get("iscrowd")) or not count_labelled(person)


def single_people(truth: Mapping[str, Any], category: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The annotations of a category that are no crowd, in images that are listed."""
    images = {image["id"] for image in truth["images"]}
    own = (one for one in truth["annotations"] if one.get("category_id") == category["id"])
    return [one for one in own if not one.get("iscrowd") and one.get("image_id") in images]


def _outline(person: Mapping[str, Any]) -> list[Any]:
    """The segmentation of an ignored annotation; its box if it has none."""
    if not is_ignored(person):
        return []
    return [person["segmentation"]] if person.get("segmentation") else _box_outline(person)


def _box_outline(person: Mapping[str, Any]) -> list[Any]:
    """The box of an ignored annotation, as a polygon."""
    if not is_ignored(person) or not person.get("bbox"):
        return []
    x, y, w, h = person["bbox"]
    return [[[x, y, x + w, y, x + w, y + h, x, y + h]]]


IGNORE_REGIONS = {"segmentation": _outline, "box": _box_outline, "none": lambda person: []}
"""DATASET.IGNORE_REGIONS -> regions of an annotation that are excluded from the heatmap loss."""

MAX_COORDINATE = 1e5
"""Pixels, more than any image has; pycocotools allocates memory in proportion to coordinates."""


def is_drawable(segmentation: Any) -> bool:
    """Whether a segmentation is whole run lengths, or polygons of 3 or more points within reason.

    pycocotools reads either without bounds: this comes first.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if isinstance(counts, str | bytes):
            counts = unpack_run_lengths(counts if isinstance(counts, str) else counts.decode())
        if not isinstance(size, list) or not isinstance(counts, list) or len(size) != 2:
            return False
        numbers = [*size, *counts]
        whole = set(map(type, numbers)) == {int} and min(numbers) >= 0
        return whole and max(size) <= MAX_COORDINATE and sum(counts) == size[0] * size[1]
    return isinstance(segmentation, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and set(map(type, polygon)) <= {int, float}
        and all(map(MAX_COORDINATE.__ge__, map(abs, polygon)))  # NaN is not
        for polygon in segmentation
    )
