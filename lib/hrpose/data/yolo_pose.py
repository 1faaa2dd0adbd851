"""YOLO-pose data sets as COCO JSON, and back.

A YAML has the names of the classes, kpt_shape (joints, and 2 or 3 numbers of each), flip_idx (the
index of each joint's left-right twin) and perhaps kpt_names. Every image has a text file with a
line for each object: class, box as centre and size, then x, y and perhaps visibility of each joint.
Places are shares of the image's width and height. An image without a text file has no objects.
Source: https://docs.ultralytics.com/datasets/pose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrpose.data.coco import single_people
from hrpose.data.convert import named_category, person_entries, refuse_entries
from hrpose.skeletons import COCO, from_category, side

SHARE_CURE = "boxes and joints are shares of the image's width and height; export them again"

ROUNDING = 0.01
"""By how much of the image a box may reach beyond it."""

FAR_SHARES = (-1, 2)
"""Labelled joints beyond these shares of the image are taken for pixels."""

LEFT_CROWDS = "left out: crowds and other categories"

DECIMALS = 6
"""Digits of a share that are written."""


def label_path(image: Path) -> Path:
    """The label file of an image: `labels` for the last folder `images`, .txt for its suffix."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def joint_shape(settings: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """kpt_shape: the number of joints, and of numbers of each. Errors: ValueError."""
    shape = settings.get("kpt_shape")
    if (
        not isinstance(shape, list)
        or [type(each) for each in shape] != [int, int]
        or shape[0] < 1
        or shape[1] not in (2, 3)
    ):
        raise ValueError(
            f"{path}: kpt_shape is {shape!r}; a YOLO-pose set has [joints, 2] or [joints, 3]"
        )
    return shape[0], shape[1]


def class_names(settings: Mapping[str, Any], path: Path) -> list[str]:
    """`names` of the YAML in the order of the classes. Errors: ValueError."""
    names = settings.get("names")
    if isinstance(names, dict):
        indices = {f"{key}": name for key, name in names.items()}
        names = [indices.get(f"{n}") for n in range(len(indices))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{path}: names is {settings.get('names')!r:.60}; wanted 0: person, ...")
    return names


def yolo_category(
    settings: Mapping[str, Any], path: Path, chosen: int, joints: Sequence[str] = ()
) -> dict[str, Any]:
    """The COCO category of a class, with the names of its joints.

    chosen: index of the class   joints: their names; empty: kpt_names, or COCO's 17 where flip_idx
    is theirs   Errors: ValueError where names are unknown, or do not agree with flip_idx
    """
    count, _ = joint_shape(settings, path)
    order = settings.get("flip_idx")
    named = settings.get("kpt_names")
    if isinstance(named, dict):
        named = named.get(chosen, named.get(f"{chosen}"))
    if not joints and not named and order == COCO.flip_order:
        named = COCO.joints
    names = [*(joints or named or ())]
    if len(names) != count or not all(isinstance(name, str) for name in names):
        what = f"joints are named {names}" if names else "joints have no names (kpt_names)"
        raise ValueError(
            f"{path}: {what}, but kpt_shape has {count}; name them in its order: --joints coco, or "
            "--joints nose,left_eye,..."
        )
    category = named_category(names, class_names(settings, path)[chosen])
    if order is None:
        return category
    if not isinstance(order, list) or {*map(str, order)} != {*map(str, range(count))}:
        raise ValueError(f"{path}: flip_idx is {order!r:.60}; it lists each of {count} joints once")
    if not any(map(side, names)):
        category["flip_pairs"] = [[a + 1, b + 1] for a, b in enumerate(order) if a < b]
    if from_category(category).flip_order != order:
        raise ValueError(
            f"{path}: flip_idx {order} does not exchange the left and right of {', '.join(names)}; "
            "correct it, or the names and their order (kpt_names, --joints)"
        )
    return category


def read_label_file(path: Path, shape: tuple[int, int]) -> dict[str, list[float]]:
    """file:line -> its 5 + 3 K numbers, with visibility 2 where the format has none.

    A joint without visibility is not labelled where it is at 0, 0, or has a negative coordinate.
    shape: of `joint_shape`   Errors: ValueError with the file and line
    """
    count, size = shape
    rows = {}
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; export it again") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            raise ValueError(
                f"{path}:{number}: wanted numbers, found {line.strip()[:40]!r}; export it again"
            ) from None
        if len(row) != 5 + count * size or not np.isfinite(row).all():
            raise ValueError(
                f"{path}:{number}: wanted {5 + count * size} finite numbers (class, box, {count} "
                f"joints of {size}), found {len(row)}; correct the line, or kpt_shape"
            )
        if size == 2:
            points = np.reshape(row[5:], (count, 2))
            labelled = (points >= 0).all(1) & (points > 0).any(1)
            row[5:] = np.column_stack([points, 2 * labelled]).ravel().tolist()
        rows[f"{path}:{number}"] = row
    return rows


def yolo_pose_annotations(
    images: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    settings: Mapping[str, Any],
    path: Path,
    category: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, int]]:
    """A split in COCO's format, its images numbered from 1, and what was left out.

    images: file_name, width and height of each   files: label files of the images, which need not
    exist   path: of the YAML `settings`   category: of `yolo_category`
    The area is BOX_FILL of the box's. Joints of visibility 0 become 0, 0, 0.
    Errors: ValueError with files and lines
    """
    if images and not any(file.is_file() for file in files):
        raise ValueError(
            f"no labels for {len(images)} images, e.g. {files[0]}; put them there, or name the "
            "folder of the images, beside whose labels/ it is: --images"
        )
    shared = [f"{file}" for file, uses in Counter(files).items() if uses > 1]
    refuse_entries(shared, "label files of several images", "rename images that differ in suffix")
    shape, names = joint_shape(settings, path), class_names(settings, path)
    rows: dict[str, list[float]] = {}
    owners: list[int] = []
    for n, file in enumerate(files):
        own = read_label_file(file, shape) if file.is_file() else {}
        rows |= own
        owners += [n] * len(own)
    table = np.array([*rows.values()], float).reshape(-1, 5 + 3 * shape[0])
    _refuse_odd_rows(table, [*rows], len(names))
    kept = table[:, 0] == names.index(category["name"])
    left_out = Counter(names[int(index)] for index in table[~kept, 0])
    table, owners = table[kept], np.array(owners, int)[kept].tolist()
    sizes = np.array([[images[n]["width"], images[n]["height"]] for n in owners]).reshape(-1, 2)
    joints = table[:, 5:].reshape(-1, shape[0], 3) * np.insert(sizes, 2, 1, axis=1)[:, None]
    extents = table[:, 3:5] * sizes
    boxes = np.hstack([table[:, 1:3] * sizes - extents / 2, extents])
    numbered = [{"id": n, **image} for n, image in enumerate(images, 1)]
    people = person_entries([n + 1 for n in owners], joints, boxes, [{}] * len(table))
    truth = {"images": numbered, "annotations": people, "categories": [dict(category)]}
    return truth, {f"objects of class {name}": count for name, count in left_out.items()}


def _refuse_odd_rows(table: np.ndarray, lines: Sequence[str], classes: int) -> None:
    """ValueError with the lines, file:line, of rows (N, 5 + 3K) that are not of this format."""
    index, box = table[:, 0], table[:, 1:5]
    joints = table[:, 5:].reshape(len(table), table.shape[1] // 3 - 1, 3)
    edges = np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2])
    low, high = FAR_SHARES
    far = ((joints[..., :2] < low) | (joints[..., :2] > high)).any(-1) & (joints[..., 2] > 0)
    found = {
        "objects of a class that `names` has not": (
            ~np.isin(index, range(classes)), "add it to names, or correct the lines"),
        "objects whose visibility is not 0, 1 or 2": (
            ~np.isin(joints[..., 2], (0, 1, 2)).all(1), "scores of predictions are no visibility"),
        "boxes without extent": ((box[:, 2:] <= 0).any(1), SHARE_CURE),
        "boxes beyond their image": (
            ((edges < -ROUNDING) | (edges > 1 + ROUNDING)).any(1), SHARE_CURE),
        "objects with joints far outside of their image": (far.any(1), SHARE_CURE),
    }  # fmt: skip
    for complaint, (odd, cure) in found.items():
        refuse_entries([lines[n] for n in np.flatnonzero(odd).tolist()], complaint, cure)


def yolo_pose_settings(category: Mapping[str, Any]) -> dict[str, Any]:
    """The YAML of a set whose images are in images/, its labels in labels/, beside it."""
    joints = list(category["keypoints"])
    return {
        "train": "images",
        "val": "images",
        "names": {0: category["name"]},
        "kpt_shape": [len(joints), 3],
        "flip_idx": from_category(category).flip_order,
        "kpt_names": {0: joints},
    }


def yolo_pose_labels(
    truth: Mapping[str, Any], category: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, int]]:
    """The label files of COCO annotations, name -> text, and what was changed or left out.

    Every image has a width and height. Names are those of the images, with .txt for their suffix.
    Boxes are cut at the image's edges, beyond which the format has none.
    Errors: ValueError for images that would share a file, or whose name leaves the folder
    """
    images = {image["id"]: image for image in truth["images"]}
    names = {n: Path(image["file_name"]).with_suffix(".txt") for n, image in images.items()}
    odd = [f"{name}" for name in names.values() if name.is_absolute() or ".." in name.parts]
    refuse_entries(odd, "file names that leave the folder", "name images by their path below it")
    shared = [f"{name}" for name, uses in Counter(names.values()).items() if uses > 1]
    refuse_entries(shared, "label files of several images", "rename images that differ in suffix")
    lines: dict[Any, list[str]] = {n: [] for n in images}
    people = single_people(truth, category)
    changes = Counter({LEFT_CROWDS: len(truth["annotations"]) - len(people)})
    for person in people:
        image = images[person["image_id"]]
        size = np.array([image["width"], image["height"]], float)
        x, y, w, h = person["bbox"]
        corners = np.array([[x, y], [x + w, y + h]]) / size
        inside = corners.clip(0, 1)
        changes["cut at the image's edges: boxes"] += not np.allclose(inside, corners, atol=1e-9)
        if (inside[1] <= inside[0]).any():
            changes["left out: people whose box is outside of their image"] += 1
            continue
        keypoints = person.get("keypoints") or [0] * (3 * len(category["keypoints"]))
        joints = np.reshape(keypoints, (-1, 3)) / [*size, 1]
        lines[image["id"]].append(_line([*inside.mean(0), *np.ptp(inside, axis=0)], joints))
    texts = {names[n].as_posix(): "".join(own) for n, own in lines.items()}
    return texts, {what: count for what, count in changes.items() if count}


def _line(box: Sequence[float], joints: np.ndarray) -> str:
    """A line of class 0; box: centre and size, joints: (K, 3), in shares."""
    joints = np.where(joints[:, 2:] > 0, joints, 0)
    points = [f"{x:.{DECIMALS}f} {y:.{DECIMALS}f} {int(v)}" for x, y, v in joints.tolist()]
    return " ".join(["0", *(f"{value:.{DECIMALS}f}" for value in box), *points]) + "\n"
