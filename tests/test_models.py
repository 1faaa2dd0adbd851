"""Laws of the networks: shapes, where gradients go, what a resolution may know."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.models.blocks import Upsample, basic_block, conv_bn, kaiming_init, normal_init
from hrpose.models.higher_hrnet import HigherHRNet, deconv
from hrpose.models.hrnet import FusionModule, HRNet, fuse_layer
from hrpose.models.weights import to_published

JOINTS = 5


def small_backbone():
    return HRNet(width=8, modules=(1, 1, 1), blocks=1, stem=8, bottlenecks=1)


def small(num_deconvs=1, num_basic_blocks=1, cat_output=True):
    torch.manual_seed(0)
    dilations = (1,) * num_basic_blocks
    model = HigherHRNet(small_backbone(), JOINTS, num_deconvs, dilations, cat_output)
    kaiming_init(model)
    return model


def published(width=32, joints=17, **options):
    with torch.device("meta"):
        return HigherHRNet(HRNet(width), joints, **options)


def images(height=64, width=64, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_branches_are_fused_in_the_precision_of_the_network(dtype):
    """Autocast promotes nn.Upsample to float32, and with it three of four sums."""
    dtypes, model = [], small()
    for layer in model.modules():
        if isinstance(layer, FusionModule):
            layer.register_forward_hook(lambda *given: dtypes.extend(x.dtype for x in given[2]))
    with torch.autocast("cpu", dtype):
        outputs = model(images())
    assert dtypes == 6 * [dtype]  # 2, 3 and 1 branches
    assert all(output.heatmaps.dtype == dtype for output in outputs)


def test_upsampling_copies_values_and_sums_gradients_exactly():
    """Whole numbers, which are exact in all precisions."""
    x = torch.arange(-24.0, 24).view(1, 3, 4, 4).requires_grad_()
    up = Upsample(scale_factor=4, mode="nearest")
    with torch.autocast("cpu", torch.bfloat16):
        y = up(x.bfloat16())
    assert torch.equal(y.float(), x.repeat_interleave(4, 2).repeat_interleave(4, 3))
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, torch.full_like(x, 16))
    assert torch.equal(up(x), nn.Upsample(scale_factor=4, mode="nearest")(x))


@pytest.mark.parametrize("size", [(512, 512), (640, 448), (32, 96)])
def test_published_networks_speak_at_a_quarter_and_a_half(size):
    coarse, fine = published().eval()(torch.empty(2, 3, *size, device="meta"))
    height, width = size
    assert coarse.heatmaps.shape == coarse.tags.shape == (2, 17, height // 4, width // 4)
    assert fine.heatmaps.shape == (2, 17, height // 2, width // 2)
    assert fine.tags is None and coarse.scales is None and fine.scales is None
    assert (coarse.name, coarse.stride, fine.name, fine.stride) == ("1_4", 4, "1_2", 2)


@pytest.mark.parametrize("cat_output", [True, False])
@pytest.mark.parametrize("num_basic_blocks", [0, 4, 8])
@pytest.mark.parametrize("num_deconvs", [0, 1, 2])
def test_every_variant_halves_its_stride_and_trains_every_weight(
    num_deconvs, num_basic_blocks, cat_output
):
    model = small(num_deconvs, num_basic_blocks, cat_output)
    outputs = model(images(64, 96))
    assert [output.stride for output in outputs] == [4, 2, 1][: num_deconvs + 1]
    for output in outputs:
        assert output.heatmaps.shape == (2, JOINTS, 64 // output.stride, 96 // output.stride)
    assert [output.tags is not None for output in outputs] == [True] + [False] * num_deconvs

    torch.cat(
        [part.flatten() for o in outputs for part in (o.heatmaps, o.tags) if part is not None]
    ).sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert idle == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("width", [32, 40, 48])
def test_deconvolutions_see_the_feature_and_all_outputs_before(width):
    seen = {
        cat_output: [
            climb.up[0].in_channels - width
            for climb in published(width, num_deconvs=2, cat_output=cat_output).deconvs
        ]
        for cat_output in (True, False)
    }
    assert seen == {True: [2 * 17, 17], False: [0, 0]}  # tags are predicted, and so seen, only once


def lit(block, size=(21, 25)):
    """Rows and columns, from the middle, that one lit cell there reaches through `block`."""
    for weight in block.parameters():
        nn.init.ones_(weight)
    dark, light = torch.zeros(1, 3, *size), torch.zeros(1, 3, *size)
    light[..., size[0] // 2, size[1] // 2] = 1
    with torch.no_grad():
        reached = (block.eval()(light) != block(dark))[0, 0]
    assert reached.shape == size
    rows, columns = reached.nonzero().unbind(1)
    return set((rows - size[0] // 2).tolist()), set((columns - size[1] // 2).tolist())


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_dilated_convolution_reaches_so_many_cells_and_leaves_out_those_between(dilation):
    """A residual block has two of them."""
    assert lit(conv_bn(3, 3, dilation=dilation)) == ({-dilation, 0, dilation},) * 2
    assert lit(basic_block(3, dilation)) == ({i * dilation for i in range(-2, 3)},) * 2


@pytest.mark.parametrize("dilations", [(1, 1, 1, 1), (1, 1, 2, 2), (2, 2, 2, 2), (3,), ()])
def test_every_block_behind_a_deconvolution_has_its_dilation(dilations):
    climb = deconv(6, 3, dilations)
    assert climb(torch.randn(1, 6, 8, 12)).shape == (1, 3, 16, 24)
    assert [max(lit(block)[0]) for block in climb.blocks] == [2 * each for each in dilations]


class Plain:
    """The published forward pass spelt out on published names, one layer after the other."""

    def __init__(self, state):
        self.state = state

    def layer(self, x, conv, norm, stride=1):
        weight = self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return self.norm(x, norm)

    def norm(self, x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def blocks(self, x, place, inside=""):
        index = 0 if not inside else 1
        while f"{place}.{index}{inside}.conv1.weight" in self.state:
            name, before, step = f"{place}.{index}{inside}", x, 1
            while f"{name}.conv{step}.weight" in self.state:
                x = self.layer(
                    x if step == 1 else x.relu(), f"{name}.conv{step}", f"{name}.bn{step}"
                )
                step += 1
            if f"{name}.downsample.0.weight" in self.state:
                before = self.layer(before, f"{name}.downsample.0", f"{name}.downsample.1")
            x, index = (x + before).relu(), index + 1
        return x

    def fused(self, x, name, source, target):
        if source > target:
            x = self.layer(x, f"{name}.0", f"{name}.1")
            return x.repeat_interleave(2 ** (source - target), 2).repeat_interleave(
                2 ** (source - target), 3
            )
        for step in range(target - source):
            x = self.layer(x if step == 0 else x.relu(), f"{name}.{step}.0", f"{name}.{step}.1", 2)
        return x

    def stage(self, xs, stage, modules):
        for module in range(modules):
            place = f"stage{stage}.{module}"
            xs = [self.blocks(x, f"{place}.branches.{i}") for i, x in enumerate(xs)]
            last = stage == 4 and module == modules - 1
            xs = [
                sum(
                    self.fused(x, f"{place}.fuse_layers.{i}.{j}", j, i) for j, x in enumerate(xs)
                ).relu()
                for i in range(1 if last else len(xs))
            ]
        return xs

    def __call__(self, x, modules, deconvs):
        for step in (1, 2):
            x = self.layer(x, f"conv{step}", f"bn{step}", 2).relu()
        x = self.blocks(x, "layer1")
        first = "transition1.0.0", "transition1.0.1"
        xs = [self.layer(x, *first).relu() if f"{first[0]}.weight" in self.state else x, x]
        for stage, count in zip((2, 3, 4), modules):
            name = f"transition{stage - 1}.{stage - 1}.0"
            xs[-1] = self.layer(xs[-1], f"{name}.0", f"{name}.1", 2).relu()
            xs = self.stage(xs, stage, count)
            xs = [*xs, xs[-1]]
        x, outputs = xs[0], [self.head(xs[0], 0)]
        for i in range(deconvs):
            weight = self.state[f"deconv_layers.{i}.0.0.weight"]
            x = F.conv_transpose2d(torch.cat([x, outputs[-1]], 1), weight, stride=2, padding=1)
            x = self.blocks(
                self.norm(x, f"deconv_layers.{i}.0.1").relu(), f"deconv_layers.{i}", ".0"
            )
            outputs.append(self.head(x, i + 1))
        return outputs

    def head(self, x, i):
        return F.conv2d(x, *(self.state[f"final_layers.{i}.{part}"] for part in ("weight", "bias")))


def test_the_network_computes_what_the_published_layers_do_one_by_one():
    torch.manual_seed(0)
    backbone = HRNet(width=8, modules=(1, 2, 2), blocks=2, stem=8, bottlenecks=2)
    model = HigherHRNet(backbone, JOINTS, num_deconvs=2, dilations=(1, 1)).eval()
    kaiming_init(model)
    for head in model.heads:
        nn.init.normal_(head.weight)
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(part, 0.5, 1.5)
    with torch.no_grad():
        expected = Plain(to_published(model.state_dict()))(images(), (1, 2, 2), deconvs=2)
        found = model(images())
    for plain, output in zip(expected, found):
        parts = [part for part in (output.heatmaps, output.tags) if part is not None]
        torch.testing.assert_close(
            torch.cat(parts, 1), plain, rtol=1e-4, atol=1e-4 * plain.std().item()
        )


def test_without_concatenation_the_coarse_head_does_not_reach_the_fine_heatmaps():
    for cat_output in (True, False):
        model = small(cat_output=cat_output)
        model(images())[1].heatmaps.sum().backward()
        assert (model.heads[0].weight.grad is not None) == cat_output


def test_levels_hand_out_the_very_feature_that_the_head_reads():
    model = small(num_deconvs=2).eval()
    for (feature, output), head in zip(model.levels(images()), model.heads):
        torch.testing.assert_close(head(feature)[:, :JOINTS], output.heatmaps)
        assert feature.shape[1] == model.backbone.width


def test_one_image_does_not_depend_on_the_others():
    model = small().eval()
    batch = images(count=3)
    for alone, together in zip(model(batch[1:2]), model(batch)):
        torch.testing.assert_close(alone.heatmaps[0], together.heatmaps[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(500, 512), (512, 500), (16, 32)])
def test_sizes_that_cannot_be_halved_five_times_are_refused_with_the_cure(size):
    network = published()
    for model in (network, network.backbone):
        with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}.*multiples of 32"):
            model(torch.empty(1, 3, *size, device="meta"))


@pytest.mark.parametrize("source", range(4))
@pytest.mark.parametrize("target", range(4))
def test_a_route_ends_at_the_shape_of_its_target(source, target):
    widths = [4, 6, 8, 10]
    arrived = fuse_layer(widths, source, target)(
        torch.randn(2, widths[source], 32 >> source, 16 >> source)
    )
    assert arrived.shape == (2, widths[target], 32 >> target, 16 >> target)


def test_routes_to_finer_branches_repeat_cells_and_those_to_coarser_ones_may_be_negative():
    torch.manual_seed(0)
    up = fuse_layer([4, 8], 1, 0)(torch.randn(1, 8, 4, 4))
    torch.testing.assert_close(up, F.interpolate(up[..., ::2, ::2], scale_factor=2.0))
    assert up.min() < 0 and fuse_layer([4, 8], 0, 1)(torch.randn(1, 4, 8, 8)).min() < 0


def test_the_last_fusion_computes_only_the_requested_branches():
    counts = {(0,): [4, 4, 1], (3, 1): [4, 4, 2], range(4): [4, 4, 4]}
    for branches, expected in counts.items():
        modules = HRNet(width=8, blocks=1, stem=8, branches=branches).stage4.exchanges
        assert [len(module.routes) for module in modules] == expected


@pytest.mark.parametrize("branches", [(0,), (0, 1, 2, 3), (3, 1)])
def test_the_backbone_returns_the_requested_branches_and_trains_every_weight(branches):
    options = {"width": 8, "modules": (1, 1, 1), "blocks": 1, "stem": 8, "bottlenecks": 1}
    model, everything = HRNet(**options, branches=branches), HRNet(**options, branches=range(4))
    kaiming_init(everything)
    left_out = everything.load_state_dict(everything.state_dict() | model.state_dict())
    assert not left_out.missing_keys and not left_out.unexpected_keys  # the same names
    features, of_all = model(images(64, 96)), everything(images(64, 96))
    for branch, feature in zip(branches, features, strict=True):
        assert feature.shape == (2, 8 << branch, 16 >> branch, 24 >> branch)
        torch.testing.assert_close(feature, of_all[branch])
    sum(feature.sum() for feature in features).backward()
    assert all(weight.grad is not None for weight in model.parameters())


class WeightedFusion(nn.Module):
    """A fusion with weights of its own, one per source branch and channel, initially 1."""

    def __init__(self, width, inputs):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs, width, 1, 1))

    def forward(self, xs):
        return sum(weight * x for weight, x in zip(self.weights, xs, strict=True))


def test_another_fusion_plugs_in_beside_the_published_names():
    options = {"width": 8, "modules": (1, 1, 1), "blocks": 1, "stem": 8, "bottlenecks": 1}
    summed, weighted = HRNet(**options).eval(), HRNet(**options, fuse=WeightedFusion).eval()
    lacking = weighted.load_state_dict(summed.state_dict(), strict=False)
    assert lacking.unexpected_keys == []
    assert all(name.endswith("weights") and "fusions" in name for name in lacking.missing_keys)
    assert len(lacking.missing_keys) == 2 + 3 + 1  # one per fused branch
    torch.testing.assert_close(weighted(images())[0], summed(images())[0])


def test_a_backbone_has_three_stages_of_exchanges():
    with pytest.raises(ValueError, match="stages 2, 3 and 4"):
        HRNet(modules=(1, 1))


def convs(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def test_published_beginning():
    model = small(num_deconvs=2)
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    normal_init(model)
    weights = torch.cat([conv.weight.flatten() for conv in convs(model)])
    assert weights.std().item() == pytest.approx(0.001, rel=0.02)
    assert abs(weights.mean().item()) < 3e-5
    assert all((head.bias == 0).all() for head in model.heads)
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_fan_in_beginning_keeps_the_size_of_signals_and_starts_heatmaps_near_zero():
    torch.manual_seed(0)
    for layer in (
        nn.Conv2d(32, 24, 3, 2, 1, bias=False),
        nn.ConvTranspose2d(32, 24, 4, 2, 1, bias=False),
    ):
        kaiming_init(layer)
        before = torch.randn(8, 32, 32, 32).relu()
        after = layer(before)[..., 2:-2, 2:-2]  # padding makes the border weaker
        energy = (after**2).mean() / (before**2).mean()
        assert energy.item() == pytest.approx(2, rel=0.15)  # the next ReLU halves it again
    model = small(num_deconvs=2)
    assert all(head.weight.std() < 0.002 for head in model.heads)
    assert all(output.heatmaps.abs().max() < 0.5 for output in model(images()))
