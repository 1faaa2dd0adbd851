"""AI Challenger's score person by person, as the challenge defines it, on files of its format."""

import math

SIGMAS = (
    0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642,
    0.03686941, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
)  # fmt: skip


def oks(truth, box, pose):
    """truth: 42 numbers, visibility 1 visible, 2 hidden, 3 not labelled; box: two corners."""
    size, total, visible = (box[2] - box[0]) * (box[3] - box[1]), 0.0, 0
    for k, sigma in enumerate(SIGMAS):
        x, y, flag = truth[3 * k : 3 * k + 3]
        if flag != 1:
            continue
        visible += 1
        dx, dy = pose[3 * k] - x, pose[3 * k + 1] - y
        total += math.exp(-(dx * dx + dy * dy) / (2 * (2 * sigma) ** 2 * (size + 1)))
    return total / visible if visible else 0.0


def score(entries, predictions):
    """(mean over thresholds, share at .5, share at .75); -1 where nobody is annotated."""
    thresholds = [(50 + 5 * i) / 100 for i in range(10)]
    hits, count, people = [0] * 10, 0, 0
    for entry in entries:
        own = [p for p in predictions if p["image_id"] == entry["image_id"]]
        poses = list(own[0]["keypoint_annotations"].values()) if own else []
        truth = entry["keypoint_annotations"]
        people += len(truth)
        count += max(len(truth), len(poses))
        for human, joints in truth.items():
            best = 0.0
            for pose in poses:
                best = max(best, oks(joints, entry["human_annotations"][human], pose))
            for i, threshold in enumerate(thresholds):
                hits[i] += best > threshold
    if not people:
        return -1.0, -1.0, -1.0
    return sum(hits) / 10 / count, hits[0] / count, hits[5] / count
