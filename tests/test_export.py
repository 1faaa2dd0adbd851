"""Shipped files: complete, equal to the network, run without torch; mistakes name their cure."""

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from commands import QUICKSTART, ROOT, SMALL, tool
from hrpose.builders import load_predictor
from hrpose.builders.common import build_model, load_model
from hrpose.config import load_config
from hrpose.inference import onnx_predictor
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import from_json
from hrpose.ops.image import read_image
from hrpose.ops.normalize import normalize
from hrpose.programs import cli
from hrpose.programs.exporting import formats, int8, verify
from hrpose.programs.exporting.graphs import NetworkGraph, example
from hrpose.skeletons import COCO

TINY = [
    *SMALL,
    *("MODEL.BACKBONE.MODULES", "[1,1,1]", "MODEL.BACKBONE.BOTTLENECKS", "1"),
    *("MODEL.NUM_BASIC_BLOCKS", "1", "TEST.FLIP_TEST", "true", "TEST.SCALE_FACTOR", "[1]"),
]


def lively(network, images):
    """Scale a new network's heads, so that it predicts joints and far apart tags in a picture."""
    with torch.no_grad():
        for head, output in zip(network.heads, network(normalize(images))):
            maps = (
                output.heatmaps
                if output.tags is None
                else torch.cat((output.heatmaps, output.tags), 1)
            )
            mean, std = maps.mean((0, 2, 3)), maps.std((0, 2, 3))
            wanted = torch.full_like(std, 0.25)
            wanted[network.joints :] = 40
            head.weight *= (wanted / std)[:, None, None, None]
            head.bias.copy_((head.bias - mean) * wanted / std)
    return network


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    return save_lively(scenes, tmp_path_factory.mktemp("weights") / "tiny.pth")


@pytest.fixture
def trained_shallow(shallow, scenes, tmp_path):
    return save_lively(scenes, tmp_path / "shallow.pth")


def save_lively(scenes, weights):
    """Weights of a tiny network that finds people, if not the right ones; returns its options."""
    options = [*TINY, "DATASET.ROOT", str(scenes)]
    torch.manual_seed(0)
    network = build_model(load_config(QUICKSTART, options)).eval()
    image = torch.from_numpy(read_image(photos(scenes)[0])).permute(2, 0, 1)[None]
    torch.save(lively(network, image[..., :192, :192]).state_dict(), weights)
    return [*options, "TEST.MODEL_FILE", str(weights)]


def photos(scenes):
    return sorted((scenes / "images" / "val2017").iterdir())


