"""Which photo each entry of a file of boxes is of. This module imports no torch.

A detector's file numbers images as its annotations do; photos have no such number, but a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def match_photos(
    path: Path, entries: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Entries of a file of boxes with the ids of photos as their image_id; -1: of no photo.

    An entry is of the photo of its `file_name`: by the last part of it, where no entry has the
    whole name of a photo. Without a file_name it is of the photo whose name ends with its image_id,
    as 000000397133.jpg with 397133. What fits several photos is of none. Entries with neither are
    left as they are.

    path: for messages   names: id of a photo -> its path below a folder, with /
    Errors: ValueError if there are entries, but none is of a photo
    """
    whole = {name: number for number, name in names.items()}
    last = _unique((_last_part(name), number) for name, number in whole.items())
    digits = {number: re.search(r"(\d+)\.\w+$", name) for name, number in whole.items()}
    ending = _unique((int(found[1]), number) for number, found in digits.items() if found)
    in_full = any(_file_name(entry) in whole for entry in entries)
    matched = []
    for entry in entries:
        name, number = _file_name(entry), entry.get("image_id")
        if name:
            number = whole.get(name, -1) if in_full else last.get(_last_part(name), -1)
        elif type(number) in (int, float):
            number = ending.get(number, -1)
        matched.append({**entry, "image_id": number})
    if entries and all(entry["image_id"] == -1 for entry in matched):
        raise ValueError(
            f"{path}: none of its {len(entries)} boxes is of these {len(names)} photos; give every "
            f"box the file_name of its photo, e.g. {next(iter(whole))}, or the image_id with which "
            "the photo's name ends"
        )
    return matched


def _file_name(entry: Mapping[str, Any]) -> str:
    """The name of an entry's photo, with / between its folders; empty where it has none."""
    name = entry.get("file_name")
    return name.replace("\\", "/") if isinstance(name, str) else ""


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _unique(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    """Key -> value, of the keys that occur once."""
    values: dict[Any, list[int]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: own[0] for key, own in values.items() if len(own) == 1}
