"""Weights go in whole or not at all, whatever file they come from."""

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.models.hrnet import HRNet
from hrpose.models.weights import (
    BEYOND_BACKBONE,
    JOINT_DEPENDENT,
    WeightsMismatchError,
    load_weights,
    to_published,
)
from hrpose.skeletons import AIC, COCO

PUBLISHED_KEYS = Path(__file__).parents[1].parent / "shared" / "data" / "published_keys"
PUBLISHED = {
    "w32_coco": ("higher_hrnet", 32, 17, 1),
    "w48_coco": ("higher_hrnet", 48, 17, 1),
    "w32_coco_2deconv": ("higher_hrnet", 32, 17, 2),
    "w32_coco_0deconv": ("higher_hrnet", 32, 17, 0),
    "w32_crowdpose": ("higher_hrnet", 32, 14, 1),
    "swahr_w32_coco": ("swahr", 32, 17, 1),
    "swahr_w48_crowdpose": ("swahr", 48, 14, 1),
}


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


def published_shapes(name):
    path = PUBLISHED_KEYS / f"{PUBLISHED[name][0]}.json"
    if not path.is_file():
        pytest.skip(f"no lists of published tensors at {PUBLISHED_KEYS}")
    return json.loads(path.read_text())[name]["state"]


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # the model is on the meta device
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_fill_every_tensor_and_translate_back(name):
    shapes = published_shapes(name)
    _, width, joints, num_deconvs = PUBLISHED[name]
    with torch.device("meta"):
        model = HigherHRNet(HRNet(width), joints, num_deconvs)
    source = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    report = load_weights(model, source)
    assert report.missing == report.unexpected == () and report.mismatched == {}
    assert all(key.startswith("conv_scale_layers.") for key in report.leftovers)
    assert report.kind == (PUBLISHED[name][0] if num_deconvs else "hrnet")
    back = {key: list(tensor.shape) for key, tensor in to_published(model.state_dict()).items()}
    assert back == {
        k: shape for k, shape in shapes.items() if not k.startswith("conv_scale_layers")
    }


@pytest.mark.parametrize("num_deconvs", [0, 1, 2])
def test_published_names_and_back_lose_nothing(num_deconvs):
    theirs, ours = small(num_deconvs=num_deconvs), small(num_deconvs=num_deconvs, seed=1)
    published = to_published(theirs.state_dict())
    assert not set(published) & set(theirs.state_dict())
    load_weights(ours, published)
    assert_same(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "1.", "module.1.", "1.module.", "module.module."])
@pytest.mark.parametrize("container", [None, "model", "state_dict", "best_state_dict"])
def test_prefixes_and_containers_do_not_matter(prefix, container):
    theirs, ours = small(), small(seed=1)
    state = {prefix + name: tensor for name, tensor in to_published(theirs.state_dict()).items()}
    load_weights(ours, {container: state, "epoch": 3} if container else state)
    assert_same(ours.state_dict(), theirs.state_dict())


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
