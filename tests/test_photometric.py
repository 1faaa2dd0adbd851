"""Photometric augmentation: the colours of the plain loop, laws of each change, and its config."""

from dataclasses import replace

import numpy as np
import pytest

from hrpose.builders.common import build_photometric
from hrpose.builders.datasets import read_split
from hrpose.builders.families import family
from hrpose.config import load_config
from hrpose.data.augment import LUMA, PhotometricConfig, colour_matrix, photometric
from reference.photometric import draw_changes, recolour
from test_cutout import BOTTOM_UP, FAMILIES, TOP_DOWN, crop, load

ALL = PhotometricConfig(probability=1.0)
NONE = PhotometricConfig(1.0, 0.0, 0.0, 0.0, 0.0)
ALONE = {
    "brightness": NONE._replace(brightness=0.3),
    "contrast": NONE._replace(contrast=0.9),
    "saturation": NONE._replace(saturation=0.9),
    "hue": NONE._replace(hue=180.0),
}
GREY = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def grey_of(image):
    return image.astype(float) @ LUMA


@pytest.mark.parametrize(
    "config", [ALL, PhotometricConfig(), NONE, *ALONE.values()], ids=["all", "half", "none", *ALONE]
)
@pytest.mark.parametrize("size", [(24, 16), (1, 5)])
def test_it_gives_the_colours_of_the_plain_loop(config, size):
    """Up to a level, since the matrix is applied in whole 1024ths; with as many draws."""
    start = crop(*size)
    for seed in range(6):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        ours = photometric(start, one, config)
        expected = recolour(start.image, *_gains(draw_changes(other, *config)))
        assert np.abs(ours.image - np.array(expected)).max() <= 1.0
        assert one.random() == other.random()
        assert ours.image.dtype == np.uint8 and ours.image.shape == start.image.shape


def _gains(changes):
    brightness, contrast, saturation, hue = changes
    return brightness, 1 + contrast, 1 + saturation, hue


def test_without_strength_or_probability_a_sample_stays_what_it_is():
    start, rng = crop(), np.random.default_rng(0)
    never = ALL._replace(probability=0.0)
    assert all(photometric(start, rng, config) is start for config in (NONE, never) * 20)
    assert colour_matrix(0, 1, 1, 0) == pytest.approx(np.eye(3, 4), abs=1e-12)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_saturation_and_hue_keep_every_grey(name):
    rng = np.random.default_rng(0)
    pale = crop()  # colours that no turn takes out of range
    pale = replace(pale, image=110 + pale.image // 8)
    for _ in range(20):
        greys = photometric(replace(pale, image=GREY), rng, ALONE[name]).image
        assert np.abs(greys.astype(int) - GREY).max() <= 1
        changed = photometric(pale, rng, ALONE[name]).image
        assert np.abs(grey_of(changed) - grey_of(pale.image)).max() <= 1
    assert not np.array_equal(changed, pale.image)


def test_each_change_is_undone_by_its_inverse_and_stays_within_its_bounds():
    for matrix, inverse in (
        (colour_matrix(0, 1, 1, 40), colour_matrix(0, 1, 1, -40)),
        (colour_matrix(0, 1, 0.5, 0), colour_matrix(0, 1, 2, 0)),
        (colour_matrix(0, 0.5, 1, 0), colour_matrix(0, 2, 1, 0)),
        (colour_matrix(0.1, 1, 1, 0), colour_matrix(-0.1, 1, 1, 0)),
        (colour_matrix(0, 1, 1, 120), colour_matrix(0, 1, 1, 240)),
    ):
        whole = [np.vstack([each, [0, 0, 0, 1]]) for each in (matrix, inverse)]
        assert whole[0] @ whole[1] == pytest.approx(np.eye(4), abs=1e-9)
    rng, start = np.random.default_rng(0), replace(crop(), image=GREY)
    brighter = [photometric(start, rng, ALONE["brightness"]).image[7, 15, 0] for _ in range(200)]
    assert 127 - 77 <= min(brighter) < 70 and 185 < max(brighter) <= 127 + 77
    stretched = [photometric(start, rng, ALONE["contrast"]).image for _ in range(200)]
    spans = [int(image[8, 15, 0]) - int(image[7, 0, 0]) for image in stretched]  # 143 and 112
    assert 3 <= min(spans) < 9 and 52 < max(spans) <= 60
    assert all(abs(int(image[7, 15, 0]) - 127) <= 1 for image in stretched)  # mid-grey stays


@pytest.mark.parametrize("people", [0, 3])
def test_only_pixels_change_and_not_in_place(people):
    start = crop(people=people)
    before = start.image.copy()
    start.image.flags.writeable = False  # as of an image that others read, too
    after = photometric(start, np.random.default_rng(0), ALL)
    for name in ("joints", "mask", "boxes", "image_id", "flipped"):
        assert getattr(after, name) is getattr(start, name)
    assert np.array_equal(start.image, before) and not np.array_equal(after.image, before)
    mirrored = replace(start, image=before[:, ::-1])
    assert np.array_equal(
        photometric(mirrored, np.random.default_rng(0), ALL).image, after.image[:, ::-1]
    )


def test_each_change_comes_by_its_probability():
    rng, start = np.random.default_rng(0), crop(2, 2)
    for config in ALONE.values():
        sometimes = config._replace(probability=0.3)
        drawn = [photometric(start, rng, sometimes) is not start for _ in range(1000)]
        assert np.mean(drawn) == pytest.approx(0.3, abs=0.05)


# Config -----------------------------------------------------------------------------------------


@FAMILIES
def test_the_options_are_those_of_the_function(given):
    config = build_photometric(load(given, ",photometric")).keywords["config"]
    assert config == PhotometricConfig()
    changed = load(given, ",photometric", "DATASET.PHOTOMETRIC.HUE", "5")
    assert build_photometric(changed).keywords["config"] == PhotometricConfig(hue=5.0)


@FAMILIES
def test_samples_differ_only_in_their_colours(given, scenes):
    """With the same draws before; with the seed, the epoch and the index in those of its own."""
    options = ["DATASET.ROOT", str(scenes), "DATASET.INPUT_SIZE", "[64,96]", "DATASET.FLIP", "0.5"]
    plain, coloured = (load(given, more, *options) for more in ("", ",photometric"))
    one, other, again = (
        family(config).build_dataset(config, read_split(config, "train2017"))
        for config in (plain, coloured, coloured)
    )
    pairs = [(one[0, i][1], other[0, i][1]) for i in range(8)]
    for i, (before, after) in enumerate(pairs):
        assert np.array_equal(again[0, i][1].image, after.image)
        assert not np.array_equal(other[1, i][1].image, after.image)
        assert np.array_equal(before.joints, after.joints) and before.flipped == after.flipped
        assert np.array_equal(before.boxes, after.boxes)
        assert before.mask is after.mask is None or np.array_equal(before.mask, after.mask)
    assert sum(not np.array_equal(a.image, b.image) for a, b in pairs) >= 5  # 15 of 16


@pytest.mark.parametrize("given", [BOTTOM_UP[0], TOP_DOWN[0]], ids=["bottom-up", "top-down"])
def test_colours_change_after_the_crop(given):
    config = load_config(given, ["DATASET.AUGMENTATIONS", "[photometric,affine]"])
    with pytest.raises(ValueError, match=r"cropped once \(affine\).*photometric"):
        family(config).build_dataset(config, None)
