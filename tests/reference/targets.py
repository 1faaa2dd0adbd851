"""Targets, person by person and joint by joint, as the published code cuts and draws them."""

import math

import numpy as np


def draw_gaussians(joints, size, sigma, scales=None):
    """Heatmaps (B, K, H, W) of joints (B, N, K, 3) in cells, float64; of overlaps the maximum.

    scales: (B, N) s; a person's Gaussians to the power of 1 / s (SWAHR, equation 6)
    """
    radius = math.ceil(3 * sigma) + 1
    reach = np.arange(-radius, radius + 1)
    patch = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * sigma**2))
    maps = np.zeros((len(joints), joints.shape[2], *size))
    for b, n, k in np.ndindex(joints.shape[:3]):
        cell = drawn_cell(joints[b, n, k], size)
        if cell is None:
            continue
        (left, right), (top, bottom) = (
            (max(centre - radius, 0), min(centre + radius + 1, end))
            for centre, end in zip(cell, size[::-1])
        )
        across, down = radius - cell[0], radius - cell[1]
        part = patch[top + down : bottom + down, left + across : right + across]
        if scales is not None:
            part = part ** (1 / scales[b][n])
        maps[b, k, top:bottom, left:right] = np.maximum(maps[b, k, top:bottom, left:right], part)
    return maps


def drawn_cell(joint, size):
    """(column, row) of a labelled joint whose cell is in the map, else None."""
    x, y, flag = (float(number) for number in joint)
    if not flag > 0 or not math.isfinite(x) or not math.isfinite(y):
        return None
    column, row = int(x), int(y)  # int() cuts towards 0
    height, width = size
    return (column, row) if 0 <= column < width and 0 <= row < height else None


def flat_cells(joints, size):
    """(B, N, K): k * H * W + row * W + column, -1 where nothing is drawn."""
    cells = np.full(joints.shape[:3], -1)
    for b, n, k in np.ndindex(joints.shape[:3]):
        cell = drawn_cell(joints[b, n, k], size)
        if cell is not None:
            cells[b, n, k] = k * size[0] * size[1] + cell[1] * size[1] + cell[0]
    return cells


def published_cell(x, side, stride, flipped):
    """The cell of unflipped network pixel x: each output's frame is flipped by itself."""
    cell = x / stride
    return int(side / stride - 1 - cell) if flipped else int(cell)


def hrnet_cell(x, stride):
    """The cell of a network pixel in top-down HRNet; int() truncates towards 0."""
    return int(x / stride + 0.5)


def draw_hrnet(joints, size, stride, sigma):
    """Heatmaps (B, K, H, W) and weights (B, N, K) of joints (B, N, K, 3) in network pixels.

    Every patch of +-3 sigma that reaches into the map is drawn; one that ends a cell before it has
    weight 1 too.
    """
    height, width = size
    radius = int(3 * sigma)
    maps, weights = np.zeros((len(joints), joints.shape[2], *size)), np.zeros(joints.shape[:3])
    for b, n, k in np.ndindex(joints.shape[:3]):
        x, y, flag = (float(number) for number in joints[b, n, k])
        if not flag > 0 or not math.isfinite(x) or not math.isfinite(y):
            continue
        column, row = hrnet_cell(x, stride), hrnet_cell(y, stride)
        if column - radius >= width or row - radius >= height:
            continue
        if column + radius + 1 < 0 or row + radius + 1 < 0:
            continue
        weights[b, n, k] = 1
        for i in range(max(0, row - radius), min(height, row + radius + 1)):
            for j in range(max(0, column - radius), min(width, column + radius + 1)):
                value = math.exp(-((j - column) ** 2 + (i - row) ** 2) / (2 * sigma**2))
                maps[b, k, i, j] = max(maps[b, k, i, j], value)
    return maps, weights


def decode_hrnet(heatmap, stride):
    """x, y in network pixels and the value of the highest cell of one heatmap (H, W)."""
    height, width = heatmap.shape
    row, column = divmod(int(heatmap.argmax()), width)
    value = heatmap[row, column]
    if value <= 0:
        return 0, 0, 0
    x, y = float(column), float(row)
    if 1 < column < width - 1 and 1 < row < height - 1:
        x += 0.25 * np.sign(heatmap[row, column + 1] - heatmap[row, column - 1])
        y += 0.25 * np.sign(heatmap[row + 1, column] - heatmap[row - 1, column])
    return x * stride, y * stride, value
