"""Conversion to COCO JSON: CrowdPose's train and val splits in one file, OCHuman, and MPII.

The published results on CrowdPose are those of networks trained on both splits: 10,000 + 2,000
images. MPII's files are those of the HRNet family: annot/{train,valid,trainval}.json, and
annot/gt_valid.mat with the head boxes that PCKh needs. They count pixels from 1, COCO from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrpose.data.checks import is_resized, is_swapped
from hrpose.data.coco import person_category
from hrpose.data.statistics import ImageInfo
from hrpose.ops.oks import BOX_FILL
from hrpose.skeletons import AIC, COCO, CROWDPOSE, MPII, Skeleton
from hrpose.structures import PERSON

CROWDPOSE_IMAGES = (10_000, 2_000)
"""Images of CrowdPose's train and val."""

MPII_NAMES = ("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head",
              "rwri", "relb", "rsho", "lsho", "lelb", "lwri")  # fmt: skip
"""The joints of skeletons.MPII as gt_valid.mat names them."""

MPII_SIDE, MPII_LOWERED = 200, 15
"""Pixels, times a person's scale: side of the square box, and its centre below the stated one."""

MPII_HEAD = 0.6
"""Of the diagonal of the head box, the part that PCKh takes for the head size."""

SAME_PIXELS = 1
"""Median distance that the joints of one person in two files do not exceed."""

MPII_CURE = "use train, valid or trainval.json and gt_valid.mat of one download"


class MergedAnnotations(NamedTuple):
    """Annotations of two splits, and the corrections that were made."""

    truth: dict[str, Any]
    renumbered: int = 0  # annotations, because their ids collided
    swapped: int = 0  # images whose width and height were exchanged


def merge_annotations(first: Mapping[str, Any], second: Mapping[str, Any]) -> MergedAnnotations:
    """Two annotation files of one data set as one. Errors: ValueError if they do not match."""
    parts = (first, second)
    if first["categories"] != second["categories"]:
        raise ValueError(
            "the two splits list different categories or joints; use splits of one data set"
        )
    images, annotations = (
        list(chain.from_iterable(part[listed] for part in parts))
        for listed in ("images", "annotations")
    )
    for field in ("id", "file_name"):
        twice = repeated_values(image[field] for image in images)
        refuse_entries(
            twice, f"images with a repeated {field}", "are the splits two copies of one?"
        )
    for part in parts:
        known = {image["id"] for image in part["images"]}
        strays = [a.get("id") for a in part["annotations"] if a.get("image_id") not in known]
        refuse_entries(
            strays, "annotations of images that are not listed", "download the file again"
        )
    collided = bool(repeated_values(annotation.get("id") for annotation in annotations))
    if collided:
        annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
    truth = {**second, **first, "images": images, "annotations": annotations}
    return MergedAnnotations(truth, renumbered=len(annotations) if collided else 0)


def with_decoded_sizes(
    merged: MergedAnnotations, files: Mapping[str, ImageInfo]
) -> MergedAnnotations:
    """The annotations with the decoded width and height of every image.

    files: file name -> its properties, of all images
    Errors: ValueError where a file is missing or broken, or its size was neither annotated nor
    swapped.
    """
    images = [(image, files[image["file_name"]]) for image in merged.truth["images"]]
    broken = [f"{i['file_name']} ({info.problem})" for i, info in images if info.problem]
    refuse_entries(broken, "image files cannot be used", "add the files, or download them again")
    odd = [image["file_name"] for image, info in images if is_resized(image, info)]
    refuse_entries(
        odd, "images differ in size from the annotated one", "use the images that were annotated"
    )
    sized = [{**image, **dict(zip(("width", "height"), info.size))} for image, info in images]
    swapped = sum(is_swapped(image, info) for image, info in images)
    return merged._replace(truth={**merged.truth, "images": sized}, swapped=swapped)


def category_of(skeleton: Skeleton) -> dict[str, Any]:
    """The entry of COCO's `categories` of a built-in skeleton, whose limbs count joints from 1."""
    limbs = [[a + 1, b + 1] for a, b in skeleton.limb_indices]
    return {"id": PERSON, "name": "person", "keypoints": [*skeleton.joints], "skeleton": limbs}


