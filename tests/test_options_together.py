"""What no option can know alone: how widths, resolutions, networks and losses go together."""

import math
from pathlib import Path

import pytest
from torch import nn

from hrpose.builders.bottomup import build_dataset, build_loss, build_targets
from hrpose.builders.common import build_model
from hrpose.config import load_config

PLAIN = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
SWAHR = ("MODEL.NAME", "swahr")


def load(*overrides):
    return load_config(PLAIN, overrides)


def refused(*overrides):
    with pytest.raises(ValueError) as error:
        load(*overrides)
    return str(error.value)


def deconvs(count):
    return ("MODEL.NUM_DECONVS", str(count))


# Lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["LOSS.SIGMA", "LOSS.HEATMAP"])
@pytest.mark.parametrize(
    ("values", "count", "holds"),
    [
        ("2", 2, True), ("[2]", 0, True), ("[2, 3]", 1, True), ("[2, 3, 4]", 2, True),
        ("[2, 3]", 0, False), ("[2, 3]", 2, False), ("[2, 3, 4]", 1, False), ("[]", 1, False),
    ],
)  # fmt: skip
def test_one_value_for_each_resolution_or_for_all(key, values, count, holds):
    if holds:
        load(key, values, *deconvs(count))
    else:
        assert key in refused(key, values, *deconvs(count))


@pytest.mark.parametrize("bad", ["[2, 0]", "[2, -1]", "[2, .inf]", "0", "[]"])
@pytest.mark.parametrize("key", ["LOSS.SIGMA", "MODEL.DILATIONS"])
def test_each_entry_of_a_list_is_checked(key, bad):
    assert key in refused(key, bad)


@pytest.mark.parametrize("bad", ["[1, -1]", "[1, .inf]", ".nan"])
def test_each_weight_is_checked(bad):
    assert "LOSS.HEATMAP" in refused("LOSS.HEATMAP", bad)


def test_sigmas_reach_the_targets():
    assert build_targets(load("LOSS.SIGMA", "[2, 3]", "LOSS.SHR", "256")).sigma == (2, 3)
    assert build_targets(load("LOSS.SHR", "256")).unit_width == 256
    assert build_targets(load()).unit_width == 0


SMALL = [
    *("MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BLOCKS", "1"),
    *("MODEL.BACKBONE.MODULES", "[1,1,1]"),
]


def dilations(*overrides):
    """Of every block behind a deconvolution: its two convolutions' dilations and paddings."""
    model = build_model(load(*SMALL, *overrides))
    return [
        [(conv.dilation[0], conv.padding[0]) for conv in block.modules() if type(conv) is nn.Conv2d]
        for climb in model.deconvs
        for block in climb.blocks
    ]


def test_a_dilation_for_each_block_or_for_all():
    assert dilations() == [[(1, 1)] * 2] * 4
    assert dilations("MODEL.DILATIONS", "2") == [[(2, 2)] * 2] * 4
    assert dilations("MODEL.DILATIONS", "[1, 1, 2, 3]") == [
        [(each, each)] * 2 for each in (1, 1, 2, 3)
    ]
    assert dilations("MODEL.DILATIONS", "[1, 2]", "MODEL.NUM_BASIC_BLOCKS", "2", *deconvs(2)) == [
        [(each, each)] * 2 for each in (1, 2, 1, 2)
    ]
    assert dilations("MODEL.DILATIONS", "2", "MODEL.NUM_BASIC_BLOCKS", "0") == []


@pytest.mark.parametrize("bad", ["[1, 2]", "[1, 1, 2]", "[1, 1, 1, 1, 1]"])
def test_dilations_that_are_not_as_many_as_blocks_are_refused(bad):
    message = refused("MODEL.DILATIONS", bad)
    assert "MODEL.DILATIONS" in message
    assert "4 residual blocks" in message


