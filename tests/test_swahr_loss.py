"""SWAHR's losses cell by cell, values and slopes; nothing comes of what must not matter."""

import math

import numpy as np
import pytest
import torch

from hrpose.losses.heatmap import masked_mse
from hrpose.losses.swahr import (
    adaptive_weight,
    scale_regularisation,
    scaled_target,
    swahr_loss,
    weighted_mse,
)
from reference.losses import adaptive_losses, adaptive_value, scaled_value
from reference.targets import draw_gaussians

FAINTEST = 4.785117e-06  # of a drawn Gaussian: exp(-12.25)
LEVELS = (0.0, FAINTEST, 0.1, 0.5, 0.8, 0.999, 1.0)
ALPHAS = (-1.5, -1.0, 0.0, 0.1, 3.0)
PREDICTIONS = (-0.5, 0.0, 0.2, 0.8, 1.0, 1.5)
GAMMA = 0.01


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def edges():
    """P, H, alpha (2, 3, 5, 7): every combination of what is special about each, and a mask."""
    choices = (
        torch.tensor(values, dtype=torch.float64) for values in (PREDICTIONS, LEVELS, ALPHAS)
    )
    grid = torch.cartesian_prod(*choices)
    grid = grid[torch.randperm(len(grid), generator=seeded(0))].view(2, 3, 5, 7, 3)
    mask = (torch.rand(2, 5, 7, generator=seeded(1)) > 0.3).to(torch.uint8)
    return *grid.unbind(-1), mask


def people():
    """Drawn people, overlapping, in the first image; none in the second."""
    joints = 20 * torch.rand(2, 3, 2, 3, generator=seeded(2))
    joints[..., 2] = torch.tensor([1.0, 0.0])[:, None, None]
    drawn = torch.from_numpy(draw_gaussians(joints, (18, 20), 2.0))
    predicted = torch.rand(drawn.shape, generator=seeded(3), dtype=torch.float64)
    alpha = 4.5 * torch.rand(drawn.shape, generator=seeded(4), dtype=torch.float64) - 1.5
    mask = (torch.rand(2, 18, 20, generator=seeded(5)) > 0.3).to(torch.uint8)
    return predicted, drawn, alpha, mask


SCENES = [edges, people]


def with_slopes(predicted, drawn, alpha, mask, gamma):
    """The losses of this package, and their slopes, in the order of the oracle's."""
    predicted, alpha = (values.clone().requires_grad_() for values in (predicted, alpha))
    if gamma:
        heatmap, scale = swahr_loss(predicted, drawn, alpha, mask, gamma)
    else:
        heatmap = masked_mse(predicted, scaled_target(drawn, alpha), mask)
        scale = scale_regularisation(drawn, alpha, mask)
    by_both = torch.autograd.grad(heatmap.sum(), (predicted, alpha))
    (by_alpha,) = torch.autograd.grad(scale.sum(), alpha)
    return heatmap.detach(), scale.detach(), *by_both, by_alpha


NAMES = ("heatmap", "scale", "d heatmap / dP", "d heatmap / d alpha", "d scale / d alpha")


# Against loops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("gamma", [None, GAMMA, 0.5], ids=["SAHR", "SWAHR", "SWAHR, soft"])
def test_losses_and_slopes_oracle(scene, gamma, record_difference):
    given = scene()
    plain = adaptive_losses(*given, gamma)
    for name, result, wanted in zip(NAMES, with_slopes(*given, gamma), plain):
        difference = abs(result.numpy() - wanted).max()
        record_difference(f"SWAHR float64: {name}", difference)
        assert result.dtype == torch.float64
        assert difference < 1e-12, name
        assert wanted.any(), f"no {name} in this scene"


@pytest.mark.parametrize("scene", SCENES)
def test_targets_and_weights_oracle(scene, record_difference):
    predicted, drawn, alpha, _ = scene()
    cells = zip(*(values.flatten().tolist() for values in (predicted, drawn, alpha)))
    plain = [(scaled_value(h, a)[0], adaptive_value(p, h, GAMMA)[0]) for p, h, a in cells]
    result = scaled_target(drawn, alpha), adaptive_weight(predicted, drawn, GAMMA)
    for name, values, wanted in zip(("target", "weight"), result, np.transpose(plain)):
        difference = abs(values.flatten().numpy() - wanted).max()
        record_difference(f"SWAHR float64: {name}", difference)
        assert difference < 1e-12


