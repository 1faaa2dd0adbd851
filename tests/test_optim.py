"""Who is decayed, and how fast one learns when."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from commands import ROOT
from hrpose.builders.training import build_train_config, describe_cut_period
from hrpose.config import load_config
from hrpose.config.loading import BY_KEY
from hrpose.engine.optim import (
    OPTIMIZERS,
    SCHEDULES,
    cosine_restarts,
    parameter_groups,
    period_around,
    scale_learning_rate,
    warm_up,
)

OPTIONS = {
    "lr_step": (200.0, 260.0),
    "lr_factor": 0.1,
    "warmup": 3.0,
    "warmup_factor": 0.1,
    "epochs": 300,
    "period": 16.0,
    "factor": 2.0,
}
STEPS = 4  # of an epoch, in the oracles
PLAIN = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2)
    )


def fused(name):
    return partial(OPTIMIZERS[name], lr=0.01)


def learn(make, flags):
    """Parameters and state after a step for every flag. 1: with gradients that are no numbers."""
    torch.manual_seed(0)
    # Not in training mode, where the bias before a norm has no gradient but what rounding leaves.
    model = network().to(memory_format=torch.channels_last).eval()
    optimizer = make(parameter_groups(model, 0.1))
    images = torch.rand(2, 3, 4, 4)
    for flag in flags:
        optimizer.zero_grad()
        (model(images) - 1).square().mean().backward()
        if flag is not None:
            optimizer.found_inf = torch.tensor(flag)
        if flag == 1:
            for parameter in model.parameters():
                parameter.grad.fill_(math.nan)
        optimizer.step()
    return [p.detach() for p in model.parameters()], optimizer.state_dict()["state"]


def after_warmup(optimizer, fall):
    rise = LinearLR(optimizer, 0.1, 1.0, 3 * STEPS)
    return SequentialLR(optimizer, [rise, fall(optimizer)], [3 * STEPS])


ORACLES = {
    "multistep": partial(MultiStepLR, milestones=[200 * STEPS, 260 * STEPS], gamma=0.1),
    "warmup_linear": partial(
        after_warmup,
        fall=partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=297 * STEPS),
    ),
    "cosine": partial(after_warmup, fall=partial(CosineAnnealingLR, T_max=297 * STEPS)),
    "cosine_restarts": partial(CosineAnnealingWarmRestarts, T_0=16 * STEPS, T_mult=2),
    "one_cycle": partial(
        OneCycleLR,
        max_lr=1.0,
        total_steps=300 * STEPS + 1,  # torch counts both ends
        pct_start=(0.3 * 300 * STEPS + 1) / (300 * STEPS + 1),
        cycle_momentum=False,
    ),
}


@pytest.mark.parametrize(("key", "table"), [("OPTIMIZER", OPTIMIZERS), ("SCHEDULE", SCHEDULES)])
def test_all_of_a_table_can_be_chosen_and_nothing_else(key, table):
    check = BY_KEY[f"TRAIN.{key}"].check
    assert check("none") == f"one of {', '.join(table)}"


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_torch(name):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle, expected = ORACLES[name](optimizer), []
    for _ in range(300 * STEPS):
        expected += oracle.get_last_lr()
        optimizer.step()
        oracle.step()
    schedule = partial(SCHEDULES[name], **OPTIONS)
    result = [schedule(step / STEPS) for step in range(300 * STEPS)]
    assert result == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_leaves_its_bounds_even_past_the_end(name):
    schedule = partial(SCHEDULES[name], **OPTIONS)
    assert all(0 <= schedule(step / 7) <= 1 for step in range(7 * 1000))


@pytest.mark.parametrize("name", ["warmup_linear", "cosine", "one_cycle"])
def test_what_has_no_steps_is_continuous(name):
    schedule = partial(SCHEDULES[name], **OPTIONS)
    factors = [schedule(step / 100) for step in range(301 * 100)]
    assert max(abs(a - b) for a, b in zip(factors, factors[1:])) < 0.0031


@pytest.mark.parametrize(
    "epoch, factor", [(0, 0.1), (1.5, 0.55), (3, 1), (151.5, 0.5), (300, 0), (301, 0)]
)
def test_cosine_rises_straight_and_falls_in_half_a_wave(epoch, factor):
    assert partial(SCHEDULES["cosine"], **OPTIONS)(epoch) == pytest.approx(factor)


@pytest.mark.parametrize("end, middle", [(16, 8), (48, 32), (112, 80), (240, 176)])
def test_restarts_come_after_cycles_that_grow(end, middle):
    schedule = partial(SCHEDULES["cosine_restarts"], **OPTIONS)
    assert schedule(0) == schedule(end) == 1
    assert schedule(middle) == pytest.approx(0.5)
    assert schedule(end - 1e-6) == pytest.approx(0, abs=1e-9)
    even = partial(SCHEDULES["cosine_restarts"], **{**OPTIONS, "factor": 1.0})
    assert even(2.5 * end) == pytest.approx(even(2.5 * end + 160))


@pytest.mark.parametrize("period, factor", [(1, 1), (1, 2), (5, 3), (16, 1), (7, 4)])
def test_restarts_of_other_periods_are_those_of_torch(period, factor):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = CosineAnnealingWarmRestarts(optimizer, T_0=period, T_mult=factor)
    for step in range(120 * STEPS):
        oracle.step(step / STEPS)
        ours = cosine_restarts(step / STEPS, period, factor)
        assert ours == pytest.approx(oracle.get_last_lr()[0], abs=1e-9)


@pytest.mark.parametrize("period, factor", [(16, 2), (1, 1), (1.5, 1.5), (100, 3)])
def test_periods_follow_one_another(period, factor):
    start, end, length = 0, period, period
    for epoch in np.arange(0, 300, 0.25):
        if epoch >= end:
            length *= factor
            start, end = end, end + length
        assert period_around(epoch, period, factor) == pytest.approx((start, end))
        assert start <= epoch < end


def restarts(*options):
    path = ROOT / "configs" / "topdown" / "hrnet_w32_256x192.yaml"
    return load_config(path, ["TRAIN.SCHEDULE", "cosine_restarts", *options])


def test_the_rate_of_a_config_is_that_of_its_periods_at_any_step():
    """Property 42: 1e-3 at epochs 0, 16, 48 and 112, almost 0 just before; a rule of the epoch."""
    train = build_train_config(restarts("TRAIN.EPOCHS", "240"), batch=128)
    steps = 1170  # of 149,813 people, in an epoch
    for epoch in (0, 16, 48, 112):
        assert train.lr * train.schedule(epoch) == 1e-3
    for epoch in (16, 48, 112, 240):
        assert 0 <= train.lr * train.schedule(epoch - 1 + (steps - 1) / steps) < 1e-10
    other = build_train_config(
        restarts("TRAIN.RESTART.PERIOD", "5", "TRAIN.RESTART.FACTOR", "1"), batch=256
    )
    assert [other.lr * other.schedule(epoch) for epoch in (0, 5, 10, 205)] == [2e-3] * 4
    assert other.schedule(207.5) == pytest.approx(0.5)


@pytest.mark.parametrize("epochs", [16, 48, 112, 240])
def test_whole_periods_need_no_remark(epochs):
    assert describe_cut_period(restarts("TRAIN.EPOCHS", str(epochs))) == ""
    path = ROOT / "configs" / "topdown" / "hrnet_w32_256x192.yaml"
    assert describe_cut_period(load_config(path)) == ""  # multistep


@pytest.mark.parametrize(
    "epochs, between, rest, cure",
    [(1, "0 to 16", "0.99", "16"), (210, "112 to 240", "0.13", "112 or 240")],
)
def test_a_cut_period_is_described_with_the_cure(epochs, between, rest, cure):
    said = describe_cut_period(restarts("TRAIN.EPOCHS", str(epochs)))
    assert f"TRAIN.EPOCHS {epochs} cuts a period of cosine_restarts, epochs {between}:" in said
    assert f"ends at {rest} of its height" in said
    assert said.endswith(f"set TRAIN.EPOCHS {cure}, or TRAIN.RESTART.PERIOD")


@pytest.mark.parametrize("epoch, factor", [(0, 0.04), (90, 1), (300, 4e-6), (400, 4e-6)])
def test_one_cycle_has_its_peak_at_three_tenths(epoch, factor):
    assert partial(SCHEDULES["one_cycle"], **OPTIONS)(epoch) == pytest.approx(factor)


@pytest.mark.parametrize(
    "epoch, factor",
    [(0, 1), (199.99, 1), (200, 0.1), (259.9, 0.1), (260, 0.01), (299.9, 0.01)],
)
def test_multistep_drops_at_its_milestones(epoch, factor):
    assert partial(SCHEDULES["multistep"], **OPTIONS)(epoch) == pytest.approx(factor)
    backwards = {**OPTIONS, "lr_step": (260.0, 200.0)}
    assert partial(SCHEDULES["multistep"], **backwards)(epoch) == pytest.approx(factor)


@pytest.mark.parametrize(
    "epoch, factor",
    [(0, 0.1), (1.5, 0.55), (3, 1), (151.5, 0.5), (300, 0), (301, 0)],
)
def test_warmup_linear_rises_and_falls_in_straight_lines(epoch, factor):
    assert partial(SCHEDULES["warmup_linear"], **OPTIONS)(epoch) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["warmup_linear", "cosine"])
def test_warming_up_bears_odd_lengths(name):
    assert partial(SCHEDULES[name], **{**OPTIONS, "warmup": 0.0})(0) == 1
    short = partial(SCHEDULES[name], **{**OPTIONS, "epochs": 2})
    assert 0 <= short(1.9) <= 1


@pytest.mark.parametrize("factor", [0.1, 0.001, 0.0, 1.0])
def test_a_warm_up_in_steps_is_that_of_torch_on_any_schedule(factor):
    """A straight rise, multiplied onto steps that come before and after its end."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    fall = MultiStepLR(optimizer, milestones=[2 * STEPS, 5 * STEPS])
    # torch refuses to begin at 0
    oracle = ChainedScheduler([LinearLR(optimizer, factor or 1e-12, 1.0, 13), fall])
    for step in range(7 * STEPS):
        ours = warm_up(step, 13, factor) * SCHEDULES["multistep"](step / STEPS, (2, 5))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        oracle.step()
    assert warm_up(0, 0, factor) == warm_up(13, 13, factor) == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_config_warms_up_in_epochs_or_in_steps_and_never_in_both(name):
    options = ["TRAIN.SCHEDULE", name, "TRAIN.WARMUP.FACTOR", "0.01"]
    path = ROOT / "configs" / "w32_512.yaml"
    epochs = build_train_config(load_config(path, options), batch=48)
    steps = build_train_config(load_config(path, [*options, "TRAIN.WARMUP.STEPS", "7"]), batch=48)
    assert (epochs.warmup_steps, steps.warmup_steps, steps.warmup_factor) == (0, 7, 0.01)
    at_once = {"one_cycle": 0.04}.get(name, 1.0)
    begins = 0.01 if name in ("warmup_linear", "cosine") else at_once
    assert (epochs.schedule(0), steps.schedule(0)) == (pytest.approx(begins), at_once)


