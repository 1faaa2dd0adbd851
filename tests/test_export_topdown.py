"""Shipped top-down files: the network at any batch, the predictor's poses, without torch."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from boxed_people import scattered_boxes
from commands import ROOT, SMALL, run
from hrpose.builders import load_predictor
from hrpose.builders.common import build_model, load_model
from hrpose.builders.datasets import read_split
from hrpose.builders.topdown import build_test_images
from hrpose.config import load_config
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import from_json
from hrpose.ops.normalize import normalize
from hrpose.programs.exporting.formats import FORMATS
from hrpose.programs.exporting.graphs import example

TOP_DOWN = str(ROOT / "configs" / "topdown" / "quickstart.yaml")
REAL = ROOT.parent / "shared" / "data" / "coco_subset"
TINY = [
    *SMALL,
    *("DATASET.INPUT_SIZE", "[96,128]", "MODEL.BACKBONE.BOTTLENECKS", "1"),
    *("TEST.FLIP_TEST", "true", "TEST.BOXES", "truth", "TEST.BATCH", "16"),
]


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """Weights of a tiny network whose maps have peaks of up to 1, and its options."""
    options = [*TINY, "DATASET.ROOT", str(scenes)]
    torch.manual_seed(0)
    network = build_model(load_config(TOP_DOWN, options)).eval()
    with torch.no_grad():
        maps = network(normalize(example(4, (128, 96))))[0].heatmaps
        mean, std = maps.mean((0, 2, 3)), maps.std((0, 2, 3))
        network.head.weight *= (0.2 / std)[:, None, None, None]
        network.head.bias.copy_((network.head.bias - mean) * 0.2 / std + 0.1)
    weights = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(network.state_dict(), weights)
    return [*options, "TEST.MODEL_FILE", str(weights)]


@pytest.fixture(scope="module", params=[pytest.param("model.onnx", marks=pytest.mark.slow)])
def shipped(request, trained, tmp_path_factory):
    """model.onnx, verified and scored, and what was printed."""
    path = tmp_path_factory.mktemp("shipped") / request.param
    checks = ["--verify", "--data", 3]
    return path, run("export", "--cfg", TOP_DOWN, "--output", path, *checks, *trained)


def test_what_is_printed_compares_maps_and_figures(shipped):
    printed = shipped[1]
    assert len(re.findall(r"^(1|3|33) +128 x 96 +\d\.\de-\d\d$", printed, re.MULTILINE)) == 3
    assert "model.onnx agrees with the network" in printed
    assert "\n3 images of val2017, on truth boxes\n" in printed
    for row in ("network", "model.onnx"):
        assert re.search(rf"^{re.escape(row)} +( +-?\d\.\d+){{10}}$", printed, re.MULTILINE)


def assert_is_the_network(exported, network, record_difference):
    for batch in (1, 3, 33):
        images = example(batch, exported.spec.network_size, seed=batch)
        (name, maps), *others = exported.network(images.numpy()).items()
        with torch.no_grad():
            wanted = network(normalize(images))[0].heatmaps
        assert name == "heatmaps_4" and not others and maps.shape == wanted.shape
        away = abs(maps - wanted.numpy()).max() / abs(wanted).max()
        record_difference("export, top-down: heatmaps against the network (relative)", away)
        assert away < 1e-5


def test_the_file_is_the_network_at_any_batch(shipped, trained, record_difference):
    network = load_model(load_config(TOP_DOWN, trained)).eval()
    assert_is_the_network(OnnxPredictor.load(shipped[0]), network, record_difference)


def share_of_others(exported, predictor, images):
    """The share of joints that are not the predictor's to a hundredth of a pixel.

    Two cells whose values differ by less than the rounding of two libraries are a near tie.
    """
    joints = others = 0
    for _, (image, boxes, scores) in images:
        found, expected = exported(image, boxes, scores), predictor(image, boxes, scores)
        assert found.box_indices.tolist() == expected.box_indices.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        joints += (expected.joints[..., 2] > 0).sum()
        others += (abs(found.joints - expected.joints).max(-1) > 1e-2).sum()
    assert joints > 50
    return others / joints


def boxed_images(options, count):
    config = load_config(TOP_DOWN, options)
    split = read_split(config, config.DATASET.VAL)
    images = build_test_images(config, split.records[:count], split.images)
    return [images[i] for i in range(len(images))]


@pytest.mark.parametrize("flip", ["true", "false"])
@pytest.mark.parametrize("coordinates", ["published", "unbiased"])
def test_the_file_finds_the_predictors_poses(shipped, trained, coordinates, flip):
    """The graph is the same whatever the coordinates and views: they are in the metadata."""
    options = [*trained, "MODEL.COORDINATES", coordinates, "TEST.FLIP_TEST", flip]
    predictor = load_predictor(load_config(TOP_DOWN, options))
    loaded = OnnxPredictor.load(shipped[0])
    exported = OnnxPredictor(loaded.network, loaded.model._replace(spec=predictor.spec))
    images = boxed_images(options, 6)
    image = images[0][1][0]
    size = image.shape[1::-1]
    images += [
        (0, (image, *scattered_boxes(seed, count, size))) for seed, count in [(0, 40), (1, 1)]
    ]
    assert share_of_others(exported, predictor, images) <= 0.01


@pytest.mark.skipif(not REAL.is_dir(), reason=f"there are no real images in {REAL}")
@pytest.mark.parametrize("coordinates", ["published", "unbiased"])
def test_poses_in_real_images_are_the_same(shipped, trained, coordinates, record_difference):
    options = [*trained, "DATASET.ROOT", str(REAL), "MODEL.COORDINATES", coordinates]
    predictor = load_predictor(load_config(TOP_DOWN, options))
    loaded = OnnxPredictor.load(shipped[0])
    exported = OnnxPredictor(loaded.network, loaded.model._replace(spec=predictor.spec))
    others = share_of_others(exported, predictor, boxed_images(options, 20))
    record_difference("export, top-down: joints in real images that are others (share)", others)
    assert others <= 0.01


def test_the_file_describes_its_use(shipped, trained):
    model = onnx.load(shipped[0])
    (metadata,) = (each.value for each in model.metadata_props if each.key == "hrpose")
    exported = from_json(metadata)
    assert exported.spec == load_predictor(load_config(TOP_DOWN, trained)).spec
    assert (exported.strides, exported.graph) == ((4,), "network")
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ["batch", 3, 128, 96]
    onnx.checker.check_model(model, full_check=True)


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
import numpy as np
from hrpose.inference.onnx_predictor import OnnxPredictor
given = np.load(sys.argv[2])
poses = OnnxPredictor.load(sys.argv[1])(given["image"], given["boxes"], given["scores"])
assert "onnx" not in sys.modules and "yacs" not in sys.modules
print(json.dumps([poses.joints.tolist(), poses.scores.tolist(), poses.box_indices.tolist()]))
"""


