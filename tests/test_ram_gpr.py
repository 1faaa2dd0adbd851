"""RAM and GPR: the paper's equations in loops, and HRNet as what RAM begins with."""

import copy
import itertools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from hrpose.builders.common import build_model, require_same_network
from hrpose.config import load_config
from hrpose.models.blocks import (
    Upsample,
    enable_activation_checkpointing,
    kaiming_init,
    normal_init,
)
from hrpose.models.gpr import GPR, PyramidStep, equation_step, reducing_step
from hrpose.models.hrnet import HRNet, SumFusion
from hrpose.models.optimize import prepare_for_inference
from hrpose.models.pose_hrnet import PoseHRNet
from hrpose.models.ram import RAM, HiddenScores, linear_scores
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    BEYOND_POSE_HRNET,
    WeightsMismatchError,
    load_weights,
    to_published,
)
from reference.ram_gpr import looped_gpr, looped_ram

CONFIGS = Path(__file__).parents[1] / "configs"
LINEAR = partial(RAM, scores=linear_scores)
WIDTHS = [4, 8, 16, 32]
STEPS = {"reduce": reducing_step, "eq_only": equation_step}
both_scores = pytest.mark.parametrize("scores", [HiddenScores, linear_scores])
both_modes = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


def network(fuse=SumFusion, last_fuse=SumFusion, step=None, init=kaiming_init, seed=0):
    torch.manual_seed(seed)
    branches = range(4) if step else (0,)
    backbone = HRNet(4, (1, 2, 2), 1, 8, 1, branches=branches, fuse=fuse, last_fuse=last_fuse)
    model = PoseHRNet(backbone, 5, GPR(WIDTHS, step) if step else None)
    init(model)
    return model


