"""Sizes and operations of the networks, against every figure that their papers print.

Networks live on the meta device: shapes without numbers.
"""

from functools import cache

import pytest
import torch
from torch import nn

from hrpose.models.complexity import (
    OPERATION_UNITS,
    count_operations,
    count_parameters,
    operations_in,
)
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.swahr import SWAHR

TABLE_5_SIZES = (256, 384, 512, 640, 768, 896, 1024)

# Networks by the options of `network` in which they differ.
TOP_DOWN_W32 = (("num_deconvs", 0), ("head", 17))
TOP_DOWN_W48 = (("num_deconvs", 0), ("head", 17), ("width", 48))
BOTTOM_UP_HRNET = (("num_deconvs", 0),)
W32, W40, W48 = ((("width", width),) for width in (32, 40, 48))
SWAHR_W32, SWAHR_W48 = ((("width", width), ("swahr", True)) for width in (32, 48))
# HigherHRNet's table 5 counts tags at both scales, though the network has them at one.
TAGS_TWICE = (("head", 34),)
TWO_DECONVS, TWO_DECONVS_8, ONE_DECONV_8 = (
    (("num_deconvs", deconvs), ("dilations", (1,) * blocks))
    for deconvs, blocks in ((2, 4), (2, 8), (1, 8))
)


class WithScales(nn.Module):
    """A SWAHR network that predicts scales in evaluation mode too: SWAHR's table 1 counts them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network.with_scales(images)


def network(width=32, joints=17, num_deconvs=1, dilations=(1,) * 4, head=None, swahr=False):
    """A published network; `head` gives each of its heads so many channels instead."""
    with torch.device("meta"):
        model = HigherHRNet(HRNet(width), joints, num_deconvs, dilations)
        if head:
            model.heads = nn.ModuleList(nn.Conv2d(width, head, 1) for _ in model.heads)
        return WithScales(SWAHR(model)) if swahr else model


@cache
def smallest_count(options, convention):
    return count_operations(network(**dict(options)), (32, 32), convention)


def figure(options, size, unit):
    """Operations at `size`; they grow with the area, as a test below makes sure."""
    convention, one = OPERATION_UNITS[unit]
    return smallest_count(options, convention) * (size[0] // 32) * (size[1] // 32) / one


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        (TOP_DOWN_W32, 28.536),
        (TOP_DOWN_W48, 63.596),
        (BOTTOM_UP_HRNET, 28.537),
        (W32, 28.645),
        (W40, 44.484),
        (W48, 63.827),
        ((*W32, ("joints", 14)), 28.642),  # CrowdPose
        ((*W48, ("joints", 14)), 63.822),
        (TWO_DECONVS, 28.745),
        (TWO_DECONVS_8, 28.894),
        (ONE_DECONV_8, 28.720),
        (SWAHR_W32, 28.649),
        (SWAHR_W48, 63.832),
        ((*SWAHR_W32, ("joints", 14)), 28.645),
        ((*SWAHR_W48, ("joints", 14)), 63.826),
    ],
)
def test_published_parameter_counts(options, millions):
    assert round(count_parameters(network(**dict(options))) / 1e6, 3) == millions


@pytest.mark.parametrize(
    ("options", "size", "unit", "printed"),
    [
        (TOP_DOWN_W32, (256, 192), "gmac", "7.645"),
        (TOP_DOWN_W32, (384, 288), "gmac", "17.201"),
        (TOP_DOWN_W48, (256, 192), "gmac", "15.692"),
        (TOP_DOWN_W48, (384, 288), "gmac", "35.307"),
        (TOP_DOWN_W32, (256, 192), "hrnet_binary", "7.1"),  # HRNet tables 1 and 2
        (TOP_DOWN_W32, (384, 288), "hrnet_binary", "16.0"),
        (TOP_DOWN_W48, (256, 192), "hrnet_binary", "14.6"),
        (TOP_DOWN_W48, (384, 288), "hrnet_binary", "32.9"),
        (BOTTOM_UP_HRNET, (512, 512), "gmac", "40.78"),
        (W32, (512, 512), "gmac", "46.20"),  # the deconvolution costs 13 %, not 23 %
        (W32, (512, 512), "hrnet", "47.864"),  # HigherHRNet table 1: 47.9
        (W32, (640, 640), "hrnet", "74.788"),  # table 7: 74.8, 110.7, 154.3
        (W40, (640, 640), "hrnet", "110.688"),
        (W48, (640, 640), "hrnet", "154.305"),
        (SWAHR_W32, (512, 512), "hrnet", "48.022"),  # SWAHR table 1: 48.0 and 154.6
        (SWAHR_W48, (640, 640), "hrnet", "154.586"),
        (TWO_DECONVS, (512, 512), "gmac", "67.3"),
        (TWO_DECONVS_8, (512, 512), "gmac", "91.5"),
        (ONE_DECONV_8, (512, 512), "gmac", "51.0"),
    ],
)
def test_published_operations(options, size, unit, printed):
    digits = len(printed.partition(".")[2])
    assert f"{figure(options, size, unit):.{digits}f}" == printed


@pytest.mark.parametrize(
    ("options", "unit", "printed"),
    [
        (BOTTOM_UP_HRNET, "gmac_mixed", (9.7, 21.9, 38.9, 60.8, 87.5, 119.1, 155.6)),
        (TAGS_TWICE, "hrnet_binary", (11.2, 25.1, 44.6, 69.7, 100.4, 136.6, 178.4)),
    ],
)
def test_table_5_of_higher_hrnet(options, unit, printed):
    found = [figure(options, (size, size), unit) for size in TABLE_5_SIZES]
    assert tuple(round(value, 1) for value in found) == printed


def test_dilations_cost_nothing():
    """SWAHR's table 7 compares networks of one size."""
    backbone = HRNet(8, (1, 1, 1), blocks=1, stem=8, bottlenecks=1)
    plain, *dilated = (
        HigherHRNet(backbone, joints=3, dilations=dilations)
        for dilations in ((1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2, 2))
    )
    for model in dilated:
        assert count_parameters(model) == count_parameters(plain)
        for convention in ("macs", "hrnet"):
            operations = count_operations(model, (32, 64), convention)
            assert operations == count_operations(plain, (32, 64), convention)