def test_mmposes_recipe_rises_from_a_thousandth_of_the_rate_in_500_steps():
    config = load_config(ROOT / "configs" / "w32_512_mmpose.yaml")
    train, steps = build_train_config(config, batch=192), 334  # of 64,115 images, in an epoch
    rates = {
        step: train.lr * train.schedule(step / steps) * warm_up(step, 500, train.warmup_factor)
        for step in (0, 250, 500, 199 * steps, 200 * steps, 260 * steps)
    }
    assert train.warmup_steps == 500
    assert list(rates.values()) == pytest.approx([1.5e-6, 7.5075e-4, *[1.5e-3] * 2, 1.5e-4, 1.5e-5])


def test_weights_are_decayed_and_biases_and_norms_are_not():
    model = network()
    weights, others = parameter_groups(model, 0.5)
    assert weights["weight_decay"] == 0.5
    assert others["weight_decay"] == 0
    assert {id(p) for p in weights["params"]} == {id(model[0].weight), id(model[2].weight)}
    every = [id(p) for group in (weights, others) for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())


def test_what_is_frozen_is_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    weights, _ = parameter_groups(model, 0.5)
    assert len(weights["params"]) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_takes_its_rate_from_outside(name):
    model = network()
    optimizer = OPTIMIZERS[name](parameter_groups(model, 0.0), lr=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        loss = (model(images) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_is_plain(name):
    plain = partial(PLAIN[name], lr=0.01, fused=False, foreach=False)
    result, expected = learn(fused(name), [None] * 5), learn(plain, [None] * 5)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_whose_gradients_are_found_bad_was_never_taken(name):
    skipping = learn(fused(name), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    never = learn(fused(name), [None, None, None])
    torch.testing.assert_close(skipping, never, rtol=0, atol=0)


def test_decay_pulls_weights_alone():
    """With no gradient at all, AdamW still shrinks what is decayed."""
    model = network()
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, 0.1), lr=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1
        assert torch.allclose(parameter, factor * before[name])


def test_the_rate_follows_the_batch():
    assert scale_learning_rate(1e-3, 96, 48) == pytest.approx(2e-3)
    assert scale_learning_rate(1e-3, 12, 48) == pytest.approx(2.5e-4)
    assert scale_learning_rate(1e-3, 96, 0) == 1e-3
