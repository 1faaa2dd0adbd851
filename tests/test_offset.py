"""Discs and offsets: round trips, flips and losses, and the same in plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boxed_people import DOTS, SPEC, smooth_image
from hrpose.builders import build_loss
from hrpose.builders.common import build_model, load_model
from hrpose.builders.topdown import (
    build_predict_all,
    build_predictor,
    build_spec,
    draw_targets,
)
from hrpose.builders.training import build_optimizer, build_train_step
from hrpose.codecs.offset import OffsetCodec
from hrpose.config import load_config
from hrpose.inference.spec import ExportedModel, from_json, to_json
from hrpose.inference.tta import flip_back
from hrpose.losses.combine import PersonTerm, TargetConfig, person_loss, person_offset_term
from hrpose.losses.heatmap import joints_mse
from hrpose.losses.offset import OFFSET_ERRORS, offset_loss
from hrpose.models.hrnet import HRNet
from hrpose.models.pose_hrnet import PoseHRNet
from hrpose.models.weights import load_weights
from hrpose.ops.coordinates import CONVENTIONS, HRNET, UNBIASED
from hrpose.programs.exporting.formats import FORMATS
from hrpose.programs.exporting.graphs import NetworkGraph
from hrpose.programs.visual_reports import draw_training_batch
from hrpose.skeletons import COCO
from hrpose.structures import HeadOutput
from reference.offsets import (
    decode_blurred,
    decode_votes,
    draw_discs,
    looped_offset_loss,
    mirrored_discs_back,
)
from test_onnx_topdown import assert_same, pair

BOTH = pytest.mark.parametrize("name", ["hrnet", "unbiased"])
ON = pytest.mark.parametrize("on", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
CONFIG = Path(__file__).parents[1] / "configs" / "topdown" / "hrnet_w32_256x192.yaml"
SIZE = 24, 18
"""(H, W) of most maps: R is 1.3 cells by default, and `WIDE` makes it 3.5."""
WIDE = 3.5 / 24


def scattered(rng, shape=(3, 7), size=SIZE, margin=0.0, stride=4):
    """Joints (B, K, 3) float64 in network pixels, up to `margin` outside; some not labelled."""
    height, width = (side * stride for side in size)
    low, high = (-margin, -margin, -0.3), (width - 1 + margin, height - 1 + margin, 1)
    joints = rng.uniform(low, high, (*shape, 3))
    joints[..., 2] = joints[..., 2] > 0
    return joints


def encoded(codec, joints, size=SIZE, stride=4):
    return codec.encode(torch.from_numpy(joints), size, stride)


def decoded(codec, maps, stride=4):
    return np.asarray(codec.decode(maps, stride))


# Encoding ---------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("radius", "stride"), [(WIDE, 4), (0.0546875, 2)])
def test_encode_oracle(rng, name, radius, stride, record_difference):
    joints = scattered(rng, margin=30, stride=stride)
    joints[0, 0] = 40, 1e6, 1
    joints[0, 1] = np.nan, 9, 1
    codec = OffsetCodec(name, radius)
    maps, weights = encoded(codec, joints, stride=stride)
    plain, labelled = draw_discs(joints, SIZE, stride, name, radius * 24)
    record_difference(f"discs and offsets, {name}", abs(maps.numpy() - plain).max())
    np.testing.assert_allclose(maps, plain, atol=1e-12)
    assert weights.dtype == torch.float32 and np.array_equal(weights, labelled)
    single, _ = codec.encode(torch.from_numpy(joints).float(), SIZE, stride)
    assert single.dtype == torch.float32
    empty = (plain[:, :7] == 0).all((2, 3))
    assert (weights.numpy()[empty] == 1).any() and (weights.numpy()[empty] == 0).any()


def test_offsets_are_within_the_disc_and_as_long_as_it_is_wide(rng):
    maps, _ = encoded(OffsetCodec("unbiased", WIDE), scattered(rng))
    discs, x, y = maps.split(7, 1)
    assert set(discs.unique().tolist()) == {0, 1}
    assert 0.9 < (x**2 + y**2).max().sqrt() <= 1
    assert not maps[:, 7:].where(discs.repeat(1, 2, 1, 1) > 0, 0).equal(torch.zeros_like(x))
    assert not x[discs == 0].any() and not y[discs == 0].any()


def test_the_radius_is_a_fraction_of_the_longer_side():
    codec = OffsetCodec()
    assert [codec.cells(size) for size in ((64, 48), (48, 64), (96, 72), (128, 96))] == [
        3.5,
        3.5,
        5.25,
        7,
    ]


def test_places_are_those_of_the_worked_examples():
    """Pixel 8 is the middle of cell 2 in `hrnet`, 9.5 in `unbiased`: their own offset is 0."""
    for name, pixel in (("hrnet", 8), ("unbiased", 9.5)):
        maps, _ = encoded(OffsetCodec(name, WIDE), np.array([[[pixel, pixel, 1.0]]]))
        assert maps[0, :, 2, 2].tolist() == [1, 0, 0]


@BOTH
def test_a_move_by_a_cell_moves_the_maps_by_a_cell(rng, name):
    joints = scattered(rng, margin=-20)
    codec = OffsetCodec(name, WIDE)
    maps, _ = encoded(codec, joints)
    moved, _ = encoded(codec, joints + [4, 8, 0])
    torch.testing.assert_close(moved, maps.roll((2, 1), (-2, -1)), atol=1e-12, rtol=0)


# Decoding ---------------------------------------------------------------------------------------


def noisy(rng, name, kind=np.float64):
    """Maps (4, 21, 24, 18) of discs and offsets under noise: no cell is as high as another."""
    maps = encoded(OffsetCodec(name, WIDE), scattered(rng, (4, 7), margin=12))[0].numpy()
    maps[0, 0] = -1
    return maps + rng.normal(0, 0.1, maps.shape) * (maps.min((2, 3), keepdims=True) >= -0.99)


@BOTH
@ON
@pytest.mark.parametrize("rule", ["voting", "blur"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_decode_oracle(rng, name, on, rule, kind, record_difference):
    maps = noisy(rng, name).astype(kind)
    found = decoded(OffsetCodec(name, WIDE, rule), on(maps))
    plain = {"voting": decode_votes, "blur": decode_blurred}[rule](maps, 4, name, 3.5)
    record_difference(f"votes, {rule}, {name}, {kind.__name__} (px)", abs(found - plain).max())
    assert found.dtype == kind
    np.testing.assert_allclose(found, plain, atol=1e-4 if kind is np.float32 else 1e-10)


@BOTH
@ON
@pytest.mark.parametrize("radius", [WIDE, 4 / 24, 0.0546875])
def test_votes_are_exact_everywhere(rng, name, on, radius, record_difference):
    """At borders, and for joints outside whose discs reach into the map."""
    joints = scattered(rng, (20, 17), margin=4 * 24 * radius)
    codec = OffsetCodec(name, radius)
    maps = encoded(codec, joints)[0].numpy()
    found, drawn = decoded(codec, on(maps)), maps[:, :17].max((2, 3)) > 0
    outside = ((joints[..., :2] < 0) | (joints[..., :2] > [71, 95])).any(-1)
    assert (drawn & outside).sum() > 20 and (drawn & ~outside).sum() > 100
    away = abs(found[drawn][:, :2] - joints[drawn][:, :2]).max()
    record_difference("votes of clean targets, float64 (px)", away)
    assert away < 1e-9
    assert np.array_equal(found[..., 2], drawn) and not found[~drawn].any()


@pytest.mark.parametrize(("cells", "inside_most"), [(4.0, 0.13), (3.5, 0.65)])
def test_blurred_reading_errs_by_4_to_5_pixels_near_borders(
    rng, cells, inside_most, record_difference
):
    """At 256 x 192, for one joint in twenty there; voting never does."""
    low, high = np.zeros(2), np.array([188, 252])
    joints = np.concatenate([rng.uniform(low, high, (500, 1, 2)), np.ones((500, 1, 1))], -1)
    joints[::2, 0, 0] = rng.choice([-1, 1], 250) * rng.uniform(0, 12, 250) % 188
    maps = encoded(OffsetCodec("hrnet", cells / 64), joints, (64, 48))[0].numpy()
    blur, voting = (
        abs(decoded(OffsetCodec("hrnet", cells / 64, rule), maps) - joints)[:, 0, :2].max(1)
        for rule in ("blur", "voting")
    )
    depth = np.minimum(joints - [*low, 0], [*high, 0] - joints)[:, 0, :2].min(1)
    near, inside = blur[depth < 16], blur[depth > 20]
    of_20 = np.quantile(near, 0.95)
    record_difference(f"blur, R = {cells}: inside, mean (px)", inside.mean())
    record_difference(f"blur, R = {cells}: inside (px)", inside.max())
    record_difference(f"blur, R = {cells}: within 16 px of the border, 95 % (px)", of_20)
    record_difference(f"blur, R = {cells}: within 16 px of the border (px)", near.max())
    assert inside.max() < inside_most and len(inside) > 100
    assert 4 < of_20 < 5.6 and near.mean() > 3
    assert voting.max() < 1e-9


@BOTH
@ON
@pytest.mark.parametrize("rule", ["voting", "blur"])
def test_a_batch_is_decoded_as_its_people_are(rng, name, on, rule):
    maps, codec = noisy(rng, name), OffsetCodec(name, WIDE, rule)
    together = decoded(codec, on(maps))
    assert np.array_equal(together, [decoded(codec, on(maps[i : i + 1]))[0] for i in range(4)])
    assert decoded(codec, on(maps[:0])).shape == (0, 7, 3)


@ON
@pytest.mark.parametrize("rule", ["voting", "blur"])
def test_places_keep_to_positive_scaling_of_heat(rng, on, rule):
    maps, codec = noisy(rng, "unbiased"), OffsetCodec("unbiased", WIDE, rule)
    scaled = maps.copy()
    scaled[:, :7] *= 4
    once, other = (decoded(codec, on(each)) for each in (maps, scaled))
    np.testing.assert_allclose(other, once * [1, 1, 4], atol=1e-12)


@BOTH
@ON
@pytest.mark.parametrize("rule", ["voting", "blur"])
def test_a_map_without_heat_has_no_joint_and_one_that_is_not_finite_is_refused(name, on, rule):
    maps = np.ones((2, 9, 12, 9), np.float32)
    maps[:, :3] = 0
    maps[0, 1] = -1
    codec = OffsetCodec(name, subpixel=rule)
    assert not decoded(codec, on(maps)).any()
    for joint in (2, 5):  # heat, and the offset that is read
        broken = maps.copy()
        broken[1, 2, 4, 4] = 1
        assert decoded(codec, on(broken)).any()
        broken[1, joint, 4, 4] = np.nan
        with pytest.raises(FloatingPointError, match="not finite"):
            decoded(codec, on(broken))


@pytest.mark.parametrize("rule", ["voting", "blur"])
def test_decoding_changes_no_map(rng, rule):
    maps = noisy(rng, "hrnet")
    given = maps.copy()
    decoded(OffsetCodec("hrnet", WIDE, rule), maps)
    flip_back(torch.from_numpy(maps), range(7), OffsetCodec("hrnet", WIDE))
    assert np.array_equal(maps, given)


# Flips ------------------------------------------------------------------------------------------


@BOTH
def test_flip_oracle(rng, name, record_difference):
    maps = rng.normal(size=(3, 9, 12, 9))
    codec = OffsetCodec(name, 0.2)
    back = flip_back(torch.from_numpy(maps), DOTS.flip_order, codec, 4).numpy()
    plain = [mirrored_discs_back(each, DOTS.flip_order, 2.4, name, 4) for each in maps]
    record_difference(f"discs and offsets flipped back, {name}", abs(back - plain).max())
    np.testing.assert_allclose(back, plain, atol=1e-12)


def test_offsets_along_x_change_their_sign_and_those_along_y_do_not(rng):
    """Property 20: in unbiased coordinates that is all, and twice is nothing."""
    maps, codec = torch.from_numpy(rng.normal(size=(2, 9, 12, 9))), OffsetCodec("unbiased", 0.2)
    back = flip_back(maps, DOTS.flip_order, codec)
    plain = maps.flip(-1).view(2, 3, 3, 12, 9)[:, :, DOTS.flip_order]
    torch.testing.assert_close(back[:, :3], plain[:, 0], atol=0, rtol=0)
    torch.testing.assert_close(back[:, 3:6], -plain[:, 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(back[:, 6:], plain[:, 2], atol=0, rtol=0)
    torch.testing.assert_close(flip_back(back, DOTS.flip_order, codec), maps, atol=1e-12, rtol=0)


def equivariant(codec, joints, everywhere):
    """What an equivariant network predicts of a crop of 72 x 96, and of the flipped crop.

    everywhere: offsets are right outside of discs too
    """
    turned = joints[:, COCO.flip_order] * [-1, 1, 1] + [71, 0, 0]
    both = []
    for each in (joints, turned):
        maps, _ = encoded(codec, each)
        if everywhere:
            wide = OffsetCodec(codec.coordinates, 9.0)
            maps[:, 17:] = encoded(wide, each)[0][:, 17:] * (9 / codec.radius)
        both.append(maps)
    return both[0], flip_back(both[1], COCO.flip_order, codec)


@BOTH
def test_both_views_of_an_equivariant_network_vote_for_the_same_place(rng, name):
    joints, codec = scattered(rng, (20, 17), margin=-1), OffsetCodec(name, WIDE)
    joints[..., 2] = 1
    plain, back = equivariant(codec, joints, everywhere=True)
    for maps in (plain, back, (plain + back) / 2):
        np.testing.assert_allclose(decoded(codec, maps)[..., :2], joints[..., :2], atol=1e-9)
    discs = plain[:, :17], back[:, :17]
    if name == "unbiased":
        torch.testing.assert_close(*discs)
    else:  # the cells of a flipped crop are a quarter off, as heatmaps are
        assert 0.02 < (discs[0] != discs[1]).double().mean() / discs[0].mean() < 0.3


def test_hrnets_rims_that_one_view_lacks_cost_little(rng, record_difference):
    """Offsets of 0 outside of discs are averaged into the rim, whose cells count half."""
    joints, codec = scattered(rng, (40, 17), margin=-20), OffsetCodec("hrnet", WIDE)
    joints[..., 2] = 1
    plain, back = equivariant(codec, joints, everywhere=False)
    away = abs(decoded(codec, (plain + back) / 2) - joints)[..., :2]
    record_difference("hrnet, mean of both views of clean discs (px)", away.max())
    assert away.max() < 1.5 and away.mean() < 0.3
    shifted = HRNET.align_flipped(back)  # what a cell more would cost
    assert abs(decoded(codec, shifted) - joints)[..., 0].mean() > 3


@pytest.mark.parametrize("stride", [2, 4])
def test_flips_displace_places_by_what_the_conventions_state(stride):
    """A pixel's place in the cells, and that of its flip, flipped back in the cells."""
    expected = {"hrnet": 1 / stride - 1, "unbiased": 0, "higherhrnet": 1 / stride}
    for name, convention in CONVENTIONS.items():
        place = lambda x, c=convention: (x + c.pixel_offset) / stride - c.cell_centre  # noqa: E731
        away = (48 - 1 - place(48 * stride - 1 - 8.7)) - place(8.7)
        assert convention.flip_displacement(stride) == pytest.approx(away)
        assert away == pytest.approx(expected[name])


# Losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OFFSET_ERRORS)
def test_offset_loss_oracle(rng, kind, record_difference):
    discs = torch.from_numpy(rng.random((2, 3, 5, 4)) > 0.4).double()
    target = torch.from_numpy(rng.normal(size=(2, 6, 5, 4)))
    predicted = torch.from_numpy(rng.normal(size=(2, 6, 5, 4))).requires_grad_()
    result = offset_loss(predicted, target, discs, kind)
    plain = looped_offset_loss(predicted, target, discs, kind)
    slopes = [torch.autograd.grad(each[0] + 3 * each[1], predicted)[0] for each in (result, plain)]
    record_difference(f"offset_loss, {kind}", (result - plain).detach().abs().max())
    record_difference(f"offset_loss, {kind}: gradient", (slopes[0] - slopes[1]).abs().max())
    torch.testing.assert_close(result, plain, atol=1e-12, rtol=0)
    torch.testing.assert_close(*slopes, atol=1e-12, rtol=0)
    inside = torch.cat([discs, discs], 1) > 0
    assert (slopes[0][~inside] == 0).all() and (slopes[0][inside] != 0).all()


def test_smooth_l1_is_half_of_l2_near_0_and_grows_slower_far_away():
    discs, far = torch.ones(1, 1, 1, 1), torch.tensor([[0.5, 0.5], [3.0, 3.0]]).view(2, 2, 1, 1)
    l2, smooth = (offset_loss(far, torch.zeros(2, 2, 1, 1), discs, k) for k in OFFSET_ERRORS)
    assert l2.tolist() == [0.25, 9] and smooth.tolist() == [0.125, 2.5]


