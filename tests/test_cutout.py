"""Cutout: the pixels of the plain loop, laws of what is hidden and what stays, and its config."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from commands import ROOT
from hrpose.builders.common import build_cutout
from hrpose.builders.datasets import read_split
from hrpose.builders.families import family
from hrpose.config import load_config
from hrpose.data.augment import CutoutConfig, cutout
from hrpose.ops.normalize import normalize
from hrpose.structures import Sample
from reference.cutout import hide_squares

FILL = (1, 2, 3)  # in no crop of `crop`
ALWAYS = CutoutConfig(FILL)
BOTTOM_UP = ROOT / "configs" / "quickstart.yaml", "[affine,flip"
TOP_DOWN = ROOT / "configs" / "topdown" / "quickstart.yaml", "[half_body,flip,affine"
FAMILIES = pytest.mark.parametrize("given", [BOTTOM_UP, TOP_DOWN], ids=["bottom-up", "top-down"])


def crop(width=48, height=64, people=1):
    rng = np.random.default_rng(0)
    image = rng.integers(9, 256, (height, width, 3), np.uint8)
    joints = rng.uniform(0, 48, (people, 17, 3)).astype(np.float32)
    mask = rng.random((height // 4, width // 4)) < 0.5
    return Sample(image, joints, mask, image_id=3, boxes=np.ones((people, 4), np.float32))


def hidden(sample):
    """(H, W) bool"""
    return (sample.image == FILL).all(-1)


@pytest.mark.parametrize("size", [(48, 64), (31, 17), (20, 20), (1, 5)])
@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"side": 0.3}, {"side": 1.0}, {"side": 1e-3}, {"squares": 3}, {"probability": 0.5}),
        *({"min_side": 0.1}, {"squares": 8, "min_squares": 1, "side": 0.2, "min_side": 0.05}),
        {"squares": 4, "min_squares": 2},
    ],
    ids=str,
)
def test_it_hides_the_pixels_of_the_plain_loop(size, changed):
    start = crop(*size)
    for seed in range(5):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        ours = cutout(start, one, ALWAYS._replace(**changed))
        assert np.array_equal(ours.image, hide_squares(start.image, other, FILL, **changed))
        assert one.random() == other.random()  # as many draws


def test_it_hides_whole_squares_and_what_is_left_of_them_at_every_border():
    """Half the width in both directions where nothing is cut; never less than half of that."""
    start, seen, rng = crop(), set(), np.random.default_rng(0)
    for _ in range(300):
        where = hidden(cutout(start, rng, ALWAYS))
        rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
        assert where.sum() == len(rows) * len(columns)
        cuts = []
        for cells, count in ((rows, 64), (columns, 48)):
            assert len(cells) == cells[-1] - cells[0] + 1
            cut = "first" if cells[0] == 0 else "last" if cells[-1] == count - 1 else ""
            assert 12 <= len(cells) <= 24 and (cut or len(cells) == 24)
            cuts.append(cut)
        seen.add(tuple(cuts))
    assert len(seen) == 9  # within, four borders, four corners


def test_it_hides_the_share_of_uniform_centres_and_favours_no_side():
    """In the mean, of a square of side s: s (1 - s / 4W) of the columns, and so of the rows."""
    start, rng, count = crop(24, 32), np.random.default_rng(0), 3000
    shares = np.mean([hidden(cutout(start, rng, ALWAYS)) for _ in range(count)], axis=0)
    expected = 12 * (1 - 12 / 4 / 24) * 12 * (1 - 12 / 4 / 32) / (24 * 32)
    assert expected == pytest.approx(0.149, abs=5e-4)
    assert shares.mean() == pytest.approx(expected, abs=0.005)
    for mirrored in (shares[::-1], shares[:, ::-1]):
        assert abs(shares - mirrored).max() < 0.06
    corners = [shares[y, x] for y in (0, -1) for x in (0, -1)]
    assert corners == pytest.approx([6.5 * 6.5 / (24 * 32)] * 4, abs=0.02)
    assert shares[16, 12] == pytest.approx(12 * 12 / (24 * 32), abs=0.03)


def test_coarse_dropout_hides_rectangles_of_all_numbers_and_sides_in_its_ranges():
    """One at a time, since they overlap; whole where they do not reach the border."""
    start, rng = crop(100, 100), np.random.default_rng(0)
    ranges = ALWAYS._replace(side=0.2, min_side=0.05)
    sides = set()
    for _ in range(400):
        where = hidden(cutout(start, rng, ranges))
        rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
        assert where.sum() == len(rows) * len(columns)
        if min(rows[0], columns[0]) > 0 and max(rows[-1], columns[-1]) < 99:
            sides.add((len(columns), len(rows)))
    assert {w for w, _ in sides} == {h for _, h in sides} == set(range(5, 21))
    single = ALWAYS._replace(side=1e-3, squares=4, min_squares=2)  # pixels, of which few meet
    counts = [int(hidden(cutout(start, rng, single)).sum()) for _ in range(100)]
    assert {2, 3, 4} <= set(counts) <= {1, 2, 3, 4}


@pytest.mark.parametrize("people", [0, 1, 3])
def test_only_pixels_change_and_not_in_place(people):
    start = crop(people=people)
    before = start.image.copy()
    start.image.flags.writeable = False  # as of an image that others read, too
    after = cutout(start, np.random.default_rng(0), ALWAYS)
    for name in ("joints", "mask", "boxes", "image_id", "flipped"):
        assert getattr(after, name) is getattr(start, name)
    assert np.array_equal(start.image, before)
    where = hidden(after)
    assert where.any() and np.array_equal(after.image[~where], before[~where])
    assert after.image.dtype == np.uint8 and not np.shares_memory(after.image, start.image)
    mirrored = cutout(replace(start, image=start.image[:, ::-1]), np.random.default_rng(0), ALWAYS)
    assert np.array_equal(hidden(mirrored), where)


def test_it_comes_by_its_probability_and_seed():
    start, rng = crop(8, 8), np.random.default_rng(0)
    never, sometimes = ALWAYS._replace(probability=0.0), ALWAYS._replace(probability=0.3)
    assert all(cutout(start, rng, never) is start for _ in range(50))
    drawn = [cutout(start, rng, sometimes) is not start for _ in range(1000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.05)
    assert all(cutout(start, rng, ALWAYS) is not start for _ in range(50))
    large = crop()
    images = [cutout(large, np.random.default_rng(seed), ALWAYS).image for seed in (5, 5, 6)]
    assert np.array_equal(*images[:2]) and not np.array_equal(*images[1:])


# Config -----------------------------------------------------------------------------------------


def load(given, more="", *options):
    path, names = given
    return load_config(path, ["DATASET.AUGMENTATIONS", f"{names}{more}]", *options])


@FAMILIES
def test_the_mean_is_0_to_the_network(given):
    for fill, level in (("mean", 0), ("black", None)):
        augment = build_cutout(load(given, ",cutout", "DATASET.CUTOUT.FILL", fill))
        config = augment.keywords["config"]
        assert config == CutoutConfig(config.fill, 1.0, 1, 0.5)
        colour = torch.tensor(config.fill, dtype=torch.uint8).view(1, 3, 1, 1)
        if level == 0:
            assert normalize(colour).abs().max() < 0.01
        else:
            assert not colour.any()


@FAMILIES
def test_samples_differ_only_in_the_squares(given, scenes):
    """With the same draws before; of a sample of an image its mask is as without."""
    options = ["DATASET.ROOT", str(scenes), "DATASET.INPUT_SIZE", "[64,96]"]
    options += ["DATASET.FLIP", "0.5"]
    plain, holed = (load(given, more, *options) for more in ("", ",cutout"))
    one, other = (
        family(config).build_dataset(config, read_split(config, "train2017"))
        for config in (plain, holed)
    )
    again = family(holed).build_dataset(holed, read_split(holed, "train2017"))
    fill, shares = np.array(build_cutout(holed).keywords["config"].fill), []
    for i in range(8):
        (_, whole), (_, cut) = one[0, i], other[0, i]
        assert np.array_equal(again[0, i][1].image, cut.image)
        assert not np.array_equal(other[1, i][1].image, cut.image)
        changed = (whole.image != cut.image).any(-1)
        assert (cut.image[changed] == fill).all()
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) < 32
        shares.append(changed.mean())
        assert np.array_equal(whole.joints, cut.joints) and whole.flipped == cut.flipped
        assert np.array_equal(whole.boxes, cut.boxes)
        assert whole.mask is cut.mask is None or np.array_equal(whole.mask, cut.mask)
    assert 0.08 < np.mean(shares) < 0.18


@pytest.mark.parametrize(
    "names", ["[cutout,affine,flip]", "[cutout,affine]", "[affine,cutout,affine]", "[cutout]"]
)
@FAMILIES
def test_squares_are_hidden_after_the_crop(given, names):
    config = load_config(given[0], ["DATASET.AUGMENTATIONS", names])
    with pytest.raises(ValueError, match=r"DATASET\.AUGMENTATIONS is .*cropped once.*cutout\]"):
        family(config).build_dataset(config, None)
