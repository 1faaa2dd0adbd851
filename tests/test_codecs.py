"""Joints to maps and back, in every convention: round trips, flips, and the same in plain loops."""

import numpy as np
import pytest
import torch

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.tags import TagCodec
from hrpose.ops.coordinates import CONVENTIONS, HIGHERHRNET, HRNET, UNBIASED, mirror_joints
from hrpose.skeletons import COCO
from reference.targets import decode_heatmaps, draw_gaussians, drawn_cell, heatmap_coords
from test_targets import EVERY_CONVENTION, crowd

SIDE = 96
RULES = ("none", "quarter", "dark")
ON = pytest.mark.parametrize("on", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])


def decoded(codec, heatmaps, stride):
    return np.asarray(codec.decode(heatmaps, stride))


def scattered(rng, images=4, margin=0.0, side=SIDE):
    """Joints (B, 1, 17, 3) of one person, uniform in a network input of `side` pixels."""
    joints = rng.uniform(margin, side - 1 - margin, (images, 1, 17, 3)).astype(np.float32)
    joints[..., 2] = 2
    return joints


# Encoding ---------------------------------------------------------------------------------------


@EVERY_CONVENTION
@pytest.mark.parametrize("stride", [2, 4])
def test_encode_oracle(rng, name, stride):
    """From network pixels, some images flipped, to heatmaps, weights and cells."""
    size, flipped = (SIDE // stride, SIDE // stride), torch.tensor([True, False])
    joints = crowd(rng, size=(SIDE, SIDE), people=6, kinds=17, margin=40)
    joints[~np.isfinite(joints)] = 0
    joints[..., :2] = np.round(joints[..., :2] * 8) / 8
    given, cells = joints.copy(), joints.copy()
    given[0] = mirror_joints(joints[0], SIDE, COCO.flip_order)
    cells[0] = joints[0][:, COCO.flip_order]
    for b, n, k in np.ndindex(cells.shape[:3]):
        place = cells[b, n, k, :2]
        cells[b, n, k, :2] = heatmap_coords(place, SIDE, stride, flipped[b], name)
    convention, pixels = CONVENTIONS[name], torch.from_numpy(given)
    codec = HeatmapCodec(name)
    result, weights = codec.encode(pixels, size, stride, flipped)
    np.testing.assert_allclose(result, draw_gaussians(cells, size, 2.0, None, name), atol=1e-6)
    alone = [codec.encode(pixels[:, i : i + 1], size, stride, flipped)[0] for i in range(6)]
    drawn = torch.stack(alone, 1).flatten(3).amax(-1) > 0
    assert weights.dtype == torch.float32
    plain = [drawn_cell(joint, size, name) is not None for joint in cells.reshape(-1, 3)]
    assert weights.flatten().tolist() == plain
    assert torch.equal(weights > 0, drawn) or name == "hrnet"  # whose empty patches may count
    tag_cells = TagCodec(convention).encode(pixels, size, stride, flipped)
    for b, n, k in (tag_cells >= 0).nonzero().tolist():
        assert (
            result[b].flatten()[tag_cells[b, n, k]]
            == result[b, k].flatten()[tag_cells[b, n, k] % (size[0] * size[1])]
        )
    assert 0 < (tag_cells >= 0).float().mean() < drawn.float().mean() + 1e-6


# Decoding ---------------------------------------------------------------------------------------


def predicted(rng, kind, images=3):
    """Heatmaps (B, 17, 12, 16): noise with many ties, or Gaussians inside and at the border."""
    size = (12, 16)
    if kind == "noise":
        return np.round(rng.uniform(-0.5, 1, (images, 17, *size)) * 4).astype(np.float32) / 4
    joints = rng.uniform((-1, -1, 1), (17, 13, 1.5), (images, 1, 17, 3)).astype(np.float32)
    return draw_gaussians(joints, size, 2.0, None, kind).astype(np.float32)


@EVERY_CONVENTION
@pytest.mark.parametrize("option", RULES)
@pytest.mark.parametrize("kind", ["noise", *CONVENTIONS])
@ON
def test_decode_oracle(rng, name, option, kind, on, record_difference):
    heatmaps, convention = predicted(rng, kind), CONVENTIONS[name]
    rule = convention.subpixel_rule(option)
    result = decoded(HeatmapCodec(name, subpixel=option), on(heatmaps), 4)
    plain = decode_heatmaps(heatmaps, 4, name, rule)
    assert result.dtype == np.float32
    record_difference(f"decode, {name}, {option} (px)", abs(result - plain).max())
    np.testing.assert_allclose(result, plain, atol=1e-4 if option == "dark" else 0)


@EVERY_CONVENTION
@ON
def test_a_map_without_heat_has_no_joint_and_one_that_is_not_finite_is_refused(name, on):
    maps = np.zeros((2, 3, 8, 8), np.float32)
    maps[0, 1] = -1
    codec = HeatmapCodec(name)
    assert not decoded(codec, on(maps), 4).any()
    maps[1, 2, 4, 4] = np.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        decoded(codec, on(maps), 4)


def test_decoded_cells_of_the_worked_examples():
    maps = np.zeros((1, 1, 16, 16), np.float32)
    maps[0, 0, 5, 2] = 1
    for convention, pixels in ((HIGHERHRNET, [10, 22]), (HRNET, [8, 20]), (UNBIASED, [9.5, 21.5])):
        codec = HeatmapCodec(convention.name, subpixel="none")
        assert decoded(codec, maps, 4)[0, 0].tolist() == [*pixels, 1]


@pytest.mark.parametrize(
    ("column", "row", "moves"),
    [(2, 2, 1), (1, 5, 0), (5, 1, 0), (14, 10, 1), (15, 5, 0), (5, 11, 0), (5, 10, 1), (0, 0, 0)],
)
def test_hrnet_stops_both_axes_at_the_border(column, row, moves):
    """Of a map of 16 x 12: moved only where 2 <= x <= 14 and 2 <= y <= 10."""
    rows, columns = np.mgrid[:12, :16]
    away = (columns - column - 0.2) ** 2 + (rows - row + 0.2) ** 2
    maps = np.exp(-away / 8).astype(np.float32)[None, None]
    found = decoded(HeatmapCodec(), maps, 1)[0, 0, :2]
    assert found.tolist() == [column + 0.25 * moves, row - 0.25 * moves]


@EVERY_CONVENTION
@ON
def test_the_published_steps_keep_to_scale_and_shift_of_the_map(rng, name, on):
    heatmaps = predicted(rng, name) + np.float32(0.125)
    codec = HeatmapCodec(name, subpixel="quarter")
    once, other = (decoded(codec, on(maps), 4)[..., :2] for maps in (heatmaps, heatmaps * 4 + 1))
    assert np.array_equal(once, other)


# Round trips ------------------------------------------------------------------------------------

BOUNDS = [
    ("higherhrnet", "none", 2.0),
    ("higherhrnet", "convention", 3.0),  # ties go left: a quarter cell more
    ("hrnet", "none", 2.0),
    ("hrnet", "convention", 2.0),
    ("unbiased", "none", 2.0),
    ("unbiased", "convention", 1e-3),
]
"""Largest errors in network pixels at stride 4: half a cell, but for the step's own error."""


@pytest.mark.parametrize(("name", "option", "bound"), BOUNDS)
@ON
def test_what_is_encoded_is_decoded(rng, name, option, bound, on, record_difference):
    joints = scattered(rng, margin=12)
    codec = HeatmapCodec(name, subpixel=option)
    heatmaps = codec.encode(torch.from_numpy(joints), (24, 24), 4)[0].numpy()
    found = decoded(codec, on(heatmaps), 4)
    away = abs(found[..., :2] - joints[:, 0, :, :2]).max()
    record_difference(f"encoded and decoded, {name}, {option} (px)", away)
    assert away <= bound + 1e-4
    assert (found[..., 2] > 0.9).all()


def test_the_published_errors_are_the_known_ones(rng):
    """A drawn peak is symmetric: the bottom-up step goes left and up for every joint."""
    joints = scattered(rng, images=60, margin=12)
    bias = {}
    for name in CONVENTIONS:
        codec = HeatmapCodec(name)
        found = decoded(codec, codec.encode(torch.from_numpy(joints), (24, 24), 4)[0], 4)
        bias[name] = (found[..., :2] - joints[:, 0, :, :2]).mean((0, 1))
    np.testing.assert_allclose(bias["higherhrnet"], -1, atol=0.1)  # a quarter cell of 4 pixels
    np.testing.assert_allclose(bias["hrnet"], 0, atol=0.1)
    np.testing.assert_allclose(bias["unbiased"], 0, atol=1e-3)


# Flips ------------------------------------------------------------------------------------------


def of_both(name, joints, option="convention"):
    """Decoded joints of an image, and of its flipped maps, flipped back as at test."""
    convention = CONVENTIONS[name]
    codec = HeatmapCodec(name, subpixel=option)
    turned = joints[:, :, COCO.flip_order].copy()
    turned[..., 0] = SIDE - 1 - turned[..., 0]
    # An equivariant network is trained on flipped pixels as on any others.
    maps, other = (
        codec.encode(torch.from_numpy(each), (24, 24), 4)[0] for each in (joints, turned)
    )
    back = convention.align_flipped(other.flip(-1)[:, COCO.flip_order])
    return maps, back, codec


@pytest.mark.parametrize("name", ["higherhrnet", "hrnet"])
def test_published_maps_of_a_flipped_image_are_a_cell_off_at_a_quarter_of_all_positions(rng, name):
    """Those of hrnet only once they are moved by a cell: before, three quarters were."""
    maps, back, _ = of_both(name, scattered(rng, images=200, margin=12))
    apart = torch.sub(*(each.flatten(2).argmax(-1) % 24 for each in (back, maps)))
    assert apart.unique().tolist() == [0, 1]
    assert apart.double().mean().item() == pytest.approx(0.25, abs=0.02)


def test_unbiased_maps_of_a_flipped_image_are_those_of_the_image(rng, record_difference):
    maps, back, codec = of_both("unbiased", scattered(rng, images=50))
    record_difference("unbiased: flipped targets", (maps - back).abs().max())
    torch.testing.assert_close(back, maps, atol=1e-5, rtol=0)
    np.testing.assert_allclose(decoded(codec, back, 4), decoded(codec, maps, 4), atol=1e-2)


def test_hrnet_repeats_the_first_column(rng):
    maps = rng.random((2, 3, 5, 7))
    for each in (maps, torch.from_numpy(maps)):
        moved = HRNET.align_flipped(each)
        assert np.array_equal(moved[..., 0], maps[..., 0])
        assert np.array_equal(moved[..., 1:], maps[..., :-1])
        assert HIGHERHRNET.align_flipped(each) is UNBIASED.align_flipped(each) is each


@EVERY_CONVENTION
@pytest.mark.parametrize("option", ["none", "quarter", "dark"])
def test_decoding_flips_with_the_map_but_for_ties_of_higherhrnet(rng, name, option):
    maps = rng.random((4, 3, 16, 16)).astype(np.float32)
    maps[:, 0] = 0
    maps[:, 0, 7, 8] = 1  # equal neighbours
    codec = HeatmapCodec(name, subpixel=option)
    maps[..., :3] = maps[..., -3:] = maps[..., :3, :] = maps[..., -3:, :] = 0  # away from borders
    first, other = decoded(codec, maps, 1), decoded(codec, np.ascontiguousarray(maps[..., ::-1]), 1)
    centre = CONVENTIONS[name].cell_centre - CONVENTIONS[name].pixel_offset
    flipped = 15 + 2 * centre - other[..., 0]
    tied = name == "higherhrnet" and option == "quarter"
    np.testing.assert_allclose(first[:, tied:, 0], flipped[:, tied:], atol=1e-5)
    assert np.array_equal(first[:, tied:, 1:], other[:, tied:, 1:])
    assert not tied or np.allclose(first[:, 0, 0] - flipped[:, 0], -0.5)


# Tags -------------------------------------------------------------------------------------------


@EVERY_CONVENTION
def test_tags_are_read_where_they_are_encoded(rng, name):
    joints = torch.from_numpy(crowd(rng, size=(96, 128), people=9, kinds=3))
    codec = TagCodec(CONVENTIONS[name])
    cells = codec.encode(joints, (24, 32), 4)
    maps = torch.from_numpy(rng.normal(size=(2, 3, 24, 32)))
    tags = codec.decode(maps, cells)
    assert 0 < (cells >= 0).float().mean() < 1
    for b, n, k in np.ndindex(tags.shape):
        cell = cells[b, n, k]
        if cell < 0:
            assert tags[b, n, k].isnan()
        else:
            assert tags[b, n, k] == maps[b].flatten()[cell]
