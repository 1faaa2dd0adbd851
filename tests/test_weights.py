"""Weights go in whole or not at all, whatever file they come from."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import ROOT
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.key_mapping import bare_name, our_name
from hrpose.models.pose_hrnet import PoseHRNet
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    JOINT_DEPENDENT,
    WeightsMismatchError,
    load_weights,
    to_published,
)
from hrpose.skeletons import AIC, COCO
from published_lists import FOLDER, LISTS, load_on_meta, names_and_shapes, published, table_row

KINDS = {"HigherHRNet": "higher_hrnet", "SWAHR": "swahr", "HRNet": "imagenet"}
KINDS |= {"bottom-up HRNet": "hrnet", "top-down HRNet": "hrnet"}
COUNTER = "num_batches_tracked"


def small(joints=4, num_deconvs=1, seed=0, width=8, **options):
    torch.manual_seed(seed)
    backbone = HRNet(width, modules=(1, 1, 1), blocks=1, stem=8, bottlenecks=1)
    return HigherHRNet(backbone, joints, num_deconvs, (1,), **options)


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


def without(state, *beginnings):
    return {name: tensor for name, tensor in state.items() if not name.startswith(beginnings)}


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def assert_refused(model, source, *messages, allow_missing=()):
    before = copied(model.state_dict())
    with pytest.raises(ValueError) as refusal:
        load_weights(model, source, allow_missing)
    assert [message for message in messages if message not in str(refusal.value)] == []
    assert_same(model.state_dict(), before)
    return refusal.value


needs_lists = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")


@needs_lists
@pytest.mark.parametrize("listed", LISTS, ids=str)
def test_files_of_every_list_fill_the_network_and_translate_back(listed, tmp_path):
    shapes = names_and_shapes(listed)
    report, model = load_on_meta(listed, tmp_path)
    assert table_row(listed, report) in (ROOT / "docs" / "weights.md").read_text()
    assert report.source == listed.report and report.kind == KINDS[listed.network.split("-W")[0]]
    assert report.unexpected == () and report.mismatched == {}
    assert bool(report.missing) == (not listed.joints)
    assert all(name.startswith(("heads.", "deconvs.")) for name in report.missing)
    state = model.state_dict()
    back = {name: list(tensor.shape) for name, tensor in to_published(state).items()}
    bottom_up = "heads.0.weight" in {bare_name(name) for name in state}
    given = {published(name, bottom_up): shape for name, shape in shapes.items()}
    kept = {name: shape for name, shape in given.items() if name in back}
    assert kept == {name: back[name] for name in kept}
    assert back == kept or not listed.joints
    others = {name for name in given if name not in back and not name.endswith(COUNTER)}
    assert others == {published(name, bottom_up) for name in report.leftovers}


@needs_lists
@pytest.mark.parametrize(
    ("theirs", "made"),
    [
        ("ae_w32", "higher_hrnet w32_coco"),
        ("ae_w48", "higher_hrnet w48_coco"),
        ("ae_w32_crowd", "higher_hrnet w32_crowdpose"),
        ("ae0_w32", "higher_hrnet w32_coco_0deconv"),
        ("td_w32", "hrnet_topdown w32_coco"),
        ("td_w48", "hrnet_topdown w48_coco"),
    ],
)
def test_lists_made_by_the_rules_of_mmpose_are_its_own(theirs, made):
    listed = {str(each): each for each in LISTS}
    by_rule = names_and_shapes(listed[made]._replace(program="mmpose 0.x"))
    assert by_rule == names_and_shapes(listed[f"mmpose {theirs}"])


@pytest.mark.parametrize("num_deconvs", [0, 1, 2])
def test_published_names_and_back_lose_nothing(num_deconvs):
    theirs, ours = small(num_deconvs=num_deconvs), small(num_deconvs=num_deconvs, seed=1)
    published = to_published(theirs.state_dict())
    assert not set(published) & set(theirs.state_dict())
    load_weights(ours, published)
    assert_same(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "1.", "module.1.", "1.module.", "module.module."),
        *("_orig_mod.", "model.module."),
    ],
)
@pytest.mark.parametrize("container", [None, "model", "state_dict", "best_state_dict"])
def test_prefixes_and_containers_do_not_matter(prefix, container):
    theirs, ours = small(), small(seed=1)
    state = {prefix + name: tensor for name, tensor in to_published(theirs.state_dict()).items()}
    load_weights(ours, {container: state, "epoch": 3} if container else state)
    assert_same(ours.state_dict(), theirs.state_dict())


# Names of other programs -------------------------------------------------------------------------


def as_mmpose(model, head="keypoint_head."):
    """State of a network under mmpose's names."""
    state = to_published(model.state_dict())
    heads = ("final_layer", "deconv_layers")
    return {(head if n.startswith(heads) else "backbone.") + n: each for n, each in state.items()}


