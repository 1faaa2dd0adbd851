"""How many functions a reader meets between an image and its poses."""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hrpose
from hrpose.builders.bottomup import build_predictor
from hrpose.config import load_config
from hrpose.inference.topdown import TopDownPredictor
from hrpose.inference.topdown_spec import TopDownSpec
from hrpose.skeletons import COCO
from hrpose.structures import HeadOutput
from reference.scenes import Crowd, crowd_outputs

PACKAGE = Path(hrpose.__file__).parent
CONFIG = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
"""Python 3.11 runs them as functions; 3.12 runs most of them in place."""


def functions_entered(call):
    """(file, name, line) of the package's functions, outside of models/, that a call enters."""
    codes = set()

    def profile(frame, event, _):
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {
        (path.relative_to(PACKAGE), code.co_name, code.co_firstlineno)
        for code, path in ((code, Path(code.co_filename)) for code in codes)
        if path.is_relative_to(PACKAGE)
        and path.relative_to(PACKAGE).parts[0] != "models"
        and code.co_name not in COMPREHENSIONS
    }


class Crowded(nn.Module):
    """Predicts a crowd, and at every second call the flipped crowd."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        plain, (coarse, fine) = crowd_outputs(Crowd(20), size, np.random.default_rng(0))
        back = [
            maps.flip(-1)[:, COCO.flip_order]
            for maps in (coarse.heatmaps, coarse.tags, fine.heatmaps)
        ]
        flipped = [coarse._replace(heatmaps=back[0], tags=back[1]), fine._replace(heatmaps=back[2])]
        self.outputs = itertools.cycle([plain, flipped])

    def forward(self, images):
        return next(self.outputs)


def test_from_an_image_to_poses_in_twenty_functions_of_six_files():
    predictor = build_predictor(load_config(CONFIG), Crowded((512, 704)))
    image = np.zeros((512, 700, 3), np.uint8)
    poses = []
    entered = functions_entered(lambda: poses.append(predictor(image)))
    assert len(poses[0].joints) > 15
    assert "fill_missing" in {name for _, name, _ in entered}
    assert len(entered) <= 20, sorted(entered)
    assert len({path for path, *_ in entered}) <= 6, sorted(entered)


class Noise(nn.Module):
    """Predicts joints of 17 kinds anywhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        maps = torch.rand(len(images), 17, 64, 48, generator=torch.Generator().manual_seed(0))
        return [HeadOutput("1_4", 4, maps)]


def test_from_boxes_to_poses_in_thirty_two_functions():
    """Those of boxes and of crops, which may be turned, scaled and averaged, and of coordinates."""
    predictor = TopDownPredictor(Noise(), TopDownSpec(COCO))
    image, poses = np.zeros((512, 700, 3), np.uint8), []
    boxes = [[10, 20, 200, 300], [300, 100, 150, 350], [301, 100, 150, 350]]
    entered = functions_entered(lambda: poses.append(predictor(image, boxes)))
    assert len(poses[0].joints) == 3
    assert {"rescore", "flip_back", "signed_quarter_offset"} <= {name for _, name, _ in entered}
    assert len(entered) <= 32, sorted(entered)
