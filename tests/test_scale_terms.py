"""What LOSS.SAHR, .WAHR, .LAMBDA, .SHR and .SIGMA make of the loss, at every resolution."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hrpose.builders import build_loss
from hrpose.config import load_config
from hrpose.losses.combine import (
    TargetConfig,
    heatmap_term,
    make_targets,
    multi_resolution_loss,
    sahr_term,
)
from hrpose.structures import HeadOutput
from reference.losses import adaptive_losses
from reference.targets import draw_gaussians, published_cell

PLAIN = Path(__file__).parents[1] / "configs" / "w32_512.yaml"
SIDE, KINDS, STRIDES = 32, 17, (4, 2)


def build(*overrides):
    return build_loss(load_config(PLAIN, ["MODEL.NAME", "swahr", *overrides]))


def uniform(*shape, seed, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def make_batch(people=3):
    joints = SIDE * uniform(2, people, KINDS, 3, seed=0)
    joints[..., 2] = (joints[..., 2] > SIDE / 3).float()
    return {
        "joints": joints,
        "boxes": uniform(2, people, 4, seed=1, low=20, high=400),
        "mask": (uniform(2, SIDE // 2, SIDE // 2, seed=2) > 0.3).to(torch.uint8),
        "flipped": torch.tensor([False, True]),
    }


def make_outputs():
    sides = [SIDE // stride for stride in STRIDES]
    maps = [
        (
            uniform(2, KINDS, side, side, seed=side, low=-0.3, high=1.3).requires_grad_(),
            uniform(2, KINDS, side, side, seed=side + 1),
            uniform(2, KINDS, side, side, seed=side + 2, low=-1.5, high=3).requires_grad_(),
        )
        for side in sides
    ]
    (coarse, tags, wide), (fine, _, narrow) = maps
    return [HeadOutput("1_4", 4, coarse, tags, wide), HeadOutput("1_2", 2, fine, None, narrow)]


def plain_truth(batch, stride, sigma=2.0, scales=None):
    """Drawn heatmaps (B, K, H, W) and mask (B, H, W) at a resolution."""
    side, cells = SIDE // stride, batch["joints"].numpy().copy()
    for b in range(len(cells)):
        turned = bool(batch["flipped"][b])
        for joint in cells[b].reshape(-1, 3):
            x = SIDE - 1 - float(joint[0]) if turned else float(joint[0])  # of the image unturned
            joint[0] = published_cell(x, SIDE, stride, turned)
            joint[1] = published_cell(float(joint[1]), SIDE, stride, False)
    step = stride // STRIDES[-1]
    mask = torch.stack(
        [
            part[::step, step - 1 if turned else 0 :: step]
            for part, turned in zip(batch["mask"], batch["flipped"])
        ]
    )
    return draw_gaussians(cells, (side, side), sigma, scales), mask


# SAHR and WAHR ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sahr, wahr", [*itertools.product(("false", "true"), repeat=2)])
def test_terms_oracle(sahr, wahr, record_difference):
    """WAHR's weight depends on the heatmaps as drawn, also where SAHR widens them."""
    batch, outputs = make_batch(), make_outputs()
    gamma = ["LOSS.GAMMA", "0.1"] if wahr == "true" else []
    terms = build("LOSS.SAHR", sahr, "LOSS.WAHR", wahr, *gamma)(outputs, batch)
    wanted = {f"{name}/1_{stride}" for name in ("heatmap", "scale") for stride in STRIDES}
    wanted = {name for name in wanted if sahr == "true" or not name.startswith("scale")}
    assert set(terms.losses) == wanted | {"pull/1_4", "push/1_4"}
    for output in outputs:
        drawn, mask = plain_truth(batch, output.stride)
        alpha = output.scales.detach() * (sahr == "true")
        gamma = 0.1 if wahr == "true" else None
        plain = adaptive_losses(output.heatmaps.detach(), drawn, alpha, mask, gamma)
        heatmap = terms.losses[f"heatmap/{output.name}"]
        results = [heatmap, *torch.autograd.grad(heatmap.sum(), output.heatmaps, retain_graph=True)]
        expected = [plain.heatmap, plain.heatmap_by_predicted]
        if sahr == "true":
            scale = terms.losses[f"scale/{output.name}"]
            by_alpha = torch.autograd.grad(heatmap.sum() + 3 * scale.sum(), output.scales)
            results += [scale, *by_alpha]
            expected += [plain.scale, plain.heatmap_by_alpha + 3 * plain.scale_by_alpha]
        for values, others in zip(results, expected):
            away = abs(values.detach().numpy() - others).max() / abs(others).max()
            record_difference(f"SAHR {sahr}, WAHR {wahr}, relative", away)
            assert away < 1e-5


