"""Who is decayed, and how fast one learns when."""

import pytest
import torch
from torch import nn

from hrpose.engine.optim import (
    OPTIMIZERS,
    SCHEDULES,
    grouped_parameters,
    scaled_rate,
    set_learning_rate,
)

OPTIONS = {"milestones": (200.0, 260.0), "drop": 0.1, "warmup": 3.0, "epochs": 300}


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 2))


@pytest.mark.parametrize(
    "epoch, factor",
    [(0, 1), (199.99, 1), (200, 0.1), (259.9, 0.1), (260, 0.01), (299.9, 0.01)],
)
def test_multistep_drops_at_its_milestones(epoch, factor):
    assert SCHEDULES["multistep"](**OPTIONS)(epoch) == pytest.approx(factor)
    backwards = {**OPTIONS, "milestones": (260.0, 200.0)}
    assert SCHEDULES["multistep"](**backwards)(epoch) == pytest.approx(factor)


@pytest.mark.parametrize(
    "epoch, factor",
    [(0, 0.1), (1.5, 0.55), (3, 1), (151.5, 0.5), (300, 0), (301, 0)],
)
def test_warmup_linear_rises_and_falls_in_straight_lines(epoch, factor):
    assert SCHEDULES["warmup_linear"](**OPTIONS)(epoch) == pytest.approx(factor)


def test_warmup_linear_has_no_step_and_bears_odd_lengths():
    schedule = SCHEDULES["warmup_linear"](**OPTIONS)
    assert schedule(2.999999) == pytest.approx(schedule(3), abs=1e-5)
    assert SCHEDULES["warmup_linear"](**{**OPTIONS, "warmup": 0.0})(0) == 1
    short = SCHEDULES["warmup_linear"](**{**OPTIONS, "epochs": 2})
    assert 0 <= short(1.9) <= 1


def test_weights_are_decayed_and_biases_and_norms_are_not():
    model = network()
    weights, others = grouped_parameters(model, 0.5)
    assert weights["weight_decay"] == 0.5
    assert others["weight_decay"] == 0
    assert {id(p) for p in weights["params"]} == {id(model[0].weight), id(model[2].weight)}
    every = [id(p) for group in (weights, others) for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())


def test_what_is_frozen_is_left_alone():
    model = network()
    model[0].weight.requires_grad_(False)
    weights, _ = grouped_parameters(model, 0.5)
    assert len(weights["params"]) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends_and_takes_its_rate_from_outside(name):
    model = network()
    optimizer = OPTIMIZERS[name](grouped_parameters(model, 0.0), lr=1.0)
    set_learning_rate(optimizer, 1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        loss = (model(images) - 1).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_decay_pulls_weights_alone():
    """With no gradient at all, AdamW still shrinks what is decayed."""
    model = network()
    optimizer = OPTIMIZERS["adamw"](grouped_parameters(model, 0.1), lr=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1
        assert torch.allclose(parameter, factor * before[name])


def test_the_rate_follows_the_batch():
    assert scaled_rate(1e-3, 96, 48, "linear") == pytest.approx(2e-3)
    assert scaled_rate(1e-3, 12, 48, "linear") == pytest.approx(2.5e-4)
    assert scaled_rate(1e-3, 96, 48, "none") == 1e-3
