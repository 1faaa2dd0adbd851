"""The heatmap loss in plain loops; what a batch's targets and terms are at every resolution."""

from functools import partial

import pytest
import torch

from hrpose.losses.associative_embedding import tag_loss, tag_statistics
from hrpose.losses.combine import (
    TargetConfig,
    heatmap_term,
    make_targets,
    multi_resolution_loss,
    sahr_term,
    tag_term,
    wahr_mse,
)
from hrpose.losses.heatmap import joints_mse, masked_mse, ohkm_mse
from hrpose.losses.swahr import adaptive_weight
from hrpose.ops.coordinates import HIGHERHRNET
from hrpose.ops.targets import draw_heatmaps, joint_cells
from hrpose.structures import HeadOutput
from reference.losses import looped_mse


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The heatmap loss -------------------------------------------------------------------------------


def test_masked_mse_oracle(record_difference):
    predicted, truth = random(2, 3, 5, 6).requires_grad_(), random(2, 3, 5, 6, seed=1)
    mask = (random(2, 5, 6, seed=2) > 0.3).to(torch.uint8)
    result, plain = masked_mse(predicted, truth, mask), looped_mse(predicted, truth, mask)
    (slope,) = torch.autograd.grad(result[0] + 3 * result[1], predicted)
    (plain_slope,) = torch.autograd.grad(plain[0] + 3 * plain[1], predicted)
    record_difference("masked_mse", (result - plain).detach().abs().max())
    record_difference("masked_mse: gradient", (slope - plain_slope).abs().max())
    assert torch.allclose(result, plain, atol=1e-12)
    assert torch.allclose(slope, plain_slope, atol=1e-12)
    masked = (mask == 0)[:, None].expand_as(slope)
    assert (slope[masked] == 0).all()
    assert (slope[~masked] != 0).all()


def test_the_mean_is_over_all_cells_masked_or_not():
    predicted, truth = torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    mask = torch.ones(1, 4, 4)
    assert masked_mse(predicted, truth, mask).item() == 1
    mask[0, :2] = 0
    assert masked_mse(predicted, truth, mask).item() == 0.5


def test_images_do_not_mix():
    predicted = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 2.0)])
    losses = masked_mse(predicted, torch.zeros(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool))
    assert losses.tolist() == [0, 4]


PERSON_LOSSES = pytest.mark.parametrize("loss", [joints_mse, partial(ohkm_mse, hardest=3)])


@PERSON_LOSSES
def test_a_joint_of_weight_0_has_no_loss_and_no_gradient(loss):
    predicted = (1e6 * random(2, 5, 4, 3)).requires_grad_()
    weights = torch.tensor([[1.0, 0, 1, 1, 0], [0] * 5])
    losses = loss(predicted, random(2, 5, 4, 3, seed=1), weights)
    losses.sum().backward()
    assert losses[0] > 0 == losses[1]
    assert not predicted.grad[weights == 0].any() and predicted.grad[weights > 0].all()


