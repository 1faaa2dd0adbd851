"""Laws of the maps between image, network and heatmap, and of the official convention."""

import math

import cv2
import numpy as np
import pytest
import torch

from hrpose.ops.affine import (
    about,
    fit,
    mask_at,
    mirror_image,
    mirror_joints,
    to_cells,
)
from hrpose.skeletons import COCO
from oracles import next_64, official_cell


def random_map(rng):
    size = tuple(int(side) for side in rng.integers(32, 700, 2))
    centre = tuple(rng.uniform(0, 500, 2))
    return about(centre, size, rng.uniform(0.2, 4), rng.uniform(-180, 180)), centre, size


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
        there = about((30, 40), (200, 100), scale, degrees)
        linear = there.matrix[:, :2]
        assert np.linalg.det(linear) == pytest.approx(scale**2)
        assert there.scale == pytest.approx(scale)
        turned = math.degrees(math.atan2(linear[1, 0], linear[0, 0]))
        assert turned == pytest.approx(degrees)
        np.testing.assert_allclose(there.points(np.array([30, 40])), [100, 50])


def test_heatmap_frame_is_the_network_frame_made_smaller(rng):
    for _ in range(20):
        centre, scale, degrees = rng.uniform(0, 500, 2), rng.uniform(0.2, 4), rng.uniform(-99, 99)
        whole = about(tuple(centre), (512, 512), scale, degrees)
        coarse = about(tuple(centre), (128, 128), scale / 4, degrees)
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


def test_a_spot_and_its_joint_move_together(rng, record_difference):
    seen = 0
    for _ in range(60):
        there = about((100, 80), (220, 180), rng.uniform(0.6, 2), rng.uniform(-180, 180))
        place = rng.uniform(40, 160, 2) * (1, 0.8)
        goal = there.points(place)
        if not ((goal > 40) & (goal < (180, 140))).all():
            continue
        seen += 1
        moved = there.image(blob((200, 160), place), (220, 180))
        assert moved.shape == (180, 220)
        columns, rows = np.arange(220), np.arange(180)
        centroid = np.array([(moved.sum(0) @ columns), (moved.sum(1) @ rows)]) / moved.sum()
        record_difference("affine: spot against its joint (px)", abs(centroid - goal).max())
        np.testing.assert_allclose(centroid, goal, atol=0.1)
    assert seen > 15


def test_outside_of_the_image_is_black():
    moved = about((5, 5), (40, 40), 1).image(np.full((10, 10, 3), 255, np.uint8), (40, 40))
    assert moved[15:25, 15:25].min() == 255
    moved[14:26, 14:26] = 0
    assert not moved.any()


# The resize rule --------------------------------------------------------------------------------


def test_widths_of_the_released_evaluation():
    """640 x 480 at 512: the smallest scale of the set decides how the longer side is padded."""
    assert fit((640, 480), 512)[0] == (704, 512)
    assert fit((640, 480), 512, 1.0, 0.5)[0] == (768, 512)
    assert fit((480, 640), 512)[0] == (512, 704)
    assert fit((480, 640), 512, 1.0, 0.5)[0] == (512, 768)


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
            assert fit((width, height), input_size, scale, smallest)[0] == wanted
            assert short % 64 == long % 64 == 0


@pytest.mark.parametrize("input_size, scale, smallest, short", [
    (640, 1.5, 0.9, 960), (512, 1.2, 0.8, 672), (768, 0.6, 0.4, 480), (384, 1.2, 0.75, 512),
])  # fmt: skip
def test_whole_sizes_do_not_fall_victim_to_rounding(input_size, scale, smallest, short):
    """int(base * scale / smallest), multiplied first as in the released evaluation."""
    assert fit((600, 600), input_size, scale, smallest)[0][0] == short


@pytest.mark.parametrize("scales", [(1,), (0.5, 1, 2), (0.5, 1, 1.5)])
def test_all_scales_show_the_same_part_of_the_plane(rng, scales):
    for _ in range(20):
        image_size = tuple(int(side) for side in rng.integers(20, 2000, 2))
        size, first = fit(image_size, 512, min(scales), min(scales))
        assert first.points(np.array([int(side / 2 + 0.5) for side in image_size])) == (
            pytest.approx(np.array(size) / 2)
        )
        assert first.scale == pytest.approx(min(size) / min(image_size))
        for scale in scales:
            larger, to_network = fit(image_size, 512, scale, min(scales))
            ratio = scale / min(scales)
            assert larger == (size[0] * ratio, size[1] * ratio)
            np.testing.assert_allclose(to_network.matrix, first.matrix * ratio, atol=1e-9)


