"""COCO's annotations, or poses with scores, as tasks that Label Studio imports.

The format is that of data/label_studio.py, which reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from hrpose.data.coco import single_people
from hrpose.data.label_studio import HIDDEN, IMAGE

BOX, JOINT, VISIBILITY = "person", "joint", "visibility"
"""Names of the tags in `labeling_config`, beside IMAGE."""

POINT_WIDTH = 0.5
"""Size of a point on the screen, in percent of the image's width."""


def label_studio_tasks(
    truth: Mapping[str, Any], category: Mapping[str, Any], prefix: str, field: str
) -> list[dict[str, Any]]:
    """COCO annotations, whose images have width and height, as tasks to import.

    prefix: what precedes the file names in URLs   field: `annotations` of a file of labels, or
    `predictions` of poses with a score
    Crowds and other categories are left out.
    """
    people: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for person in single_people(truth, category):
        people[person["image_id"]].append(person)
    tasks = []
    for image in truth["images"]:
        own = people[image["id"]]
        size = (image["width"], image["height"])
        regions = [
            region
            for n, person in enumerate(own)
            for region in _regions_of(person, category, size, f"p{n}")
        ]
        content: dict[str, Any] = {"result": regions}
        if scores := [person["score"] for person in own if "score" in person]:
            content |= {"score": float(np.mean(scores)), "model_version": "hrpose"}
        tasks.append({"data": {IMAGE: prefix + quote(image["file_name"])}, field: [content]})
    return tasks


def _regions_of(
    person: Mapping[str, Any], category: Mapping[str, Any], size: tuple[int, int], own: str
) -> Iterator[dict[str, Any]]:
    """The rectangle of a person, called `own`, its points, and which are hidden."""
    shared = {"to_name": IMAGE, "original_width": size[0], "original_height": size[1],
              "image_rotation": 0}  # fmt: skip
    x, y, w, h = (np.multiply(person["bbox"], 100) / [*size, *size]).tolist()
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
    score = {"score": person["score"]} if "score" in person else {}
    yield {
        "id": own,
        "type": "rectanglelabels",
        "from_name": BOX,
        **shared,
        **score,
        "value": {**value, "rectanglelabels": [category["name"]]},
    }
    joints = np.reshape(person.get("keypoints") or [], (-1, 3))
    percent = (joints[:, :2] * 100 / size).tolist()
    for k in np.flatnonzero(joints[:, 2] > 0).tolist():
        place = {"x": percent[k][0], "y": percent[k][1], "width": POINT_WIDTH}
        named = {"id": f"{own}_{k}", **shared}
        yield {
            **named,
            "type": "keypointlabels",
            "from_name": JOINT,
            "parentID": own,
            "value": {**place, "keypointlabels": [category["keypoints"][k]]},
        }
        if joints[k, 2] == 1:
            yield {
                **named,
                "type": "choices",
                "from_name": VISIBILITY,
                "value": {**place, "choices": [HIDDEN[0]]},
            }


def labeling_config(category: Mapping[str, Any]) -> str:
    """The labeling interface of a project, XML, in which the tasks of this module can be edited."""
    points = [
        f"    <Label value={quoteattr(joint)} model_index={quoteattr(str(k))}/>"
        for k, joint in enumerate(category["keypoints"])
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>',
            f'  <RectangleLabels name="{BOX}" toName="{IMAGE}" canRotate="false">',
            f"    <Label value={quoteattr(category['name'])}/>",
            "  </RectangleLabels>",
            f'  <KeyPointLabels name="{JOINT}" toName="{IMAGE}" strokeWidth="2">',
            *points,
            "  </KeyPointLabels>",
            f'  <Choices name="{VISIBILITY}" toName="{IMAGE}" choice="multiple" perRegion="true" '
            f'visibleWhen="region-selected" whenTagName="{JOINT}">',
            f'    <Choice value="{HIDDEN[0]}"/>',
            "  </Choices>",
            "</View>",
            "",
        ]
    )
