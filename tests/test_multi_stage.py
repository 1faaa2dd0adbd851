"""Multi-Stage HRNet: the cascade in loops, its counts, what reaches what, and its weights."""

import copy
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from commands import run
from hrpose.builders import build_loss
from hrpose.builders.common import build_model, require_same_network
from hrpose.builders.topdown import build_predictor, draw_targets, output_strides
from hrpose.config import load_config
from hrpose.models.blocks import enable_activation_checkpointing, kaiming_init
from hrpose.models.complexity import OPERATION_UNITS, count_operations, count_parameters
from hrpose.models.hrnet import HRNet
from hrpose.models.multi_stage import CASCADES, MultiStageHRNet, run_modules
from hrpose.models.optimize import prepare_for_inference
from hrpose.models.pose_hrnet import PoseHRNet
from hrpose.models.ram import RAM
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    BEYOND_POSE_HRNET,
    WeightsMismatchError,
    load_weights,
    to_published,
)
from hrpose.programs import visual_reports
from hrpose.programs.exporting.formats import FORMATS
from hrpose.programs.exporting.graphs import NetworkGraph
from hrpose.structures import HeadOutput
from reference.multi_stage import looped_cascade

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "topdown" / "multi_stage_w48x2_512x384.yaml"
MODULES = (1, 2, 2)

# Of every preset, by hand: modules of a later network, and transitions that it has of its own.
LAYOUTS = {
    "ms_a": ((1, 2, 2), (2, 3)),
    "ms_a4": ((1, 2, 2), (2, 3)),
    "ms_b": ((1, 1, 2), (2,)),
    "ms_b0": ((1, 1, 2), ()),
    "ms_b_conv": ((1, 1, 2), ()),
    "ms_c": ((0, 2, 2), (1, 2, 3)),
}
each_preset = pytest.mark.parametrize("preset", CASCADES)


def network(preset="ms_a", widths=(4,), links=True, offsets=False, seed=0, **backbone):
    torch.manual_seed(seed)
    layout = CASCADES[preset]
    first = HRNet(4, MODULES, 1, 8, 1, branches=layout.branches, **backbone)
    model = MultiStageHRNet(first, 3, widths, layout, links, offsets)
    kaiming_init(model)
    for head in model.heads:  # as large as what they read
        nn.init.normal_(head.weight)
    return model


def images(count=2, height=64, width=96):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# The cascade --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "widths", "links", "training"),
    [
        *((preset, (4,), True, True) for preset in CASCADES),
        ("ms_a", (4,), False, True),
        ("ms_a", (4,), True, False),
        ("ms_a", (6,), True, True),
        ("ms_b", (6,), False, True),
        ("ms_c", (2, 6), True, True),
        ("ms_a4", (4, 4), True, False),
        ("ms_a4", (4, 6), True, True),
        ("ms_b0", (4, 4), True, True),
        ("ms_b_conv", (4, 3, 3), True, True),
    ],
)
def test_the_cascade_is_its_loops(preset, widths, links, training):
    """All outputs, and the gradients of a random sum of them."""
    model = network(preset, widths, links).double().train(training)
    x = images(height=32, width=64).double().requires_grad_()
    state = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    state = {name: tensor.clone() for name, tensor in state.items()}  # before they are updated
    later, transitions = LAYOUTS[preset]
    expected = looped_cascade(
        x, state, [MODULES, *[later] * len(widths)], transitions, links, training
    )
    outputs = model(x)
    assert [output.name for output in outputs] == [f"stage{n + 1}" for n in range(len(widths) + 1)]
    assert {output.stride for output in outputs} == {4}
    found = [output.heatmaps for output in outputs]
    torch.testing.assert_close(found, expected)
    names = [name for name, _ in model.named_parameters()]
    weights = [torch.randn_like(maps) for maps in found]
    totals = [sum((w * m).sum() for w, m in zip(weights, maps)) for maps in (found, expected)]
    ours = torch.autograd.grad(totals[0], [x, *model.parameters()])
    theirs = torch.autograd.grad(totals[1], [x, *(state[name] for name in names)])
    for name, one, other in zip(["images", *names], ours, theirs, strict=True):
        scale = other.abs().max().item() + 1e-6
        torch.testing.assert_close(one, other, atol=1e-9 * scale, rtol=1e-6, msg=name)
        assert other.any(), name


