"""Keypoints read from cells on host and device, and the offset rules."""

import numpy as np
import pytest
import torch

from hrpose.ops.peaks import gather_cells
from hrpose.ops.subpixel import (
    SUBPIXEL,
    dark_offset,
    gather_keypoints,
    no_offset,
    quarter_offset,
    signed_quarter_offset,
    unpack_keypoints,
)
from reference.scenes import tied_maps
from reference.targets import subpixel_step


@pytest.mark.parametrize("subpixel", SUBPIXEL)
def test_keypoints_unpacked_from_a_device_are_those_of_the_host(subpixel):
    heat, tags = tied_maps(3, 5)
    cell = np.random.default_rng(0).integers(0, 20 * 26, (3, 12))
    cell[:, -1] = -1
    joint = np.arange(3)[:, None].repeat(12, 1)
    keypoints = gather_keypoints(heat, tags, joint, cell, subpixel)
    packed = gather_cells(*(torch.from_numpy(x)[None] for x in (heat, tags, cell)))[0]
    assert np.array_equal(unpack_keypoints(packed.numpy(), 26, subpixel), keypoints)
    assert not keypoints[:, -1].any()
    assert np.array_equal(keypoints[:, :-1, 2], heat.reshape(3, -1)[joint, cell][:, :-1])
    assert np.array_equal(keypoints[:, :-1, 3:], tags.reshape(3, -1, 2)[joint, cell][:, :-1])


# Offsets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", SUBPIXEL)
@pytest.mark.parametrize("levels", [0, 3])
def test_offset_oracle_at_every_cell(rule, levels, record_difference):
    """Borders, where the cell is its own neighbour, and ties among them."""
    heat, tags = tied_maps(4, levels, (8, 10))
    joint, row, column = (index.ravel() for index in np.indices(heat.shape))
    result = gather_keypoints(heat, tags, joint, row * heat.shape[-1] + column, rule)
    steps = [
        subpixel_step(heat[k].astype(float), y, x, rule) for k, y, x in zip(joint, row, column)
    ]
    plain = np.stack([column, row], -1) + 0.5 + steps
    record_difference(f"{rule} offset (cells)", abs(result[:, :2] - plain).max())
    np.testing.assert_allclose(result[:, :2], plain, atol=1e-5 if rule == "dark" else 0)
    assert np.array_equal(result[:, 2], heat.ravel())


def test_ties_go_left_and_up_or_nowhere():
    flat = np.ones((3, 3))
    assert quarter_offset(flat).tolist() == [-0.25, -0.25]
    assert not signed_quarter_offset(flat).any()
    assert not no_offset(flat).any()


def gaussian(dx, dy, sigma=2.0, turn=0.0, long=1.0):
    """The 3 x 3 cells about the origin of a Gaussian at (dx, dy), longer along a turned axis."""
    rows, columns = np.mgrid[-1:2, -1:2]
    x, y = columns - dx, rows - dy
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.exp(-(along**2 / long**2 + across**2) / (2 * sigma**2))


@pytest.mark.parametrize("turn, long", [(0, 1), (0.4, 1.5), (2.0, 3)])
@pytest.mark.parametrize("height", [1, 0.05])
def test_the_dark_offset_finds_the_centre_of_a_gaussian(turn, long, height, record_difference):
    truth = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))
    patches = height * np.array([gaussian(*place, turn=turn, long=long) for place in truth])
    away = abs(dark_offset(patches.astype(np.float32)) - truth).max()
    record_difference("dark_offset: centre of a Gaussian (cells)", away)
    assert away < 1e-3


def test_the_dark_offset_never_leaves_the_cell_and_is_0_where_there_is_no_maximum():
    rng = np.random.default_rng(1)
    wild = rng.uniform(-1, 1, (500, 3, 3)).astype(np.float32)
    assert abs(dark_offset(wild)).max() <= 0.5
    slope = np.exp(np.tile(np.arange(3.0), (3, 1)))
    assert not dark_offset(slope).any()
    assert not dark_offset(np.zeros((3, 3))).any()
    assert not dark_offset(1 / gaussian(0.2, 0.1)).any()  # a hollow


def test_the_dark_offset_turns_with_the_map():
    patch = gaussian(0.3, -0.2, turn=0.5, long=2)
    x, y = dark_offset(patch)
    np.testing.assert_allclose(dark_offset(patch[:, ::-1]), [-x, y], atol=1e-6)
    np.testing.assert_allclose(dark_offset(patch.T), [y, x], atol=1e-6)
