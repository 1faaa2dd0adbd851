"""TEST.GT_HEATMAPS true: true heatmaps, the network's tags; TEST.AGGREGATE of a config."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrpose.builders.bottomup import build_predict_all, build_predictor, output_strides
from hrpose.config import load_config
from hrpose.ops.coordinates import resize_transform
from hrpose.skeletons import COCO
from hrpose.structures import HeadOutput

PLAIN = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
INPUT = 128
WHO = 5.0  # tags of two people are so far apart


def annotated(size, missing=0.2, seed=0):
    """(3, K, 3): people side by side in an image of (width, height), some joints unlabelled."""
    rng = np.random.default_rng(seed)
    joints = np.full((3, 17, 3), 2, np.float32)
    step, margin = max(size) / 3, 0.08 * max(size)
    joints[..., 0] = step * (np.arange(3)[:, None] + 0.5) + rng.uniform(-margin, margin, (3, 17))
    joints[..., 1] = min(size) * rng.uniform(0.1, 0.9, (3, 17))
    if size[0] < size[1]:
        joints[..., :2] = joints[..., 1::-1]
    joints[rng.random((3, 17)) < missing] = 0
    return joints


class Grouper(nn.Module):
    """Predicts the right tag in every cell, and only noise as heatmaps.

    to_network: the map from image to network pixels   views: 2 where each second one is mirrored
    """

    def __init__(self, joints, to_network, strides, views=1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.places = torch.from_numpy(to_network.joints(joints)).float()
        self.strides = strides
        self.views, self.calls = views, 0

    def forward(self, images):
        height, width = images.shape[-2:]
        noise = torch.Generator().manual_seed(self.calls)
        heatmaps = [
            torch.rand(1, 17, height // stride, width // stride, generator=noise)
            for stride in self.strides
        ]
        tags = self.owners(height // 4, width // 4)
        if self.calls % self.views == 1:
            tags = tags[:, COCO.flip_order].flip(-1)
        self.calls += 1
        first, *others = heatmaps
        fine = zip(others, self.strides[1:])
        return [
            HeadOutput("1_4", 4, first, tags),
            *(HeadOutput(f"1_{stride}", stride, maps) for maps, stride in fine),
        ]

    def owners(self, height, width):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = 4 * torch.stack([columns, rows], -1).float() + 2  # (h, w, 2)
        away = (cells - self.places[:, :, None, None, :2]).norm(dim=-1)  # (N, K, h, w)
        away[self.places[..., 2] == 0] = torch.inf
        return WHO * away.argmin(0)[None].float()


def found(joints, size, *overrides, swapped=None):
    """The poses that a config finds in an image of these people, and image pixels in a cell."""
    config = load_config(PLAIN, ["DATASET.INPUT_SIZE", str(INPUT), *overrides])
    views, strides = 1 + config.TEST.FLIP_TEST, output_strides(config)
    to_network = resize_transform(size, INPUT)[1]
    model = Grouper(joints, to_network, strides, views)
    if swapped is not None:
        model.places[:, swapped] = model.places[[1, 0, 2]][:, swapped]
    images = [(1, np.zeros((size[1], size[0], 3), np.uint8))]
    if config.TEST.GT_HEATMAPS:
        images = [(1, (images[0][1], joints))]
    ((_, poses),) = build_predict_all(config, [build_predictor(config, model)])(images)
    return poses, strides[-1] / to_network.scale


def in_order(poses, joints):
    """People found, in the order of the truth: by where their first labelled joint is."""
    marks = [np.flatnonzero(person[:, 2])[0] for person in joints]
    nearest = [
        abs(poses.joints[:, k, :2] - person[k, :2]).sum(-1).argmin()
        for k, person in zip(marks, joints)
    ]
    assert sorted(nearest) == [0, 1, 2]
    return poses.joints[nearest]


TRUE = ("TEST.GT_HEATMAPS", "true", "TEST.REFINE", "false")


@pytest.mark.parametrize("size", [(300, 200), (180, 333)], ids=str)
@pytest.mark.parametrize("flip", ["false", "true"])
@pytest.mark.parametrize(
    ("num_deconvs", "project"),
    [
        (0, "false"),
        (1, "false"),
        (2, "false"),
        (2, "true"),
        (0, "true"),
        (1, "true"),
    ],
)
def test_perfect_tags_bring_everybody_back(size, flip, num_deconvs, project, record_difference):
    joints = annotated(size)
    choice = ("MODEL.NUM_DECONVS", str(num_deconvs), "TEST.PROJECT2IMAGE", project)
    poses, cell = found(joints, size, *TRUE, *choice, "TEST.FLIP_TEST", flip)
    assert len(poses.joints) == 3
    people = in_order(poses, joints)
    labelled = joints[..., 2] > 0
    assert np.array_equal(people[..., 2] > 0, labelled)
    away = abs(people[..., :2] - joints[..., :2])[labelled].max() / cell
    record_difference("true heatmaps: joints against truth (cells)", away)
    assert away <= 0.75
    np.testing.assert_allclose(np.sort(poses.scores), np.sort(labelled.mean(1)), rtol=1e-5)


ONCE = (*TRUE, "TEST.PROJECT2IMAGE", "false", "TEST.FLIP_TEST", "false")


def test_predicted_tags_decide_whose_a_joint_is():
    """A network that takes two people's left knees for each other's pays for it."""
    size, knee = (300, 200), COCO.joints.index("left_knee")
    joints = annotated(size, missing=0)
    poses, cell = found(joints, size, *ONCE, swapped=[knee])
    people, wanted = in_order(poses, joints), joints.copy()
    wanted[:, knee] = wanted[[1, 0, 2], knee]
    assert abs(people[..., :2] - wanted[..., :2]).max() <= 0.75 * cell
    assert abs(people[..., :2] - joints[..., :2]).max() > 10 * cell


def test_predicted_heatmaps_unless_true_ones_are_wanted():
    size = (300, 200)
    joints = annotated(size, missing=0)
    chance = ("TEST.PROJECT2IMAGE", "false", "TEST.FLIP_TEST", "false")
    poses, _ = found(joints, size, *chance)
    assert len(poses.joints) == 30  # noise always has peaks
    few, _ = found(joints, size, *ONCE)
    assert len(few.joints) == 3


def test_without_annotated_people_none_are_found():
    poses, _ = found(np.zeros((1, 17, 3), np.float32), (300, 200), *ONCE)
    assert poses.joints.shape == (0, 17, 3)
    assert poses.scores.shape == (0,)
    size = (300, 200)
    config = load_config(PLAIN, ["DATASET.INPUT_SIZE", str(INPUT), *ONCE])
    model = Grouper(annotated(size), resize_transform(size, INPUT)[1], (4, 2))
    nobody = np.zeros((200, 300, 3), np.uint8), np.zeros((0, 17, 3), np.float32)
    predict = build_predict_all(config, [build_predictor(config, model)])
    ((_, poses),) = predict([(1, nobody)])
    assert poses.joints.shape == (0, 17, 3)


# TEST.AGGREGATE ---------------------------------------------------------------------------------


class Levels(nn.Module):
    """Predicts at each resolution its stride, and 7 for a tag."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        height, width = images.shape[-2:]
        maps = [torch.full((1, 17, height // s, width // s), float(s)) for s in (4, 2, 1)]
        tags = torch.full_like(maps[0], 7)
        return [
            HeadOutput("1_4", 4, maps[0], tags),
            HeadOutput("1_2", 2, maps[1]),
            HeadOutput("1_1", 1, maps[2]),
        ]


@pytest.mark.parametrize("project", ["true", "false"])
@pytest.mark.parametrize(
    ("chosen", "mean"), [("[]", 7 / 3), ("[4]", 4), ("2", 2), ("[1, 4]", 2.5), ("[4, 2, 1]", 7 / 3)]
)
def test_a_config_chooses_the_outputs_that_are_averaged(chosen, mean, project):
    overrides = ["MODEL.NUM_DECONVS", "2", "TEST.AGGREGATE", chosen, "TEST.PROJECT2IMAGE", project]
    config = load_config(PLAIN, ["DATASET.INPUT_SIZE", "64", *overrides])
    predictor = build_predictor(config, Levels())
    maps = predictor.forward([predictor.preprocess(np.zeros((64, 100, 3), np.uint8))])
    assert torch.allclose(maps.heatmaps, torch.tensor(float(mean)))
    assert (maps.tags == 7).all()
    assert maps.tags.shape == (*maps.heatmaps.shape, 2)
