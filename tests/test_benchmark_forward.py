"""The benchmark of the network at test compares like with like."""

import json

import numpy as np
import pytest
import torch

from crowded_scenes import CPU, QUICKSTART
from hrpose.build import build_model
from hrpose.config import load_config
from hrpose.ops.pixels import normalise
from hrpose.programs.benchmark import main
from hrpose.programs.benchmarking import forward
from hrpose.programs.benchmarking.forward import MS, RATIO, SHARE, Task, benchmark_forward, farthest
from hrpose.programs.benchmarking.ways import PLAIN, WAYS, random_network
from hrpose.programs.exporting.graphs import example

SIZES = (
    "MODEL.WIDTH 8 MODEL.STEM 8 MODEL.BLOCKS 1 MODEL.MODULES [1,1,1] DATASET.INPUT_SIZE 64 "
    "DEVICE cpu"
)
SMALL = SIZES.split()


def task(*overrides, sizes=(64,), batch=1):
    return Task(QUICKSTART, [*SMALL, *overrides], CPU, sizes, batch)


def eager():
    return [way for way in WAYS if "compiled" not in way.words]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_way_is_what_it_is_called(way):
    test = load_config(QUICKSTART, way.overrides).TEST
    said = {"channels last": test.CHANNELS_LAST, "folded": test.FOLD_NORMS}
    said |= {"compiled": test.COMPILE, "bf16": test.PRECISION == "bf16"}
    assert {word for word, holds in said.items() if holds} == set(way.words)
    assert way.precision == test.PRECISION


def test_every_way_has_its_row_at_every_size():
    report = benchmark_forward(task(sizes=(64, 96), batch=2), eager(), [], 2)
    names = [way.name for way in eager()]
    for size, rows in report.numbers["sizes"].items():
        assert size in (64, 96) and [row[""] for row in rows] == names
        plain, *others = rows
        assert plain[RATIO] == {"median": 1, "least": 1, "most": 1}
        assert plain["heatmaps off by"] == plain["tags off by"] == 0
        for row in others:
            low, high = row[MS]["least"] / plain[MS]["most"], row[MS]["most"] / plain[MS]["least"]
            assert low <= row[RATIO]["least"] <= row[RATIO]["most"] <= high
            bound = 0.3 if "bf16" in row[""] else 1e-4
            assert 0 < row["heatmaps off by"] < bound and 0 < row["tags off by"] < bound
            assert row[SHARE]["median"] > 0
    assert len(report.tables) == 2 and "| channels last, folded |" in report.tables[0]
    assert "Random weights" in report.text()


def test_a_random_network_says_something_everywhere():
    config = load_config(QUICKSTART, SMALL)
    with torch.inference_mode():
        for output in random_network(config)(normalise(example(1, (64, 64)))):
            spread = output.heatmaps.flatten(2).std(-1)
            assert (spread > 0).all() and output.heatmaps.abs().max() < 100


def test_a_way_that_cannot_be_gone_costs_no_other(monkeypatch):
    monkeypatch.setenv("CXX", "no_such_compiler")
    report = benchmark_forward(task(), [WAYS[0], WAYS[3], WAYS[1]], [], 1)
    assert [row[""] for row in report.numbers["sizes"][64]] == [PLAIN, WAYS[1].name]
    assert "no no_such_compiler" in report.text()


def test_a_way_that_fails_at_work_costs_no_other(monkeypatch):
    def ready(config, model):
        if config.TEST.CHANNELS_LAST:
            return lambda images: torch.empty(0).view(7)
        return model

    monkeypatch.setattr(forward, "build_inference_model", ready)
    report = benchmark_forward(task(), [WAYS[0], WAYS[1]], [], 1)
    assert [row[""] for row in report.numbers["sizes"][64]] == [PLAIN]
    assert "Not measured: channels last, since shape '[7]' is invalid" in report.text()


