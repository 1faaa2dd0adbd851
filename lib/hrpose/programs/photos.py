"""The photos of a path or pattern, and the names of their pictures."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import cv2

from hrpose.ops.image import IMAGE_SUFFIXES, can_encode
from hrpose.programs.output_folder import ACCOUNT


class Photo(NamedTuple):
    """An image to predict on."""

    image_id: int
    path: Path
    name: str  # its path below --input, with /


def find_photos(pattern: str) -> list[Photo]:
    """The images of a path or pattern, numbered from 1 in the order of their names.

    A folder is searched with its sub-folders, less what an earlier run drew below it. A photo's
    name is its path below the folder, or below the pattern's part without wildcards.
    """
    place = Path(pattern)
    base, paths = place.parent, [place]
    if place.is_dir():
        base, paths = place, [path for path in place.rglob("*") if not _is_hidden(path, place)]
    elif not place.is_file():
        fixed = takewhile(lambda part: not glob.has_magic(part), place.parts)
        base, paths = Path(*fixed), [Path(name) for name in glob.glob(pattern)]
    files = sorted(path for path in paths if path.is_file())
    images = [path for path in files if is_photo(path)]
    if not images:
        raise FileNotFoundError(f"no image at {pattern} (known: {', '.join(IMAGE_SUFFIXES)})")
    if len(images) < len(files):
        passed = Counter(path.suffix.lower() or path.name for path in files if path not in images)
        kinds = ", ".join(f"{count} {kind}" for kind, count in passed.items())
        print(f"passed over, as OpenCV does not read them: {kinds}")
    names = [path.relative_to(base).as_posix() for path in images]
    return [Photo(i, path, name) for i, (path, name) in enumerate(zip(images, names), 1)]


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file is hidden (`._a.jpg` of macOS is no photo) or in a folder of pictures."""
    parents = [parent for parent in path.parents if folder in parent.parents]
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or any((parent / ACCOUNT).is_file() for parent in parents)


def is_photo(path: Path) -> bool:
    """Whether the suffix, or else the content, is that of a format that OpenCV reads."""
    if path.name.startswith("._"):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(str(path))


def picture_names(photos: Sequence[Photo]) -> dict[Photo, str]:
    """Each photo's picture: its own name, with .jpg added where OpenCV cannot write its format."""
    names: dict[Photo, str] = {}
    taken = {photo.name for photo in photos}
    for photo in photos:
        name = photo.name
        while not can_encode(Path(name).suffix) or (name != photo.name and name in taken):
            name += ".jpg"
        taken.add(name)
        names[photo] = name
    return names


def refuse_among_photos(photos: Sequence[Photo], folder: Path) -> None:
    """ValueError if the folder to write to is, or holds, that of the photos."""
    target = folder.resolve()
    places = [photo.path.parent.resolve() for photo in photos]
    within = [
        photo.path for photo, place in zip(photos, places) if target in (place, *place.parents)
    ]
    if within:
        raise ValueError(
            f"--output {folder} holds {len(within)} of the photos, e.g. {within[0]}; pictures "
            "would be drawn among them. Name a folder of its own"
        )
