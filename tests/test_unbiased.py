"""The exact convention, from an image's pixels to targets and back: laws, and plain loops."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hrpose.builders.bottomup import AUGMENTATIONS, build_targets
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer, build_train_step
from hrpose.config import load_config
from hrpose.data.augment import CropConfig, flip, random_affine
from hrpose.data.coco import image_annotations
from hrpose.data.loaders import collate
from hrpose.evaluation.coco import KeypointEvaluator
from hrpose.losses.combine import TargetConfig, make_targets
from hrpose.models.weights import load_weights
from hrpose.ops.coordinates import BOTTOM_UP, HIGHERHRNET, UNBIASED, mirror_joints, resize_transform
from hrpose.ops.peaks import resize
from hrpose.ops.targets import draw_heatmaps, joint_cells
from hrpose.skeletons import COCO
from hrpose.structures import Poses, Sample
from test_options import CONFIGS, ROOT, SMALL

SIZE = (24, 32)
EXACT = ("MODEL.COORDINATES", "unbiased")
PLAIN = torch.tensor([False])
draw_unbiased_heatmaps = partial(draw_heatmaps, convention=UNBIASED)
unbiased_joint_cells = partial(joint_cells, convention=UNBIASED)


def one(x, y, flag=2.0):
    return torch.tensor([[[[x, y, flag]]]], dtype=torch.float32)


def crowd(rng, people=5, kinds=3, size=SIZE):
    """Joints (2, N, K, 3) in and about the map, some not labelled, some not numbers, some ties."""
    joints = rng.uniform(-3, max(size) + 3, (2, people, kinds, 3)).astype(np.float32)
    joints[..., 2] = rng.integers(0, 3, joints.shape[:3])
    ties = rng.random(joints.shape[:3]) < 0.2
    joints[ties, :2] = np.floor(joints[ties, :2]) + 0.5
    joints[rng.random(joints.shape[:3]) < 0.1, rng.integers(0, 3)] = np.nan
    return joints


# Plain loops ------------------------------------------------------------------------------------


def nearest_cell(joint, size):
    """(column, row) of a labelled joint whose nearest cell is in the map, else None."""
    x, y, flag = (float(number) for number in joint)
    if not flag > 0 or math.isnan(x) or math.isnan(y):
        return None
    column, row = math.floor(x + 0.5), math.floor(y + 0.5)
    return (column, row) if 0 <= column < size[1] and 0 <= row < size[0] else None


def looped_target(joints, size, sigma, scales=None):
    """Heatmaps (B, K, H, W) of joints in cells, each about its true place."""
    reach = math.ceil(3 * sigma) + 1
    maps = np.zeros((len(joints), joints.shape[2], *size))
    for b, n, k in np.ndindex(joints.shape[:3]):
        cell = nearest_cell(joints[b, n, k], size)
        if cell is None:
            continue
        x, y = (float(place) for place in joints[b, n, k, :2])
        variance = sigma**2 * (1 if scales is None else float(scales[b, n]))
        for row, column in np.ndindex(size):
            if max(abs(column - cell[0]), abs(row - cell[1])) <= reach:
                value = math.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * variance))
                maps[b, k, row, column] = max(maps[b, k, row, column], value)
    return maps


def looped_mask(mask, step):
    """(B, H, W) -> (B, H / step, W / step): 1 where at least half of the finer cells are 1."""
    coarse = np.zeros((len(mask), mask.shape[1] // step, mask.shape[2] // step), np.uint8)
    for b, row, column in np.ndindex(coarse.shape):
        lit = sum(
            int(mask[b, row * step + i, column * step + j])
            for i in range(step)
            for j in range(step)
        )
        coarse[b, row, column] = lit / step**2 >= 0.5
    return coarse


@pytest.mark.parametrize("people", [0, 1, 5, 40])
@pytest.mark.parametrize("sigma", [2.0, 1.0, 2.5])
@pytest.mark.parametrize("widths", ["equal", "own"])
def test_target_oracle(rng, people, sigma, widths, record_difference):
    joints = crowd(rng, people)
    scales = rng.uniform(0.3, 3, (2, people)).astype(np.float32) if widths == "own" else None
    variances = None if scales is None else torch.from_numpy(scales)
    ours = draw_unbiased_heatmaps(torch.from_numpy(joints), SIZE, sigma, variances)
    plain = looped_target(joints, SIZE, sigma, scales)
    assert ours.dtype == torch.float32
    assert ours.shape == plain.shape
    record_difference("draw_unbiased_heatmaps", abs(ours.numpy() - plain).max(initial=0))
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    assert np.array_equal(ours.numpy() > 0, plain.astype(np.float32) > 0)


@pytest.mark.parametrize("people", [0, 1, 5, 40])
def test_cells_oracle(rng, people):
    joints = crowd(rng, people)
    ours = unbiased_joint_cells(torch.from_numpy(joints), SIZE)
    assert ours.dtype == torch.int64
    assert ours.shape == (2, people, 3)
    for b, n, k in np.ndindex(ours.shape):
        cell = nearest_cell(joints[b, n, k], SIZE)
        wanted = -1 if cell is None else (k * SIZE[0] + cell[1]) * SIZE[1] + cell[0]
        assert ours[b, n, k] == wanted


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_mask_oracle(rng, step, kind):
    mask = (rng.random((3, 16, 24)) < 0.5).astype(kind)
    ours = UNBIASED.downsample_mask(
        torch.from_numpy(mask), step, torch.tensor([False, True, False])
    )
    assert ours.dtype == torch.from_numpy(mask).dtype
    assert np.array_equal(ours, looped_mask(mask, step))


# Drawing ----------------------------------------------------------------------------------------


def test_a_whole_cell_is_drawn_as_the_official_one(rng):
    joints = torch.from_numpy(np.trunc(crowd(rng)))
    joints[..., :2] = joints[..., :2].clamp(min=0)  # to the left of 0 official cuts towards 0
    torch.testing.assert_close(
        draw_unbiased_heatmaps(joints, SIZE, 2.0), draw_heatmaps(joints, SIZE, 2.0)
    )
    assert torch.equal(unbiased_joint_cells(joints, SIZE), joint_cells(joints, SIZE))


@pytest.mark.parametrize(
    ("x", "column"),
    [(-0.5, 0), (-0.51, None), (0.49, 0), (0.5, 1), (1.5, 2), (2.5, 3), (31.49, 31), (31.5, None)],
)
def test_a_joint_between_two_cells_belongs_to_the_right_one(x, column):
    """floor(x + 0.5); whose cell is outside of the map is not drawn at all."""
    drawn, cell = (
        draw_unbiased_heatmaps(one(x, 5), SIZE, 2.0),
        unbiased_joint_cells(one(x, 5), SIZE),
    )
    assert cell.item() == (-1 if column is None else 5 * SIZE[1] + column)
    assert drawn.any() == (column is not None)
    turned = unbiased_joint_cells(one(5, x), (32, 24)).item()
    assert turned == (-1 if column is None else column * 24 + 5)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 2.5])
def test_the_peak_is_highest_in_the_middle_of_a_cell(rng, sigma):
    least = math.exp(-1 / (4 * sigma**2))
    for x, y in [(9, 11), (9.5, 11.5), *rng.uniform(8, 14, (20, 2))]:
        peak = draw_unbiased_heatmaps(one(x, y), SIZE, sigma).max()
        assert least - 1e-6 <= peak <= 1
    assert draw_unbiased_heatmaps(one(9, 11), SIZE, sigma).max() == 1
    assert draw_unbiased_heatmaps(one(9.5, 11.5), SIZE, sigma).max() == pytest.approx(least)


def test_people_meet_in_the_maximum(rng):
    people = torch.from_numpy(rng.uniform(3, 20, (1, 6, 2, 3))).float()
    together = draw_unbiased_heatmaps(people, SIZE, 2.0)
    alone = [draw_unbiased_heatmaps(people[:, i : i + 1], SIZE, 2.0) for i in range(6)]
    assert torch.equal(together, torch.stack(alone).amax(0))
    assert torch.equal(together, draw_unbiased_heatmaps(people.flip(1), SIZE, 2.0))


def test_joints_are_not_changed(rng):
    joints = torch.from_numpy(crowd(rng))
    before = joints.clone()
    draw_unbiased_heatmaps(joints, SIZE, 2.0)
    unbiased_joint_cells(joints, SIZE)
    UNBIASED.to_heatmap_coords(joints, 4, torch.tensor([False, True]))
    assert torch.equal(joints.nan_to_num(7), before.nan_to_num(7))


# And back ---------------------------------------------------------------------------------------


def located(heatmap, row, column):
    """(x, y) in cells, the centre of cell i being i: - H^-1 g of ln heat about a cell."""
    log = np.log(heatmap[row - 1 : row + 2, column - 1 : column + 2].astype(float))
    g = np.array([log[1, 2] - log[1, 0], log[2, 1] - log[0, 1]]) / 2
    xx, yy = log[1, 2] + log[1, 0] - 2 * log[1, 1], log[2, 1] + log[0, 1] - 2 * log[1, 1]
    xy = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
    return np.array([column, row]) - np.linalg.solve([[xx, xy], [xy, yy]], g)


def summit(heatmap):
    """(x, y) of a map's highest place."""
    return located(heatmap, *np.unravel_index(heatmap.argmax(), heatmap.shape))


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_what_is_drawn_is_found_again(rng, sigma, record_difference):
    for x, y in [(9.5, 11.5), *rng.uniform(3, 20, (100, 2))]:
        found = summit(draw_unbiased_heatmaps(one(x, y), SIZE, sigma)[0, 0].numpy())
        away = abs(found - (x, y)).max()
        record_difference("exact: drawn and located (cells)", away)
        assert away < 1e-3


