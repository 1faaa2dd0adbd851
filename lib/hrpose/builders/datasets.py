"""Assembly: the splits of a data set that a config names, and what a person is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from hrpose.data.coco import (
    LAYOUTS,
    ImageAnnotation,
    ImageFiles,
    image_annotations,
    load_annotations,
    person_category,
    select_images,
)
from hrpose.data.rules import EVALUATION, TRAINING
from hrpose.data.statistics import DatasetView, Schema
from hrpose.data.validate import require, summary
from hrpose.evaluation.aic import AICEvaluator
from hrpose.evaluation.coco import KeypointEvaluator, crowdpose_evaluator
from hrpose.evaluation.pck import PCKhEvaluator
from hrpose.evaluation.results import PoseEvaluator
from hrpose.models.weight_io import read_weights
from hrpose.skeletons import SKELETONS, Skeleton, from_category, from_plain
from hrpose.structures import PERSON


def build_skeleton(config: CfgNode) -> Skeleton:
    """A built-in skeleton, or that of the training split's annotations.

    Without annotations, as where a model is only used, it is read from the weights.
    """
    data = config.DATASET
    path = annotation_path(config, data.TRAIN)
    if data.SKELETON != "file":
        skeleton = SKELETONS[data.SKELETON]
    elif not path.is_file() and config.TEST.MODEL_FILE:
        skeleton = _skeleton_of_weights(Path(config.TEST.MODEL_FILE))
    else:
        with explaining_missing_data(config, data.TRAIN):
            skeleton = _skeleton_of_file(path, data.CATEGORY, data.OKS_SIGMAS)
    order = data.GROUPING_ORDER
    return replace(skeleton, grouping_order=order) if order else skeleton


@lru_cache(maxsize=4)
def _skeleton_of_file(path: Path, category: str, sigmas: tuple[float, ...]) -> Skeleton:
    return from_category(person_category(load_annotations(path), category), sigmas)


@lru_cache(maxsize=4)
def _skeleton_of_weights(path: Path) -> Skeleton:
    state = read_weights(path)
    if "skeleton" not in state:
        raise ValueError(f"{path} does not contain a skeleton; name the joints by DATASET.SKELETON")
    return from_plain(state["skeleton"])


def results_category(config: CfgNode) -> dict[str, Any]:
    """The entry of COCO's `categories` that results are of: its id and name, joints and limbs.

    Id and name are those of DATASET.VAL or .TRAIN; COCO's where neither is at hand, and with
    DATASET.SOURCES.
    """
    splits = () if config.DATASET.SOURCES else (config.DATASET.VAL, config.DATASET.TRAIN)
    paths = [annotation_path(config, split) for split in splits]
    category: dict[str, Any] = {"id": PERSON, "name": "person"}
    for path in [path for path in paths if path.is_file()][:1]:
        category = person_category(load_annotations(path), config.DATASET.CATEGORY)
    skeleton = build_skeleton(config)
    limbs = [[a + 1, b + 1] for a, b in skeleton.limb_indices]  # COCO counts joints from 1
    return {**category, "keypoints": list(skeleton.joints), "skeleton": limbs}


def annotation_path(config: CfgNode, split: str) -> Path:
    pattern = config.DATASET.ANNOTATIONS or LAYOUTS[config.DATASET.FORMAT].annotations
    return Path(config.DATASET.ROOT) / pattern.format(split=split)


def image_path(config: CfgNode, split: str) -> str:
    pattern = config.DATASET.IMAGES or LAYOUTS[config.DATASET.FORMAT].images
    return str(Path(config.DATASET.ROOT) / pattern.format(split=split))


class Split(NamedTuple):
    """One split of a data set, read."""

    truth: dict[str, Any]
    records: list[ImageAnnotation]
    images: ImageFiles
    findings: str = ""  # of the rules that stop nothing, in one line


def read_split(config: CfgNode, split: str) -> Split:
    """A split with its annotations understood."""
    data = config.DATASET
    truth, images = open_split(config, split)
    found = check_annotations(config, select_images(truth, data.IMAGE_IDS), split, TRAINING)
    category = person_category(truth, data.CATEGORY)["id"]
    joints = len(build_skeleton(config).joints)
    records = image_annotations(truth, joints, category, data.IGNORE_REGIONS, data.IMAGE_IDS)
    return Split(truth, records, images, found)


def check_annotations(config: CfgNode, truth: dict[str, Any], split: str, stage: str) -> str:
    """ValueError for annotations that this stage, of data/rules.py, cannot use.

    Returns what else is wrong with them, in one line.
    """
    path = annotation_path(config, split)
    schema = build_schema(config, truth, build_skeleton(config).joints)
    return summary(require(DatasetView(truth, schema, {}), stage, path), path)


def build_schema(config: CfgNode, truth: dict[str, Any], joints: tuple[str, ...]) -> Schema:
    """What annotations must agree with."""
    data = config.DATASET
    return Schema(
        joints,
        person_category(truth, data.CATEGORY),
        data.MAX_NUM_PEOPLE,
        LAYOUTS[data.FORMAT].area_from,
        data.IGNORE_REGIONS,
        data.IMAGE_IDS,
    )


def open_split(config: CfgNode, split: str) -> tuple[dict[str, Any], ImageFiles]:
    """Annotations and images of a split."""
    truth = read_annotations(config, split)
    with explaining_missing_data(config, split):
        return truth, ImageFiles(image_path(config, split), config.DATASET.EXIF)


def read_annotations(config: CfgNode, split: str) -> dict[str, Any]:
    """The annotations of a split, whose images are not needed.

    Errors: FileNotFoundError; ValueError for a config of several data sets
    """
    if config.DATASET.SOURCES:
        raise ValueError(
            "this is of one data set, and DATASET.SOURCES lists several; give the config of one of "
            "them, or DATASET.SOURCES [] and DATASET.ROOT"
        )
    with explaining_missing_data(config, split):
        return load_annotations(annotation_path(config, split))


@contextmanager
def explaining_missing_data(config: CfgNode, split: str = "") -> Iterator[None]:
    """Add to a FileNotFoundError the tree that a config expects, and the cure."""
    try:
        yield
    except FileNotFoundError as error:
        root, data = Path(config.DATASET.ROOT), config.DATASET
        splits = [name for name in (data.TRAIN, data.VAL) if name]
        files = [f"{annotation_path(config, name)}" for name in splits]
        files += [f"{image_path(config, name)}/..." for name in splits]
        place = f"{root}" + f" in {Path.cwd()}" * (not root.is_absolute())
        cure = f"Set DATASET.ROOT (now {place}), DATASET.TRAIN and .VAL (now {', '.join(splits)})"
        if split == "trainval" and annotation_path(config, "train").is_file():
            cure = "tools/check_data.py --build-trainval makes the annotations of trainval"
        elif "synthetic" in root.name:
            cure = f"Draw them: make quickstart, or python tools/synthesize.py --output {root}"
        tree = "\n".join(f"  {name}" for name in dict.fromkeys(files))
        raise FileNotFoundError(f"{error}. Expected:\n{tree}\n{cure}") from None


def at_option(option: str, error: Exception) -> ValueError | FileNotFoundError:
    """The error, with its option before the text; its own class may take other arguments."""
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    return kind(f"{option}: {error}")


EVALUATORS: dict[str, Callable[..., PoseEvaluator]] = {
    "coco": KeypointEvaluator,
    "crowdpose": crowdpose_evaluator,
    "mpii": PCKhEvaluator,
    "aic": AICEvaluator,
}


def build_evaluator(
    config: CfgNode, truth: dict[str, Any], image_ids: Sequence[int] = ()
) -> PoseEvaluator:
    """An evaluator of one pass; annotations it cannot use are refused here, with the cure.

    image_ids: the images that are scored; default: those of DATASET.IMAGE_IDS, or all
    """
    check_annotations(config, truth, config.DATASET.VAL, EVALUATION)
    return EVALUATORS[config.DATASET.FORMAT](
        truth=truth,
        skeleton=build_skeleton(config),
        category_id=person_category(truth, config.DATASET.CATEGORY)["id"],
        image_ids=image_ids or config.DATASET.IMAGE_IDS or None,
    )