def test_without_links_the_second_network_is_a_lone_one_that_is_fed_the_boundary_maps():
    model, lone = network(links=False), HRNet(4, MODULES, 1, 8, 1)
    lone.load_state_dict(model.later[0].state_dict(), strict=False)
    second_last = []
    model.backbone.stage4.exchanges[-2].register_forward_hook(
        lambda *given: second_last.append(given[2])
    )
    finest = copy.deepcopy(model.backbone)(images())[0]
    outputs = model(images())
    fed = lone.stage2.exchanges([finest, second_last[0][1]])
    (expected,) = lone.stage4(lone.stage3(fed))
    assert torch.equal(outputs[1].heatmaps, model.heads[1](expected)) and expected.any()
    assert torch.equal(outputs[0].heatmaps, model.heads[0](finest))
    assert not torch.equal(network()(images())[1].heatmaps, outputs[1].heatmaps)


@each_preset
@pytest.mark.parametrize("links", [True, False])
def test_links_are_the_only_way_beyond_the_boundary(preset, links):
    """Which maps of the first network the second one reads: their gradients, of its loss alone."""
    model = network(preset, links=links)
    with torch.no_grad():
        feature = model.backbone.begin(images())
        before = run_modules(model.backbone, [feature])
    leaves = [[[x.requires_grad_() for x in maps] for maps in stage] for stage in before]
    feature.requires_grad_()
    flat = {
        (stage + 2, m, i): x
        for stage, modules in enumerate(leaves)
        for m, maps in enumerate(modules)
        for i, x in enumerate(maps)
    }
    loss = model.later[0](feature, leaves)[-1][-1][0].square().sum()
    slopes = torch.autograd.grad(loss, [feature, *flat.values()], allow_unused=True)
    reached = {
        key for key, slope in zip(["feature", *flat], slopes) if slope is not None and slope.any()
    }
    latest = {i: (stage, m, i) for stage, m, i in flat}
    taken = {"ms_a": 2, "ms_a4": 2, "ms_b": 4, "ms_b0": 4, "ms_b_conv": 4, "ms_c": 0}[preset]
    boundary = {latest[i] for i in range(taken)} - ({latest[2]} if preset == "ms_b" else set())
    boundary |= {"feature"} if preset == "ms_c" else set()
    counts, _ = LAYOUTS[preset]
    linked = {key for key in flat if key[1] < counts[key[0] - 2]}
    assert reached == boundary | (linked if links else set())


def test_without_links_the_second_loss_does_not_reach_the_first_exchanges():
    """ms_c, whose boundary stands before all of them; with links, all but what ms_c leaves out."""
    for links in (False, True):
        model = network("ms_c", links=links)
        model(images())[1].heatmaps.square().sum().backward()
        slopes = {name: p.grad for name, p in model.named_parameters() if "heads.0." not in name}
        exchanges = {name for name in slopes if re.match(r"backbone\.stage[234]", name)}
        reached = {name for name, slope in slopes.items() if slope is not None and slope.any()}
        assert reached == (set(slopes) if links else set(slopes) - exchanges) and exchanges


def test_links_of_the_same_width_have_no_weights_and_others_are_convolved():
    names = {name.split(".")[2] for name in network(widths=(4, 4)).state_dict() if "later." in name}
    assert names == {"stage2", "stage3", "stage4"}
    state = network(widths=(6,)).state_dict()
    links = {name: each for name, each in state.items() if "links" in name and each.dim() == 4}
    # Two, three and four branches of one, two and one module, and one of the last.
    assert len(links) == 2 + 3 + 3 + 4 + 1
    assert {each.shape[2:] for each in links.values()} == {(1, 1)}
    boundary = [
        each.shape[:2] for name, each in state.items() if "boundary" in name and each.dim() == 4
    ]
    assert boundary == [(6, 4), (12, 8)]


def test_the_coarsest_map_is_asked_for_where_there_is_one():
    first = HRNet(4, (1, 1, 1), 1, 8, 1)
    with pytest.raises(ValueError, match="give stage 4 two modules.*PRESET ms_a"):
        MultiStageHRNet(first, 3, [4], CASCADES["ms_b"])
    whole = HRNet(4, (1, 1, 1), 1, 8, 1, branches=range(4))
    for backbone, preset in ((first, "ms_a"), (first, "ms_c"), (whole, "ms_b")):
        outputs = MultiStageHRNet(copy.deepcopy(backbone), 3, [4], CASCADES[preset])(images())
        assert outputs[-1].heatmaps.shape == (2, 3, 16, 24)


