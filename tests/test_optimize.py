"""However a network is prepared for inference, its outputs are the same but for rounding."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from hrpose.builders import load_predictor
from hrpose.builders.bottomup import build_predictor
from hrpose.builders.common import build_inference_model, build_model
from hrpose.config import load_config
from hrpose.models import optimize
from hrpose.models.blocks import kaiming_init
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.optimize import Compiled, HalfPrecision

CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = (
    "MODEL.WIDTH 8 MODEL.BACKBONE.STEM 8 MODEL.BACKBONE.MODULES [1,1,1] MODEL.BACKBONE.BLOCKS 1 "
    "MODEL.BACKBONE.BOTTLENECKS 1 MODEL.NUM_BASIC_BLOCKS 1 DATASET.INPUT_SIZE 64 DEVICE cpu"
)
BOUNDS = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.006}
"""Largest difference, of an output's range: some rounding steps of each kind of number."""


def load(*overrides, name="w32_512"):
    return load_config(CONFIGS / f"{name}.yaml", [*SIZES.split(), *overrides])


@functools.cache
def network(name="w32_512"):
    torch.manual_seed(0)
    return settled(build_model(load(name=name)))


@functools.cache
def shallow():
    """Every kind of layer, few of each: compiling takes a second or more for every one of them."""
    torch.manual_seed(0)
    backbone = HRNet(8, modules=(0, 0, 1), blocks=0, stem=8, bottlenecks=1)
    return settled(HigherHRNet(backbone, joints=5, dilations=(1,)))


def settled(model):
    """As after a training: statistics that fit, and outputs that differ from cell to cell."""
    kaiming_init(model)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a plain mean
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.weight, std=0.1)
    with torch.no_grad():
        model.train()(images(count=4))
    return model.eval()


def images(height=64, width=96, count=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def as_options(precision="fp32", compiled=False):
    return ["TEST.PRECISION", precision, "TEST.COMPILE", str(compiled)]


@torch.no_grad()
def distance(outputs, expected):
    """The largest difference of any output, as a share of that output's range."""
    away = []
    for output, other in zip(outputs, expected, strict=True):
        assert output.stride == other.stride and (output.tags is None) == (other.tags is None)
        for maps, true in ((output.heatmaps, other.heatmaps), (output.tags, other.tags)):
            if true is not None:
                assert maps.dtype == torch.float32 and maps.shape == true.shape
                away.append(((maps - true).abs().max() / (true.max() - true.min())).item())
    return max(away)


# All outputs are equal ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w32_512", "w32_512_swahr"])
@pytest.mark.parametrize("precision", BOUNDS)
@torch.inference_mode()
def test_every_precision_has_the_same_outputs(name, precision, record_difference):
    model = network(name)
    optimized = build_inference_model(load(*as_options(precision), name=name), model)
    away = max(
        distance(optimized(pixels), model(pixels))
        for pixels in (images(), images(128, 64, count=2))
    )
    record_difference(f"forward at test, {precision}: of the range", away)
    assert 0 < away <= BOUNDS[precision]


SINGLE, SEVERAL = (
    [(320, 320, 1), (320, 384, 1), (448, 320, 1)],
    [(320, 320, 2), (320, 384, 3), (448, 320, 2)],
)
"""Heights and widths of images, and how many at once."""


def programs_of(optimized, sizes, check):
    """How many programs images of these sizes take; `check` sees each with its outputs."""
    torch._dynamo.utils.counters.clear()
    for height, width, count in sizes:
        pixels = images(height, width, count)
        check(pixels, optimized(pixels))
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "sizes"), [("fp32", SEVERAL), ("bf16", SINGLE)])
@torch.inference_mode()
def test_a_compiled_network_has_the_same_outputs_at_every_size(precision, sizes, record_difference):
    model = shallow()
    optimized = build_inference_model(load(*as_options(precision, compiled=True)), model)

    def check(pixels, outputs):
        away = distance(outputs, model(pixels))
        record_difference(f"forward at test, {precision}, compiled: of the range", away)
        assert away <= BOUNDS[precision]

    assert programs_of(optimized, sizes, check) == 1


