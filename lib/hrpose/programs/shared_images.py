"""Pictures that are trained and evaluated on, in data sets that are trained on together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from yacs.config import CfgNode

from hrpose.builders.datasets import Split, annotation_path, open_split
from hrpose.builders.sources import DataSource, evaluated_sources, list_sources
from hrpose.data.coco import select_images
from hrpose.data.fingerprints import (
    fingerprint_cache,
    keep_fingerprints,
    read_fingerprints,
    shared_pictures,
)
from hrpose.data.rules import ERROR, KEEP, NOTE
from hrpose.data.statistics import DatasetView, inspect_files
from hrpose.data.validate import Finding, finding, violated
from hrpose.engine.distributed import DistInfo
from hrpose.ops.progress import listed

MOST_NEW = 5000
"""Pictures without a fingerprint that a training reads before it begins."""

LISTED = 20
"""Shared pictures that a message names."""

CURE = (
    "Scores on what was trained on mean nothing: set DATASET.MIXING.SHARED_IMAGES drop to train "
    "without these pictures, or allow to train with them"
)

Shared = dict[str, list[tuple[str, str]]]
"""Name of a data set -> its trained files, each with an evaluated one, as set/split/file."""


class MissingFingerprintsError(ValueError):
    """More than MOST_NEW pictures of a split have no fingerprint."""


def split_fingerprints(source: DataSource, split: str, workers: int) -> dict[str, str]:
    """file name -> fingerprint of all images of a split; those that are not kept are made and kept.

    Errors: MissingFingerprintsError where that are more than MOST_NEW
    """
    truth, images = open_split(source.own, split)
    used = select_images(truth, source.own.DATASET.IMAGE_IDS)["images"]
    path = annotation_path(source.own, split)
    known = read_fingerprints(path)
    new = [image for image in used if image["file_name"] not in known]
    if len(new) > MOST_NEW:
        raise MissingFingerprintsError(
            f"{fingerprint_cache(path)} lacks {len(new)} of {len(used)} images, so that pictures "
            "that are both trained and evaluated on would not be noticed. Make it, once: "
            "python tools/check_data.py --cfg <this config>; or set DATASET.MIXING.SHARED_IMAGES "
            "allow"
        )
    files = inspect_files(images, new, workers, f"{source.name} {split}")
    found = {name: info.fingerprint for name, info in files.items() if not info.problem}
    keep_fingerprints(path, found)
    names = [image["file_name"] for image in used]
    return {name: own for name in names if (own := {**known, **found}.get(name))}


def trained_and_evaluated(config: CfgNode, splits: Sequence[Split]) -> Shared:
    """The pictures of DATASET.SOURCES that are in a training split and in one evaluated on.

    splits: those that are trained on, one of each
    """
    trained, workers = {}, config.WORKERS
    for source, split in zip(list_sources(config), splits):
        used = {record.file_name for record in split.records if record.annotated}
        every = split_fingerprints(source, source.own.DATASET.TRAIN, workers)
        trained[source.name] = {name: own for name, own in every.items() if name in used}
    evaluated = {
        f"{source.name}/{source.own.DATASET.VAL}": split_fingerprints(
            source, source.own.DATASET.VAL, workers
        )
        for source in evaluated_sources(config)
    }
    return find_shared(trained, evaluated)


def find_shared(
    trained: Mapping[str, Mapping[str, str]], evaluated: Mapping[str, Mapping[str, str]]
) -> Shared:
    """trained, evaluated: name of a data set or split -> file name -> fingerprint"""
    return {
        name: [
            (pair.first, f"{other}/{pair.second}")
            for other, theirs in evaluated.items()
            for pair in shared_pictures(own, theirs)
        ]
        for name, own in trained.items()
    }


def describe_shared(shared: Shared) -> list[str]:
    """`set/file = set/split/file` of each picture."""
    return [f"{name}/{a} = {b}" for name, own in shared.items() for a, b in own]


def separate_shared(
    config: CfgNode, splits: Sequence[Split], dist: DistInfo
) -> tuple[list[Split], list[str]]:
    """The training splits of DATASET.SOURCES as MIXING.SHARED_IMAGES has them, and log lines.

    Errors: ValueError for shared pictures that are to be refused
    """
    if not config.DATASET.SOURCES:
        return list(splits), []
    rule = config.DATASET.MIXING.SHARED_IMAGES
    compared = _try_to_compare(config, splits) if dist.is_main else ({}, "")
    shared, missing = dist.broadcast(compared)
    if missing:
        return list(splits), [f"warning: {missing}"]
    found = describe_shared(shared)
    if not found:
        return list(splits), ["no picture is both trained and evaluated on"]
    names = f"{len(found)} pictures are in what is trained and in what is evaluated on"
    names = f"{names}: {listed(found, LISTED)}"
    if rule == "refuse":
        raise ValueError(f"{names}. {CURE}")
    if rule == "allow":
        return list(splits), [f"warning: {names}; they are trained on (SHARED_IMAGES allow)"]
    kept = []
    for split, pairs in zip(splits, shared.values()):
        dropped = dict(pairs)
        records = [record for record in split.records if record.file_name not in dropped]
        kept.append(split._replace(records=records))
    return kept, [f"{names}; they are left out of training (SHARED_IMAGES drop)"]


def _try_to_compare(config: CfgNode, splits: Sequence[Split]) -> tuple[Shared, str]:
    """The shared pictures, or why they are not known; the latter only where they are allowed."""
    try:
        return trained_and_evaluated(config, splits), ""
    except MissingFingerprintsError as error:
        if config.DATASET.MIXING.SHARED_IMAGES != "allow":
            raise
        return {}, f"{error}"


def shared_findings(config: CfgNode, views: Mapping[str, DatasetView]) -> list[Finding]:
    """Pictures of DATASET.SOURCES that are trained and evaluated on, or trained on twice.

    views: of every split, by the data set's name and its own
    """
    sources = list_sources(config)
    known = {
        split: {name: info.fingerprint for name, info in view.files.items()}
        for split, view in views.items()
    }
    trained = {source.name: known[source.key(source.own.DATASET.TRAIN)] for source in sources}
    evaluated = {
        key: known[key] for s in sources if s.own.DATASET.VAL and (key := s.key(s.own.DATASET.VAL))
    }
    both = describe_shared(find_shared(trained, evaluated))
    sets, twice = list(trained), []
    for i, name in enumerate(sets):
        others = {other: trained[other] for other in sets[i + 1 :]}
        twice += describe_shared(find_shared({name: trained[name]}, others))
    severity = ERROR if config.DATASET.MIXING.SHARED_IMAGES == "refuse" else NOTE
    alone = f"{KEEP}: each is trained on by the labels of both"
    return violated(
        [
            finding("shared-pictures", severity, "pictures trained and evaluated on", both, CURE),
            finding(
                "repeated-pictures", NOTE, "pictures two data sets are trained on", twice, alone
            ),
        ]
    )
