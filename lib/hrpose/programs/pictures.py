"""The pictures that programs leave behind: what is trained on, and what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor
from yacs.config import CfgNode

from hrpose.build import Split, build_skeleton, build_targets
from hrpose.data.bottomup import read_sample
from hrpose.losses.multi_scale import draw_truth
from hrpose.ops.image import write
from hrpose.skeletons import Skeleton
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


def show_predictions(
    config: CfgNode, predictor: Callable[[np.ndarray], Poses], split: Split, folder: Path
) -> None:
    """Truth and prediction side by side, on the first images that show anybody."""
    skeleton = build_skeleton(config)
    inhabited = (record for record in split.records if len(record.joints))
    for record in islice(inhabited, PREDICTIONS):
        image = read_sample(record, split.images).image
        truth = titled(draw_poses(image, record.joints, skeleton), "truth")
        found = draw_confident(image, predictor(image), skeleton, config.TEST.DETECTION_THRESHOLD)
        sheet = side_by_side([truth, titled(found, "prediction")])
        write(folder / f"prediction_{record.image_id}.jpg", sheet)


def draw_confident(
    image: np.ndarray, poses: Poses, skeleton: Skeleton, least: float
) -> np.ndarray:
    """The people, and of these the joints, whose score is above `least`."""
    people = poses.joints[poses.scores > least]
    return draw_poses(image, people, skeleton, least)


def training_sheet(
    config: CfgNode, batch: Mapping[str, Tensor], outputs: Sequence[ScaleOutput]
) -> np.ndarray:
    """A row for each sample: joints and mask; then target and prediction of every resolution; tags.

    batch: as data/loaders.py makes it   outputs: the network's, coarse to fine
    """
    skeleton, targets = build_skeleton(config), build_targets(config)
    finest = outputs[-1].stride
    truths = [draw_truth(batch, output, finest, targets) for output in outputs]
    tiles: list[np.ndarray] = []
    for i in range(len(batch["image"])):
        image = batch["image"][i].permute(1, 2, 0).cpu().numpy()
        marked = draw_mask(image, batch["mask"][i].cpu().numpy())
        tiles.append(titled(draw_poses(marked, _numpy(batch["joints"][i]), skeleton), "sample"))
        for output, truth in zip(outputs, truths):
            target = draw_heatmaps(image, _numpy(truth.heatmaps[i]))
            said = draw_heatmaps(image, _numpy(output.heatmaps[i]))
            tiles += [titled(target, f"target 1/{output.stride}")]
            tiles += [titled(said, f"prediction 1/{output.stride}")]
        tiles.append(titled(_tags(image, truths[0].heatmaps[i], outputs[0], i), "tags"))
    return side_by_side(tiles, columns=len(tiles) // len(batch["image"]))


def _tags(image: np.ndarray, heatmaps: Tensor, output: ScaleOutput, i: int) -> np.ndarray:
    """The tags where joints truly are."""
    assert output.tags is not None, "tags are predicted at the coarsest resolution"
    return draw_tags(image, _numpy(heatmaps), _numpy(output.tags[i]))


def _numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
