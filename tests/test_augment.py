"""A lit pixel and its joint move together; two flips cancel; parameters keep to their bounds."""

from dataclasses import replace

import numpy as np
import pytest

from hrpose.data.augment import CropConfig, flip, image_crop, move, random_affine, random_flip
from hrpose.ops.coordinates import BOTTOM_UP, UNBIASED, similarity
from hrpose.structures import Sample

FLIP = [0, 2, 1]
SIZE = (300, 240)  # width, height


def spot(size, x, y, deviation=4):
    columns, rows = np.arange(size[0]), np.arange(size[1])[:, None]
    return 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * deviation**2))


def sample(seed=0, people=2):
    """A bright spot of one colour at each joint of the first person, over a dark image."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform(0.3, 0.7, (people, 3, 3)) * [*SIZE, 0]
    joints[..., 2] = 2
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for k in range(3) if people else ():
        image[..., k] = spot(SIZE, *joints[0, k, :2])
    mask = np.ones((SIZE[1], SIZE[0]), bool)
    mask[:100, :80] = False
    boxes = np.array([[90, 80, 20, 50], [100, 60, 80, 90]], np.float32)[:people]
    return Sample(image, joints.astype(np.float32), mask, image_id=3, boxes=boxes)


def dark(width, height):
    return Sample(np.zeros((height, width, 3), np.uint8), np.zeros((0, 3, 3)), None, image_id=0)


def centroid(channel):
    weights = channel.astype(float)
    rows, columns = np.indices(weights.shape)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("chance", [0.0, 1.0])
@pytest.mark.parametrize("convention", BOTTOM_UP)
def test_a_lit_pixel_and_its_joint_move_together(seed, chance, convention, record_difference):
    """Through the random crop and the mirror; in a mirror a left spot is a right joint."""
    rng = np.random.default_rng(seed)
    moved = random_affine(
        sample(seed), rng, CropConfig(256, translate=20, convention=BOTTOM_UP[convention])
    )
    moved = random_flip(moved, rng, chance, FLIP)
    assert moved.image.shape == (256, 256, 3)
    assert moved.flipped == bool(chance)
    compared = 0
    for k in range(3):
        x, y = moved.joints[0, FLIP[k] if chance else k, :2]
        if 25 < x < 230 and 25 < y < 230:
            compared += 1
            away = abs(centroid(moved.image[..., k]) - (x, y)).max()
            record_difference(f"augment, {convention}: lit spot against joint (px)", away)
            assert away < 0.02
    assert compared


def test_everything_goes_through_one_map():
    start = sample()
    by = similarity((150, 120), (128, 128), 0.5, 30)
    moved = move(start, by, (128, 128))
    np.testing.assert_allclose(moved.joints, by.joints(start.joints), rtol=1e-6)
    assert moved.joints.dtype == np.float32
    np.testing.assert_allclose(moved.boxes[:, 2:], start.boxes[:, 2:] / 2)
    middles, before = (s.boxes[:, :2] + s.boxes[:, 2:] / 2 for s in (moved, start))
    np.testing.assert_allclose(middles, by.points(before), rtol=1e-6)
    assert moved.boxes.dtype == np.float32
    whole = np.full(start.mask.shape, 255, np.uint8)
    assert np.array_equal(moved.mask, by.image(whole * start.mask, (128, 128)) > 127)
    assert moved.mask.dtype == bool
    assert moved.image_id == 3
    assert not moved.flipped


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_mask_comes_out_at_the_finest_stride(stride, chance):
    """As it would be read from the mask of all pixels, mirrored with the image."""
    for seed in range(5):
        fine, coarse = (
            random_flip(
                random_affine(sample(), np.random.default_rng(seed), CropConfig(64, stride=s)),
                np.random.default_rng(0), chance, FLIP,
            )
            for s in (1, stride)
        )  # fmt: skip
        first = stride - 1 if chance else 0
        assert coarse.mask.shape == (64 // stride, 64 // stride)
        assert np.array_equal(coarse.mask, fine.mask[::stride, first::stride])
        assert 0.1 < coarse.mask.mean() < 1
        assert np.array_equal(coarse.image, fine.image)
        assert np.array_equal(coarse.joints, fine.joints)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_an_exact_mask_shows_the_middles_of_its_cells(stride):
    """A border between two columns of cells; one in the middle of a column, which then counts."""
    start = replace(sample(), mask=np.ones(SIZE[::-1], bool))
    start.mask[:, :100] = False
    for border, first in ((64, 64 // stride), (64 - stride / 2, 64 // stride - 1)):
        by = similarity((100 - border + 64, 120), (128, 128), 1, convention=UNBIASED)
        moved = move(start, by, (128, 128), stride, UNBIASED)
        assert moved.mask.shape == (128 // stride,) * 2
        assert moved.mask[64 // stride].argmax() == first


@pytest.mark.parametrize("convention", BOTTOM_UP.values(), ids=BOTTOM_UP)
def test_image_joints_and_mask_of_a_crop_follow_one_convention(convention):
    """The mask is the one of the crop's own map, read in the cells of that convention."""
    for seed in range(5):
        start, crop = sample(seed), CropConfig(64, stride=4, convention=convention)
        done = random_affine(start, np.random.default_rng(seed), crop)
        by = image_crop(start, crop, np.random.default_rng(seed))
        masks = {
            each: by.to_stride(4, each).image(start.mask.view(np.uint8) * 255, (16, 16)) > 127
            for each in BOTTOM_UP.values()
        }
        assert np.array_equal(done.mask, masks.pop(convention))
        assert not np.array_equal(done.mask, *masks.values())
        assert np.array_equal(done.image, by.image(start.image, (64, 64)))
        np.testing.assert_allclose(done.joints, by.joints(start.joints), rtol=1e-5, atol=1e-4)


