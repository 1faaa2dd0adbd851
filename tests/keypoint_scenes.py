"""Random annotated scenes, and what a fair network finds in them; shared by several tests."""

import numpy as np

from hrpose.evaluation.coco import KeypointEvaluator
from hrpose.skeletons import COCO


def person(rng, number, image_id, joint_count):
    side = rng.uniform(20, 150)
    corner = rng.uniform(0, 400, 2)
    flags = rng.integers(0, 3, joint_count) * (rng.random() > 0.15)
    places = corner + rng.uniform(0, side, (joint_count, 2))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": int(rng.random() < 0.1),
        "num_keypoints": int((flags > 0).sum()),
        "keypoints": np.column_stack([places, flags]).ravel().tolist(),
        "bbox": [*corner.tolist(), side, side],
        "area": side**2,
    }


def scene(seed, skeleton=COCO, images=8):
    """Random annotations with crowds and unlabelled people, and what a fair network finds."""
    rng = np.random.default_rng(seed)
    count = len(skeleton.joints)
    owners = rng.integers(1, images, 22).tolist()  # image 0 shows no person
    people = [person(rng, 5 + n, owner, count) for n, owner in enumerate(owners)]
    labels = {
        "images": [{"id": n, "crowdIndex": n % 3 * 0.4} for n in range(images)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.joints)}],
        "annotations": people,
    }
    found = [shaken(rng, one) for one in people for _ in range(rng.integers(0, 3))]
    # More than the twenty poses that count, in one image.
    found += [shaken(rng, person(rng, 0, images - 1, count)) for _ in range(25)]
    return labels, found


def shaken(rng, one):
    joints = np.array(one["keypoints"]).reshape(-1, 3)
    joints = joints + rng.normal(0, rng.uniform(0, 0.15) * one["bbox"][2], joints.shape)
    return {
        "image_id": one["image_id"],
        "category_id": 1,
        "keypoints": joints.ravel().tolist(),
        "score": rng.random(),
    }


def as_results(labels):
    """The labelled people as if they had been found."""
    return [
        {**{field: p[field] for field in ("image_id", "category_id", "keypoints")}, "score": 0.5}
        for p in labels["annotations"]
        if p["num_keypoints"] > 0 and not p["iscrowd"]
    ]


def score(truth, results, skeleton=COCO, **options):
    """The figures of results in COCO's format."""
    evaluator = KeypointEvaluator(truth, skeleton, **options)
    evaluator.add_results(results)
    return evaluator.summarize()
