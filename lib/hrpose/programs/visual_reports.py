"""Images that programs write for inspection: training samples, targets, and predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import Subset
from yacs.config import CfgNode

from hrpose.builders.datasets import Split, build_skeleton
from hrpose.builders.families import box_source, family
from hrpose.builders.training import build_training_loader
from hrpose.data.loaders import ResumableBatchSampler
from hrpose.data.samples import SampleDataset
from hrpose.engine.evaluate import PredictFn
from hrpose.ops.image import write
from hrpose.skeletons import Skeleton
from hrpose.structures import HeadOutput, Images, Poses
from hrpose.visualize import (
    draw_boxes,
    draw_mask,
    draw_poses,
    draw_tags,
    overlay_heatmaps,
    side_by_side,
    titled,
)

IMAGES = 8
"""How many images or samples are drawn."""

LEAST_SIDE = 320
"""Longer side of a sample's pictures in pixels, at least: smaller samples are enlarged."""


def save_predictions(
    config: CfgNode,
    predict: PredictFn,
    images: Images,
    split: Split,
    folder: Path,
) -> None:
    """Draw ground truth and predictions side by side, on the first images with people.

    images: of the split's records, as `predict` takes them
    """
    skeleton, boxes = build_skeleton(config), box_source(config)
    title = "prediction" + f" on {boxes} boxes" * bool(boxes)
    chosen = [i for i, record in enumerate(split.records) if len(record.joints)][:IMAGES]
    some = cast(Images, Subset(cast(Any, images), chosen))
    for i, (_, poses) in zip(chosen, predict(some)):
        record = split.records[i]
        image = split.images.read(record.file_name, record.size)
        truth = titled(draw_poses(image, record.joints, skeleton), "truth")
        drawn = draw_confident(image, poses, skeleton, config.TEST.DETECTION_THRESHOLD)
        write(
            folder / f"prediction_{record.image_id}.jpg",
            side_by_side([truth, titled(drawn, title)]),
        )


def draw_confident(
    image: np.ndarray, poses: Poses, skeleton: Skeleton, threshold: float
) -> np.ndarray:
    """The image with the people, and of these the joints, whose score is above the threshold.

    With the boxes of a top-down network, their scores, and how many joints were not found.
    """
    shown = poses.scores > threshold
    people = poses.joints[shown]
    ids = None if poses.track_ids is None else poses.track_ids[shown]
    drawn = draw_poses(image, people, skeleton, threshold, ids)
    if poses.boxes is None:
        return drawn
    missing = (people[..., 2] <= threshold).sum(1)
    notes = [
        f"{score:.2f}" + f", {count} missing" * bool(count)
        for score, count in zip(poses.scores[shown], missing)
    ]
    return draw_boxes(drawn, poses.boxes[shown], notes)


def draw_training_batch(
    config: CfgNode, batch: Mapping[str, Tensor], outputs: Sequence[HeadOutput]
) -> np.ndarray:
    """A row for each sample: itself; target and prediction at every resolution; tags.

    batch: as data/loaders.py makes it   outputs: the network's, coarse to fine
    """
    skeleton, targets = build_skeleton(config), family(config).draw_targets(config, batch)
    tiles: list[np.ndarray] = []
    for i in range(len(batch["image"])):
        image = _image(batch, i)
        tiles.append(_draw_sample(batch, i, skeleton))
        for output, target in zip(outputs, targets):
            predicted = overlay_heatmaps(image, _numpy(output.heatmaps[i]))
            name = output.name.replace("_", "/")  # 1/4, or of networks in cascade stage1
            tiles.append(_draw_target(image, target[i], name))
            tiles.append(titled(predicted, f"prediction {name}"))
            if output.tags is not None:
                tags = draw_tags(image, _numpy(target[i]), _numpy(output.tags[i]))
                tiles.append(titled(tags, "tags"))
    return side_by_side(tiles, columns=len(tiles) // len(batch["image"]))


def save_samples(config: CfgNode, folder: Path) -> list[str]:
    """Draw the first samples of the first epoch: as annotated, as augmented, and their targets.

    A sample of one person, which has no mask, is shown with its box. Of DATASET.SOURCES the first
    of each are drawn, with the number of joints that are supervised.
    Returns the remarks on the data set with which training begins.
    """
    loader, skeleton = build_training_loader(config), build_skeleton(config)
    dataset = cast(SampleDataset, loader.dataset)
    keys = _first_keys(cast(ResumableBatchSampler, loader.batch_sampler))
    batch = loader.collate_fn([dataset[key] for key in keys])
    targets = family(config).draw_targets(config, batch)
    for i, (_, index) in enumerate(keys):
        record = dataset.records[index % len(dataset)]
        sample, known = dataset.read(record, dataset.images), record.annotated_joints
        annotated = draw_poses(draw_mask(sample.image, sample.mask), sample.joints, skeleton)
        title = f"image {sample.image_id}"
        if known is not None:
            title = f"{record.file_name}: {known.sum()} of {len(known)} joints"
        if sample.mask is None:
            annotated = draw_boxes(annotated, sample.boxes)
        else:
            title += "; dark: no heatmap loss"
        views = [titled(annotated, title)]
        views.append(_draw_sample(batch, i, skeleton))
        last = dict(zip(family(config).output_strides(config), targets))  # of each stride
        for stride, target in last.items():
            views.append(_draw_target(_image(batch, i), target[i], f"1/{stride}"))
        write(folder / f"sample_{i}.jpg", side_by_side(views))
    return dataset.notes


def _first_keys(sampler: ResumableBatchSampler) -> list[tuple[int, int]]:
    """Of the first batch; of several data sets the first keys of each, in their order."""
    if len(sampler.quotas) == 1:
        return next(iter(sampler))[:IMAGES]
    ends = np.cumsum([quota.size for quota in sampler.quotas])
    own: list[list[tuple[int, int]]] = [[] for _ in ends]
    for epoch, index in (key for batch in sampler for key in batch):
        own[np.searchsorted(ends, index % ends[-1], side="right")].append((epoch, index))
    each = max(2, IMAGES // len(own))
    return [key for keys in own for key in keys[:each]]


def _draw_sample(batch: Mapping[str, Tensor], i: int, skeleton: Skeleton) -> np.ndarray:
    """Sample i with its people, darkened where heatmaps are not supervised."""
    mask = batch["mask"][i].cpu().numpy() if "mask" in batch else None
    masked = draw_mask(_image(batch, i), mask)
    title = "augmented" + ", flipped" * bool(batch["flipped"][i])
    joints, factor = _numpy(batch["joints"][i]), _enlargement(batch)
    joints[..., :2] = (joints[..., :2] + 0.5) * factor - 0.5
    return titled(draw_poses(masked, joints, skeleton), title)


def _draw_target(image: np.ndarray, target: Tensor, name: str) -> np.ndarray:
    return titled(overlay_heatmaps(image, _numpy(target)), f"target {name}")


def _image(batch: Mapping[str, Tensor], i: int) -> np.ndarray:
    """The image (H, W, 3) of sample i, enlarged."""
    pixels = np.ascontiguousarray(batch["image"][i].permute(1, 2, 0).cpu().numpy())
    factor = _enlargement(batch)
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


def _enlargement(batch: Mapping[str, Tensor]) -> int:
    return math.ceil(LEAST_SIDE / max(batch["image"].shape[-2:]))


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy().copy()
