"""Samples of one person: the plain procedure, the laws of crops and half bodies, and records."""

from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.data.augment import (
    BoxCropConfig,
    HalfBodyConfig,
    box_crop,
    flip,
    half_body,
    move,
    random_affine,
    random_flip,
)
from hrpose.data.coco import ImageAnnotation, ImageFiles
from hrpose.data.loaders import ResumableBatchSampler, TrainingLoader, collate
from hrpose.data.samples import SampleDataset, person_records, read_person, read_sample
from hrpose.ops.boxes import crop_transform
from hrpose.ops.coordinates import TOP_DOWN
from hrpose.skeletons import COCO, DEFAULT_SIGMA, MPII, Skeleton
from hrpose.structures import Sample
from reference.person_crops import (
    PersonConfig,
    crop_matrix,
    crop_person,
    draw_person,
)

SIZE = (192, 256)
HALVES = tuple(COCO.upper_joints), tuple(COCO.lower_joints)
CONVENTIONS = list(TOP_DOWN.values())
SOMETIMES, ALWAYS = HalfBodyConfig(*HALVES), HalfBodyConfig(*HALVES, probability=1.0)


def textured(width, height, seed=0):
    """A smooth image, so that a fraction of a pixel changes little."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def person(box, seed=0, visible=None, width=320, height=240):
    """A person whose labelled joints lie in and around a box; visible: how many are labelled."""
    rng = np.random.default_rng(seed)
    x, y, w, h = box
    joints = np.zeros((1, 17, 3), np.float32)
    joints[0, :, :2] = rng.uniform(
        (x - w / 9, y - h / 9), (x + w * 10 / 9, y + h * 10 / 9), (17, 2)
    )
    joints[0, :, 2] = rng.integers(1, 3, 17)
    if visible is not None:
        joints[0, rng.permutation(17)[visible:]] = 0
    boxes = np.array([box], np.float32)
    return Sample(textured(width, height, seed), joints, None, image_id=1, boxes=boxes)


def augment(sample, rng, convention, half=SOMETIMES):
    sample = half_body(sample, rng, half)
    sample = random_flip(sample, rng, 0.5, COCO.flip_order)
    crop = BoxCropConfig(SIZE, convention=convention)
    return random_affine(sample, rng, crop, box_crop)


def plain_config(convention, **changed):
    config = PersonConfig(SIZE, *HALVES, tuple(COCO.flip_order), convention=convention.name)
    return config._replace(**changed)


SCENES = {
    "in the middle": person([100, 60, 80, 140]),
    "wide": person([20, 100, 280, 60], 1),
    "at the border": person([260, 150, 60, 90], 2),
    "partly outside": person([-40, -30, 120, 100], 3),
    "larger than the image": person([-200, -100, 900, 700], 4),
    "one pixel": person([150, 90, 1, 1], 5),
    "few joints": person([100, 60, 80, 140], 6, visible=8),
    "one joint": person([100, 60, 80, 140], 7, visible=1),
    "no lower half": replace(
        person([100, 60, 80, 140], 8),
        joints=person([100, 60, 80, 140], 8).joints * np.repeat([1, 0], [11, 6])[:, None],
    ),
}
for _name, _place in (("in one point", [120, 80]), ("outside of the image", [-50, 400])):
    _joints = np.tile(np.array([*_place, 2], np.float32), (1, 17, 1))
    SCENES[_name] = replace(person([100, 60, 80, 140], 9), joints=_joints)
SCENES["on a line"] = replace(
    person([100, 60, 80, 140], 10),
    joints=np.array([[[120, 70 + 7 * k, 2] for k in range(17)]], np.float32),
)


@pytest.mark.parametrize("convention", CONVENTIONS, ids=TOP_DOWN)
@pytest.mark.parametrize("scene", SCENES)
def test_a_sample_is_that_of_the_plain_procedure(scene, convention, record_difference):
    """Crop, joints, flip, targets and weights, for the same random numbers."""
    start, config = SCENES[scene], plain_config(convention, half_body=0.6)
    codec = HeatmapCodec(convention.name, sigma=2.0)
    for seed in range(12):
        half = SOMETIMES._replace(probability=0.6)
        ours = augment(start, np.random.default_rng(seed), convention, half)
        crop, joints, matrix, flipped = crop_person(
            start.image, start.joints[0], start.boxes[0], np.random.default_rng(seed), config
        )
        assert ours.flipped == flipped and ours.mask is None
        assert ours.image.shape == (256, 192, 3) and ours.joints.shape == (1, 17, 3)
        assert np.array_equal(ours.joints[0, :, 2], joints[:, 2])
        away = abs(ours.joints[0, :, :2] - joints[:, :2]).max()
        assert away < 1e-5 * max(256, abs(joints).max())
        if abs(joints).max() < 1000:
            record_difference(f"person, {convention.name}: joints (px)", away)
        levels = abs(ours.image.astype(int) - crop)  # a sum rounded the other way: 1 / 32 px
        assert (levels > 0).mean() < 0.02 and levels.mean() < 0.05
        maps, weights = draw_person(ours.joints[0].astype(float), config)
        given = torch.from_numpy(ours.joints)
        drawn, drawn_weights = codec.encode(given, (64, 48), 4)
        np.testing.assert_allclose(drawn[0], maps, atol=2e-5)
        assert np.array_equal(drawn_weights[0], weights)


# Geometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS, ids=TOP_DOWN)
def test_the_matrix_is_the_published_one(rng, convention):
    """Of centre and scale in units of 200 pixels; at the heatmap's size it is a quarter."""
    config = plain_config(convention)
    for _ in range(50):
        box = np.concatenate([rng.uniform(-50, 300, 2), rng.uniform(1, 300, 2)])
        x, y, width, height = box
        side = max(width, height * 0.75) * 1.25
        centre, scale = (x + width / 2, y + height / 2), (side / 200, side / 150)
        degrees = rng.uniform(-90, 90)
        matrix = crop_matrix(centre, scale, degrees, config)
        by = crop_transform(box, SIZE, rotation=degrees, coordinates=convention.name)
        np.testing.assert_allclose(by.matrix, matrix, rtol=1e-9, atol=1e-9)
        assert np.linalg.det(by.matrix[:, :2]) == pytest.approx((192 / side) ** 2)
        edge = convention.pixel_offset
        cells = by.to_stride(4, convention).matrix
        np.testing.assert_allclose(cells, (matrix + [0, 0, edge]) / 4 - [0, 0, edge], atol=1e-9)