def top_down(joints=4, seed=0, offsets=False):
    torch.manual_seed(seed)
    return PoseHRNet(HRNet(8, (1, 1, 1), 1, 8, 1), joints, offsets=offsets)


def test_our_own_backbone_is_not_taken_for_that_of_mmpose():
    """Ours begins with `backbone.` too, and has a `stage1.0`."""
    names = [name for name in small().state_dict() if name.startswith("backbone.")]
    assert any(name.startswith("backbone.stage1.0.") for name in names)
    assert [name for name in names if our_name(name) != name] == []
    assert load_weights(small(), small(seed=1).state_dict()).source.startswith("hrpose, Higher")


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "model."])
@pytest.mark.parametrize(
    ("head", "scheme"), [("keypoint_head.", "mmpose 0.x"), ("head.", "mmpose 1.x")]
)
def test_a_head_is_no_leftover_of_a_classifier(head, scheme, wrapper):
    """`head.*` is left over in an ImageNet file, and the head of a pose file of mmpose 1.x."""
    theirs, ours = top_down(), top_down(seed=1)
    state = {wrapper + name: each for name, each in as_mmpose(theirs, head).items()}
    report = load_weights(ours, {"state_dict": state, "meta": {"epoch": 1}, "message_hub": {}})
    assert_same(ours.state_dict(), theirs.state_dict())
    assert report.leftovers == report.missing == () and report.kind == "hrnet"
    assert report.source == f"{scheme}, top-down HRNet-W8, 4 joints, published coordinates"
    classifier = {**imagenet(small(seed=2))[0], "head.0.0.0.conv1.weight": torch.zeros(2)}
    report = load_weights(ours, classifier, BEYOND_BACKBONE)
    assert "head.0.0.0.conv1.weight" in report.leftovers
    assert set(report.missing) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("head", ["keypoint_head.", "head."])
def test_the_only_head_is_the_model_s_whether_bottom_up_or_top_down(head):
    """mmpose calls both final_layer; 2K maps are K joints bottom-up, 2K of them top-down."""
    theirs, ours = small(joints=17, num_deconvs=0), small(joints=17, num_deconvs=0, seed=1)
    state = as_mmpose(theirs, head)
    state = {name.replace("final_layers.0.", "final_layer."): t for name, t in state.items()}
    assert f"{head}final_layer.weight" in state
    ours.joint_names = COCO.joints
    report = load_weights(ours, state)
    assert_same(ours.state_dict(), theirs.state_dict())
    assert "bottom-up HRNet-W8, 17 joints" in report.source and report.kind == "hrnet"
    pose = top_down(joints=34)
    assert "top-down HRNet-W8, 34 joints" in load_weights(pose, state).source
    assert torch.equal(pose.head.weight, theirs.heads[0].weight)
    assert_refused(small(), as_mmpose(top_down(), head), "heads.0.weight ([4, 8, 1, 1] in the")
    ours.joint_names = OTHERS
    assert_refused(ours, state, "trained for the joints nose")  # 17, not 34
    other = as_mmpose(top_down(joints=17), head)
    assert_refused(small(joints=17), other, "top-down HRNet-W8, 17 joints", "heads.0.weight")


