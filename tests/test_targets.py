"""Laws of the drawn targets, and the same in plain loops."""

import math

import numpy as np
import pytest
import torch

from hrpose.ops.coordinates import HIGHERHRNET, mirror_joints
from hrpose.ops.targets import draw_heatmaps, joint_cells
from hrpose.skeletons import COCO
from reference.targets import draw_gaussians, flat_cells, published_cell

SIZE = (24, 32)


def one(x, y, flag=2.0):
    return torch.tensor([[[[x, y, flag]]]], dtype=torch.float32)


def crowd(rng, images=2, people=5, kinds=3, size=SIZE):
    """Joints in and about the map, some not labelled, some not numbers."""
    height, width = size
    joints = np.zeros((images, people, kinds, 3), np.float32)
    joints[..., 0] = rng.uniform(-3, width + 3, joints.shape[:3])
    joints[..., 1] = rng.uniform(-3, height + 3, joints.shape[:3])
    joints[..., 2] = rng.integers(0, 3, joints.shape[:3])
    joints[rng.random(joints.shape[:3]) < 0.1, rng.integers(0, 3)] = np.nan
    return joints


# Against loops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("people", [0, 1, 5, 40])
@pytest.mark.parametrize("sigma", [2.0, 1.0, 2.5])
def test_target_oracle(rng, people, sigma, record_difference):
    joints = crowd(rng, people=people)
    ours = draw_heatmaps(torch.from_numpy(joints), SIZE, sigma)
    plain = draw_gaussians(joints, SIZE, sigma)
    assert ours.dtype == torch.float32
    assert ours.shape == plain.shape == (2, 3, *SIZE)
    record_difference("draw_heatmaps", abs(ours.numpy() - plain).max())
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    assert np.array_equal(ours.numpy() > 0, plain > 0)


@pytest.mark.parametrize("people", [0, 1, 5, 40])
@pytest.mark.parametrize("sigma", [2.0, 2.5])
def test_scaled_target_oracle(rng, people, sigma, record_difference):
    """Everybody's Gaussians raised to 1 / s, on the cells that sigma lights; the higher stands."""
    joints = torch.from_numpy(crowd(rng, people=people))
    scales = rng.uniform(0.3, 3, (2, people)).astype(np.float32)
    ours = draw_heatmaps(joints, SIZE, sigma, torch.from_numpy(scales))
    plain = draw_gaussians(joints, SIZE, sigma, scales)
    assert ours.dtype == torch.float32
    record_difference("draw_heatmaps with scales", abs(ours.numpy() - plain).max())
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    assert torch.equal(ours > 0, draw_heatmaps(joints, SIZE, sigma) > 0)


@pytest.mark.parametrize("people", [0, 1, 5, 40])
def test_cells_oracle(rng, people, record_difference):
    joints = crowd(rng, people=people)
    ours = joint_cells(torch.from_numpy(joints), SIZE)
    plain = flat_cells(joints, SIZE)
    assert ours.dtype == torch.int64
    assert ours.shape == (2, people, 3)
    if people:
        record_difference("joint_cells", abs(ours.numpy() - plain).max())
    assert np.array_equal(ours, plain)


@pytest.mark.parametrize("stride", [2, 4])
def test_target_oracle_of_mirrored_samples(rng, stride, record_difference):
    """Drawn from mirrored network pixels, against each frame mirrored for itself."""
    side = 96
    joints = rng.integers(0, side * 8, (1, 6, 17, 3)).astype(np.float32) / 8
    joints[..., 2] = 1
    turned = mirror_joints(joints[0], side, COCO.flip_order)[None].astype(np.float32)
    cells = HIGHERHRNET.to_heatmap_coords(torch.from_numpy(turned), stride, torch.tensor([True]))
    ours = draw_heatmaps(cells, (side // stride, side // stride), 2.0)

    plain_joints = joints[:, :, COCO.flip_order].copy()
    for place in plain_joints.reshape(-1, 3):
        place[0] = published_cell(float(place[0]), side, stride, True)
        place[1] = published_cell(float(place[1]), side, stride, False)
    plain = draw_gaussians(plain_joints, ours.shape[-2:], 2.0)
    record_difference(f"mirrored target at 1/{stride}", abs(ours.numpy() - plain).max())
    np.testing.assert_allclose(ours, plain, atol=1e-6)


# Laws -------------------------------------------------------------------------------------------


def test_a_single_patch():
    drawn = draw_heatmaps(one(12.9, 10.2), SIZE, 2.0)[0, 0]
    assert drawn[10, 12] == 1 == drawn.max()
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[3:18, 5:20] = True
    assert torch.equal(drawn > 0, inside)  # 15 x 15
    assert drawn[inside].min().item() == pytest.approx(4.785117e-06, rel=1e-5)
    assert drawn[10, 13].item() == pytest.approx(math.exp(-1 / 8))


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5, 2.0, 2.5, 3.0])
def test_the_peak_is_1_for_every_sigma(sigma):
    drawn = draw_heatmaps(one(16, 12), SIZE, sigma)[0, 0]
    assert drawn.max() == drawn[12, 16] == 1
    reach = math.ceil(3 * sigma) + 1
    across = (drawn[12] > 0).nonzero()[:, 0]
    assert across[0] >= 16 - reach
    assert across[-1] == min(16 + reach, 31)


