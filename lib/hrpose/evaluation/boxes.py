"""Average precision of a detector's boxes of people, counted by pycocotools.

Source: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pycocotools.cocoeval import COCOeval

from hrpose.evaluation.coco import index_annotations
from hrpose.structures import PERSON


def box_ap(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Collection[int],
) -> float:
    """AP in 0..1, the mean over IoU .50:.05:.95 of the best 100 boxes of each of these images.

    people: annotations with a box; crowds are ignored as usual, people without a labelled joint
    count   detections: of the same category, in COCO's results format
    -1, as in pycocotools, where there is no person to detect; 0 where there are no detections.
    """
    listed = set(image_ids)
    labels = [
        {
            "id": number,  # from 1: a match with annotation 0 counts as none
            "image_id": person["image_id"],
            "category_id": PERSON,
            "bbox": person["bbox"],
            "area": person["bbox"][2] * person["bbox"][3],  # read, but every size counts
            "iscrowd": int(bool(person.get("iscrowd"))),
        }
        for number, person in enumerate(people, 1)
        if person["image_id"] in listed
    ]
    boxes = [{**each, "category_id": PERSON} for each in detections if each["image_id"] in listed]
    if not boxes:
        return 0.0 if not all(label["iscrowd"] for label in labels) else -1.0
    images, categories = [{"id": number} for number in listed], [{"id": PERSON}]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        truth = index_annotations(
            {"images": images, "annotations": labels, "categories": categories}
        )
        run = COCOeval(truth, truth.loadRes(boxes), "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, -1]  # (T, R, 1) of all sizes, 100 boxes an image
    known = precision[precision > -1]
    return float(known.mean()) if known.size else -1.0