def test_without_torch_the_same_is_found(shipped, trained, tmp_path):
    _, (image, boxes, scores) = max(boxed_images(trained, 6), key=lambda each: len(each[1][1]))
    np.savez(tmp_path / "given.npz", image=image, boxes=boxes, scores=scores)
    command = [sys.executable, "-c", WITHOUT_TORCH, shipped[0], tmp_path / "given.npz"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    joints, found, indices = json.loads(done.stdout)
    poses = load_predictor(load_config(TOP_DOWN, trained))(image, boxes, scores)
    assert indices == poses.box_indices.tolist() and len(indices) > 1
    np.testing.assert_allclose(found, poses.scores, atol=1e-4)
    np.testing.assert_allclose(joints, poses.joints, atol=1e-2)


def test_a_release_is_exported_for_torch(shipped, trained, tmp_path, record_difference):
    weights, release = trained[-1], tmp_path / "release.safetensors"
    run("convert", weights, release, "--cfg", TOP_DOWN, *trained[:-2])
    path = tmp_path / "model.pt2"
    given = ["--output", path, "--format", "torch", *trained, "TEST.MODEL_FILE", release]
    run("export", "--cfg", TOP_DOWN, *given)
    exported = FORMATS["torch"].load(path)
    assert exported.spec == OnnxPredictor.load(shipped[0]).spec
    network = load_model(load_config(TOP_DOWN, trained)).eval()
    assert_is_the_network(exported, network, record_difference)
    predictor = load_predictor(load_config(TOP_DOWN, trained))
    assert share_of_others(exported, predictor, boxed_images(trained, 2)) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_attention_and_pyramid_are_exported(shallow, scenes, tmp_path, kind, record_difference):
    """RAM weighs the branches of each image apart; GPR deconvolves and interpolates."""
    options = [*TINY, "DATASET.ROOT", str(scenes), "DATASET.INPUT_SIZE", "[64,96]"]
    options += ["MODEL.RAM.ENABLED", "true", "MODEL.GPR.ENABLED", "true"]
    torch.manual_seed(0)
    network = build_model(load_config(TOP_DOWN, options)).eval()
    with torch.no_grad():
        for name, values in network.named_parameters():
            if ".scores." in name or name.endswith(("omega", "beta")):  # at first a plain sum
                values.add_(torch.randn_like(values))
    torch.save(network.state_dict(), tmp_path / "ram_gpr.pth")
    path = tmp_path / f"model{FORMATS[kind].suffix}"
    options += ["TEST.MODEL_FILE", str(tmp_path / "ram_gpr.pth")]
    run("export", "--cfg", TOP_DOWN, "--output", path, "--format", kind, *options)
    assert_is_the_network(FORMATS[kind].load(path), network, record_difference)


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--decode", "peaks"], "for bottom-up networks; .*pose_hrnet is top-down"),
        (["--int8"], "for bottom-up networks; .*pose_hrnet is top-down"),
        (["--data", 2, "TEST.BOXES", ""], "TEST.BOXES is empty"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    trained, tmp_path, arguments, cure
):
    path = tmp_path / "model.onnx"
    printed = run("export", "--cfg", TOP_DOWN, "--output", path, *trained, *arguments, status=2)
    assert re.search(cure, printed.replace("\n", " ")) and not path.exists()