@pytest.mark.parametrize(("name", "apart"), [("published", 1), ("unbiased", 0)])
def test_the_crop_of_a_mirrored_person_is_the_mirrored_crop(name, apart):
    """Rotated the other way, it is so exactly between pixel edges; else moved by one pixel."""
    convention, start = TOP_DOWN[name], person([100, 60, 80, 140])
    turned = flip(start, COCO.flip_order)
    once, other = (
        move(each, crop_transform(each.boxes[0], SIZE, 1.25, degrees, convention.name), SIZE)
        for each, degrees in ((start, 20), (turned, -20))
    )
    mirrored = flip(once, COCO.flip_order)
    np.testing.assert_allclose(other.joints[..., 0] - apart, mirrored.joints[..., 0], atol=1e-3)
    np.testing.assert_allclose(other.joints[..., 1:], mirrored.joints[..., 1:], atol=1e-3)
    shifted = mirrored.image[:, : 192 - apart].astype(int)
    inner = np.s_[8:-8, 8:-8]  # OpenCV rounds places to 1 / 32 pixel
    assert abs(other.image[:, apart:].astype(int) - shifted)[inner].max() <= 2


@pytest.mark.parametrize("convention", CONVENTIONS, ids=TOP_DOWN)
@pytest.mark.parametrize("seed", range(8))
def test_a_lit_spot_stays_at_its_joint(convention, seed):
    """Through half body, flip and crop: its centroid is at the transformed joint."""
    start, rng = person([90, 60, 100, 120], seed), np.random.default_rng(seed)
    x, y = 140, 120
    columns, rows = np.arange(320), np.arange(240)[:, None]
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 32)
    joints = start.joints.copy()
    joints[0, 0, :2] = x, y  # the nose, which is no side's
    lit = replace(start, image=np.repeat((255 * light)[..., None], 3, 2).astype(np.uint8))
    done = augment(replace(lit, joints=joints), rng, convention)
    x, y = done.joints[0, 0, :2]
    assert 30 < x < 162 and 30 < y < 226
    weights = done.image[..., 0].astype(float)
    at = [(weights * each).sum() / weights.sum() for each in np.indices(weights.shape)]
    np.testing.assert_allclose(at, (y, x), atol=0.1)


def test_a_crop_without_randomness_is_the_padded_box():
    still = BoxCropConfig(SIZE, scale=0, rotate=0)
    start = SCENES["wide"]
    by = box_crop(start, still, np.random.default_rng(0))
    np.testing.assert_allclose(by.matrix, crop_transform(start.boxes[0], SIZE).matrix)


