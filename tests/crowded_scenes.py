"""Scenes that show every case that a benchmark's two ways must agree on."""

from pathlib import Path

import numpy as np
import torch

from hrpose.builders.training import build_training_loader
from hrpose.programs.benchmarking.plain_data import plain_loader

QUICKSTART = str(Path(__file__).parents[1] / "configs" / "quickstart.yaml")
SIZES = (
    "MODEL.WIDTH 8 MODEL.STEM 8 MODEL.BLOCKS 1 MODEL.MODULES [1,1,1] DATASET.INPUT_SIZE 64 "
    "TRAIN.BATCH 4 TRAIN.PRECISION fp32 WORKERS 0 DEVICE cpu DATASET.FLIP .5"
)
CPU = torch.device("cpu")
PEOPLE = [0, 1, 2, 5, 30, 33]
"""How many stand in an image; DATASET.MAX_NUM_PEOPLE is 30."""


def small(scenes):
    """Options of a small network on the scenes."""
    return [*SIZES.split(), "DATASET.ROOT", str(scenes)]


def crowded(config):
    """The loaders of both ways, on the same images with PEOPLE in them."""
    loader = build_training_loader(config)
    known = np.concatenate([record.joints for record in loader.dataset.records])
    rng = np.random.default_rng(0)
    for i, record in enumerate(loader.dataset.records):
        joints = known[rng.integers(len(known), size=PEOPLE[i % len(PEOPLE)])]
        boxes = np.tile(np.float32([5, 5, 50, 90]), (len(joints), 1))
        loader.dataset.records[i] = record._replace(joints=joints, boxes=boxes)
    return loader, plain_loader(config, loader)