def test_the_whole_image_is_seen(rng):
    """But for the half pixel of the rounded centre, and what flooring the longer side cuts."""
    for _ in range(50):
        width, height = (int(side) for side in rng.integers(20, 2000, 2))
        size, there = fit((width, height), 512)
        corners = there.points(np.array([[0, 0], [width, height]]))
        assert (corners[0] >= -there.scale - 1e-6).all()
        assert (corners[1] <= np.array(size) + there.scale + 1e-6).all()


# The official convention ------------------------------------------------------------------------


def test_worked_example_of_a_mirrored_cell():
    joints = torch.tensor([[[[8.7, 0, 1]]], [[[511 - 8.7, 0, 1]]]])
    cells = to_cells(joints, 4, torch.tensor([False, True]), "official")
    assert cells[:, 0, 0, 0].tolist() == [2, 124]


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_cells_oracle_each_frame_mirrored_for_itself(stride, record_difference):
    side = 64
    places = torch.arange(-2 * stride * 8, (side + 8) * 8) / 8  # eighths: exact in float32
    y = places.flip(0)
    joints = torch.stack([places, y, torch.ones_like(places)], -1)[None, :, None]
    plain = to_cells(joints, stride, torch.tensor([False]), "official")[0, :, 0]
    mirrored = joints.clone()
    mirrored[..., 0] = side - 1 - mirrored[..., 0]
    turned = to_cells(mirrored, stride, torch.tensor([True]), "official")[0, :, 0]
    wanted = [
        [official_cell(x, side, stride, mirror) for x in places.tolist()]
        for mirror in (False, True)
    ]
    ours = torch.stack([plain[:, 0], turned[:, 0]])
    record_difference("to_cells (cells)", (ours - torch.tensor(wanted)).abs().max())
    assert ours.tolist() == wanted
    assert plain[:, 1].tolist() == turned[:, 1].tolist() == [int(v / stride) for v in y.tolist()]


def test_cells_keep_flags_and_their_argument():
    joints = torch.tensor([[[[9.0, 5.0, 2.0], [-1.0, -3.9, 0.0]]]])
    before = joints.clone()
    cells = to_cells(joints, 4, torch.tensor([False]), "official")
    assert cells.tolist() == [[[[2, 1, 2], [0, 0, 0]]]]
    assert torch.equal(joints, before)


def test_a_convention_that_is_not_is_refused():
    with pytest.raises(ValueError, match="official"):
        to_cells(torch.zeros(1, 1, 1, 3), 4, torch.tensor([False]), "exakt")


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
        crop = about((160, 160), (256, 256), rng.uniform(0.6, 1.4), rng.uniform(-30, 30))
        whole = crop.image(scribble(), (256, 256))
        coarse = crop.coarser(stride).image(scribble(), (side, side))
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
        crop = about((160, 160), (256, 256), rng.uniform(0.6, 1.4), rng.uniform(-30, 30))
        fine, coarse = (
            crop.coarser(stride).image(scribble(), (256 // stride,) * 2) > 127 for stride in (2, 4)
        )
        if mirrored:
            fine, coarse = mirror_image(fine), mirror_image(coarse)
        ours, other = (
            mask_at(torch.from_numpy(fine)[None], 2, torch.tensor([turned]))[0].numpy()
            for turned in (mirrored, not mirrored)
        )
        assert 0.2 < ours.mean() < 0.9
        record_difference("mask read at 1/4 (share of cells)", (ours != coarse).mean())
        assert np.array_equal(ours, coarse)
        assert (ours != other).mean() > 0.002  # so that the columns read do matter


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
    read = mask_at(mask, 2, torch.tensor([False, True]))
    assert read.tolist() == [[[0, 2, 4, 6], [16, 18, 20, 22]], [[1, 3, 5, 7], [17, 19, 21, 23]]]
    assert torch.equal(mask_at(mask, 1, torch.tensor([False, True])), mask)
