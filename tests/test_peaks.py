"""Laws of local maxima and of resizing, and the same in plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hrpose.ops.peaks import local_maxima, resize
from oracles import enlarged


@pytest.fixture
def maps():
    return torch.rand(3, 20, 26, generator=torch.Generator().manual_seed(0))


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
