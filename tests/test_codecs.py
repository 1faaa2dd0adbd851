"""Codecs: what is encoded is decoded, in all conventions; top-down HRNet's against plain loops."""

import numpy as np
import pytest
import torch

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.tags import TagCodec
from hrpose.ops.coordinates import CONVENTIONS, HRNET
from reference.targets import decode_hrnet, draw_hrnet

SIZE, STRIDE = (24, 32), 4  # cells (H, W); network pixels per cell
CODECS = {name: HeatmapCodec(2.0, each) for name, each in CONVENTIONS.items()}
BOUNDS = {"higherhrnet": 0.75, "hrnet": 0.5, "unbiased": 0.01}
"""Largest error of a joint that is encoded and decoded, in cells along one axis."""


def people_around(rng, people):
    """Joints (2, N, 3, 3) in network pixels in and far about the map, some unlabelled, some NaN."""
    joints = rng.uniform(-50, 32 * STRIDE + 50, (2, people, 3, 3)).astype(np.float32)
    joints[..., 2] = rng.integers(0, 3, joints.shape[:3])
    joints[rng.random(joints.shape[:3]) < 0.1, rng.integers(0, 3)] = np.nan
    return joints


@pytest.mark.parametrize("people", [0, 1, 5, 40])
@pytest.mark.parametrize("sigma", [2.0, 1.0, 3.0])
def test_hrnet_targets_oracle(rng, people, sigma, record_difference):
    joints, codec = people_around(rng, people), HeatmapCodec(sigma, HRNET)
    maps, weights = draw_hrnet(joints, SIZE, STRIDE, sigma)
    ours = codec.encode(torch.from_numpy(joints), SIZE, STRIDE).numpy()
    record_difference("hrnet: heatmaps", abs(ours - maps).max())
    np.testing.assert_allclose(ours, maps, atol=1e-6)
    assert np.array_equal(ours > 0, maps > 0)
    assert np.array_equal(codec.weights(torch.from_numpy(joints), SIZE, STRIDE), weights)


@pytest.mark.parametrize("x, drawn, weight", [
    (-5.9, True, 1), (-25.9, True, 1), (-30.1, False, 1), (-34.1, False, 0), (149, True, 1),
    (151, False, 0),
])  # fmt: skip
def test_an_hrnet_joint_is_drawn_as_far_as_its_patch_reaches(x, drawn, weight):
    joint = torch.tensor([[[[x, 40.0, 2]]]])
    assert CODECS["hrnet"].encode(joint, SIZE, STRIDE).any().item() == drawn
    assert CODECS["hrnet"].weights(joint, SIZE, STRIDE).item() == weight


def random_maps(rng):
    """Heatmaps (4, 17, H, W): noise, noise with ties, peaks at the border, empty ones."""
    maps = rng.random((4, 17, *SIZE)).astype(np.float32)
    maps[1] = np.round(maps[1] * 3) / 3
    for k, heatmap in enumerate(maps[2]):
        heatmap[k % SIZE[0], [0, 1, 2, 16, 29, 30, 31][k % 7]] = 2
    maps[3, ::2] = 0
    maps[3, 1] = -1
    return maps


def test_hrnet_decoding_oracle(rng, record_difference):
    maps = random_maps(rng)
    wanted = np.array([[decode_hrnet(each, STRIDE) for each in image] for image in maps])
    ours = CODECS["hrnet"].decode(maps, STRIDE)
    record_difference("hrnet: decoded joints (network px)", abs(ours - wanted).max())
    assert np.array_equal(ours, wanted.astype(np.float32))


@pytest.mark.parametrize("name", CODECS)
def test_maps_on_a_device_are_decoded_as_on_the_host(rng, name):
    maps = random_maps(rng)
    there = CODECS[name].decode(torch.from_numpy(maps), STRIDE)
    assert np.array_equal(there, CODECS[name].decode(maps, STRIDE))


@pytest.mark.parametrize("name", CODECS)
def test_joints_survive_encoding_and_decoding(rng, name, record_difference):
    """Where the patch lies inside the map; unlabelled joints come back as 0, 0, 0."""
    joints = np.zeros((20, 1, 17, 3), np.float32)
    joints[..., :2] = rng.uniform(8 * STRIDE, [24 * STRIDE, 16 * STRIDE], (20, 1, 17, 2))
    joints[..., 2] = rng.integers(0, 3, joints.shape[:3])
    maps = CODECS[name].encode(torch.from_numpy(joints), SIZE, STRIDE)
    found, labelled = CODECS[name].decode(maps, STRIDE), joints[:, 0, :, 2] > 0
    away = abs(found - joints[:, 0])[..., :2][labelled].max() / STRIDE
    record_difference(f"{name}: encoded and decoded (cells)", away)
    assert away <= BOUNDS[name] + 1e-5
    assert (found[labelled][:, 2] > 0.9).all()
    assert not found[~labelled].any()


def test_hrnet_maps_of_a_flipped_crop_lie_a_cell_too_far_left(rng):
    """In three of four positions at stride 4; moved by one they are right in the fourth."""
    x = torch.from_numpy(rng.uniform(40, 80, 4000))
    joints = torch.stack([x, x, torch.ones_like(x)], -1).view(1, 1, -1, 3)
    turned = joints.clone()
    turned[..., 0] = 4 * SIZE[1] - 1 - turned[..., 0]
    plain, back = (HRNET.to_heatmap_coords(each, STRIDE)[0, 0, :, 0] for each in (joints, turned))
    apart = SIZE[1] - 1 - back - plain
    assert set(apart.tolist()) == {-1, 0}
    assert (apart == -1).double().mean().item() == pytest.approx(0.75, abs=0.03)
    maps = np.arange(12.0).reshape(1, 3, 4)
    assert HRNET.align_flipped(maps).tolist() == [[[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10]]]


@pytest.mark.parametrize("name", CODECS)
def test_a_map_that_is_not_finite_is_refused(name):
    maps = np.zeros((1, 1, *SIZE), np.float32)
    maps[0, 0, 3, 3] = np.nan
    for each in (maps, torch.from_numpy(maps)):
        with pytest.raises(FloatingPointError, match="the weights are broken"):
            CODECS[name].decode(each, STRIDE)


@pytest.mark.parametrize("name", CODECS)
def test_tags_are_read_where_the_heatmap_is_highest(rng, name):
    joints = torch.from_numpy(people_around(rng, 1))
    codec, maps = TagCodec(CONVENTIONS[name]), torch.randn(2, 3, *SIZE)
    cells = codec.encode(joints, SIZE, STRIDE)
    heat = CODECS[name].encode(joints, SIZE, STRIDE).flatten(2)
    read = codec.decode(maps, cells)
    for b, n, k in (cells >= 0).nonzero().tolist():
        assert cells[b, n, k] == k * SIZE[0] * SIZE[1] + heat[b, k].argmax()
        assert read[b, n, k] == maps[b].flatten()[cells[b, n, k]]
    assert read[cells < 0].isnan().all()
