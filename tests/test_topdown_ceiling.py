"""How good top-down poses can be through a crop and cells: the truth, drawn and decoded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrpose.builders.datasets import build_evaluator, read_split
from hrpose.builders.topdown import (
    build_predict_all,
    build_predictor,
    build_spec,
    build_test_images,
)
from hrpose.config import load_config
from hrpose.data.boxes import label_boxes
from hrpose.inference import topdown_spec
from hrpose.inference.scoring import average_views, rescore
from hrpose.ops.boxes import crop_transform, padded_size
from hrpose.ops.oks import oks_nms
from hrpose.skeletons import COCO
from hrpose.structures import Poses

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "coco_subset"
CEILINGS = {"hrnet_w32_256x192": 0.977, "hrnet_w32_384x288": 0.979}
"""AP of the published codec as measured independently of this code, to three digits."""

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real annotations at {DATA}")


class NoNetwork(nn.Module):
    """What a predictor asks of a network whose maps are drawn."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def decoded(name, *overrides):
    """Config, split, and (image id, poses) of the drawn truth."""
    options = ["DATASET.ROOT", str(DATA), "TEST.GT_HEATMAPS", "true", "TEST.OKS_NMS", "1"]
    config = load_config(ROOT / f"configs/topdown/{name}.yaml", [*options, *overrides])
    split = read_split(config, config.DATASET.VAL)
    images = build_test_images(config, split.records, split.images)
    predictor = build_predictor(config, NoNetwork())
    return config, split, list(build_predict_all(config, [predictor])(images))


def average_precision(config, split, found):
    evaluator = build_evaluator(config, split.truth)
    for image_id, poses in found:
        evaluator.add(image_id, poses)
    return evaluator.summarize()["AP"]


@pytest.mark.parametrize("name", CEILINGS)
def test_what_the_crop_and_the_published_codec_cost(name):
    assert average_precision(*decoded(name)) == pytest.approx(CEILINGS[name], abs=6e-4)


VIEWS = {"plain": [4], "rotations": [1, 4, 7], "scales": [3, 4, 5], "crossed": list(range(9))}
"""Of the crops at rotations -20, 0, 20 and, within each, scales .8, 1, 1.2."""

INDEPENDENT = {
    "hrnet_w32_256x192": {
        "plain": 0.9768,
        "rotations": 0.9823,
        "scales": 0.9857,
        "crossed": 0.9882,
    },
    "hrnet_w32_384x288": {
        "plain": 0.9791,
        "rotations": 0.9820,
        "scales": 0.9855,
        "crossed": 0.9890,
    },
}
"""AP over those crops, as measured independently of this code."""


def average_by_truth(joints, to_unit, truth):
    """The mean place over the crops in which the labelled joint is; the plain crop's value.

    A joint that is in none of them is where the plain crop has it.
    """
    corners = truth[:, None, :, :2] @ to_unit[..., :2].swapaxes(-1, -2) + to_unit[..., None, :, 2]
    inside = ((corners >= 0) & (corners < 1)).all(-1) & (truth[:, None, :, 2] > 0)  # (N, V, K)
    plain = joints.shape[1] // 2
    inside[:, plain] |= ~inside.any(1)
    place = np.where(inside[..., None], joints[..., :2], 0).sum(1) / inside.sum(1)[..., None]
    return np.concatenate([place, joints[:, plain, :, 2:]], -1)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rotations_and_scales_give_back_what_cells_and_borders_cost(name, monkeypatch):
    """Where the labels say which crops show a joint, AP is what was measured independently; by the
    network's maps alone, whose values lower the score of who is cut off, it is higher."""
    located = []

    def keep(joints, to_unit):
        if len(joints):
            located.append((joints, to_unit))
        return average_views(joints, to_unit)

    monkeypatch.setattr(topdown_spec, "average_views", keep)
    views = ["TEST.ROTATIONS", "[-20,0,20]", "TEST.SCALE_FACTOR", "[0.8,1,1.2]"]
    config, split, found = decoded(name, *views)
    images = iter(located)
    found_in = {image_id: next(images) for image_id, poses in found if len(poses.scores)}
    labelled = {record.image_id: record for record in split.records}
    for subset, crops in VIEWS.items():
        results = {"by truth": [], "ours": []}
        for image_id, (joints, to_unit) in found_in.items():
            truth = labelled[image_id].joints[label_boxes(labelled[image_id])[0]]
            given = joints[:, crops], to_unit[:, crops]
            people = {"by truth": average_by_truth(*given, truth), "ours": average_views(*given)}
            for rule, each in people.items():
                scores = rescore(np.ones(len(each)), each[..., 2])
                order = np.argsort(-scores, kind="stable")
                results[rule].append((image_id, Poses(each[order], scores[order])))
        expected = INDEPENDENT[name][subset]
        by_truth = average_precision(config, split, results["by truth"])
        assert by_truth == pytest.approx(expected, abs=0.002)
        assert average_precision(config, split, results["ours"]) >= by_truth


def test_the_truth_survives_suppression_with_what_is_missing_in_the_crops_corner():
    """At 0, 0 of the image, joints that are not labelled make people alike."""
    options = ["DATASET.ROOT", str(DATA), "TEST.BOXES", "truth", "TEST.OKS_NMS", "0.9"]
    config = load_config(ROOT / "configs/topdown/hrnet_w32_256x192.yaml", options)
    split, spec = read_split(config, config.DATASET.VAL), build_spec(config)
    evaluators = [build_evaluator(config, split.truth) for _ in range(2)]
    for record in split.records:
        people, boxes, _ = label_boxes(record)
        labelled = record.joints[people, :, 2:] > 0
        crops = [
            crop_transform(box, spec.input_size).joints(p)
            for box, p in zip(boxes, record.joints[people])
        ]
        in_crops = np.where(labelled, crops, 0).reshape(-1, 17, 3)
        ones = np.ones(len(boxes))
        evaluators[0].add(record.image_id, spec.postprocess(in_crops, boxes, ones))
        joints = np.where(labelled, record.joints[people], 0).astype(np.float32)
        areas = np.prod(padded_size(boxes[:, 2:].T, spec.input_size), axis=0)
        kept = oks_nms(joints, ones, areas, COCO.sigmas, 0.9)
        evaluators[1].add(record.image_id, Poses(joints[kept], np.ones(len(kept), np.float32)))
    assert evaluators[0].summarize()["AP"] == 1
    assert evaluators[1].summarize()["AP"] == pytest.approx(0.990, abs=1e-3)


def test_unbiased_coordinates_cost_only_what_is_outside_the_crop():
    config, split, found = decoded("hrnet_w32_256x192", "MODEL.COORDINATES", "unbiased")
    errors, missing, labelled = [], 0, 0
    for record, (_, poses) in zip(split.records, found):
        people, boxes, _ = label_boxes(record)
        for pose, index in zip(poses.joints, poses.box_indices):
            truth = record.joints[people[index]]
            zoom = crop_transform(boxes[index], (192, 256), coordinates="unbiased").scale
            distance = zoom * np.linalg.norm(pose[:, :2] - truth[:, :2], axis=1)
            errors += distance[(truth[:, 2] > 0) & (pose[:, 2] > 0)].tolist()
            missing += int(((truth[:, 2] > 0) & (pose[:, 2] <= 0)).sum())
            labelled += int((truth[:, 2] > 0).sum())
    assert labelled == 4406
    assert missing < 60  # 45 lie outside the crop of the published frame
    assert np.median(errors) < 0.01  # network pixels; DARK is worse within two cells of the border
    assert np.quantile(errors, 0.95) < 0.1