def test_the_colours_of_mmpose_are_dropped_and_other_tensors_are_not():
    colours = {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    report = load_weights(top_down(), {**as_mmpose(top_down(seed=1), "head."), **colours})
    assert report.leftovers == ("data_preprocessor.mean",)
    other = {"keypoint_head.predict_layers.0.conv_layers.0.conv.weight": torch.zeros(2)}
    assert_refused(top_down(), {**as_mmpose(top_down(seed=1)), **other}, "1 not in the model: ")


def test_a_backbone_of_mmpose_fills_the_backbone():
    theirs, ours = small(), small(seed=1)
    state = {k: v for k, v in as_mmpose(theirs).items() if k.startswith("backbone.")}
    report = load_weights(ours, state, BEYOND_BACKBONE)
    assert report.source == "mmpose, HRNet-W8 backbone" and report.kind == "imagenet"
    assert_same(ours.backbone.state_dict(), theirs.backbone.state_dict())


def test_three_maps_a_joint_of_mmpose_are_not_taken_for_ours():
    """udp_regress: their order is not known to be heatmaps, x, y."""
    state = top_down(seed=1, offsets=True)
    assert_refused(top_down(offsets=True), as_mmpose(state), "three maps a joint", "4 joints")
    report = load_weights(top_down(offsets=True), to_published(state.state_dict()))
    assert "4 joints" in report.source


def test_weights_of_udp_are_given_their_coordinates_by_convert():
    model = small()
    model.convention = "unbiased"
    cure = "tools/convert.py --coordinates unbiased"
    assert_refused(model, as_mmpose(small(seed=1)), "set MODEL.COORDINATES published", cure)
    stored = {"model": as_mmpose(small(seed=1)), "convention": "unbiased"}
    assert load_weights(model, stored).source.endswith("4 joints, unbiased coordinates")
    model.convention = "published"
    with pytest.raises(ValueError, match="unbiased coordinates") as refusal:
        load_weights(model, stored)
    assert "tools/convert.py" not in str(refusal.value)  # they do state them


def test_the_cure_for_missing_tensors_fits_where_weights_are_named():
    """MODEL.ALLOW_MISSING is without effect on TEST.MODEL_FILE."""
    error = assert_refused(small(), imagenet(small(seed=1))[0], "TEST.MODEL_FILE needs all: use")
    assert "MODEL.PRETRAINED does not: to keep" in str(error)


def test_the_model_name_beside_a_state_dict_is_no_state_dict():
    theirs, ours = small(), small(seed=1)
    load_weights(ours, {"model": "pose_higher_hrnet", "state_dict": theirs.state_dict()})
    assert_same(ours.state_dict(), theirs.state_dict())


def test_half_precision_becomes_full():
    theirs, ours = small(), small(seed=1)
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in theirs.state_dict().items()
    }
    load_weights(ours, halves)
    assert_same(ours.state_dict(), theirs.half().float().state_dict())
    assert all(weight.dtype == torch.float32 for weight in ours.parameters())


def test_counters_of_batches_never_matter():
    state = small(seed=1).state_dict()
    bare = {k: tensor for k, tensor in state.items() if not k.endswith("num_batches_tracked")}
    assert load_weights(small(), bare) == load_weights(small(), state)
    load_weights(small(), {**bare, "elsewhere.num_batches_tracked": torch.tensor(0)})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_give_what_was_saved(tmp_path, suffix):
    theirs, ours = small(), small(seed=1)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(
            {"model": theirs.state_dict(), "convention": "published", "joints": ["nose"]}, path
        )
    else:
        save_file(theirs.state_dict(), path)
    load_weights(ours, path)
    load_weights(ours, str(path))
    assert_same(ours.state_dict(), theirs.state_dict())


def imagenet(model):
    """The backbone of a classifier: coarse branches fused as well, its own head behind."""
    published = to_published(without(model.state_dict(), "heads.", "deconvs."))
    extra = (
        "stage4.0.fuse_layers.1.0.0.0.weight",
        "stage4.0.fuse_layers.3.2.0.1.running_var",
        "incre_modules.0.0.conv1.weight",
        "downsamp_modules.0.0.bias",
        "final_layer.0.weight",
        "classifier.bias",
        "head.0.0.0.downsample.1.weight",  # the same head in another release
    )
    return {**published, **{name: torch.zeros(2) for name in extra}}, extra


def test_an_imagenet_backbone_fills_the_backbone_only_and_only_if_that_is_meant():
    theirs, ours = small(), small(seed=1)
    source, extra = imagenet(theirs)
    own_head = copied(ours.heads.state_dict())
    assert_refused(ours, source, "heads.0.weight", "MODEL.ALLOW_MISSING ['heads.*', 'deconvs.*']")
    report = load_weights(ours, source, BEYOND_BACKBONE)
    assert sorted(report.leftovers) == sorted(extra)
    assert report.kind == "imagenet"
    assert all(name.startswith(("heads.", "deconvs.")) for name in report.missing)
    assert_same(ours.backbone.state_dict(), theirs.backbone.state_dict())
    assert_same(ours.heads.state_dict(), own_head)