def test_scale_and_rotation_are_clipped_normals():
    """Published ranges: 32 % of scales, and 4.6 % of rotations, are at a limit."""
    start = person([100, 60, 80, 140])
    crops = [box_crop(start, BoxCropConfig(), np.random.default_rng(seed)) for seed in range(3000)]
    factors = 192 / (140 * 0.75 * 1.25) / np.array([by.scale for by in crops])
    degrees = np.array([np.degrees(np.arctan2(by.matrix[0, 1], by.matrix[0, 0])) for by in crops])
    assert factors.min() == pytest.approx(0.65) and factors.max() == pytest.approx(1.35)
    at_limit = np.isclose(abs(factors - 1), 0.35)
    assert at_limit.mean() == pytest.approx(0.317, abs=0.03)
    assert factors.mean() == pytest.approx(1, abs=0.02)
    rotated = degrees[abs(degrees) > 1e-9]
    assert len(rotated) / 3000 == pytest.approx(0.6, abs=0.03)
    assert abs(rotated).max() == pytest.approx(90)
    assert np.isclose(abs(rotated), 90).mean() == pytest.approx(0.046, abs=0.015)
    assert np.std(rotated) == pytest.approx(44, abs=2)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [np.nan, 0, 5, 5]])
def test_what_is_no_box_is_refused(box):
    with pytest.raises(ValueError, match="above 0"):
        start = replace(SCENES["wide"], boxes=np.array([box], np.float32))
        random_affine(start, np.random.default_rng(0), BoxCropConfig(SIZE), box_crop)


# Half of a body ---------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1.25, 1.0])
def test_a_half_body_has_half_as_much_again_around_it(padding):
    """About the mean of the joints of one half, whatever the padding of the crop that follows."""
    for seed in range(20):
        start = person([100, 60, 80, 140], seed)
        config = ALWAYS._replace(padding=padding)
        cut = half_body(start, np.random.default_rng(seed), config)
        box = cut.boxes[0] * [1, 1, padding, padding]
        centre = cut.boxes[0, :2] + cut.boxes[0, 2:] / 2
        fits = []
        for half in HALVES:
            points = start.joints[0, list(half), :2]
            near = np.allclose(centre, points.mean(0), atol=1e-3)
            fits.append(near and np.allclose(box[2:], 1.5 * np.ptp(points, axis=0), rtol=1e-5))
        assert sum(fits) == 1
        points = start.joints[0, list(HALVES[fits.index(True)]), :2]
        by = crop_transform(cut.boxes[0], SIZE, padding)
        inside = ((by.points(points) >= 0) & (by.points(points) <= SIZE)).all(1)
        assert inside.sum() >= 2
        for name in ("image", "joints"):
            assert getattr(cut, name) is getattr(start, name)


def halves_taken(visibility, config=ALWAYS, draws=400):
    """Shares of draws in which the box is that of the upper and of the lower half."""
    start = person([100, 60, 80, 140])
    start.joints[0, :, 2] = visibility
    heights = np.arange(17, dtype=np.float32)
    start.joints[0, :, 1] = np.where(np.isin(np.arange(17), HALVES[0]), heights, 200 + heights)
    shares = np.zeros(2)
    for seed in range(draws):
        cut = half_body(start, np.random.default_rng(seed), config)
        if cut is not start:
            shares[int(cut.boxes[0, 1] + cut.boxes[0, 3] / 2 > 100)] += 1 / draws
    return shares


def labels(upper, lower):
    """How many joints of both halves are labelled."""
    return [*[2] * upper, *[0] * (11 - upper), *[1] * lower, *[0] * (6 - lower)]


@pytest.mark.parametrize(
    ("upper", "lower", "shares"),
    [
        (11, 6, (0.69, 0.31)),
        (6, 3, (0.69, 0.31)),
        (5, 3, (0, 0)),  # no more than eight
        (9, 0, (1, 0)),
        (9, 2, (1, 0)),  # the lower half has too few
    ],
)
def test_which_half_is_taken(upper, lower, shares):
    np.testing.assert_allclose(halves_taken(labels(upper, lower)), shares, atol=0.07)


@pytest.mark.parametrize(
    ("upper", "lower", "shares"), [(2, 6, (0, 1)), (2, 2, (1, 0)), (1, 2, (0, 0)), (0, 3, (0, 1))]
)
def test_a_half_of_few_joints(upper, lower, shares):
    """The upper one is the last resort, and needs two joints."""
    config = ALWAYS._replace(min_joints=0)
    np.testing.assert_allclose(halves_taken(labels(upper, lower), config), shares)


def test_half_bodies_come_by_their_probability():
    assert sum(halves_taken([2] * 17, ALWAYS._replace(probability=0.3))) == pytest.approx(
        0.3, abs=0.06
    )
    assert sum(halves_taken([2] * 17, ALWAYS._replace(probability=0.0))) == 0


