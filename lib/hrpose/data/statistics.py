"""What the annotations and image files of a split contain, invalid ones included, and statistics.

Nothing here fails on invalid annotations: data/validate.py reports them.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, compress
from multiprocessing import get_context
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.data.coco import MAX_INTEGER, ImageFiles, annotated_size, is_number
from hrpose.data.fingerprints import fingerprint
from hrpose.ops.image import (
    DAMAGED,
    DARK,
    OrientationError,
    decode_image,
    decode_with_doubts,
    exif_orientation,
)
from hrpose.ops.progress import progress

PEOPLE_BINS = {"0": 0, "1": 1, "2": 2, "3-5": 3, "6-10": 6, "11-20": 11, "21-30": 21, "over 30": 31}
"""Bins of the histogram of people per image: name -> lower edge."""

AREA_BINS = {"small": 0, "medium": 32**2, "large": 96**2}
"""COCO's size ranges of people: name -> lower edge in square pixels."""

QUANTILES = (0, 5, 25, 50, 75, 95, 100)

IMAGES_PER_PROCESS = 500
"""With fewer, a process takes longer to start than to read them."""

MISSING, UNREADABLE, TRUNCATED, UNORIENTED = "missing", "unreadable", "truncated", "unoriented"

# Image files ----------------------------------------------------------------------------------


class ImageInfo(NamedTuple):
    """Properties of one image file."""

    problem: str = ""  # MISSING, UNREADABLE, TRUNCATED, UNORIENTED, or none
    size: tuple[int, int] | tuple[()] = ()  # width and height in pixels as read, if decoded
    rotated: bool = False  # whether it is read as its EXIF orientation turns it
    digest: str = ""  # hash of the file, if decoded
    damaged: bool = False  # whether the decoder of JPEGs reports damage
    dark: bool = False  # whether it has 16 bits and uses 12 or fewer
    fingerprint: str = ""  # of the picture (data/fingerprints.py), if decoded


def inspect_image(
    images: ImageFiles, file_name: str, annotated: tuple[int, int] | None = None
) -> ImageInfo:
    """Read and decode one file; annotated: width and height of its image."""
    try:
        data = images.bytes(file_name)
    except FileNotFoundError:
        return ImageInfo(MISSING)
    except (OSError, zipfile.BadZipFile):
        return ImageInfo(UNREADABLE)
    problem = TRUNCATED if _is_truncated(data) else ""
    try:
        image, doubts = decode_with_doubts(data, file_name, annotated, images.exif)
    except OrientationError:
        return ImageInfo(UNORIENTED)
    except (ValueError, cv2.error):
        return ImageInfo(problem or UNREADABLE)
    height, width = image.shape[:2]
    rotated = exif_orientation(data) > 1 and not np.array_equal(
        image, decode_image(data, file_name, exif="ignore")
    )
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    damaged = DAMAGED in doubts and not problem
    doubtful = damaged, DARK in doubts
    return ImageInfo(problem, (width, height), rotated, digest, *doubtful, fingerprint(image))


def inspect_images(
    images: ImageFiles,
    names: Sequence[str],
    processes: int = 0,
    sizes: Mapping[str, tuple[int, int] | None] = MappingProxyType({}),
) -> Iterator[ImageInfo]:
    """`inspect_image` of every file, in order; with 0 processes, in this one."""
    inspect, annotated = partial(inspect_image, images), [sizes.get(name) for name in names]
    if not processes:
        yield from map(inspect, names, annotated)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(inspect, names, annotated, chunksize=16)