def images(count=2, height=64, width=64):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def branches(side=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    sizes = [(side << (3 - i), 2 * side << (3 - i)) for i in range(4)]
    return [
        torch.randn(2, width, *size, generator=generator, dtype=dtype)
        for width, size in zip(WIDTHS, sizes)
    ]


def randomised(module, seed=0):
    """Every parameter and statistic at random, so that no two layers are alike."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5) if "running" in name else nn.init.normal_(tensor)
    return module


def assert_same_function(found, expected, inputs, module, twins=None):
    """Values, and the gradients of a random sum of them.

    twins: of the module's parameters, by their names, in `expected`; None: the same tensors
    """
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3)).to(found)
    # A softmax does not see what all scores have in common: the bias of a linear layer.
    own = {name: p for name, p in module.named_parameters() if name != "scores.bias"}
    others = [(twins or own)[name] for name in own]
    ours = torch.autograd.grad((found * weights).sum(), [*inputs, *own.values()])
    theirs = torch.autograd.grad((expected * weights).sum(), [*inputs, *others])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)
    assert min(slope.abs().max() for slope in ours) > 0


# RAM ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [2, 3, 4])
@both_scores
def test_ram_is_equations_1_to_3(inputs, scores):
    ram = randomised(RAM(3, inputs, scores).double())
    xs = torch.randn(inputs, 2, 3, 2, 3, dtype=torch.float64).requires_grad_().unbind()
    if scores is HiddenScores:
        layers = [[(s[0].weight, s[0].bias), (s[2].weight, s[2].bias)] for s in ram.scores.layers]
    else:
        layers = [[(ram.scores.weight, ram.scores.bias)]] * inputs
    expected = looped_ram(xs, layers, ram.omega, ram.beta)
    assert_same_function(ram(iter(xs)), expected, xs, ram)


@pytest.mark.parametrize("inputs", [2, 3, 4])
@both_scores
def test_weights_begin_at_exactly_1_and_always_sum_to_the_number_of_branches(inputs, scores):
    """A third three times is 1 in float32, as a quarter four times is."""
    ram = RAM(8, inputs, scores)
    xs = [torch.randn(5, 8, 4, 6) for _ in range(inputs)]
    assert torch.equal(ram.weigh(xs), torch.ones(5, inputs))
    for last in (layer for layer in ram.scores.modules() if isinstance(layer, nn.Linear)):
        nn.init.normal_(last.weight)
    weights = ram.weigh(xs)
    assert weights.std() > 0.05 and (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.full((5,), float(inputs)))


def test_one_image_is_weighed_by_itself():
    ram, xs = randomised(RAM(4, 3)), [torch.randn(6, 4, 3, 5) for _ in range(3)]
    together = ram(xs)
    for i in range(6):
        torch.testing.assert_close(ram([x[i : i + 1] for x in xs])[0], together[i])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_keep_the_precision_of_the_network(dtype):
    """A float32 weight would promote all that follows; the bilinear interpolation as well."""
    model, dtypes = network(RAM, RAM, reducing_step), []
    for layer in model.modules():
        if isinstance(layer, RAM | Upsample | PyramidStep):
            layer.register_forward_hook(lambda *given: dtypes.append(given[2].dtype))
    with torch.autocast("cpu", dtype):
        (output,) = model(images())
    assert len(dtypes) > 20 and {*dtypes, output.heatmaps.dtype} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@both_modes
def test_a_network_in_half_precision_finds_about_the_same(dtype, step):
    model = network(RAM, step=step).eval()
    for layer in model.modules():
        if isinstance(layer, RAM):
            nn.init.normal_(layer.beta, std=0.1)
    with torch.no_grad():
        (plain,), (half,) = model(images()), prepare_for_inference(model, dtype)(images())
    assert half.heatmaps.dtype == torch.float32
    assert (half.heatmaps - plain.heatmaps).abs().max() < 0.05 * plain.heatmaps.abs().max()


# A start from HRNet -------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["skip_last", "all"])
@pytest.mark.parametrize("fuse", [RAM, LINEAR], ids=["hidden", "linear"])
@pytest.mark.parametrize("init", [normal_init, kaiming_init])
@pytest.mark.parametrize("training", [True, False])
def test_ram_begins_as_hrnet_bit_for_bit(last, fuse, init, training):
    """Outputs, statistics of norms, and the gradients of all weights that HRNet has."""
    plain, model = network(init=init), network(fuse, fuse if last else SumFusion, init=init, seed=1)
    load_weights(model, plain.state_dict(), ["backbone.*.fusions.*"])
    for each in (plain, model):
        each.train(training)(images())[0].heatmaps.square().sum().backward()
    (expected,), (found,) = plain(images()), model(images())
    assert torch.equal(found.heatmaps, expected.heatmaps) and expected.heatmaps.std() > 0
    state, gradients = model.state_dict(), dict(model.named_parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    for name, weight in plain.named_parameters():
        assert torch.equal(gradients[name].grad, weight.grad), name


def new_tensors(model):
    return {name: p for name, p in model.named_parameters() if "fusions" in name or "neck" in name}


@pytest.mark.parametrize("fuse", [RAM, LINEAR], ids=["hidden", "linear"])
@both_modes
def test_hidden_layers_learn_from_the_second_step_on(fuse, step):
    """The last layer of E is 0 at first, so that nothing reaches the one before."""
    model = network(fuse, step=step)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before, slopes = {name: p.clone() for name, p in new_tensors(model).items()}, []
    for _ in range(2):
        optimizer.zero_grad()
        (model(images())[0].heatmaps - 1).square().mean().backward()
        slopes.append({n: p.grad.abs().max().item() for n, p in new_tensors(model).items()})
        optimizer.step()
    shared = {n for n in before if n.endswith("scores.bias")}  # a softmax does not see it
    hidden = {n for n in before if ".layers." in n and ".0." in n.partition(".layers.")[2]}
    assert {n for n, slope in slopes[0].items() if slope == 0} - shared == hidden
    assert {n for n, slope in slopes[1].items() if slope == 0} <= shared
    assert bool(hidden) == (fuse is RAM)
    moved = {n for n, p in new_tensors(model).items() if not torch.equal(p, before[n])}
    assert moved | shared == set(before) and len(before) > 30


# GPR ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@both_modes
def test_gpr_is_equations_4_and_5_with_the_interpolation_first(training, step):
    """Ours interpolates after the convolution: statistics of the batch are the same, too."""
    gpr = randomised(GPR(WIDTHS, step).double()).train(training)
    xs = [x[..., :width].requires_grad_() for x, width in zip(branches(1), (8, 4, 2, 1))]
    state = {**dict(gpr.named_buffers()), **dict(gpr.named_parameters())}
    state = {name: tensor.clone() for name, tensor in state.items()}  # before they are updated
    expected, found = looped_gpr(xs, state, training), gpr(xs)
    assert found.shape == expected.shape == (2, gpr.width, 8, 8)
    assert_same_function(found, expected, xs, gpr, state)


def test_both_orders_of_int_are_equal_and_in_training_only_with_the_norm_last():
    torch.manual_seed(0)
    (conv, up, norm), x = reducing_step(6, 4).double().interpolate, branches()[3][:, :6]
    ours, printed, norm_first = (
        nn.Sequential(*map(copy.deepcopy, layers))
        for layers in ((conv, up, norm), (up, conv, norm), (conv, norm, up))
    )
    for training in (False, True):
        values = [order.train(training)(x) for order in (ours, printed, norm_first)]
        torch.testing.assert_close(values[0], values[1])
        assert torch.allclose(values[0], values[2]) != training
    torch.testing.assert_close(ours[2].running_var, printed[2].running_var)
    assert not torch.allclose(ours[2].running_var, norm_first[1].running_var)


@both_modes
def test_every_branch_and_every_weight_reaches_the_heatmaps(step):
    model = network(step=step)
    (output,) = model(images(height=64, width=96))
    assert output.heatmaps.shape == (2, 5, 16, 24) and output.stride == 4
    output.heatmaps.square().sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.any()] == []


# The rest of the house ----------------------------------------------------------------------------


def test_activations_can_be_recomputed():
    plain = network(RAM, step=reducing_step)
    other = copy.deepcopy(plain)
    enable_activation_checkpointing(other)
    results = []
    for model in (plain, other):
        model(images())[0].heatmaps.square().sum().backward()
        results.append([p.grad for p in model.parameters()] + list(model.state_dict().values()))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("module", "sources"),
    [(RAM(4, 3), [0, 0, 0]), (LINEAR(4, 2), [0, 0]),
     *((GPR(WIDTHS, step), range(4)) for step in STEPS.values())],
    ids=["hidden", "linear", *STEPS],
)  # fmt: skip
def test_each_part_is_one_graph_for_batches_of_all_sizes(module, sources):
    randomised(module).eval()
    xs = [branches(1, torch.float32)[i] for i in sources]
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ([{0: batch}] * len(xs),)
    program = torch.export.export(module, (xs,), dynamic_shapes=shapes).module()
    for given in (xs, [torch.cat([x, x.flip(0)[:1]]) for x in xs]):
        torch.testing.assert_close(program(given), module(given))


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [RAM, LINEAR], ids=["hidden", "linear"])
@both_modes
def test_published_names_round_trip(fuse, step):
    theirs, ours = network(fuse, step=step), network(fuse, step=step, seed=1)
    published = to_published(theirs.state_dict())
    assert not any(name.startswith("backbone.") for name in published)
    assert "stage2.0.fusions.0.omega" in published and "final_layer.weight" in published
    report = load_weights(ours, published)
    assert report.missing == report.unexpected == () and not report.mismatched
    state = ours.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())


def imagenet(branches=range(4)):
    """A classifier's file: all branches of the last module, and a head of its own."""
    torch.manual_seed(2)
    model = PoseHRNet(HRNet(4, (1, 2, 2), 1, 8, 1, branches=branches), 5)
    state = {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}
    return {**to_published(state), "incre_modules.0.0.conv1.weight": torch.zeros(2)}


def test_imagenet_files_leave_only_the_new_tensors_new():
    """The four outputs of the last module are in them; a file without is refused."""
    model = network(RAM, step=reducing_step)
    report = load_weights(model, imagenet(), BEYOND_BACKBONE)
    new = {*new_tensors(model), "head.weight", "head.bias"}
    missing = {n for n in report.missing if "running" not in n}
    assert missing == new and report.kind == "imagenet"
    assert report.leftovers == ("incre_modules.0.0.conv1.weight",)
    assert "not in the source: " in str(report)
    coarse = "backbone.stage4.exchanges.1.routes.3.0.0.0.weight"
    assert coarse in report.loaded
    with pytest.raises(
        WeightsMismatchError, match=r"routes\.1(.|\n)*ALLOW_MISSING.*\.\[123\]"
    ) as no:
        load_weights(model, imagenet(branches=(0,)), BEYOND_BACKBONE)
    assert coarse in no.value.report.missing


def test_pose_files_of_hrnet_are_a_start_too():
    """Their last module has one output; what the others lack stays new."""
    model, pose = network(RAM, step=reducing_step), network(seed=1)
    report = load_weights(model, to_published(pose.state_dict()), BEYOND_POSE_HRNET)
    coarse = [f"backbone.stage4.exchanges.1.routes.{i}." for i in (1, 2, 3)]
    routes = {n for n, _ in model.named_parameters() if n.startswith(tuple(coarse))}
    missing = {n for n in report.missing if "running" not in n}
    assert missing == {*new_tensors(model), *routes} and routes
    assert torch.equal(model.head.weight, pose.head.weight) and report.kind == "hrnet"
    # The head sees more channels where only the equations are built.
    report = load_weights(network(step=equation_step), pose.state_dict(), BEYOND_POSE_HRNET)
    assert list(report.mismatched) == ["head.weight"]


# Options ------------------------------------------------------------------------------------------

SMALL = [
    *("MODEL.WIDTH", "4", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BOTTLENECKS", "1"),
    *("MODEL.BACKBONE.BLOCKS", "1", "MODEL.BACKBONE.MODULES", "[1,1,2]"),
]


def built(*overrides, file="topdown/hrnet_w32_256x192.yaml"):
    return build_model(load_config(CONFIGS / file, [*SMALL, *overrides]))


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("skip_last", [True, False])
@pytest.mark.parametrize("file", ["topdown/hrnet_w32_256x192.yaml", "w32_512.yaml"])
def test_options_choose_the_fusion_in_both_families(hidden, skip_last, file):
    """RAM is a fusion of HRNet, whatever reads its branches."""
    ram = ["MODEL.RAM.ENABLED", "true", "MODEL.RAM.HIDDEN", str(hidden)]
    model = built(*ram, "MODEL.RAM.SKIP_LAST", str(skip_last), file=file)
    stage4 = [module.fusions for module in model.backbone.stage4.exchanges]
    kinds = [{type(fusion) for fusion in fusions} for fusions in stage4]
    assert kinds == [{RAM}, {SumFusion if skip_last else RAM}]
    scores = {type(f.scores) for f in model.modules() if isinstance(f, RAM)}
    assert scores == {HiddenScores if hidden else nn.Linear}
    for output in model(images()):
        assert output.heatmaps.isfinite().all()


@pytest.mark.parametrize(("mode", "channels"), [("reduce", 4), ("eq_only", 12)])
def test_options_choose_the_neck(mode, channels):
    model = built("MODEL.GPR.ENABLED", "true", "MODEL.GPR.MODE", mode)
    assert isinstance(model.neck, GPR) and model.head.in_channels == channels
    assert len(model.backbone.stage4.exchanges[-1].routes) == 4
    assert not list(built().neck.parameters())
    assert len(built().backbone.stage4.exchanges[-1].routes) == 1


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("w32_512.yaml", "MODEL.GPR.ENABLED true", "MODEL.NAME higher_hrnet; set MODEL.NAME pose"),
        ("w32_512.yaml", "MODEL.RAM.HIDDEN false", "beside MODEL.RAM.ENABLED false"),
        ("topdown/small.yaml", "MODEL.RAM.SKIP_LAST false", "beside MODEL.RAM.ENABLED false"),
        ("topdown/small.yaml", "MODEL.GPR.MODE eq_only", "beside MODEL.GPR.ENABLED false"),
        ("topdown/small.yaml", "MODEL.GPR.ENABLED true MODEL.GPR.MODE sum", "reduce, eq_only"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(file, options, message):
    with pytest.raises(ValueError, match=message):
        load_config(CONFIGS / file, options.split())


def test_weights_name_the_network_that_they_are_of():
    """RAM and GPR would not fit; their parts are named before names of tensors are."""
    on = ["MODEL.RAM.ENABLED", "true", "MODEL.GPR.ENABLED", "true"]
    plain, full = (load_config(CONFIGS / "topdown/small.yaml", each) for each in ([], on))
    require_same_network(full, {"config": full.dump()}, "x.pth")
    for ours, theirs in itertools.permutations([plain, full]):
        with pytest.raises(ValueError, match=r"MODEL\.RAM\.ENABLED.*MODEL\.GPR\.ENABLED"):
            require_same_network(ours, {"config": theirs.dump()}, "x.pth")
