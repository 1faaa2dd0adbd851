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


def box_ap(
    people: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Collection[int],
) -> float:
    """AP in 0..1, the mean over IoU .50:.05:.95 of the best 100 boxes of each of these images.

    people: annotations with a box, of one category; crowds are ignored as usual, people without a
    labelled joint count   detections: in COCO's results format, of that category
    -1, as in pycocotools, where there is nobody to detect; 0 where there are no detections.
    """
    labels = [
        {
            **{field: person[field] for field in ("image_id", "category_id", "bbox")},
            "id": number,  # from 1: a match with annotation 0 counts as none
            "area": person["bbox"][2] * person["bbox"][3],  # read, but every size counts
            "iscrowd": int(bool(person.get("iscrowd"))),
        }
        for number, person in enumerate(people, 1)
    ]
    if all(label["iscrowd"] for label in labels):
        return -1.0
    if not detections:
        return 0.0
    images = [{"id": number} for number in image_ids]
    categories = [{"id": number} for number in {label["category_id"] for label in labels}]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        truth = index_annotations(
            {"images": images, "annotations": labels, "categories": categories}
        )
        run = COCOeval(truth, truth.loadRes([dict(each) for each in detections]), "bbox")
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, -1]  # (T, R, 1) of all sizes, 100 boxes an image
    return float(precision[precision > -1].mean())
