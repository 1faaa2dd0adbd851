"""Test-time augmentation: laws, and the same in plain loops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.inference.bottomup import BottomUpPredictor, run_views
from hrpose.inference.spec import VIEWS, InferenceSpec
from hrpose.skeletons import COCO, Skeleton
from hrpose.structures import HeadOutput
from reference.predictor import enlarge

NAMES = ("nose", "left_ear", "right_ear")
DOTS = Skeleton(NAMES, (0.05,) * 3, NAMES)
FLIP = DOTS.flip_order  # nose, right, left
IDENTITY, MIRROR = VIEWS["identity"](DOTS), VIEWS["flip"](DOTS)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class FixedOutputs:
    """Returns the given outputs, one a call: for views whose outputs have nothing in common."""

    def __init__(self, *outputs):
        self.outputs = list(outputs)

    def __call__(self, images):
        return self.outputs.pop(0)


def random_outputs(seed, side=32):
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
    """Resized to the finest output, averaged over resolutions; flipped back; resized; averaged."""
    plain_view, turned_view = random_outputs(0), random_outputs(100)
    maps = run_views(
        FixedOutputs(plain_view, turned_view), random(1, 3, 32, 32), [IDENTITY, MIRROR], size
    )
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
    outputs = random_outputs(0)
    outputs.append(HeadOutput("1_1", 1, random(1, 3, 32, 32, seed=7)))
    size = (64, 64)
    maps = run_views(FixedOutputs(outputs), random(1, 3, 32, 32), [IDENTITY], size, strides)
    for k in range(3):
        chosen = [
            enlarge(output.heatmaps[0, k].numpy().astype(float), (32, 32))
            for output in outputs
            if output.stride in (strides or (4, 2, 1))
        ]
        away = abs(maps.heatmaps[0, k].numpy() - enlarge(np.mean(chosen, 0), size)).max()
        record_difference("run_views: chosen outputs", away)
        assert away < 1e-6
    everything = run_views(FixedOutputs(outputs), random(1, 3, 32, 32), [IDENTITY], size)
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


def test_mirroring_the_image_mirrors_its_maps():
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
    for view in (IDENTITY, MIRROR):
        once = maps.flip(view.axes)[:, view.order]
        assert torch.equal(once, maps) == (view is IDENTITY)
        assert torch.equal(once.flip(view.axes)[:, view.order], maps)


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
    assert torch.allclose(maps.heatmaps, torch.tensor(0.25))
    assert torch.allclose(maps.tags, torch.tensor(4.0))


# Scales -----------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return symmetric(images * self.weight)


def maps_at(*scales):
    """The maps of a smooth image at several scales, and those of each scale."""
    spec = InferenceSpec(DOTS, 64, scales, ("identity", "flip"), mean=(0.5,) * 3, std=(0.2,) * 3)
    predictor = BottomUpPredictor(Symmetric(), spec)
    smooth = F.interpolate(random(1, 3, 6, 8), size=(90, 120), mode="bicubic")[0].clamp(0, 1)
    inputs = predictor.preprocess((255 * smooth).byte().permute(1, 2, 0).numpy())
    each = []
    for pixels in inputs.pixels:
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            each.append(
                run_views(predictor.model, (images - 0.5) / 0.2, predictor.views, inputs.size)
            )
    return predictor.forward([inputs]), each


@pytest.mark.parametrize("scales", [(0.5, 1.0, 2.0), (2.0, 1.0, 0.5), (0.5,), (1.0,)], ids=str)
def test_heatmaps_are_of_all_scales_and_tags_of_scale_1(scales):
    """Or of the only scale, whatever it is."""
    maps, each = maps_at(*scales)
    mean = sum(of_scale.heatmaps for of_scale in each) / len(each)
    assert torch.allclose(maps.heatmaps, mean, atol=1e-6)
    assert torch.equal(maps.tags, each[scales.index(1) if len(scales) > 1 else 0].tags)


def test_order_of_scales_does_not_matter():
    (forth, _), (back, _) = maps_at(0.5, 1.0, 2.0), maps_at(2.0, 1.0, 0.5)
    assert torch.allclose(forth.heatmaps, back.heatmaps, atol=1e-6)
    assert torch.equal(forth.tags, back.tags)


@pytest.mark.parametrize("tagged", [(), (0, 1)])
def test_people_are_grouped_by_the_tags_of_one_output(tagged):
    maps = torch.zeros(1, 3, 8, 8)
    outputs = [HeadOutput(f"{i}", 4, maps, maps if i in tagged else None) for i in range(2)]
    with pytest.raises(ValueError, match=f"{len(tagged)} outputs of this network have tags"):
        run_views(lambda _: outputs, maps, [VIEWS["identity"](COCO)], (8, 8))