def outputs_of(maps, joints):
    return [
        HeadOutput(name, 4, each[:, :joints], offsets=each[:, joints:])
        for name, each in maps.items()
    ]


def loss_of(*overrides):
    return build_loss(load_config(CONFIG, ["MODEL.CODEC", "offset", *overrides]))


def test_terms_are_discs_and_offsets_of_every_output_and_the_total_is_their_sum(rng):
    joints = scattered(rng, (2, 17), (16, 12), margin=12)
    maps, weights = encoded(OffsetCodec(), joints, (16, 12))
    other = maps + torch.from_numpy(rng.normal(size=maps.shape))
    given = outputs_of({"stage1": other, "stage2": maps}, 17)
    batch = {"joints": torch.from_numpy(joints)[:, None]}
    terms = loss_of()(given, batch)
    assert set(terms.weights) == {
        *("heatmap/stage1", "offset/stage1", "heatmap/stage2", "offset/stage2")
    }
    assert set(terms.weights.values()) == {1}
    discs, offsets = maps[:, :17], maps[:, 17:]
    expected = {
        "heatmap/stage1": joints_mse(given[0].heatmaps, discs, weights),
        "offset/stage1": looped_offset_loss(given[0].offsets, offsets, discs, "l2"),
    }
    for name, value in terms.losses.items():
        torch.testing.assert_close(value, expected.get(name, torch.zeros(2).double()))
    changed = loss_of(
        *("LOSS.OFFSET.KIND", "smooth_l1", "LOSS.OFFSET.WEIGHT", "0.5", "LOSS.TERMS", "ohkm")
    )
    half = changed(given, batch)
    assert half.weights["offset/stage1"] == 0.5 and "ohkm/stage1" in half.losses
    assert (half.losses["offset/stage1"] < terms.losses["offset/stage1"]).all()


