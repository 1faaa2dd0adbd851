"""Benchmarks measure what they say they do. How fast anything is, is not asserted."""

import itertools
import json
from functools import partial

import pytest
import torch

from crowded_scenes import CPU, QUICKSTART, crowded, small
from hrpose.config import load_config
from hrpose.programs.benchmark import main
from hrpose.programs.benchmarking import ladder as ladders
from hrpose.programs.benchmarking.ladder import RUNGS, Ladder
from hrpose.programs.benchmarking.report import number, paired_report
from hrpose.programs.benchmarking.sides import (
    PHASES,
    WARM_UP,
    Batches,
    configured_side,
    fetched,
    measure,
    plain_side,
    watched,
)
from hrpose.programs.benchmarking.timing import Stopwatch, spread, take_turns


@pytest.fixture
def options(scenes):
    return small(scenes)


def test_steps_of_several_passes_are_refused(options):
    config = load_config(QUICKSTART, [*options, "TRAIN.IMAGES_PER_DEVICE", "2"])
    with pytest.raises(ValueError, match="TRAIN.IMAGES_PER_DEVICE 0"):
        configured_side(config, CPU, Batches(iter(()), 4))


def test_sides_take_turns():
    turns = []

    def block(name):
        turns.append(name)
        return {"images/s": len(turns)}

    measured = take_turns({name: partial(block, name) for name in "ab"}, 3)
    assert turns == ["a", "b"] * 3
    assert measured == {"a": {"images/s": [1, 3, 5]}, "b": {"images/s": [2, 4, 6]}}


def test_a_ratio_is_that_of_pairs_and_above_1_where_the_first_is_better():
    measured = {
        "ours": {"images/s": [10.0, 20.0, 90.0], "step, ms": [1.0, 2.0, 3.0], "only": [1.0]},
        "plain": {"images/s": [5.0, 5.0, 30.0], "step, ms": [2.0, 8.0, 6.0]},
    }
    report = paired_report(measured)
    assert report.numbers["ratios"] == {
        "images/s": {"median": 3, "least": 2, "most": 4},
        "step, ms": {"median": 2, "least": 2, "most": 4},
    }
    assert "| images/s | 20.0 (10.0 to 90.0) | 5.00 (5.00 to 30.0) | 3.00 (2.00 to 4.00) |" in (
        report.text()
    )


def test_shares_are_of_the_phases_alone():
    report = paired_report({"ours": {"step": [9.0], "a": [1.0], "b": [3.0]}}, ["a", "b"])
    assert report.numbers["shares"]["ours"] == {"a": 0.25, "b": 0.75}
    assert report.numbers["ratios"] == {}
    assert "3.00, 75%" in report.text()


def test_numbers_are_written_without_exponents():
    values = [123456, 99.94, 9.994, 0.9994, 0.00012]
    assert [number(value) for value in values] == ["123456", "99.9", "9.99", "0.999", "0.000120"]
    assert number(0) == "0"
    assert spread([3, 1, 2]) == (2, 1, 3)


@pytest.mark.parametrize("number", [0, 1])
def test_a_watched_step_tells_its_phases_and_then_is_as_it_was(options, number):
    config = load_config(QUICKSTART, options)
    build = (configured_side, plain_side)[number]
    side = build(config, CPU, fetched(crowded(config)[number]))
    watch = Stopwatch(lambda: None)
    with watched(side, watch):
        watch.start()
        side.take(next(side.batches.source))
    assert set(watch.laps) == set(PHASES[1:-1])
    side.take(next(side.batches.source))
    assert all(len(laps) == 1 for laps in watch.laps.values())
    assert "outputs" not in vars(side.step)


def test_what_workers_had_ready_is_not_counted(options):
    config = load_config(QUICKSTART, options)
    seen, batch = [], next(iter(crowded(config)[1]))
    numbered = (seen.append(i) or batch for i in itertools.count())
    figures = measure(plain_side(config, CPU, Batches(numbered, 4, ready=5)), steps=2)
    assert len(seen) == 5 + WARM_UP + 2 + 2
    assert list(figures) == ["images/s", "step, ms", *PHASES]
    assert figures["images/s"] * figures["step, ms"] == pytest.approx(4 * 1000)


@pytest.mark.parametrize(("start", "room", "best"), [(1, 6, 4), (16, 6, 4), (4, 4, 4), (1, 1, 1)])
def test_the_largest_batch_is_found_from_below_and_from_above(options, start, room, best):
    ladder = Ladder(QUICKSTART, options, CPU)
    ladder.peak = lambda rung, config, batch: 100.0 * batch if batch <= room else None
    trial = ladder.largest(RUNGS[0], start)
    assert (trial.batch, trial.peak) == (best, 100 * best)


def test_a_rung_that_fails_costs_no_other(options):
    ladder = Ladder(QUICKSTART, options, CPU)

    def peak(rung, config, batch):
        if rung.name == "bf16":
            raise RuntimeError("no compiler\nand a long story")
        return 1.0

    ladder.peak = peak
    assert [trial.rung for trial in ladder.trials(2)] == [r for r in RUNGS if r.name != "bf16"]
    assert ladder.failed == {"bf16": "no compiler"}


