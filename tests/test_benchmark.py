"""The benchmarks report consistent figures; absolute speed is not asserted."""

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from commands import QUICKSTART, ROOT, SMALL
from hrpose.builders.common import build_model
from hrpose.config import load_config
from hrpose.models.higher_hrnet import HigherHRNet
from hrpose.programs import cli

main = partial(cli.main, "benchmark")

ONE_SCALE = ["TEST.SCALE_FACTOR", "[1]", "TEST.FLIP_TEST", "true"]
TRAINING = "hrpose.programs.benchmark_training."


@pytest.fixture
def measure(tmp_path, scenes):
    """Run a benchmark; returns its tables (title -> rows), notes and environment."""

    def run(what, *arguments):
        path = tmp_path / "numbers.json"
        config = ["--cfg", QUICKSTART] if what not in ("tags", "decode") else []
        options = [*SMALL, "MODEL.BACKBONE.MODULES", "[1,1,1]", "DATASET.ROOT", str(scenes)]
        main([what, "--json", str(path), *config, *arguments, *(options if config else [])])
        written = json.loads(path.read_text())
        assert written["environment"]["torch"] == torch.__version__
        assert written["environment"]["cpu"] and written["environment"]["options"]
        for rows in written["tables"].values():
            check(rows)
        return SimpleNamespace(**written)

    return run


def check(rows):
    """Times and rates agree, and speed-ups lie between what the extremes of both sides allow."""
    for row in rows:
        for value in row.values():
            if isinstance(value, dict):
                assert 0 < value["min"] <= value["median"] <= value["max"]
        if "speed-up" in row:
            ours, base = row["images/s"], baseline_of(rows)["images/s"]
            assert ours["min"] / base["max"] <= row["speed-up"]["min"] * 1.001
            assert row["speed-up"]["max"] <= ours["max"] / base["min"] * 1.001


def baseline_of(rows):
    """The row whose speed-up is 1 throughout."""
    ones = {"median": 1, "min": 1, "max": 1}
    [row] = [row for row in rows if row["speed-up"] == ones]
    return row


def phases_of(rows, side):
    """Milliseconds of every phase of a side, whose shares must add up to 100 %."""
    assert sum(row.get(f"{side}, %", 0) for row in rows) == pytest.approx(100)
    return {row[""]: row[f"{side}, ms"] for row in rows if f"{side}, ms" in row}


# Each benchmark ---------------------------------------------------------------------------------


def test_tags(measure, capsys):
    sizes = ["--images", "2", "--people", "3", "--joints", "5", "--size", "8", "--repeats", "1"]
    [rows] = measure("tags", "--against", "reference", *sizes).tables.values()
    assert [row[""] for row in rows] == ["reference", "as configured"]
    assert rows[0]["ms"]["median"] * rows[0]["images/s"]["median"] == pytest.approx(2000)
    assert baseline_of(rows)[""] == "reference"
    printed = capsys.readouterr().out
    assert "| as configured |" in printed and "torch" in printed


