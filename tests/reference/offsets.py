"""Discs and offsets, cell by cell: targets, decoding by votes and as published, flips, losses."""

import math

import cv2
import numpy as np
import torch


def true_place(x, y, stride, convention):
    """The place of network pixel x, y in the cells of a map, not rounded."""
    if convention == "hrnet":
        return x / stride, y / stride
    return (x + 0.5) / stride - 0.5, (y + 0.5) / stride - 0.5


def network_place(x, y, stride, convention):
    if convention == "hrnet":
        return x * stride, y * stride
    return (x + 0.5) * stride - 0.5, (y + 0.5) * stride - 0.5


def draw_discs(joints, size, stride, convention, radius):
    """Maps (B, 3K, H, W) and weights (B, K) of joints (B, K, 3); radius: cells."""
    count = joints.shape[1]
    maps = np.zeros((len(joints), 3 * count, *size))
    weights = np.zeros(joints.shape[:2])
    for b, k in np.ndindex(*joints.shape[:2]):
        x, y, label = (float(number) for number in joints[b, k])
        if label <= 0:
            continue
        weights[b, k] = 1
        x, y = true_place(x, y, stride, convention)
        for row, column in np.ndindex(*size):
            if (x - column) ** 2 + (y - row) ** 2 <= radius**2:
                maps[b, k, row, column] = 1
                maps[b, count + k, row, column] = (x - column) / radius
                maps[b, 2 * count + k, row, column] = (y - row) / radius
    return maps, weights


def decode_votes(maps, stride, convention, radius):
    """(B, K, 3): the mean vote of the cells within R of a disc's highest, weighted by heat."""
    count, (height, width) = maps.shape[1] // 3, maps.shape[2:]
    joints = np.zeros((len(maps), count, 3))
    for b, k in np.ndindex(len(maps), count):
        heat = maps[b, k].astype(float)
        row, column = divmod(int(heat.argmax()), width)
        if heat[row, column] <= 0:
            continue
        total = across = down = 0.0
        for i, j in np.ndindex(height, width):
            if heat[i, j] > 0 and (i - row) ** 2 + (j - column) ** 2 <= radius**2:
                total += heat[i, j]
                across += heat[i, j] * (j + radius * float(maps[b, count + k, i, j]))
                down += heat[i, j] * (i + radius * float(maps[b, 2 * count + k, i, j]))
        place = network_place(across / total, down / total, stride, convention)
        joints[b, k] = *place, heat[row, column]
    return joints


def decode_blurred(maps, stride, convention, radius):
    """(B, K, 3): the vote of a blurred disc's highest cell, its offsets blurred too."""
    count = maps.shape[1] // 3
    joints = np.zeros((len(maps), count, 3))
    for b, k in np.ndindex(len(maps), count):
        heat = cv2.GaussianBlur(maps[b, k], (15, 15), 0)
        x, y = (cv2.GaussianBlur(maps[b, n * count + k], (7, 7), 0) for n in (1, 2))
        row, column = divmod(int(heat.argmax()), heat.shape[1])
        if heat[row, column] > 0:
            across, down = column + radius * x[row, column], row + radius * y[row, column]
            place = network_place(across, down, stride, convention)
            joints[b, k] = *place, heat[row, column]
    return joints


def mirrored_discs_back(maps, order, radius, convention, stride):
    """Maps (3K, h, w) of the mirrored crop, as those of the crop: every cell votes as it did.

    In hrnet coordinates cells move right by one, the first column staying, and votes by the
    3 / 4 cells of a stride of 4 that the flip of a cell is off.
    """
    count, width = len(order), maps.shape[2]
    back = np.zeros_like(maps)
    for kind, k in np.ndindex(3, count):
        for row, column in np.ndindex(*maps.shape[1:]):
            source = width - 1 - column
            if convention == "hrnet" and column > 0:
                source += 1
            value = maps[kind * count + order[k], row, source]
            if kind == 1:
                vote = width - 1 - (source + radius * value)
                vote += (1 - 1 / stride) if convention == "hrnet" else 0
                value = (vote - column) / radius
            back[kind * count + k, row, column] = value
    return back


def looped_offset_loss(predicted, target, discs, kind):
    """(B,): the mean over joints and cells of half the errors in discs, along x and y together."""
    losses = []
    for b in range(len(predicted)):
        total, (joints, height, width) = 0.0, discs.shape[1:]
        for k in range(joints):
            for row in range(height):
                for column in range(width):
                    if discs[b, k, row, column] == 0:
                        continue
                    for kind_of in (k, joints + k):
                        error = abs(
                            predicted[b, kind_of, row, column] - target[b, kind_of, row, column]
                        )
                        square = error**2
                        if kind == "smooth_l1":
                            square = square / 2 if error < 1 else error - 0.5
                        total = total + 0.5 * square
        losses.append(total / math.prod((joints, height, width)))
    return torch.stack(losses)
