"""Assembly: the data sets of DATASET.SOURCES, each of its own joints, as one of the network's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
from yacs.config import CfgNode

from hrpose.builders.datasets import (
    Split,
    at_option,
    build_evaluator,
    build_skeleton,
    check_annotations,
    open_split,
    read_split,
)
from hrpose.config.loading import load_source
from hrpose.data.coco import ImageFiles, image_annotations, person_category, select_images
from hrpose.data.joined import JoinedImages, map_keypoints
from hrpose.data.loaders import Quota
from hrpose.data.rules import TRAINING
from hrpose.data.samples import SampleDataset
from hrpose.evaluation.results import MappedEvaluator, PoseEvaluator
from hrpose.skeletons import map_joints


class DataSource(NamedTuple):
    """A data set that is trained on and, if it has a DATASET.VAL, evaluated on."""

    name: str  # empty: that of the config itself
    own: CfgNode  # the config with the data set's own files and joints
    config: CfgNode  # the same with the network's joints
    weight: float = 1.0  # how often an epoch shows each of its samples

    def key(self, metric: str) -> str:
        """The name of a metric of this data set among those of all."""
        return f"{self.name}/{metric}" if self.name else metric

    @property
    def lacking(self) -> list[str]:
        """The network's joints that this data set does not label."""
        own, target = build_skeleton(self.own), build_skeleton(self.config)
        return [name for name, k in zip(target.joints, map_joints(own, target)) if k < 0]

    @property
    def unpredicted(self) -> list[str]:
        """The joints of this data set that the network lacks."""
        own, target = build_skeleton(self.own), build_skeleton(self.config)
        return [name for name, k in zip(own.joints, map_joints(target, own)) if k < 0]


def list_sources(config: CfgNode) -> list[DataSource]:
    """The data sets of DATASET.SOURCES, or the one of the config itself.

    Errors: FileNotFoundError; ValueError for a wrong config, two data sets of one name, and one
    that has no joint of DATASET.SKELETON
    """
    data = config.DATASET
    if not data.SOURCES:
        return [DataSource("", config, config)]
    sources = []
    for path, weight in zip(data.SOURCES, data.MIXING.WEIGHTS or (1.0,) * len(data.SOURCES)):
        own = load_source(path, config)
        joined = own.clone()
        joined.defrost()
        joined.DATASET.SKELETON = data.SKELETON
        joined.freeze()
        sources.append(DataSource(own.NAME.replace("/", "-"), own, joined, weight))
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(
            f"DATASET.SOURCES are called {', '.join(names)}; give each another NAME in its config"
        )
    return sources


def evaluated_sources(config: CfgNode) -> list[DataSource]:
    """The data sets with a DATASET.VAL; the first one's metrics select the best checkpoint."""
    sources = list_sources(config)
    evaluated = [source for source in sources if source.own.DATASET.VAL]
    if not evaluated:
        raise ValueError(
            "nothing is evaluated: DATASET.VAL is empty in "
            f"{', '.join(source.name or 'the config' for source in sources)}; name a split in one"
        )
    return evaluated


@contextmanager
def naming(source: DataSource) -> Iterator[None]:
    """Add the name of one of DATASET.SOURCES to errors of its files and options."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if not source.name:
            raise
        raise at_option(f"DATASET.SOURCES, the config of {source.name}", error) from error


def read_source_split(source: DataSource, split: str) -> Split:
    """A split of a data set: records of the network's joints, and annotations to evaluate by.

    The annotations are of the data set's own joints. Those that the network lacks are unlabelled in
    them, so that poses are compared by the others.
    """
    if not source.name:
        return read_split(source.config, split)
    data = source.own.DATASET
    with naming(source):
        truth, images = open_split(source.own, split)
        found = check_annotations(source.own, select_images(truth, data.IMAGE_IDS), split, TRAINING)
    own, target = build_skeleton(source.own), build_skeleton(source.config)
    index, back = map_joints(own, target), map_joints(target, own)
    if max(index) < 0:
        raise ValueError(
            f"{source.name} has no joint of DATASET.SKELETON {source.config.DATASET.SKELETON}: its "
            f"joints are {', '.join(own.joints)}; give them the names of hrpose/skeletons.py"
        )
    category = person_category(truth, data.CATEGORY)["id"]
    mapped = map_keypoints(truth, category, index)
    annotated = np.array(index) >= 0
    every = image_annotations(mapped, len(index), category, data.IGNORE_REGIONS, data.IMAGE_IDS)
    records = [record._replace(annotated_joints=annotated) for record in every]
    compared = [k if joint >= 0 else -1 for k, joint in enumerate(back)]
    return Split(map_keypoints(truth, category, compared), records, images, found)


def read_first(source: DataSource, split: str, count: int) -> Split:
    """`read_source_split` of its first images; the annotations are those of all."""
    whole = read_source_split(source, split)
    return whole._replace(records=whole.records[:count])


def build_source_evaluator(
    source: DataSource, truth: dict[str, Any], image_ids: Sequence[int] = ()
) -> PoseEvaluator | MappedEvaluator:
    """The data set's own evaluator, of poses in the network's joints; see `build_evaluator`.

    truth: that of its Split
    """
    evaluator = build_evaluator(source.own, truth, image_ids)
    own, target = build_skeleton(source.own), build_skeleton(source.config)
    if own.joints == target.joints:
        return evaluator
    return MappedEvaluator(evaluator, map_joints(target, own))


def join_datasets(
    sources: Sequence[DataSource], datasets: Sequence[SampleDataset]
) -> SampleDataset:
    """The samples of all data sets in a row; files are named after their data set."""
    if not sources[0].name:
        return datasets[0]
    parts = {source.name: dataset for source, dataset in zip(sources, datasets)}
    records = [
        record._replace(file_name=f"{name}/{record.file_name}")
        for name, dataset in parts.items()
        for record in dataset.records
    ]
    images = JoinedImages({name: cast(ImageFiles, part.images) for name, part in parts.items()})
    first = datasets[0]
    joined = SampleDataset(records, images, first.augmentations, first.seed, first.read)
    joined.notes = [f"{name}: {note}" for name, part in parts.items() for note in part.notes]
    return joined


def quotas_of(sources: Sequence[DataSource], datasets: Sequence[SampleDataset]) -> list[Quota]:
    """How many samples an epoch draws of each data set."""
    return [
        Quota(len(dataset), max(1, round(source.weight * len(dataset))))
        for source, dataset in zip(sources, datasets)
    ]
