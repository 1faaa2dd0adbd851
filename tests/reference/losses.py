"""The losses as loops over images, people and joints, written from the papers' equations."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch


def looped_mse(predicted, target, mask):
    """Masked mean square over all cells, those masked included: (B,).

    predicted, target: (B, K, H, W)   mask: (B, H, W)
    """
    losses = []
    for b in range(len(predicted)):
        total, count = 0.0, 0
        for k in range(predicted.shape[1]):
            square = mask[b] * (predicted[b, k] - target[b, k]) ** 2
            total, count = total + square.sum(), count + square.numel()
        losses.append(total / count)
    return torch.stack(losses)


def looped_joints_mse(predicted, target, weights):
    """Mean over joints and cells of half the squared weighted error: (B,).

    predicted, target: (B, K, H, W)   weights: (B, K)
    """
    losses = []
    for b in range(len(predicted)):
        joints = []
        for k in range(predicted.shape[1]):
            error = weights[b, k] * (predicted[b, k] - target[b, k])
            joints.append(0.5 * (error**2).mean())
        losses.append(sum(joints) / len(joints))
    return torch.stack(losses)


# Associative embedding (Newell et al. 2017, section 3.2) ----------------------------------------


def looped_tag_loss(tags, cells, kind="exp"):
    """Pull and push of every image, each (B,).

    tags: (B, K * H * W)   cells: (B, N, K), -1 where a joint is not labelled
    """
    pulls, pushes = zip(*(_pull_and_push(*image, kind) for image in zip(tags, cells.tolist())))
    return torch.stack(pulls), torch.stack(pushes)


def _pull_and_push(tags, cells, kind):
    pull = push = tags[:0].sum()  # 0, with a gradient
    people = [[tags[cell] for cell in person if cell >= 0] for person in cells]
    people = [torch.stack(labelled) for labelled in people if labelled]
    for person in people:
        pull = pull + ((person - person.mean()) ** 2).mean() / len(people)
    if len(people) > 1:
        means = torch.stack([person.mean() for person in people])
        gap = means[:, None] - means
        closeness = torch.exp(-(gap**2)) if kind == "exp" else torch.relu(1 - gap.abs())
        pairs = len(people) * (len(people) - 1)
        push = 0.5 * (closeness.sum() - len(people)) / pairs  # each is as close as 1 to itself
    return pull, push


def image_tag_statistics(tags, cells, threshold):
    """Deviation, gap and share of close pairs of one image: tags (K * H * W,), cells (N, K)."""
    people = [[float(tags[cell]) for cell in row if cell >= 0] for row in cells.tolist()]
    deviations = [np.std(labelled) for labelled in people if len(labelled) > 1]
    means = [np.mean(labelled) for labelled in people if labelled]
    gaps = [abs(a - b) for a, b in itertools.combinations(means, 2)]
    close = [gap < threshold for gap in gaps]
    return [np.mean(each) if each else math.nan for each in (deviations, gaps, close)]


# SWAHR (Luo et al. 2021), cell by cell ----------------------------------------------------------


def scaled_value(drawn, alpha):
    """The target at one cell: the series of H^(1 + alpha) to the second order, and its slope.

    Nothing is drawn and nothing moves where H is 0.
    """
    if drawn == 0:
        return 0.0, 0.0
    log = math.log(drawn)
    value = drawn + drawn * log * alpha + drawn * log**2 * alpha**2 / 2
    return value, drawn * log + drawn * log**2 * alpha


def adaptive_value(predicted, drawn, gamma):
    """The weight at one cell (equation 13), and its slope in the prediction."""
    there = drawn**gamma
    value = there * abs(1 - predicted) + (1 - there) * abs(predicted)
    return value, there * np.sign(predicted - 1) + (1 - there) * np.sign(predicted)


class AdaptiveLosses(NamedTuple):
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
        a = a if h > 0 else 0.0  # a number whatever the network predicts there
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
    return AdaptiveLosses(heatmap, scale, *slopes)