def test_without_names_of_halves_every_body_stays_whole():
    points = ("a", "b", "c")
    unnamed = Skeleton(points, (DEFAULT_SIGMA,) * 3, points)
    config = HalfBodyConfig(tuple(unnamed.upper_joints), tuple(unnamed.lower_joints), 1.0, 0)
    assert not config.has_halves and ALWAYS.has_halves
    start = person([100, 60, 80, 140])
    assert half_body(start, None, config) is start
    assert MPII.lower_joints == [0, 1, 2, 3, 4, 5, 6]  # the pelvis is below the hips' joints


# Random numbers ---------------------------------------------------------------------------------


class Recorder:
    """A random generator that notes what is drawn of it."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.draws = []

    def __getattr__(self, name):
        self.draws.append(name)
        return getattr(self.rng, name)


def test_the_order_of_draws():
    """Half body, which half, flip, scale, rotation, angle; later ones only if the first succeed."""
    seen = set()
    for seed in range(40):
        rng = Recorder(seed)
        augment(SCENES["in the middle"], rng, TOP_DOWN["published"])
        drawn = " ".join(rng.draws).replace("standard_normal", "n").replace("random", "u")
        seen.add(drawn)
    assert seen == {"u u n u", "u u n u n", "u n u n u", "u n u n u n"}
    rng = Recorder(0)
    augment(SCENES["few joints"], rng, TOP_DOWN["published"])
    assert rng.draws[:2] == ["random", "standard_normal"]  # no draw for a half body


# Records, data set and batches ------------------------------------------------------------------


def records_of(tmp_path, counts=(2, 0, 3)):
    """Images with so many people, crowds around them, and a box without an extent."""
    rng, records = np.random.default_rng(0), []
    for i, count in enumerate(counts):
        cv2.imwrite(str(tmp_path / f"{i}.png"), textured(320, 240, i))
        joints = rng.uniform(0, 200, (count, 17, 3)).astype(np.float32)
        joints[..., 2] = 2
        boxes = rng.uniform(20, 90, (count, 4)).astype(np.float32)
        if i == 2:
            boxes[1, 2] = 1
        region = [[0, 0, 9, 0, 9, 9]]
        records.append(ImageAnnotation(i, f"{i}.png", joints, boxes, (region,), size=(320, 240)))
    return records


def people_of(tmp_path):
    records, _ = person_records(records_of(tmp_path))
    steps = [
        partial(half_body, config=SOMETIMES),
        partial(random_flip, probability=0.5, flip_order=COCO.flip_order),
        partial(random_affine, crop=BoxCropConfig(SIZE), policy=box_crop),
    ]
    return SampleDataset(records, ImageFiles(tmp_path), steps, 5, read_person)


def test_a_record_of_every_person(tmp_path):
    records = records_of(tmp_path)
    people, dropped = person_records(records)
    assert [one.image_id for one in people] == [0, 0, 2, 2]
    assert sum(dropped.values()) == 1
    originals = [(0, 0), (0, 1), (2, 0), (2, 2)]
    for one, (i, n) in zip(people, originals, strict=True):
        assert np.array_equal(one.joints, records[i].joints[n : n + 1])
        x, y, width, height = records[i].boxes[n]
        np.testing.assert_allclose(one.boxes, [[x, y, width - 1, height - 1]])
        assert (one.ignore, one.size, one.file_name) == ((), (320, 240), f"{i}.png")
        assert one.annotated and one.crowds is None and not one.unlabelled
    assert person_records([]) == ([], {})


def test_a_person_is_read_without_a_mask(tmp_path):
    (record, *_), images = records_of(tmp_path), ImageFiles(tmp_path)
    one, whole = read_person(record, images), read_sample(record, images)
    assert one.mask is None and not whole.mask.all()
    assert np.array_equal(one.image, whole.image) and one.joints is whole.joints
    assert flip(one, COCO.flip_order).mask is None


def test_a_batch_of_people_has_no_mask(tmp_path):
    people = people_of(tmp_path)
    batch = collate([people[0, i] for i in range(4)])
    assert set(batch) == {"image", "joints", "boxes", "flipped", "index"}
    assert batch["image"].shape == (4, 3, 256, 192) and batch["joints"].shape == (4, 1, 17, 3)
    assert batch["boxes"].shape == (4, 1, 4)
    for workers in (0, 2):
        loader = TrainingLoader(people, ResumableBatchSampler(4, 4, seed=0), workers)
        (loaded,) = loader
        again = collate([people[0, i] for i in loaded["index"].tolist()])
        assert all(torch.equal(loaded[name], again[name]) for name in again | loaded)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    people = people_of(tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2\.png"):
        people[0, 2]