def test_an_unlabelled_joint_learns_nothing_and_one_outside_that_it_is_not_there(rng):
    joints = np.array([[[10, 10, 0], [-500, 10, 1], [20, 20, 1.0]]])
    predicted = torch.from_numpy(rng.normal(size=(1, 9, 24, 18))).requires_grad_()
    batch, targets = {"joints": torch.from_numpy(joints)[:, None]}, TargetConfig(disc_radius=WIDE)
    terms: dict[str, PersonTerm] = {
        "heatmap": lambda output, maps, weights: joints_mse(output.heatmaps, maps[:, :3], weights),
        "offset": person_offset_term,
    }
    output = outputs_of({"1_4": predicted}, 3)
    losses = person_loss(output, batch, terms, {"heatmap": 1.0, "offset": 1.0}, targets).losses
    (slope,) = torch.autograd.grad(sum(losses.values()).sum(), predicted)
    learns = (slope != 0).flatten(2).any(-1)[0]
    assert learns.tolist() == [False, True, True, *[False, False, True] * 2]
    torch.testing.assert_close(slope[0, 1], predicted[0, 1].detach() / (3 * 24 * 18))


def test_a_network_without_offsets_has_no_offset_loss():
    batch = {"joints": torch.ones(1, 1, 17, 3)}
    with pytest.raises(ValueError, match="set MODEL.CODEC offset"):
        loss_of()([HeadOutput("1_4", 4, torch.zeros(1, 17, 16, 12))], batch)