@pytest.mark.parametrize("convention", ["macs", "hrnet"])
def test_operations_grow_in_proportion_to_the_image(convention):
    small, large = (
        count_operations(network(num_deconvs=2), size, convention) for size in ((32, 32), (64, 96))
    )
    assert large == 6 * small


@pytest.mark.parametrize(
    ("layer", "macs", "hrnet"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 3 * 9 * 4 * 6, 8 * 3 * 9 * 4 * 6),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 6 * 9 * 8 * 12, 6 * 9 * 8 * 12),
        (nn.ConvTranspose2d(3, 8, 4, 2, 1), 3 * 8 * 16 * 8 * 12, 3 * 8 * 16 * 16 * 24),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 5)), 5 * 3 * 8 * 12, 5 * 3 * 8 * 12),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Upsample(scale_factor=2)), 0, 0),
    ],
)
def test_each_kind_of_layer_by_hand(layer, macs, hrnet):
    assert count_operations(layer, (8, 12), "macs") == macs
    assert count_operations(layer, (8, 12), "hrnet") == hrnet


@pytest.mark.parametrize("unit", OPERATION_UNITS)
def test_a_unit_is_a_convention_and_a_size(unit):
    layer = nn.ConvTranspose2d(3, 8, 4, 2, 1)
    convention, one = OPERATION_UNITS[unit]
    assert operations_in(layer, (8, 12), unit) * one == count_operations(layer, (8, 12), convention)


def test_a_layer_called_twice_counts_twice():
    layer = nn.Conv2d(3, 3, 1)
    assert count_operations(nn.Sequential(layer, layer), (4, 4)) == 2 * 9 * 16


def test_counting_leaves_the_model_alone():
    model = HigherHRNet(HRNet(8, (1, 1, 1), blocks=1, stem=8, bottlenecks=1), joints=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_operations(model, (64, 64))
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_unknown_units_and_conventions_list_the_known_ones():
    with pytest.raises(ValueError, match="macs, hrnet"):
        count_operations(nn.Conv2d(3, 3, 1), (4, 4), "flops")
    with pytest.raises(ValueError, match=", ".join(OPERATION_UNITS)):
        operations_in(nn.Conv2d(3, 3, 1), (4, 4), "gflops")
