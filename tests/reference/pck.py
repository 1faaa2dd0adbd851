"""PCKh person by person and joint by joint, as the benchmark's text has it."""

import math


def joint_types(people, best, joint_count, threshold):
    """(correct, labelled) of each type of joint.

    people: annotations that count   best: pose of each by its place in the list, or None
    """
    counts = [[0, 0] for _ in range(joint_count)]
    for person, pose in zip(people, best):
        for k in range(joint_count):
            x, y, flag = person["keypoints"][3 * k : 3 * k + 3]
            if not flag > 0:
                continue
            counts[k][1] += 1
            if pose is None or not any(pose["keypoints"][3 * k : 3 * k + 3]):
                continue
            dx, dy = pose["keypoints"][3 * k] - x, pose["keypoints"][3 * k + 1] - y
            if math.sqrt(dx * dx + dy * dy) / person["head_size"] <= threshold:
                counts[k][0] += 1
    return counts


def matched(truth, results):
    """People that count, and the pose of the highest score of each, or None."""
    people, best = [], []
    for image in truth["images"]:
        own = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        labelled = [one for one in own if any(flag > 0 for flag in one["keypoints"][2::3])]
        for index, person in enumerate(labelled):
            pose = None
            for result in results:
                same = result["image_id"] == image["id"] and result["box_index"] == index
                if same and (pose is None or result["score"] > pose["score"]):
                    pose = result
            if not person["iscrowd"]:
                people.append(person)
                best.append(pose)
    return people, best


def percentage(counts):
    correct, labelled = (sum(pair[i] for pair in counts) for i in (0, 1))
    return 100 * correct / labelled if labelled else -1.0


def mean(values):
    known = [value for value in values if value != -1]
    return sum(known) / len(known) if known else -1.0


def pckh(truth, results, joints):
    """All metrics of PCKhEvaluator by name."""
    people, best = matched(truth, results)
    published = [k for k, name in enumerate(joints) if name not in ("pelvis", "thorax")]

    def counted(threshold):
        return joint_types(people, best, len(joints), threshold)

    types = [percentage([pair]) for pair in counted(0.5)]
    figures = {"PCKh@.5": percentage([counted(0.5)[k] for k in published])}
    figures["Head"] = types[joints.index("head_top")]
    for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        both = [types[joints.index(f"{side}_{part}")] for side in ("left", "right")]
        figures[part.capitalize()] = mean(both)
    figures["PCKh@.5-16"] = percentage(counted(0.5))
    figures["PCKh@.5-plain-14"] = mean([types[k] for k in published])
    figures["PCKh@.5-plain-16"] = mean(types)
    for name, threshold in (("PCKh@.1", 0.1), ("PCKh@.11", 0.11)):
        figures[name] = percentage([counted(threshold)[k] for k in published])
    return figures