# From a config ----------------------------------------------------------------------------------

SMALL = (
    *("MODEL.WIDTH", "8", "MODEL.BACKBONE.STEM", "8", "MODEL.BACKBONE.BLOCKS", "1"),
    *("MODEL.BACKBONE.BOTTLENECKS", "1", "MODEL.BACKBONE.MODULES", "[1,1,1]"),
    *("MODEL.INIT", "fan_in", "MODEL.PRETRAINED", "", "DATASET.INPUT_SIZE", "[64,96]"),
)
OFFSET = ("MODEL.CODEC", "offset")


def small(*overrides):
    return load_config(CONFIG, [*SMALL, *overrides])


@pytest.mark.parametrize("coordinates", ["published", "unbiased"])
def test_a_step_of_training_and_poses_by_one_config(rng, coordinates):
    config = small(*OFFSET, "MODEL.COORDINATES", coordinates)
    model = build_model(config)
    joints = torch.from_numpy(scattered(rng, (2, 17), (24, 16))).float()[:, None]
    joints[..., 2] = 1
    batch = {
        "image": torch.from_numpy(rng.integers(0, 256, (2, 3, 96, 64), np.uint8)),
        "joints": joints,
        "flipped": torch.tensor([False, True]),
    }
    terms = build_train_step(config, model)(batch)
    assert {"heatmap/1_4", "offset/1_4", "loss"} <= set(terms)
    torch.testing.assert_close(terms["loss"], terms["heatmap/1_4"] + terms["offset/1_4"])
    terms["loss"].mean().backward()
    assert all((channel != 0).any() for channel in model.head.weight.grad)
    build_optimizer(config, model).step()
    (discs,) = draw_targets(config, batch)
    assert discs.shape == (2, 17, 24, 16) and set(discs.unique().tolist()) == {0, 1}
    predictor = build_predictor(config, model)
    assert predictor.spec.views == ("identity", "flip")
    poses = predictor(smooth_image(0), [[10, 10, 40, 60], [50, 20, 30, 60]])
    assert poses.joints.shape[1:] == (17, 3) and np.isfinite(poses.joints).all()
    outputs = model(batch["image"].float())
    outputs = [each._replace(heatmaps=each.heatmaps.detach()) for each in outputs]
    assert draw_training_batch(config, batch, outputs).ndim == 3


