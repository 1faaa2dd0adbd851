"""The evaluator against published figures, a plain-loop AP, and laws; what it refuses."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from hrpose.evaluation import coco
from hrpose.evaluation.coco import (
    KeypointEvaluator,
    crowd_splits,
    crowdpose_evaluator,
    format_table,
)
from hrpose.evaluation.results import describe_results, match_images
from hrpose.skeletons import COCO, CROWDPOSE
from hrpose.structures import Poses, to_results
from keypoint_scenes import as_results, scene, score
from reference.average_precision import plain_figures

DATA = Path(__file__).parents[1].parent / "shared" / "data"
SIZES = {"": (0, 1e10), "-M": (32**2, 96**2), "-L": (96**2, 1e10)}
THRESHOLDS = np.linspace(0.5, 0.95, 10)

real_data = pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")


def load(name):
    return json.loads((DATA / name).read_text())


# figures of plain loops --------------------------------------------------------------------------


def plain_metrics(labels, results, sigmas):
    figures = {}
    for suffix, size in SIZES.items():
        curve = [plain_figures(labels, results, sigmas, t, size) for t in THRESHOLDS]
        figures |= {"AP" + suffix: np.mean(curve, 0)[0], "AR" + suffix: np.mean(curve, 0)[1]}
        if not suffix:
            figures |= {"AP50": curve[0][0], "AP75": curve[5][0]}
            figures |= {"AR50": curve[0][1], "AR75": curve[5][1]}
    return figures


# figures -----------------------------------------------------------------------------------------


@real_data
@pytest.mark.parametrize(
    "truth, found, name",
    [
        (
            "lightweight_openpose_val_subset_gt",
            "lightweight_openpose_detections",
            "lightweight_openpose vs its 250-image val_subset gt",
        ),
        (
            "faster_coco_eval_keypoints_gt_dataset",
            "faster_coco_eval_keypoints_dt_dataset",
            "faster_coco_eval keypoints (published, pycocotools reproduces exactly)",
        ),
    ],
)
def test_known_figures_to_the_last_bit(truth, found, name):
    expected = load("results/reference_metrics.json")[name]
    names = {"APm": "AP-M", "APl": "AP-L", "ARm": "AR-M", "ARl": "AR-L"}
    figures = score(load(f"results/{truth}.json"), load(f"results/{found}.json"))
    assert figures == {names.get(key, key): value for key, value in expected.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed):
    labels, found = scene(seed)
    figures = score(labels, found)
    assert 0.05 < figures["AP"] < 0.95
    assert figures == pytest.approx(plain_metrics(labels, found, COCO.sigmas), abs=1e-12)


def test_people_count_who_have_a_labelled_joint():
    """Whatever num_keypoints has; but 0 leaves them out, as in CrowdPose."""
    labels, _ = scene(3)
    people = [p for p in labels["annotations"] if p["num_keypoints"] and not p["iscrowd"]]
    perfect = as_results(labels)
    wanted = score(labels, perfect)
    assert wanted["AP"] == 1
    for person in labels["annotations"]:  # nobody labelled, and yet counted
        if not person["num_keypoints"]:
            person["num_keypoints"] = 17
    assert score(labels, perfect) == wanted
    missed = perfect[1:]
    people[0]["num_keypoints"] = 0
    assert score(labels, missed)["AP"] == 1


def test_crowdpose_equals_plain_loops_over_each_split():
    labels, found = scene(3, CROWDPOSE)
    evaluator = crowdpose_evaluator(labels, CROWDPOSE)
    evaluator.add_results(found)
    figures = evaluator.summarize()

    people = [{**p, "area": 0.53 * p["bbox"][2] * p["bbox"][3]} for p in labels["annotations"]]
    boxed = {**labels, "annotations": people}
    plain = plain_metrics(boxed, found, CROWDPOSE.sigmas)
    expected = {name: plain[name] for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")}
    for name, ids in crowd_splits(labels["images"]).items():
        some = {**boxed, "images": [{"id": number} for number in ids]}
        expected[f"AP-{name}"] = plain_metrics(some, found, CROWDPOSE.sigmas)["AP"]
    assert figures == pytest.approx(expected, abs=1e-12)
    assert list(figures) == list(expected)


@real_data
def test_crowdpose_labels_as_predictions_are_perfect():
    labels = load("crowdpose_subset/json/crowdpose_val_full_labels.json")
    splits = crowd_splits(labels["images"])
    assert [len(ids) for ids in splits.values()] == [411, 1240, 349]
    evaluator = crowdpose_evaluator(labels, CROWDPOSE)
    evaluator.add_results(as_results(labels))
    figures = evaluator.summarize()
    assert len(figures) == 9
    assert set(figures.values()) == {1.0}


# laws --------------------------------------------------------------------------------------------


def test_perfect_predictions_and_none_and_those_of_other_images():
    labels, _ = scene(4)
    perfect = as_results(labels)
    assert score(labels, perfect) == pytest.approx(dict.fromkeys(coco._METRICS, 1.0))
    assert score(labels, []) == dict.fromkeys(coco._METRICS, 0.0)
    wrong = [{**r, "image_id": (r["image_id"] + 3) % 8} for r in perfect]
    assert score(labels, wrong)["AP"] < 0.02


def test_crowdpose_without_predictions():
    labels, _ = scene(4, CROWDPOSE)
    assert set(crowdpose_evaluator(labels, CROWDPOSE).summarize().values()) == {0.0}


def test_only_the_order_of_scores_matters():
    labels, found = scene(5)
    squeezed = [{**r, "score": np.exp(3 * r["score"]) - 7} for r in found]
    assert score(labels, squeezed) == score(labels, found)
    reversed_ = [{**r, "score": -r["score"]} for r in found]
    assert score(labels, reversed_)["AP"] != score(labels, found)["AP"]


def test_annotation_ids_do_not_matter():
    labels, found = scene(6)
    people = [{**p, "id": 0} for p in labels["annotations"]]
    assert score({**labels, "annotations": people}, found) == score(labels, found)


def test_a_size_without_people_gives_minus_one():
    labels, found = scene(7)
    people = [p for p in labels["annotations"] if p["area"] < 96**2]
    figures = score({**labels, "annotations": people}, found)
    assert figures["AP-L"] == figures["AR-L"] == -1.0
    assert figures["AP-M"] > 0


def test_minus_one_does_not_enter_a_mean():
    labels, found = scene(7)
    evaluator = KeypointEvaluator(labels, COCO, metrics=lambda pair: mixed(pair))

    def mixed(pair):
        curves = coco.pose_curves(coco.match_poses(pair, coco.SIZE_RANGES), pair.image_ids)
        curves["precision"][:] = 0.5
        curves["precision"][3:] = -1
        return {"AP": coco.mean_metric(curves, "precision", None, "all")}

    assert evaluator.summarize() == {"AP": 0.5}


def test_split_bounds_belong_above_and_hard_is_open():
    indices = [0.0, 0.1, 0.19, 0.2, 0.79, 0.8, 1.0, 3.02]
    images = [{"id": n, "crowdIndex": index} for n, index in enumerate(indices)]
    assert crowd_splits(images) == {"easy": [0, 1, 2], "medium": [3, 4], "hard": [5, 6, 7]}
    assert crowd_splits(images, (0.1, 0.8))["easy"] == [0]
    with pytest.raises(ValueError, match="lower one first"):
        crowd_splits(images, (0.8, 0.2))
    with pytest.raises(ValueError, match="crowdIndex.*: 9"):
        crowd_splits([{"id": 9}])


def test_empty_splits_are_minus_one():
    labels, found = scene(8, CROWDPOSE)
    evaluator = crowdpose_evaluator(labels, CROWDPOSE, bounds=(-1, 9))
    evaluator.add_results(found)
    figures = evaluator.summarize()
    assert figures["AP-easy"] == figures["AP-hard"] == -1.0
    assert figures["AP-medium"] == figures["AP"]


def test_a_subset_of_images_counts_alone():
    labels, found = scene(9)
    chosen = {1, 2, 5}
    alone = {**labels, "images": [image for image in labels["images"] if image["id"] in chosen]}
    part = [r for r in found if r["image_id"] in chosen]
    assert score(labels, found, image_ids=chosen) == score(alone, part)
    assert score(labels, part)["AR"] < score(labels, part, image_ids=chosen)["AR"]


def test_printing_works_again_after_an_error(capsys):
    def fail(pair):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        KeypointEvaluator(scene(0)[0], COCO, metrics=fail).summarize()
    print("printed")
    assert capsys.readouterr().out == "printed\n"


def test_table():
    assert format_table({"AP": 0.67149, "AP-medium": 0.5}) == (
        "|    AP | AP-medium |\n| ----: | --------: |\n| 0.671 |     0.500 |"
    )


def test_every_minus_one_is_explained_below_the_table():
    names = ("AP", "AP-M", "AR-M", "AP-L", "AP-easy", "AP-medium", "AP-hard")
    lines = format_table(dict.fromkeys(names, -1.0)).splitlines()[3:]
    assert lines[0] == (
        "-1 of AP: the annotations have no people that count: all are crowds, or without labels"
    )
    assert lines[1].startswith("-1 of AP-M, AR-M: the annotations have no people of 32^2 to 96^2")
    assert [line.split(":")[0] for line in lines[2:]] == [
        "-1 of AP-L", "-1 of AP-easy", "-1 of AP-medium", "-1 of AP-hard",
    ]  # fmt: skip


# results of another numbering -------------------------------------------------------------------


def named(results, names):
    return [{**r, "file_name": names[r["image_id"]], "image_id": 1} for r in results]


@pytest.mark.parametrize("folder", ["", "C:\\photos\\", "some/folder/"])
def test_results_are_matched_by_file_name_where_ids_are_of_another_numbering(folder):
    labels, found = scene(18)
    images = [{**image, "file_name": f"val/{image['id']}.jpg"} for image in labels["images"]]
    names = {image["id"]: f"{folder}{image['id']}.jpg" for image in images}
    other = named(found, names)
    matched, renumbered = match_images(other, images)
    assert renumbered and [r["image_id"] for r in matched] == [r["image_id"] for r in found]
    assert score(labels, matched) == score(labels, found)
    right = [{**r, "file_name": names[r["image_id"]]} for r in found]
    assert match_images(right, images) == (right, False)
    assert match_images(found, images) == (found, False)


def test_a_name_that_is_of_no_image_or_of_two_is_refused():
    images = [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": "b/x.jpg"}]
    images.append({"id": 3, "file_name": "y.jpg"})
    for name in ("z.jpg", "x.jpg"):
        results = [{"image_id": 7, "file_name": "y.jpg"}, {"image_id": 1, "file_name": name}]
        if name == "x.jpg":
            results[1]["image_id"] = 3
        with pytest.raises(ValueError, match=f"another numbering.*remove it.*: {name}$"):
            match_images(results, images)
    whole = [{"image_id": 7, "file_name": "b/x.jpg"}]
    assert match_images(whole, images) == ([{"image_id": 2, "file_name": "b/x.jpg"}], True)


def test_what_was_scored_is_counted():
    poses = [{"image_id": i, "keypoints": [x]} for i, x in [(1, 0), (1, 0), (1, 2), (2, 0), (9, 0)]]
    assert describe_results(poses, {1, 2, 3}) == (
        "scored 4 poses in 2 of 3 images; 1 repeat another pose of their image exactly; "
        "1 are of images that are not scored"
    )


# annotations and results ----------------------------------------------------------------------


def test_poses_and_their_results_score_the_same():
    labels, found = scene(10)
    evaluator = KeypointEvaluator(labels, COCO)
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
    null = {**full, "annotations": [{**p, "iscrowd": None} for p in calm]}
    assert score(null, found) == score(full, found)


def test_boxes_of_results_count_only_where_all_have_one():
    labels, found = scene(13)
    tiny = [{**r, "bbox": [0, 0, 1, 1]} for r in found]
    assert score(labels, tiny)["AP-M"] > score(labels, found)["AP-M"]
    assert score(labels, [*tiny[:-1], found[-1]]) == score(labels, found)


def test_only_people_of_the_category_are_scored():
    labels, found = scene(14)
    animals = [{"id": 99, "image_id": 1, "category_id": 2, "keypoints": [1, 2, 2]}]
    both = {**labels, "annotations": animals + labels["annotations"]}
    assert score(both, found, category_id=1) == score(labels, found)
    labels, found = scene(14, CROWDPOSE)
    both = {**labels, "annotations": animals + labels["annotations"]}
    figures = []
    for truth in (both, labels):
        evaluator = crowdpose_evaluator(truth, CROWDPOSE)
        evaluator.add_results(found)
        figures.append(evaluator.summarize())
    assert figures[0] == figures[1]


def test_the_primary_metric_is_one_that_is_summarized():
    labels, found = scene(15)
    assert KeypointEvaluator.primary == "AP" and "AP" in score(labels, found)
    assert crowdpose_evaluator(labels, COCO).primary == "AP"


def test_wrong_image_lists_are_refused():
    labels, _ = scene(15)
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
        ({"image_id": 99}, "do not list.*: 99$"),
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
        (99, Poses(joints[:0], scores[:0]), "do not list"),
        (1, Poses(joints, scores), "added again"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluator.add(image_id, poses)
    assert len(evaluator.results) == 1
