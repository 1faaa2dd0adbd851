"""Weights go from any format to any other and stay what they are, or are refused in plain words."""

import json
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from commands import QUICKSTART, ROOT, SMALL, shipped_configs, tool
from hrpose.builders.common import build_model, load_model
from hrpose.builders.datasets import build_skeleton
from hrpose.config import load_config, parse_config
from hrpose.config.options import TOP_DOWN_MODELS
from hrpose.models.complexity import count_parameters
from hrpose.models.weight_io import read_weights
from hrpose.models.weights import load_weights, to_published
from hrpose.programs import cli
from hrpose.programs.train import checkpoint_metadata, config_yaml
from published_lists import FOLDER, LISTS, arguments, names_and_shapes, published, stored

main = partial(cli.main, "convert")

WHOLE = "higher_hrnet w32_coco"  # converted in its full width, and the networks' outputs compared
COMPARED = {WHOLE, "swahr swahr_w48_crowdpose", "mmpose ae0_w32", "hrnet_topdown w32_coco"}
CONVERTED = {
    *COMPARED,
    *("higher_hrnet w32_coco_2deconv", "higher_hrnet w32_crowdpose", "mmpose ae_w32"),
    *("higher_hrnet w32_coco_2deconv for mmpose 0.x", "mmpose ae_w32_wb", "mmpose td_w32"),
    *("higher_hrnet w32_coco_0deconv", "higher_hrnet w32_coco_0deconv for mmpose 1.x"),
    *("hrnet_topdown w32_mpii for mmpose 1.x", "timm_hrnet hrnet_w32"),
}
W32 = str(ROOT / "configs" / "w32_512.yaml")
NARROW = ["MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8"]
TINY = [
    *("MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BLOCKS", "1"),
    *("MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.BACKBONE.BOTTLENECKS", "1"),
    *("MODEL.NUM_BASIC_BLOCKS", "1"),
]


def shuffled(model, seed):
    """The network with numbers in every tensor that a fresh one does not have."""
    dice = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    model.load_state_dict({name: drawn(name, each.shape, dice) for name, each in state.items()})
    return model


def drawn(name, shape, dice):
    """Random numbers with which activations neither die out nor explode."""
    if name.endswith("num_batches_tracked"):
        return torch.randint(1, 1000, shape, generator=dice)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=dice)
    if len(shape) == 4:
        return torch.randn(shape, generator=dice) / (shape[1] * shape[2] * shape[3]) ** 0.5
    return 0.3 * torch.randn(shape, generator=dice)


def tiny(*overrides, seed=1, cfg=W32):
    config = load_config(cfg, [*TINY, *overrides])
    return config, shuffled(build_model(config), seed)


def saved(path, *overrides, seed=1, cfg=W32, **more):
    """A checkpoint such as training leaves."""
    config, model = tiny(*overrides, seed=seed, cfg=cfg)
    torch.save({"model": model.state_dict(), **more, **checkpoint_metadata(config)}, path)
    return model.state_dict()


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []


def convert(capsys, *arguments):
    """What the command prints."""
    main([str(each) for each in arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """What the command says in refusing; it leaves no file behind."""
    target = Path(arguments[1])
    before = target.read_bytes() if target.is_file() else None
    with pytest.raises(SystemExit) as stop:
        main([str(each) for each in arguments])
    assert stop.value.code == 2
    assert (target.read_bytes() if target.is_file() else None) == before
    assert not target.parent.is_dir() or not list(target.parent.glob(f".{target.name}*"))
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


# Published files, there and back ----------------------------------------------------------------


@torch.inference_mode()
def looked(model, path):
    """All that the network says of a small image with these weights."""
    for tensor in model.state_dict().values():
        tensor.zero_()
    load_weights(model, path)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    said = model.with_scales(image) if hasattr(model, "with_scales") else model(image)
    maps = [
        each
        for output in said
        for each in (output.heatmaps, output.tags, output.scales)
        if each is not None
    ]
    assert all(each.isfinite().all() and each.std() > 0 for each in maps)
    return maps


needs_lists = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")


@needs_lists
def test_every_list_has_the_names_of_one_that_is_converted():
    """They differ in widths and joints; that all fill their networks: test_weights.py."""
    names = {each: frozenset(names_and_shapes(each)) for each in LISTS}
    assert {*names.values()} == {names[each] for each in LISTS if str(each) in CONVERTED}


@pytest.mark.slow
@needs_lists
@pytest.mark.parametrize("listed", [each for each in LISTS if str(each) in CONVERTED], ids=str)
def test_published_weights_come_back_as_they_were_in_every_bit(listed, tmp_path, capsys):
    """A file -> a release under our names -> published .pth; and the outputs of some networks."""
    names, narrow = names_and_shapes(listed), str(listed) != WHOLE
    path, *overrides = [*arguments(listed, tmp_path), *NARROW * narrow]
    cfg = ["--cfg", path, *overrides]
    model = build_model(load_config(path, overrides)).eval()
    own = {name: each.shape for name, each in to_published(model.state_dict()).items()}
    bottom_up = "final_layer.weight" not in own
    dice = torch.Generator().manual_seed(0)
    state = {n: drawn(n, own.get(published(n, bottom_up), (1,)), dice) for n in names}
    assert narrow or {name: list(each.shape) for name, each in state.items()} == names
    with tempfile.TemporaryDirectory() as folder:  # hundreds of megabytes
        suffix = ".safetensors" if "timm" in str(listed) else ".pth"
        source, release, back = (
            Path(folder) / each for each in (f"a{suffix}", "b.safetensors", "c.pth")
        )
        (torch.save if suffix == ".pth" else save_file)(state, source)
        printed = convert(capsys, source, release, *cfg)
        assert re.sub(r"-W\d+", "-W8" if narrow else "-W32", listed.report) in printed
        if listed.joints:
            assert f"({count_parameters(model)})" in printed and "published files but" in printed
            assumed = {17: "COCO", 14: "CrowdPose", 16: "MPII", 133: "joint_0, joint_1"}
            assert f"not named; assumed: {assumed[listed.joints]}" in printed
        assert narrow or count_parameters(model) == stored(listed.file)[listed.name]["params"]
        convert(capsys, release, back, "--keys", "published", *cfg * (not listed.joints))
        returned = torch.load(back, weights_only=True)
        given = {published(name, bottom_up): tensor for name, tensor in state.items()}
        assert_same(returned, {name: given[name] for name in returned})
        assert returned.keys() == own.keys() or not listed.joints
        if str(listed) in COMPARED:
            maps = [looked(model, each) for each in (source, release)]  # `back` is as `source`
            assert all(torch.equal(*pair) for pair in zip(*maps, strict=True))


@pytest.mark.parametrize("prefix", ["1.", "module.", "module.1."])
@pytest.mark.parametrize("container", ["", "state_dict", "best_state_dict"])
def test_prefixes_are_taken_off_and_named(prefix, container, tmp_path, capsys):
    _, model = tiny()
    state = {prefix + key: each for key, each in to_published(model.state_dict()).items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "a.pth")
    said = convert(capsys, tmp_path / "a.pth", tmp_path / "b.safetensors", "--cfg", W32, *TINY)
    assert f"prefix removed: {prefix}\n" in said
    assert_same(read_weights(tmp_path / "b.safetensors")["model"], model.state_dict())


def test_half_precision_is_read_and_named(tmp_path, capsys):
    _, model = tiny()
    torch.save(to_published(model.half().state_dict()), tmp_path / "a.pth")
    said = convert(capsys, tmp_path / "a.pth", tmp_path / "b.pth", "--cfg", W32, *TINY)
    assert "float16 converted to float32" in said
    assert_same(read_weights(tmp_path / "b.pth")["model"], model.float().state_dict())


def test_a_backbone_alone_stays_one(tmp_path, capsys):
    """Of a classifier trained on ImageNet: no joints, so it may begin any network."""
    _, model = tiny()
    backbone = {k: each for k, each in model.state_dict().items() if k.startswith("backbone.")}
    extra = {"incre_modules.0.0.conv1.weight": torch.ones(2), "classifier.bias": torch.ones(3)}
    torch.save({**to_published(backbone), **extra}, tmp_path / "a.pth")
    release, back = tmp_path / "b.safetensors", tmp_path / "c.pth"
    said = convert(capsys, tmp_path / "a.pth", release, "--cfg", W32, *TINY)
    assert "2 known leftovers: incre_modules" in said and "written as a backbone" in said
    contents = read_weights(release)
    assert not {"skeleton", "convention", "config"} & set(contents)
    assert_same(contents["model"], backbone)
    convert(capsys, release, back, "--cfg", W32, *TINY, "--keys", "published")
    assert_same(torch.load(back, weights_only=True), to_published(backbone))


# Runs and releases ------------------------------------------------------------------------------


def options(text):
    """What a config says, however YAML writes it."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # in C: faster


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("names", ["hrpose", "published"])
def test_a_run_needs_no_config_and_keeps_what_it_says(suffix, names, tmp_path, capsys):
    state = saved(tmp_path / "last.pth", "MODEL.NAME", "swahr", optimizer={"step": 3})
    target, again = tmp_path / f"b{suffix}", tmp_path / "c.safetensors"
    said = convert(capsys, tmp_path / "last.pth", target, "--keys", names)
    assert "does not name" not in said
    bare = names == "published" and suffix == ".pth"
    convert(capsys, target, again, *(["--cfg", W32, *TINY, "MODEL.NAME", "swahr"] * bare))
    assert_same(read_weights(again)["model"], state)
    config = load_config(W32, [*TINY, "MODEL.NAME", "swahr"])
    contents = read_weights(target)
    if bare:
        assert_same(contents, to_published(state))
    else:
        assert contents["convention"] == "published"
        assert list(contents["skeleton"]["joints"]) == list(build_skeleton(config).joints)
        assert options(contents["config"]) == options(config_yaml(config))
        assert set(contents["model"]) == set(state if names == "hrpose" else to_published(state))


def test_the_average_is_there_for_who_asks(tmp_path, capsys):
    _, average = tiny(seed=2)
    kept = {"model": average.state_dict(), "steps": 5}
    state = saved(tmp_path / "last.pth", average=kept)
    said = convert(capsys, tmp_path / "last.pth", tmp_path / "val.pth")
    assert "--weights ema" in said
    assert_same(read_weights(tmp_path / "val.pth")["model"], state)
    said = convert(capsys, tmp_path / "last.pth", tmp_path / "ema.pth", "--weights", "ema")
    assert "--weights ema" not in said
    assert_same(read_weights(tmp_path / "ema.pth")["model"], average.state_dict())


@pytest.mark.parametrize("asked", ["model", "ema"])
def test_a_best_network_that_is_the_average_is_named_so(asked, tmp_path, capsys):
    state = saved(tmp_path / "best.pth", network="ema")
    said = convert(capsys, tmp_path / "best.pth", tmp_path / "b.pth", "--weights", asked)
    assert "the weights are the EMA" in said
    assert_same(read_weights(tmp_path / "b.pth")["model"], state)


def test_an_average_that_is_not_there_is_refused(tmp_path, capsys):
    saved(tmp_path / "best.pth", network="val")
    said = refused(capsys, tmp_path / "best.pth", tmp_path / "b.pth", "--weights", "ema")
    assert "holds no EMA" in said and "TRAIN.EMA" in said


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_same_weights_make_the_same_file(suffix, tmp_path, capsys):
    saved(tmp_path / "last.pth")
    digests = set()
    for name in "abc":
        said = convert(capsys, tmp_path / "last.pth", tmp_path / f"{name}{suffix}")
        digests |= {line for line in said.splitlines() if line.startswith("sha256 ")}
    assert len(digests) == 1


def test_half_the_size_costs_digits_and_says_how_many(tmp_path, capsys):
    state = saved(tmp_path / "last.pth")
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    convert(capsys, tmp_path / "last.pth", whole)
    said = convert(capsys, tmp_path / "last.pth", half, "--half")
    assert "loading converts back to float32" in said
    kept = read_weights(half)["model"]
    assert all(each.dtype != torch.float32 for each in kept.values())
    _, model = tiny(seed=3)
    load_weights(model, half)
    expected = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    assert_same(model.state_dict(), expected)


def test_what_half_precision_cannot_hold_is_refused(tmp_path, capsys):
    _, model = tiny()
    model.heads[0].bias.data[3] = 1e5
    torch.save(model.state_dict(), tmp_path / "a.pth")
    asked = [tmp_path / "a.pth", tmp_path / "b.pth", "--cfg", W32, *TINY, "--half"]
    assert "heads.0.bias has values beyond 65504" in refused(capsys, *asked)


def test_joints_of_a_run_are_known_without_its_annotations(tmp_path, capsys):
    """DATASET.SKELETON file, on somebody else's machine."""
    config, model = tiny()
    here = parse_config(
        config_yaml(config), "", ["DATASET.SKELETON", "file", "DATASET.ROOT", str(tmp_path / "no")]
    )
    facts = {**checkpoint_metadata(config), "config": config_yaml(here)}
    torch.save({"model": model.state_dict(), **facts}, tmp_path / "last.pth")
    release = tmp_path / "b.safetensors"
    convert(capsys, tmp_path / "last.pth", release)
    contents = read_weights(release)
    assert contents["skeleton"]["joints"] == list(build_skeleton(config).joints)
    assert str(tmp_path) not in contents["config"].replace(str(tmp_path / "no"), "")
    convert(capsys, release, tmp_path / "c.pth")
    assert_same(read_weights(tmp_path / "c.pth")["model"], model.state_dict())


@pytest.mark.parametrize("path", shipped_configs(), ids=str)
def test_the_text_of_a_config_reads_back_as_the_config(path):
    plain = load_config(path)
    more = ["MODEL.NAME", "swahr", "LOSS.SAHR", "true", "LOSS.LAMBDA", ".inf"]
    other = plain.LOSS.SHR or plain.MODEL.NAME in TOP_DOWN_MODELS
    config = plain if other else load_config(path, more)
    text = config_yaml(config)
    assert options(config_yaml(parse_config(text, "a file"))) == options(text)


# Evaluated as they were trained -----------------------------------------------------------------


def loaded(path, *overrides):
    return load_model(load_config(W32, [*TINY, *overrides, "TEST.MODEL_FILE", str(path)]))


@pytest.mark.parametrize(
    ("trained", "asked", "cure"),
    [
        ("MODEL.DILATIONS 2", "", "MODEL.DILATIONS [2]"),
        ("", "MODEL.DILATIONS 2", "MODEL.DILATIONS [1]"),
        (
            "MODEL.NUM_BASIC_BLOCKS 2 MODEL.DILATIONS [1,2]",
            "MODEL.NUM_BASIC_BLOCKS 2 MODEL.DILATIONS [2,1]",
            "MODEL.DILATIONS [1,2]",
        ),
        ("MODEL.CAT_OUTPUT false", "", "MODEL.CAT_OUTPUT false"),
        ("MODEL.NUM_DECONVS 2", "", "MODEL.NUM_DECONVS 2"),
        ("MODEL.BACKBONE.BLOCKS 2", "", "MODEL.BACKBONE.BLOCKS 2"),
    ],
)
def test_weights_are_evaluated_with_the_network_they_were_trained_in(
    trained, asked, cure, tmp_path, capsys
):
    """Also where every tensor fits: a dilation changes no shape."""
    state = saved(tmp_path / "best.pth", *trained.split())
    with pytest.raises(ValueError) as refusal:
        loaded(tmp_path / "best.pth", *asked.split())
    assert f"best.pth were trained with {cure.split()[0]} " in str(refusal.value)
    assert str(refusal.value).endswith(f"; set {cure}")
    release = [tmp_path / "best.pth", tmp_path / "b.safetensors"]
    assert cure in refused(capsys, *release, "--cfg", W32, *TINY, *asked.split())
    convert(capsys, *release)
    with pytest.raises(ValueError, match=r"b\.safetensors were trained with"):
        loaded(release[1], *asked.split())
    assert_same(loaded(release[1], *trained.split()).state_dict(), state)


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        ("MODEL.NUM_BASIC_BLOCKS 2", "MODEL.NUM_BASIC_BLOCKS 2 MODEL.DILATIONS [1,1]"),
        ("MODEL.NUM_DECONVS 0 MODEL.CAT_OUTPUT false", "MODEL.NUM_DECONVS 0"),
        ("MODEL.NAME swahr", ""),
        ("MODEL.INIT fan_in MODEL.PRETRAINED x.pth", ""),
    ],
)
def test_what_weights_do_not_compute_with_may_differ(trained, asked, tmp_path):
    saved(tmp_path / "best.pth", *trained.split())
    loaded(tmp_path / "best.pth", *asked.split())