def run(options, *arguments):
    """The command in this process; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main("export", ["--cfg", QUICKSTART, *map(str, arguments), *options])
    return printed.getvalue()


@pytest.fixture(scope="module", params=[pytest.param("model.onnx", marks=pytest.mark.slow)])
def shipped(request, trained, tmp_path_factory):
    """model.onnx and model.int8.onnx, verified and scored; and what was printed."""
    path = tmp_path_factory.mktemp("shipped") / request.param
    checks = ["--verify", "--data", 3, "--int8", "--calibrate", 3]
    return path, run(trained, "--output", path, *checks)


def test_the_file_is_the_network_at_any_size_and_batch(shipped, trained, record_difference):
    exported = OnnxPredictor.load(shipped[0])
    network = load_model(load_config(QUICKSTART, trained)).eval()
    for batch, size in [(1, (64, 64)), (2, (96, 256)), (5, (160, 64)), (1, (512, 768))]:
        images = example(batch, size, seed=batch)
        outputs = exported.network(images.numpy())
        with torch.no_grad():
            coarse, fine = network(normalize(images))
        wanted = {"heatmaps_4": coarse.heatmaps, "tags_4": coarse.tags, "heatmaps_2": fine.heatmaps}
        assert set(outputs) == set(wanted)
        for name, maps in wanted.items():
            away = abs(outputs[name] - maps.numpy()).max() / abs(maps).max()
            record_difference(f"export: {name} against the network (relative)", away)
            assert away < 1e-5


def share_of_others(exported, predictor, paths):
    """The share of people in photos that differ by more than a hundredth of a pixel.

    A network that was never trained has near-ties in some of every hundred: two cells whose scores
    differ by less than the rounding of two libraries, on some processors.
    """
    people, others = 0, 0
    for path in paths:
        image = read_image(path)
        found, expected = exported(image).joints, predictor(image).joints
        assert found.shape == expected.shape, path.name
        assert len(found) > 1
        away = abs(found[:, None] - expected).max((2, 3))  # (N, N)
        people += len(found)
        others += (away.min(1) > 1e-2).sum()
    return others / people


def test_the_file_finds_the_predictors_people(shipped, trained, scenes):
    exported, predictor = (
        OnnxPredictor.load(shipped[0]),
        load_predictor(load_config(QUICKSTART, trained)),
    )
    assert share_of_others(exported, predictor, photos(scenes)) <= 0.02


def test_a_config_with_the_file_predicts_as_it_was_exported(shipped, trained, scenes):
    config = load_config(QUICKSTART, [*trained, "TEST.MODEL_FILE", str(shipped[0])])
    image = read_image(photos(scenes)[0])
    found, expected = load_predictor(config)(image), OnnxPredictor.load(shipped[0])(image)
    assert np.array_equal(found.joints, expected.joints)
    other = load_config(
        QUICKSTART, ["TEST.MODEL_FILE", str(shipped[0]), "DATASET.SKELETON", "mpii"]
    )
    with pytest.raises(ValueError, match="not of this config: the family or the joints differ"):
        load_predictor(other)


REAL = ROOT.parent / "shared" / "data" / "coco_subset" / "images" / "val2017"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"there are no photos in {REAL}")
def test_people_in_photos_are_the_same_to_a_hundredth_of_a_pixel(
    shipped, trained, record_difference
):
    exported, predictor = (
        OnnxPredictor.load(shipped[0]),
        load_predictor(load_config(QUICKSTART, trained)),
    )
    others = share_of_others(exported, predictor, sorted(REAL.iterdir())[:20])
    record_difference("export: people in photos who are others (share)", others)
    assert others <= 0.02


def test_the_file_describes_its_use(shipped, trained):
    metadata = {each.key: each.value for each in onnx.load(shipped[0]).metadata_props}
    exported_model = from_json(metadata["hrpose"])
    config = load_config(QUICKSTART, trained)
    predictor = load_predictor(config)
    assert exported_model.spec == predictor.spec
    assert exported_model.spec.skeleton == COCO
    assert (exported_model.strides, exported_model.spec.views) == ((4, 2), ("identity", "flip"))
    weights = (ROOT / config.TEST.MODEL_FILE).read_bytes()
    assert exported_model.weights_sha256 == hashlib.sha256(weights).hexdigest()
    onnx.checker.check_model(onnx.load(shipped[0]), full_check=True)


def test_the_file_names_its_sides_and_no_folders(shipped):
    model = onnx.load(shipped[0])
    sides = [side.dim_param for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", "", "32*rows", "32*columns"]
    assert re.search(rb"\w\.py\b", shipped[0].read_bytes()) is None


def test_what_is_printed_compares_files_sizes_and_figures(shipped):
    printed = shipped[1]
    assert "3 images of val2017" in printed
    for row in ("network  ", "model.onnx  ", "model.int8.onnx  "):
        assert re.search(rf"^{re.escape(row)}( +-?\d\.\d+){{10}}$", printed, re.MULTILINE)
    row = r"^[13]  +\d+ x \d+( +\de-\d\d| +\d\.\de[+-]\d\d){3}$"
    assert len(re.findall(row, printed, re.MULTILINE)) == 16


def test_whole_numbers_are_smaller_and_leave_the_heads_alone(shipped):
    path = shipped[0].with_name("model.int8.onnx")
    assert path.stat().st_size < 0.6 * shipped[0].stat().st_size
    model = onnx.load(path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    heads = {kinds[name] for name in kinds if "heads." in name}
    assert heads == {onnx.TensorProto.FLOAT}
    whole = [kind for kind in kinds.values() if kind == onnx.TensorProto.INT8]
    assert len(whole) > 40
    assert OnnxPredictor.load(path).model == OnnxPredictor.load(shipped[0]).model


def test_the_runtime_computes_all_but_the_heads_in_whole_numbers(shipped, tmp_path):
    """A convolution between two roundings, left in float, would be slower than without them."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    whole = shipped[0].with_name("model.int8.onnx")
    onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") > 10
    assert sum(kind in ("Conv", "FusedConv") for kind in kinds) == 2
    assert not {"Add", "Relu"} & set(kinds)


