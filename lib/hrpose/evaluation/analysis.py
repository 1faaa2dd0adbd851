"""All that is known of a network's errors, as plain values: for errors.json, tables and reports."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.coco import Comparison, match_poses, mean_metric, pose_curves
from hrpose.evaluation.corrections import (
    KsDistance,
    correct_in_turn,
    drop_unmatched,
    ks_distance,
)
from hrpose.evaluation.curves import best_f1, group_images, image_errors, precision_recall
from hrpose.evaluation.errors import (
    ANALYZED_RANGES,
    KINDS,
    JointErrors,
    counted_people,
    find_grouping_errors,
    find_joint_errors,
    matched_pairs,
    matches_by_image,
)
from hrpose.skeletons import Skeleton

AP_THRESHOLDS = {"AP50": 0.5, "AP75": 0.75, "AP": None}
"""Name: OKS threshold, None for the mean over .50:.05:.95."""

LEFT = (0.5, 0.75)
"""OKS at which the poses and people are counted that no correction matches."""

Groups = dict[str, tuple[str, Collection[int]]]  # name: size of people, image ids


def analyze_errors(
    pair: Comparison, skeleton: Skeleton, distance: KsDistance = ks_distance
) -> dict[str, Any]:
    """Everything that errors.json holds; docs/methods.md has the definitions.

    joints:   joint -> kind -> how many
    groups:   all, medium, large, and `group_images` -> counts, kind -> how many, and ap: AP50, AP75
              and AP of the poses as `found`, and after each correction in turn
    left:     OKS -> background poses and missed people after all corrections of joints and scores
    grouping: GroupingErrors   curves: `precision_recall`   best_f1: at OKS .5
    matches:  [annotation, pose, initials of the joints' kinds; "." where not labelled], at OKS .1
    images:   image_errors at OKS .5
    Annotations and poses are numbered from 1 in their order: those of the category in the images
    that are listed, and those of the results.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        errors = find_joint_errors(pair, skeleton)
        found = match_poses(pair, ANALYZED_RANGES)
        everywhere: Groups = {size: (size, pair.image_ids) for size in ANALYZED_RANGES}
        groups = everywhere | {name: ("all", ids) for name, ids in group_images(pair).items()}
        images = image_errors(found, pair)
        return {
            "joints": {
                joint: count_kinds(errors.kinds[:, k]) for k, joint in enumerate(skeleton.joints)
            },
            **_by_stage(pair, errors, groups, _stages(found, pair, errors, distance)),
            "grouping": asdict(find_grouping_errors(pair, skeleton)),
            "curves": precision_recall(found, pair.image_ids),
            "best_f1": best_f1(found),
            "matches": _matches(errors),
            "images": [{**asdict(image), "error": image.error} for image in images],
        }


def count_kinds(kinds: np.ndarray) -> dict[str, int]:
    """How many joints there are of each kind."""
    return {kind: int((kinds == kind).sum()) for kind in KINDS}


def _matches(errors: JointErrors) -> list[list[Any]]:
    kinds = ["".join(kind[:1] or "." for kind in row) for row in errors.kinds]
    return [list(row) for row in zip(errors.people.tolist(), errors.poses.tolist(), kinds)]


def _by_stage(
    pair: Comparison, errors: JointErrors, groups: Groups, stages: Iterable[tuple[str, COCOeval]]
) -> dict[str, Any]:
    """`groups` and `left` of the analysis."""
    table = {name: _describe_group(pair, errors, *group) for name, group in groups.items()}
    left: dict[str, dict[str, int]] = {}
    for stage, run in stages:
        if stage == "score":
            places = {f"{value}": np.isclose(run.params.iouThrs, value).argmax() for value in LEFT}
            left = {value: _count_unmatched(run, int(place)) for value, place in places.items()}
        everywhere = pose_curves(run, pair.image_ids)
        for name, (size, image_ids) in groups.items():
            whole = image_ids is pair.image_ids
            curves = everywhere if whole else pose_curves(run, image_ids)
            table[name]["ap"][stage] = {
                metric: mean_metric(curves, "precision", threshold, size)
                for metric, threshold in AP_THRESHOLDS.items()
            }
    for group in table.values():  # with all people found, and nothing else, AP is 1
        before = group["ap"]["background"]
        group["ap"]["missed people"] = {key: 1.0 if ap >= 0 else ap for key, ap in before.items()}
    return {"groups": table, "left": left}


def _stages(
    found: COCOeval, pair: Comparison, errors: JointErrors, distance: KsDistance
) -> Iterator[tuple[str, COCOeval]]:
    """(what was corrected last, the matches then)"""
    yield "found", found
    for stage, corrected in correct_in_turn(pair, errors, distance):
        run = match_poses(corrected, ANALYZED_RANGES)
        yield stage, run
    drop_unmatched(run)
    yield "background", run


def _describe_group(
    pair: Comparison, errors: JointErrors, size: str, image_ids: Collection[int]
) -> dict[str, Any]:
    people = [one["id"] for each in image_ids for one in counted_people(pair, each, size)]
    kinds = errors.kinds[np.isin(errors.people, people)]
    counts = {"images": len(image_ids), "people": len(people), "matched": len(kinds)}
    return {**counts, "kinds": count_kinds(kinds), "ap": {}}


def _count_unmatched(run: COCOeval, threshold: int) -> dict[str, int]:
    images = matches_by_image(run)
    people = sum(int((each["gtIgnore"] == 0).sum()) for each in images)
    unmatched = [
        ((each["dtMatches"] == 0) & ~each["dtIgnore"].astype(bool))[threshold] for each in images
    ]
    missed = people - len(matched_pairs(run, threshold))
    return {"background": int(sum(map(np.sum, unmatched))), "missed": missed}