def test_a_network_of_older_option_names_is_compared_under_todays(tmp_path):
    _, model = tiny()
    old = {"MODEL.BLOCKS": 1, "MODEL.STEM": 8, "MODEL.MODULES": [1, 1, 1], "MODEL.BOTTLENECKS": 1}
    old |= {"MODEL.WIDTH": 8, "MODEL.NUM_BASIC_BLOCKS": 1, "MODEL.MAY_MISS": ["x"]}
    for more in ({"TEST.SCORE": "found"}, {"TEST.GONE": 3}):  # no matter to a network
        text = yaml.safe_dump({**old, **more})
        torch.save({"model": model.state_dict(), "config": text}, tmp_path / "old.pth")
        loaded(tmp_path / "old.pth")
    torch.save({"model": model.state_dict(), "config": "MODEL.NEW: 3"}, tmp_path / "new.pth")
    with pytest.raises(ValueError, match=r"new\.pth, its config:1: unknown option MODEL\.NEW"):
        loaded(tmp_path / "new.pth")


def test_which_weights_were_taken_is_logged(tmp_path, caplog):
    caplog.set_level("INFO", "hrpose")
    saved(tmp_path / "best.pth", network="ema")
    loaded(tmp_path / "best.pth")
    assert f"{tmp_path / 'best.pth'}: " in caplog.text and "the EMA of the weights)" in caplog.text


