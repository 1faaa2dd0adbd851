"""What goes into the evaluator: completed where it can be, refused where it is wrong."""

import copy
import json

import numpy as np
import pytest

from hrpose.evaluation.keypoints import KeypointEvaluator, crowdpose_evaluator
from hrpose.skeletons import COCO, CROWDPOSE, from_category
from hrpose.structures import Poses, to_results
from keypoint_scenes import scene, score


def test_poses_and_their_results_score_the_same(tmp_path):
    labels, found = scene(10)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(labels))
    evaluator = KeypointEvaluator(file, COCO)
    for image in labels["images"]:
        own = [r for r in found if r["image_id"] == image["id"]]
        joints = np.reshape([r["keypoints"] for r in own], (len(own), 17, 3)).astype(np.float32)
        scores = np.array([r["score"] for r in own], dtype=np.float32)
        evaluator.add(image["id"], Poses(joints, scores))
    figures = evaluator.summarize()
    assert figures == pytest.approx(score(labels, found), abs=1e-3)
    assert figures == score(labels, json.loads(json.dumps(evaluator.results)))
    assert figures == evaluator.summarize()


def test_results_hold_plain_numbers():
    poses = Poses(np.full((2, 17, 3), 1.5, np.float32), np.array([0.5, 0.25], np.float32))
    results = to_results(np.int64(7), poses, 1)
    assert [r["score"] for r in json.loads(json.dumps(results))] == [0.5, 0.25]
    assert results[0]["keypoints"] == [1.5] * 51
    assert to_results(7, Poses(poses.joints[:0], poses.scores[:0]), 1) == []


def test_the_callers_data_stays_as_it_was_and_nothing_is_printed(capsys):
    labels, found = scene(11, CROWDPOSE)
    before = copy.deepcopy((labels, found))
    crowd = crowdpose_evaluator(labels, CROWDPOSE)
    crowd.add_results(found)
    crowd.summarize()
    score(labels, found, CROWDPOSE)
    assert (labels, found) == before
    assert capsys.readouterr().out == ""


def test_absent_fields_are_completed():
    labels, found = scene(12)
    calm = [{**p, "iscrowd": 0} for p in labels["annotations"]]
    full = {**labels, "annotations": calm}
    bare = copy.deepcopy(full)
    for one in bare["annotations"]:
        if one.pop("num_keypoints") == 0:
            del one["keypoints"]
        del one["iscrowd"]
    assert score(bare, found) == score(full, found)


def test_boxes_of_results_count_only_where_all_have_one():
    labels, found = scene(13)
    tiny = [{**r, "bbox": [0, 0, 1, 1]} for r in found]
    assert score(labels, tiny)["AP-M"] > score(labels, found)["AP-M"]
    assert score(labels, [*tiny[:-1], found[-1]]) == score(labels, found)


def test_category_is_found_by_its_joints():
    labels, found = scene(14)
    others = [{"id": 2, "keypoints": ["tail", "head"]}, {"id": 3}]
    both = {**labels, "categories": labels["categories"] + others}
    assert score(both, found, category_id=1) == score(labels, found)
    two = from_category(others[0])
    assert KeypointEvaluator({**both, "categories": others[:1]}, two).category_id == 2
    with pytest.raises(ValueError, match="one category of 17 joints"):
        KeypointEvaluator(both, COCO)
    with pytest.raises(ValueError, match="one category of 14 joints.*1: 17"):
        KeypointEvaluator(labels, CROWDPOSE)
    labels["categories"][0]["keypoints"].reverse()
    with pytest.raises(ValueError, match="orders its joints"):
        KeypointEvaluator(labels, COCO)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"area": None}, "0.53.*'area' in annotations: 7"),
        ({"bbox": None}, "'bbox' in annotations: 7"),
        ({"area": 0, "num_keypoints": 3}, "every OKS 0.*: 7"),
        ({"area": float("nan")}, "must be finite.*: 7"),
        ({"keypoints": [1, 2, 2]}, "of 17 joints.*: 7"),
    ],
)
def test_wrong_annotations_are_refused(change, message):
    labels, _ = scene(15)
    labels["annotations"][2] |= change
    with pytest.raises(ValueError, match=message):
        KeypointEvaluator(labels, COCO)


def test_wrong_files_and_image_lists_are_refused():
    labels, _ = scene(15)
    with pytest.raises(ValueError, match="categories"):
        KeypointEvaluator({"images": [], "annotations": []}, COCO)
    with pytest.raises(ValueError, match="do not have: 99"):
        KeypointEvaluator(labels, COCO, image_ids=[1, 99])
    with pytest.raises(ValueError, match="empty"):
        KeypointEvaluator(labels, COCO, image_ids=[])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"score": float("nan")}, "must be finite.*: 1$"),
        ({"keypoints": [float("inf")] * 51}, "must be finite.*: 1$"),
        ({"keypoints": [0.0] * 42}, "of 17 joints.*: 1$"),
        ({"category_id": 2}, "category_id 1.*: 2$"),
        ({"image_id": 99}, "own split.*: 99$"),
    ],
)
def test_wrong_results_are_refused(change, message):
    labels, found = scene(16)
    found[1] |= change
    with pytest.raises(ValueError, match=message):
        score(labels, found)


def test_incomplete_results_are_refused_with_a_count():
    labels, found = scene(16)
    bare = [{"image_id": 1} for _ in range(9)]
    with pytest.raises(ValueError, match="needs image_id.*: 0, 1, 2, 3, 4 and 4 more"):
        score(labels, bare + found)


def test_wrong_poses_are_refused():
    evaluator = KeypointEvaluator(scene(17)[0], COCO)
    joints, scores = np.zeros((1, 17, 3)), np.ones(1)
    evaluator.add(1, Poses(joints, scores))
    for image_id, poses, message in [
        (2, Poses(joints * np.nan, scores), "finite"),
        (2, Poses(np.zeros((1, 17, 4)), scores), "17 joints"),
        (2, Poses(joints, np.ones(2)), "zip"),
        (99, Poses(joints[:0], scores[:0]), "own split"),
        (1, Poses(joints, scores), "came again"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluator.add(image_id, poses)
    assert len(evaluator.results) == 1
