"""What SWAHR's formulas obey, whatever the values: laws of its targets and of its weights."""

import numpy as np
import pytest
import torch

from hrpose.losses.swahr import (
    adaptive_weight,
    constant_weight,
    scaled_target,
    swahr_loss,
    weighted_mse,
)
from hrpose.ops.targets import draw_heatmaps
from test_swahr_loss import FAINTEST, GAMMA, LEVELS

# Laws of the target -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def H():
    """Drawn people in float32, as the loss gets them."""
    joints = torch.tensor([[[[10.0, 9, 1], [3, 3, 1]], [[14.0, 11, 1], [3, 12, 1]]]])
    return draw_heatmaps(joints, (20, 24), 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_alpha_0_is_the_drawn_target_bit_for_bit(H, dtype):
    assert torch.equal(
        scaled_target(H, torch.zeros(H.shape, dtype=dtype)),
        H.to(torch.promote_types(dtype, H.dtype)),
    )


@pytest.mark.parametrize("alpha", [-1.5, -0.5, -0.1, 0.1, 1.0, 3.0])
def test_the_target_is_equation_8(H, alpha):
    result = scaled_target(H, torch.full_like(H, alpha))
    h = H[H > 0].double()
    np.testing.assert_allclose(
        result[H > 0], 0.5 * h * (1 + (1 + alpha * h.log()) ** 2), atol=1e-6, rtol=0
    )
    assert not result[H == 0].any()
    assert (result[H == 1] == 1).all()
    assert (result >= H / 2).all()


@pytest.mark.parametrize("alpha", [-1.5, -0.5, -0.1, 0.1, 1.0, 3.0])
def test_the_target_is_near_the_power_that_it_stands_for(H, alpha):
    """Taylor's remainder: the power of the paper's equation 6, to the second order."""
    h = H[H > 0].double()
    off = scaled_target(h, torch.full_like(h, alpha)) - h ** (1 + alpha)
    most = (alpha * h.log()).abs() ** 3 / 6 * (h**alpha).clamp(min=1) * h
    assert (off.abs() <= most + 1e-15).all()
    assert off.abs().max() > 1e-4  # it is not the power itself


@pytest.mark.parametrize(
    ("alpha", "most"),
    [(0.1, 2.1e-4), (0.3, 4.9e-3), (0.5, 0.020), (1, 0.127), (-0.1, 2.4e-4), (-0.5, 0.0445)],
)
def test_how_far_the_target_is_from_the_power(alpha, most):
    h = torch.linspace(1e-6, 1, 100_001, dtype=torch.float64)
    off = scaled_target(h, torch.full_like(h, alpha)) - h ** (1 + alpha)
    assert off.abs().max().item() == pytest.approx(most, rel=0.03)


def test_a_negative_alpha_raises_and_a_small_positive_one_lowers(H):
    h = H[(H > 0) & (H < 1)].double()
    for alpha in (-1.5, -0.3, -1e-3):
        assert (scaled_target(h, torch.full_like(h, alpha)) > h).all()
    for part in (0.01, 0.5, 0.99):  # of 2 / |ln H|, at which the second order takes over
        assert (scaled_target(h, -2 * part / h.log()) < h).all()
    assert (scaled_target(h, -2.02 / h.log()) > h).all()


def test_slopes_are_those_of_the_values():
    """Central differences, where the formulas are smooth."""
    drawn = torch.tensor([0.1, 0.5, 0.8, FAINTEST], dtype=torch.float64).view(1, 1, 2, 2)
    predicted = torch.tensor([-0.5, 0.3, 0.7, 1.4], dtype=torch.float64).view(1, 1, 2, 2)
    alpha = torch.tensor([-1.5, -0.2, 0.4, 3.0], dtype=torch.float64).view(1, 1, 2, 2)
    mask = torch.ones(1, 2, 2)
    inputs = predicted.requires_grad_(), alpha.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, a: swahr_loss(p, drawn, a, mask, 0.3), inputs)
    assert torch.autograd.gradcheck(lambda a: scaled_target(drawn, a), alpha)
    assert torch.autograd.gradcheck(lambda p: adaptive_weight(p, drawn, 0.3), predicted)


# Laws of the weight -----------------------------------------------------------------------------

P = torch.linspace(-0.5, 1.5, 41, dtype=torch.float64)


def weight_at(h, gamma=GAMMA, predicted=P):
    return adaptive_weight(predicted, torch.full_like(predicted, h), gamma)


def test_background_weighs_what_it_shows_and_a_peak_what_it_lacks():
    assert torch.equal(weight_at(0.0), P.abs())
    assert torch.equal(weight_at(1.0), (1 - P).abs())
    mixed = 0.8847 * (1 - P).abs() + 0.1153 * P.abs()
    assert (weight_at(4.8e-6) - mixed).abs().max() < 1e-4


def test_the_weight_of_a_probability_is_between_0_and_1():
    inside = P[(P >= 0) & (P <= 1)]
    for level in LEVELS:
        weights = weight_at(level, predicted=inside)
        assert weights.min() >= 0
        assert weights.max() <= 1


def test_gamma_decides_where_the_background_begins():
    for level in (FAINTEST, 0.5, 0.99):
        assert (weight_at(level, gamma=1e6) - P.abs()).abs().max() < 1e-12
        assert (weight_at(level, gamma=1e-12) - (1 - P).abs()).abs().max() < 1e-9
    inside = P[(P >= 0) & (P <= 1)]
    for gamma in (0.01, 0.1, 1.0, 5.0):
        border = weight_at(2 ** (-1 / gamma), gamma, inside)
        assert (border - 0.5).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("weigh", "slope"), [(adaptive_weight, -1.3167904), (constant_weight, -0.9583952)]
)
def test_one_cell_by_hand(weigh, slope):
    """The released code lets the gradient through the weight; `constant_weight` does not."""
    predicted = torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64, requires_grad=True)
    drawn = torch.full_like(predicted, 0.8).detach()
    weight = weigh(predicted, drawn, GAMMA)
    loss = weighted_mse(predicted, drawn, weight, torch.ones(1, 1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(0.2875186, abs=1e-7)
    assert predicted.grad.item() == pytest.approx(slope, abs=1e-7)
    assert weight.requires_grad == (weigh is adaptive_weight)


def test_a_constant_weight_is_the_same_weight():
    for level in LEVELS:
        drawn = torch.full_like(P, level)
        assert torch.equal(constant_weight(P, drawn, GAMMA), weight_at(level))


def test_near_a_peak_1_is_as_good_as_right():
    """A known weakness of the method: the weight has a zero of its own, and peaks become flat."""
    drawn, mask = torch.full((1, 1, 1, 1), 0.8), torch.ones(1, 1, 1)
    below, above = (
        swahr_loss(torch.full_like(drawn, p), drawn, torch.zeros_like(drawn), mask)[0].item()
        for p in (0.6, 1.0)
    )
    assert above == pytest.approx(0.04 * (1 - 0.8**0.01), rel=1e-3)
    assert above < 1e-4 < below / 100
