"""Drawn heatmaps and tag cells of every convention: laws, and the same in plain loops."""

import math

import numpy as np
import pytest
import torch

from hrpose.ops.coordinates import CONVENTIONS, HIGHERHRNET, HRNET, UNBIASED, mirror_joints
from hrpose.ops.targets import draw_heatmaps, drawn_joints, joint_cells
from hrpose.skeletons import COCO
from reference.targets import (
    downsample_mask,
    draw_gaussians,
    drawn_cell,
    flat_cells,
    heatmap_coords,
)

SIZE = (24, 32)
EVERY_CONVENTION = pytest.mark.parametrize("name", CONVENTIONS)


def one(x, y, flag=2.0):
    return torch.tensor([[[[x, y, flag]]]], dtype=torch.float32)


def crowd(rng, images=2, people=5, kinds=3, size=SIZE, margin=3):
    """Joints in and about the map: some not labelled, some NaN or infinite, some halfway."""
    height, width = size
    shape = (images, people, kinds)
    joints = np.zeros((*shape, 3), np.float32)
    joints[..., 0] = rng.uniform(-margin, width + margin, shape)
    joints[..., 1] = rng.uniform(-margin, height + margin, shape)
    halfway = rng.random(shape) < 0.2
    joints[halfway] = np.floor(joints[halfway]) + 0.5
    joints[..., 2] = rng.integers(0, 3, shape)
    for value in (np.nan, np.inf, -np.inf):
        joints[rng.random(shape) < 0.05, rng.integers(0, 2)] = value
    joints[rng.random(shape) < 0.05, 2] = np.nan
    return joints


def draw(joints, name="higherhrnet", size=SIZE, sigma=2.0, variances=None):
    return draw_heatmaps(torch.as_tensor(joints), size, sigma, variances, CONVENTIONS[name])


# Against loops ----------------------------------------------------------------------------------


@EVERY_CONVENTION
@pytest.mark.parametrize("people", [0, 1, 5, 40])
@pytest.mark.parametrize("sigma", [2.0, 1.0, 2.5, 3.0])
@pytest.mark.parametrize("widths", ["equal", "own"])
def test_target_oracle(rng, name, people, sigma, widths, record_difference):
    """With widths of their own, Gaussians are raised to 1 / s on the cells that sigma lights."""
    joints = crowd(rng, people=people, margin=12)
    scales = rng.uniform(0.3, 3, (2, people)).astype(np.float32) if widths == "own" else None
    variances = None if scales is None else torch.from_numpy(scales)
    result = draw(joints, name, sigma=sigma, variances=variances)
    plain = draw_gaussians(joints, SIZE, sigma, scales, name)
    assert result.dtype == torch.float32
    assert result.shape == plain.shape == (2, 3, *SIZE)
    record_difference(f"draw_heatmaps, {name}", abs(result.numpy() - plain).max(initial=0))
    np.testing.assert_allclose(result, plain, atol=1e-6)
    assert np.array_equal(result.numpy() > 0, plain.astype(np.float32) > 0)


@EVERY_CONVENTION
@pytest.mark.parametrize("people", [0, 1, 5, 40])
def test_cells_oracle(rng, name, people):
    joints = crowd(rng, people=people, margin=12)
    result = joint_cells(torch.from_numpy(joints), SIZE, CONVENTIONS[name])
    assert result.dtype == torch.int64
    assert result.shape == (2, people, 3)
    assert np.array_equal(result, flat_cells(joints, SIZE, name))


@EVERY_CONVENTION
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_supervised_joints_oracle(rng, name, sigma):
    joints = crowd(rng, people=60, margin=14)
    result = drawn_joints(torch.from_numpy(joints), SIZE, sigma, CONVENTIONS[name])
    plain = [drawn_cell(joint, SIZE, name, sigma) is not None for joint in joints.reshape(-1, 3)]
    assert result.flatten().tolist() == plain