@torch.inference_mode()
def test_single_images_have_one_program_and_several_another(monkeypatch):
    """Traced as to be compiled, then run as they are."""
    traced = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, options: traced(call, backend="eager"))
    optimized = build_inference_model(load(*as_options(compiled=True)), shallow())

    def check(pixels, outputs):
        assert distance(outputs, shallow()(pixels)) <= BOUNDS["fp32"]

    assert programs_of(optimized, SINGLE + SEVERAL, check) == 2


# What a network must be -------------------------------------------------------------------------


def test_by_default_it_is_fused_and_channels_last():
    optimized = build_inference_model(load(), network())
    assert not [layer for layer in optimized.modules() if isinstance(layer, nn.BatchNorm2d)]
    weights = [weight for weight in optimized.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert optimized(images())[0].heatmaps.stride(1) == 1


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_original_stays_as_it_was(precision):
    model = copy.deepcopy(network()).train()
    before = copy.deepcopy(model.state_dict())
    optimized = build_inference_model(load(*as_options(precision)), model)
    assert model.training and not optimized.training
    assert next(optimized.parameters()).device == next(model.parameters()).device
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype and torch.equal(value, before[name]), name
        assert value.stride() == before[name].stride(), name


def test_variances_too_large_for_float16_do_no_harm():
    model = copy.deepcopy(network())
    norm = model.backbone.stem[0][1]
    norm.running_var.fill_(1e6)
    nn.init.constant_(norm.weight, 1e3)
    unfused = HalfPrecision(copy.deepcopy(model), torch.float16)
    with torch.inference_mode():
        expected = model(images())
        for optimized in (build_inference_model(load(*as_options("fp16")), model), unfused):
            assert distance(optimized(images()), expected) < BOUNDS["fp16"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_tags_are_finer_than_the_steps_of_half_precision(precision):
    """Grouping compares them with a threshold, and peaks are cells that no other equals."""
    model = build_inference_model(load(*as_options(precision)), network())
    with torch.inference_mode():
        outputs = model(images(128, 128))
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for maps in [outputs[0].tags, *(output.heatmaps for output in outputs)]:
        assert maps.dtype == torch.float32
        assert (maps != maps.to(half)).float().mean() > 0.9


def test_an_export_gets_the_layers_themselves():
    model = Compiled(shallow(), {})
    with torch.no_grad():
        program = torch.export.export(model, (images(),), strict=True)
        assert distance(program.module()(images()), model.network(images())) < 1e-6
    assert "convolution" in str(program.graph) or "conv2d" in str(program.graph)


def test_a_predictor_computes_as_its_options_require(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    options = ["TEST.MODEL_FILE", str(tmp_path / "weights.pth")]
    plain = build_predictor(load(*options), model)
    half = load_predictor(load(*options, *as_options("bf16")))
    assert isinstance(half.model, HalfPrecision) and not half.model.training
    image = images(64, 64)[0].mul(60).add(120).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    optimized, expected = (each.forward([each.preprocess(image)]) for each in (half, plain))
    spread = expected.heatmaps.max() - expected.heatmaps.min()
    assert optimized.heatmaps.dtype == torch.float32
    assert 0 < (optimized.heatmaps - expected.heatmaps).abs().max() / spread < BOUNDS["bf16"]


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [("TEST.PRECISION", "int8", "one of fp32, bf16, fp16"), ("TEST.COMPILE", "yes please", "true")],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_does(key, value, wanted):
    with pytest.raises(ValueError, match=f"{key}.*{wanted}"):
        load(key, value)


def test_a_missing_compiler_is_named_with_its_cure(monkeypatch):
    monkeypatch.setenv("CXX", "no_such_compiler")
    with pytest.raises(ValueError, match="no no_such_compiler; apt install g.*TEST.COMPILE false"):
        build_inference_model(load("TEST.COMPILE", "true"), network())


def test_missing_headers_are_named_with_their_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(optimize.shutil, "which", lambda name: name)
    monkeypatch.setattr(optimize.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="python3-dev"):
        build_inference_model(load("TEST.COMPILE", "true"), network())
