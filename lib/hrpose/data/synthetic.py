"""The embedded data set: drawn scenes of people, written as an ordinary COCO folder.

A scene's dice come only from (seed, split, index), so neither the number of processes nor the
order of their work can show in it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from hrpose.data.drawing.annotations import annotate_crowd, annotate_person
from hrpose.data.drawing.canvas import SIZE
from hrpose.data.drawing.scenes import CROWD, compose
from hrpose.ops.files import naming_full_disk, write_json
from hrpose.skeletons import COCO

EDITION = 1
"""Raised whenever the scenes change, so that folders written before are written anew."""

_JPEG_QUALITY = 92


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """One scene: its image (SIZE, SIZE, 3) uint8 RGB, and its COCO annotations without ids."""
    scene = compose(rng)
    owner = scene.canvas.owner
    annotations = [
        annotate_person(figure, number, owner, labelled)
        for number, (figure, labelled) in enumerate(zip(scene.figures, scene.labelled), start=1)
    ]
    annotations.append(annotate_crowd(CROWD, owner))
    return scene.canvas.image, [found for found in annotations if found is not None]


def write_synthetic(
    root: Path,
    split: str,
    count: int,
    seed: int,
    joints: Sequence[str] = COCO.joints,
    processes: int | None = None,
) -> None:
    """Write `count` scenes as images/{split}/*.jpg and annotations/person_keypoints_{split}.json.

    The annotation file comes last: where it stands, the images do. A folder that holds this very
    set is left alone.

    joints: which of COCO's are marked   processes: how many draw at a time; None: one per core
    """
    info = {"description": "hrpose synthetic people", "edition": EDITION,
            "split": split, "count": count, "seed": seed, "joints": list(joints)}  # fmt: skip
    path = Path(root) / "annotations" / f"person_keypoints_{split}.json"
    images = Path(root) / "images" / split
    if _holds(path, info) and len(list(images.glob("*.jpg"))) >= count:
        return
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    scenes = _write_images(images, range(1, count + 1), seed, processes)
    bar = tqdm(scenes, total=count, desc=f"drawing {split}", unit="image", disable=None)
    write_json(path, _with_joints(_coco(info, list(bar)), joints))


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The dice of scene `index` of a split."""
    return np.random.default_rng((seed, zlib.crc32(split.encode()), index))


def _holds(path: Path, info: dict[str, Any]) -> bool:
    """Whether `path` is the complete annotation file of the set that `info` names."""
    try:
        return json.loads(path.read_text())["info"] == info
    except (OSError, ValueError, KeyError):
        return False


def _write_images(
    folder: Path, indices: range, seed: int, processes: int | None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """File name and annotations of each scene, in order."""
    write = partial(_write_image, folder, seed)
    workers = min(processes or os.cpu_count() or 1, len(indices))
    if workers <= 1:
        yield from map(write, indices)
        return
    with _no_threads(), ProcessPoolExecutor(workers) as pool:
        yield from pool.map(write, indices, chunksize=8)


@contextmanager
def _no_threads() -> Iterator[None]:
    """OpenCV's own threads do not survive a fork: whoever waits for them there waits for ever."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _write_image(folder: Path, seed: int, index: int) -> tuple[str, list[dict[str, Any]]]:
    image, annotations = draw_scene(scene_rng(seed, folder.name, index))
    name = f"{index:012d}.jpg"
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    with naming_full_disk(folder / name):
        (folder / name).write_bytes(encoded.tobytes())
    return name, annotations


def _coco(info: dict[str, Any], scenes: list[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """The annotation file as one dictionary."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, found) in enumerate(scenes, start=1):
        images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
        for annotation in found:
            ids = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1}
            annotations.append(ids | annotation)
    category = {"id": 1, "name": "person", "supercategory": "person",
                "keypoints": list(COCO.joints)}  # fmt: skip
    return {"info": info, "images": images, "annotations": annotations, "categories": [category]}


def _with_joints(truth: dict[str, Any], joints: Sequence[str]) -> dict[str, Any]:
    """The same people marked at these joints only, in this order; limbs go where an end is gone."""
    wanted = [COCO.joints.index(name) for name in joints]
    limbs = [limb for limb in COCO.limb_indices if set(limb) <= set(wanted)]
    (category,) = truth["categories"]
    category["keypoints"] = list(joints)
    category["skeleton"] = [[wanted.index(end) + 1 for end in limb] for limb in limbs]
    for person in truth["annotations"]:
        marks = np.reshape(person["keypoints"], (-1, 3))[wanted]
        person["keypoints"] = marks.ravel().tolist()
        person["num_keypoints"] = int((marks[:, 2] > 0).sum())
    return truth