def test_a_constant_weight_for_the_gradient_alone():
    outputs, batch = make_outputs(), make_batch()
    slopes = []
    for detached in ("false", "true"):
        terms = build("LOSS.WAHR", "true", "LOSS.DETACH_WEIGHT", detached)(outputs, batch)
        loss = terms.losses["heatmap/1_2"]
        slopes.append((loss, *torch.autograd.grad(loss.sum(), outputs[1].heatmaps)))
    assert torch.equal(slopes[0][0], slopes[1][0])
    drawn, mask = (torch.as_tensor(part) for part in plain_truth(batch, 2))
    predicted = outputs[1].heatmaps.detach().double()
    there = drawn**0.01
    weight = there * (1 - predicted).abs() + (1 - there) * predicted.abs()
    wanted = 2 * weight * (predicted - drawn) * mask[:, None] / drawn[0].numel()
    assert torch.allclose(slopes[1][1].double(), wanted, atol=1e-8)
    assert not torch.allclose(slopes[0][1].double(), wanted, atol=1e-5)


def test_lambda_weighs_the_scales():
    terms = build("LOSS.SAHR", "true", "LOSS.LAMBDA", "7")(make_outputs(), make_batch())
    assert terms.weights["scale/1_4"] == terms.weights["scale/1_2"] == 7
    assert terms.weights["heatmap/1_4"] == 1


@pytest.mark.parametrize("wahr", ["false", "true"])
def test_an_endless_lambda_is_no_sahr(wahr):
    outputs, batch = make_outputs(), make_batch()
    endless = build("LOSS.SAHR", "true", "LOSS.LAMBDA", ".inf", "LOSS.WAHR", wahr)(outputs, batch)
    without = build("LOSS.SAHR", "false", "LOSS.WAHR", wahr)(outputs, batch)
    adaptive = build("LOSS.SAHR", "true", "LOSS.WAHR", wahr)(outputs, batch)
    assert endless.weights == without.weights
    assert endless.losses.keys() == without.losses.keys()
    assert all(torch.equal(endless.losses[name], without.losses[name]) for name in without.losses)
    assert not torch.equal(adaptive.losses["heatmap/1_2"], without.losses["heatmap/1_2"])


