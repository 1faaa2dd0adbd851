"""MPII's official annotations, mpii_human_pose_v1_u12_1.mat: people as `convert` takes them.

RELEASE has annolist, of every image: image.name and annorect, people with x1, y1, x2, y2 (of the
head box), scale, objpos and annopoints.point (id, x, y, is_visible); and img_train. Pixels count
from 1.
Source: Andriluka et al., 2D Human Pose Estimation, CVPR 2014; http://human-pose.mpi-inf.mpg.de.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from hrpose.data.convert import MPII_HEAD, refuse_entries
from hrpose.skeletons import MPII

RELEASE_CURE = "use mpii_human_pose_v1_u12_1.mat as it was downloaded"

HEAD_BOX = ("x1", "y1", "x2", "y2")


def read_mpii_release(
    path: Path,
) -> tuple[list[dict[str, Any]], tuple[np.ndarray, np.ndarray], dict[str, int]]:
    """People of the training images, their ground truth, and what was left out: reason -> count.

    People and ground truth are those that `mpii_annotations` takes. Joints that are stated to be
    hidden have visibility 1; those of the head, of which nothing is stated, have 2.
    Only numbers and texts are taken from the file. It is read in a process of its own, which a
    damaged file may bring down with scipy's reader.
    Errors: FileNotFoundError; ValueError for a file that is no such file
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotations at {path}")
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            people, left_out = pool.submit(training_people, str(path)).result()
    except Exception as error:  # of a damaged or foreign file scipy may raise any exception
        raise ValueError(
            f"{path} is not MPII's release ({type(error).__name__}: {error}); {RELEASE_CURE}"
        ) from None
    joints = np.array([one.pop("truth") for one in people]).reshape(-1, len(MPII.joints), 3)
    corners = np.array([one.pop("head") for one in people]).reshape(-1, 2, 2)
    sizes = MPII_HEAD * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)
    flat = [f"{people[n]['image']} person {n}" for n in np.flatnonzero(sizes <= 0)]
    refuse_entries(flat, "head boxes without extent", RELEASE_CURE)
    return people, (joints, sizes), left_out


def training_people(path: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The people of the training images as plain values, and what was left out."""
    from scipy.io import loadmat

    release = loadmat(path, variable_names=["RELEASE"], simplify_cells=True)["RELEASE"]
    people: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for image, trained in zip(_each(release["annolist"]), np.ravel(release["img_train"])):
        if not trained:
            left_out["images of the test split, whose joints are not public"] += 1
            continue
        for person in _each(image.get("annorect", ())):
            reason = _what_lacks(person)
            if reason:
                left_out[f"people without {reason}"] += 1
            else:
                people.append(_plain(str(image["image"]["name"]), person))
    return people, dict(left_out)


def _each(value: Any) -> list[dict[str, Any]]:
    """A field of structs: MATLAB gives one as itself, and none as an empty array or not at all."""
    return [value] if isinstance(value, dict) else [v for v in value if isinstance(v, dict)]


def _what_lacks(person: dict[str, Any]) -> str:
    """The first of the needed fields that is absent or empty, in words; "" if all are there."""
    points, place = person.get("annopoints"), person.get("objpos")
    if not isinstance(points, dict) or not _each(points.get("point", ())):
        return "joints"
    if not isinstance(place, dict) or not np.size(person.get("scale", ())):
        return "place and scale"
    return "" if all(np.size(person.get(side, ())) for side in HEAD_BOX) else "a head box"


def _plain(image: str, person: dict[str, Any]) -> dict[str, Any]:
    """A person as in MPII's annot/*.json, with `truth` (16, 3) from 0 and `head`, 4 numbers."""
    truth = np.zeros((len(MPII.joints), 3))
    for point in _each(person["annopoints"]["point"]):
        seen = point.get("is_visible", ())
        hidden = np.size(seen) > 0 and not int(np.ravel(seen)[0])
        if not 0 <= int(point["id"]) < len(truth):
            raise ValueError(f"{image} has a joint {point['id']}; there are 0 to 15")
        truth[int(point["id"])] = float(point["x"]) - 1, float(point["y"]) - 1, 2 - hidden
    known = truth[:, 2] > 0
    return {
        "image": image,
        "center": [float(person["objpos"][axis]) for axis in "xy"],
        "scale": float(person["scale"]),
        "joints": np.where(known[:, None], truth[:, :2] + 1, -1).tolist(),
        "joints_vis": known.astype(int).tolist(),
        "truth": truth.tolist(),
        "head": [float(person[side]) for side in HEAD_BOX],
    }
