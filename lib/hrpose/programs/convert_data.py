"""Annotations of a data set of another format as COCO JSON."""

from __future__ import annotations

import argparse
import os
from typing import Any

from hrpose.data.convert import mpii_annotations, read_mpii_truth
from hrpose.ops.atomic_io import read_json, write_json


def main(known: argparse.Namespace) -> None:
    if os.path.lexists(known.output):
        raise FileExistsError(f"{known.output} is there already; name a new file for --output")
    truth, notes = CONVERTERS[known.source](known)
    write_json(known.output, truth)
    labelled = sum(one["num_keypoints"] for one in truth["annotations"])
    people = f"{len(truth['annotations'])} people with {labelled} labelled joints"
    print("\n".join([f"{people} in {len(truth['images'])} images: {known.output}", *notes]))


def convert_mpii(known: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The annotations and what is to be known of them."""
    people = read_json(known.annotations, "annotations")
    if not isinstance(people, list) or not all(isinstance(each, dict) for each in people):
        raise ValueError(f"{known.annotations} is not a list of people, as MPII's annot/*.json are")
    if people and not any("joints" in each for each in people):
        raise ValueError(
            f"{known.annotations} has no joints: those of MPII's test split are not public; "
            "convert train, valid or trainval.json"
        )
    if not known.ground_truth:
        return mpii_annotations(people), [
            "no head sizes, for want of --ground-truth: to be trained on, not to be scored by PCKh"
        ]
    return mpii_annotations(people, read_mpii_truth(known.ground_truth)), []


CONVERTERS = {"mpii": convert_mpii}
"""--from -> the conversion"""
