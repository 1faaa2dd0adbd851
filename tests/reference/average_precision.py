"""COCO's matching and counting of poses as loops: https://cocodataset.org/#keypoints-eval"""

import numpy as np


def similarity(one, result, sigmas):
    """OKS; of a person without a labelled joint, by the distance to twice the box."""
    truth = np.reshape(one["keypoints"], (-1, 3))
    found = np.reshape(result["keypoints"], (-1, 3))
    flags = truth[:, 2]
    if not (flags > 0).any():
        x, y, w, h = one["bbox"]
        truth = np.clip(found[:, :2], [x - w, y - h], [x + 2 * w, y + 2 * h])
        flags = np.ones(len(found))
    squared = ((truth[:, :2] - found[:, :2]) ** 2).sum(1)
    alike = np.exp(-squared / (2 * one["area"] * (2 * np.array(sigmas)) ** 2))
    return alike[flags > 0].mean()


def extent(result):
    """The area of the box about all joints."""
    joints = np.reshape(result["keypoints"], (-1, 3))[:, :2]
    return np.prod(joints.max(0) - joints.min(0))


def is_skipped(one, size):
    low, high = size
    return bool(one["iscrowd"] or one["num_keypoints"] == 0 or not low <= one["area"] <= high)


def match_image(people, found, like, threshold, size):
    """[pose, person or None] of the best twenty poses, best first; `like` gives the OKS of two."""
    order = sorted(range(len(people)), key=lambda i: is_skipped(people[i], size))
    taken, pairs = set(), []
    for result in sorted(found, key=lambda r: -r["score"])[:20]:
        best, match = threshold, None
        for i in order:
            if i in taken and not people[i]["iscrowd"]:
                continue
            if match is not None and is_skipped(people[i], size) > is_skipped(people[match], size):
                break
            if like(people[i], result) >= best:
                best, match = like(people[i], result), i
        taken.add(match)
        pairs.append([result, None if match is None else people[match]])
    return pairs


def hits_of_one_image(people, found, like, threshold, size):
    """(score, right?) of all found poses that count, and how many people do."""
    hits = []
    for result, person in match_image(people, found, like, threshold, size):
        area = result.get("area", extent(result))
        if person is None and size[0] <= area <= size[1]:
            hits.append((result["score"], False))
        elif person is not None and not is_skipped(person, size):
            hits.append((result["score"], True))
    return hits, sum(not is_skipped(one, size) for one in people)


def plain_figures(labels, results, sigmas, threshold, size):
    """(AP, AR) at one threshold."""

    def like(one, result):
        return similarity(one, result, sigmas)

    hits, total = [], 0
    for image in labels["images"]:
        people = [p for p in labels["annotations"] if p["image_id"] == image["id"]]
        found = [r for r in results if r["image_id"] == image["id"]]
        new, count = hits_of_one_image(people, found, like, threshold, size)
        hits, total = hits + new, total + count
    return average_precision(hits, total)


def average_precision(hits, total):
    """(AP, AR) of (score, right?) of all poses, and the number of people."""
    if not total:
        return -1.0, -1.0
    right, points = 0, []
    for seen, (_, hit) in enumerate(sorted(hits, reverse=True), 1):
        right += hit
        points.append((right / total, right / seen))
    levels = np.linspace(0, 1, 101)
    heights = [max((p for r, p in points if r >= level), default=0) for level in levels]
    return np.mean(heights), right / total
