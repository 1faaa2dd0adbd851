"""What training and evaluation should not share."""

from __future__ import annotations

from collections.abc import Iterator

from hrpose.data.faults.finding import ERROR, NOTE, Finding, found, graver_first
from hrpose.data.survey import Marks

SEPARATE = "take them out of one split: scores on images that were trained on mean nothing"
COINCIDENCE = "nothing to do if the images differ"


def overlaps(first: Marks, second: Marks) -> list[Finding]:
    """What two splits have in common."""
    mine, others = _ids_by_name(first), _ids_by_name(second)
    names = [name for name in mine if name in others]
    same = [name for name in names if mine[name] == others[name]]
    ids = [str(number) for number in first.images if number in second.images]
    return graver_first(
        [
            found(ERROR, "equal files in both splits", _equal_files(first, second), SEPARATE),
            found(ERROR, "images of one id and file name in both splits", same, SEPARATE),
            found(NOTE, "file names in both splits", names, COINCIDENCE),
            found(NOTE, "image ids in both splits", ids, COINCIDENCE),
        ]
    )


def _ids_by_name(marks: Marks) -> dict[str, int]:
    return {image["file_name"]: number for number, image in marks.images.items()}


def _equal_files(first: Marks, second: Marks) -> Iterator[str]:
    others = {seen.digest: name for name, seen in second.seen.items() if seen.digest}
    for name, seen in first.seen.items():
        if seen.digest in others:
            yield f"{name} = {others[seen.digest]}"