def test_offsets_are_the_last_two_thirds_of_a_head():
    model = network(offsets=True).eval()
    plain = network().eval()
    load_weights(plain, {n: t[:3] if "heads" in n else t for n, t in model.state_dict().items()})
    for full, part in zip(model(images()), plain(images())):
        assert full.offsets.shape == (2, 6, 16, 24) and part.offsets is None
        torch.testing.assert_close(full.heatmaps, part.heatmaps, atol=0.01, rtol=1e-4)
    assert model.joints == plain.joints == 3


@pytest.mark.parametrize("size", [(64, 80), (48, 64)])
def test_sizes_that_are_no_multiples_of_32_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels; .*multiples of 32"):
        network()(images(1, *size))


# Counts -------------------------------------------------------------------------------------------


@cache
def counts(preset):
    """Parameters, and operations at 32 x 32: all conventions count alike without deconvolutions."""
    with torch.device("meta"):
        first = HRNet(48, branches=CASCADES[preset].branches)
        model = MultiStageHRNet(first, 17, [48], CASCADES[preset], offsets=True)
    assert not any(isinstance(layer, nn.ConvTranspose2d) for layer in model.modules())
    return count_parameters(model), count_operations(model, (32, 32))


@pytest.mark.parametrize(
    ("preset", "millions", "gmacs", "binary"),
    [
        # At 384 x 288 and at 512 x 384, of heads with heatmaps and offsets. The paper prints
        # 118.2 M, and 61.5 G at 512 x 384: one W48 alone has 62.787, or 58.475 in HRNet's unit.
        ("ms_a", 126.538, "67.233 119.525", "62.616 111.317"),
        ("ms_a4", 128.268, "67.674 120.309", "63.026 112.047"),
        ("ms_b", 118.206, "59.812 106.332", "55.704 99.030"),
        ("ms_b0", 118.040, "59.740 106.205", "55.637 98.911"),
        ("ms_b_conv", 118.237, "59.804 106.318", "55.697 99.016"),
        ("ms_c", 125.992, "66.007 117.345", "61.474 109.286"),
    ],
)
def test_counts_of_every_preset(preset, millions, gmacs, binary):
    parameters, count = counts(preset)
    assert round(parameters / 1e6, 3) == millions
    for unit, printed in (("gmac", gmacs), ("hrnet_binary", binary)):
        _, one = OPERATION_UNITS[unit]
        assert f"{count / one * 12 * 9:.3f} {count / one * 16 * 12:.3f}" == printed


def test_a_lone_network_with_offsets_has_the_published_size():
    with torch.device("meta"):
        model = PoseHRNet(HRNet(48), 3 * 17)
    assert round(count_parameters(model) / 1e6, 3) == 63.597
    count = count_operations(model, (32, 32))
    assert [round(count * area / 1e9, 3) for area in (108, 192)] == [35.318, 62.787]
    assert round(count * 192 / 1024**3, 3) == 58.475


def test_no_preset_has_both_printed_figures():
    """118.2 M and 61.5 G, in either unit, at 384 x 288 or 512 x 384."""
    for preset in CASCADES:
        parameters, count = counts(preset)
        figures = {round(count * area / one, 1) for area in (108, 192) for one in (1e9, 1024**3)}
        assert not (61.5 in figures and round(parameters / 1e6, 1) == 118.2)


# The rest of the house ----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["ms_a", "ms_b_conv"])
def test_activations_can_be_recomputed(preset):
    plain = network(preset, widths=(4, 6))
    other = copy.deepcopy(plain)
    enable_activation_checkpointing(other)
    results, calls = [], [0, 0]
    for i, model in enumerate((plain, other)):
        module = model.later[0].stage3.exchanges[0]
        module.register_forward_pre_hook(lambda *given, i=i: calls.__setitem__(i, calls[i] + 1))
        outputs = model(images())
        sum(output.heatmaps.square().sum() for output in outputs).backward()
        grads = [p.grad for p in model.parameters()]
        results.append([o.heatmaps for o in outputs] + grads + list(model.state_dict().values()))
    assert all(map(torch.equal, *results)) and calls == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_optimized_for_inference(dtype):
    model = network("ms_b_conv", (6,)).eval()
    with torch.no_grad():
        for plain, other in zip(model(images()), prepare_for_inference(model, dtype)(images())):
            error = (plain.heatmaps - other.heatmaps).abs().max() / plain.heatmaps.abs().max()
            assert error < (1e-5 if dtype == torch.float32 else 0.1) and plain.name == other.name