@pytest.mark.parametrize("cat_output", [True, False])
def test_weights_for_other_joints_load_when_the_heads_may_stay_new(cat_output):
    theirs = small(joints=4, num_deconvs=2, cat_output=cat_output)
    ours = small(joints=6, num_deconvs=2, seed=1, cat_output=cat_output)
    assert_refused(
        ours,
        theirs.state_dict(),
        "heads.0.weight ([8, 8, 1, 1]",
        f"MODEL.ALLOW_MISSING {['heads.*', *['deconvs.*.up.0.weight'] * cat_output]}",
    )
    own_head = copied(ours.heads.state_dict())
    report = load_weights(ours, theirs.state_dict(), JOINT_DEPENDENT)
    skipped = set(report.mismatched)
    ups = {f"deconvs.{i}.up.0.weight" for i in range(2)}
    assert skipped == set(f"heads.{name}" for name in own_head) | (ups if cat_output else set())
    assert_same(ours.heads.state_dict(), own_head)
    assert_same(ours.backbone.state_dict(), theirs.backbone.state_dict())


def test_a_missing_tensor_is_named():
    source = without(small().state_dict(), "deconvs.0.up.1.bias")
    error = assert_refused(small(seed=1), source, "1 not in the source: deconvs.0.up.1.bias")
    assert isinstance(error, WeightsMismatchError)
    assert error.report.missing == ("deconvs.0.up.1.bias",)


def test_an_unexpected_tensor_is_named_even_where_anything_may_be_missing():
    source = {**small().state_dict(), "stage9.weight": torch.zeros(1)}
    assert_refused(small(seed=1), source, "1 not in the model: stage9.weight", allow_missing=["*"])


def test_another_width_or_depth_asks_for_another_model():
    assert_refused(
        small(seed=1),
        small(width=16).state_dict(),
        "of another shape",
        "use the config of these weights",
    )
    assert_refused(small(seed=1), small(num_deconvs=2).state_dict(), "final_layers.2", "use the")


def test_weights_of_which_none_can_be_used_are_refused():
    assert_refused(small(), {}, "does not fit", allow_missing=["*"])
    assert_refused(
        small(), {"classifier.weight": torch.zeros(3)}, "does not fit", allow_missing=["*"]
    )


def test_tensors_given_twice_are_refused():
    state = small(seed=1).state_dict()
    assert_refused(small(), {**state, **{f"module.{k}": v for k, v in state.items()}}, "twice")


def test_what_is_not_a_state_dict_is_refused():
    assert_refused(small(), {"epoch": 3, "optimizer": {}}, "epoch, optimizer should be tensors")


def test_a_lone_pattern_is_not_taken_letter_by_letter():
    assert_refused(small(), {}, "['heads.*']", allow_missing="heads.*")


