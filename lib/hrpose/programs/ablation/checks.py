"""What is seen to before anything runs: every row can be built, and its files are there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from yacs.config import CfgNode

from hrpose.build import build_loss, build_model
from hrpose.builders.training import build_optimizer, build_schedule
from hrpose.data.coco import Images
from hrpose.models.counting import count_parameters, operations_in
from hrpose.programs.ablation.rows import Row, plain
from hrpose.splits import annotation_path, expected_tree, image_path


class Size(NamedTuple):
    """How large a network is while it trains, and how much it computes at test."""

    parameters: int
    gmacs: float  # multiply-adds of one image of the test's size, looked at once


def measure(rows: Iterable[Row]) -> dict[str, Size]:
    """Row name -> size of its network. An option that names nothing is an error of its row."""
    first = {row.name: row for row in reversed(list(rows))}
    sizes: dict[str, Size] = {}
    for row in first.values():
        try:
            _check_training(row.config)
            looks = _looks(row.config)
            sizes[looks] = sizes.get(looks) or _size(row.config)
        except ValueError as error:
            raise ValueError(f"row {row.name}: {error}") from None
    return {name: sizes[_looks(row.config)] for name, row in first.items()}


def _check_training(config: CfgNode) -> None:
    """ValueError: an option that only training reads names something that does not exist."""
    build_loss(config)
    build_schedule(config)
    build_optimizer(config, torch.nn.Linear(1, 1))  # any network: its kind is what is looked up


def _looks(config: CfgNode) -> str:
    """All that a network's size depends on."""
    data, options = config.DATASET, plain(list(config.MODEL.items()))
    joints = (data.SKELETON, data.ROOT, data.TRAIN, data.ANNOTATIONS, data.CATEGORY)
    return json.dumps([options, joints, _side(config)])


def _side(config: CfgNode) -> int:
    return config.TEST.INPUT_SIZE or config.DATASET.INPUT_SIZE


def _size(config: CfgNode) -> Size:
    """Counted on a network that has shapes, but no numbers."""
    with torch.device("meta"):
        model = build_model(config)
    side = _side(config)
    return Size(count_parameters(model), operations_in(model.eval(), (side, side)))


def check_files(rows: Iterable[Row]) -> None:
    """FileNotFoundError, with the cure, for the first data set or weights that are not there."""
    for row in rows:
        data = row.config.DATASET
        for split in dict.fromkeys((data.TRAIN, data.VAL)):
            _check_split(row.config, split)
        weights = row.config.MODEL.PRETRAINED
        if weights and not Path(weights).is_file():
            raise FileNotFoundError(
                f"row {row.name}: MODEL.PRETRAINED: no weights at {weights}. "
                "The README says where ImageNet weights are"
            )


def _check_split(config: CfgNode, split: str) -> None:
    path = annotation_path(config, split)
    try:
        if not path.is_file():
            raise FileNotFoundError(f"no annotations at {path}")
        Images(image_path(config, split))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. Expected:\n{expected_tree(config)}{_cure(config)}"
        ) from None


def _cure(config: CfgNode) -> str:
    root = Path(config.DATASET.ROOT)
    if "synthetic" not in root.name:
        return ""
    return f"\nDraw the synthetic set with: python tools/synthesize.py --output {root}"
