"""Local maxima, peaks on host and device, and resizing: laws, and the same in plain loops."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hrpose.inference.decode import find_candidates
from hrpose.inference.spec import DecoderConfig
from hrpose.ops.peaks import find_peaks, highest_cells, local_maxima, resize
from reference.predictor import enlarge
from reference.scenes import tied_maps


@pytest.fixture
def uniform():
    return torch.rand(3, 20, 26, generator=torch.Generator().manual_seed(0))


def test_local_maxima_oracle(uniform):
    kept = local_maxima(uniform)
    for k, y, x in np.ndindex(uniform.shape):
        around = uniform[k, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        value = uniform[k, y, x] if uniform[k, y, x] == around.max() else 0
        assert kept[k, y, x] == value


def test_local_maxima_are_idempotent_and_flip_with_the_map(uniform):
    kept = local_maxima(uniform)
    assert 10 < (kept > 0).sum() < uniform.numel() / 5
    assert torch.equal(local_maxima(kept), kept)
    for axis in (-1, -2):
        assert torch.equal(local_maxima(uniform.flip(axis)), kept.flip(axis))


def test_an_isolated_peak_clears_its_neighbourhood():
    grid = torch.full((1, 9, 9), 0.1)
    grid[0, 4, 4] = 1
    kept = local_maxima(grid)[0]
    assert kept[4, 4] == 1
    assert kept[2:7, 2:7].sum() == 1
    assert kept[0, 0] == 0.1
    assert local_maxima(grid, 3)[0, 4, 2] == pytest.approx(0.1)


def test_all_cells_of_a_plateau_stay():
    plateau = torch.zeros(1, 9, 9)
    plateau[0, 4, 4:6] = 0.5
    assert (local_maxima(plateau) > 0).sum() == 2


# Peaks ----------------------------------------------------------------------------------------


def host_peaks(heat, count, window, above):
    """Flat cells of each map (H, W) by the host's branch, -1 where there are fewer."""
    config = DecoderConfig(above, 1.0, count, window, "none", refine=False)
    peaks = find_candidates(heat, np.zeros((*heat.shape, 1), np.float32), config).peaks
    cells = (peaks[..., 1] - 0.5) * heat.shape[-1] + peaks[..., 0] - 0.5
    cells = np.where(peaks[..., 2] > 0, cells, -1).astype(int)
    return np.pad(cells, ((0, 0), (0, count - cells.shape[1])), constant_values=-1)


def plain_peaks(heat, count, window, above):
    """Flat cells of one map, by visiting every cell."""
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
    heat, _ = tied_maps(0, levels)
    plain = [plain_peaks(each, count, window, 0.1) for each in heat]
    assert host_peaks(heat, count, window, 0.1).tolist() == plain


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
    """Few peaks and many, at borders of the map too."""
    heat = hills(count, size, peaks)
    plain = plain_peaks(heat[0], count, 5, 0.1)
    assert host_peaks(heat, count, 5, 0.1)[0].tolist() == plain


@pytest.mark.parametrize("count", [1, 30, 300, 900])
def test_peaks_of_ridges_oracle(count):
    """Two ridges, all of whose cells are peaks, and a low peak apart: the last of all."""
    ridges = np.where(np.arange(320) % 160 == 80, np.linspace(0.3, 0.9, 320), 0)
    heat = np.tile(ridges.astype(np.float32), (1, 320, 1))
    heat[0, 20, 20] = 0.2
    plain = plain_peaks(heat[0], count, 5, 0.1)
    assert host_peaks(heat, count, 5, 0.1)[0].tolist() == plain


@pytest.mark.parametrize("count", [2, 5, 30])
@pytest.mark.parametrize("sigma", [30, 120])
def test_few_peaks_of_broad_hills_oracle(sigma, count):
    """Broad hills, and one low peak far down: fewer peaks than wanted."""
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
    assert host_peaks(heat[None], count, 5, 0.1)[0].tolist() == plain


def test_a_plateau_below_a_peak_of_its_window_has_no_peak():
    """Though all of its cells are higher than the lowest peak."""
    heat = np.zeros((1, 80, 80), np.float32)
    heat[0, :33, :33] = 0.5
    heat[0, 16, 16] = 0.9
    heat[0, 70, 70] = 0.2
    found = host_peaks(heat, 2, 33, 0.1)[0]
    assert found.tolist() == [16 * 80 + 16, 70 * 80 + 70]


@pytest.mark.parametrize("value, count", [(0.5, 30), (0.05, 30), (0.5, 2000)])
def test_all_cells_of_a_plateau_are_peaks(value, count):
    heat = np.full((1, 40, 50), value, np.float32)
    found = host_peaks(heat, count, 5, 0.1)[0]
    assert found.tolist() == (list(range(count)) if value > 0.1 else [-1] * count)


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_find_peaks_on_the_device_oracle(levels, window):
    heat, _ = tied_maps(1, levels)
    plain = [plain_peaks(each, 40, window, 0.0) for each in heat]
    two = torch.from_numpy(np.stack([heat, heat[::-1]]))
    found = find_peaks(two, 40, window)
    assert found.tolist() == [plain, plain[::-1]]


@pytest.mark.parametrize("value", [0.0, -2.0, 0.7])
def test_of_equal_cells_the_first_come_first(value):
    heat = torch.full((1, 1, 30, 40), value)
    assert highest_cells(heat, 50)[0, 0].tolist() == list(range(50))


@pytest.mark.parametrize("levels", [0, 4])
def test_highest_cells_oracle(levels):
    heat, _ = tied_maps(2, levels)
    found = highest_cells(torch.from_numpy(heat)[None], 100)[0].numpy()
    assert np.array_equal(found, np.argsort(-heat.reshape(3, -1), 1, kind="stable")[:, :100])
    assert highest_cells(torch.from_numpy(heat)[None], 9999).shape[-1] == 20 * 26


def test_heat_precedes_row_order_even_for_neighbouring_floats():
    """The last cell of a large map, a bit higher than all before it."""
    heat = torch.full((1, 1, 2048, 2048), 0.5)
    heat[0, 0, -1, -1] = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert highest_cells(heat, 2)[0, 0].tolist() == [2048 * 2048 - 1, 0]


# Resizing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (21, 32)])
def test_resize_oracle(size, record_difference):
    maps = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = resize(maps, size)
    assert result.shape == (2, 3, *size)
    for b, k in np.ndindex(2, 3):
        plain = enlarge(maps[b, k].numpy().astype(float), size)
        record_difference("resize", abs(result[b, k].numpy() - plain).max())
        np.testing.assert_allclose(result[b, k], plain, atol=1e-6)


def test_resize_to_the_same_size_is_nothing_and_constants_stay():
    maps = torch.rand(1, 2, 8, 8)
    assert torch.equal(resize(maps, (8, 8)), maps)
    assert torch.allclose(resize(torch.full((1, 1, 8, 8), 0.3), (32, 32)), torch.tensor(0.3))
    assert not torch.allclose(
        resize(maps, (16, 16)),
        F.interpolate(maps, size=(16, 16), mode="bilinear", align_corners=True),
    )
