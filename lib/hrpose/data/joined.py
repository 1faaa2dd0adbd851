"""Several data sets as one: keypoints in the joints of another skeleton, and image files by set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hrpose.data.coco import ImageFiles, count_labelled


def map_keypoints(
    truth: Mapping[str, Any], category_id: int, index: Sequence[int]
) -> dict[str, Any]:
    """A copy of COCO annotations whose people have other joints, in another order.

    index: for each new joint the number of the old one, or -1, which leaves it unlabelled (0, 0, 0)
    num_keypoints, where it is stated and not 0, becomes the number of labelled new joints.
    """
    people = []
    for person in truth["annotations"]:
        if person["category_id"] == category_id and person.get("keypoints"):
            old = [*person["keypoints"], 0, 0, 0]  # so that -1 is the last joint
            new = [value for k in index for value in old[3 * k : 3 * k + 3 or None]]
            person = {**person, "keypoints": new}
            if person.get("num_keypoints"):
                person["num_keypoints"] = count_labelled(person)
        people.append(person)
    return {**truth, "annotations": people}


class JoinedImages:
    """The image files of several data sets, each file named `<set>/<its name in the set>`."""

    def __init__(self, sets: Mapping[str, ImageFiles]):
        """sets: by names without a slash"""
        self.sets = dict(sets)

    def read(self, file_name: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """See `ImageFiles.read`."""
        images, _, inner = file_name.partition("/")
        return self.sets[images].read(inner, size)

    def name(self, file_name: str) -> str:
        """The path for messages."""
        images, _, inner = file_name.partition("/")
        return self.sets[images].name(inner)