def test_a_release_keeps_which_weights_it_has(tmp_path, capsys):
    _, average = tiny(seed=2)
    saved(tmp_path / "last.pth", average={"model": average.state_dict()})
    convert(capsys, tmp_path / "last.pth", tmp_path / "ema.safetensors", "--weights", "ema")
    assert read_weights(tmp_path / "ema.safetensors")["network"] == "ema"


# Refused ----------------------------------------------------------------------------------------


def test_joints_that_published_weights_do_not_name_are_given_by_the_config(tmp_path, capsys):
    """17 of other code than the published: assumed, printed, and written with the weights."""
    config, model = tiny()
    annotations = {"images": [], "annotations": [], "categories": [
        {"id": 1, "name": "dog", "keypoints": [f"joint_{i}" for i in range(17)], "skeleton": []}
    ]}  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    own = ["DATASET.SKELETON", "file", "DATASET.ROOT", str(tmp_path)]
    own += ["DATASET.TRAIN", "train", "DATASET.ANNOTATIONS", "{split}.json"]
    torch.save(to_published(model.state_dict()), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"trained for the joints nose.*this model has joint_0"):
        loaded(tmp_path / "a.pth", *own)
    said = convert(
        capsys, tmp_path / "a.pth", tmp_path / "b.safetensors", "--cfg", W32, *TINY, *own
    )
    assert "its 17 joints are not named; assumed: joint_0, joint_1" in said
    loaded(tmp_path / "b.safetensors", *own)
    with pytest.raises(ValueError, match=r"trained for the joints joint_0.*this model has nose"):
        loaded(tmp_path / "b.safetensors")