@pytest.mark.parametrize("coordinates", ["published", "unbiased"])
@pytest.mark.parametrize("rule", ["convention", "voting", "blur"])
def test_drawn_targets_are_decoded_to_the_truth(rng, coordinates, rule):
    config = small(
        *(*OFFSET, "MODEL.COORDINATES", coordinates, "TEST.SUBPIXEL", rule),
        *("TEST.GT_HEATMAPS", "true", "TEST.OKS_NMS", "1", "DATASET.INPUT_SIZE", "[192,256]"),
    )
    boxes = np.array([[10, 10, 40, 60], [50.0, 20, 30, 60]])
    joints = rng.uniform(boxes[:, None, :2], (boxes[:, :2] + boxes[:, 2:])[:, None], (2, 17, 2))
    joints = np.concatenate([joints, np.ones((2, 17, 1))], -1).astype(np.float32)
    predictor = build_predictor(config, nn.Conv2d(1, 1, 1))
    images = [(7, (smooth_image(0), boxes, joints))]
    ((_, poses),) = build_predict_all(config, [predictor])(images)
    found = poses.joints[np.argsort(poses.box_indices)]
    away = abs(found - joints)[..., :2].max()
    assert away < (1e-4 if rule != "blur" else 0.3)


def test_the_head_of_w48_has_three_times_the_channels():
    with torch.device("meta"):
        network = PoseHRNet(HRNet(48), 17, offsets=True)
    count = sum(each.numel() for each in network.parameters())
    assert f"{count / 1e6:.3f}" == "63.597"


def test_weights_of_a_heatmap_network_lack_the_head_alone():
    plain, model = build_model(small()), build_model(small(*OFFSET))
    with pytest.raises(ValueError, match=r"(?s)head.weight.*set MODEL.ALLOW_MISSING .*'head\.\*'"):
        load_weights(model, plain.state_dict())
    report = load_weights(model, plain.state_dict(), ["head.*"])
    assert set(report.mismatched) == {"head.weight", "head.bias"} and not report.missing


def test_weights_of_another_codec_or_radius_are_refused_with_the_cure(tmp_path):
    config = small(*OFFSET)
    stored = {"model": build_model(config).state_dict(), "config": config.dump()}
    stored |= {"convention": "published", "skeleton": {"joints": list(COCO.joints)}}
    path = tmp_path / "offset.pth"
    torch.save(stored, path)
    weights = ("TEST.MODEL_FILE", str(path))
    load_model(small(*OFFSET, *weights, "LOSS.OFFSET.WEIGHT", "2"))
    with pytest.raises(ValueError, match="set MODEL.CODEC offset"):
        load_model(small(*weights))
    with pytest.raises(ValueError, match="MODEL.OFFSET.RADIUS 0.0546875, not 0.0625"):
        load_model(small(*OFFSET, *weights, "MODEL.OFFSET.RADIUS", "0.0625"))