def inspect_files(
    images: ImageFiles, listed: Sequence[Mapping[str, Any]], workers: int, title: str
) -> dict[str, ImageInfo]:
    """file name -> properties of the file, of entries of `images` with a file name"""
    sizes = {image["file_name"]: annotated_size(image) for image in listed}
    processes = min(workers, len(sizes) // IMAGES_PER_PROCESS)
    infos = inspect_images(images, list(sizes), processes, sizes)
    return dict(zip(sizes, progress(infos, title, len(sizes))))


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker; some versions of OpenCV fill the rest with grey.

    Within a JPEG scan a byte FF is followed by 00, so that pixels contain no marker.
    """
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]


# Annotations ----------------------------------------------------------------------------------


class Schema(NamedTuple):
    """What the annotations of a split must agree with."""

    joints: tuple[str, ...]  # names, in the order of the skeleton
    category: Mapping[str, Any]  # the entry of `categories` that is trained on
    max_people: int = 30  # with trained tags
    area_from: str = "area"  # field that the metric takes the areas of people from: area or bbox
    ignore: str = "segmentation"  # a key of data.coco.IGNORE_REGIONS
    image_ids: tuple[int, ...] = ()  # use only these images; empty: all


@dataclass(frozen=True)
class DatasetView:
    """The annotations of a split as arrays, with the properties of its image files.

    P counts the annotations of the category, labelled or not.
    """

    truth: Mapping[str, Any]  # the annotation file
    schema: Schema
    files: Mapping[str, ImageInfo]  # file name -> its properties, of the files that were decoded

    @cached_property
    def images(self) -> dict[Any, dict]:
        """image id -> entry, of the entries that have an id"""
        return {i["id"]: i for i in self.truth["images"] if i.get("id") is not None}

    @cached_property
    def people(self) -> list[dict]:
        """(P,) annotations of the category or without any, of images that are listed"""
        wanted, listed = self.schema.category.get("id"), self.images
        return [
            each
            for each in self.truth["annotations"]
            if each.get("category_id", wanted) == wanted and each.get("image_id") in listed
        ]

    @cached_property
    def has_joints(self) -> np.ndarray:
        """(P,) bool: whether the keypoints are 3 numbers for each of K joints"""
        count = 3 * len(self.schema.joints)
        keypoints = [person.get("keypoints") or () for person in self.people]
        if all(len(each) == count for each in keypoints):  # the common case, all at once
            kinds = set(map(type, chain.from_iterable(keypoints)))
            if kinds <= {int, float} and (
                min(map(min, keypoints), default=0) >= -MAX_INTEGER
                and max(map(max, keypoints), default=0) <= MAX_INTEGER
            ):
                return np.ones(len(keypoints), bool)
        return np.array([len(each) == count and _are_numbers(each) for each in keypoints], bool)

    @cached_property
    def joints(self) -> np.ndarray:
        """(P, K, 3) x, y in pixels, visibility; 0 where the keypoints are not K joints."""
        joints = np.zeros((len(self.people), len(self.schema.joints), 3))
        rows = [person["keypoints"] for person in compress(self.people, self.has_joints)]
        joints[self.has_joints] = np.array(rows, float).reshape(len(rows), *joints.shape[1:])
        return joints

    @cached_property
    def is_labelled(self) -> np.ndarray:
        """(P,) bool: whether any joint is labelled"""
        return np.any(self.joints[..., 2] > 0, axis=1)

    @cached_property
    def is_crowd(self) -> np.ndarray:
        """(P,) bool"""
        return np.array([bool(person.get("iscrowd")) for person in self.people], bool)

    @property
    def is_ignored(self) -> np.ndarray:
        """(P,) bool: annotations excluded from the heatmap loss (crowds and unlabelled people)."""
        return self.is_crowd | ~self.is_labelled

    @cached_property
    def boxes(self) -> np.ndarray:
        """(P, 4) x, y, width, height in pixels; NaN where there is no box of 4 numbers"""
        unknown = [np.nan] * 4
        boxes = [person.get("bbox") for person in self.people]
        rows = [
            box
            if isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))
            else unknown
            for box in boxes
        ]
        return np.array(rows, float).reshape(-1, 4)

    @cached_property
    def box_areas(self) -> np.ndarray:
        """(P,) square pixels, negative if any side is; NaN where there is no box"""
        width, height = self.boxes[:, 2:].T
        return np.where(np.minimum(width, height) < 0, -abs(width * height), width * height)

    @cached_property
    def areas(self) -> np.ndarray:
        """(P,) square pixels that the metric uses, of boxes or annotated; NaN: unknown"""
        if self.schema.area_from == "bbox":
            return self.box_areas
        areas = [person.get("area") for person in self.people]
        return np.array([area if is_number(area) else np.nan for area in areas], float)

    @cached_property
    def image_sizes(self) -> np.ndarray:
        """(P, 2) width and height of the people's images, decoded or annotated; NaN: unknown"""
        unknown = (np.nan, np.nan)
        known = {number: self._size(image) for number, image in self.images.items()}
        sizes = [known.get(person.get("image_id"), unknown) for person in self.people]
        return np.array(sizes, float).reshape(-1, 2)

    def _size(self, image: Mapping[str, Any]) -> tuple[Any, ...]:
        decoded = self.files.get(image.get("file_name", ""), ImageInfo()).size
        return decoded or annotated_size(image) or (np.nan, np.nan)

    @cached_property
    def people_per_image(self) -> dict[Any, int]:
        """image id -> number of labelled people"""
        count = dict.fromkeys(self.images, 0)
        for person in compress(self.people, self.is_labelled):
            if person.get("image_id") in count:
                count[person["image_id"]] += 1
        return count


def _are_numbers(values: Sequence[Any]) -> bool:
    """`is_number` of all values, for many annotations."""
    return (
        set(map(type, values)) <= {int, float}
        and not max(map(abs, values), default=0) > MAX_INTEGER
    )


# Statistics -----------------------------------------------------------------------------------


def compute_statistics(view: DatasetView) -> dict[str, Any]:
    """Counts and histograms: plain numbers, and tables name -> number."""
    labelled, crowd = view.is_labelled, view.is_crowd
    flags = view.joints[labelled, :, 2]
    visible, hidden = (flags == 2).sum(0), (flags == 1).sum(0)
    areas = view.areas[labelled]
    areas = areas[np.isfinite(areas) & (areas > 0)]
    levels = np.percentile(areas, QUANTILES).round(1).tolist() if areas.size else []
    # Training reads the images with a labelled person or a region to mask.
    used = labelled | (view.is_ignored & (view.schema.ignore != "none"))
    trained = {person.get("image_id") for person in compress(view.people, used)}
    return {
        "images": len(view.truth["images"]),
        "images trained on": sum(number in trained for number in view.images),
        "with labelled people": sum(count > 0 for count in view.people_per_image.values()),
        "files decoded": len(view.files),
        "annotations": len(view.people),
        "labelled people": int(labelled.sum()),
        "crowds": int(crowd.sum()),
        "unlabelled people": int((~labelled & ~crowd).sum()),
        "people per image": _histogram(list(view.people_per_image.values()), PEOPLE_BINS),
        "joints of labelled people": {
            name: {"visible": int(v), "hidden": int(h), "unlabelled": len(flags) - int(v) - int(h)}
            for name, v, h in zip(view.schema.joints, visible, hidden)
        },
        "sizes of labelled people": _histogram(areas, AREA_BINS),
        "quantiles of their areas": {f"{q} %": level for q, level in zip(QUANTILES, levels)},
    }


def _histogram(values: Any, bins: Mapping[str, int]) -> dict[str, int]:
    found = np.digitize(values, list(bins.values())) - 1
    return dict(zip(bins, np.bincount(found, minlength=len(bins)).tolist()))
