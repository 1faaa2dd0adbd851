"""BatchNorms fused into convolutions: the same outputs, and the original is untouched."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from hrpose.models.blocks import conv_bn, kaiming_init
from hrpose.models.higher_hrnet import HigherHRNet, deconv
from hrpose.models.hrnet import HRNet
from hrpose.models.optimize import fuse_conv_bn
from hrpose.models.swahr import SWAHR


def with_history(model, seed=0):
    """Statistics as after a training: of every channel another mean, variance, scale and shift."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            shape = layer.running_mean.shape
            layer.running_mean.copy_(torch.randn(shape, generator=generator))
            layer.running_var.copy_(torch.rand(shape, generator=generator) * 3 + 0.1)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(shape, generator=generator))
                layer.bias.copy_(torch.randn(shape, generator=generator))
    return model.eval()


def higher_hrnet(num_deconvs=1, dilations=(1, 2)):
    torch.manual_seed(0)
    backbone = HRNet(width=8, modules=(1, 2, 1), blocks=1, stem=8, bottlenecks=2)
    model = HigherHRNet(backbone, joints=5, num_deconvs=num_deconvs, dilations=dilations)
    kaiming_init(model)
    return model


def swahr():
    model = SWAHR(higher_hrnet())
    for branch in model.scale_branches:
        nn.init.normal_(branch[-1].weight)
    return model


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def parts(outputs):
    return [
        part
        for output in outputs
        for part in (output.heatmaps, output.tags, output.scales)
        if part is not None
    ]


def norms(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


# Clever = plain ---------------------------------------------------------------------------------


def fused_by_hand(conv, norm, axis):
    """Weight and bias in float64, one channel of the output after the other."""
    weight, bias = conv.weight.double().clone(), torch.zeros(len(norm.bias)).double()
    for channel in range(len(norm.bias)):
        factor = norm.weight[channel].double() / (norm.running_var[channel].double() + 1e-5).sqrt()
        weight.select(axis, channel).mul_(factor)
        bias[channel] = norm.bias[channel] - norm.running_mean[channel].double() * factor
    return weight, bias


@pytest.mark.parametrize(
    ("layers", "axis"),
    [(conv_bn(3, 5), 0), (conv_bn(3, 5, stride=2, relu=False), 0), (deconv(4, 5, ()).up, 1)],
)
def test_each_channel_is_fused_as_by_hand(layers, axis):
    layers = with_history(layers)
    with torch.no_grad():
        weight, bias = fused_by_hand(layers[0], layers[1], axis)
    fused = fuse_conv_bn(layers)
    torch.testing.assert_close(fused[0].weight.double(), weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fused[0].bias.double(), bias, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_bias_that_was_there_is_kept():
    layers = with_history(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    torch.testing.assert_close(
        fuse_conv_bn(layers)(images()), layers(images()), rtol=1e-5, atol=1e-5
    )


NETWORKS = {
    "bottom-up HRNet": partial(higher_hrnet, 0),
    "HigherHRNet": higher_hrnet,
    "two deconvolutions": partial(higher_hrnet, 2),
    "SWAHR": swahr,
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_fused_network_predicts_the_same(name, record_difference):
    model = with_history(NETWORKS[name]())
    fused = fuse_conv_bn(model)
    assert norms(model) and not norms(fused)
    for output, expected in zip(parts(fused(images())), parts(model(images())), strict=True):
        away = (output - expected).abs().max() / (expected.max() - expected.min())
        record_difference("fused norms: outputs, of their range", away)
        assert away < 1e-5


@torch.no_grad()
def test_scale_branches_are_fused_too():
    model = with_history(swahr())
    for output, expected in zip(
        fuse_conv_bn(model).with_scales(images()), model.with_scales(images())
    ):
        torch.testing.assert_close(output.scales, expected.scales, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_float64_shows_that_only_rounding_differs():
    model = with_history(higher_hrnet()).double()
    pairs = zip(parts(fuse_conv_bn(model)(images().double())), parts(model(images().double())))
    for output, expected in pairs:
        assert (output - expected).abs().max() < 1e-12 * expected.abs().max()


# The original -----------------------------------------------------------------------------------


def test_the_original_trains_on_untouched():
    model = with_history(higher_hrnet()).train()
    before = copy.deepcopy(model.state_dict())
    fused = fuse_conv_bn(model)
    assert model.training and not fused.training
    assert not any(weight.requires_grad for weight in fused.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    fused_weights = {weight.data_ptr() for weight in fused.parameters()}
    assert not fused_weights & {weight.data_ptr() for weight in model.parameters()}
    sum(part.sum() for part in parts(model(images()))).backward()
    assert all(weight.grad is not None for weight in model.parameters())


@torch.no_grad()
def test_a_network_without_norms_is_unchanged():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    fused = fuse_conv_bn(model)
    assert fused is not model
    assert list(fused.state_dict()) == list(model.state_dict())
    assert torch.equal(fused(images()), model(images()))


@torch.no_grad()
def test_a_norm_that_follows_no_convolution_stays():
    model = with_history(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)))
    fused = fuse_conv_bn(model)
    assert len(norms(fused)) == 1
    assert torch.equal(fused(images()), model(images()))


@torch.no_grad()
def test_a_norm_without_statistics_stays():
    """It takes them from every batch, in evaluation too."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    fused = fuse_conv_bn(model)
    assert len(norms(fused)) == 1
    assert torch.equal(fused(images()), model(images()))
