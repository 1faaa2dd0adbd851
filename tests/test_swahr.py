"""A network with a scale branch: what it adds, what it leaves alone, and how it begins to learn."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.builders.bottomup import build_predictor, output_strides
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer, build_train_step
from hrpose.config import load_config
from hrpose.models.complexity import count_operations
from hrpose.models.weights import to_published
from hrpose.ops.normalize import normalize

PLAIN = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
SMALL = {
    "MODEL.WIDTH": "8", "MODEL.BACKBONE.STEM": "8", "MODEL.BACKBONE.MODULES": "[1,1,1]",
    "MODEL.BACKBONE.BLOCKS": "1", "MODEL.BACKBONE.BOTTLENECKS": "1",
    "MODEL.NUM_BASIC_BLOCKS": "1", "MODEL.INIT": "fan_in",
}  # fmt: skip
WITH_SAHR = {"MODEL.NAME": "swahr", "LOSS.SAHR": "true"}
KINDS, SIDE = 17, 64


def configure(*overrides, name="swahr"):
    small = [text for pair in SMALL.items() for text in pair]
    return load_config(PLAIN, [*small, "MODEL.NAME", name, *overrides])


def small(*overrides, name="swahr"):
    torch.manual_seed(0)
    learning = ["LOSS.SAHR", "true"] if name == "swahr" else []  # or the branches would be frozen
    return build_model(configure(*learning, *overrides, name=name))


def awake(model, seed=1):
    """The same network with branches that predict no zeros."""
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    for weight in model.scale_branches.parameters():
        nn.init.normal_(weight)
    return model


def images(height=64, width=96):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


# The network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_deconvs", [0, 1, 2])
@pytest.mark.parametrize("init", ["fan_in", "published"])
def test_scales_at_every_resolution_all_0_at_the_start(num_deconvs, init):
    model = small("MODEL.NUM_DECONVS", str(num_deconvs), "MODEL.INIT", init)
    assert model.joints == KINDS
    outputs = model.train()(images())
    assert [output.stride for output in outputs] == [4, 2, 1][: num_deconvs + 1]
    for output in outputs:
        shape = (2, KINDS, 64 // output.stride, 96 // output.stride)
        assert output.scales.shape == output.heatmaps.shape == shape
        assert not output.scales.any()
    for output in awake(model)(images()):
        assert (output.scales != 0).float().mean() > 0.9


def test_scales_at_test_only_on_request():
    model = awake(small()).eval()
    outputs, with_scales = model(images()), model.with_scales(images())
    assert [output.scales for output in outputs] == [None, None]
    for output, other in zip(outputs, with_scales):
        assert other.scales.shape == output.heatmaps.shape
        assert other.scales.any()
        assert torch.equal(output.heatmaps, other.heatmaps)
    assert torch.equal(outputs[0].tags, with_scales[0].tags)
    for output, other in zip(outputs, model.network(images())):
        assert torch.equal(output.heatmaps, other.heatmaps)


def test_the_branch_computes_what_the_published_layers_do_one_by_one():
    """1 x 1 to as many maps as joints, norm, ReLU; 9 x 9 on each joint's map alone."""
    model = awake(small()).eval()
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    state = to_published(model.state_dict())
    with torch.no_grad():
        found, levels = model.with_scales(images()), model.network.levels(images())
        for i, (output, (feature, _)) in enumerate(zip(found, levels)):
            place = f"conv_scale_layers.{i}"
            x = F.conv2d(feature, state[f"{place}.0.weight"], state[f"{place}.0.bias"])
            norm = ("running_mean", "running_var", "weight", "bias")
            x = F.batch_norm(x, *(state[f"{place}.1.{part}"] for part in norm)).relu()
            for k in range(KINDS):
                weight, bias = (
                    state[f"{place}.3.{part}"][k : k + 1] for part in ("weight", "bias")
                )
                assert weight.shape == (1, 1, 9, 9)
                wanted = F.conv2d(x[:, k : k + 1], weight, bias, padding=4)[:, 0]
                torch.testing.assert_close(output.scales[:, k], wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_branch_predicts_reaches_no_heatmap_and_no_tag(training):
    """Not through a deconvolution either, whichever branch it is."""
    model = small("MODEL.NUM_DECONVS", "2")
    one, other = (awake(model, seed).train(training) for seed in (1, 2))
    pairs = list(zip(one.with_scales(images()), other.with_scales(images())))
    for output, changed in pairs:
        assert not torch.equal(output.scales, changed.scales)
        assert torch.equal(output.heatmaps, changed.heatmaps)
    assert torch.equal(pairs[0][0].tags, pairs[0][1].tags)
    total = sum(output.heatmaps.sum() for output, _ in pairs) + pairs[0][0].tags.sum()
    branches = list(one.scale_branches.parameters())
    slopes = torch.autograd.grad(total, branches, allow_unused=True)
    assert slopes == (None,) * len(branches)


def test_the_decoder_is_given_no_scale():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    config, model = configure("DATASET.INPUT_SIZE", "64"), small()
    networks = [*(awake(model, seed) for seed in (1, 2)), model.network]
    predictors = [build_predictor(config, copy.deepcopy(network)) for network in networks]
    maps = [predictor.forward([predictor.preprocess(image)]) for predictor in predictors]
    for other in maps[1:]:
        assert torch.equal(maps[0].heatmaps, other.heatmaps)
        assert torch.equal(maps[0].tags, other.tags)


@pytest.mark.parametrize("convention", ["macs", "hrnet"])
def test_the_branch_costs_nothing_at_test(convention):
    counts = [
        count_operations(small(name=name).train(), (64, 64), convention)
        for name in ("swahr", "higher_hrnet")
    ]
    assert counts[0] == counts[1] > 0


# Its first steps --------------------------------------------------------------------------------


def make_batch(count=3, finest=2):
    generator = torch.Generator().manual_seed(5)
    joints = SIDE * torch.rand(count, 4, KINDS, 3, generator=generator)
    image = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    mask = torch.rand(count, SIDE // finest, SIDE // finest, generator=generator) > 0.2
    return {
        "image": image,
        "joints": joints,
        "boxes": 100 * torch.rand(count, 4, 4, generator=generator),
        "mask": mask.to(torch.uint8),
        "flipped": torch.arange(count) % 2 == 0,
    }


def first_step(overrides):
    """A network as `tools/train.py` begins it: before, its outputs for a batch, and after a step.

    Returns initial state dict, losses, slopes and final state dict, under HigherHRNet's names.
    """
    config = configure(*(text for pair in overrides.items() for text in pair), name="higher_hrnet")
    torch.manual_seed(config.TRAIN.SEED)
    model = build_model(config)
    step, optimizer = build_train_step(config, model), build_optimizer(config, model)
    before = copy.deepcopy(model.state_dict())
    losses = step(make_batch(finest=output_strides(config)[-1]))
    losses["loss"].mean().backward()
    slopes = {name: weight.grad for name, weight in model.named_parameters()}
    optimizer.step()
    found = (before, losses, slopes, model.state_dict())
    return [{name.removeprefix("network."): part[name] for name in part} for part in found]


VARIANTS = [
    {},
    {"LOSS.WAHR": "true"},
    {"LOSS.WAHR": "true", "LOSS.DETACH_WEIGHT": "true"},
    {"TRAIN.PRECISION": "bf16"},
    {"MODEL.NUM_DECONVS": "2", "MODEL.INIT": "published"},
    {"LOSS.HEATMAP": "[0.3, 0.7]", "LOSS.TAGS.PUSH": "0.37", "LOSS.LAMBDA": "13"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_first_step_is_that_of_a_network_without_scales_bit_for_bit(variant):
    plain = {key: value for key, value in variant.items() if key != "LOSS.LAMBDA"}
    without, adaptive = first_step(plain), first_step({**variant, **WITH_SAHR})
    for result, expected in zip(adaptive, without):
        assert result.keys() > expected.keys()
        assert [name for name in expected if not torch.equal(result[name], expected[name])] == []
    before, losses, slopes, after = without
    assert losses["loss"].min() > 0
    assert max(slope.abs().max() for slope in slopes.values()) > 0
    assert any(not torch.equal(before[name], after[name]) for name in slopes)


@pytest.mark.parametrize("wahr", ["false", "true"])
def test_only_the_last_layer_of_a_branch_learns_at_first(wahr):
    """It is 0, so nothing comes to what is before it."""
    _, losses, slopes, _ = first_step({"LOSS.WAHR": wahr, **WITH_SAHR})
    assert not losses["scale/1_4"].any()
    assert not losses["scale/1_2"].any()
    for level in range(2):
        for name in ("weight", "bias"):
            assert (slopes[f"scale_branches.{level}.3.{name}"] != 0).any()
            assert not slopes[f"scale_branches.{level}.0.{name}"].any()


def learn(model, config, count, rate=1e-2):
    """Mean alpha^2 on the drawn people before each of `count` steps."""
    step = build_train_step(config, model.train())
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    means = []
    for _ in range(count):
        losses = step(make_batch())
        means.append(
            float(losses["scale/1_4"].detach().mean() + losses["scale/1_2"].detach().mean())
        )
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
    return means


def test_scales_do_not_stay_0():
    model, config = small(), configure("LOSS.SAHR", "true", "LOSS.WAHR", "true")
    means = learn(model, config, 4)
    assert means[0] == 0
    assert min(means[1:]) > 0
    pixels = normalize(make_batch()["image"])
    assert all(output.scales.abs().max() > 0 for output in model(pixels))
    assert all(output.scales.isfinite().all() for output in model(pixels))


def test_a_large_lambda_brings_scales_back_to_0():
    model = small()
    torch.manual_seed(2)
    for branch in model.scale_branches:
        nn.init.normal_(branch[3].weight, std=0.1)
    free, held = (
        learn(copy.deepcopy(model), configure("LOSS.SAHR", "true", "LOSS.LAMBDA", weight), 30)
        for weight in ("0", "1000")
    )
    assert free[0] == held[0] > 0.01
    assert held[-1] < 0.02 * held[0]
    assert free[-1] > 0.1 * free[0]


def test_an_endless_lambda_leaves_the_branch_as_it_is():
    overrides, endless = {"LOSS.WAHR": "true"}, {**WITH_SAHR, "LOSS.LAMBDA": ".inf"}
    without, endless = first_step(overrides), first_step({**overrides, **endless})
    assert all(torch.equal(endless[1][name], without[1][name]) for name in without[1])
    assert "scale/1_4" not in endless[1]
    branches = [name for name in endless[2] if name.startswith("scale_branches.")]
    assert branches
    assert [endless[2][name] for name in branches] == [None] * len(branches)
    assert all(torch.equal(endless[0][name], endless[3][name]) for name in branches)


@pytest.mark.parametrize("loss, learns", [
    ("LOSS.SAHR true", True),
    ("LOSS.SAHR false", False),
    ("LOSS.SAHR true LOSS.LAMBDA .inf", False),
    ("LOSS.SAHR false LOSS.WAHR true", False),
])  # fmt: skip
def test_what_no_loss_reads_is_frozen_and_all_else_has_a_gradient(loss, learns):
    """Processes that learn together wait for the gradient of everything that is not frozen."""
    config = configure(*loss.split())
    model = build_model(config).train()
    build_train_step(config, model)(make_batch())["loss"].mean().backward()
    branches = dict(model.scale_branches.named_parameters())
    assert all(weight.requires_grad == learns for weight in branches.values())
    assert all(weight.requires_grad for weight in model.network.parameters())
    for weight in model.parameters():
        assert (weight.grad is not None) == weight.requires_grad


def test_training_in_evaluation_mode_is_refused():
    config = configure("LOSS.SAHR", "true")
    step = build_train_step(config, small())
    step.eval()
    with pytest.raises(ValueError, match="training mode"):
        step(make_batch())