@pytest.mark.parametrize(
    ("overrides", "cure"),
    [
        (["TEST.SUBPIXEL", "voting"], "TEST.SUBPIXEL convention or none or quarter or dark"),
        ([*OFFSET, "TEST.SUBPIXEL", "dark"], "TEST.SUBPIXEL convention or voting or blur"),
        (["MODEL.OFFSET.RADIUS", "0.0625"], "set MODEL.CODEC offset"),
        (["LOSS.OFFSET.KIND", "smooth_l1"], "set MODEL.CODEC offset"),
        ([*OFFSET, "LOSS.SIGMA", "3"], "set MODEL.CODEC heatmap"),
        (["MODEL.CODEC", "grid"], "one of heatmap, offset"),
        ([*OFFSET, "MODEL.OFFSET.RADIUS", "0"], "above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(overrides, cure):
    with pytest.raises(ValueError, match=cure):
        small(*overrides)


def test_bottom_up_networks_have_heatmaps():
    with pytest.raises(ValueError, match="MODEL.CODEC has no effect beside MODEL.NAME"):
        load_config(CONFIG.parents[1] / "w32_512.yaml", [*OFFSET])


# Exported ---------------------------------------------------------------------------------------


class Discs(nn.Module):
    """Brightness and edges are discs, and slopes are offsets: left and right differ."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(9, 3, 5, 5, dtype=torch.float32))
        with torch.no_grad():
            self.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        maps = nn.functional.conv2d(images, self.weight, stride=4, padding=2)
        return [HeadOutput("1_4", 4, maps[:, :3], offsets=maps[:, 3:].tanh())]


@BOTH
@pytest.mark.parametrize("rule", ["convention", "blur"])
@pytest.mark.parametrize("views", [("identity",), ("identity", "flip")], ids=len)
def test_an_exported_network_finds_the_predictors_poses(name, rule, views):
    changes = {"coordinates": name, "subpixel": rule, "views": views, "disc_radius": 0.2}
    predictor, exported = pair(Discs, **changes)
    assert exported.spec == predictor.spec
    outputs = NetworkGraph(predictor.model)(torch.zeros(1, 3, 64, 32, dtype=torch.uint8))
    assert list(outputs) == ["heatmaps_4", "offsets_4"]
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    maps, expected = exported.steps.forward(crops), predictor.forward(crops).numpy()
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    rng = np.random.default_rng(1)  # of a black image all rows of blurred maps are as high
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    boxes = np.concatenate([rng.uniform(30, 50, (12, 2)), rng.uniform(8, 24, (12, 2))], 1)
    poses = predictor(image, boxes)
    assert len(poses.scores) > 5
    assert_same(exported(image, boxes), poses)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_holds_discs_and_offsets(tmp_path, kind):
    predictor, _ = pair(Discs, disc_radius=0.2)
    model = ExportedModel(predictor.spec, "network", (4,))
    path = tmp_path / f"model{FORMATS[kind].suffix}"
    path.write_bytes(FORMATS[kind].encode(NetworkGraph(predictor.model), model))
    exported = FORMATS[kind].load(path)
    assert exported.spec == predictor.spec
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    expected = predictor.forward(crops).numpy()
    np.testing.assert_allclose(exported.steps.forward(crops), expected, atol=1e-5)


def test_files_of_before_have_heatmaps():
    body = json.loads(to_json(ExportedModel(SPEC, "network", (4,))))
    del body["spec"]["disc_radius"]
    assert from_json(json.dumps(body)).spec == SPEC
    body["spec"]["subpixel"] = "voting"
    with pytest.raises(ValueError, match="voting"):
        from_json(json.dumps(body))
    body["spec"] |= {"disc_radius": 0.05}
    assert from_json(json.dumps(body)).spec.build_codec() == OffsetCodec("hrnet", 0.05, "voting")


def test_the_spec_of_a_config_decodes_as_it_trains():
    config = small(*OFFSET, "MODEL.COORDINATES", "unbiased", "MODEL.OFFSET.RADIUS", "0.1")
    assert build_spec(config).build_codec() == OffsetCodec(UNBIASED.name, 0.1, "convention")
