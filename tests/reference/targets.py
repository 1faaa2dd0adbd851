"""Targets of each coordinate convention and their decoding, joint by joint, as the papers' code."""

import math

import numpy as np


def draw_gaussians(joints, size, sigma, scales=None, convention="higherhrnet", heights=None):
    """Heatmaps (B, K, H, W) of joints (B, N, K, 3) in cells, float64; of overlaps the maximum.

    scales: (B, N) s; a person's Gaussians to the power of 1 / s (SWAHR, equation 6)
    heights: (B, N, K) float32, by which Gaussians in float32 are multiplied
    """
    radius = patch_radius(sigma, convention)
    reach = np.arange(-radius, radius + 1)
    patch = np.exp(-(reach[:, None] ** 2 + reach**2) / (2 * sigma**2))
    maps = np.zeros((len(joints), joints.shape[2], *size))
    for b, n, k in np.ndindex(joints.shape[:3]):
        cell = drawn_cell(joints[b, n, k], size, convention, sigma)
        if cell is None:
            continue
        (left, right), (top, bottom) = (
            (max(centre - radius, 0), max(min(centre + radius + 1, end), 0))
            for centre, end in zip(cell, size[::-1])
        )
        if convention == "unbiased":
            dx, dy = (float(joints[b, n, k, i]) - cell[i] for i in range(2))
            patch = np.exp(-((reach[:, None] - dy) ** 2 + (reach - dx) ** 2) / (2 * sigma**2))
        across, down = radius - cell[0], radius - cell[1]
        part = patch[top + down : bottom + down, left + across : right + across]
        if scales is not None:
            part = part ** (1 / float(scales[b][n]))
        if heights is not None:
            part = part.astype(np.float32) * heights[b, n, k]
        maps[b, k, top:bottom, left:right] = np.maximum(maps[b, k, top:bottom, left:right], part)
    return maps


def patch_radius(sigma, convention="higherhrnet"):
    return int(3 * sigma) if convention == "hrnet" else math.ceil(3 * sigma) + 1


def drawn_cell(joint, size, convention="higherhrnet", sigma=2.0):
    """(column, row) of a labelled joint that is supervised on the map, else None."""
    x, y, flag = (float(number) for number in joint)
    if not flag > 0 or not math.isfinite(x) or not math.isfinite(y):
        return None
    if convention == "unbiased":
        cell = math.floor(x + 0.5), math.floor(y + 0.5)
    else:
        cell = int(x), int(y)  # int() truncates towards 0
    radius = patch_radius(sigma, convention)
    for place, end in zip(cell, size[::-1]):
        if convention == "hrnet":
            if place - radius >= end or place + radius + 1 < 0:
                return None
        elif not 0 <= place < end:
            return None
    return cell


def flat_cells(joints, size, convention="higherhrnet"):
    """(B, N, K): k * H * W + row * W + column, -1 where that is not on the map."""
    cells = np.full(joints.shape[:3], -1)
    height, width = size
    for b, n, k in np.ndindex(joints.shape[:3]):
        cell = drawn_cell(joints[b, n, k], size, convention)
        if cell is not None and 0 <= cell[0] < width and 0 <= cell[1] < height:
            cells[b, n, k] = k * height * width + cell[1] * width + cell[0]
    return cells


def published_cell(x, side, stride, flipped):
    """The cell of unflipped network pixel x: each output's frame is flipped by itself."""
    cell = x / stride
    return int(side / stride - 1 - cell) if flipped else int(cell)


def heatmap_coords(pixels, side, stride, flipped, convention):
    """x, y on the map for x, y in an unflipped network of `side` columns, of which one is flipped.

    hrnet and unbiased know flipped pixels only; higherhrnet flips each frame by itself.
    """
    x, y = (float(value) for value in pixels)
    if convention == "higherhrnet":
        return published_cell(x, side, stride, flipped), int(y / stride)
    x = side - 1 - x if flipped else x
    if convention == "hrnet":
        return int(x / stride + 0.5), int(y / stride + 0.5)
    return (x + 0.5) / stride - 0.5, (y + 0.5) / stride - 0.5


def downsample_mask(mask, step):
    """(B, H, W) -> (B, H / step, W / step): 1 where at least half of the finer cells are 1."""
    coarse = np.zeros((len(mask), mask.shape[1] // step, mask.shape[2] // step), mask.dtype)
    for b, row, column in np.ndindex(coarse.shape):
        finer = [mask[b, row * step + i, column * step + j] for i, j in np.ndindex(step, step)]
        coarse[b, row, column] = sum(map(int, finer)) / step**2 >= 0.5
    return coarse


# And back -------------------------------------------------------------------------------------


def decode_heatmaps(heatmaps, stride, convention, rule):
    """(B, K, 3): x, y in network pixels of each map's highest cell, and its value.

    rule: quarter, signed_quarter, dark or none
    """
    joints = np.zeros((*heatmaps.shape[:2], 3))
    height, width = heatmaps.shape[2:]
    for b, k in np.ndindex(heatmaps.shape[:2]):
        heat = heatmaps[b, k].astype(float)
        row, column = divmod(int(heat.argmax()), width)
        dx, dy = subpixel_step(heat, row, column, rule)
        if convention == "hrnet":
            if not (1 < column < width - 1 and 1 < row < height - 1):
                dx = dy = 0
            x, y = (column + dx) * stride, (row + dy) * stride
        else:
            x, y = (column + 0.5 + dx) * stride, (row + 0.5 + dy) * stride
        if convention == "unbiased":
            x, y = x - 0.5, y - 0.5
        if heat[row, column] > 0:
            joints[b, k] = x, y, heat[row, column]
    return joints


def subpixel_step(heat, row, column, rule):
    """(dx, dy) from a cell's centre; outside the map the nearest cell inside is repeated."""
    padded = np.pad(heat, 1, "edge")[row : row + 3, column : column + 3]
    right, down = padded[1, 2] - padded[1, 0], padded[2, 1] - padded[0, 1]
    if rule == "quarter":
        return (0.25 if right > 0 else -0.25), (0.25 if down > 0 else -0.25)
    if rule == "signed_quarter":
        return 0.25 * np.sign(right), 0.25 * np.sign(down)
    if rule == "none":
        return 0, 0
    log = np.log(np.maximum(padded, 1e-10))
    gradient = np.array([log[1, 2] - log[1, 0], log[2, 1] - log[0, 1]]) / 2
    xx, yy = log[1, 2] + log[1, 0] - 2 * log[1, 1], log[2, 1] + log[0, 1] - 2 * log[1, 1]
    xy = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
    hessian = np.array([[xx, xy], [xy, yy]])
    if xx >= 0 or np.linalg.det(hessian) <= 0:
        return 0, 0
    return np.clip(-np.linalg.solve(hessian, gradient), -0.5, 0.5)