@pytest.mark.parametrize(
    ("chosen", "count", "holds"),
    [
        ("[]", 1, True), ("4", 0, True), ("[4, 2]", 1, True), ("[2]", 1, True), ("1", 2, True),
        ("[1, 2, 4]", 2, True), ("1", 1, False), ("2", 0, False), ("[4, 8]", 2, False),
        ("[4, 4]", 1, False), ("[2, 4, 2]", 1, False), ("3", 2, False),
    ],
)  # fmt: skip
def test_outputs_to_average_exist_and_stand_once(chosen, count, holds):
    if holds:
        load("TEST.AGGREGATE", chosen, *deconvs(count))
    else:
        message = refused("TEST.AGGREGATE", chosen, *deconvs(count))
        assert "TEST.AGGREGATE" in message
        assert ", ".join(["4", "2", "1"][: count + 1]) in message


# Adaptive heatmaps ------------------------------------------------------------------------------


def test_sahr_needs_a_network_that_predicts_scales():
    message = refused("LOSS.SAHR", "true")
    assert "LOSS.SAHR" in message
    assert "MODEL.NAME swahr" in message
    load("LOSS.SAHR", "true", *SWAHR)
    load("LOSS.WAHR", "true")
    load(*SWAHR)


def test_widths_are_learnt_or_ruled_but_not_both():
    message = refused("LOSS.SAHR", "true", "LOSS.SHR", "256", *SWAHR)
    assert "LOSS.SAHR" in message
    assert "LOSS.SHR" in message
    load("LOSS.SHR", "256", "LOSS.WAHR", "true", *SWAHR)


@pytest.mark.parametrize("text", [".inf", "1e999", "inf", "0", "0.1"])
def test_lambda_may_be_endless_or_nothing(text):
    weight = load("LOSS.LAMBDA", text, "LOSS.SAHR", "true", *SWAHR).LOSS.LAMBDA
    assert weight == {"0": 0, "0.1": 0.1}.get(text, math.inf)


@pytest.mark.parametrize("text", ["-.inf", ".nan", "-1"])
def test_lambda_is_not_below_nothing(text):
    assert "LOSS.LAMBDA" in refused("LOSS.LAMBDA", text)


@pytest.mark.parametrize(
    "key", ["TRAIN.LR", "LOSS.GAMMA", "LOSS.SHR", "LOSS.TAGS.PULL", "LOSS.SIGMA"]
)
def test_nothing_else_may_be_endless(key):
    assert key in refused(key, ".inf")


def test_what_is_endless_survives_being_written_and_read(tmp_path):
    """As in the config.yaml of a run folder, and in a checkpoint."""
    config = load("LOSS.LAMBDA", ".inf", "LOSS.SAHR", "true", "LOSS.SIGMA", "[2, 3]", *SWAHR)
    (tmp_path / "config.yaml").write_text(config.dump())
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert math.isinf(again.LOSS.LAMBDA)


def test_an_endless_lambda_leaves_no_term_of_scales():
    names = [
        set(
            build_loss(load("LOSS.SAHR", "true", "LOSS.LAMBDA", weight, *SWAHR)).keywords["weights"]
        )
        for weight in (".inf", "1", "0")
    ]
    assert names == [{"heatmap", "pull", "push"}] + [{"heatmap", "pull", "push", "scale"}] * 2


def test_published_defaults():
    """SWAHR's: lambda 1, gamma .01, a weight that the gradient goes through; all of it is off."""
    loss = load().LOSS
    assert (loss.LAMBDA, loss.GAMMA, loss.SHR) == (1, 0.01, 0)
    assert (loss.SAHR, loss.WAHR, loss.DETACH_WEIGHT) == (False, False, False)


@pytest.mark.parametrize("names", ["[flip, affine]", "[flip]", "[affine, affine]"])
def test_a_sample_is_cropped_once_and_then_flipped(names):
    with pytest.raises(ValueError, match=r"DATASET\.AUGMENTATIONS is .*cropped once"):
        build_dataset(load("DATASET.AUGMENTATIONS", names), None)