@EVERY_CONVENTION
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("flipped", [False, True])
def test_target_oracle_from_network_pixels(rng, name, stride, flipped, record_difference):
    """Drawn from flipped network pixels, in eighths, which float32 has."""
    side, convention = 96, CONVENTIONS[name]
    joints = rng.integers(-80, side * 8 + 80, (1, 6, 17, 3)).astype(np.float32) / 8
    joints[..., 2] = 1
    given = joints
    if flipped:
        given = mirror_joints(joints[0], side, COCO.flip_order)[None].astype(np.float32)
        joints = joints[:, :, COCO.flip_order].copy()
    cells = convention.to_heatmap_coords(torch.from_numpy(given), stride, torch.tensor([flipped]))
    for place in joints.reshape(-1, 3):
        place[:2] = heatmap_coords(place[:2], side, stride, flipped, name)
    assert np.array_equal(cells, joints)
    result = draw(cells, name, (side // stride,) * 2)
    plain = draw_gaussians(joints, result.shape[-2:], 2.0, convention=name)
    record_difference(f"draw_heatmaps, {name}, from pixels", abs(result.numpy() - plain).max())
    np.testing.assert_allclose(result, plain, atol=1e-6)


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_coarse_mask_oracle(rng, step, kind):
    mask = (rng.random((3, 16, 24)) < 0.5).astype(kind)
    given = torch.from_numpy(mask)
    flipped = torch.tensor([False, True, False])
    result = UNBIASED.downsample_mask(given, step, flipped)
    assert result.dtype == given.dtype
    assert np.array_equal(result, downsample_mask(mask, step))
    assert torch.equal(HRNET.downsample_mask(given, step, flipped), given[:, ::step, ::step])


# Laws of every convention -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), [("higherhrnet", 15), ("hrnet", 13), ("unbiased", 15)])
def test_a_single_patch(name, side):
    drawn = draw(one(12, 10), name)[0, 0]
    assert drawn[10, 12] == 1 == drawn.max()
    reach, inside = side // 2, torch.zeros(SIZE, dtype=torch.bool)
    inside[10 - reach : 11 + reach, 12 - reach : 13 + reach] = True
    assert torch.equal(drawn > 0, inside)
    assert drawn[inside].min().item() == pytest.approx(math.exp(-(reach**2) / 4), rel=1e-5)
    assert drawn[10, 13].item() == pytest.approx(math.exp(-1 / 8))


@EVERY_CONVENTION
@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5, 2.0, 2.5, 3.0])
def test_the_peak_is_1_for_every_sigma(name, sigma):
    drawn = draw(one(16, 12), name, sigma=sigma)[0, 0]
    assert drawn.max() == drawn[12, 16] == 1
    reach = CONVENTIONS[name].patch_radius(sigma)
    across = (drawn[12] > 0).nonzero()[:, 0]
    assert across[0] >= 16 - reach
    assert across[-1] == min(16 + reach, 31)


@EVERY_CONVENTION
def test_people_meet_in_the_maximum(rng, name):
    people = torch.from_numpy(rng.uniform(3, 20, (1, 6, 2, 3))).float()
    together = draw(people, name)
    alone = [draw(people[:, i : i + 1], name) for i in range(6)]
    assert torch.equal(together, torch.stack(alone).amax(0))
    assert torch.equal(together, draw(people.flip(1), name))
    assert torch.equal(together, draw(people.repeat(1, 2, 1, 1), name))


@EVERY_CONVENTION
def test_a_patch_moves_with_its_joint(name):
    here, there = (draw(one(x, 11.25), name)[0, 0] for x in (10.5, 15.5))
    assert torch.equal(here[:, :20], there[:, 5:25])


@EVERY_CONVENTION
def test_the_border_clips_the_patch(name):
    """A centre outside of the map too, where its convention draws it."""
    places = [(0, 0), (31, 23), (0, 12), (16, 23), (-3, 5), (34, -4), (-6, 29)]
    whole = draw(one(40, 40), name, (80, 80))[0, 0]
    for x, y in places if name == "hrnet" else places[:4]:
        cut = whole[40 - y : 40 - y + 24, 40 - x : 40 - x + 32]
        assert torch.equal(draw(one(x, y), name)[0, 0], cut)
        assert cut.any()


@EVERY_CONVENTION
@pytest.mark.parametrize(
    "joint",
    [
        *((5, 5, 0), (-10, 5, 2), (5, -10, 2), (42, 5, 2), (5, 34, 2), (math.nan, 5, 2)),
        *((5, math.nan, 2), (5, 5, math.nan), (math.inf, 5, 2), (5, -math.inf, 2)),
    ],
)
def test_what_is_not_there_is_not_drawn(name, joint):
    assert not draw(one(*joint), name).any()
    assert joint_cells(one(*joint), SIZE, CONVENTIONS[name]).item() == -1
    assert not drawn_joints(one(*joint), SIZE, 2.0, CONVENTIONS[name]).item()


@EVERY_CONVENTION
def test_visible_and_hidden_are_drawn_alike(name):
    assert torch.equal(draw(one(5, 5, 1), name), draw(one(5, 5, 2), name))


@EVERY_CONVENTION
def test_a_tag_is_read_where_the_peak_is(rng, name):
    joints = torch.from_numpy(crowd(rng, people=1, kinds=17))
    cells, maps = joint_cells(joints, SIZE, CONVENTIONS[name]), draw(joints, name)
    labelled = (cells >= 0).nonzero().tolist()
    for b, _, k in labelled:
        assert maps[b].flatten()[cells[b, 0, k]] == maps[b, k].max()
        assert cells[b, 0, k] // (24 * 32) == k
    assert len(labelled) > 9


