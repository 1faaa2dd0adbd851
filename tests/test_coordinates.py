"""Laws of the transforms between image, network and heatmap, and of the three conventions."""

import math

import cv2
import numpy as np
import pytest
import torch

from hrpose.ops.coordinates import (
    BOTTOM_UP,
    CONVENTIONS,
    HIGHERHRNET,
    HRNET,
    TOP_DOWN,
    UNBIASED,
    Affine,
    check_image,
    mirror_image,
    mirror_joints,
    resize_transform,
    similarity,
)
from hrpose.skeletons import COCO
from reference.targets import published_cell


def next_64(value):
    """The next multiple of 64, at or above."""
    return -(-value // 64) * 64


def random_map(rng):
    size = tuple(int(side) for side in rng.integers(32, 700, 2))
    centre = tuple(rng.uniform(0, 500, 2))
    return similarity(centre, size, rng.uniform(0.2, 4), rng.uniform(-180, 180)), centre, size


# Maps -------------------------------------------------------------------------------------------


def test_there_and_back(rng, record_difference):
    for _ in range(50):
        there, _, _ = random_map(rng)
        points = rng.uniform(-100, 900, (20, 2))
        back = there.inverse().points(there.points(points))
        record_difference("affine: there and back (px)", abs(back - points).max())
        np.testing.assert_allclose(back, points, atol=1e-6)


def test_zoom_turn_and_centre(rng):
    for _ in range(20):
        degrees, scale = rng.uniform(-180, 180), rng.uniform(0.2, 4)
        there = similarity((30, 40), (200, 100), scale, degrees)
        linear = there.matrix[:, :2]
        assert np.linalg.det(linear) == pytest.approx(scale**2)
        assert there.scale == pytest.approx(scale)
        turned = math.degrees(math.atan2(linear[0, 1], linear[0, 0]))  # y points down
        assert turned == pytest.approx(degrees)
        np.testing.assert_allclose(there.points(np.array([30, 40])), [100, 50])


def test_the_heatmap_frame_is_the_network_frame_scaled_down(rng):
    for _ in range(20):
        centre, scale, degrees = rng.uniform(0, 500, 2), rng.uniform(0.2, 4), rng.uniform(-99, 99)
        whole = similarity(tuple(centre), (512, 512), scale, degrees)
        coarse = similarity(tuple(centre), (128, 128), scale / 4, degrees)
        np.testing.assert_allclose(coarse.matrix, whole.matrix / 4, atol=1e-10)


def test_joints_keep_what_is_not_a_place(rng):
    there, _, _ = random_map(rng)
    joints = rng.uniform(0, 100, (3, 4, 6))
    moved = there.joints(joints)
    assert np.array_equal(moved[..., 2:], joints[..., 2:])
    np.testing.assert_allclose(moved[..., :2], there.points(joints[..., :2]))


def blob(size, centre):
    """A soft spot of deviation 3."""
    x, y = np.arange(size[0]), np.arange(size[1])[:, None]
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    return (255 * np.exp(-squared / 18)).astype(np.float32)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_spot_and_its_joint_move_together(rng, name, record_difference):
    convention, seen = CONVENTIONS[name], 0
    for _ in range(60):
        zoom, degrees = rng.uniform(0.6, 2), rng.uniform(-180, 180)
        there = similarity((100, 80), (220, 180), zoom, degrees, convention)
        place = rng.uniform(40, 160, 2) * (1, 0.8)
        goal = there.points(place)
        if not ((goal > 40) & (goal < (180, 140))).all():
            continue
        seen += 1
        moved = there.image(blob((200, 160), place), (220, 180))
        assert moved.shape == (180, 220)
        columns, rows = np.arange(220), np.arange(180)
        centroid = np.array([(moved.sum(0) @ columns), (moved.sum(1) @ rows)]) / moved.sum()
        away = abs(centroid - goal).max()
        record_difference(f"affine, {name}: spot against its joint (px)", away)
        assert away < 0.02
    assert seen > 15


def test_outside_of_the_image_is_black():
    moved = similarity((5, 5), (40, 40), 1).image(np.full((10, 10, 3), 255, np.uint8), (40, 40))
    assert moved[15:25, 15:25].min() == 255
    moved[14:26, 14:26] = 0
    assert not moved.any()


# The resize rule --------------------------------------------------------------------------------


def test_widths_of_the_released_evaluation():
    """640 x 480 at 512: the smallest scale of the set decides how the longer side is padded."""
    assert resize_transform((640, 480), 512)[0] == (704, 512)
    assert resize_transform((640, 480), 512, 1.0, 0.5)[0] == (768, 512)
    assert resize_transform((480, 640), 512)[0] == (512, 704)
    assert resize_transform((480, 640), 512, 1.0, 0.5)[0] == (512, 768)


SETS = [(512, (1,)), (512, (0.5, 1, 1.5)), (512, (0.5, 1, 2)), (640, (0.5, 1, 2)), (256, (1,))]


@pytest.mark.parametrize("input_size, scales", SETS)
def test_sizes_follow_the_rule(rng, input_size, scales):
    for _ in range(40):
        width, height = (int(side) for side in rng.integers(20, 2000, 2))
        smallest = min(scales)
        base = next_64(math.floor(smallest * input_size))
        for scale in scales:
            short = math.floor(base * scale / smallest)
            long = next_64(math.floor(base / min(width, height) * max(width, height)))
            long = math.floor(long * scale / smallest)
            wanted = (short, long) if width < height else (long, short)
            assert resize_transform((width, height), input_size, scale, smallest)[0] == wanted
            assert short % 64 == long % 64 == 0


@pytest.mark.parametrize("input_size, scale, smallest, short", [
    (640, 1.5, 0.9, 960), (512, 1.2, 0.8, 672), (768, 0.6, 0.4, 480), (384, 1.2, 0.75, 512),
])  # fmt: skip
def test_whole_sizes_do_not_fall_victim_to_rounding(input_size, scale, smallest, short):
    """int(base * scale / smallest), multiplied first as in the released evaluation."""
    assert resize_transform((600, 600), input_size, scale, smallest)[0][0] == short


@pytest.mark.parametrize("scales", [(1,), (0.5, 1, 2), (0.5, 1, 1.5)])
def test_all_scales_show_the_same_part_of_the_plane(rng, scales):
    for _ in range(20):
        image_size = tuple(int(side) for side in rng.integers(20, 2000, 2))
        size, first = resize_transform(image_size, 512, min(scales), min(scales))
        assert first.points(np.array([int(side / 2 + 0.5) for side in image_size])) == (
            pytest.approx(np.array(size) / 2)
        )
        assert first.scale == pytest.approx(min(size) / min(image_size))
        for scale in scales:
            larger, to_network = resize_transform(image_size, 512, scale, min(scales))
            ratio = scale / min(scales)
            assert larger == (size[0] * ratio, size[1] * ratio)
            np.testing.assert_allclose(to_network.matrix, first.matrix * ratio, atol=1e-9)


def test_the_whole_image_is_seen(rng):
    """But for the half pixel of the rounded centre, and what flooring the longer side cuts."""
    for _ in range(50):
        width, height = (int(side) for side in rng.integers(20, 2000, 2))
        size, there = resize_transform((width, height), 512)
        corners = there.points(np.array([[0, 0], [width, height]]))
        assert (corners[0] >= -there.scale - 1e-6).all()
        assert (corners[1] <= np.array(size) + there.scale + 1e-6).all()


# higherhrnet ------------------------------------------------------------------------------------


def test_worked_example_of_a_mirrored_cell():
    joints = torch.tensor([[[[8.7, 0, 1]]], [[[511 - 8.7, 0, 1]]]])
    cells = HIGHERHRNET.to_heatmap_coords(joints, 4, torch.tensor([False, True]))
    assert cells[:, 0, 0, 0].tolist() == [2, 124]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_cells_oracle_each_frame_mirrored_for_itself(stride, record_difference):
    side = 64
    places = torch.arange(-2 * stride * 8, (side + 8) * 8) / 8  # eighths: exact in float32
    y = places.flip(0)
    joints = torch.stack([places, y, torch.ones_like(places)], -1)[None, :, None]
    plain = HIGHERHRNET.to_heatmap_coords(joints, stride, torch.tensor([False]))[0, :, 0]
    mirrored = joints.clone()
    mirrored[..., 0] = side - 1 - mirrored[..., 0]
    turned = HIGHERHRNET.to_heatmap_coords(mirrored, stride, torch.tensor([True]))[0, :, 0]
    wanted = [
        [published_cell(x, side, stride, mirror) for x in places.tolist()]
        for mirror in (False, True)
    ]
    result = torch.stack([plain[:, 0], turned[:, 0]])
    record_difference("to_cells (cells)", (result - torch.tensor(wanted)).abs().max())
    assert result.tolist() == wanted
    assert plain[:, 1].tolist() == turned[:, 1].tolist() == [int(v / stride) for v in y.tolist()]


def test_cells_keep_flags_and_their_argument():
    joints = torch.tensor([[[[9.0, 5.0, 2.0], [-1.0, -3.9, 0.0]]]])
    before = joints.clone()
    cells = HIGHERHRNET.to_heatmap_coords(joints, 4, torch.tensor([False]))
    assert cells.tolist() == [[[[2, 1, 2], [0, 0, 0]]]]
    assert torch.equal(joints, before)


def test_two_mirrors_change_nothing(rng):
    joints = rng.integers(0, 256, (3, 17, 3)).astype(np.float32)
    once = mirror_joints(joints, 256, COCO.flip_order)
    assert (once[:, 1, 0] == 255 - joints[:, 2, 0]).all()
    assert (once[:, 1, 1:] == joints[:, 2, 1:]).all()
    assert np.array_equal(mirror_joints(once, 256, COCO.flip_order), joints)


def scribble(size=320):
    """A mask with round and straight edges."""
    mask = np.full((size, size), 255, np.uint8)
    cv2.circle(mask, (110, 140), 60, 0, -1)
    cv2.rectangle(mask, (200, 30), (260, 290), 0, -1)
    return mask


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_coarser_frame_oracle_every_stride_th_pixel_of_the_finer(
    rng, stride, mirrored, record_difference
):
    """Bit for bit. Mirrored for itself, it shows those that are every stride-th from the right."""
    side = 256 // stride
    for _ in range(8):
        crop = similarity((160, 160), (256, 256), rng.uniform(0.6, 1.4), rng.uniform(-30, 30))
        whole = crop.image(scribble(), (256, 256))
        coarse = crop.to_stride(stride).image(scribble(), (side, side))
        first = 0
        if mirrored:
            whole, coarse, first = whole[:, ::-1], mirror_image(coarse), stride - 1
        assert coarse.shape == (side, side)
        assert 50 < coarse.mean() < 230
        wrong = (coarse != whole[::stride, first::stride]).mean()
        record_difference(f"mask warped at 1/{stride} (share of cells)", wrong)
        assert wrong == 0
        if stride > 1:  # so that the columns read do matter
            assert not np.array_equal(coarse, whole[::stride, stride - 1 - first :: stride])


@pytest.mark.parametrize("mirrored", [False, True])
def test_coarse_masks_oracle_warped_at_their_own_size(rng, mirrored, record_difference):
    """A finer mask read coarsely, against the mask warped by the coarser frame's own matrix."""
    for _ in range(8):
        crop = similarity((160, 160), (256, 256), rng.uniform(0.6, 1.4), rng.uniform(-30, 30))
        fine, coarse = (
            crop.to_stride(stride).image(scribble(), (256 // stride,) * 2) > 127
            for stride in (2, 4)
        )
        if mirrored:
            fine, coarse = mirror_image(fine), mirror_image(coarse)
        fine = torch.from_numpy(fine)[None]
        result, other = (
            HIGHERHRNET.downsample_mask(fine, 2, torch.tensor([turned]))[0].numpy()
            for turned in (mirrored, not mirrored)
        )
        assert 0.2 < result.mean() < 0.9
        record_difference("mask read at 1/4 (share of cells)", (result != coarse).mean())
        assert np.array_equal(result, coarse)
        assert (result != other).mean() > 0.002  # so that the columns read do matter


@pytest.mark.parametrize("kind", [np.uint8, bool])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_a_mirror_image_is_a_copy_that_runs_forwards(rng, kind, shape):
    image = rng.integers(0, 2, shape).astype(kind)
    mirrored = mirror_image(image)
    assert mirrored.dtype == kind
    assert mirrored.flags.c_contiguous
    assert np.array_equal(mirrored, image[:, ::-1])


def test_masks_of_a_batch_are_read_each_in_its_own_way():
    mask = torch.arange(32).reshape(1, 4, 8).repeat(2, 1, 1)
    read = HIGHERHRNET.downsample_mask(mask, 2, torch.tensor([False, True]))
    assert read.tolist() == [[[0, 2, 4, 6], [16, 18, 20, 22]], [[1, 3, 5, 7], [17, 19, 21, 23]]]
    assert torch.equal(HIGHERHRNET.downsample_mask(mask, 1, torch.tensor([False, True])), mask)


# hrnet ------------------------------------------------------------------------------------------


def test_worked_examples_of_hrnet():
    pixels = torch.tensor([8.7, -15, -5.9, -6, 8, 183, 2])
    joints = torch.stack([pixels, pixels, pixels], -1)[None, :, None]
    cells = HRNET.to_heatmap_coords(joints, 4, torch.tensor([True]))[0, :, 0]
    assert cells[:, 0].tolist() == cells[:, 1].tolist() == [2, -3, 0, -1, 2, 46, 1]
    assert torch.equal(cells[:, 2], pixels)
    crop = similarity((20, 30), (192, 256), 0.8, 10, HRNET)
    for transform in (crop.to_cell_frame(4, HRNET), crop.to_stride(4, HRNET)):
        assert np.array_equal(transform.matrix, crop.matrix / 4)
    np.testing.assert_allclose(crop.points([20, 30]), [96, 128])


def test_the_table_of_conventions():
    """The rules that TEST.SUBPIXEL means, duplicate peaks, and the middle of an image."""
    rules = {
        name: [each.subpixel_rule(option) for option in ("convention", "none", "quarter", "dark")]
        for name, each in CONVENTIONS.items()
    }
    assert rules == {
        "higherhrnet": ["quarter", "none", "quarter", "dark"],
        "hrnet": ["signed_quarter", "none", "signed_quarter", "dark"],
        "unbiased": ["dark", "none", "signed_quarter", "dark"],
    }
    assert {name for name, each in CONVENTIONS.items() if each.duplicate_peaks} == {"unbiased"}
    for convention, centre in zip(CONVENTIONS.values(), [(151, 100), (150.5, 100), (150.5, 100)]):
        (width, height), to_network = resize_transform((301, 200), 64, convention=convention)
        middle = np.array([width / 2, height / 2]) - convention.pixel_offset
        found = to_network.inverse().points(middle) + convention.pixel_offset
        np.testing.assert_allclose(found, centre, rtol=1e-12)
    assert TOP_DOWN == {"published": HRNET, "unbiased": UNBIASED}
    assert BOTTOM_UP == {"published": HIGHERHRNET, "unbiased": UNBIASED}


def flipped_cells(convention, side, stride, flag):
    """Columns of random joints' cells, and of their flips, flipped back."""
    rng = np.random.default_rng(0)
    joints = torch.from_numpy(rng.uniform(20, side - 20, (1, 500, 17, 3)))
    turned = joints.clone()
    turned[..., 0] = side - 1 - turned[..., 0]
    cells, other = (
        convention.to_heatmap_coords(each, stride, torch.tensor([flipped]))[..., 0]
        for each, flipped in ((joints, False), (turned, flag))
    )
    return cells, side // stride - 1 - other


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_flipped_pixels_are_flipped_cells(stride, record_difference):
    """In unbiased coordinates, whatever `flipped` is, and in published ones as each frame flips."""
    for flag in (True, False):
        cells, other = flipped_cells(UNBIASED, 96, stride, flag)
        record_difference("unbiased: flipped cells (cells)", (cells - other).abs().max())
        torch.testing.assert_close(cells, other)


@pytest.mark.parametrize(("stride", "share"), [(4, 0.75), (2, 0.5)])
def test_what_a_flip_costs_the_published_conventions(stride, share):
    """Shares of positions whose cells are one off between an image and its flip.

    higherhrnet: targets of a flipped image, against those of the same pixels in an unflipped one.
    hrnet: heatmaps flipped back, before they are moved by a cell.
    """
    result, other = flipped_cells(HRNET, 512, stride, True)
    assert (other - result).mean().item() == pytest.approx(-share, abs=0.02)
    assert (other - result).unique().tolist() == [-1, 0]
    own, pixels = (flipped_cells(HIGHERHRNET, 512, stride, flag)[1] for flag in (True, False))
    assert (own - pixels).mean().item() == pytest.approx(share, abs=0.02)
    assert (own - pixels).unique().tolist() == [0, 1]


# unbiased ---------------------------------------------------------------------------------------


def still(*flags):
    return torch.tensor(flags or [False])


def test_worked_examples_of_the_unbiased_convention():
    twice = similarity((8, 8), (32, 32), 2, convention=UNBIASED)
    np.testing.assert_allclose(twice.points([[0, 0], [8.7, 4]]), [[0.5, 0.5], [17.9, 8.5]])
    joints = torch.tensor([[[[8.7, 9.5, 1]]], [[[511 - 8.7, 9.5, 1]]]], dtype=torch.float64)
    cells = UNBIASED.to_heatmap_coords(joints, 4, still(False, True))
    np.testing.assert_allclose(cells[:, 0, 0], [[1.8, 2, 1], [127 - 1.8, 2, 1]])
    found = twice.to_cell_frame(4, UNBIASED).inverse().points(np.array([2.3, 2.5]))
    np.testing.assert_allclose(twice.points(found), [8.7, 9.5])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_unbiased_cells_oracle(stride):
    """The middle of cell i is that of the pixels it stands for; between them it goes evenly."""
    for cell in range(-2, 9):
        pixels = range(cell * stride, (cell + 1) * stride)
        middle = sum(pixels) / stride
        joints = torch.tensor([[[[middle, middle + stride / 4, 2]]]])
        cells = UNBIASED.to_heatmap_coords(joints, stride, still())
        assert cells.tolist() == [[[[cell, cell + 0.25, 2]]]]


def test_twice_as_large_is_what_bilinear_resizing_gives(rng):
    image = rng.integers(0, 255, (20, 30)).astype(np.uint8)
    twice = similarity((15, 10), (60, 40), 2, convention=UNBIASED).image(image, (60, 40))
    wanted = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    inner = slice(1, -1)  # outside of the image is 0 for the one, the nearest pixel for the other
    assert abs(twice[inner, inner].astype(int) - wanted[inner, inner]).max() <= 1


@pytest.mark.parametrize("convention", BOTTOM_UP.values(), ids=BOTTOM_UP)
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_decoders_count_from_the_edge(rng, convention, stride):
    """Half a cell further than targets do, but for the truncation of published ones; and back."""
    for _ in range(10):
        to_network, _, _ = random_map(rng)
        joints = np.concatenate([rng.uniform(0, 300, (9, 2)), np.ones((9, 1))], 1)
        there = to_network.joints(joints)
        cells = convention.to_heatmap_coords(
            torch.from_numpy(there)[None, :, None], stride, still()
        )
        decoded = to_network.to_cell_frame(stride, convention)
        found = decoded.points(joints[:, :2])
        if convention is UNBIASED:
            np.testing.assert_allclose(found, cells[0, :, 0, :2] + 0.5, atol=1e-9)
        else:
            assert np.array_equal(np.trunc(found), cells[0, :, 0, :2])


SIZES = [(301, 200), (200, 301), (640, 480), (33, 33)]


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("scales", [(1,), (0.5, 1, 2)])
def test_an_unbiased_resize_of_a_mirror_image_is_a_mirrored_fit(rng, image_size, scales):
    """Of the published one that is true with a pixel's difference, which odd widths show."""
    joints = np.concatenate([rng.uniform(0, 200, (2, 17, 2)), np.ones((2, 17, 1))], -1)
    for scale in scales:
        size, there = resize_transform(image_size, 256, scale, min(scales), UNBIASED)
        assert size == resize_transform(image_size, 256, scale, min(scales))[0]
        turned = there.joints(mirror_joints(joints, image_size[0], COCO.flip_order))
        wanted = mirror_joints(there.joints(joints), size[0], COCO.flip_order)
        np.testing.assert_allclose(turned, wanted, atol=1e-9)
        first = resize_transform(image_size, 256, min(scales), min(scales), UNBIASED)[1]
        ratio = scale / min(scales)
        same = (first.points(joints[..., :2]) + 0.5) * ratio - 0.5
        np.testing.assert_allclose(there.points(joints[..., :2]), same, atol=1e-9)


@pytest.mark.parametrize("image_size", SIZES)
def test_an_unbiased_resize_shows_the_image_in_the_middle(image_size):
    size, there = resize_transform(image_size, 256, convention=UNBIASED)
    edges = there.points(np.array([[-0.5, -0.5], np.array(image_size) - 0.5]))
    margins = edges[0] + 0.5, np.array(size) - 0.5 - edges[1]
    np.testing.assert_allclose(*margins, atol=1e-9)
    assert (margins[0] > -there.scale).all()  # what flooring the longer side cuts


@pytest.mark.parametrize("stride", [2, 4])
def test_a_coarser_frame_shows_a_spot_at_its_unbiased_cell(rng, stride, record_difference):
    for _ in range(20):
        crop = similarity((150, 150), (256, 256), rng.uniform(2, 3), rng.uniform(-30, 30), UNBIASED)
        place = rng.uniform(140, 160, 2)
        side = 256 // stride
        seen = crop.to_stride(stride, UNBIASED).image(blob((300, 300), place), (side, side))
        cells = np.arange(side)
        spot = np.array([seen.sum(0) @ cells, seen.sum(1) @ cells]) / seen.sum()
        away = abs(spot - ((crop.points(place) + 0.5) / stride - 0.5)).max()
        record_difference(f"affine, unbiased: spot at 1/{stride} (cells)", away)
        assert away < 0.02


@pytest.mark.parametrize("fine", [1, 2])
def test_an_unbiased_coarse_mask_is_the_finer_one_warped(rng, fine, record_difference):
    """Bit for bit, a half included; and nearly what the image's own mask shows when warped."""
    for _ in range(8):
        zoom, degrees = rng.uniform(0.6, 1.4), rng.uniform(-30, 30)
        crop = similarity((160, 160), (256, 256), zoom, degrees, UNBIASED)
        finer, coarse = (
            crop.to_stride(stride, UNBIASED).image(scribble(), (256 // stride,) * 2) > 127
            for stride in (fine, 2 * fine)
        )
        result = UNBIASED.downsample_mask(torch.from_numpy(finer)[None], 2, still())[0].numpy()
        halved = Affine(np.eye(2, 3)).to_stride(2, UNBIASED)
        warped = halved.image(finer.view(np.uint8) * 255, (128 // fine,) * 2) > 127
        assert np.array_equal(result, warped)
        wrong = (result != coarse).mean()
        record_difference(f"unbiased mask at 1/{2 * fine}, warped anew (share of cells)", wrong)
        assert wrong < 0.015
        assert 0.2 < result.mean() < 0.9


def test_half_of_the_finer_cells_are_enough():
    rows = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    mask = torch.tensor([rows], dtype=torch.uint8)
    assert UNBIASED.downsample_mask(mask, 2, still()).tolist() == [[[1, 0, 0], [1, 1, 0]]]
    assert torch.equal(UNBIASED.downsample_mask(mask, 1, still()), mask)
    turned = UNBIASED.downsample_mask(mask.flip(-1), 2, still())
    assert torch.equal(turned, UNBIASED.downsample_mask(mask, 2, still()).flip(-1))
    four = torch.tensor([[1, 1, 0, 0] * 4] * 4, dtype=torch.bool).view(1, 4, 16)
    assert UNBIASED.downsample_mask(four, 4, still()).tolist() == [[[True] * 4]]
    four[0, 0, 0] = False
    assert UNBIASED.downsample_mask(four, 4, still()).tolist() == [[[False, True, True, True]]]


# Checked images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((20, 30), np.uint8), r"this is \(20, 30\) uint8"),
        (np.zeros((20, 30, 4), np.uint8), r"\(20, 30, 4\)"),
        (np.zeros((3, 20, 30), np.uint8), r"\(3, 20, 30\)"),
        (np.zeros((20, 30, 3), np.float32), "float32"),
        (None, "NoneType"),
        (np.zeros((0, 30, 3), np.uint8), r"\(0, 30, 3\)"),
        (np.zeros((10, 321, 3), np.uint8), "321 x 10 is more than 32 times"),
        (np.zeros((321, 10, 3), np.uint8), "cut it into pieces"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        check_image(image)


def test_the_size_of_an_image():
    assert check_image(np.zeros((20, 640, 3), np.uint8)) == (640, 20)
