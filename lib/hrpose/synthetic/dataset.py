"""The synthetic data set: scenes or clips of drawn people, written as an ordinary COCO folder.

A scene's random numbers depend on (seed, split, index) only, not on the number of processes or the
order of their work.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hrpose.ops.atomic_io import naming_full_disk, parse_json, write_json
from hrpose.ops.progress import progress
from hrpose.skeletons import COCO
from hrpose.synthetic.clips import FRAME_RATE, FRAMES, annotate_clip, draw_clip
from hrpose.synthetic.drawing import IMAGE_SIZE
from hrpose.synthetic.scenes import annotate_scene, compose_scene

EDITION = 1  # raised whenever the scenes change, so that folders written before are written anew
SET_DESCRIPTION = "hrpose synthetic people"  # `info.description` of our annotation files
MARKER = ".synthetic"  # a file among the images of an incomplete set, which may be drawn again
_Annotated = tuple[str, list[dict[str, Any]]]  # file name, annotations


def write_synthetic(
    root: Path,
    split: str,
    count: int,
    seed: int,
    joints: Sequence[str] = COCO.joints,
    processes: int | None = None,
) -> None:
    """Write `count` scenes as images/{split}/*.jpg and annotations/person_keypoints_{split}.json.

    The annotation file is written last: where it exists, so do the images. A folder that already
    holds this data set is left unchanged, and so is one of anybody else.

    Errors: FileExistsError where the files of this split are not ours; OSError
    joints: which of COCO's are annotated   processes: how many draw in parallel; None: one per core
    """
    info = {"split": split, "count": count, "seed": seed, "joints": list(joints)}
    indices = range(1, count + 1)
    _write_set(root, info, count, lambda f: _write_images(f, indices, seed, joints, processes))


def write_clips(
    root: Path, count: int, seed: int, joints: Sequence[str] = COCO.joints, frames: int = FRAMES
) -> None:
    """Write clips as images/clips/{clip}/{frame}.jpg and annotations/person_keypoints_clips.json.

    Its annotations also have track_id, the same for a person in all frames of a clip; the
    `frame_rate` is in its `info`. Otherwise as `write_synthetic`.
    """
    info = {"split": "clips", "count": count, "seed": seed, "joints": list(joints),
            "frames": frames, "frame_rate": FRAME_RATE}  # fmt: skip

    def write(folder: Path) -> Iterator[_Annotated]:
        for index in range(1, count + 1):
            clip = draw_clip(scene_rng(seed, "clips", index), frames)
            for frame, (image, labels) in enumerate(annotate_clip(clip, joints)):
                path = folder / f"{index:04d}/{frame:06d}.jpg"
                _write_jpeg(path, image)
                yield str(path.relative_to(folder)), labels

    _write_set(root, info, count * frames, write)


def _write_set(
    root: Path, info: dict[str, Any], count: int, write: Callable[[Path], Iterator[_Annotated]]
) -> None:
    """Write the set that `info` describes, of `count` images, unless it is there.

    write: writes the images into a folder
    """
    split, info = info["split"], {"description": SET_DESCRIPTION, "edition": EDITION, **info}
    path, folder = root / f"annotations/person_keypoints_{split}.json", root / "images" / split
    existing = _read_info(path)
    if existing == info and len(list(folder.rglob("*.jpg"))) >= count:
        return
    # `--output data/coco` must not replace COCO's own files.
    ours = existing.get("description") == SET_DESCRIPTION
    images = folder.is_dir() and any(folder.iterdir())
    if path.exists() and not ours or images and not ours and not (folder / MARKER).exists():
        raise FileExistsError(
            f"{path if path.exists() else folder} is there already, and is no synthetic data set; "
            "name an empty folder"
        )
    with naming_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    path.unlink(missing_ok=True)
    bar = progress(write(folder), f"drawing {split}", count)
    write_json(path, _to_coco(info, bar))
    (folder / MARKER).unlink(missing_ok=True)


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The random generator of scene `index` of a split."""
    return np.random.default_rng((seed, zlib.crc32(split.encode()), index))


def _read_info(path: Path) -> dict[str, Any]:
    """The `info` of a complete annotation file; empty where there is none."""
    try:
        return dict(parse_json(path.read_bytes())["info"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_images(
    folder: Path, indices: range, seed: int, joints: Sequence[str], processes: int | None
) -> Iterator[_Annotated]:
    """File name and annotations of each scene, in order."""
    write = partial(_write_image, folder, seed, joints)
    workers = min(processes or os.cpu_count() or 1, len(indices))
    if workers <= 1:
        yield from map(write, indices)
        return
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # OpenCV's thread pool does not survive a fork: workers would wait for it
    try:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(write, indices, chunksize=8)
    finally:
        cv2.setNumThreads(threads)


def _write_image(folder: Path, seed: int, joints: Sequence[str], index: int) -> _Annotated:
    scene = compose_scene(scene_rng(seed, folder.name, index))
    path = folder / f"{index:012d}.jpg"
    _write_jpeg(path, scene.canvas.image)
    return path.name, annotate_scene(scene, joints)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    with naming_full_disk(path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded.tobytes())


def _to_coco(info: dict[str, Any], scenes: Iterable[_Annotated]) -> dict[str, Any]:
    """The annotation file; a limb without both of its joints is left out."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, labels) in enumerate(scenes, start=1):
        size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
        images.append({"id": image_id, "file_name": name, **size})
        for label in labels:
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1}
            annotations.append(ids | label)
    joints = info["joints"]
    limbs = [[joints.index(end) + 1 for end in limb] for limb in COCO.limbs
             if set(limb) <= set(joints)]  # fmt: skip
    category = {"id": 1, "name": "person", "supercategory": "person",
                "keypoints": joints, "skeleton": limbs}  # fmt: skip
    return {"info": info, "images": images, "annotations": annotations, "categories": [category]}
