"""The two ways of finding people that are timed, held to finding the same ones."""

import numpy as np
import pytest
import torch

from crowded_scenes import QUICKSTART, small
from hrpose.build import build_model, build_predictor
from hrpose.config import load_config
from hrpose.inference.spec import PUBLISHED
from hrpose.programs.benchmark import main
from hrpose.programs.benchmarking.crowd_maps import Crowd, crowd_maps, noise_maps
from hrpose.programs.benchmarking.crowds import benchmark_crowds
from hrpose.programs.benchmarking.inference import PHASES, OnDevice, OnHost, benchmark_inference
from hrpose.programs.benchmarking.plain_predict import Plain


def config_of(scenes, *more):
    plain = ["TEST.SCALE_FACTOR", "[1]", "TEST.FLIP_TEST", "true", *more]
    return load_config(QUICKSTART, [*small(scenes), *plain])


def loud(model):
    """Heads so large that an untrained network sees people."""
    torch.manual_seed(0)
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return model


@pytest.fixture
def predictor(scenes):
    config = config_of(scenes)
    return build_predictor(config, loud(build_model(config)))


def test_both_ways_look_alike(predictor, record_difference):
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    framed = predictor.preprocess(image)
    ours, theirs = predictor.forward([framed]), Plain(predictor, predictor.model).look(framed)
    assert ours.tags.shape[-1] == 2
    for one, other in zip(ours, theirs):
        apart = ((one - other).abs().max() / other.abs().max()).item()
        record_difference("look: plain way, relative", apart)
        assert apart < 1e-5


@pytest.mark.parametrize("kind", [OnHost, OnDevice])
def test_stage_by_stage_is_the_whole(scenes, predictor, kind):
    """What is timed in pieces is what the predictor does."""
    side = kind(config_of(scenes), predictor)
    image = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    maps = side.look(side.frame(image))
    people = side.refine(side.group(side.peaks(maps)), maps)
    whole = predictor.decode(maps)
    assert len(whole[0])
    assert all(np.array_equal(one, other) for one, other in zip(people, whole))


def test_a_data_set_both_ways(scenes):
    report = benchmark_inference(config_of(scenes, "WORKERS", "2"), "plain", 6, 1)
    said = report.text()
    assert all(phase in said for phase in PHASES)
    assert "equal bit for bit on 6 of 6 images" in said
    sides = report.numbers["sides"]
    for figures in sides.values():
        assert figures["images/s"]["median"] > 0
        stages = sum(figures[phase]["median"] for phase in PHASES)
        assert figures["an image alone, ms"]["median"] == pytest.approx(stages)
    assert set(report.numbers["ratios"]) == set(sides["plain"])


def test_crowds_both_ways():
    report = benchmark_crowds([1, 3], (64, 96), PUBLISHED, "plain", 1)
    assert "bit for bit: 1 people, 3 people, noise (3 of 3)" in report.text()
    assert set(report.numbers["ratios"]) == {"1 people, ms", "3 people, ms", "noise, ms"}


def test_what_the_plain_way_does_not_know_is_refused(scenes):
    for key, value in (("TEST.SCALE_FACTOR", "[0.5,1]"), ("TEST.COST", "clipped")):
        config = config_of(scenes, key, value)
        other = build_predictor(config, build_model(config))
        with pytest.raises(ValueError, match="plain path"):
            Plain(other, other.model)


@pytest.mark.parametrize("views", [1, 2])
def test_crowds_look_like_a_network_s_maps(views):
    rng = np.random.default_rng(0)
    heatmaps, tags = crowd_maps(Crowd(4, views=views, noise=0), (128, 160), rng, (64, 80))
    assert heatmaps.shape == (17, 64, 80)
    assert tags.shape == (17, 64, 80, views)
    assert 0.3 < heatmaps.max() <= 1
    assert 0 < (heatmaps > 0.1).mean() < 0.2
    assert set(np.unique(tags.round(3))) >= {0, 1.5, 3, 4.5, 6}


def test_noise_has_peaks_everywhere():
    heatmaps, tags = noise_maps((64, 80), np.random.default_rng(0))
    assert heatmaps.shape == (17, 64, 80)
    assert tags.shape == (17, 64, 80, 2)
    assert abs(np.median(heatmaps) - 0.5) < 0.02


@pytest.mark.parametrize("what", ["decode", "infer"])
def test_commands(what, scenes, tmp_path, capsys):
    numbers = tmp_path / "numbers.json"
    common = ["--blocks", "1", "--json", str(numbers)]
    if what == "decode":
        main([what, "--people", "2", "--size", "64", "96", *common])
    else:
        main([what, "--cfg", QUICKSTART, "--images", "2", *common, *small(scenes)])
    assert numbers.is_file()
    assert "as configured" in capsys.readouterr().out