@pytest.mark.parametrize("name", ["pose_hrnet", "multi_stage_hrnet"])
def test_discs_and_offsets_are_not_taken_for_three_joints_each(name, tmp_path, capsys):
    top_down = str(ROOT / "configs" / "topdown" / "small.yaml")
    network = ["--cfg", top_down, "MODEL.WIDTH", "8", "MODEL.NAME", name]
    offset = [*network, "MODEL.CODEC", "offset"]
    torch.save(build_model(load_config(top_down, offset[2:])).state_dict(), tmp_path / "a.pth")
    said = convert(capsys, tmp_path / "a.pth", tmp_path / "b.safetensors", *offset)
    assert "its 17 joints are not named; assumed: COCO" in said
    load_model(
        load_config(top_down, [*offset[2:], "TEST.MODEL_FILE", str(tmp_path / "b.safetensors")])
    )
    said = refused(capsys, tmp_path / "a.pth", tmp_path / "c.pth", *network)
    assert "has 51 maps of joints, the config 17 joints; set MODEL.CODEC offset" in said
    torch.save(build_model(load_config(top_down, network[2:])).state_dict(), tmp_path / "h.pth")
    said = refused(capsys, tmp_path / "h.pth", tmp_path / "c.pth", *offset)
    assert "has 17 maps of joints, the config 17 joints; set MODEL.CODEC heatmap" in said