@EVERY_CONVENTION
def test_flipping_whole_cells_flips_the_map(rng, name):
    joints = np.trunc(rng.uniform(0, 24, (1, 3, 17, 3))).astype(np.float32)
    joints[..., 2] = 1
    turned = mirror_joints(joints[0], 32, COCO.flip_order)[None]
    assert torch.equal(draw(turned, name), draw(joints, name).flip(-1)[:, COCO.flip_order])


@EVERY_CONVENTION
def test_joints_are_not_changed(rng, name):
    joints, convention = torch.from_numpy(crowd(rng)), CONVENTIONS[name]
    before = joints.clone()
    draw(joints, name)
    joint_cells(joints, SIZE, convention)
    convention.to_heatmap_coords(joints, 4, torch.tensor([False, True]))
    assert torch.equal(joints.nan_to_num(7), before.nan_to_num(7))


@EVERY_CONVENTION
def test_a_variance_of_1_changes_nothing(rng, name):
    joints = torch.from_numpy(crowd(rng))
    assert torch.equal(draw(joints, name, variances=torch.ones(2, 5)), draw(joints, name))


@EVERY_CONVENTION
@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 4.0])
def test_a_scale_is_a_factor_of_the_variance(name, scale):
    """Not of the deviation: sigma's Gaussian to 1 / s is that of sigma sqrt(s)."""
    scaled = draw(one(12, 10), name, variances=torch.tensor([[scale]]))[0, 0]
    other = draw(one(12, 10), name, sigma=2.0 * math.sqrt(scale))[0, 0]
    both = (scaled > 0) & (other > 0)
    assert both.sum() >= 7 * 7
    torch.testing.assert_close(scaled[both], other[both], rtol=1e-4, atol=1e-7)
    assert scaled[10, 12] == 1
    assert torch.equal(scaled > 0, draw(one(12, 10), name)[0, 0] > 0)


# Where they differ ------------------------------------------------------------------------------


@pytest.mark.parametrize("x, column", [(-0.5, 0), (-0.99, 0), (0.99, 0), (31.99, 31), (-1, None)])
def test_higherhrnet_truncates_towards_0(x, column):
    drawn, cell = draw(one(x, 5)), joint_cells(one(x, 5), SIZE).item()
    assert cell == (-1 if column is None else 5 * 32 + column)
    assert drawn.any() == (column is not None)
    assert column is None or drawn[0, 0, 5, column] == 1


@pytest.mark.parametrize(
    ("x", "column"),
    [(-0.5, 0), (-0.51, None), (0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (31.49, 31), (31.5, None)],
)
def test_an_unbiased_joint_between_two_cells_belongs_to_the_right_one(x, column):
    cell = joint_cells(one(x, 5), SIZE, UNBIASED)
    assert cell.item() == (-1 if column is None else 5 * SIZE[1] + column)
    assert draw(one(x, 5), "unbiased").any() == (column is not None)
    turned = joint_cells(one(5, x), (32, 24), UNBIASED).item()
    assert turned == (-1 if column is None else column * 24 + 5)


@pytest.mark.parametrize(
    ("x", "columns", "supervised"),
    [(-6, 1, True), (-7, 0, True), (-8, 0, False), (37, 1, True), (38, 0, False)],
)
def test_hrnet_draws_what_reaches_into_the_map(x, columns, supervised):
    """A patch that ends one cell before the map is empty, and yet supervised."""
    assert (draw(one(x, 5), "hrnet")[0, 0].any(0)).sum() == columns
    assert drawn_joints(one(x, 5), SIZE, 2.0, HRNET).item() == supervised
    assert joint_cells(one(x, 5), SIZE, HRNET).item() == -1


@pytest.mark.parametrize("sigma", [1.0, 2.0, 2.5])
def test_an_unbiased_peak_is_highest_in_the_middle_of_a_cell(rng, sigma):
    least = math.exp(-1 / (4 * sigma**2))
    for x, y in [(9, 11), (9.5, 11.5), *rng.uniform(8, 14, (20, 2))]:
        assert least - 1e-6 <= draw(one(x, y), "unbiased", sigma=sigma).max() <= 1
    assert draw(one(9.5, 11.5), "unbiased", sigma=sigma).max() == pytest.approx(least)


def test_a_whole_cell_is_drawn_alike_by_both_bottom_up_conventions(rng):
    joints = torch.from_numpy(np.trunc(crowd(rng)))
    joints[..., :2] = joints[..., :2].clamp(min=0)  # left of 0 one truncates towards 0
    torch.testing.assert_close(draw(joints, "unbiased"), draw(joints))
    cells = (joint_cells(joints, SIZE, each) for each in (UNBIASED, HIGHERHRNET))
    assert torch.equal(*cells)
