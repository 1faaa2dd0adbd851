"""Boxes to poses, one box at a time, joint by joint, as the papers' code."""

import math

import cv2
import numpy as np
import torch

from hrpose.structures import Poses
from reference.targets import decode_heatmaps


def crop_matrix(box, size, padding, convention):
    """(2, 3) from image pixels to those of the crop: its centre to the middle of the input."""
    x, y, width, height = (float(number) for number in box)
    centre = x + width / 2, y + height / 2
    aspect = size[0] / size[1]
    if width < aspect * height:
        width = aspect * height
    zoom = size[0] / (width * padding)
    edge = 0.5 if convention == "unbiased" else 0
    shift = [side / 2 - edge - zoom * place for side, place in zip(size, centre)]
    return np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])


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

    def __init__(self, model, spec):
        self.model, self.spec = model.eval(), spec

    def __call__(self, image, boxes, box_scores):
        """[(joints (K, 3), score, index of the box)], best first"""
        spec, people = self.spec, []
        for index, (box, box_score) in enumerate(zip(boxes, box_scores)):
            matrix = crop_matrix(box, spec.input_size, spec.padding, spec.coordinates)
            crop = cv2.warpAffine(image, matrix, spec.input_size, flags=cv2.INTER_LINEAR)
            (found,) = self.decode(self.maps(crop)[None])
            place = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
            xy = [(place @ [x, y, 1])[:2] for x, y, _ in found]
            joints = np.column_stack([xy, found[:, 2]])
            people.append((joints, rescored(box_score, found[:, 2]), index))
        people = [person for person in people if person[1] >= spec.min_score]
        people.sort(key=lambda person: (-person[1], -box_scores[person[2]], person[2]))
        return [self.without_missing(*person) for person in self.suppressed(people, boxes)]

    @torch.no_grad()
    def maps(self, crop):
        """(K, h, w) of one crop, averaged over its views."""
        pixels = crop.astype(np.float32) / 255
        pixels = (pixels - np.float32(self.spec.mean)) / np.float32(self.spec.std)
        of_views = []
        for view in self.spec.views:
            shown = np.ascontiguousarray(pixels[:, ::-1] if view == "flip" else pixels)
            images = torch.from_numpy(shown).permute(2, 0, 1)[None].contiguous()
            maps = self.model(images)[-1].heatmaps[0].numpy()
            if view == "flip":
                order = self.spec.skeleton.flip_order
                maps = mirrored_back(maps, order, self.spec.coordinates)
            of_views.append(maps)
        return np.mean(of_views, 0)

    def decode(self, maps):
        rule = {"hrnet": "signed_quarter", "unbiased": "dark"}[self.spec.coordinates]
        return decode_heatmaps(maps, self.spec.stride, self.spec.coordinates, rule)

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
        """Of the crop, in square image pixels."""
        matrix = crop_matrix(box, self.spec.input_size, self.spec.padding, self.spec.coordinates)
        return self.spec.input_size[0] * self.spec.input_size[1] / matrix[0, 0] ** 2

    def without_missing(self, joints, score, index):
        return np.where(joints[:, 2:] > 0, joints, 0), score, index


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
