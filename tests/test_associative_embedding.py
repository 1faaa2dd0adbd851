"""Associative embedding: known values, laws, and the same in plain loops."""

import math

import pytest
import torch

from hrpose.losses.associative_embedding import tag_loss, tag_statistics
from reference.losses import image_tag_statistics, looped_tag_loss

KINDS = ("exp", "max")


def people(*tags_of_each):
    """One image: the tags of every person, one cell for each value."""
    tags = torch.tensor(
        [[tag for tags in tags_of_each for tag in tags] or [9.0]], dtype=torch.float64
    )
    most = max((len(tags) for tags in tags_of_each), default=1)
    cells = torch.full((1, len(tags_of_each), most), -1)
    start = 0
    for n, own in enumerate(tags_of_each):
        cells[0, n, : len(own)] = torch.arange(start, start + len(own))
        start += len(own)
    return tags, cells


def random_batch(count, joints=5, cells=60, images=3):
    """Tags near each other, with padded rows, people of a few joints and joints out of the map."""
    generator = torch.Generator().manual_seed(count)
    tags = torch.randn(images, cells, generator=generator, dtype=torch.float64)
    where = torch.randint(0, cells, (images, count, joints), generator=generator)
    unseen = torch.rand(images, count, joints, generator=generator) < 0.4
    where[unseen] = -1
    where[-1, count // 2 :] = -1  # padded
    return tags, where


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_tag_loss_oracle(kind, count, record_difference):
    tags, cells = random_batch(count)
    tags.requires_grad_()
    pull, push = tag_loss(tags, cells, kind)
    plain_pull, plain_push = looped_tag_loss(tags, cells, kind)
    factors = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for name, result, expected in (("pull", pull, plain_pull), ("push", push, plain_push)):
        (slope,) = torch.autograd.grad(result @ factors, tags, retain_graph=True)
        (plain_slope,) = torch.autograd.grad(expected @ factors, tags, retain_graph=True)
        record_difference(f"tag_loss {kind}: {name}", (result - expected).detach().abs().max())
        record_difference(f"tag_loss {kind}: {name} gradient", (slope - plain_slope).abs().max())
        assert result.shape == (3,)
        assert torch.allclose(result, expected, atol=1e-12)
        assert torch.allclose(slope, plain_slope, atol=1e-12)


def test_known_values():
    pull, push = tag_loss(*people([0, 2], [10, 10]))
    assert pull.item() == 0.5
    assert push.item() == pytest.approx(0.5 * math.exp(-81))
    assert tag_loss(*people([0], [3]))[1].item() == pytest.approx(0.5 * math.exp(-9))
    assert tag_loss(*people([0], [0.25]), "max")[1].item() == pytest.approx(0.5 * 0.75)
    assert tag_loss(*people([0], [1.5]), "max")[1].item() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 30])