def test_a_crop_that_is_exact_is_another_crop_of_the_same_random_numbers():
    """Between the centres of pixels: half a pixel is added, mapped, and taken off again."""
    for seed in range(20):
        maps = [
            image_crop(
                dark(300, 240), CropConfig(256, convention=each), np.random.default_rng(seed)
            )
            for each in BOTTOM_UP.values()
        ]
        points = np.array([[0.0, 0.0], [99.5, 30.25]])
        np.testing.assert_allclose(maps[1].points(points), maps[0].points(points + 0.5) - 0.5)


def test_a_sample_is_cropped_once_and_before_it_is_mirrored():
    rng = np.random.default_rng(0)
    for done in (flip(sample(), FLIP), random_affine(sample(), rng, CropConfig(64, stride=2))):
        with pytest.raises(ValueError, match="affine first in DATASET.AUGMENTATIONS"):
            random_affine(done, rng, CropConfig(64))


def test_what_was_outside_of_the_image_is_black_and_masked():
    light = replace(sample(), image=np.full((*SIZE[::-1], 3), 255, np.uint8))
    light = replace(light, mask=np.ones(SIZE[::-1], bool))
    moved = move(light, similarity((150, 120), (500, 500), 1), (500, 500))
    inside = np.zeros((500, 500), bool)
    inside[130:370, 100:400] = True
    assert np.array_equal(moved.mask, inside)
    assert np.array_equal(moved.image[..., 0] > 0, inside)


def test_a_mirror():
    start = sample()
    turned = flip(start, FLIP)
    assert np.array_equal(turned.image, start.image[:, ::-1])
    assert np.array_equal(turned.mask, start.mask[:, ::-1])
    np.testing.assert_allclose(
        turned.joints[0, 1], [299 - start.joints[0, 2, 0], *start.joints[0, 2, 1:]]
    )
    assert turned.flipped
    corners = start.boxes[:, 0] + start.boxes[:, 2]
    assert np.array_equal(turned.boxes[:, 0], 299 - corners)
    assert np.array_equal(turned.boxes[:, 1:], start.boxes[:, 1:])