def named_category(joints: Sequence[str], name: str = "person") -> dict[str, Any]:
    """Likewise, of joints by name; with limbs where a built-in skeleton has the same in order."""
    known = [each for each in (COCO, CROWDPOSE, MPII, AIC) if each.joints == tuple(joints)]
    limbs = category_of(known[0])["skeleton"] if known else []
    return {"id": PERSON, "name": name, "keypoints": [*joints], "skeleton": limbs}


def person_entries(
    image_ids: Sequence[int],
    joints: np.ndarray,
    boxes: np.ndarray,
    more: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Entries of COCO's `annotations`, numbered from 1; the area is BOX_FILL of the box's.

    joints: (N, K, 3) x, y, visibility, of which those of visibility 0 become 0, 0, 0
    boxes: (N, 4) x, y, width, height   more: N dicts of further fields
    """
    joints = np.where(joints[..., 2:] > 0, joints, 0)
    counts = (joints[..., 2] > 0).sum(axis=1).tolist()
    areas = (BOX_FILL * boxes[:, 2] * boxes[:, 3]).tolist()
    flat = joints.reshape(len(joints), 3 * joints.shape[1]).tolist()
    rows = zip(image_ids, flat, counts, boxes.tolist(), areas)
    fields = ("image_id", "keypoints", "num_keypoints", "bbox", "area")
    same = {"category_id": PERSON, "iscrowd": 0}
    return [
        {"id": number, **dict(zip(fields, row)), **same, **own}
        for number, (row, own) in enumerate(zip(rows, more), 1)
    ]


def with_limbs(truth: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """COCO annotations of a built-in skeleton with its limbs: CrowdPose's files have COCO's.

    Errors: ValueError for other joints, or another order of them
    """
    own = person_category(truth)
    joints = tuple(own.get("keypoints") or ())
    if joints != skeleton.joints:
        raise ValueError(
            f"the annotations have the joints {', '.join(joints) or '(none)'}; wanted "
            f"{', '.join(skeleton.joints)}. Is --from right? Sets in COCO's format with joints of "
            "their own need no conversion: DATASET.SKELETON file"
        )
    limbs = category_of(skeleton)["skeleton"]
    categories = [{**c, "skeleton": limbs} if c is own else c for c in truth["categories"]]
    return {**truth, "categories": categories}


def mpii_annotations(
    people: Sequence[Mapping[str, Any]],
    ground_truth: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """MPII's people in COCO's format, in their order, ids from 1; images as they come, from 1.

    people: image, center [x, y], scale, joints [16][2], joints_vis [16] each, pixels from 1
    ground_truth: of `read_mpii_truth`; its joints replace those of `people`, and people get
        `head_size`. Without it PCKh cannot be computed.

    The box is the square of 200 scale about the centre (x - 1, y + 15 scale - 1): padded by 1.25
    it is the published crop, if nothing clips it. MPII's files do not tell hidden joints from
    visible ones: labelled joints have visibility 2. The area is BOX_FILL of the box's.
    Errors: ValueError with the numbers of the people that are incomplete or differ
    """
    files = [person.get("image") for person in people]
    odd = [n for n, name in enumerate(files) if not isinstance(name, str) or not name]
    refuse_entries(odd, "people without an image", MPII_CURE)
    joints = np.dstack([_numbers(people, "joints", (16, 2)) - 1,
                        2 * (_numbers(people, "joints_vis", (16,)) > 0)])  # fmt: skip
    scales = _numbers(people, "scale", ())  # (N,)
    refuse_entries(
        np.flatnonzero(scales <= 0).tolist(), "people whose scale is not above 0", MPII_CURE
    )
    centres = _numbers(people, "center", (2,)) - 1 + np.outer(scales, [0, MPII_LOWERED])
    sides = np.repeat(MPII_SIDE * scales[:, None], 2, axis=1)  # (N, 2)
    boxes = np.hstack([centres - sides / 2, sides])
    heads: list[dict[str, float]] = [{} for _ in people]
    if ground_truth is not None:
        _refuse_other_people(joints, ground_truth[0])
        joints = ground_truth[0]
        heads = [{"head_size": size} for size in ground_truth[1].tolist()]
    ids = {name: number for number, name in enumerate(dict.fromkeys(files), 1)}
    annotations = person_entries([ids[name] for name in files], joints, boxes, heads)
    images = [{"id": number, "file_name": name} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": [category_of(MPII)]}


def read_mpii_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 16, 3) and head sizes (N,) of gt_valid.mat, float64.

    Joints are x, y in pixels from 0 and visibility 0 | 2.
    Only arrays of numbers and texts are taken from the file; MATLAB's objects are refused. It is
    read in a process of its own, which a damaged file may bring down with scipy's reader.
    Errors: FileNotFoundError; ValueError for a file that is no MATLAB file or lacks a field
    """
    from scipy.io import loadmat

    wanted = {"jnt_missing": (16,), "pos_gt_src": (16, 2), "headboxes_src": (2, 2)}
    if not path.is_file():
        raise FileNotFoundError(f"no ground truth at {path}")
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            read = partial(loadmat, variable_names=[*wanted, "dataset_joints"], appendmat=False)
            fields = pool.submit(read, str(path)).result()
        names = tuple(str(name.item()) for name in fields["dataset_joints"].ravel())
        arrays = [np.moveaxis(fields[name], -1, 0).astype(float, casting="safe") for name in wanted]
    except Exception as error:  # of a damaged or foreign file scipy may raise any exception
        raise ValueError(
            f"{path} is not MPII's gt_valid.mat ({type(error).__name__}: {error}); {MPII_CURE}"
        ) from None
    odd = [
        f"{name} {array.shape}"
        for array, (name, shape) in zip(arrays, wanted.items())
        if array.shape != (len(arrays[0]), *shape) or not np.isfinite(array).all()
    ]
    refuse_entries(odd, f"fields of {path} are not finite arrays of N people", MPII_CURE)
    if names != MPII_NAMES:
        raise ValueError(
            f"{path} has the joints {', '.join(names)}; wanted {', '.join(MPII_NAMES)}"
        )
    missing, places, boxes = arrays
    sizes = MPII_HEAD * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=-1)
    refuse_entries(np.flatnonzero(sizes <= 0).tolist(), "head boxes without extent", MPII_CURE)
    return np.dstack([places - 1, 2 * (missing == 0)]), sizes


