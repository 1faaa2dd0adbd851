"""Laws of peaks, of the quarter shift and of resizing, and the same in plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hrpose.ops.heatmaps import cell_centres, find_peaks, local_maxima, quarter_shift, resize
from oracles import enlarged, quarter


@pytest.fixture
def maps():
    return torch.rand(3, 20, 26, generator=torch.Generator().manual_seed(0))


def joint_and_cells(maps):
    kinds, height, width = maps.shape
    k, y, x = (
        index.flatten()
        for index in torch.meshgrid(
            *(torch.arange(n) for n in (kinds, height, width)), indexing="ij"
        )
    )
    return k, torch.stack([x, y], -1)


def test_local_maxima_oracle(maps):
    kept = local_maxima(maps)
    for k, y, x in np.ndindex(maps.shape):
        around = maps[k, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        value = maps[k, y, x] if maps[k, y, x] == around.max() else 0
        assert kept[k, y, x] == value


def test_local_maxima_stay_when_looked_at_again_and_turn_with_the_map(maps):
    kept = local_maxima(maps)
    assert 10 < (kept > 0).sum() < maps.numel() / 5
    assert torch.equal(local_maxima(kept), kept)
    for axis in (-1, -2):
        assert torch.equal(local_maxima(maps.flip(axis)), kept.flip(axis))


def test_an_isolated_peak_clears_its_neighbourhood():
    maps = torch.full((1, 9, 9), 0.1)
    maps[0, 4, 4] = 1
    kept = local_maxima(maps)[0]
    assert kept[4, 4] == 1
    assert kept[2:7, 2:7].sum() == 1
    assert kept[0, 0] == 0.1
    assert local_maxima(maps, 3)[0, 4, 2] == pytest.approx(0.1)


def test_all_cells_of_a_plateau_stay():
    maps = torch.zeros(1, 9, 9)
    maps[0, 4, 4:6] = 0.5
    assert (local_maxima(maps) > 0).sum() == 2


def test_find_peaks_oracle(maps, record_difference):
    """Against sorting all local maxima, cell by cell; no two values of the maps are equal."""
    tags = torch.rand(3, 20, 26, 2, generator=torch.Generator().manual_seed(1))
    found = find_peaks(maps, tags, 7)
    assert found.shape == (3, 7, 5)
    kept = local_maxima(maps)
    plain = torch.zeros_like(found)
    for k in range(3):
        cells = sorted(np.ndindex(20, 26), key=lambda cell, k=k: -kept[(k, *cell)])
        for m, (y, x) in enumerate(cells[:7]):
            plain[k, m] = torch.tensor([x, y, kept[k, y, x], *tags[k, y, x]])
    record_difference("find_peaks", (found - plain).abs().max())
    assert torch.equal(found, plain)


def test_peaks_are_sorted_and_found_once(maps):
    tags = torch.zeros(3, 20, 26, 1)
    found = find_peaks(maps, tags, 10_000)
    assert found.shape == (3, 20 * 26, 4)  # no more than there are cells
    for peaks in found:
        assert (peaks[1:, 2] <= peaks[:-1, 2]).all()
        assert len({(x, y) for x, y in peaks[:, :2].tolist()}) == 20 * 26


def test_quarter_shift_oracle(maps, record_difference):
    maps = (maps * 3).round() / 3  # with many ties
    joint, cells = joint_and_cells(maps)
    ours = quarter_shift(maps, joint, cells).numpy()
    plain = np.array(
        [quarter(maps[k].numpy(), *cell) for k, cell in zip(joint.tolist(), cells.tolist())]
    )
    record_difference("quarter_shift (cells)", abs(ours - plain).max())
    assert np.array_equal(ours, plain)


def test_a_quarter_never_leaves_the_cell(maps):
    joint, cells = joint_and_cells(maps)
    moved = quarter_shift(maps, joint, cells) - cells
    assert set(moved.unique().tolist()) == {0.25, 0.75}
    assert torch.equal(cell_centres(cells), cells + 0.5)


def test_ties_go_left_and_up_and_the_border_is_its_own_neighbour():
    maps = torch.zeros(1, 3, 3)
    maps[0, 1, 1] = 1
    at = torch.tensor
    assert quarter_shift(maps, at([0]), at([[1, 1]])).tolist() == [[1.25, 1.25]]
    maps[0, 1, 2] = 0.5
    assert quarter_shift(maps, at([0]), at([[1, 1]])).tolist() == [[1.75, 1.25]]
    corner = torch.tensor([[[0.9, 0.2], [0.1, 0.0]]])
    # Both neighbours along each axis are the corner itself and a lower one.
    assert quarter_shift(corner, at([0]), at([[0, 0]])).tolist() == [[0.25, 0.25]]
    assert quarter_shift(corner.flip(-1, -2), at([0]), at([[1, 1]])).tolist() == [[1.75, 1.75]]


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (21, 32)])
def test_resize_oracle(size, record_difference):
    maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = resize(maps, size)
    assert ours.shape == (2, 3, *size)
    for b, k in np.ndindex(2, 3):
        plain = enlarged(maps[b, k].numpy().astype(float), size)
        record_difference("resize", abs(ours[b, k].numpy() - plain).max())
        np.testing.assert_allclose(ours[b, k], plain, atol=1e-6)


def test_resize_to_the_same_size_is_nothing_and_constants_stay():
    maps = torch.rand(1, 2, 8, 8)
    assert resize(maps, (8, 8)) is maps
    assert torch.allclose(resize(torch.full((1, 1, 8, 8), 0.3), (32, 32)), torch.tensor(0.3))
    assert not torch.allclose(
        resize(maps, (16, 16)),
        F.interpolate(maps, size=(16, 16), mode="bilinear", align_corners=True),
    )