def settled(factor):
    """alpha where gradient descent ends, with predictions held fast; H and P beside it."""
    overrides = ["LOSS.SAHR", "true", "LOSS.LAMBDA", str(factor), "MODEL.NUM_DECONVS", "0"]
    loss, (coarse, _), batch = build(*overrides), make_outputs(), make_batch()
    batch["mask"] = torch.ones(2, SIDE // 4, SIDE // 4, dtype=torch.uint8)
    predicted = coarse.heatmaps.detach()
    alpha = coarse.scales.detach().clamp(-1, 1).requires_grad_()
    cells = predicted[0].numel()
    descent = torch.optim.SGD([alpha], lr=cells / (4 * max(factor, 1)))
    for _ in range(200):
        terms = loss([coarse._replace(heatmaps=predicted, scales=alpha)], batch)
        descent.zero_grad()
        sum(
            terms.weights[name] * terms.losses[name].sum() for name in ("heatmap/1_4", "scale/1_4")
        ).backward()
        descent.step()
    return alpha.detach(), torch.from_numpy(plain_truth(batch, 4)[0]).float(), predicted


def test_the_larger_lambda_the_nearer_to_0_are_the_scales():
    """To the first order alpha ends at (P - H) H ln H / lambda, which is where slopes cancel."""
    alpha, H, P = settled(1e4)
    drawn = H > 0
    wanted = ((P - H) * torch.special.xlogy(H, H) / 1e4)[drawn]
    assert alpha[drawn].abs().max() < 1e-4
    assert (alpha[drawn] - wanted).abs().max() < 0.01 * wanted.abs().max()
    assert alpha[~drawn].abs().max() > 0.9  # no loss depends on these, and they stay
    free, _, _ = settled(0.1)
    assert free[drawn].abs().max() > 0.5


def test_missing_scales_are_refused():
    batch, outputs = make_batch(), [output._replace(scales=None) for output in make_outputs()]
    truth = make_targets(batch, STRIDES, TargetConfig())[0]
    with pytest.raises(ValueError, match="training mode"):
        sahr_term(outputs[0], truth)
    with pytest.raises(ValueError, match="training mode"):
        build("LOSS.SAHR", "true")(outputs, batch)


# SHR and SIGMA ----------------------------------------------------------------------------------


def heatmap_losses(targets, batch):
    terms = multi_resolution_loss(make_outputs(), batch, [heatmap_term], {"heatmap": 1.0}, targets)
    return {name: value.detach().numpy() for name, value in terms.losses.items()}


@pytest.mark.parametrize("sigma", [(2.0,), 2.0, (2.0, 3.0), (1.0, 2.5)])
@pytest.mark.parametrize("unit_width", [0.0, 256.0, 100.0])
def test_truths_oracle(sigma, unit_width, record_difference):
    """One deviation for all resolutions or one for each; SHR: s is the width over the unit."""
    batch, outputs = make_batch(), make_outputs()
    truths = make_targets(batch, STRIDES, TargetConfig(sigma, unit_width=unit_width))
    scales = (batch["boxes"][..., 2] / unit_width).numpy() if unit_width else None
    each = np.broadcast_to(sigma, 2).tolist()
    for output, truth, deviation in zip(outputs, truths, each):
        plain, mask = plain_truth(batch, output.stride, deviation, scales)
        away = abs(truth.heatmaps.numpy() - plain).max()
        record_difference("truths: SIGMA and SHR", away)
        assert away < 1e-6
        assert torch.equal(truth.mask, mask)


def test_shr_of_a_config_reaches_the_loss():
    batch, outputs = make_batch(), make_outputs()
    terms = build("LOSS.SHR", "256", "LOSS.SIGMA", "[2, 3]")(outputs, batch)
    for output, sigma in zip(outputs, (2.0, 3.0)):
        drawn, mask = plain_truth(
            batch, output.stride, sigma, (batch["boxes"][..., 2] / 256).numpy()
        )
        plain = adaptive_losses(output.heatmaps.detach(), drawn, np.zeros(drawn.shape), mask, None)
        result = terms.losses[f"heatmap/{output.name}"].detach().numpy()
        np.testing.assert_allclose(result, plain.heatmap, rtol=1e-5)


def test_a_person_of_the_unit_width_is_drawn_as_without_shr():
    batch = make_batch()
    wide = {**batch, "boxes": torch.full((2, 3, 4), 256.0)}
    plain = heatmap_losses(TargetConfig(), batch)
    result = heatmap_losses(TargetConfig(unit_width=256.0), wide)
    for name, value in plain.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-6)
    other = heatmap_losses(TargetConfig(unit_width=256.0), batch)
    assert all(abs(other[name] - value).max() > 1e-4 for name, value in plain.items())


def test_shr_draws_images_without_people_and_with_empty_rows():
    """A batch's images have as many rows as its fullest one; empty rows have no width."""
    empty = make_batch(people=0)
    for truth in make_targets(empty, STRIDES, TargetConfig(unit_width=256.0)):
        assert not truth.heatmaps.any()
    batch = make_batch()
    batch["joints"][1, 1:], batch["boxes"][1, 1:] = 0, 0
    alone = {
        name: values[:, :1] if name in ("joints", "boxes") else values
        for name, values in batch.items()
    }
    pair = (make_targets(part, STRIDES, TargetConfig(unit_width=256.0)) for part in (batch, alone))
    for truth, of_one in zip(*pair):
        assert torch.isfinite(truth.heatmaps).all()
        assert torch.equal(truth.heatmaps[1], of_one.heatmaps[1])
        assert truth.heatmaps[1].max() == 1


@pytest.mark.parametrize("width", [0.0, -40.0, 0.3])
def test_a_box_without_a_width_is_no_danger(width):
    """Everybody is drawn at least as if the box were one pixel wide."""
    batch, rule = make_batch(), TargetConfig(unit_width=256.0)
    pair = ({**batch, "boxes": torch.full((2, 3, 4), each)} for each in (width, 1.0))
    for truth, of_one_pixel in zip(*(make_targets(part, STRIDES, rule) for part in pair)):
        assert torch.equal(truth.heatmaps, of_one_pixel.heatmaps)
        assert truth.heatmaps.max() == 1