def test_nodes_before_the_heads_are_all_that_is_quantised(shipped):
    model = onnx.load(shipped[0])
    names = set(int8.before_heads(model))
    behind = {node.name for node in model.graph.node} - names
    heads = [node for node in model.graph.node if any("heads." in name for name in node.input)]
    assert len(heads) == 2
    assert {node.name for node in heads} <= behind
    convolutions = [node.name for node in model.graph.node if "Conv" in node.op_type]
    assert len(names & set(convolutions)) == len(convolutions) - 2


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from hrpose.inference.onnx_predictor import main
main(sys.argv[1:])
assert "onnx" not in sys.modules and "yacs" not in sys.modules
"""


def test_without_torch_the_command_finds_the_same(shipped, trained, scenes, tmp_path):
    images = photos(scenes)[:2]
    command = [sys.executable, "-c", WITHOUT_TORCH, shipped[0], *images, "--output"]
    subprocess.run([*command, tmp_path / "poses.json"], check=True)
    found = json.loads((tmp_path / "poses.json").read_text())
    predictor = load_predictor(load_config(QUICKSTART, trained))
    for path in images:
        own = [pose for pose in found if pose["file_name"] == str(path)]
        poses = predictor(read_image(path))
        np.testing.assert_allclose(
            [pose["keypoints"] for pose in own], poses.joints.reshape(len(own), -1), atol=1e-2
        )


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["missing.onnx", "x.jpg"], "no model at missing.onnx"),
        ([__file__, "x.jpg"], "is no ONNX model"),
        (["missing.onnx", "x.jpg", "--output", "missing.onnx"], "*.json"),
        (["missing.onnx", "x.jpg", "--output", f"{__file__}/poses.json"], "cannot be written"),
    ],
)
def test_the_commands_mistakes_are_named_in_a_line(arguments, cure):
    command = [sys.executable, "-m", "hrpose.inference.onnx_predictor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert cure in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_hrpose_did_not_write_is_no_model_of_ours(shipped, tmp_path):
    model = onnx.load(shipped[0])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="tools/export.py"):
        OnnxPredictor.load(tmp_path / "foreign.onnx")


def test_a_photo_that_is_none_is_named(shipped, tmp_path, capsys):

    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(SystemExit):
        onnx_predictor.main([str(shipped[0]), str(tmp_path / "empty.jpg")])
    assert "empty.jpg (0 bytes) is not a readable image" in capsys.readouterr().err


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--output", "model.pt"], r"writes \*.onnx"),
        (["--output", "model.onnx", "--format", "torch"], r"writes \*.pt2"),
        (["--output", "model.pt2", "--format", "torch", "--int8"], "--format onnx"),
        (["--output", "a.onnx", "--decode", "peaks", "TEST.SCALE_FACTOR", "[1,2]"], "one scale"),
        (["--output", "a.onnx", "TEST.GT_HEATMAPS", "true"], "annotations"),
        (["--output", "a.onnx", "--int8", "--calibrate", "0"], "above 0"),
        (["--output", "a.onnx", "--calibrate", "8"], "--int8"),
        (["--output", "a.onnx", "--data", "-1"], "below"),
        (["--output", "a.onnx", "TEST.MODEL_FILE", ""], "TEST.MODEL_FILE is empty"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    trained, tmp_path, monkeypatch, capsys, arguments, cure
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main("export", ["--cfg", QUICKSTART, *trained, *arguments])
    assert stopped.value.code == 2
    assert re.search(cure, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(shipped, trained, capsys):
    before = shipped[0].read_bytes()
    with pytest.raises(SystemExit):
        run(trained, "--output", shipped[0])
    assert "--force" in capsys.readouterr().err
    assert shipped[0].read_bytes() == before


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"onnxscript is missing; pip install .*hrpose\[export\]"):
        formats.require_extra()


@pytest.mark.parametrize("spoil", [lambda maps: maps * 1.01, lambda maps: maps * np.nan])
def test_a_file_that_is_off_fails_its_verification(trained, spoil):
    graph = NetworkGraph(load_model(load_config(QUICKSTART, trained)))

    def network(images):
        with torch.no_grad():
            outputs = {name: maps.numpy() for name, maps in graph(torch.from_numpy(images)).items()}
        return {**outputs, "tags_4": spoil(outputs["tags_4"])}

    seen = list(verify.compare(graph, network))
    assert max(each.differences["heatmaps_4"] for each in seen) == 0
    with pytest.raises(ValueError, match="do not ship it"):
        verify.check_tolerance(seen, "model.onnx")


# The other graphs and formats -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind, flip", [("onnx", "true"), ("torch", "false")])
def test_a_graph_with_peaks_is_verified_and_finds_the_same(
    trained_shallow, scenes, tmp_path, kind, flip
):
    path = tmp_path / f"model{formats.FORMATS[kind].suffix}"
    trained = [*trained_shallow, "TEST.FLIP_TEST", flip]
    printed = run(trained, "--output", path, "--format", kind, "--decode", "peaks", "--verify")
    exact = re.findall(r"^[13]  +\d+ x \d+.* 0\.0e\+00$", printed, re.MULTILINE)
    assert len(exact) == 8  # peaks to the bit
    exported = formats.FORMATS[kind].load(path)
    predictor = load_predictor(load_config(QUICKSTART, trained))
    assert share_of_others(exported, predictor, photos(scenes)) <= 0.02


@pytest.mark.slow
def test_swahr_ships_without_its_scale_branch(scenes, tmp_path):
    options = [*TINY, "DATASET.ROOT", str(scenes), "MODEL.NAME", "swahr"]
    network = build_model(load_config(QUICKSTART, options)).eval()
    torch.save(network.state_dict(), tmp_path / "swahr.pth")
    path = tmp_path / "swahr.pt2"
    weights = ["TEST.MODEL_FILE", str(tmp_path / "swahr.pth")]
    tool("export", "--cfg", QUICKSTART, "--output", path, "--format", "torch", *options, *weights)
    shipped = torch.export.load(path).state_dict
    assert set(shipped) == {f"network.{name}" for name in network.network.state_dict()}


def test_a_broken_photo_costs_no_other(shipped, scenes, tmp_path, capsys):
    """The others' poses are written before it is named."""
    text, output = tmp_path / "text.jpg", tmp_path / "poses.json"
    text.write_text("no photo")
    flat, folder = tmp_path / "flat.png", tmp_path / "folder"
    cv2.imwrite(str(flat), np.zeros((20, 700, 3), np.uint8))
    folder.mkdir()
    given = [shipped[0], text, flat, folder, tmp_path / "none.jpg", photos(scenes)[0]]
    given += ["--output", output]
    with pytest.raises(SystemExit) as stop:
        onnx_predictor.main([str(each) for each in given])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert "people in 1 images" in printed.out
    assert re.search("text.jpg .* not a readable image", printed.err)
    assert "flat.png: an image of 700 x 20 is more than 32 times" in printed.err
    assert f"no image at {folder}: it is a folder" in printed.err
    assert f"no image at {tmp_path / 'none.jpg'}" in printed.err
    kept = output.read_text()
    poses = json.loads(kept)
    assert poses and {pose["file_name"] for pose in poses} == {str(photos(scenes)[0])}
    assert {(pose["image_id"], pose["category_id"]) for pose in poses} == {(5, 1)}
    with pytest.raises(SystemExit):
        onnx_predictor.main([str(shipped[0]), str(text), "--output", str(output), "--force"])
    assert output.read_text() == kept  # nothing was found that could replace it
    with pytest.raises(SystemExit):
        onnx_predictor.main([str(shipped[0]), str(photos(scenes)[1]), "--output", str(output)])
    assert "exists; name another file, or add --force" in capsys.readouterr().err
    assert output.read_text() == kept


def test_results_before_an_interruption_are_kept(shipped, scenes, tmp_path, monkeypatch, capsys):
    paths = photos(scenes)[:2]

    def interrupted(path):
        if path == paths[1]:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr(onnx_predictor, "read_image", interrupted)
    output = tmp_path / "poses.json"
    with pytest.raises(SystemExit) as stop:
        onnx_predictor.main([*map(str, (shipped[0], *paths)), "--output", str(output)])
    assert stop.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert {pose["file_name"] for pose in json.loads(output.read_text())} == {str(paths[0])}
