"""How good top-down poses can be through a crop and cells: the truth, drawn and decoded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrpose.builders.datasets import build_evaluator, read_split
from hrpose.builders.topdown import build_predict_all, build_predictor, build_test_images
from hrpose.config import load_config
from hrpose.data.boxes import label_boxes
from hrpose.ops.boxes import crop_transform

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


@pytest.mark.parametrize("name", CEILINGS)
def test_what_the_crop_and_the_published_codec_cost(name):
    config, split, found = decoded(name)
    evaluator = build_evaluator(config, split.truth)
    for image_id, poses in found:
        evaluator.add(image_id, poses)
    assert evaluator.summarize()["AP"] == pytest.approx(CEILINGS[name], abs=6e-4)


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