def _numbers(people: Sequence[Mapping[str, Any]], field: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field of all people, (N, *shape) float64, finite."""
    arrays: list[np.ndarray] = []
    for person in people:
        try:
            arrays.append(np.array(person[field], float))
        except (KeyError, TypeError, ValueError, OverflowError):
            arrays.append(np.array(np.nan))
    odd = [n for n, a in enumerate(arrays) if a.shape != shape or not np.isfinite(a).all()]
    size = " x ".join(map(str, shape)) or "1"
    refuse_entries(odd, f"people whose {field} is not {size} finite numbers", MPII_CURE)
    return np.array(arrays).reshape(-1, *shape)


def _refuse_other_people(joints: np.ndarray, truth: np.ndarray) -> None:
    """ValueError unless joints (N, 16, 3) of both files are those of the same people in order."""
    if len(joints) != len(truth):
        raise ValueError(
            f"{len(joints)} people are annotated, but the ground truth has {len(truth)}; use the "
            "files of one split: valid.json and gt_valid.mat"
        )
    distances = np.linalg.norm(joints[..., :2] - truth[..., :2], axis=-1)  # (N, 16)
    both = (joints[..., 2] > 0) & (truth[..., 2] > 0)
    others = [
        number
        for number, (own, known) in enumerate(zip(distances, both))
        if known.any() and np.median(own[known]) > SAME_PIXELS
    ]
    refuse_entries(others, "people are at other places in the ground truth", MPII_CURE)


def repeated_values(values: Iterable[Any]) -> list[Any]:
    """Those that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def refuse_entries(violations: Sequence[Any], complaint: str, cure: str) -> None:
    """ValueError with the number of violations and the first five of them, if there are any."""
    if violations:
        shown = ", ".join(map(str, violations[:5])) + ", ..." * (len(violations) > 5)
        raise ValueError(f"{len(violations)} {complaint} ({shown}): {cure}")
