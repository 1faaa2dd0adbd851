"""What can be wrong with image entries and image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hrpose.data.faults.finding import ERROR, NOTE, Check, Find, repeated
from hrpose.data.files import MISSING, TRUNCATED, UNREADABLE, Seen
from hrpose.data.survey import Marks


def files_where(holds: Callable[[dict, Seen], Any]) -> Find:
    """A check of every image whose file was looked at."""

    def find(marks: Marks) -> Iterator[str]:
        for image in marks.images.values():
            seen = marks.seen.get(image["file_name"])
            if seen is not None and holds(image, seen):
                yield _described(image, seen)

    return find


def _described(image: Mapping[str, Any], seen: Seen) -> str:
    if not seen.size:
        return image["file_name"]
    stated = f"{image.get('width')} x {image.get('height')}"
    return f"{image['file_name']} is {seen.size[0]} x {seen.size[1]}, annotated {stated}"


def trouble(kind: str) -> Find:
    return files_where(lambda image, seen: seen.trouble == kind)


def is_swapped(image: Mapping[str, Any], seen: Seen) -> bool:
    """Whether the annotated width is the height, and the other way round."""
    stated = (image.get("width"), image.get("height"))
    return len(seen.size) == 2 and seen.size != stated and seen.size[::-1] == stated


def is_otherwise_sized(image: Mapping[str, Any], seen: Seen) -> bool:
    """Whether the decoded size is another than the annotated one, swapped ones apart."""
    stated = (image.get("width"), image.get("height"))
    return None not in stated and seen.size not in ((), stated, stated[::-1])


def is_turned(image: Mapping[str, Any], seen: Seen) -> bool:
    return seen.turned


def images_lacking(*fields: str) -> Find:
    return lambda marks: [
        f"image {image.get('id')}: {field}"
        for image in marks.truth["images"]
        for field in fields
        if image.get(field) is None
    ]


def unlisted_image_ids(marks: Marks) -> list[str]:
    return [str(number) for number in marks.rules.image_ids if number not in marks.images]


def odd_image_ids(marks: Marks) -> list[str]:
    return [repr(number) for number in marks.images if type(number) is not int]


def equal_files(marks: Marks) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, seen in marks.seen.items():
        if seen.digest:
            groups.setdefault(seen.digest, []).append(name)
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def unmarked(marks: Marks) -> list[str]:
    return [i["file_name"] for number, i in marks.images.items() if number not in marks.marked]


def crowded(marks: Marks) -> list[str]:
    most = marks.rules.max_people
    return [
        f"{marks.images[number]['file_name']}: {count} people"
        for number, count in marks.crowding.items()
        if count > most
    ]


CHECKS = (
    Check(
        ERROR,
        "image entries without an id or a file name",
        images_lacking("id", "file_name"),
        "give every entry of `images` both",
    ),
    Check(
        ERROR,
        "images of DATASET.IMAGE_IDS that are not listed",
        unlisted_image_ids,
        "take them out of DATASET.IMAGE_IDS, which holds for both splits",
    ),
    Check(
        ERROR,
        "image ids that are not whole numbers",
        odd_image_ids,
        "number the images; results in COCO's format name them by whole numbers",
    ),
    Check(
        ERROR,
        "image ids that stand twice",
        repeated("images", "id"),
        "number the images anew, and the annotations with them; only the last of each is read",
    ),
    Check(
        NOTE,
        "file names that stand twice",
        repeated("images", "file_name"),
        "keep one entry for each file, with all of its annotations: each entry's people "
        "are background to the other",
    ),
    Check(
        ERROR,
        "image files missing",
        trouble(MISSING),
        "put the files there (the download may be incomplete), or take the entries out",
    ),
    Check(
        ERROR,
        "image files that cannot be decoded",
        trouble(UNREADABLE),
        "download or export them again, or take the entries out",
    ),
    Check(
        ERROR,
        "image files that end too early",
        trouble(TRUNCATED),
        "download them again; OpenCV refuses them, or fills in grey, as its version has it",
    ),
    Check(
        ERROR,
        "images of another size than annotated",
        files_where(is_otherwise_sized),
        "use the images that were annotated, or scale keypoints, boxes and outlines as "
        "the images were",
    ),
    Check(
        NOTE,
        "images whose annotated width and height are swapped",
        files_where(is_swapped),
        "nothing to do: the decoded size is what counts here. --build-trainval writes "
        "the right ones",
    ),
    Check(
        NOTE,
        "images without an annotated size",
        images_lacking("width", "height"),
        "nothing to do: the decoded size is what counts here; other tools want them",
    ),
    Check(
        NOTE,
        "images that EXIF asks viewers to turn",
        files_where(is_turned),
        "look at their pictures: labels must fit the image as stored, not as viewers turn it",
    ),
    Check(
        NOTE,
        "files that are equal under different names",
        equal_files,
        "keep one of them, with all of its annotations",
    ),
    Check(
        NOTE,
        "images without any annotation",
        unmarked,
        "nothing to do: they are left out of training, and kept in evaluation",
    ),
    Check(
        NOTE,
        "images with more labelled people than DATASET.MAX_NUM_PEOPLE",
        crowded,
        "raise DATASET.MAX_NUM_PEOPLE, or know that only the first so many have their tags trained",
    ),
)