def test_the_farthest_of_several_maps_counts_each_in_its_own_range():
    plain = {"heatmaps_4": torch.tensor([0.0, 10]), "heatmaps_2": torch.tensor([0.0, 1])}
    maps = {"heatmaps_4": torch.tensor([1.0, 10]), "heatmaps_2": torch.tensor([0.0, 0.8])}
    assert farthest("heatmaps", maps, plain) == pytest.approx(0.2)
    assert farthest("heatmaps", {"heatmaps": plain["heatmaps_2"]}, plain) is None


def test_weights_that_are_given_are_looked_with(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_model(load_config(QUICKSTART, SMALL)).state_dict(), path)
    report = benchmark_forward(task("TEST.MODEL_FILE", str(path)), WAYS[:2], [], 1)
    assert report.numbers["weights"] == str(path)
    assert "Random weights" not in report.text()


# Files that were shipped ------------------------------------------------------------------------


def write_onnx(path, dtype):
    """A graph that says of images of 64 px what nobody else says: their mean over 4 x 4 pixels."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kinds, make = onnx.TensorProto, onnx.helper
    given = make.make_tensor_value_info("images", dtype(kinds), ["n", 3, "h", "w"])
    given_out = make.make_tensor_value_info("heatmaps_4", kinds.FLOAT, ["n", 3, "a", "b"])
    nodes = [
        make.make_node("Cast", ["images"], ["numbers"], to=kinds.FLOAT),
        make.make_node(
            "AveragePool", ["numbers"], ["heatmaps_4"], kernel_shape=[4, 4], strides=[4, 4]
        ),
    ]
    graph = make.make_graph(nodes, "means", [given], [given_out])
    opset = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.mark.parametrize("kind", ["UINT8", "FLOAT"])
def test_a_shipped_file_takes_its_turns(tmp_path, kind):
    path = tmp_path / "means.onnx"
    write_onnx(path, lambda kinds: getattr(kinds, kind))
    side = forward.shipped_side(path)
    images = example(2, (64, 64))
    maps = side.maps(side.look(images))
    truth = images.float() if kind == "UINT8" else normalise(images)
    np.testing.assert_allclose(
        maps["heatmaps_4"], torch.nn.functional.avg_pool2d(truth, 4), rtol=1e-5, atol=1e-5
    )
    report = benchmark_forward(task(batch=2), WAYS[:1], [path], 1)
    plain, mine = report.numbers["sizes"][64]
    assert mine[""] == "means.onnx" and mine[MS]["median"] > 0
    assert mine["heatmaps off by"] is None and mine[SHARE] is None


# The command ------------------------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path, capsys):
    asked = ["forward", "--cfg", QUICKSTART, "--size", "64,96", "--blocks", "1"]
    skipped = ["--skip", "compiled", "--skip", "bf16", "--json", str(tmp_path / "numbers.json")]
    main([*asked, *skipped, *SMALL])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert list(numbers["sizes"]) == ["64", "96"]
    assert [row[""] for row in numbers["sizes"]["96"]] == [way.name for way in WAYS[:3]]
    assert "Matmul rate" in capsys.readouterr().out


@pytest.mark.slow
def test_the_compiled_way_has_its_row():
    compiled = [way for way in WAYS if "compiled" in way.words][0]
    report = benchmark_forward(task(sizes=(320,)), [WAYS[0], compiled], [], 1)
    plain, mine = report.numbers["sizes"][320]
    assert mine["heatmaps off by"] < 1e-4 and mine["first images, s"] > 0


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--size", "500"], "multiples of 32"),
        (["--size", "many"], "many is no whole number"),
        (["--skip", "compield"], "compiled"),
        (["--onnx", "nowhere.onnx", "--skip", "compiled"], "tools/export.py"),
        (["TEST.MODEL_FILE", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_a_mistake_ends_with_its_cure(arguments, cure, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["forward", "--cfg", QUICKSTART, *arguments, *SMALL])
    assert ended.value.code == 2
    assert cure in capsys.readouterr().err
