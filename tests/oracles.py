"""The methods as plain loops, written from the papers' equations and not from the package."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from munkres import Munkres


def target(joints, size, sigma, scales=None):
    """Heatmaps (B, K, H, W) of joints (B, N, K, 3) in cells; float64.

    scales: (B, N) s; a person's Gaussians to the power of 1 / s (SWAHR, equation 6)
    """
    height, width = size
    reach = math.ceil(3 * sigma) + 1
    maps = np.zeros((len(joints), joints.shape[2], height, width))
    for b, n, k in np.ndindex(joints.shape[:3]):
        centre = drawn_cell(joints[b, n, k], size)
        if centre is None:
            continue
        column, row = centre
        power = 1 / scales[b][n] if scales is not None else 1
        for y in range(max(row - reach, 0), min(row + reach + 1, height)):
            for x in range(max(column - reach, 0), min(column + reach + 1, width)):
                squared = (x - column) ** 2 + (y - row) ** 2
                value = math.exp(-squared / (2 * sigma**2)) ** power
                maps[b, k, y, x] = max(maps[b, k, y, x], value)
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
        centre = drawn_cell(joints[b, n, k], size)
        if centre is not None:
            cells[b, n, k] = k * size[0] * size[1] + centre[1] * size[1] + centre[0]
    return cells


def official_cell(x, side, stride, mirrored):
    """The official convention for unmirrored network pixel x: each frame is mirrored for itself."""
    place = x / stride
    return int(side / stride - 1 - place) if mirrored else int(place)


def masked_mean_square(predicted, truth, mask):
    """(B,) from (B, K, H, W) twice and (B, H, W)."""
    losses = []
    for b in range(len(predicted)):
        total, count = 0.0, 0
        for k, y, x in np.ndindex(predicted.shape[1:]):
            total = total + float(mask[b, y, x]) * (predicted[b, k, y, x] - truth[b, k, y, x]) ** 2
            count += 1
        losses.append(total / count)
    return torch.stack(losses)


def scaled_value(drawn, alpha):
    """SWAHR at one cell: the Taylor series of H^(1 + alpha) to the second order, and its slope.

    Nothing is drawn and nothing moves where H is 0.
    """
    if drawn == 0:
        return 0.0, 0.0
    log = math.log(drawn)
    value = drawn + drawn * log * alpha + drawn * log**2 * alpha**2 / 2
    return value, drawn * log + drawn * log**2 * alpha


def adaptive_value(predicted, drawn, gamma):
    """SWAHR's weight at one cell (equation 13), and its slope in what is predicted."""
    there = drawn**gamma
    value = there * abs(1 - predicted) + (1 - there) * abs(predicted)
    return value, there * sign(predicted - 1) + (1 - there) * sign(predicted)


def sign(value):
    return (value > 0) - (value < 0)


class Adaptive(NamedTuple):
    """SWAHR's losses of each image, (B,), and the slopes of their sums, (B, K, H, W)."""

    heatmap: np.ndarray
    scale: np.ndarray
    heatmap_by_predicted: np.ndarray
    heatmap_by_alpha: np.ndarray
    scale_by_alpha: np.ndarray


def adaptive_losses(predicted, drawn, alpha, mask, gamma):
    """Equations 9 and 13, the mean being over every cell, cell by cell: float64.

    predicted, drawn, alpha: (B, K, H, W)   mask: (B, H, W)   gamma: None for weights of 1
    """
    heatmap, scale = np.zeros(len(drawn)), np.zeros(len(drawn))
    slopes = np.zeros((3, *drawn.shape))
    for b, k, y, x in np.ndindex(*drawn.shape):
        p, h, a = (float(values[b, k, y, x]) for values in (predicted, drawn, alpha))
        a = a if h > 0 else 0.0  # a number whatever the network says there
        share = float(mask[b, y, x]) / math.prod(drawn.shape[1:])
        aim, aim_slope = scaled_value(h, a)
        weight, weight_slope = adaptive_value(p, h, gamma) if gamma else (1.0, 0.0)
        heatmap[b] += share * weight * (p - aim) ** 2
        scale[b] += share * a**2
        slopes[:, b, k, y, x] = (
            share * (weight_slope * (p - aim) ** 2 + 2 * weight * (p - aim)),
            share * -2 * weight * (p - aim) * aim_slope,
            share * 2 * a,
        )
    return Adaptive(heatmap, scale, *slopes)


def pull_push(tags, cells, kind):
    """Associative embedding of one image: tags (K*H*W,), cells (N, K). Scalars with gradients."""
    nothing = tags.sum() * 0
    people = [[tags[cell] for cell in row if cell >= 0] for row in cells.tolist()]
    people = [seen for seen in people if seen]
    means = [sum(seen) / len(seen) for seen in people]
    count = len(people)
    pull = nothing
    for seen, mean in zip(people, means):
        pull = pull + sum((tag - mean) ** 2 for tag in seen) / len(seen) / count
    push = nothing
    for a, b in itertools.permutations(means, 2):
        difference = a - b
        near = torch.exp(-(difference**2)) if kind == "exp" else torch.relu(1 - difference.abs())
        push = push + 0.5 * near / (count * (count - 1))
    return pull, push