def test_other_joints_are_refused_with_the_cure(tmp_path, capsys):
    crowdpose = str(ROOT / "configs" / "crowdpose" / "w32_512.yaml")
    _, model = tiny(cfg=crowdpose)
    torch.save(to_published(model.state_dict()), tmp_path / "published.pth")
    asked = [tmp_path / "published.pth", tmp_path / "b.safetensors"]
    said = refused(capsys, *asked, "--cfg", W32, *TINY)
    assert "published.pth has 14 maps of joints, the config 17 joints" in said
    assert "--cfg configs/crowdpose/w32_512.yaml" in said
    assert "--cfg configs/crowdpose/w32_512.yaml" in refused(capsys, *asked)
    saved(tmp_path / "last.pth", cfg=crowdpose)
    asked = [tmp_path / "last.pth", tmp_path / "b.safetensors"]
    said = refused(capsys, *asked, "--cfg", W32, *TINY)
    assert "this model has nose" in said and "DATASET.SKELETON" in said


def test_published_weights_have_the_published_coordinates(tmp_path, capsys):
    exact = ["--cfg", W32, *TINY, "MODEL.COORDINATES", "unbiased"]
    _, model = tiny()
    torch.save(to_published(model.state_dict()), tmp_path / "published.pth")
    said = refused(capsys, tmp_path / "published.pth", tmp_path / "b.safetensors", *exact)
    assert "published weights were trained with published coordinates" in said
    torch.save(model.state_dict(), tmp_path / "ours.pth")  # which do not say: the config does
    said = convert(capsys, tmp_path / "ours.pth", tmp_path / "b.safetensors", *exact)
    assert "assumed: unbiased, from the config" in said
    said = refused(
        capsys, tmp_path / "b.safetensors", tmp_path / "c.pth", "MODEL.COORDINATES", "published"
    )
    assert "set MODEL.COORDINATES unbiased" in said


def mmpose_udp(path, *overrides):
    """A file of mmpose's UDP, with the names of all its files; returns our state of it."""
    _, model = tiny(*overrides)
    state = {
        ("keypoint_head." if name.startswith(("final", "deconv")) else "backbone.") + name: each
        for name, each in to_published(model.state_dict()).items()
    }
    torch.save({"state_dict": state, "meta": {"epoch": 300}}, path)
    return model.state_dict()


