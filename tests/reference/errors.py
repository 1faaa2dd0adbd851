"""Errors of joints and what they cost, person by person and joint by joint.

Source: Ronchi and Perona, ICCV 2017; the distance of corrections is that of OKS.
"""

import copy
import math

from reference.average_precision import (
    average_precision,
    extent,
    hits_of_one_image,
    is_skipped,
    match_image,
    similarity,
)

SIZE = (32**2, 1e10)
STAGES = ("found", "miss", "swap", "inversion", "jitter", "score", "background")


def ks(point, place, area, sigma):
    squared = (point[0] - place[0]) ** 2 + (point[1] - place[1]) ** 2
    return math.exp(-squared / (2 * area * (2 * sigma) ** 2))


def joint(one, k):
    return one["keypoints"][3 * k : 3 * k + 3]


def classify(people, person, pose, skeleton):
    """[kind, ks] of each joint; None where it is not labelled."""
    kinds = []
    for k, twin in enumerate(skeleton.flip_order):
        if joint(person, k)[2] == 0:
            kinds.append(None)
            continue
        best, kind = -1, None
        own = [(person, k, "own"), (person, twin, "inversion")]
        others = [other for other in people if other is not person and not other["iscrowd"]]
        for one, target, name in own + [(p, t, "swap") for p in others for t in (k, twin)]:
            if joint(one, target)[2] > 0:
                value = ks(joint(pose, k), joint(one, target), one["area"], skeleton.sigmas[k])
                best, kind = (value, name) if value > best else (best, kind)
        if best < 0.5:
            kind = "miss"
        elif kind == "own":
            kind = "good" if best >= 0.85 else "jitter"
        kinds.append([kind, best])
    return kinds


def images(labels, results):
    for image in labels["images"]:
        people = [p for p in labels["annotations"] if p["image_id"] == image["id"]]
        yield people, [r for r in results if r["image_id"] == image["id"]]


def all_errors(labels, results, skeleton):
    """[person, pose, kinds] of all matches at OKS .1."""
    matches = []
    for people, found in images(labels, results):
        like = lambda one, result: similarity(one, result, skeleton.sigmas)  # noqa: E731
        for pose, person in match_image(people, found, like, 0.1, SIZE):
            if person is not None and not is_skipped(person, SIZE):
                matches.append([person, pose, classify(people, person, pose, skeleton)])
    return matches


def move(person, pose, k, wanted, sigma):
    """Joint k of the pose straight towards the label, until its ks is `wanted`."""
    x, y, _ = joint(person, k)
    dx, dy = pose["keypoints"][3 * k] - x, pose["keypoints"][3 * k + 1] - y
    distance = 2 * sigma * math.sqrt(-2 * math.log(wanted) * person["area"])
    factor = distance / math.hypot(dx, dy)
    pose["keypoints"][3 * k : 3 * k + 2] = [x + factor * dx, y + factor * dy]


def rescore(labels, results, sigmas):
    for people, found in images(labels, results):
        for pose in found:
            pose["score"] = 0.0
            for one in people:
                if not is_skipped(one, SIZE):
                    pose["score"] = max(pose["score"], similarity(one, pose, sigmas))
        waiting = list(found)
        while waiting:
            best = max(waiting, key=lambda pose: pose["score"])
            waiting.remove(best)
            for other in waiting:
                other["score"] *= math.exp(-(pose_similarity(best, other, sigmas) ** 2) / 0.5)


def found_joints(pose):
    return [k for k in range(len(pose["keypoints"]) // 3) if joint(pose, k)[:2] != [0, 0]]


def found_area(pose):
    points = [joint(pose, k) for k in found_joints(pose)]
    sides = [max(p[i] for p in points) - min(p[i] for p in points) for i in (0, 1)]
    return sides[0] * sides[1]


def pose_similarity(best, other, sigmas):
    area = (found_area(best) + found_area(other)) / 2
    values = [ks(joint(other, k), joint(best, k), area, sigmas[k]) for k in found_joints(best)]
    return sum(values) / len(values)


def ap(labels, results, sigmas, threshold, with_background):
    like = lambda one, result: similarity(one, result, sigmas)  # noqa: E731
    hits, total = [], 0
    for people, found in images(labels, results):
        new, count = hits_of_one_image(people, found, like, threshold, SIZE)
        hits, total = hits + new, total + count
    return average_precision([hit for hit in hits if hit[1] or with_background], total)[0]


def ap_by_stage(labels, results, skeleton, threshold):
    """AP at one threshold as found, and after each correction in turn."""
    results = copy.deepcopy(results)
    for pose in results:
        pose["area"] = extent(pose)
    matches = all_errors(labels, results, skeleton)
    figures = {}
    for stage in STAGES:
        for person, pose, kinds in matches:
            for k, labelled in enumerate(kinds):
                if labelled and labelled[0] == stage:
                    wanted = {"miss": 0.5, "jitter": 0.85}.get(stage, labelled[1])
                    move(person, pose, k, wanted, skeleton.sigmas[k])
        if stage == "score":
            rescore(labels, results, skeleton.sigmas)
        figures[stage] = ap(labels, results, skeleton.sigmas, threshold, stage != "background")
    return figures
