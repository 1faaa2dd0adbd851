"""Weights of networks with a scale branch: the published ones, ours, and those without a branch."""

import copy

import pytest
import torch
from torch import nn

from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.swahr import SWAHR
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    JOINT_DEPENDENT,
    SCALE_BRANCHES,
    WeightsMismatchError,
    load_weights,
    to_published,
)

UNCOUNTED = "num_batches_tracked"


def plain(seed, joints=4, num_deconvs=1):
    """A small HigherHRNet of which no tensor is what a fresh one has."""
    torch.manual_seed(seed)
    backbone = HRNet(8, modules=(1, 1, 1), blocks=1, stem=8, bottlenecks=1)
    return shuffled(HigherHRNet(backbone, joints, num_deconvs, (1,)))


def swahr(seed, joints=4, num_deconvs=1):
    return shuffled(SWAHR(plain(seed, joints, num_deconvs)))


def shuffled(model):
    for name, tensor in model.state_dict().items():
        if not name.endswith(UNCOUNTED):
            nn.init.uniform_(tensor)
    return model


def differing(state, other, among=""):
    """Names, of those that begin with `among`, whose tensors differ; both sides have the same."""
    assert state.keys() == other.keys()
    names = [name for name in state if name.startswith(among) and not name.endswith(UNCOUNTED)]
    assert names
    return [name for name in names if not torch.equal(state[name], other[name])]


def refused(model, source, allow_missing=()):
    """The error with which weights are refused; the model stays as it was."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsMismatchError) as refusal:
        load_weights(model, source, allow_missing)
    assert differing(model.state_dict(), before) == []
    return refusal.value


# Published --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "1.", "module.1."])
@pytest.mark.parametrize("num_deconvs", [0, 1, 2])
def test_published_names_and_back_lose_nothing(prefix, num_deconvs):
    pretrained, target = swahr(1, num_deconvs=num_deconvs), swahr(2, num_deconvs=num_deconvs)
    published = {prefix + name: t for name, t in to_published(pretrained.state_dict()).items()}
    assert len(published) == len(pretrained.state_dict())
    assert any(name.startswith(f"{prefix}conv_scale_layers.") for name in published)
    assert not any("network." in name or "scale_branches" in name for name in published)
    load_weights(target, {"state_dict": published})
    assert differing(target.state_dict(), pretrained.state_dict()) == []


# Ours -------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path):
    pretrained, target = swahr(1), swahr(2)
    torch.save({"model": pretrained.state_dict(), "convention": "published"}, tmp_path / "last.pth")
    report = load_weights(target, tmp_path / "last.pth")
    assert report.missing == report.leftovers == ()
    assert report.kind == "hrpose"
    assert differing(target.state_dict(), pretrained.state_dict()) == []


@pytest.mark.parametrize("make", [plain, swahr])
def test_either_side_may_be_wrapped_by_dataparallel(make):
    pretrained, wrapped = make(1), nn.DataParallel(make(2))
    load_weights(wrapped, pretrained.state_dict())
    assert differing(wrapped.module.state_dict(), pretrained.state_dict()) == []
    target = make(3)
    load_weights(target, nn.DataParallel(pretrained).state_dict())
    assert differing(target.state_dict(), pretrained.state_dict()) == []
    other = nn.DataParallel(make(4))
    load_weights(other, wrapped.state_dict())
    assert differing(other.state_dict(), wrapped.state_dict()) == []


# From one kind of network to the other ----------------------------------------------------------


@pytest.mark.parametrize("spell", [dict, to_published], ids=["ours", "published"])
def test_without_a_branch_scales_are_left_over(spell):
    pretrained, target = swahr(1), plain(2)
    report = load_weights(target, spell(pretrained.state_dict()))
    assert differing(target.state_dict(), pretrained.network.state_dict()) == []
    assert report.missing == report.unexpected == () and report.mismatched == {}
    assert all(name.startswith("conv_scale_layers.") for name in report.leftovers)
    assert len(report.leftovers) == 2 * 8
    assert "SWAHR-W8, 4 joints" in str(report)  # both files are called alike
    assert "16 of SWAHR alone, whose file is called as HigherHRNet's (MODEL.NAME" in str(report)


@pytest.mark.parametrize("spell", [dict, to_published], ids=["ours", "published"])
def test_weights_without_a_branch_fill_the_rest_only_if_that_is_meant(spell):
    pretrained, target = plain(1), swahr(2)
    source, own = spell(pretrained.state_dict()), copy.deepcopy(target.scale_branches.state_dict())
    error = refused(target, source)
    assert "MODEL.ALLOW_MISSING ['scale_branches.*']" in str(error)
    assert "HigherHRNet-W8, 4 joints" in str(error) and "use the config of these" in str(error)
    report = load_weights(target, source, SCALE_BRANCHES)
    assert differing(target.network.state_dict(), pretrained.state_dict()) == []
    assert differing(target.scale_branches.state_dict(), own) == []
    assert len(report.missing) == 2 * 8
    assert set(report.missing) == set(error.report.missing)


def test_a_branch_may_be_missing_but_not_another_tensor():
    state = plain(1).state_dict()
    del state["heads.1.bias"]
    error = refused(swahr(2), state, SCALE_BRANCHES)
    assert "heads.1.bias" in str(error)
    assert "scale_branches" not in str(error).splitlines()[1]


def test_half_a_branch_is_no_branch():
    state = swahr(1).state_dict()
    del state["scale_branches.1.3.weight"]
    assert "1 not in the source: scale_branches.1.3.weight" in str(refused(swahr(2), state))


def test_an_imagenet_backbone_fills_the_backbone_alone():
    pretrained, target = plain(1), swahr(2)
    backbone = {n: t for n, t in pretrained.state_dict().items() if n.startswith("backbone.")}
    source = {**to_published(backbone), "classifier.bias": torch.zeros(3)}
    own = copy.deepcopy(target.state_dict())
    refusal = str(refused(target, source))
    assert "MODEL.ALLOW_MISSING ['heads.*', 'deconvs.*', 'scale_branches.*']" in refusal
    report = load_weights(target, source, BEYOND_BACKBONE)
    assert report.leftovers == ("classifier.bias",)
    assert differing(target.network.backbone.state_dict(), pretrained.backbone.state_dict()) == []
    for beginning in ("network.heads.", "network.deconvs.", "scale_branches."):
        assert differing(target.state_dict(), own, beginning) == []
    assert {name.split(".")[0] for name in report.missing} == {"heads", "deconvs", "scale_branches"}


def test_other_joints_may_keep_heads_and_branches_of_their_own():
    pretrained, target = swahr(1, joints=4), swahr(2, joints=6)
    own = copy.deepcopy(target.state_dict())
    assert "MODEL.ALLOW_MISSING ['heads.*', 'deconvs.*.up.0.weight'" in str(
        refused(target, pretrained.state_dict())
    )
    load_weights(target, pretrained.state_dict(), JOINT_DEPENDENT)
    backbones = [model.network.backbone.state_dict() for model in (target, pretrained)]
    assert differing(*backbones) == []
    for beginning in ("network.heads.", "scale_branches."):
        assert differing(target.state_dict(), own, beginning) == []
    blocks = "network.deconvs.0.blocks."
    assert differing(target.state_dict(), {**own, **pretrained.state_dict()}, blocks) == []
