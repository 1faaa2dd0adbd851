"""What a run keeps of its training data: counts by data set, and digests of the annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from yacs.config import CfgNode

from hrpose.builders.datasets import annotation_path, build_skeleton
from hrpose.builders.sources import DataSource, list_sources
from hrpose.data.coco import ImageAnnotation
from hrpose.data.loaders import Quota, ResumableBatchSampler
from hrpose.data.samples import SampleDataset
from hrpose.engine.state import TrainState
from hrpose.ops.atomic_io import sha256
from hrpose.programs.valid import EvaluationSet, describe_evaluation_set


def track_annotations(config: CfgNode, state: TrainState, tests: Sequence[EvaluationSet]) -> None:
    """Keep digests of the annotations with the checkpoints; warn of what changed since the last."""
    earlier, current = state.metadata.get("annotations", {}), {}
    used = [
        *(("TRAIN", source, records) for source, _, records in drawn_records(config, state)),
        *(("VAL", test.source, test.split.records) for test in tests),
    ]
    for split, source, records in used:
        role = source.key(split)
        path = annotation_path(source.own, source.own.DATASET[split])
        people = sum(len(record.joints) for record in records)
        current[role] = {"sha256": sha256(path), "images": len(records), "people": people}
        before = earlier.get(role, current[role])
        if before != current[role]:
            state.logger.info(
                f"warning: {path} changed since the last checkpoint: {before['images']} images "
                f"with {before['people']} labelled people then, {len(records)} with {people} now. "
                "The run continues with them; TRAIN.RESUME never starts a new one"
            )
    state.metadata["annotations"] = current


def drawn_records(
    config: CfgNode, state: TrainState
) -> list[tuple[DataSource, Quota, Sequence[ImageAnnotation]]]:
    """Of each data set that is trained on, what an epoch draws, and the records it draws from."""
    records = cast(SampleDataset, state.loader.dataset).records
    quotas, begin, drawn = cast(ResumableBatchSampler, state.loader.batch_sampler).quotas, 0, []
    for source, quota in zip(list_sources(config), quotas):
        drawn.append((source, quota, records[begin : begin + quota.size]))
        begin += quota.size
    return drawn


def count_sources(config: CfgNode, state: TrainState) -> dict[str, dict[str, Any]]:
    """For run.json, what each of DATASET.SOURCES contributes; nothing without them."""
    joints = build_skeleton(config).joints
    return {
        source.name: {
            "images": len({record.image_id for record in records}),
            "people": sum(len(record.joints) for record in records),
            "labelled joints": sum(int((each.joints[..., 2] > 0).sum()) for each in records),
            "samples": quota.size,
            "samples an epoch": quota.drawn,
            "joints": [joint for joint in joints if joint not in source.lacking],
            "lacking": source.lacking,
        }
        for source, quota, records in drawn_records(config, state)
        if source.name
    }


def describe_sources(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for the log on each entry of `count_sources`."""
    lines = []
    for name, own in counts.items():
        lacking = f"; it lacks {', '.join(own['lacking'])}" * bool(own["lacking"])
        lines.append(
            f"{name}: {own['people']} people with {own['labelled joints']} labelled joints in "
            f"{own['images']} images, {own['samples an epoch']} samples an epoch, "
            f"{len(own['joints'])} of {len(own['joints']) + len(own['lacking'])} joints{lacking}"
        )
    return lines


def log_evaluation_sets(tests: Sequence[EvaluationSet], info: Callable[[str], None]) -> None:
    """What is evaluated on, and what is wrong with it unless it was logged of the training."""
    for test in tests:
        data, lines = test.source.own.DATASET, describe_evaluation_set(test)
        repeated = bool(test.split.findings) and data.VAL == data.TRAIN
        for line in lines[repeated:]:
            info(line)
