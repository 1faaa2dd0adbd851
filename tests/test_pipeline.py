"""A stream finds what its predictor finds one by one, in order, whichever is ready first."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.engine.evaluate import predict_sequentially
from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.decode_on_device import find_candidates_on_device
from hrpose.inference.pipeline import PipelineConfig, stream
from hrpose.inference.spec import DecoderConfig, InferenceSpec
from hrpose.skeletons import Skeleton
from hrpose.structures import HeadOutput

NAMES = ("nose", "left_ear", "right_ear")
DOTS = Skeleton(NAMES, (0.05,) * 3, NAMES)
SIZES = [(90, 64), (64, 90), (128, 100), (90, 64), (200, 64)]


class Colours(nn.Module):
    """Takes each colour for a heatmap, whatever else is in the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shapes = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        fine = F.avg_pool2d(images, 2) * self.weight
        coarse = F.avg_pool2d(fine, 2)
        return [HeadOutput("1_4", 4, coarse, 6 * coarse.flip(1)), HeadOutput("1_2", 2, fine)]


class OnTheDevice(BottomUpPredictor):
    """Finds candidates as if its maps were not in host memory."""

    def find_candidates(self, maps):
        assert isinstance(maps.heatmaps, torch.Tensor)
        return find_candidates_on_device(maps.heatmaps, maps.tags, self.spec.decoder)


def predictor(kind=BottomUpPredictor, **changes):
    decoder = DecoderConfig(max_people=6, matcher="scipy", **changes)
    spec = InferenceSpec(DOTS, 64, stride=2, decoder=decoder)
    return kind(Colours(), spec)


class Noise:
    """Images of several sizes, later ones read sooner."""

    def __init__(self, count):
        self.count = count
        self.begun = 0

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.begun += 1
        time.sleep(0.002 * (i % 3 == 0))
        width, height = SIZES[i % len(SIZES)]
        image = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        return 1000 - i, image


def same(result, plain):
    assert [image_id for image_id, _ in result] == [image_id for image_id, _ in plain]
    for (_, poses), (_, alone) in zip(result, plain):
        assert poses.joints.shape == alone.joints.shape
        np.testing.assert_allclose(poses.joints, alone.joints, atol=1e-3)
        np.testing.assert_allclose(poses.scores, alone.scores, atol=1e-6)


CONFIGS = [PipelineConfig(1, 1), PipelineConfig(3, 2), PipelineConfig(4, 1), PipelineConfig(100, 3)]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("kind", [BottomUpPredictor, OnTheDevice])
def test_a_stream_finds_what_is_found_one_by_one(config, devices, kind):
    images = Noise(23)
    plain = list(predict_sequentially(predictor())(images))
    assert sum(len(poses.joints) for _, poses in plain) > 23
    workers = [predictor(kind) for _ in range(devices)]
    same(list(stream(workers, images, config)), plain)
    shapes = [shape for worker in workers for shape in worker.model.shapes]
    assert sum(shape[0] for shape in shapes) == 23
    assert max(shape[0] for shape in shapes) <= config.batch


def test_an_image_of_a_wrong_shape_is_named():
    images = [(3, np.zeros((60, 80, 3), np.uint8)), (7, np.zeros((60, 80, 4), np.uint8))]
    with pytest.raises(ValueError, match=r"image 7: .*\(60, 80, 4\)"):
        list(stream([predictor()], images, PipelineConfig(2, 2)))


def test_images_of_one_size_are_batched():
    one = predictor()
    list(stream([one], Noise(20), PipelineConfig(4, 2)))
    assert sorted(shape[0] for shape in one.model.shapes) == [4, 4, 4, 4, 4]


@pytest.mark.slow
def test_processes_group_what_a_device_gathered():
    """Missing joints are then searched here."""
    images = Noise(9)
    plain = list(predict_sequentially(predictor())(images))
    same(list(stream([predictor(OnTheDevice)], images, PipelineConfig(2, 1, groupers=2))), plain)


@pytest.mark.parametrize("count", [0, 1])
def test_few_images(count):
    assert len(list(stream([predictor()], Noise(count), PipelineConfig(4, 2)))) == count


def test_poses_come_while_images_are_still_read():
    others, images = set(threading.enumerate()), Noise(40)
    found = stream([predictor()], images, PipelineConfig(2, 1))
    assert next(found)[0] == 1000
    assert set(threading.enumerate()) > others
    found.close()
    assert set(threading.enumerate()) <= others
    assert images.begun < 40


def test_an_unreadable_image_ends_the_stream_with_its_error_after_those_before_it():
    class Broken(Noise):
        def __getitem__(self, i):
            if i == 7:
                raise ValueError("000007.jpg is not a readable image")
            return super().__getitem__(i)

    found = []
    with pytest.raises(ValueError, match=r"000007\.jpg"):
        found.extend(each for each in stream([predictor()], Broken(20), PipelineConfig(3, 2)))
    same(found, list(predict_sequentially(predictor())(Noise(7))))


@pytest.mark.parametrize("kind", [BottomUpPredictor, OnTheDevice])
def test_an_error_of_the_network_or_the_decoder_ends_the_stream(kind):
    broken = predictor(kind)
    with torch.no_grad():
        broken.model.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="weights are broken"):
        list(stream([broken], Noise(12), PipelineConfig(2, 2)))
    broken.model.forward = None
    with pytest.raises(TypeError):
        list(stream([broken], Noise(12), PipelineConfig(2, 2)))


def test_an_image_of_a_rare_size_does_not_hold_back_the_others():
    class Rare(Noise):
        def __getitem__(self, i):
            return (
                (1000, np.zeros((64, 256, 3), np.uint8)) if i == 0 else super().__getitem__(5 * i)
            )

    images = Rare(200)
    found = stream([predictor()], images, PipelineConfig(2, 1))
    assert next(found)[0] == 1000
    assert images.begun < 60
    found.close()