@PERSON_LOSSES
def test_person_losses_know_no_order_and_weights_enter_squared(loss):
    predicted, target = random(4, 5, 4, 3), random(4, 5, 4, 3, seed=1)
    weights = 0.1 + random(4, 5, seed=2)
    once = loss(predicted, target, weights)
    torch.testing.assert_close(loss(predicted, target, 3 * weights), 9 * once)
    for people, joints in (([2, 0, 3, 1], [*range(5)]), ([*range(4)], [4, 2, 0, 1, 3])):
        moved = [each[people][:, joints] for each in (predicted, target, weights)]
        torch.testing.assert_close(loss(*moved), once[people])
    twice = loss(*(torch.cat([each, each]) for each in (predicted, target, weights)))
    torch.testing.assert_close(twice.mean(), once.mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_full(dtype):
    """The square of 1e-4 is 0 in half precision."""
    predicted = torch.full((1, 1, 64, 64), 1e-4, dtype=dtype)
    loss = masked_mse(predicted, torch.zeros(1, 1, 64, 64), torch.ones(1, 64, 64))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(float(predicted[0, 0, 0, 0]) ** 2, rel=1e-3)


# All resolutions --------------------------------------------------------------------------------

SIDE, KINDS = 64, 3


def make_batch(people=4):
    joints = random(2, people, KINDS, 3, seed=3, dtype=torch.float32) * SIDE
    joints[..., 2] = (joints[..., 2] > SIDE / 4).float()
    mask = (random(2, SIDE // 2, SIDE // 2, seed=4) > 0.3).to(torch.uint8)
    return {"joints": joints, "mask": mask, "flipped": torch.tensor([False, True])}


def make_outputs():
    coarse, fine = (random(2, 2 * KINDS, SIDE // s, SIDE // s, seed=s).float() for s in (4, 2))
    return [
        HeadOutput("1_4", 4, coarse[:, :KINDS], coarse[:, KINDS:]),
        HeadOutput("1_2", 2, fine[:, :KINDS]),
    ]


USUAL = TargetConfig()


def make_terms(weights=None, targets=USUAL, terms=(heatmap_term, tag_term), people=4):
    weights = weights or {"heatmap": 1.0, "pull": 1e-3, "push": 2e-3}
    return multi_resolution_loss(make_outputs(), make_batch(people), terms, weights, targets)


def test_terms_are_named_and_weighted():
    loss, weights, watch = make_terms()
    assert set(loss) == {"heatmap/1_4", "heatmap/1_2", "pull/1_4", "push/1_4"}
    assert weights == {"heatmap/1_4": 1.0, "heatmap/1_2": 1.0, "pull/1_4": 1e-3, "push/1_4": 2e-3}
    assert set(watch) == {"tag_std/1_4", "tag_separation/1_4", "tag_conflicts/1_4"}
    assert all(value.shape == (2,) for value in [*loss.values(), *watch.values()])


def test_outputs_of_one_stride_have_losses_of_their_own():
    first, second = (output._replace(stride=4) for output in (make_outputs()[0],) * 2)
    first, second = first._replace(name="stage1"), second._replace(name="stage2")
    given = make_batch(), (heatmap_term, tag_term), {"heatmap": 1.0, "pull": 1.0, "push": 1.0}
    given[0]["mask"] = given[0]["mask"][:, ::2, ::2]
    both = multi_resolution_loss([first, second], *given, USUAL)
    alone = multi_resolution_loss([first], *given, USUAL)
    for term in ("heatmap", "pull", "push"):
        for stage in ("stage1", "stage2"):
            assert torch.equal(both.losses[f"{term}/{stage}"], alone.losses[f"{term}/stage1"])
    assert len(both.losses) == len(both.weights) == 2 * len(alone.losses)
    with pytest.raises(ValueError, match="stage1, stage1.*own name"):
        multi_resolution_loss([first, first], *given, USUAL)


def scalar(output, targets):
    return {"mean": output.heatmaps.mean()}


@pytest.mark.parametrize(
    ("term", "weights", "message"),
    [
        (heatmap_term, {}, 'two terms of LOSS.TERMS return "heatmap"; give each its own name'),
        (partial(scalar), {"mean": 1.0}, r'scalar returns "mean" of shape \(\);.*image, \(2,\)'),
        (scalar, {"average": 1.0}, r'scalar returns "mean" .* LOSSES weighs \(heatmap, average\)'),
    ],
)
def test_a_term_that_cannot_be_added_is_named(term, weights, message):
    with pytest.raises(ValueError, match=message):
        make_terms({"heatmap": 1.0, **weights}, terms=(heatmap_term, term))


def test_weights_may_differ_from_one_resolution_to_the_next():
    weights = make_terms({"heatmap": (0.25, 4.0), "pull": 0, "push": 1}).weights
    assert weights == {"heatmap/1_4": 0.25, "heatmap/1_2": 4.0, "pull/1_4": 0, "push/1_4": 1}


def test_values_are_those_of_the_parts_put_together_by_hand():
    batch, outputs = make_batch(), make_outputs()
    loss, _, watch = make_terms()
    for output in outputs:
        side = SIDE // output.stride
        joints = HIGHERHRNET.to_heatmap_coords(batch["joints"], output.stride, batch["flipped"])
        mask = batch["mask"].clone()
        if output.stride == 4:
            mask = torch.stack([mask[0, ::2, ::2], mask[1, ::2, 1::2]])
        drawn = draw_heatmaps(joints, (side, side), 2.0)
        wanted = looped_mse(output.heatmaps, drawn, mask)
        assert torch.allclose(loss[f"heatmap/{output.name}"], wanted, atol=1e-6)
    cells = joint_cells(
        HIGHERHRNET.to_heatmap_coords(batch["joints"], 4, batch["flipped"]), (16, 16)
    )
    tags = outputs[0].tags.flatten(1)
    pull, push = tag_loss(tags, cells)
    assert torch.equal(loss["pull/1_4"], pull)
    assert torch.equal(loss["push/1_4"], push)
    for name, value in tag_statistics(tags, cells, 1.0).items():
        assert torch.equal(watch[f"{name}/1_4"], value)


def test_sigma_reaches_the_targets():
    wide, narrow = (make_terms(targets=TargetConfig(sigma)).losses for sigma in (4.0, 2.0))
    assert not torch.equal(wide["heatmap/1_2"], narrow["heatmap/1_2"])
    assert torch.equal(wide["pull/1_4"], narrow["pull/1_4"])


def test_tags_of_the_first_people_alone_but_heatmaps_of_everybody():
    batch = make_batch(people=40)
    few = make_targets(batch, [4, 2], TargetConfig(max_people=3))[0]
    all_of_them = make_targets(batch, [4, 2], TargetConfig(max_people=99))[0]
    assert few.cells.shape == (2, 3, KINDS)
    assert torch.equal(few.cells, all_of_them.cells[:, :3])
    assert torch.equal(few.heatmaps, all_of_them.heatmaps)


def test_an_image_without_people_has_a_loss_and_no_tag_loss():
    loss, _, watch = make_terms(people=0)
    assert loss["heatmap/1_4"].min() > 0
    assert not loss["pull/1_4"].any()
    assert not loss["push/1_4"].any()
    assert all(value.isnan().all() for value in watch.values())


def test_the_threshold_of_grouping_decides_who_is_close():
    close, apart = (
        multi_resolution_loss(
            make_outputs(), make_batch(), [heatmap_term], {"heatmap": 1.0}, USUAL, threshold
        ).metrics["tag_conflicts/1_4"]
        for threshold in (2.0, 0.0)
    )
    assert close.tolist() == [1, 1]
    assert apart.tolist() == [0, 0]


def test_the_kind_of_push_is_chosen_by_the_term():
    exp, hinge = (
        make_terms(terms=[partial(tag_term, kind=kind)]).losses for kind in ("exp", "max")
    )
    assert torch.equal(exp["pull/1_4"], hinge["pull/1_4"])
    assert not torch.equal(exp["push/1_4"], hinge["push/1_4"])
    assert set(exp) == {"pull/1_4", "push/1_4"}


def test_nothing_is_read_back_from_the_device():
    """On meta tensors that is impossible: no .item(), no choice by a mask."""
    batch = {name: value.to("meta") for name, value in make_batch().items()}
    batch["boxes"] = torch.empty(2, 4, 4, device="meta")
    outputs = [
        output._replace(
            heatmaps=output.heatmaps.to("meta"),
            tags=None if output.tags is None else output.tags.to("meta"),
            scales=output.heatmaps.to("meta"),
        )
        for output in make_outputs()
    ]
    weigh = partial(wahr_mse, weigh=partial(adaptive_weight, gamma=0.01))
    weights = {name: 1.0 for name in ("heatmap", "scale", "pull", "push")}
    for term in (heatmap_term, partial(sahr_term, distance=weigh)):
        loss, _, watch = multi_resolution_loss(
            outputs, batch, (term, tag_term), weights, TargetConfig(unit_width=256.0)
        )
        assert all(
            value.shape == (2,) and value.is_meta for value in [*loss.values(), *watch.values()]
        )


def test_metrics_carry_no_gradient():
    outputs = [
        output._replace(heatmaps=output.heatmaps.requires_grad_()) for output in make_outputs()
    ]
    outputs[0] = outputs[0]._replace(tags=outputs[0].tags.requires_grad_())
    weights = {"heatmap": 1.0, "pull": 1e-3, "push": 1e-3}
    loss, _, watch = multi_resolution_loss(
        outputs, make_batch(), (heatmap_term, tag_term), weights, TargetConfig()
    )
    assert all(value.requires_grad for value in loss.values())
    assert not any(value.requires_grad for value in watch.values())