def test_attention_may_fuse_the_branches_of_all_networks():
    plain, model = network(), network(seed=1, fuse=RAM)
    load_weights(model, plain.state_dict(), ["*.fusions.*"])
    assert sum(isinstance(layer, RAM) for layer in model.later.modules()) > 10
    for expected, found in zip(plain(images()), model(images())):
        assert torch.equal(found.heatmaps, expected.heatmaps)


# Weights ------------------------------------------------------------------------------------------


def single(branches=range(4), joints=3):
    """Weights of a lone HRNet by published names, with a head; those of ImageNet have another."""
    torch.manual_seed(2)
    model = PoseHRNet(HRNet(4, MODULES, 1, 8, 1, branches=branches), joints)
    return to_published(model.state_dict())


def imagenet():
    state = {name: tensor for name, tensor in single().items() if "final_layer" not in name}
    return {**state, "incre_modules.0.0.conv1.weight": torch.zeros(2)}


@each_preset
def test_imagenet_weights_start_all_networks(preset):
    model = network(preset, (4, 4), offsets=True)
    report = load_weights(model, imagenet(), BEYOND_BACKBONE)
    assert report.kind == "imagenet" and report.unexpected == ()
    new = {re.sub(r"later\.\d+\.", "", name).split(".")[0] for name in report.missing}
    assert new == {"heads", "boundary"} if preset == "ms_b_conv" else {"heads"}
    assert report.leftovers[-1] == "incre_modules.0.0.conv1.weight"
    for later in model.later:
        ours, theirs = later.state_dict(), model.backbone.state_dict()
        shared = [name for name in ours if name in theirs and "tracked" not in name]
        assert len(shared) > 100 and all(torch.equal(ours[n], theirs[n]) for n in shared)
    loaded = {name for name in report.loaded if name.startswith("later.1.stage3.")}
    assert loaded == {
        f"later.1.{n}" for n in later.state_dict() if n.startswith("stage3.") and "tracked" not in n
    }


