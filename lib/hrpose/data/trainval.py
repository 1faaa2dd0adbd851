"""CrowdPose's training set: the annotations of its train and val splits as one file.

The published results are those of networks trained on both: 10,000 + 2,000 images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from hrpose.data.faults.images import is_otherwise_sized, is_swapped
from hrpose.data.files import Seen

PUBLISHED = (10_000, 2_000)
"""Images of CrowdPose's train and val."""


class Merged(NamedTuple):
    """Annotations, and what was put right in them."""

    truth: dict[str, Any]
    renumbered: int = 0  # annotations, because their ids collided
    swapped: int = 0  # images whose width and height were exchanged


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Merged:
    """Two annotation files of one data set in one; ValueError where they do not go together."""
    parts = (first, second)
    if first["categories"] != second["categories"]:
        raise ValueError("the two splits list other categories or joints; are both of one set?")
    for field in ("id", "file_name"):
        twice = _repeated(image[field] for image in _both(parts, "images"))
        _refuse(twice, f"images whose {field} stands twice", "are the splits two copies of one?")
    for part in parts:
        known = {image["id"] for image in part["images"]}
        strays = [a.get("id") for a in part["annotations"] if a.get("image_id") not in known]
        _refuse(strays, "annotations of images that are not listed", "download the file again")
    annotations = _both(parts, "annotations")
    collided = bool(_repeated(annotation.get("id") for annotation in annotations))
    if collided:
        annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
    truth = {**second, **first, "images": _both(parts, "images"), "annotations": annotations}
    return Merged(truth, renumbered=len(annotations) if collided else 0)


def with_decoded_sizes(merge: Merged, seen: Mapping[str, Seen]) -> Merged:
    """The same with every image's width and height in their places.

    seen: file name -> what reading it showed, of all images
    ValueError where a file is missing or broken, or has a size that was not meant.
    """
    images = merge.truth["images"]
    broken = [
        f"{i['file_name']} ({seen[i['file_name']].trouble})"
        for i in images
        if seen[i["file_name"]].trouble
    ]
    _refuse(broken, "image files cannot be used", "download CrowdPose's images again")
    odd = [i["file_name"] for i in images if is_otherwise_sized(i, seen[i["file_name"]])]
    _refuse(odd, "images have another size than annotated", "use CrowdPose's own images")
    swapped = sum(is_swapped(i, seen[i["file_name"]]) for i in images)
    sizes = [dict(zip(("width", "height"), seen[i["file_name"]].size)) for i in images]
    upright = [{**image, **size} for image, size in zip(images, sizes)]
    return merge._replace(truth={**merge.truth, "images": upright}, swapped=swapped)


def _both(parts: Sequence[Mapping[str, Any]], listed: str) -> list[dict]:
    return list(chain.from_iterable(part[listed] for part in parts))


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _refuse(culprits: Sequence[Any], complaint: str, cure: str) -> None:
    if culprits:
        shown = ", ".join(map(str, culprits[:5]))
        raise ValueError(f"{len(culprits)} {complaint} ({shown}, ...): {cure}")