def test_weights_of_the_other_convention_are_refused():
    model = small()
    model.convention = "unbiased"
    state = small(seed=1).state_dict()
    assert_refused(model, {"model": state, "convention": "published"}, "COORDINATES published")
    load_weights(model, {"model": state, "convention": "unbiased"})
    load_weights(model, state)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        load_weights(small(), tmp_path / "absent.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_file_cut_short_is_named(tmp_path, suffix, kept):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(small().state_dict(), path)
    else:
        save_file(small().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    assert_refused(small(seed=1), path, str(path), "cut short")


@pytest.mark.parametrize("content", [b"<html>Quota exceeded</html>", b"hello world\n", b"\x80\x02"])
def test_a_file_of_something_else_is_named(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert_refused(small(), path, str(path), "no file of weights")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("thing", [argparse.Namespace(width=32), Trap(), torch.nn.Linear(1, 1)])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_and_never_brought_to_life(
    tmp_path, monkeypatch, thing, zipped
):
    monkeypatch.chdir(tmp_path)
    checkpoint = {"state_dict": small().state_dict(), "thing": thing}
    torch.save(checkpoint, "weights.pth", _use_new_zipfile_serialization=zipped)
    assert_refused(small(seed=1), tmp_path / "weights.pth", "pickled objects", "weights.pth")
    assert not Path("sprung").exists()


def test_a_list_of_tensors_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "weights.pth")
    assert_refused(small(), tmp_path / "weights.pth", "holds a list")


def test_the_report_is_short_and_says_what_was_left():
    report = load_weights(small(), imagenet(small(seed=1))[0], BEYOND_BACKBONE)
    text = str(report)
    assert text.startswith(f"{len(report.loaded)} tensors loaded (published names, HRNet-W8 clas")
    assert "not in the source: heads.0.weight" in text and "known leftovers" in text
    assert len(text) < 1000


def test_published_weights_fit_no_exact_model():
    """Such files say nothing of coordinates; a backbone has none, whatever it learnt."""
    model = HigherHRNet(HRNet(8, (1, 1, 1), 1, 8, 1), 17)
    published = to_published(model.state_dict())
    model.convention = "unbiased"
    with pytest.raises(ValueError, match="MODEL.COORDINATES published"):
        load_weights(model, published)
    backbone = {
        name: each for name, each in published.items() if not re.match("final|deconv", name)
    }
    load_weights(model, backbone, BEYOND_BACKBONE)
    load_weights(model, model.state_dict())


@pytest.mark.parametrize(("stored", "other"), [("official", "unbiased"), ("exact", "published")])
def test_conventions_of_older_files_are_read_under_todays_names(stored, other):
    model = small()
    model.convention = {"official": "published", "exact": "unbiased"}[stored]
    load_weights(model, {"model": model.state_dict(), "convention": stored})
    model.convention = other
    assert_refused(model, {"model": model.state_dict(), "convention": stored}, "MODEL.COORDINATES")


# Values and joints ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["heads.0.weight", "backbone.stem.0.1.running_var"])
def test_weights_that_are_not_finite_are_refused_with_the_tensors_name(name, value):
    state = copied(small(seed=1).state_dict())
    state[name].flatten()[-1] = value
    message = f"given weights: 1 of {state[name].numel()} values of {name} are NaN or infinite"
    assert_refused(small(), to_published(state), message, "use an earlier checkpoint")


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.cfloat])
def test_tensors_that_are_no_floats_are_not_read_as_such(kind):
    state = small(seed=1).state_dict()
    state["heads.1.weight"] = (100 * state["heads.1.weight"]).to(kind)
    name = str(kind).removeprefix("torch.")
    assert_refused(small(), state, f"heads.1.weight is {name}, not floating point")
    quantized = torch.quantize_per_tensor(small().heads[0].weight.detach(), 0.1, 0, torch.qint8)
    assert_refused(small(), {**state, "heads.0.weight": quantized}, "heads.0.weight is qint8")


def with_joints(joints, seed=0):
    model = small(joints=len(joints), seed=seed)
    model.joint_names = joints
    return model


OTHERS = ("snout", *COCO.joints[1:])


def test_published_weights_are_those_of_the_published_joints():
    """Their number alone would let COCO's fit any 17 joints."""
    published = to_published(with_joints(COCO.joints, seed=1).state_dict())
    load_weights(with_joints(COCO.joints), published)
    for allowed in ([], ["deconvs.*"]):
        messages = ["were trained for the joints nose", "this model has snout", "DATASET.SKELETON"]
        messages += ["MODEL.PRETRAINED", "MODEL.ALLOW_MISSING ['heads.*'", "tools/convert.py"]
        assert_refused(with_joints(OTHERS), published, *messages, allow_missing=allowed)
    assert len(AIC.joints) == 14
    crowdpose = to_published(small(joints=14).state_dict())
    assert_refused(with_joints(AIC.joints), crowdpose, "right_ankle, head, neck; this model")
    load_weights(with_joints(OTHERS), small(joints=17).state_dict())  # ours: their config decides


def test_heads_of_as_many_other_joints_stay_new_where_they_may():
    theirs, ours = with_joints(COCO.joints, seed=1), with_joints(OTHERS)
    own = copied(ours.state_dict())
    report = load_weights(ours, to_published(theirs.state_dict()), JOINT_DEPENDENT)
    assert "heads.0.weight (for other joints in the source)" in str(report)
    ups = {"deconvs.0.up.0.weight"}
    assert set(report.mismatched) == {name for name in own if name.startswith("heads.")} | ups
    assert all(torch.equal(own[name], ours.state_dict()[name]) for name in report.mismatched)
    assert_same(ours.backbone.state_dict(), theirs.backbone.state_dict())


@pytest.mark.parametrize(
    ("beside", "averaging"),
    [
        ({}, "(hrpose, HigherHRNet-W8, 4 joints)"),
        ({"network": "val"}, "4 joints, the raw weights)"),
        ({"network": "ema"}, "4 joints, the EMA of the weights)"),
        ({"average": {"model": {}}}, "raw weights; their EMA, also in the file: tools/convert.py"),
    ],
)
def test_the_report_has_which_of_ema_and_raw_weights_were_taken(beside, averaging):
    report = load_weights(small(), {"model": small(seed=1).state_dict(), **beside})
    assert averaging in str(report).splitlines()[0]