def centroid(heatmap):
    rows, columns = np.indices(heatmap.shape)
    return np.array([(heatmap * columns).sum(), (heatmap * rows).sum()]) / heatmap.sum()


def test_an_enlarged_map_shows_the_joint_where_it_is(rng, record_difference):
    """From 1/4 to 1/2, as heatmaps are averaged: cell c of the one is 2 c + 0.5 of the other."""
    for x, y in rng.uniform(50, 76, (50, 2)):
        drawn = draw_unbiased_heatmaps(
            UNBIASED.to_heatmap_coords(one(x, y), 4, PLAIN), (32, 32), 2.0
        )
        larger = resize(drawn, (64, 64))[0, 0].double().numpy()
        there = 2 * centroid(drawn[0, 0].double().numpy()) + 0.5
        np.testing.assert_allclose(centroid(larger), there, atol=1e-5)
        wanted = UNBIASED.to_heatmap_coords(one(x, y), 2, PLAIN)[0, 0, 0, :2].numpy()
        away = abs(summit(larger) - wanted).max()
        record_difference("exact: located at 1/2 in a map drawn at 1/4 (cells)", away)
        assert away < 0.05


# The mirror -------------------------------------------------------------------------------------


def scattered(rng, side, people=5):
    """Joints (1, N, 17, 3) in and about a crop of `side` pixels, in float64; no ties."""
    joints = rng.uniform(-9, side + 9, (1, people, 17, 3))
    joints[..., 2] = 1
    return joints