def told_apart(tags, cells, threshold):
    """Spread, gap and share of close pairs of one image: tags (K*H*W,), cells (N, K)."""
    people = [[float(tags[cell]) for cell in row if cell >= 0] for row in cells.tolist()]
    spreads = [np.std(seen) for seen in people if len(seen) > 1]
    means = [np.mean(seen) for seen in people if seen]
    gaps = [abs(a - b) for a, b in itertools.combinations(means, 2)]
    close = [gap < threshold for gap in gaps]
    return [np.mean(each) if each else math.nan for each in (spreads, gaps, close)]


def cheapest(cost):
    """Smallest total of a (rows, columns) assignment that leaves out as few as it must."""
    rows, columns = cost.shape
    if rows > columns:
        return cheapest(cost.T)
    ways = itertools.permutations(range(columns), rows)
    return min(sum(cost[row, way[row]] for row in range(rows)) for way in ways)


def assignment(cost):
    """row -> column of a cheapest assignment."""
    rows, columns = cost.shape
    padded = np.full((rows, max(rows, columns)), 1e10)
    padded[:, :columns] = cost
    ways = itertools.permutations(range(padded.shape[1]), rows)
    best = min(ways, key=lambda way: sum(padded[row, way[row]] for row in range(rows)))
    return {row: column for row, column in enumerate(best) if column < columns}


def asked_of_munkres(cost):
    """The same as `assignment`; of several the one that the published figures have."""
    rows, columns = cost.shape
    padded = np.pad(cost, ((0, 0), (0, max(0, rows - columns))), constant_values=1e10)
    pairs = Munkres().compute(padded.tolist())
    return {row: column for row, column in pairs if column < columns}


def grouped(peaks, order, threshold=0.1, tag_threshold=1.0, most=30, assign=assignment):
    """People as arrays (K, 3 + T), best first: associative embedding's greedy matching."""
    kinds, _, values = peaks.shape
    people, heard = [], []
    for k in order:
        found = [peak for peak in peaks[k] if peak[2] > threshold]
        known = min(len(people), most)
        means = [np.mean(tags, axis=0) for tags in heard[:known]]
        distance = np.array([[float(np.linalg.norm(p[3:] - m)) for m in means] for p in found])
        distance = distance.reshape(len(found), known)
        cost = np.round(distance) * 100 - np.array([float(p[2]) for p in found])[:, None]
        pairs = assign(cost) if found and known else {}
        for row, peak in enumerate(found):
            mine = pairs.get(row)
            if mine is None or distance[row, mine] >= tag_threshold:
                people.append(np.zeros((kinds, values), np.float32))
                heard.append([])
                mine = len(people) - 1
            people[mine][k] = peak
            heard[mine].append(peak[3:])
    return sorted(people, key=lambda person: -person[:, 2].mean())[:most]


def quarter(heatmap, column, row):
    """The middle of a cell, a quarter towards the higher neighbour; ties go left and up."""
    height, width = heatmap.shape
    right, left = heatmap[row, min(column + 1, width - 1)], heatmap[row, max(column - 1, 0)]
    below, above = heatmap[min(row + 1, height - 1), column], heatmap[max(row - 1, 0), column]
    x = column + 0.5 + (0.25 if right > left else -0.25)
    y = row + 0.5 + (0.25 if below > above else -0.25)
    return x, y


def refined(people, heatmaps, tags):
    """Every person's missing joints at the best cell by heat - round(tag distance)."""
    people = people.copy()
    for person in people:
        found = [k for k in range(len(person)) if person[k, 2] > 0]
        mean = np.mean([person[k, 3:] for k in found], axis=0)
        for k in set(range(len(person))) - set(found):
            best, where = -math.inf, None
            for row, column in np.ndindex(heatmaps.shape[1:]):
                away = math.sqrt(sum((tags[k, row, column] - mean) ** 2))
                value = heatmaps[k, row, column] - round(away)
                if value > best:
                    best, where = value, (row, column)
            row, column = where
            if heatmaps[k, row, column] > 0:
                x, y = quarter(heatmaps[k], column, row)
                person[k] = [x, y, heatmaps[k, row, column], *tags[k, row, column]]
    return people


def enlarged(plane, size):
    """A map (H, W) resized bilinearly, with pixel centres at +0.5 and borders repeated."""
    height, width = plane.shape
    result = np.zeros(size)
    for row, column in np.ndindex(size):
        y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
        x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
        lower = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
        result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


def next_64(value):
    """The next multiple of 64, at or above."""
    return -(-value // 64) * 64