def test_two_mirrors_change_nothing():
    start = sample()
    whole = replace(start, joints=np.trunc(start.joints))
    back = flip(flip(whole, FLIP), FLIP)
    for name in ("image", "mask", "joints", "boxes", "flipped"):
        assert np.array_equal(getattr(back, name), getattr(whole, name))


def test_nothing_is_changed_in_place():
    start, before = sample(), sample()
    rng = np.random.default_rng(0)
    flip(random_affine(start, rng, CropConfig(64)), FLIP)
    flip(start, FLIP)
    for name in ("image", "mask", "joints", "boxes"):
        assert np.array_equal(getattr(start, name), getattr(before, name))


def test_random_parameters_keep_to_the_bounds_and_use_them():
    crop = CropConfig(512)
    maps = [image_crop(dark(400, 200), crop, np.random.default_rng(seed)) for seed in range(2000)]
    sides = np.array([512 / by.scale for by in maps])
    degrees = np.array([np.degrees(np.arctan2(by.matrix[1, 0], by.matrix[0, 0])) for by in maps])
    centres = np.array([by.inverse().points(np.array([256, 256])) for by in maps])
    shifts = centres - (200, 100)
    assert 150 <= sides.min() < 152 < 298 < sides.max() <= 300  # .75 to 1.5 shorter sides
    assert sides.mean() == pytest.approx(225, abs=3)
    assert -30 <= degrees.min() < -29 < 29 < degrees.max() <= 30
    assert abs(degrees.mean()) < 1.5
    assert (abs(shifts) <= 0.2 * sides[:, None] + 0.5).all()  # 40 / 200 of the crop's side
    assert (abs(shifts).max(0) > 50).all()
    assert (abs(shifts.mean(0)) < 2).all()
    np.testing.assert_allclose(shifts, np.round(shifts), atol=1e-6)  # whole image pixels
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.1


def test_a_crop_without_randomness_is_the_middle():
    still = CropConfig(100, rotation=0, min_scale=1, max_scale=1, translate=0)
    by = image_crop(dark(400, 200), still, np.random.default_rng(0))
    np.testing.assert_allclose(by.matrix, similarity((200, 100), (100, 100), 0.5).matrix)


def test_a_mirror_comes_by_its_chance():
    start = sample()
    turned = [
        random_flip(start, np.random.default_rng(seed), 0.3, FLIP).flipped for seed in range(1000)
    ]
    assert np.mean(turned) == pytest.approx(0.3, abs=0.05)
    assert random_flip(start, np.random.default_rng(0), 0.0, FLIP) is start


def test_images_without_people_are_moved_too():
    moved = flip(random_affine(sample(people=0), np.random.default_rng(0), CropConfig(64)), FLIP)
    assert moved.joints.shape == (0, 3, 3)
    assert moved.boxes.shape == (0, 4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(192, 256), (256, 192)])
def test_a_rectangular_crop_holds_the_middle_of_the_square_one(seed, size):
    """The same draws and scale give the same pixels around the centre of the frame."""
    square, rectangle = (
        random_affine(sample(seed), np.random.default_rng(seed), CropConfig(frame, stride=2))
        for frame in (192, size)
    )
    width, height = size
    x, y = (width - 192) // 2, (height - 192) // 2
    assert rectangle.image.shape == (height, width, 3)
    assert rectangle.mask.shape == (height // 2, width // 2)
    middle = rectangle.image[y : y + 192, x : x + 192].astype(int)
    source = sample(seed).image.astype(int)
    slope = max(abs(np.diff(source, axis=axis)).max() for axis in (0, 1))
    assert abs(middle - square.image).max() <= 1 + 2 * slope / 32  # OpenCV rounds to 1/32 pixel
    np.testing.assert_allclose(
        rectangle.joints[..., :2] - (x, y), square.joints[..., :2], atol=1e-3
    )
    np.testing.assert_allclose(rectangle.boxes - (x, y, 0, 0), square.boxes, atol=1e-3)
