"""Test-time augmentation: laws, and the same in plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hrpose.inference.spec import InferenceSpec
from hrpose.inference.tta import IDENTITY, AggregatedMaps, average_scales, flip_view, run_views
from hrpose.skeletons import COCO
from hrpose.structures import HeadOutput
from reference.predictor import enlarge

FLIP = [0, 2, 1]  # nose, left, right
MIRROR = flip_view(FLIP)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Told:
    """Says what it was told, call after call: for views whose outputs have nothing in common."""

    def __init__(self, *outputs):
        self.outputs = list(outputs)

    def __call__(self, images):
        return self.outputs.pop(0)


def said(seed, side=32):
    coarse, tags = (random(1, 3, side // 4, side // 4, seed=seed + i) for i in (0, 1))
    fine = random(1, 3, side // 2, side // 2, seed=seed + 2)
    return [HeadOutput("1_4", 4, coarse, tags), HeadOutput("1_2", 2, fine)]


def symmetric(images):
    """A network that treats left and right alike: edges are ears, brightness is the nose."""
    grey = images.mean(1, keepdim=True)
    steps = F.pad(grey, (1, 1, 0, 0), mode="replicate")
    falling, rising = steps[..., :-2] - grey, steps[..., 2:] - grey
    maps = torch.cat([grey, falling, rising], 1)
    return [
        HeadOutput("1_4", 4, F.avg_pool2d(maps, 4), F.avg_pool2d(maps**2, 4)),
        HeadOutput("1_2", 2, F.max_pool2d(maps, 2)),
    ]


@pytest.mark.parametrize("size", [(16, 16), (32, 32)])
def test_aggregation_oracle(size, record_difference):
    """Resized to the finest output, averaged over resolutions; brought back; resized; averaged."""
    plain_view, turned_view = said(0), said(100)
    maps = run_views(Told(plain_view, turned_view), random(1, 3, 32, 32), [IDENTITY, MIRROR], size)
    assert maps.heatmaps.shape == (1, 3, *size)
    assert maps.tags.shape == (1, 3, *size, 2)
    for k in range(3):
        heat, tags = [], []
        for outputs, joint, turned in ((plain_view, k, False), (turned_view, FLIP[k], True)):
            coarse, fine = (output.heatmaps[0, joint].numpy().astype(float) for output in outputs)
            tag = enlarge(outputs[0].tags[0, joint].numpy().astype(float), (16, 16))
            both = [(enlarge(coarse, (16, 16)) + fine) / 2, tag]
            both = [plane[:, ::-1] if turned else plane for plane in both]
            heat.append(enlarge(both[0], size))
            tags.append(enlarge(both[1], size))
        differences = (
            abs(maps.heatmaps[0, k].numpy() - np.mean(heat, 0)).max(),
            abs(maps.tags[0, k].numpy() - np.stack(tags, -1)).max(),
        )
        record_difference("run_views: heatmaps", differences[0])
        record_difference("run_views: tags", differences[1])
        assert max(differences) < 1e-6


@pytest.mark.parametrize("strides", [(4,), (2,), (4, 2), (2, 4), (1,), (4, 1), ()])
def test_only_the_chosen_outputs_are_averaged_oracle(strides, record_difference):
    """Each through the finest output, chosen or not; tags come from where they are."""
    outputs = said(0)
    outputs.append(HeadOutput("1_1", 1, random(1, 3, 32, 32, seed=7)))
    size = (64, 64)
    maps = run_views(Told(outputs), random(1, 3, 32, 32), [IDENTITY], size, strides)
    for k in range(3):
        chosen = [
            enlarge(output.heatmaps[0, k].numpy().astype(float), (32, 32))
            for output in outputs
            if output.stride in (strides or (4, 2, 1))
        ]
        away = abs(maps.heatmaps[0, k].numpy() - enlarge(np.mean(chosen, 0), size)).max()
        record_difference("run_views: chosen outputs", away)
        assert away < 1e-6
    everything = run_views(Told(outputs), random(1, 3, 32, 32), [IDENTITY], size)
    assert torch.equal(maps.tags, everything.tags)
    same = torch.allclose(maps.heatmaps, everything.heatmaps, atol=1e-6)
    assert same == (strides == ())


def test_the_toy_is_symmetric():
    images = random(2, 3, 32, 48)
    for output, turned in zip(symmetric(images), symmetric(images.flip(-1))):
        back = turned.heatmaps.flip(-1)[:, FLIP]
        assert torch.allclose(back, output.heatmaps, atol=1e-6)
        assert not torch.allclose(turned.heatmaps.flip(-1), output.heatmaps, atol=1e-2)


def test_a_symmetric_network_learns_nothing_from_the_mirror():
    images = random(2, 3, 32, 48)
    alone = run_views(symmetric, images, [IDENTITY], (32, 48))
    both = run_views(symmetric, images, [IDENTITY, MIRROR], (32, 48))
    assert torch.allclose(both.heatmaps, alone.heatmaps, atol=1e-6)
    assert both.tags.shape[-1] == 2
    for view in range(2):
        assert torch.allclose(both.tags[..., view], alone.tags[..., 0], atol=1e-6)


def test_mirroring_the_image_mirrors_what_is_said_of_it():
    """For any network, symmetric or not."""
    weights = random(6, 3, 3, 3, seed=9) - 0.5

    def network(images):
        maps = F.avg_pool2d(F.conv2d(images, weights, padding=1), 2)
        return [HeadOutput("1_2", 2, maps[:, :3], maps[:, 3:])]

    images = random(1, 3, 32, 48)
    maps = run_views(network, images, [IDENTITY, MIRROR], (16, 24))
    turned = run_views(network, images.flip(-1), [IDENTITY, MIRROR], (16, 24))
    assert torch.allclose(turned.heatmaps.flip(-1)[:, FLIP], maps.heatmaps, atol=1e-6)
    # What was the plain view is now the mirrored one.
    back = turned.tags.flip(3)[:, FLIP].flip(-1)
    assert torch.allclose(back, maps.tags, atol=1e-6)


def test_views_come_back():
    maps = random(1, 3, 4, 6)
    assert torch.equal(MIRROR.undo(MIRROR.undo(maps)), maps)
    assert torch.equal(IDENTITY.undo(maps), maps)
    images = random(1, 3, 4, 6)
    assert torch.equal(MIRROR.apply(images)[..., 0], images[..., -1])


def test_tags_may_stand_at_any_one_resolution():
    fine = HeadOutput("1_2", 2, random(1, 3, 16, 16), random(1, 3, 16, 16, seed=1))
    coarse = HeadOutput("1_4", 4, random(1, 3, 8, 8))
    maps = run_views(lambda images: [coarse, fine], random(1, 3, 32, 32), [IDENTITY], (16, 16))
    assert torch.equal(maps.tags[..., 0], fine.tags)


@pytest.mark.parametrize("views", [[IDENTITY], [IDENTITY, MIRROR]], ids=len)
def test_maps_lie_one_after_the_other_however_the_network_lays_them(views):
    """The decoder reads them so several times as fast."""

    def laid(maps):
        return maps if maps is None else maps.to(memory_format=torch.channels_last)

    def channels_last(images):
        return [
            output._replace(heatmaps=laid(output.heatmaps), tags=laid(output.tags))
            for output in symmetric(images)
        ]

    maps = run_views(channels_last, random(1, 3, 32, 32), views, (32, 32))
    assert maps.heatmaps.is_contiguous()
    assert maps.tags.movedim(-1, 0).is_contiguous()


def test_constants_stay_constant():
    def constant(images):
        return [
            HeadOutput("1_4", 4, torch.full((1, 3, 8, 8), 0.25), torch.full((1, 3, 8, 8), 4.0)),
            HeadOutput("1_2", 2, torch.full((1, 3, 16, 16), 0.25)),
        ]

    maps = run_views(constant, random(1, 3, 32, 32), [IDENTITY, MIRROR], (32, 32))
    several = average_scales([maps, maps, maps], 1)
    assert torch.allclose(several.heatmaps, torch.tensor(0.25))
    assert torch.allclose(several.tags, torch.tensor(4.0))


def scale_maps(count):
    return [
        AggregatedMaps(random(1, 3, 8, 8, seed=i), random(1, 3, 8, 8, 2, seed=50 + i))
        for i in range(count)
    ]


def base_of(scales):
    return InferenceSpec(COCO, scales=scales).base


def test_heatmaps_of_all_scales_and_tags_of_scale_1():
    maps = scale_maps(3)
    both = average_scales(maps, base_of((0.5, 1, 2)))
    mean = sum(of_scale.heatmaps for of_scale in maps) / 3
    assert torch.allclose(both.heatmaps, mean, atol=1e-6)
    assert torch.equal(both.tags, maps[1].tags)


def test_order_of_scales_does_not_matter():
    maps = scale_maps(3)
    forth = average_scales(maps, base_of((0.5, 1.0, 2)))
    back = average_scales(maps[::-1], base_of((2, 1.0, 0.5)))
    assert torch.allclose(forth.heatmaps, back.heatmaps, atol=1e-6)
    assert torch.equal(forth.tags, back.tags)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_a_single_scale_is_itself(scale):
    (maps,) = scale_maps(1)
    only = average_scales([maps], base_of((scale,)))
    assert torch.equal(only.heatmaps, maps.heatmaps)
    assert torch.equal(only.tags, maps.tags)