def turned_pixels(joints, side):
    """The same in the mirrored crop."""
    return torch.from_numpy(mirror_joints(joints[0], side, COCO.flip_order)[None])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_mirrored_pixels_are_mirrored_cells(rng, stride, record_difference):
    side, joints = 96, scattered(rng, 96)
    plain = UNBIASED.to_heatmap_coords(torch.from_numpy(joints), stride, PLAIN)
    for flag in (torch.tensor([True]), PLAIN):  # of no account
        turned = UNBIASED.to_heatmap_coords(turned_pixels(joints, side), stride, flag)
        wanted = mirror_joints(plain[0].numpy(), side // stride, COCO.flip_order)
        record_difference("exact: mirrored cells (cells)", abs(turned[0].numpy() - wanted).max())
        np.testing.assert_allclose(turned[0], wanted, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_mirrored_pixels_are_mirrored_targets(rng, stride, record_difference):
    side, joints = 96, scattered(rng, 96)
    size = (side // stride,) * 2
    plain, turned = (
        draw_unbiased_heatmaps(UNBIASED.to_heatmap_coords(each, stride, PLAIN), size, 2.0)
        for each in (torch.from_numpy(joints), turned_pixels(joints, side))
    )
    apart = (turned - plain.flip(-1)[:, COCO.flip_order]).abs().max()
    record_difference("exact: mirrored targets", apart)
    assert apart <= 1e-6


@pytest.mark.parametrize("step", [2, 4])
def test_a_mirrored_mask_is_a_mirrored_coarse_mask(rng, step):
    mask = torch.from_numpy((rng.random((2, 16, 24)) < 0.5).astype(np.uint8))
    plain, turned = (UNBIASED.downsample_mask(each, step, PLAIN) for each in (mask, mask.flip(-1)))
    assert torch.equal(turned, plain.flip(-1))


@pytest.mark.parametrize(("stride", "bias", "share"), [(4, 0.75, 0.75), (2, 0.5, 0.5)])
@pytest.mark.parametrize("convention", BOTTOM_UP.values(), ids=BOTTOM_UP)
def test_what_a_mirror_costs(rng, stride, bias, share, convention):
    """Official: mirrored targets stand .75 cells left of what the mirrored image shows, or .5."""
    joints = torch.from_numpy(rng.uniform(20, 490, (1, 500, 17, 3)))
    turned = joints.clone()
    turned[..., 0] = 511 - turned[..., 0]
    ours, plain = (
        convention.to_heatmap_coords(turned, stride, torch.tensor([flag]))[..., 0]
        for flag in (True, False)
    )
    left = plain - ours  # of where an unmirrored joint of this pixel is drawn
    if convention is UNBIASED:
        assert not left.any()
    else:
        assert left.mean().item() == pytest.approx(bias, abs=0.02)
        assert (left > 0).double().mean().item() == pytest.approx(share, abs=0.02)


# Samples, batches, steps ------------------------------------------------------------------------


def spotted(rng, size=(301, 243), people=2):
    """A soft spot at a joint, in a dark image of which a part on the left is not supervised."""
    joints = rng.uniform(0.3, 0.7, (people, 17, 3)).astype(np.float32) * [*size, 0]
    joints[..., 2] = 2
    rows, columns = np.indices(size[::-1])
    away = (columns - joints[0, 0, 0]) ** 2 + (rows - joints[0, 0, 1]) ** 2
    image = np.repeat((255 * np.exp(-away / 32)).astype(np.uint8)[..., None], 3, -1)
    mask = np.ones(size[::-1], bool)
    mask[:, :90] = False
    widths = np.full(people, 80, np.float32)
    return Sample(image, joints.astype(np.float32), mask, image_id=1, widths=widths)


def batch_of(*samples):
    return collate(list(enumerate(samples)))


@pytest.mark.parametrize("seed", range(5))
def test_a_mirrored_sample_has_mirrored_truths(rng, seed):
    crop = CropConfig(128, stride=2, convention=UNBIASED)
    plain = random_affine(spotted(rng), np.random.default_rng(seed), crop)
    sixteenths = np.round(plain.joints * 8) / 8 + np.float32([1 / 16, 1 / 16, 0])  # no rounding
    plain = replace(plain, joints=sixteenths)
    batch = batch_of(plain, flip(plain, COCO.flip_order))
    for truth in make_targets(batch, [4, 2], TargetConfig(convention=UNBIASED)):
        here, there = truth.heatmaps
        assert here.any()
        assert torch.equal(there, here.flip(-1)[COCO.flip_order])
        assert torch.equal(truth.mask[1], truth.mask[0].flip(-1))
        assert 0.1 < truth.mask.float().mean() < 1


def test_truths_are_the_parts_put_together_by_hand(rng):
    crop = CropConfig(64, stride=2, convention=UNBIASED)
    batch = batch_of(*(random_affine(spotted(rng), rng, crop) for _ in range(2)))
    coarse, fine = make_targets(batch, [4, 2], TargetConfig(max_people=1, convention=UNBIASED))
    for stride, truth in ((4, coarse), (2, fine)):
        cells = ((batch["joints"] + 0.5) / stride - 0.5).numpy()
        cells[..., 2] = batch["joints"][..., 2]
        size = (64 // stride, 64 // stride)
        np.testing.assert_allclose(truth.heatmaps, looped_target(cells, size, 2.0), atol=1e-5)
        wanted = unbiased_joint_cells(torch.from_numpy(cells[:, :1]), size)
        assert torch.equal(truth.cells, wanted)
    assert np.array_equal(fine.mask, batch["mask"])
    assert np.array_equal(coarse.mask, looped_mask(batch["mask"].numpy(), 2))


def crop_of(config):
    return AUGMENTATIONS["affine"](config).keywords["crop"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_yaml_may_choose_it(path, tmp_path):
    """And says so in the frozen config of a run, which is read again."""
    config = load_config(path, EXACT)
    assert crop_of(config).convention is build_targets(config).convention is UNBIASED
    (tmp_path / "config.yaml").write_text(config.dump())
    assert load_config(tmp_path / "config.yaml") == config
    official = load_config(path)
    assert crop_of(official).convention is build_targets(official).convention is HIGHERHRNET
    assert official.MODEL.COORDINATES == "published"


SWAHR = ("MODEL.NAME", "swahr", "LOSS.SAHR", "true", "LOSS.WAHR", "true")


@pytest.mark.parametrize("more", [(), SWAHR, ("MODEL.NUM_DECONVS", "2"), ("LOSS.SHR", "256")])
def test_a_step_of_training_is_finite(rng, more):
    config = load_config(ROOT / "configs" / "w32_512.yaml", [*SMALL, *EXACT, *more])
    stride = 4 // 2**config.MODEL.NUM_DECONVS
    crop = CropConfig(64, stride=stride, convention=UNBIASED)
    samples = [random_affine(spotted(rng), rng, crop) for _ in range(2)]
    batch = batch_of(samples[0], flip(samples[1], COCO.flip_order))
    model = build_model(config)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = build_train_step(config, model)(batch)["loss"].mean()
    loss.backward()
    build_optimizer(config, model).step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_weights_of_the_other_convention_are_refused():
    exact, official = (
        load_config(ROOT / "configs" / "w32_512.yaml", [*SMALL, "MODEL.COORDINATES", name])
        for name in ("unbiased", "published")
    )
    for here, there in ((exact, official), (official, exact)):
        theirs = {
            "model": build_model(there).state_dict(),
            "convention": there.MODEL.COORDINATES,
        }
        with pytest.raises(ValueError, match=f"MODEL.COORDINATES {there.MODEL.COORDINATES}"):
            load_weights(build_model(here), theirs)
        load_weights(build_model(there), theirs)


# From end to end --------------------------------------------------------------------------------


def read_back(joints, image_size, input_size, stride):
    """Joints (N, K, 3) of an image, drawn in its cells, located there and brought back."""
    size, to_network = resize_transform(image_size, input_size, convention=UNBIASED)
    there = torch.from_numpy(to_network.joints(joints))[None].float()
    cells, shape = (
        UNBIASED.to_heatmap_coords(there, stride, PLAIN),
        (size[1] // stride, size[0] // stride),
    )
    heatmaps = draw_unbiased_heatmaps(cells, shape, 2.0)[0].numpy()
    places = unbiased_joint_cells(cells, shape)[0].numpy()
    found = np.zeros((*places.shape, 3))
    for n, k in np.argwhere(places >= 0):
        _, row, column = np.unravel_index(places[n, k], heatmaps.shape)
        inner = 0 < row < shape[0] - 1 and 0 < column < shape[1] - 1
        place = located(heatmaps[k], row, column) if inner else (column, row)
        found[n, k] = place[0] + 0.5, place[1] + 0.5, 1
    back = to_network.to_cell_frame(stride, UNBIASED).inverse().joints(found)
    return back * (places >= 0)[..., None]


@pytest.mark.parametrize("image_size", [(301, 243), (200, 415)])
@pytest.mark.parametrize("stride", [4, 2])
def test_people_come_back_from_their_heatmaps(rng, image_size, stride, record_difference):
    """At 256 px, to a thousandth of a pixel of the image where nobody else is near."""
    for _ in range(10):
        joints = rng.uniform(0.1, 0.9, (1, 17, 3)) * [*image_size, 0] + [0, 0, 2]
        back = read_back(joints, image_size, 256, stride)
        away = abs(back[..., :2] - joints[..., :2]).max()
        record_difference(f"exact: joints drawn at 1/{stride}, brought back (px)", away)
        assert away < 1e-3


REAL = ROOT.parent / "shared" / "data" / "coco_subset" / "annotations"
REAL = REAL / "person_keypoints_val2017.json"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason=f"no real annotations at {REAL}")
@pytest.mark.parametrize(("stride", "least"), [(4, 0.98), (2, 0.99)])
def test_what_cells_cost_real_people(stride, least, record_difference):
    """AP of the truth drawn at 256 px and located, everybody's joints being known for theirs."""
    truth = json.loads(REAL.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    evaluator = KeypointEvaluator(truth, COCO)
    for record in image_annotations(truth, 17, 1):
        joints = read_back(record.joints, sizes[record.image_id], 256, stride)
        scores = np.ones(len(joints), np.float32)
        evaluator.add(record.image_id, Poses(joints.astype(np.float32), scores))
    found = evaluator.summarize()["AP"]
    record_difference(f"exact: ceiling at 256 px, 1/{stride}: AP", found)
    assert found > least
