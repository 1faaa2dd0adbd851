"""Pictures of training samples: as annotated, as augmented, and the targets drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from hrpose.build import build_skeleton, build_training_loader
from hrpose.data.bottomup import read_sample
from hrpose.losses.multi_scale import Targets, Truth, draw_truth
from hrpose.ops.image import write
from hrpose.skeletons import Skeleton
from hrpose.structures import Sample, ScaleOutput
from hrpose.visualize import draw_heatmaps, draw_mask, draw_poses, side_by_side, titled

PICTURES = 8
"""Samples that are drawn: the first of the first epoch."""


def draw_samples(config: CfgNode, folder: Path) -> None:
    """A picture for each of the first samples: as annotated, then what the network is given."""
    loader, skeleton = build_training_loader(config), build_skeleton(config)
    keys = next(iter(loader.batch_sampler))[:PICTURES]
    batch = loader.collate_fn([loader.dataset[key] for key in keys])
    truths = draw_targets(config, batch)
    for i, (_, index) in enumerate(keys):
        sample = read_sample(loader.dataset.records[index], loader.dataset.images)
        views = [view_of_sample(sample, skeleton), *views_of_targets(batch, truths, i, skeleton)]
        write(folder / f"sample_{i}.jpg", side_by_side(views))


def draw_targets(config: CfgNode, batch: Mapping[str, Tensor]) -> dict[int, Truth]:
    """stride -> targets of the batch, coarse to fine, as the loss draws them."""
    targets = Targets(config.LOSS.SIGMA, config.DATASET.MAX_NUM_PEOPLE, config.MODEL.CONVENTION)
    strides = [4 >> i for i in range(config.MODEL.NUM_DECONVS + 1)]
    height, width = batch["image"].shape[-2:]
    truths = {}
    for stride in strides:
        shape = (1, 1, height // stride, width // stride)
        output = ScaleOutput(torch.empty(shape, device="meta"), stride=stride)
        truths[stride] = draw_truth(batch, output, strides[-1], targets)
    return truths


def view_of_sample(sample: Sample, skeleton: Skeleton) -> np.ndarray:
    """The image with its people and its mask."""
    view = draw_poses(draw_mask(sample.image, sample.mask), sample.joints, skeleton)
    return titled(
        view, f"image {sample.image_id}: {len(sample.joints)} people; dark: no heatmap loss"
    )


def views_of_targets(
    batch: Mapping[str, Any], truths: Mapping[int, Truth], i: int, skeleton: Skeleton
) -> list[np.ndarray]:
    """Sample i as augmented with its people, then its heatmaps and mask at every stride."""
    image = np.ascontiguousarray(batch["image"][i].permute(1, 2, 0).numpy())
    title = "augmented" + ", mirrored" * bool(batch["mirrored"][i])
    views = [titled(draw_poses(image, batch["joints"][i].numpy(), skeleton), title)]
    for stride, truth in truths.items():
        heat = draw_heatmaps(image, truth.heatmaps[i].numpy())
        views.append(titled(draw_mask(heat, truth.mask[i].numpy()), f"targets at 1/{stride}"))
    return views
