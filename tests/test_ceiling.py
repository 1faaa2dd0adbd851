"""How good poses can be that went through cells: the truth, drawn and decoded, on real people."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.data.coco import image_annotations
from hrpose.evaluation.coco import KeypointEvaluator
from hrpose.inference.decode import decode
from hrpose.inference.spec import PUBLISHED
from hrpose.ops.coordinates import BOTTOM_UP, resize_transform
from hrpose.ops.peaks import resize
from hrpose.skeletons import COCO
from hrpose.structures import Poses

TRUTH = Path(__file__).parents[1].parent / "shared" / "data" / "coco_subset" / "annotations"
TRUTH = TRUTH / "person_keypoints_val2017.json"
GROUPED = PUBLISHED._replace(
    matching_cost="clipped"
)  # the rounded cost has ties even among perfect tags
STEPS = {
    "published": {"published": GROUPED, "middle": GROUPED._replace(subpixel="none")},
    "unbiased": {"unbiased": GROUPED._replace(subpixel="dark", unique_peaks=True)},
}
"""Coordinates -> the ways in which maps that were drawn in them are decoded."""

RESOLUTIONS = {
    "1/4": ((4,), 4),
    "1/2": ((2,), 2),
    "both": ((4, 2), 2),
    "both, enlarged": ((4, 2), 1),
}
"""Strides of the heatmaps that are averaged, and of the maps that are decoded."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TRUTH.is_file(), reason=f"no real annotations at {TRUTH}"),
]


def drawn(joints, size, resolution, convention):
    """Heatmaps (K, H, W) of joints (N, K, 3) in network pixels; tags 5 apart: whose peak it is."""
    strides, decoded = RESOLUTIONS[resolution]
    shape = (size[1] // decoded, size[0] // decoded)
    heatmaps = averaged(joints, size, strides, shape, convention)
    highest, owner = torch.zeros(heatmaps.shape), torch.zeros(heatmaps.shape)
    for n, person in enumerate(joints, 1):
        own = averaged(person[None], size, strides, shape, convention)
        owner[own > highest] = 5.0 * n
        highest = torch.maximum(own, highest)
    return heatmaps, owner[..., None]


def averaged(joints, size, strides, shape, convention):
    """The drawn heatmaps of several strides, brought together as those of a network are."""
    finest = (size[1] // strides[-1], size[0] // strides[-1])
    maps, there = [], torch.as_tensor(joints)[None].float()
    for stride in strides:
        own = (size[1] // stride, size[0] // stride)
        drawn = HeatmapCodec(convention.name).encode(there, own, stride)[0]
        maps.append(drawn if own == finest else resize(drawn, finest))
    mean = maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)
    return (mean if finest == shape else resize(mean, shape))[0]


def ceilings(input_size, resolution, coordinates):
    """AP of the decoded truth in the ways of these coordinates."""
    truth = json.loads(TRUTH.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    convention, ways = BOTTOM_UP[coordinates], STEPS[coordinates]
    evaluators = {way: KeypointEvaluator(truth, COCO) for way in ways}
    for record in image_annotations(truth, 17, 1):
        size, to_network = resize_transform(
            sizes[record.image_id], input_size, convention=convention
        )
        maps = drawn(to_network.joints(record.joints), size, resolution, convention)
        to_maps = to_network.to_cell_frame(RESOLUTIONS[resolution][1], convention)
        for way, config in ways.items():
            people, scores = decode(*maps, COCO, config)
            joints = to_maps.inverse().joints(people[..., :3])
            poses = Poses(joints.astype(np.float32), scores)
            evaluators[way].add(record.image_id, poses)
    return {way: evaluator.summarize()["AP"] for way, evaluator in evaluators.items()}


def recorded(record_difference, input_size, resolution):
    """AP of the decoded truth in every way."""
    values = {}
    for coordinates in STEPS:
        values |= ceilings(input_size, resolution, coordinates)
    for way, value in values.items():
        record_difference(f"ceiling at {input_size} px, {resolution}, {way}: AP", value)
    return values


@pytest.mark.parametrize(
    ("input_size", "resolution", "known"),
    [
        (256, "1/4", 0.81),
        pytest.param(256, "1/2", 0.95, marks=pytest.mark.long),  # cells as of the last
        (384, "1/4", 0.91),
        (512, "1/4", 0.95),
    ],
)
def test_the_quantisation_ceiling_is_about_the_known_one(
    input_size, resolution, known, record_difference
):
    """A drawn peak is symmetric, so the step goes left and up for every joint, which costs AP."""
    stepped, middle, exact = recorded(record_difference, input_size, resolution).values()
    assert stepped < middle < exact
    assert stepped - 0.01 <= known <= middle + 0.01


@pytest.mark.long
@pytest.mark.parametrize("input_size", [256, 512])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_exact_coordinates_cost_next_to_nothing(input_size, resolution, record_difference):
    values = recorded(record_difference, input_size, resolution)
    assert values["unbiased"] > 0.98
    assert values["unbiased"] > max(values.values()) - 0.006
