"""Conversion to COCO JSON: CrowdPose's training set, its train and val splits in one file.

The published results are those of networks trained on both: 10,000 + 2,000 images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from hrpose.data.checks import is_resized, is_swapped
from hrpose.data.statistics import ImageInfo

CROWDPOSE_IMAGES = (10_000, 2_000)
"""Images of CrowdPose's train and val."""


class MergedAnnotations(NamedTuple):
    """Annotations of two splits, and the corrections that were made."""

    truth: dict[str, Any]
    renumbered: int = 0  # annotations, because their ids collided
    swapped: int = 0  # images whose width and height were exchanged


def merge_annotations(first: Mapping[str, Any], second: Mapping[str, Any]) -> MergedAnnotations:
    """Two annotation files of one data set as one. Errors: ValueError if they do not match."""
    parts = (first, second)
    if first["categories"] != second["categories"]:
        raise ValueError(
            "the two splits list different categories or joints; use splits of one data set"
        )
    images, annotations = (
        list(chain.from_iterable(part[listed] for part in parts))
        for listed in ("images", "annotations")
    )
    for field in ("id", "file_name"):
        twice = _repeated(image[field] for image in images)
        _refuse(twice, f"images with a repeated {field}", "are the splits two copies of one?")
    for part in parts:
        known = {image["id"] for image in part["images"]}
        strays = [a.get("id") for a in part["annotations"] if a.get("image_id") not in known]
        _refuse(strays, "annotations of images that are not listed", "download the file again")
    collided = bool(_repeated(annotation.get("id") for annotation in annotations))
    if collided:
        annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
    truth = {**second, **first, "images": images, "annotations": annotations}
    return MergedAnnotations(truth, renumbered=len(annotations) if collided else 0)


def with_decoded_sizes(
    merged: MergedAnnotations, files: Mapping[str, ImageInfo]
) -> MergedAnnotations:
    """The annotations with the decoded width and height of every image.

    files: file name -> its properties, of all images
    Errors: ValueError where a file is missing or broken, or its size was neither annotated nor
    swapped.
    """
    images = [(image, files[image["file_name"]]) for image in merged.truth["images"]]
    broken = [f"{i['file_name']} ({info.problem})" for i, info in images if info.problem]
    _refuse(broken, "image files cannot be used", "download CrowdPose's images again")
    odd = [image["file_name"] for image, info in images if is_resized(image, info)]
    _refuse(odd, "images differ in size from the annotated one", "use CrowdPose's own images")
    sized = [{**image, **dict(zip(("width", "height"), info.size))} for image, info in images]
    swapped = sum(is_swapped(image, info) for image, info in images)
    return merged._replace(truth={**merged.truth, "images": sized}, swapped=swapped)


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _refuse(violations: Sequence[Any], complaint: str, cure: str) -> None:
    if violations:
        shown = ", ".join(map(str, violations[:5])) + ", ..." * (len(violations) > 5)
        raise ValueError(f"{len(violations)} {complaint} ({shown}): {cure}")