def test_pose_files_start_all_networks_with_their_heads():
    model = network(widths=(4, 4))
    report = load_weights(model, single(branches=(0,)))
    assert report.kind == "hrnet" and report.missing == ()
    assert all(torch.equal(head.weight, model.heads[0].weight) for head in model.heads)
    # Heads with offsets are others, and other links are not in it.
    allowed = load_config(CONFIG).MODEL.ALLOW_MISSING
    wider = network(widths=(4, 6), offsets=True)
    with pytest.raises(WeightsMismatchError, match=r"of another shape.*later\.1\.stage2"):
        load_weights(wider, single(branches=(0,)), allowed)
    report = load_weights(network(offsets=True), single(branches=(0,)), allowed)
    assert set(report.mismatched) == {f"heads.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}
    # The four outputs of the last module are not in a pose file.
    with pytest.raises(WeightsMismatchError, match=r"routes\.1(.|\n)*ALLOW_MISSING.*\[123\]"):
        load_weights(network("ms_a4"), single(branches=(0,)), allowed)
    load_weights(network("ms_a4"), single(branches=(0,)), BEYOND_POSE_HRNET)


@pytest.mark.parametrize("source", [imagenet, lambda: single(branches=(0,))])
def test_a_missing_tensor_is_an_error_that_names_every_network(source):
    state, model = source(), network(widths=(4,))
    before = copy.deepcopy(model.state_dict())
    del state["stage3.1.branches.2.0.conv2.weight"]
    with pytest.raises(WeightsMismatchError, match="not in the source") as error:
        load_weights(model, state, load_config(CONFIG).MODEL.ALLOW_MISSING)
    part = "stage3.exchanges.1.branches.2.0.body.1.0.weight"
    missing = {name for name in error.value.report.missing if not name.startswith("heads")}
    assert missing == {f"backbone.{part}", f"later.0.{part}"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_its_own_weights_are_taken_as_they_are():
    """Also under published names; a cascade of another length or a lone network is refused."""
    theirs = network("ms_b_conv", (6,), seed=1)
    for state in (theirs.state_dict(), to_published(theirs.state_dict())):
        ours = network("ms_b_conv", (6,))
        report = load_weights(ours, state)
        assert report.missing == report.unexpected == report.leftovers == ()
        expected = theirs.state_dict()
        assert all(torch.equal(tensor, expected[n]) for n, tensor in ours.state_dict().items())
    allowed = load_config(CONFIG).MODEL.ALLOW_MISSING
    with pytest.raises(WeightsMismatchError, match=r"not in the source: later\.1\.stage2"):
        load_weights(network(widths=(4, 4)), network().state_dict(), allowed)
    with pytest.raises(WeightsMismatchError, match=r"not in the model: later\.0\.stage2"):
        load_weights(PoseHRNet(HRNet(4, MODULES, 1, 8, 1), 3), network().state_dict(), allowed)


# Options, training, export ------------------------------------------------------------------------

SMALL = [
    *("MODEL.WIDTH", "4", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BOTTLENECKS", "1"),
    *("MODEL.BACKBONE.BLOCKS", "1", "MODEL.BACKBONE.MODULES", "[1,2,2]", "MODEL.INIT", "fan_in"),
    *("DATASET.INPUT_SIZE", "[64,96]"),
]


def configured(*overrides, codec="heatmap"):
    return load_config(CONFIG, [*SMALL, "MODEL.CODEC", codec, *overrides])


@each_preset
@pytest.mark.parametrize("links", ["true", "false"])
def test_all_networks_learn_through_the_loss_of_the_options(preset, links):
    """Every weight has a gradient: processes that learn together wait for each."""
    config = configured("MODEL.STAGES.PRESET", preset, "MODEL.STAGES.LINKS", links,
                        "MODEL.STAGES.COUNT", "3", "LOSS.HEATMAP", "[1,0.5,2]")  # fmt: skip
    model, loss = build_model(config), build_loss(config)
    batch = {
        "image": torch.zeros(2, 3, 96, 64, dtype=torch.uint8),
        "joints": torch.rand(2, 1, 17, 3) * 60,
        "flipped": torch.tensor([False, True]),
    }
    terms = loss(model(images(height=96, width=64)), batch)
    names = [f"heatmap/stage{n}" for n in (1, 2, 3)]
    assert list(terms.losses) == names
    assert terms.weights == dict(zip(names, (1, 0.5, 2)))
    sum(terms.weights[name] * value.mean() for name, value in terms.losses.items()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.any() for name, p in model.named_parameters() if "weight" in name)
    assert output_strides(config) == [4, 4, 4]
    assert [maps.shape for maps in draw_targets(config, batch)] == [(2, 17, 24, 16)] * 3


def test_pictures_of_training_name_the_networks(monkeypatch):
    titles = []
    monkeypatch.setattr(
        visual_reports, "titled", lambda image, title: titles.append(title) or image
    )
    batch = {
        "image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        "joints": torch.full((1, 1, 17, 3), 20.0),
        "flipped": torch.tensor([False]),
    }
    outputs = [HeadOutput(f"stage{n}", 4, torch.zeros(1, 17, 16, 16)) for n in (1, 2)]
    visual_reports.draw_training_batch(configured(), batch, outputs)
    named = [f"{kind} stage{n}" for n in (1, 2) for kind in ("target", "prediction")]
    assert titles == ["augmented", *named]


def test_discs_and_offsets_of_every_network_are_supervised():
    config = configured("LOSS.OFFSET.WEIGHT", "0.5", codec="offset")
    outputs = build_model(config)(images(height=96, width=64))
    assert [output.offsets.shape for output in outputs] == [(2, 34, 24, 16)] * 2
    batch = {"joints": torch.full((2, 1, 17, 3), 30.0), "flipped": torch.tensor([False, True])}
    terms = build_loss(config)(outputs, batch)
    kinds = {"heatmap": 1, "offset": 0.5}
    assert terms.weights == {f"{k}/stage{n}": w for n in (1, 2) for k, w in kinds.items()}


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ("", [4, 4]),
        ("MODEL.STAGES.COUNT 3", [4, 4, 4]),
        ("MODEL.STAGES.COUNT 3 MODEL.STAGES.WIDTHS 6", [4, 6, 6]),
        ("MODEL.STAGES.COUNT 3 MODEL.STAGES.WIDTHS [6,8]", [4, 6, 8]),
    ],
)
def test_options_choose_the_widths(options, widths):
    model = build_model(configured(*options.split()))
    assert [head.in_channels for head in model.heads] == widths
    assert model.heads[0].out_channels == 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("MODEL.STAGES.COUNT 1", "2 or more; 1 is MODEL.NAME pose_hrnet"),
        ("MODEL.STAGES.WIDTHS [6,8]", "has 2 entries for 1 networks after the first"),
        ("MODEL.STAGES.WIDTHS 0", "above 0"),
        ("MODEL.STAGES.PRESET ms_d", "one of ms_a, ms_a4, ms_b, ms_b0, ms_b_conv, ms_c"),
        ("LOSS.SIGMA [4,4,4]", "has 3 entries for 2 networks in cascade"),
        (
            "MODEL.GPR.ENABLED true",
            "beside MODEL.NAME multi_stage_hrnet; set MODEL.NAME pose_hrnet",
        ),
        ("MODEL.NAME pose_hrnet MODEL.STAGES.COUNT 3", "set MODEL.NAME multi_stage_hrnet"),
    ],
)
def test_what_cannot_be_is_refused_with_the_cure(options, message):
    with pytest.raises(ValueError, match=message):
        configured(*options.split())