def test_any_weight_oracle(record_difference):
    predicted, drawn, _, mask = edges()
    weight = torch.rand(drawn.shape, generator=seeded(6), dtype=torch.float64)
    result = weighted_mse(predicted, drawn, weight, mask)
    for b in range(2):
        cells = [
            mask[b, y, x] * weight[b, k, y, x] * (predicted[b, k, y, x] - drawn[b, k, y, x]) ** 2
            for k, y, x in np.ndindex(*drawn.shape[1:])
        ]
        wanted = sum(cells) / len(cells)
        record_difference("weighted_mse", abs(result[b] - wanted))
        assert abs(result[b] - wanted) < 1e-12


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(
    ("dtype", "step"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)], ids=["bf16", "float16"]
)
def test_half_precision_oracle(scene, dtype, step, record_difference):
    """The network's outputs are rounded; from there on only the gradient returned to them is."""
    predicted, drawn, alpha, mask = scene()
    given = predicted.to(dtype), drawn.to(dtype if step < 1e-3 else torch.float32), alpha.to(dtype)
    plain = adaptive_losses(*given, mask, GAMMA)
    with torch.autocast("cpu", torch.bfloat16):
        result = with_slopes(*given, mask, GAMMA)
        to_float32 = with_slopes(*(values.float() for values in given), mask, GAMMA)
        parts = scaled_target(*given[1:]), adaptive_weight(*given[:2], GAMMA)
    assert {part.dtype for part in (*result[:2], *parts)} == {torch.float32}
    for name, values, exact, wanted in zip(NAMES, result, to_float32, plain):
        largest = abs(wanted).max()
        away = abs(exact.double().numpy() - wanted).max() / largest
        record_difference(f"SWAHR {str(dtype)[6:]}, relative: {name}", away)
        assert away < 1e-6, name
        if values.ndim == 1:
            assert torch.equal(values, exact)
        else:  # it comes on two ways, each of which is rounded, and so is their sum
            assert abs(values.double().numpy() - wanted).max() < 1.5 * step * largest, name


def test_what_float16_cannot_square_is_no_danger():
    values = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    drawn, mask = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float16), torch.ones(1, 2, 2)
    assert scale_regularisation(drawn, values, mask).item() == 90000
    heatmap = swahr_loss(values, drawn, values, mask)[0].item()
    assert heatmap == pytest.approx(adaptive_losses(values, drawn, values, mask, GAMMA).heatmap[0])


# Nothing where there is nothing -----------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES)
def test_masked_pixels_have_no_loss_and_no_slope(scene):
    predicted, drawn, alpha, mask = scene()
    hidden = (mask == 0)[:, None].expand_as(drawn)
    noise = torch.where(hidden, torch.randn(drawn.shape, generator=seeded(7)).double(), 0)
    result = with_slopes(predicted, drawn, alpha, mask, GAMMA)
    moved = with_slopes(predicted + noise, drawn, alpha - noise, mask, GAMMA)
    for values, others in zip(result, moved):
        assert torch.equal(values, others)
    assert not any(slope[hidden].any() for slope in result[2:])


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_scales_do_not_matter_where_nothing_is_drawn_whatever_they_are(value):
    predicted, drawn, alpha, mask = edges()
    absurd = torch.where(drawn == 0, value, alpha)
    result = with_slopes(predicted, drawn, absurd, mask, GAMMA)
    for values, wanted in zip(result, with_slopes(predicted, drawn, alpha, mask, GAMMA)):
        assert torch.equal(values, wanted)
    assert not any(slope[drawn == 0].any() for slope in result[3:])


def test_an_image_without_people_teaches_only_the_background():
    predicted = torch.rand(2, 3, 4, 5, generator=seeded(0), dtype=torch.float64)
    empty, alpha = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5, dtype=torch.float64)
    heatmap, scale, by_predicted, *by_alpha = with_slopes(
        predicted, empty, alpha, torch.ones(2, 4, 5), GAMMA
    )
    assert torch.allclose(heatmap, (predicted**3).mean((1, 2, 3)))  # |P| P^2
    assert torch.allclose(by_predicted, 3 * predicted**2 / 60)
    assert not scale.any()
    assert not any(slope.any() for slope in by_alpha)
