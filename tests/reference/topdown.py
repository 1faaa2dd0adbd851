"""Boxes to poses, one box at a time, joint by joint, as the papers' code."""

import math

import cv2
import numpy as np
import torch

from hrpose.structures import Poses
from reference.targets import decode_heatmaps


def crop_matrix(box, size, padding, convention, degrees=0.0):
    """(2, 3) from image pixels to those of the crop: its centre to the middle of the input."""
    x, y, width, height = (float(number) for number in box)
    centre = x + width / 2, y + height / 2
    aspect = size[0] / size[1]
    if width < aspect * height:
        width = aspect * height
    zoom = size[0] / (width * padding)
    edge = 0.5 if convention == "unbiased" else 0
    cos, sin = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    return np.array(
        [
            [cos, sin, size[0] / 2 - edge - cos * centre[0] - sin * centre[1]],
            [-sin, cos, size[1] / 2 - edge + sin * centre[0] - cos * centre[1]],
        ]
    )


def views_of(spec):
    """[(degrees, scale)]: all pairs, or of every pair one at least is 0 degrees or scale 1."""
    views = [(degrees, scale) for degrees in spec.rotations for scale in spec.scales]
    if spec.cross_views or len(spec.rotations) == 1 or len(spec.scales) == 1:
        return views
    return [(degrees, scale) for degrees, scale in views if degrees == 0 or scale == 1]


def mean_of_views(found):
    """(K, 3) of [(joints (K, 3) in the image, matrix to the crop, its size, its edge)], by joint.

    A view votes if its value is above 0 and its crop contains the joint, as all place it together;
    if there is none, those of a value above 0; if there is none either, all.
    """
    means = []
    for k in range(len(found[0][0])):
        total = sum(max(joints[k][2], 0) for joints, *_ in found)
        votes = []
        if total > 0:
            x, y = (sum(max(j[k][2], 0) * j[k][i] for j, *_ in found) / total for i in (0, 1))
            for joints, matrix, (width, height), edge in found:
                u, v = matrix @ [x, y, 1] + edge
                if joints[k][2] > 0 and 0 <= u <= width and 0 <= v <= height:
                    votes.append(joints[k])
            votes = votes or [joints[k] for joints, *_ in found if joints[k][2] > 0]
        votes = votes or [joints[k] for joints, *_ in found]
        means.append([sum(vote[i] for vote in votes) / len(votes) for i in range(3)])
    return np.array(means)


def mirrored_back(maps, flip_order, convention):
    """Maps (K, h, w) of the mirrored crop, as those of the crop itself."""
    back = np.zeros_like(maps)
    for k, row, column in np.ndindex(maps.shape):
        source = maps.shape[2] - 1 - column
        if convention == "hrnet" and column > 0:
            source += 1
        back[k, row, column] = maps[flip_order[k], row, source]
    return back


def rescored(box_score, values, threshold=0.2):
    counted = [value for value in values if value > threshold]
    return box_score * sum(counted) / len(counted) if counted else 0.0


def similarity_of(one, other, area, sigmas):
    """OKS of two poses (K, 2), of which all joints count."""
    terms = []
    for (x, y), (u, v), sigma in zip(one, other, sigmas):
        terms.append(math.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * area * (2 * sigma) ** 2)))
    return sum(terms) / len(terms)


class ReferenceTopDown:
    """The spec's options as the published code has them; missing joints are then set to 0."""

    def __init__(self, model, spec, *others):
        """others: (model, spec) of more networks, which are averaged with the first"""
        self.spec, self.members = spec, [(model.eval(), spec), *others]

    def __call__(self, image, boxes, box_scores):
        """[(joints (K, 3), score, index of the box)], best first"""
        people = []
        for index, (box, box_score) in enumerate(zip(boxes, box_scores)):
            found = []
            for model, spec in self.members:
                for degrees, scale in views_of(spec):
                    found.append(in_view(model, spec, image, box, degrees, scale))
            joints = mean_of_views(found)
            people.append((joints, rescored(box_score, joints[:, 2]), index))
        people = [person for person in people if person[1] >= self.spec.min_score]
        people.sort(key=lambda person: (-person[1], -box_scores[person[2]], person[2]))
        return [self.without_missing(*person) for person in self.suppressed(people, boxes)]

    def suppressed(self, people, boxes):
        """Those whose OKS with every better one that is kept is at most the threshold."""
        kept = []
        for joints, score, index in people:
            alike = [
                similarity_of(
                    better[:, :2],
                    joints[:, :2],
                    (self.area(boxes[other]) + self.area(boxes[index])) / 2,
                    self.spec.skeleton.sigmas,
                )
                for better, _, other in kept
            ]
            if self.spec.oks_nms >= 1 or all(each <= self.spec.oks_nms for each in alike):
                kept.append((joints, score, index))
        return kept

    def area(self, box):
        """Of the crop, in square image pixels; of several networks their mean."""
        areas = []
        for _, spec in self.members:
            matrix = crop_matrix(box, spec.input_size, spec.padding, spec.coordinates)
            areas.append(spec.input_size[0] * spec.input_size[1] / matrix[0, 0] ** 2)
        return sum(areas) / len(areas)

    def without_missing(self, joints, score, index):
        return np.where(joints[:, 2:] > 0, joints, 0), score, index


def in_view(model, spec, image, box, degrees, scale):
    """What `mean_of_views` takes of one crop."""
    matrix = crop_matrix(box, spec.input_size, spec.padding * scale, spec.coordinates, degrees)
    crop = cv2.warpAffine(image, matrix, spec.input_size, flags=cv2.INTER_LINEAR)
    rule = {"hrnet": "signed_quarter", "unbiased": "dark"}[spec.coordinates]
    maps = averaged_maps(model, spec, crop)
    (found,) = decode_heatmaps(maps[None], spec.stride, spec.coordinates, rule)
    place = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    joints = np.array([[*(place @ [x, y, 1])[:2], value] for x, y, value in found])
    return joints, matrix, spec.input_size, 0.5 if spec.coordinates == "unbiased" else 0


@torch.no_grad()
def averaged_maps(model, spec, crop):
    """(K, h, w) of one crop and its mirror image."""
    pixels = (crop.astype(np.float32) / 255 - np.float32(spec.mean)) / np.float32(spec.std)
    of_views = []
    for view in spec.views:
        shown = np.ascontiguousarray(pixels[:, ::-1] if view == "flip" else pixels)
        images = torch.from_numpy(shown).permute(2, 0, 1)[None].contiguous()
        maps = model(images)[-1].heatmaps[0].numpy()
        if view == "flip":
            maps = mirrored_back(maps, spec.skeleton.flip_order, spec.coordinates)
        of_views.append(maps)
    return np.mean(of_views, 0)


class ReferencePredictor:
    """The same, with the results of the package's predictor."""

    def __init__(self, predictor, model):
        self.reference = ReferenceTopDown(model, predictor.spec)

    def __call__(self, image, boxes, box_scores):
        people = self.reference(image, boxes, box_scores)
        count = len(self.reference.spec.skeleton.joints)
        joints = np.array([each[0] for each in people], np.float32).reshape(-1, count, 3)
        scores = np.array([each[1] for each in people], np.float32)
        indices = np.array([each[2] for each in people], int)
        return Poses(joints, scores, np.asarray(boxes)[indices], indices)
