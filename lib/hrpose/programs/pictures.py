"""The pictures that programs leave behind: what is trained on, and what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler
from yacs.config import CfgNode

from hrpose.build import build_targets, output_strides
from hrpose.build_training import build_training_loader
from hrpose.data.samples import BottomUpDataset, read_sample
from hrpose.losses.combine import Targets, make_targets
from hrpose.ops.image import write
from hrpose.skeletons import Skeleton
from hrpose.splits import Split, build_skeleton
from hrpose.structures import Poses, ScaleOutput
from hrpose.visualize import (
    draw_heatmaps,
    draw_mask,
    draw_poses,
    draw_tags,
    side_by_side,
    titled,
)

PREDICTIONS = 8
"""Images on which predictions are shown beside the truth."""

SAMPLES = 8
"""Training samples that are drawn for inspection."""


def show_predictions(
    config: CfgNode,
    find: Callable[[tuple[np.ndarray, np.ndarray]], Poses],
    split: Split,
    folder: Path,
) -> None:
    """Targets and prediction side by side, on the first images that show anybody.

    find: an image and the joints annotated in it, to poses
    """
    skeleton = build_skeleton(config)
    inhabited = (record for record in split.records if len(record.joints))
    for record in islice(inhabited, PREDICTIONS):
        image = read_sample(record, split.images).image
        truth = titled(draw_poses(image, record.joints, skeleton), "truth")
        poses = find((image, record.joints))
        found = draw_confident(image, poses, skeleton, config.TEST.DETECTION_THRESHOLD)
        sheet = side_by_side([truth, titled(found, "prediction")])
        write(folder / f"prediction_{record.image_id}.jpg", sheet)


def draw_confident(image: np.ndarray, poses: Poses, skeleton: Skeleton, least: float) -> np.ndarray:
    """The people, and of these the joints, whose score is above `least`."""
    people = poses.joints[poses.scores > least]
    return draw_poses(image, people, skeleton, least)


def training_sheet(
    config: CfgNode, batch: Mapping[str, Tensor], outputs: Sequence[ScaleOutput]
) -> np.ndarray:
    """A row for each sample: itself; target and prediction at every resolution; tags.

    batch: as data/loaders.py makes it   outputs: the network's, coarse to fine
    """
    skeleton, truths = build_skeleton(config), truths_of(config, batch)
    tiles: list[np.ndarray] = []
    for i in range(len(batch["image"])):
        image = _image(batch, i)
        tiles.append(sample_view(batch, i, skeleton))
        for output, truth in zip(outputs, truths):
            said = draw_heatmaps(image, _numpy(output.heatmaps[i]))
            tiles += [target_view(image, truth, i, output.stride)]
            tiles += [titled(said, f"prediction 1/{output.stride}")]
        tags, heatmaps = outputs[0].tags, _numpy(truths[0].heatmaps[i])
        assert tags is not None, "tags are predicted at the coarsest resolution"
        tiles.append(titled(draw_tags(image, heatmaps, _numpy(tags[i])), "tags"))
    return side_by_side(tiles, columns=len(tiles) // len(batch["image"]))


def draw_samples(config: CfgNode, folder: Path) -> None:
    """The first samples of the first epoch: as annotated, as augmented, and their targets."""
    loader, skeleton = build_training_loader(config), build_skeleton(config)
    dataset, sampler = cast(BottomUpDataset, loader.dataset), cast(Sampler, loader.batch_sampler)
    keys = next(iter(sampler))[:SAMPLES]
    batch = loader.collate_fn([dataset[key] for key in keys])
    truths = truths_of(config, batch)
    for i, (_, index) in enumerate(keys):
        sample = read_sample(dataset.records[index], dataset.images)
        marked = draw_poses(draw_mask(sample.image, sample.mask), sample.joints, skeleton)
        views = [titled(marked, f"image {sample.image_id}; dark: no heatmap loss")]
        views.append(sample_view(batch, i, skeleton))
        for truth, stride in zip(truths, output_strides(config)):
            views.append(target_view(_image(batch, i), truth, i, stride))
        write(folder / f"sample_{i}.jpg", side_by_side(views))


def truths_of(config: CfgNode, batch: Mapping[str, Tensor]) -> list[Targets]:
    """The targets of a batch at every resolution, coarse to fine, as the loss draws them."""
    return make_targets(batch, output_strides(config), build_targets(config))


def sample_view(batch: Mapping[str, Tensor], i: int, skeleton: Skeleton) -> np.ndarray:
    """Sample i with its people, darkened where heatmaps are not supervised."""
    marked = draw_mask(_image(batch, i), batch["mask"][i].cpu().numpy())
    title = "augmented" + ", mirrored" * bool(batch["mirrored"][i])
    return titled(draw_poses(marked, _numpy(batch["joints"][i]), skeleton), title)


def target_view(image: np.ndarray, truth: Targets, i: int, stride: int) -> np.ndarray:
    """The target heatmaps of sample i over its image."""
    return titled(draw_heatmaps(image, _numpy(truth.heatmaps[i])), f"target 1/{stride}")


def _image(batch: Mapping[str, Tensor], i: int) -> np.ndarray:
    return np.ascontiguousarray(batch["image"][i].permute(1, 2, 0).cpu().numpy())


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
