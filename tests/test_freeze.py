"""TRAIN.FREEZE: neither weights nor statistics of frozen parts change, and only those of others."""

import copy
import json
import os
import signal

import pytest
import torch

from commands import QUICKSTART, SMALL, TORCHRUN, read_until, start, tool
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer_step
from hrpose.config import load_config

CPU = [torch.device("cpu")]
FROZEN = ("backbone.", "deconvs.0.up.")


def batch(count=4, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(256, (count, 3, 64, 64), dtype=torch.uint8, generator=chance),
        "joints": 64 * torch.rand(count, 2, 17, 3, generator=chance),
        "boxes": 16 + 40 * torch.rand(count, 2, 4, generator=chance),
        "mask": torch.ones(count, 32, 32, dtype=torch.uint8),
        "flipped": torch.zeros(count, dtype=torch.bool),
        "index": torch.arange(count),
    }


def build(*options):
    config = load_config(QUICKSTART, [*SMALL, *options])
    torch.manual_seed(0)
    return build_optimizer_step(config, build_model(config), 4, CPU)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["TRAIN.OPTIMIZER", "sgd", "TRAIN.WEIGHT_DECAY", "0.1", "TRAIN.CLIP_NORM", "1"],
        ["TRAIN.ACTIVATION_CHECKPOINTING", "true", "TRAIN.MICRO_BATCH", "2"],
    ],
)
def test_frozen_parts_change_in_no_bit_and_all_others_learn(more):
    step = build("TRAIN.FREEZE", "[backbone.*,deconvs.0.up.*]", "TRAIN.EMA", "0.5", *more)
    model = step.train_step.model
    before = copy.deepcopy(model.state_dict())
    for number in range(3):
        step.train_step.eval()  # as between two epochs
        step.train_step.train()
        assert not step.step(batch(seed=number), 0.01, number)[1].skipped
    for state in (model.state_dict(), step.ema.model.state_dict()):
        changed = {name for name in state if not torch.equal(state[name], before[name])}
        assert changed == {name for name in before if not name.startswith(FROZEN)}
    parameters = dict(model.named_parameters())
    frozen = [name for name in parameters if parameters[name].grad is None]
    assert frozen == [name for name in parameters if name.startswith(FROZEN)]
    assert len(step.parameters) == len(parameters) - len(frozen)


def test_frozen_statistics_are_those_that_normalise():
    """In training the frozen backbone computes what it computes at test."""
    step = build("TRAIN.FREEZE", "backbone.*")
    model = step.train_step.model
    for norm in model.backbone.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
    images = torch.randn(2, 3, 64, 64)
    expected = model.eval().backbone(images)
    step.train_step.train()
    assert model.deconvs.training and all(map(torch.equal, model.backbone(images), expected))


def test_a_norm_that_learns_in_part_keeps_counting():
    step = build("TRAIN.FREEZE", "backbone.*.weight")
    model = step.train_step.train().model
    before = copy.deepcopy(model.backbone.state_dict())
    step.step(batch(), 0.01, 0)
    after = model.backbone.state_dict()
    assert all(not torch.equal(after[n], before[n]) for n in before if n.endswith("running_mean"))
    assert all(torch.equal(after[n], before[n]) for n in before if n.endswith(".weight"))


def test_without_patterns_every_norm_is_trained():
    assert build("MODEL.NAME", "swahr").train_step.frozen_norms == ()


@pytest.mark.parametrize(
    ("patterns", "complaint"),
    [
        ("[backbone.*,head.*]", r"head\.\* matches no tensor .* backbone\.\*, heads\.\*, deconvs"),
        ("'*'", "leaves nothing to train.*tools/valid"),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns, complaint):
    with pytest.raises(ValueError, match=complaint):
        build("TRAIN.FREEZE", patterns)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [(), TORCHRUN], ids=["alone", "two processes"])
def test_a_frozen_backbone_is_resumed_and_shared(scenes, tmp_path, launch):
    options = ["--cfg", QUICKSTART, *SMALL, "DATASET.ROOT", scenes, "TRAIN.FREEZE", "backbone.*"]
    options += ["TRAIN.EMA", "0.9", "TRAIN.EPOCHS", "6", "TRAIN.VALIDATE_EVERY", "0"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    output = tool("train", *options, "OUTPUT_DIR", whole, launch=launch)
    assert "TRAIN.FREEZE: 0." in output
    process = start("train", *options, "OUTPUT_DIR", parts, launch=launch)
    read_until(process, "epoch 2/6")
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert "continuing" in tool("train", *options, "OUTPUT_DIR", parts, launch=launch)
    one, other = (next(place.rglob("last.pth")) for place in (whole, parts))
    one, other = (torch.load(path, weights_only=True) for path in (one, other))
    for kind in (lambda state: state["model"], lambda state: state["average"]["model"]):
        assert all(torch.equal(kind(one)[name], kind(other)[name]) for name in kind(one))
    config = load_config(QUICKSTART, [*SMALL, "DATASET.ROOT", str(scenes)])
    torch.manual_seed(config.TRAIN.SEED)
    initial = build_model(config).state_dict()
    assert all(torch.equal(one["model"][n], initial[n]) for n in initial if "backbone" in n)
    assert json.loads(next(parts.rglob("run.json")).read_text())["finished"]