def test_people_with_equal_tags_are_pushed_by_a_half(kind, count):
    assert tag_loss(*people(*[[4.0]] * count), kind)[1].item() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_people_and_one_person(kind):
    for tags in ((), ([], [])):
        pull, push = tag_loss(*people(*tags), kind)
        assert (pull.item(), push.item()) == (0, 0)
    pull, push = tag_loss(*people([1, 3], []), kind)
    assert (pull.item(), push.item()) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_order_padding_and_a_common_shift_do_not_matter(kind):
    tags, cells = random_batch(6)
    wanted = tag_loss(tags, cells, kind)
    padded = torch.cat([cells, torch.full((3, 4, 5), -1)], 1)
    others = [
        (tags, cells.flip(1)),
        (tags, cells.flip(2)),
        (tags, padded),
        (tags + 3.7, cells),
        (-tags, cells),
    ]
    for case in others:
        for value, same in zip(wanted, tag_loss(*case, kind)):
            assert torch.allclose(value, same, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds(kind):
    pull, push = tag_loss(*random_batch(12), kind)
    assert (pull > 0).all()
    assert (push >= 0).all()
    assert (push <= 0.5).all()
    assert tag_loss(*people([2, 2, 2], [7, 7]), kind)[0].item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_pushes_balance(kind):
    tags, cells = random_batch(8)
    tags.requires_grad_()
    (slope,) = torch.autograd.grad(tag_loss(tags, cells, kind)[1].sum(), tags)
    assert slope.abs().max() > 1e-4
    assert slope.sum(1).abs().max() < 1e-12


def test_an_unlabelled_joint_is_not_touched_whatever_its_tag():
    tags, cells = people([1.0, 3.0], [8.0])
    tags = torch.cat([torch.full((1, 1), math.nan, dtype=torch.float64), tags], 1)
    cells = cells.where(cells < 0, cells + 1)
    tags.requires_grad_()
    pull, push = tag_loss(tags, cells)
    (slope,) = torch.autograd.grad((pull + push).sum(), tags)
    assert pull.item() == 0.5
    assert slope[0, 0] == 0
    assert slope.isfinite().all()


def test_half_precision_is_summed_in_full():
    tags, cells = people([1.0, 3.0], [8.0])
    for value in tag_loss(tags.half(), cells):
        assert value.dtype == torch.float32


def test_an_unknown_kind_is_no_loss():
    with pytest.raises(ValueError):
        tag_loss(*people([1.0]), "linear")


# What is watched --------------------------------------------------------------------------------


def statistics(*tags_of_each, threshold=1.0):
    """Spread, gap and share of close pairs of one image."""
    found = tag_statistics(*people(*tags_of_each), threshold)
    assert list(found) == ["tag_std", "tag_separation", "tag_conflicts"]
    return [value.item() for value in found.values()]


def test_known_statistics():
    assert statistics([0, 2], [4], []) == [1, 3, 0]
    assert statistics([0, 2], [4, 10], threshold=6) == [2, 6, 0]  # at the threshold: two people
    assert statistics([0], [1], [5], threshold=4.5)[1:] == pytest.approx([(1 + 4 + 5) / 3, 2 / 3])
    assert statistics([3, 3], [3, 3, 3]) == [0, 0, 1]


@pytest.mark.parametrize("tags, wanted", [
    ([], "nan nan nan"),
    ([[], []], "nan nan nan"),
    ([[7]], "nan nan nan"),
    ([[0, 4], []], "2 nan nan"),
    ([[0], [4]], "nan 4 0"),
])  # fmt: skip
def test_what_no_person_shows_is_no_number(tags, wanted):
    assert " ".join(f"{value:g}" for value in statistics(*tags)) == wanted


@pytest.mark.parametrize("threshold", [0.05, 0.5])
@pytest.mark.parametrize("count, joints", [(0, 5), (1, 5), (1, 1), (2, 1), (7, 5), (30, 5)])
def test_tag_statistics_oracle(count, joints, threshold, record_difference):
    tags, cells = random_batch(count, joints)
    found = torch.stack([*tag_statistics(tags, cells, threshold).values()], -1)  # (B, 3)
    plain = [
        image_tag_statistics(of_image, where, threshold) for of_image, where in zip(tags, cells)
    ]
    plain = torch.tensor(plain, dtype=torch.float64)
    away = (found - plain).nan_to_num().abs().max()
    record_difference("tag_statistics", away)
    assert torch.equal(found.isnan(), plain.isnan())
    assert away < 1e-7  # shares are float32
    padded = torch.cat([cells, torch.full((3, 4, joints), -1)], 1)
    more = torch.stack([*tag_statistics(tags, padded, threshold).values()], -1)
    torch.testing.assert_close(more, found, rtol=0, atol=1e-7, equal_nan=True)


def test_statistics_are_not_learnt_from():
    tags, cells = people([1.0, 3.0], [8.0])
    found = tag_statistics(tags.half().requires_grad_(), cells, 1.0)
    assert not any(value.requires_grad for value in found.values())
    assert all(value.dtype == torch.float32 for value in found.values())