def test_coordinates_that_are_given_are_stored(tmp_path, capsys):
    state, udp = mmpose_udp(tmp_path / "udp.pth"), tmp_path / "b.safetensors"
    source = [tmp_path / "udp.pth", udp, "--cfg", W32, *TINY]
    unbiased = ["MODEL.COORDINATES", "unbiased"]
    with pytest.raises(ValueError, match=r"tools/convert.py --coordinates unbiased"):
        loaded(tmp_path / "udp.pth", *unbiased)
    assert "state --coordinates unbiased" in refused(capsys, *source, *unbiased)
    given = ["--coordinates", "unbiased"]
    assert "set MODEL.COORDINATES unbiased" in refused(
        capsys, *source, *given, "MODEL.COORDINATES", "published"
    )
    printed = convert(capsys, *source, *given)
    assert "mmpose 0.x, HigherHRNet-W8, 17 joints, unbiased coordinates" in printed
    assert "no coordinate convention" not in printed
    contents = read_weights(udp)
    assert contents["convention"] == "unbiased"
    assert options(contents["config"])["MODEL"]["COORDINATES"] == "unbiased"
    assert_same(loaded(udp, *unbiased).state_dict(), state)
    with pytest.raises(ValueError, match="set MODEL.COORDINATES unbiased"):
        loaded(udp)
    convert(capsys, udp, tmp_path / "c.pth", *given)  # which it states already
    other = [udp, tmp_path / "d.pth", "--coordinates", "published"]
    assert "has unbiased coordinates stored; leave --coordinates out" in refused(capsys, *other)


def test_a_backbone_has_no_coordinates_to_give(tmp_path, capsys):
    _, model = tiny()
    backbone = {k: each for k, each in model.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "a.pth")
    asked = [tmp_path / "a.pth", tmp_path / "b.pth", "--cfg", W32, "--coordinates", "unbiased"]
    assert "is a backbone; leave --coordinates out" in refused(capsys, *asked)


def test_mmpose_s_files_for_as_many_other_joints_are_converted_with_their_config(tmp_path, capsys):
    """Fourteen are CrowdPose's, unless the config names AI Challenger's."""
    aic = ["DATASET.SKELETON", "aic"]
    state = mmpose_udp(tmp_path / "aic.pth", *aic)
    with pytest.raises(ValueError, match="convert them with this --cfg: tools/convert.py"):
        loaded(tmp_path / "aic.pth", *aic)
    source = [tmp_path / "aic.pth", tmp_path / "b.safetensors", "--cfg", W32, *TINY, *aic]
    assert "14 joints are not named; assumed: right_shoulder, " in convert(capsys, *source)
    assert_same(loaded(source[1], *aic).state_dict(), state)


def test_another_network_is_refused_with_the_report(tmp_path, capsys):
    _, model = tiny("MODEL.NUM_DECONVS", "2")
    torch.save(to_published(model.state_dict()), tmp_path / "a.pth")
    said = refused(capsys, tmp_path / "a.pth", tmp_path / "b.pth", "--cfg", W32, *TINY)
    assert "a.pth (published names, HigherHRNet-W8, 17 joints, published coordinates) does" in said
    assert "not in the model: final_layers.2.weight" in said and "--cfg, or KEY VALUE" in said


def test_a_config_of_another_version_asks_for_one_of_this(tmp_path, capsys):
    _, model = tiny()
    torch.save({"model": model.state_dict(), "config": "MODEL:\n  WIDHT: 8"}, tmp_path / "a.pth")
    said = refused(capsys, tmp_path / "a.pth", tmp_path / "b.pth")
    assert "a.pth, its config:2: unknown option MODEL.WIDHT" in said and "--cfg" in said


def test_nothing_is_overwritten(tmp_path, capsys):
    saved(tmp_path / "last.pth")
    (tmp_path / "b.safetensors").write_text("dear to somebody")
    said = refused(capsys, tmp_path / "last.pth", tmp_path / "b.safetensors")
    assert "b.safetensors exists, and is not overwritten; remove it, or name another" in said
    assert "exists" in refused(capsys, tmp_path / "last.pth", tmp_path / "last.pth")