def test_weights_name_the_network_that_they_are_of():
    two, unlinked = configured(), configured("MODEL.STAGES.LINKS", "false")
    one = configured("MODEL.NAME", "pose_hrnet")
    require_same_network(two, {"config": two.dump()}, "x.pth")
    with pytest.raises(ValueError, match=r"MODEL\.STAGES\.LINKS false, not true; set"):
        require_same_network(two, {"config": unlinked.dump()}, "x.pth")
    with pytest.raises(ValueError, match=r"NAME multi_stage_hrnet, not pose_hrnet"):
        require_same_network(one, {"config": two.dump()}, "x.pth")
    with pytest.raises(ValueError, match=r"NAME pose_hrnet, not multi_stage_hrnet"):
        require_same_network(two, {"config": one.dump()}, "x.pth")


@pytest.mark.parametrize(("flip", "codec"), [("true", "heatmap"), ("false", "offset")])
def test_the_last_network_is_decoded(flip, codec):
    config = configured("TEST.FLIP_TEST", flip, codec=codec)
    model = build_model(config).eval()
    with torch.no_grad():
        for head in model.heads:
            nn.init.normal_(head.weight)
    last = copy.deepcopy(model)
    last.forward = lambda x: model(x)[-1:]
    image = np.random.default_rng(0).integers(0, 255, (80, 90, 3), np.uint8)
    boxes = [[5, 5, 30, 40], [40, 0, 30, 64]]
    poses, expected = (build_predictor(config, each)(image, boxes) for each in (model, last))
    np.testing.assert_array_equal(poses.joints, expected.joints)
    graph = NetworkGraph(model)(torch.from_numpy(image[None, :64, :64]).permute(0, 3, 1, 2))
    assert list(graph) == (["heatmaps_4"] if codec == "heatmap" else ["heatmaps_4", "offsets_4"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_the_last_network_is_exported(shallow, tmp_path, kind):
    options = [*SMALL, "MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.STAGES.WIDTHS", "6"]
    options += ["MODEL.CODEC", "heatmap"]
    config = load_config(CONFIG, options)
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.save(model.state_dict(), tmp_path / "x.pth")
    path = tmp_path / f"model{FORMATS[kind].suffix}"
    options += ["TEST.MODEL_FILE", tmp_path / "x.pth"]
    run("export", "--cfg", CONFIG, "--output", path, "--format", kind, *options)
    crops = torch.randint(0, 255, (3, 3, 96, 64), dtype=torch.uint8)
    outputs = FORMATS[kind].load(path).network(crops.numpy())
    with torch.no_grad():
        expected = NetworkGraph(model)(crops)["heatmaps_4"].numpy()
    assert list(outputs) == ["heatmaps_4"]
    np.testing.assert_allclose(outputs["heatmaps_4"], expected, atol=1e-5 * abs(expected).max())