def test_a_batch_that_fits_no_more_is_given_back(options, monkeypatch):
    ladder = Ladder(QUICKSTART, options, CPU)

    def peak_memory(build):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(ladders, "peak_memory", peak_memory)
    assert ladder.peak(RUNGS[0], None, 4) is None
    with pytest.raises(ValueError, match="a batch of 4 does not fit"):
        ladder.given(RUNGS[0], 4)


def test_a_config_that_never_fits_says_so(options):
    ladder = Ladder(QUICKSTART, options, CPU)
    ladder.peak = lambda rung, config, batch: None
    with pytest.raises(ValueError, match="not even one image"):
        ladder.largest(RUNGS[0], 1)


# The commands -----------------------------------------------------------------------------------


def written(tmp_path, *arguments):
    """The numbers that a benchmark wrote."""
    main([*arguments[:1], "--json", str(tmp_path / "numbers.json"), *arguments[1:]])
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["circumstances"]["torch"] == torch.__version__
    assert numbers["circumstances"]["cpu"] and numbers["circumstances"]["options"]
    return numbers


def check(numbers):
    """Everything is above 0, and ratios lie between what the extremes of both sides allow."""
    (_, ours), (_, plain) = numbers["sides"].items()
    for figures in (ours, plain):
        for values in figures.values():
            assert 0 < values["least"] <= values["median"] <= values["most"]
    for quantity, ratio in numbers["ratios"].items():
        a, b = ours[quantity], plain[quantity]
        if "/s" not in quantity and "share" not in quantity:
            a, b = b, a
        low, high = a["least"] / b["most"], a["most"] / b["least"]
        assert low * 0.999 <= ratio["least"] <= ratio["median"] <= ratio["most"] <= high * 1.001


def test_tags_are_timed(tmp_path, capsys):
    sizes = ["--images", "2", "--people", "3", "--joints", "5", "--size", "8", "--blocks", "2"]
    check(written(tmp_path, "tags", "--against", "plain", *sizes))
    said = capsys.readouterr().out
    assert "| forward and backward, ms |" in said and "torch" in said


def test_the_data_path_is_timed(tmp_path, options, capsys):
    asked = ["--cfg", QUICKSTART, "--samples", "6", "--blocks", "2", "--against", "plain"]
    numbers = written(tmp_path, "data", *asked, *options)
    check(numbers)
    for shares in numbers["shares"].values():
        assert sum(shares.values()) == pytest.approx(1)
    assert numbers["ratios"]["shipped, MB per sample"]["median"] > 5
    assert "- read and decode, ms" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_is_timed(tmp_path, options, workers, capsys):
    asked = ["--cfg", QUICKSTART, "--steps", "2", "--blocks", "2", "--against", "plain"]
    numbers = written(tmp_path, "train", *asked, *options, "WORKERS", workers)
    check(numbers)
    assert set(PHASES) < set(numbers["sides"]["plain"])
    assert numbers["feed"]["workers needed"] >= 1
    said = capsys.readouterr().out
    assert "Batch 4 of 64 px" in said and "Matmul rate" in said and "One worker makes" in said


def test_training_is_timed_alone(tmp_path, options):
    numbers = written(
        tmp_path, "train", "--cfg", QUICKSTART, "--steps", "1", "--blocks", "1", *options
    )
    assert list(numbers["sides"]) == ["as configured"] and not numbers["ratios"]


@pytest.mark.slow
def test_the_ladder_is_climbed(tmp_path, options, monkeypatch, capsys):
    """All but the compiled rung, which takes minutes."""
    monkeypatch.setattr(ladders, "RUNGS", RUNGS[:-1])
    asked = ["--cfg", QUICKSTART, "--ladder", "--batch", "3", "--steps", "1", "--blocks", "2"]
    numbers = written(tmp_path, "train", *asked, *options)
    assert [rung["rung"] for rung in numbers["rungs"]] == [rung.name for rung in RUNGS[:-1]]
    for rung in numbers["rungs"]:
        assert rung["batch"] == 3 and rung["images/s"]["least"] > 0
    assert numbers["rungs"][0]["ratio to the first"] == {"median": 1, "least": 1, "most": 1}
    assert "| bf16, channels last |" in capsys.readouterr().out


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_every_rung_is_made_of_options_that_exist(rung):
    load_config(QUICKSTART, rung.overrides)


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ([], "what"),
        (["trian"], "train"),
        (["train"], "--cfg"),
        (["train", "--cfg", QUICKSTART, "--against", "mmpose"], "plain"),
        (["train", "--cfg", QUICKSTART, "--steps", "0"], "0 is no whole number above 0"),
        (["train", "--cfg", QUICKSTART, "--batch", "4"], "TRAIN.BATCH"),
        (["train", "--cfg", QUICKSTART, "--ladder", "--against", "plain"], "leave --against out"),
        (["train", "--cfg", QUICKSTART, "--ladder", "DEVICE", "cpu"], "--batch N"),
        (["train", "--cfg", "nowhere.yaml"], "nowhere.yaml"),
        (["data", "--cfg", QUICKSTART, "DATASET.ROOT", "nowhere"], "nowhere"),
        (["data", "--cfg", QUICKSTART, "TRAIN.BATHC", "4"], "TRAIN.BATCH"),
        (["tags", "--people", "many"], "many is no whole number above 0"),
    ],
)
def test_a_mistake_ends_with_its_cure(arguments, cure, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert cure in capsys.readouterr().err