def test_a_target_of_no_known_kind_is_refused(tmp_path, capsys):
    said = refused(capsys, tmp_path / "absent.pth", tmp_path / "b.onnx")
    assert "b.onnx: a file of weights ends in .safetensors or .pth" in said


def test_a_target_that_cannot_be_written_is_named(tmp_path, capsys):
    saved(tmp_path / "last.pth")
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "b.safetensors"
    said = refused(capsys, tmp_path / "last.pth", target)
    assert f"{target} cannot be written: " in said and "a folder that you may write to" in said


def test_a_source_that_is_not_there_is_named(tmp_path, capsys):
    said = refused(capsys, tmp_path / "absent.pth", tmp_path / "b.pth")
    assert f"there is no file of weights at {tmp_path / 'absent.pth'}" in said


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-1000],
        lambda whole: whole[:1000],
        lambda whole: b"",
        lambda w: b"Hi!\n",
    ],
    ids=["last bytes missing", "most bytes missing", "empty", "a text"],
)
def test_a_damaged_source_is_named(suffix, spoil, tmp_path, capsys):
    saved(tmp_path / "last.pth")
    source = tmp_path / f"a{suffix}"
    convert(capsys, tmp_path / "last.pth", source)
    source.write_bytes(spoil(source.read_bytes()))
    said = refused(capsys, source, tmp_path / "b.pth")
    assert f"{source} ({source.stat().st_size} bytes) is cut short or is no file of weights" in said
    assert "fetch it again" in said


def test_one_changed_byte_of_a_tensor_is_noticed(tmp_path, capsys):
    saved(tmp_path / "last.pth")
    release = tmp_path / "a.safetensors"
    convert(capsys, tmp_path / "last.pth", release)
    content = bytearray(release.read_bytes())
    content[-100] ^= 1
    release.write_bytes(content)
    said = refused(capsys, release, tmp_path / "b.pth")
    assert f"{release} is damaged" in said and "fetch it again" in said


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_code_is_never_run(tmp_path, capsys):
    _, model = tiny()
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": model.state_dict(), "extra": Trap(sprung)}, tmp_path / "a.pth")
    said = refused(capsys, tmp_path / "a.pth", tmp_path / "b.pth", "--cfg", W32, *TINY)
    assert "a.pth holds pickled objects" in said and not sprung.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the trap does work
    assert sprung.exists()


@pytest.mark.parametrize("names", [("last.pth", "b.safetensors"), ("a.safetensors", "b.pth")])
def test_without_safetensors_its_files_ask_for_it(names, tmp_path, capsys, monkeypatch):
    saved(tmp_path / "last.pth")
    convert(capsys, tmp_path / "last.pth", tmp_path / "a.safetensors")
    for module in [name for name in sys.modules if name.split(".")[0] == "safetensors"]:
        monkeypatch.setitem(sys.modules, module, None)
    said = refused(capsys, *(tmp_path / name for name in names))
    assert 'pip install "safetensors>=0.4"' in said
    convert(capsys, tmp_path / "last.pth", tmp_path / "c.pth")  # which needs none


# As a user runs it ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_release_scores_as_the_run_that_it_is_of(scenes, tmp_path):
    options = [*SMALL, "DATASET.ROOT", str(scenes)]
    output, release = tmp_path / "output", tmp_path / "release.safetensors"
    tool("train", "--cfg", QUICKSTART, *options, "TRAIN.EMA", "0.9", "OUTPUT_DIR", output)
    (folder,) = (output / "quickstart").iterdir()
    last = folder / "checkpoints" / "last.pth"
    tool("convert", last, release, "--weights", "ema", cold=True)
    assert "exists" in tool("convert", last, release, status=2)
    tool(
        *("valid", "--cfg", QUICKSTART, *options, "TEST.MODEL_FILE", release),
        *("--output", tmp_path / "scored"),
    )
    figures = json.loads((tmp_path / "scored" / "results" / "metrics.json").read_text())
    facts = json.loads((folder / "run.json").read_text())
    assert figures == facts["all_figures"]["ema"]