def test_data(measure):
    written = measure("data", "--samples", "6", "--repeats", "1", "--against", "reference")
    slow, ours = written.tables["A sample"]
    assert slow["MB shipped"] > 5 * ours["MB shipped"]
    rows = written.tables["Where the time of a sample goes"]
    mine, theirs = phases_of(rows, "as configured"), phases_of(rows, "reference")
    assert min(mine[name] for name in ("read", "affine", "flip", "collate", "rest")) > 0
    assert theirs["draw heatmaps"] > 0 == mine["draw heatmaps"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_train(measure, workers):
    asked = ["--steps", "2", "--repeats", "1", "--against", "reference", "WORKERS", workers]
    written = measure("train", *asked)
    slow, ours = written.tables["A step"]
    assert ours["batch"] == slow["batch"] == 4 and ours["peak memory, GiB"] > 0.01
    assert ours["ms"]["median"] * ours["images/s"]["median"] == pytest.approx(4000)
    for side in ("as configured", "reference"):
        spent = phases_of(written.tables["Where the time of a step goes"], side)
        assert len(spent) == 7 and min(spent.values()) > 0
    assert min(row["TFLOP/s"]["median"] for row in (ours, slow)) > 0


def test_train_without_reference_and_with_micro_batches(measure):
    asked = ["--steps", "1", "--repeats", "1", "TRAIN.MICRO_BATCH", "2"]
    [row] = measure("train", *asked).tables["A step"]
    assert row[""] == "as configured" and "speed-up" not in row


@pytest.mark.slow
def test_sweep(measure, monkeypatch):
    """All but the compiled one, which would take a minute."""

    def no_compiler(function):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch.compile", no_compiler)
    asked = ["--sweep", "--batch", "3", "--steps", "1", "--repeats", "1"]
    written = measure("train", *asked)
    [rows] = written.tables.values()
    assert baseline_of(rows)[""] == rows[0][""] == "reference"
    assert len(rows) == 3 and all(row["batch"] == 3 for row in rows)
    assert any("compiled, since" in note for note in written.notes)


def test_sweep_finds_the_largest_batch_that_fits(measure, monkeypatch):
    """Searching upwards and downwards; a variant that fails does not stop the others."""
    room = {"reference": 6, "fp32": 40}

    def peak(side, device):
        if side.name == "bf16":
            raise RuntimeError("no compiler\nand a long story")
        if side.size > room.get(side.name, 0):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")
        return 1.0

    monkeypatch.setattr("hrpose.programs.benchmark.build_devices", lambda _: [torch.device("meta")])
    monkeypatch.setattr(TRAINING + "Side.peak", peak)
    monkeypatch.setattr(TRAINING + "Side.build", lambda side, device, steps: lambda: None)
    written = measure("train", "--sweep", "--repeats", "1")
    [rows] = written.tables.values()
    assert {row[""]: row["batch"] for row in rows} == {"reference": 4, "fp32": 32}
    assert "Not measured: bf16, since no compiler" in written.notes
    assert any("compiled, since not one image fits" in note for note in written.notes)


def test_decode(measure):
    asked = ["--people", "1", "3", "--size", "64", "96", "--repeats", "1"]
    written = measure("decode", *asked, "--against", "reference")
    assert list(written.tables)[:3] == ["1 people", "3 people", "noise"]
    assert "Equal bit for bit: 3 of 3 scenes." in written.notes
    for scene in list(written.tables)[:3]:
        spent = phases_of(written.tables["Where the time goes"], scene)
        assert min(spent.values()) > 0 and "fill" in spent


def test_forward(measure):
    asked = ["--size", "64,96", "--batch", "2", "--repeats", "2", "--skip", "compiled"]
    written = measure("forward", *asked)
    assert list(written.tables) == ["2 x 64 x 64", "2 x 96 x 96"]
    for rows in written.tables.values():
        first, *others = rows
        assert (
            first[""] == "fp32, as trained"
            and first["heatmaps off by"] == first["tags off by"] == 0
        )
        assert [row[""] for row in others] == ["fp32", "bf16"]
        for row in others:
            bound = 0.3 if "bf16" in row[""] else 1e-4
            assert 0 < row["heatmaps off by"] < bound and 0 < row["tags off by"] < bound
            assert row["first call, s"] > 0
    assert "random" in written.notes[0]


def test_forward_with_weights_from_a_file(measure, tmp_path):
    options = [*SMALL, "MODEL.BACKBONE.MODULES", "[1,1,1]"]
    path = tmp_path / "weights.pth"
    torch.save(build_model(load_config(QUICKSTART, options)).state_dict(), path)
    asked = ["--size", "64", "--repeats", "1", "--skip", "fp32", "--skip", "bf16"]
    written = measure("forward", *asked, "TEST.MODEL_FILE", str(path))
    assert str(path) in written.notes[0]
    [[row]] = written.tables.values()
    assert row[""] == "fp32, as trained"


def test_a_variant_that_fails_does_not_stop_the_others(measure, monkeypatch):
    monkeypatch.setenv("CXX", "no_such_compiler")
    asked = ["--size", "64", "--repeats", "1", "--skip", "bf16"]
    written = measure("forward", *asked)
    rows = written.tables["1 x 64 x 64"]
    assert [row[""] for row in rows] == ["fp32, as trained", "fp32"]
    assert any("no no_such_compiler" in note for note in written.notes)


@pytest.mark.parametrize("kind", ["UINT8", "FLOAT"])
def test_an_exported_file_is_timed_too(measure, tmp_path, kind):
    """Its maps are compared where they have the shape of the network's: here the images' mean."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, kinds = onnx.helper, onnx.TensorProto
    images = make.make_tensor_value_info("images", getattr(kinds, kind), ["n", 3, "h", "w"])
    maps = make.make_tensor_value_info("heatmaps_4", kinds.FLOAT, ["n", 3, "a", "b"])
    cast = make.make_node("Cast", ["images"], ["numbers"], to=kinds.FLOAT)
    window = {"kernel_shape": [4, 4], "strides": [4, 4]}
    pool = make.make_node("AveragePool", ["numbers"], ["heatmaps_4"], **window)
    graph = make.make_graph([cast, pool], "means", [images], [maps])
    opset = [make.make_opsetid("", 17)]
    onnx.save(make.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "means.onnx")
    skip = [word for each in ("fp32", "bf16") for word in ("--skip", each)]
    asked = ["--size", "64", "--repeats", "1", *skip, "--onnx", str(tmp_path / "means.onnx")]
    [[network, mine]] = measure("forward", *asked).tables.values()
    assert mine[""] == "means.onnx" and mine["ms"]["median"] > 0
    assert mine["heatmaps off by"] is None


def test_infer(measure, monkeypatch):
    """The network, made slow here, counts as forward, and not as aggregating what it predicts."""
    forward = HigherHRNet.forward
    monkeypatch.setattr(HigherHRNet, "forward", lambda *x: time.sleep(0.2) or forward(*x))
    asked = ["--images", "2", "--repeats", "1", "--against", "reference", *ONE_SCALE]
    written = measure("infer", *asked, "WORKERS", "2")
    slow, ours = written.tables["Inference"]
    assert ours["people"] == slow["people"] and ours["AP"] == slow["AP"]
    for side in ("as configured", "reference"):
        spent = phases_of(written.tables["Where the time of an image goes"], side)
        assert spent["forward"] > 200 > spent["aggregate"] > 0
        assert min(spent[name] for name in ("read", "preprocess", "candidates")) > 0


# Mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ([], "what"),
        (["trian"], "train"),
        (["train"], "--cfg"),
        (["train", "--cfg", QUICKSTART, "--against", "mmpose"], "reference"),
        (["train", "--cfg", QUICKSTART, "--steps", "0"], "0 is not a whole number above 0"),
        (["train", "--cfg", QUICKSTART, "--batch", "4"], "TRAIN.BATCH"),
        (["train", "--cfg", QUICKSTART, "--sweep", "--against", "reference"], "leave --against"),
        (["train", "--cfg", QUICKSTART, "--sweep", "DEVICE", "cpu"], "--batch N"),
        (["train", "--cfg", "nowhere.yaml"], "nowhere.yaml"),
        (["data", "--cfg", QUICKSTART, "DATASET.ROOT", "nowhere"], "nowhere"),
        (["data", "--cfg", QUICKSTART, "TRAIN.BATHC", "4"], "TRAIN.BATCH"),
        (["tags", "--people", "many"], "many is not a whole number above 0"),
        (["tags", "--json", f"{QUICKSTART}/numbers.json"], "quickstart.yaml"),
        (["decode", "--size", "16", "64"], "32 pixels or more"),
        (["forward", "--cfg", QUICKSTART, "--size", "500"], "multiples of 32"),
        (["forward", "--cfg", QUICKSTART, "--skip", "compield"], "compiled"),
        (["forward", "--cfg", QUICKSTART, "--onnx", "nowhere.onnx", *SMALL], "tools/export.py"),
        (["forward", "--cfg", QUICKSTART, "TEST.MODEL_FILE", "nowhere.pth"], "nowhere.pth"),
        (["infer", "--cfg", QUICKSTART, "DATASET.ROOT", "nowhere"], "nowhere"),
    ],
)
def test_an_error_names_its_cure(arguments, cure, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert cure in capsys.readouterr().err


def test_the_reference_is_in_a_checkout_only(tmp_path):
    shutil.copytree(ROOT / "lib" / "hrpose", tmp_path / "lib" / "hrpose")
    program = "from hrpose.programs.cli import main; main('benchmark')"
    done = subprocess.run(
        [sys.executable, "-c", program, "tags", "--against", "reference"],
        env={"PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "only a checkout" in done.stderr or "of a clone" in done.stderr
