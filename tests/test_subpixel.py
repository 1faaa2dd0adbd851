"""Peaks and steps on the host; the same cells from the device; joints between cells."""

import numpy as np
import pytest
import torch
from hrpose.inference.gathering import unpacked
from hrpose.ops.blocks import heat_in_blocks
from hrpose.ops.cells import (
    describe,
    find_peaks,
    middle,
    neighbourhoods,
    quarter_step,
    taylor_step,
)

from hrpose.inference.grouping import PUBLISHED
from hrpose.ops import cells as module
from hrpose.ops import peaks as device
from oracles import quarter


def maps(seed, levels=0, size=(20, 26)):
    """Heat (3, H, W), with many ties if there are few levels, and tags (3, H, W, 2)."""
    rng = np.random.default_rng(seed)
    heat = rng.uniform(-0.3, 1, (3, *size)).astype(np.float32)
    if levels:
        heat = np.round(heat * levels) / np.float32(levels)
    return heat, rng.normal(size=(3, *size, 2)).astype(np.float32)


def plain_peaks(heat, count, window, above):
    """Flat cells of one map, by a look around every cell."""
    height, width = heat.shape
    reach = window // 2
    found = []
    for y, x in np.ndindex(height, width):
        around = heat[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        if heat[y, x] > above and heat[y, x] == around.max():
            found.append((-heat[y, x], y * width + x))
    cells = [cell for _, cell in sorted(found)[:count]]
    return cells + [-1] * (count - len(cells))


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("window", [1, 3, 5, 9])
@pytest.mark.parametrize("count", [1, 7, 600])
def test_find_peaks_oracle(levels, window, count):
    heat, _ = maps(0, levels)
    plain = [plain_peaks(each, count, window, 0.1) for each in heat]
    assert find_peaks(heat_in_blocks(heat), count, window, 0.1).tolist() == plain


def hills(seed, size, count, height=1.0):
    """Gaussians (1, H, W) here and there, some across the border of two blocks or of the map."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    heat = rng.normal(0, 0.02, size)
    for y, x in rng.uniform((-2, -2), (size[0] + 2, size[1] + 2), (count, 2)):
        away = (rows - y) ** 2 + (columns - x) ** 2
        heat = np.maximum(heat, height * rng.uniform(0.3, 1) * np.exp(-away / 18))
    return heat.astype(np.float32)[None]


@pytest.mark.parametrize("size", [(16, 16), (50, 70), (128, 96), (5, 90), (1, 1)], ids=str)
@pytest.mark.parametrize("count, peaks", [(1, 30), (30, 3), (30, 200)])
def test_peaks_of_hills_oracle(size, count, peaks):
    """Of few peaks, many blocks are looked at; of many, first the highest, then others."""
    heat = hills(count, size, peaks)
    plain = plain_peaks(heat[0], count, 5, 0.1)
    assert find_peaks(heat_in_blocks(heat), count, 5, 0.1)[0].tolist() == plain


@pytest.mark.parametrize("count", [1, 30, 300, 900])
def test_peaks_of_ridges_oracle(count):
    """Two ridges, all of whose cells are peaks, and a low peak apart: the last of all."""
    ridges = np.where(np.arange(320) % 160 == 80, np.linspace(0.3, 0.9, 320), 0)
    heat = np.tile(ridges.astype(np.float32), (1, 320, 1))
    heat[0, 20, 20] = 0.2
    plain = plain_peaks(heat[0], count, 5, 0.1)
    assert find_peaks(heat_in_blocks(heat), count, 5, 0.1)[0].tolist() == plain


@pytest.mark.parametrize("count", [2, 5, 30])
@pytest.mark.parametrize("sigma", [30, 120])
def test_few_peaks_in_many_blocks_oracle(sigma, count):
    """Broad hills, and one low peak far down: the highest blocks hold fewer peaks than wanted."""
    rng = np.random.default_rng(sigma)
    rows, columns = np.mgrid[:300, :340]
    heat = np.zeros((300, 340), np.float32)
    for y, x in rng.uniform(0, 300, (2, 2)):
        away = (rows - y) ** 2 + (columns - x) ** 2
        heat = np.maximum(heat, np.exp(-away / (2 * sigma**2)).astype(np.float32))
    heat[:20, :20] = 0
    heat[10, 10] = 0.15
    plain = plain_peaks(heat, count, 5, 0.1)
    assert 1 < sum(cell >= 0 for cell in plain) <= max(count, 4)
    assert find_peaks(heat_in_blocks(heat[None]), count, 5, 0.1)[0].tolist() == plain


def test_a_peak_above_a_plateau_that_is_none():
    """Of a plateau below it, no cell is a peak; all of them come before the lowest peak."""
    heat = np.zeros((1, 80, 80), np.float32)
    heat[0, :33, :33] = 0.5
    heat[0, 16, 16] = 0.9
    heat[0, 70, 70] = 0.2
    found = find_peaks(heat_in_blocks(heat), 2, 33, 0.1)[0]
    assert found.tolist() == [16 * 80 + 16, 70 * 80 + 70]


def test_few_cells_are_looked_at_for_peaks(monkeypatch):
    """Of noise a tenth of the blocks; of these few cells with all that lies about them."""
    blocks, cells, windows = [], [], []
    read, is_summit = module.cells_in, module._is_summit

    def read_counted(padded, runs):
        blocks.append(len(runs))
        return read(padded, runs)

    def summit_counted(heat, cell, reach):
        windows.append(len(cell))
        return is_summit(heat, cell, reach)

    monkeypatch.setattr(module, "cells_in", read_counted)
    monkeypatch.setattr(module, "_is_summit", summit_counted)
    noise = np.random.default_rng(0).random((1, 512, 704), np.float32)
    for heat in (noise, hills(1, (512, 704), 20)):
        blocks.clear(), windows.clear()
        assert (find_peaks(heat_in_blocks(heat), 30, 5, 0.1) >= 0).sum() >= 15
        cells.append(int((heat > 0.1).sum()))
        assert sum(blocks) < 512 * 704 / 256 / 4
        assert sum(windows) < cells[-1] / 20


@pytest.mark.parametrize("value, count", [(0.5, 30), (0.05, 30), (0.5, 2000)])
def test_all_cells_of_a_plateau_are_peaks(value, count):
    heat = np.full((1, 40, 50), value, np.float32)
    found = find_peaks(heat_in_blocks(heat), count, 5, 0.1)[0]
    assert found.tolist() == (list(range(count)) if value > 0.1 else [-1] * count)


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_find_peaks_on_the_device_oracle(levels, window):
    heat, _ = maps(1, levels)
    plain = [plain_peaks(each, 40, window, 0.0) for each in heat]
    two = torch.from_numpy(np.stack([heat, heat[::-1]]))
    found = device.find_peaks(two, 40, window)
    assert found.tolist() == [plain, plain[::-1]]


@pytest.mark.parametrize("value", [0.0, -2.0, 0.7])
def test_of_equal_cells_the_first_come_first(value):
    heat = torch.full((1, 1, 30, 40), value)
    assert device.highest_cells(heat, 50)[0, 0].tolist() == list(range(50))


@pytest.mark.parametrize("levels", [0, 4])
def test_highest_cells_oracle(levels):
    heat, _ = maps(2, levels)
    found = device.highest_cells(torch.from_numpy(heat)[None], 100)[0].numpy()
    assert np.array_equal(found, np.argsort(-heat.reshape(3, -1), 1, kind="stable")[:, :100])
    assert device.highest_cells(torch.from_numpy(heat)[None], 9999).shape[-1] == 20 * 26


def test_neighbouring_numbers_are_told_apart_before_places_are():
    """The last cell of a large map, a bit higher than all before it."""
    heat = torch.full((1, 1, 2048, 2048), 0.5)
    heat[0, 0, -1, -1] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert device.highest_cells(heat, 2)[0, 0].tolist() == [2048 * 2048 - 1, 0]


@pytest.mark.parametrize("place", [middle, quarter_step, taylor_step])
def test_the_device_tells_what_the_host_reads(place):
    heat, tags = maps(3, 5)
    cell = find_peaks(heat_in_blocks(heat), 12, 5)
    cell[:, -1] = -1
    joint = np.arange(3)[:, None].repeat(12, 1)
    read = describe(heat, tags, joint, cell, place)
    sent = device.gather_cells(*(torch.from_numpy(x)[None] for x in (heat, tags, cell)))[0]
    adjust, step = place is not middle, "taylor" if place is taylor_step else "quarter"
    settings = PUBLISHED._replace(adjust=adjust, step=step)
    told = unpacked(sent.numpy(), 12, 26, 20 * 26, settings)
    assert np.array_equal(told.peaks, read)
    assert not read[:, -1].any()
    assert read[:, :-1].any()


# Steps ------------------------------------------------------------------------------------------


def all_patches(heat):
    joint, row, column = (index.ravel() for index in np.indices(heat.shape))
    return joint, row, column, neighbourhoods(heat, joint, row, column)


def test_quarter_step_oracle(record_difference):
    heat, _ = maps(4, 3)
    joint, row, column, patches = all_patches(heat)
    ours = np.stack([column, row], -1) + 0.5 + quarter_step(patches)
    plain = np.array([quarter(heat[k], x, y) for k, y, x in zip(joint, row, column)])
    record_difference("quarter_step (cells)", abs(ours - plain).max())
    assert np.array_equal(ours, plain)


def test_ties_go_left_and_up_and_the_border_is_its_own_neighbour():
    corner = np.array([[[0.9, 0.2], [0.1, 0.0]]])
    patches = all_patches(corner)[-1]
    assert quarter_step(patches[0]).tolist() == [-0.25, -0.25]
    assert quarter_step(patches[3]).tolist() == [-0.25, -0.25]
    flat = np.ones((3, 3))
    assert quarter_step(flat).tolist() == [-0.25, -0.25]
    assert middle(flat).tolist() == [0, 0]


def gaussian(dx, dy, sigma=2.0, turn=0.0, long=1.0):
    """The 3 x 3 cells about the origin of a Gaussian at (dx, dy), longer along a turned axis."""
    rows, columns = np.mgrid[-1:2, -1:2]
    x, y = columns - dx, rows - dy
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.exp(-(along**2 / long**2 + across**2) / (2 * sigma**2))


@pytest.mark.parametrize("turn, long", [(0, 1), (0.4, 1.5), (2.0, 3)])
@pytest.mark.parametrize("height", [1, 0.05])
def test_the_taylor_step_finds_the_centre_of_a_gaussian(turn, long, height, record_difference):
    truth = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))
    patches = height * np.array([gaussian(*place, turn=turn, long=long) for place in truth])
    away = abs(taylor_step(patches.astype(np.float32)) - truth).max()
    record_difference("taylor_step: centre of a Gaussian (cells)", away)
    assert away < 1e-3


def test_the_taylor_step_never_leaves_the_cell_and_stays_where_there_is_no_summit():
    rng = np.random.default_rng(1)
    wild = rng.uniform(-1, 1, (500, 3, 3)).astype(np.float32)
    assert abs(taylor_step(wild)).max() <= 0.5
    slope = np.exp(np.tile(np.arange(3.0), (3, 1)))
    assert not taylor_step(slope).any()
    assert not taylor_step(np.zeros((3, 3))).any()
    assert not taylor_step(1 / gaussian(0.2, 0.1)).any()  # a hollow


def test_the_taylor_step_turns_with_the_map():
    patch = gaussian(0.3, -0.2, turn=0.5, long=2)
    x, y = taylor_step(patch)
    np.testing.assert_allclose(taylor_step(patch[:, ::-1]), [-x, y], atol=1e-6)
    np.testing.assert_allclose(taylor_step(patch.T), [y, x], atol=1e-6)