def test_people_meet_in_the_maximum():
    people = torch.cat([one(8, 8), one(11, 9), one(30, 20)], 1)
    together = draw_heatmaps(people, SIZE, 2.0)
    alone = torch.stack([draw_heatmaps(people[:, i : i + 1], SIZE, 2.0) for i in range(3)])
    assert torch.equal(together, alone.amax(0))
    assert torch.equal(together, draw_heatmaps(people.flip(1), SIZE, 2.0))
    assert torch.equal(together, draw_heatmaps(people.repeat(1, 2, 1, 1), SIZE, 2.0))


def test_a_patch_moves_with_its_joint():
    here, there = (draw_heatmaps(one(x, 11), SIZE, 2.0)[0, 0] for x in (10, 15))
    assert torch.equal(here[:, :20], there[:, 5:25])


def test_the_border_cuts_the_patch():
    whole = draw_heatmaps(one(40, 40), (80, 80), 2.0)[0, 0]
    for x, y in ((0, 0), (31, 23), (0, 12), (16, 23)):
        cut = whole[40 - y : 40 - y + 24, 40 - x : 40 - x + 32]
        assert torch.equal(draw_heatmaps(one(x, y), SIZE, 2.0)[0, 0], cut)


@pytest.mark.parametrize("x, column", [(-0.5, 0), (-0.99, 0), (0.99, 0), (31.99, 31)])
def test_just_outside_on_the_left_is_drawn_as_the_authors_do(x, column):
    drawn = draw_heatmaps(one(x, 5), SIZE, 2.0)[0, 0]
    assert drawn[5, column] == 1
    assert joint_cells(one(x, 5), SIZE).item() == 5 * 32 + column


@pytest.mark.parametrize(
    "joint",
    [
        (5, 5, 0),
        (-1, 5, 2),
        (5, -1, 2),
        (32, 5, 2),
        (5, 24, 2),
        (math.nan, 5, 2),
        (5, math.nan, 2),
        (5, 5, math.nan),
        (math.inf, 5, 2),
        (5, -math.inf, 2),
    ],
)
def test_what_is_not_there_is_not_drawn(joint):
    assert not draw_heatmaps(one(*joint), SIZE, 2.0).any()
    assert joint_cells(one(*joint), SIZE).item() == -1


def test_a_scale_of_1_changes_nothing(rng):
    joints = torch.from_numpy(crowd(rng))
    plain = draw_heatmaps(joints, SIZE, 2.0)
    assert torch.equal(draw_heatmaps(joints, SIZE, 2.0, None), plain)
    assert torch.equal(draw_heatmaps(joints, SIZE, 2.0, torch.ones(2, 5)), plain)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 4.0])
def test_a_scale_is_a_factor_of_the_variance(scale):
    """Not of the deviation: sigma's Gaussian to 1 / s is that of sigma sqrt(s)."""
    scaled = draw_heatmaps(one(12, 10), SIZE, 2.0, torch.tensor([[scale]]))[0, 0]
    other = draw_heatmaps(one(12, 10), SIZE, 2.0 * math.sqrt(scale))[0, 0]
    both = (scaled > 0) & (other > 0)
    assert both.sum() >= 9 * 9
    torch.testing.assert_close(scaled[both], other[both], rtol=1e-4, atol=1e-7)
    assert scaled[10, 12] == 1
    assert (scaled > 0).sum() == 15 * 15


def test_visible_and_hidden_are_drawn_alike():
    assert torch.equal(
        draw_heatmaps(one(5, 5, 1), SIZE, 2.0), draw_heatmaps(one(5, 5, 2), SIZE, 2.0)
    )


def test_a_tag_is_read_where_the_peak_is(rng):
    joints = torch.from_numpy(crowd(rng, people=1))
    cells, maps = joint_cells(joints, SIZE), draw_heatmaps(joints, SIZE, 2.0).flatten(1)
    for b, _, k in (cells >= 0).nonzero().tolist():
        assert maps[b, cells[b, 0, k]] == 1
        assert cells[b, 0, k] // (24 * 32) == k
    assert (cells >= 0).any()


def test_mirroring_whole_cells_mirrors_the_map(rng):
    joints = np.trunc(rng.uniform(0, 24, (1, 3, 17, 3))).astype(np.float32)
    joints[..., 2] = 1
    turned = mirror_joints(joints[0], 32, COCO.flip_order)[None]
    drawn = draw_heatmaps(torch.from_numpy(joints), SIZE, 2.0)
    mirrored = draw_heatmaps(torch.from_numpy(turned), SIZE, 2.0)
    assert torch.equal(mirrored, drawn.flip(-1)[:, COCO.flip_order])


def test_joints_are_not_changed(rng):
    joints = torch.from_numpy(crowd(rng))
    before = joints.clone()
    draw_heatmaps(joints, SIZE, 2.0)
    joint_cells(joints, SIZE)
    assert torch.equal(joints.nan_to_num(7), before.nan_to_num(7))
