"""The photos, videos and cameras that --input names, and the names of what is drawn of them."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import cv2

from hrpose.ops.image import IMAGE_SUFFIXES, can_encode
from hrpose.programs.output_folder import ACCOUNT
from hrpose.video import CODECS, VIDEO_SUFFIXES


class Photo(NamedTuple):
    """An image to predict on."""

    image_id: int
    path: Path
    name: str  # its path below --input, with /


class Clip(NamedTuple):
    """A video, camera or stream to predict on."""

    address: str | int  # a path, a URL, or the number of a camera
    name: str  # its path below --input, with /; camera0; host_path
    label: str  # for messages: without the user and password of a URL


class Inputs(NamedTuple):
    """What --input names, in the order of names or of the list."""

    photos: list[Photo]
    clips: list[Clip]

    def paths(self) -> list[Path]:
        """Of all files."""
        addresses = [Path(f"{clip.address}") for clip in self.clips]
        return [photo.path for photo in self.photos] + [p for p in addresses if p.is_file()]


def find_inputs(source: str) -> Inputs:
    """The photos and videos of a path, pattern or list, a camera, or a stream.

    Photos are numbered from 1. A folder is searched with its sub-folders, less what an earlier run
    drew below it. A name is a path below the folder, below the pattern's part without wildcards,
    or below the folder that all listed files have in common.

    source: also the number of a camera, a URL, a file of paths (.txt), or - for paths on stdin
    """
    if source.isdecimal() and not os.path.exists(source):
        return Inputs([], [Clip(int(source), f"camera{int(source)}", f"camera {source}")])
    if re.match(r"(rtsps?|https?)://", source):
        parts = urlsplit(source)
        name = re.sub(r"[^\w.-]+", "_", f"{parts.hostname}{parts.path}").strip("_")
        place = parts.netloc.rpartition("@")[2]
        return Inputs([], [Clip(source, name, f"{parts.scheme}://{place}{parts.path}")])
    listed = source == "-" or (source.endswith(".txt") and os.path.isfile(source))
    base, files = _listed_files(source) if listed else _found_files(source)
    videos = [path for path in files if is_video(path)]
    images = [path for path in files if path not in videos and is_photo(path)]
    if not images and not videos:
        known = ", ".join(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))  # .gif may be both
        raise FileNotFoundError(f"no image or video at {source} (known: {known})")
    unknown = [path for path in files if path not in images and path not in videos]
    if unknown:
        passed = Counter(path.suffix.lower() or path.name for path in unknown)
        kinds = ", ".join(f"{count} {kind}" for kind, count in passed.items())
        print(f"passed over, as OpenCV does not read them: {kinds}")
    names = {path: path.relative_to(base).as_posix() for path in files}
    photos = [Photo(i, path, names[path]) for i, path in enumerate(images, 1)]
    return Inputs(photos, [Clip(str(path), names[path], str(path)) for path in videos])


def _found_files(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that names begin below, and the files, sorted."""
    place = Path(pattern)
    base, paths = place.parent, [place]
    if place.is_dir():
        base, paths = place, [path for path in place.rglob("*") if not _is_hidden(path, place)]
    elif not place.is_file():
        fixed = takewhile(lambda part: not glob.has_magic(part), place.parts)
        base, paths = Path(*fixed), [Path(name) for name in glob.glob(pattern)]
    return base, sorted(path for path in paths if path.is_file())


def _listed_files(source: str) -> tuple[Path, list[Path]]:
    """The same of a list of paths, one a line, in its order; each once."""
    text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8-sig")
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    paths = [Path(os.path.abspath(os.path.expanduser(line))) for _, line in lines]
    missing = [pair for pair, path in zip(lines, paths) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(lines)} files listed in {source} are not there, e.g. line "
            f"{missing[0][0]}: {missing[0][1]}; paths begin in the current folder, {os.getcwd()}"
        )
    base = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return base, list(dict.fromkeys(paths))


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file is hidden (`._a.jpg` of macOS is no photo) or in a folder of pictures."""
    parents = [parent for parent in path.parents if folder in parent.parents]
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or any((parent / ACCOUNT).is_file() for parent in parents)


def is_video(path: Path) -> bool:
    """Whether the suffix is that of a video; a GIF is one if it has several images."""
    suffix = path.suffix.lower()
    if path.name.startswith("._") or suffix not in VIDEO_SUFFIXES:
        return False
    return suffix != ".gif" or cv2.imcount(str(path)) > 1


def is_photo(path: Path) -> bool:
    """Whether the suffix, or else the content, is that of a format that OpenCV reads."""
    if path.name.startswith("._"):
        return False
    return path.suffix.lower() in IMAGE_SUFFIXES or cv2.haveImageReader(str(path))


def drawn_names(inputs: Inputs) -> dict[Photo | Clip, str]:
    """The name of each one's picture or video: its own, with .jpg or .mp4 added where needed.

    No two have the same, and none has the name of another input.
    """
    taken = {photo.name for photo in inputs.photos} | {clip.name for clip in inputs.clips}

    def free(name: str, fits: Callable[[str], object], suffix: str) -> str:
        drawn = name
        while not fits(Path(drawn).suffix) or (drawn != name and drawn in taken):
            drawn += suffix
        taken.add(drawn)
        return drawn

    names: dict[Photo | Clip, str] = {p: free(p.name, can_encode, ".jpg") for p in inputs.photos}
    names |= {c: free(c.name, lambda s: s.lower() in CODECS, ".mp4") for c in inputs.clips}
    return names


def refuse_among_inputs(paths: Iterable[Path], folder: Path) -> None:
    """ValueError if the folder to write to is, or holds, that of the inputs."""
    target = folder.resolve()
    places = [(path, path.parent.resolve()) for path in paths]
    within = [path for path, place in places if target in (place, *place.parents)]
    if within:
        kind = "videos" if is_video(within[0]) else "photos"
        raise ValueError(
            f"--output {folder} holds {len(within)} of the {kind}, e.g. {within[0]}; pictures "
            "would be drawn among them. Name a folder of its own"
        )
