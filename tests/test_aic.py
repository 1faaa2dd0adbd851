"""AI Challenger: its conversion to COCO JSON, and its score against a plain loop and laws."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from commands import ROOT, SMALL, run
from hrpose.builders.datasets import build_evaluator, build_skeleton, read_annotations
from hrpose.config import load_config
from hrpose.data.coco import load_annotations
from hrpose.data.convert_aic import aic_annotations
from hrpose.evaluation.aic import AICEvaluator, best_visible_oks
from hrpose.evaluation.coco import KeypointEvaluator, format_table
from hrpose.programs.ablation_tables import reported_metrics
from hrpose.skeletons import AIC, COCO, from_category
from reference.aic import SIGMAS
from reference.aic import oks as plain_oks
from reference.aic import score as plain_score

SAMPLE = Path(__file__).parents[1].parent / "shared" / "data" / "samples" / "aic"
CONFIGS = ROOT / "configs" / "aic"
K = len(AIC.joints)

real_data = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no AIC sample in ../shared/data")


# scenes ------------------------------------------------------------------------------------------


def entry(name, people, boxes):
    humans = [f"human{n}" for n in range(len(people), 0, -1)]
    flat = [np.ravel(one).tolist() for one in people]
    return {
        "image_id": name,
        "keypoint_annotations": dict(zip(humans, flat)),
        "human_annotations": dict(zip(humans, boxes)),
    }


def scene(seed):
    """Labels and predictions in the challenge's format: images of nobody, poses too many, none."""
    rng = np.random.default_rng(seed)
    labels, found = [], []
    for number in range(8):
        people, boxes, poses = [], [], []
        for _ in range(rng.integers(0, 4)):
            flags = rng.integers(1, 4, K) if rng.random() < 0.8 else rng.integers(2, 4, K)
            places = rng.integers(1, 300, (K, 2)) * (flags < 3)[:, None]
            people.append(np.column_stack([places, flags]))
            left, top = rng.integers(0, 100, 2).tolist()
            boxes.append([left, top, left + int(rng.integers(50, 400)), top + 300])
            for _ in range(rng.integers(0, 3)):
                moved = places + rng.normal(0, rng.choice([0, 1, 6, 20]), (K, 2))
                poses.append(np.column_stack([moved, np.ones(K)]))
        labels.append(entry(f"{number:040x}", people, boxes))
        if not people and rng.random() < 0.5:
            poses.append(rng.integers(0, 300, (K, 3)))
        if poses or rng.random() < 0.5:  # else the image is not in the file
            found.append(entry(f"{number:040x}", poses, []))
    return labels, found


def results_of(found, truth, rng):
    """The challenge's predictions as COCO's results, in any order and with any scores."""
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    poses = [
        {
            "image_id": ids[f"{each['image_id']}.jpg"],
            "category_id": 1,
            "keypoints": joints,
            "score": rng.random(),
        }
        for each in found
        for joints in each["keypoint_annotations"].values()
    ]
    return [poses[n] for n in rng.permutation(len(poses))]


def score(labels, found, seed=0, **options):
    truth = aic_annotations(labels)
    evaluator = AICEvaluator(truth, AIC, **options)
    evaluator.add_results(results_of(found, truth, np.random.default_rng(seed)))
    return evaluator.summarize()


def own(figures):
    return [figures[name] for name in ("AIC-AP", "AIC-AP50", "AIC-AP75")]


def one_person(flags=(1,) * K, places=100):
    joints = np.column_stack([np.full((K, 2), places), flags])
    return entry("a", [joints], [[0, 0, 400, 400]])


def poses(*people):
    return [entry("a", people, [])]


RIGHT = np.column_stack([np.full((K, 2), 100), np.ones(K)])
FAR = RIGHT + [5000, 0, 0]

# The score ---------------------------------------------------------------------------------------


def test_the_tolerances_are_the_challenges():
    assert AIC.sigmas == SIGMAS


@pytest.mark.parametrize("seed", range(12))
def test_it_counts_as_a_plain_loop(seed):
    labels, found = scene(seed)
    expected = plain_score(labels, found)
    assert own(score(labels, found)) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected[0] < 0.9


@pytest.mark.parametrize("seed", range(4))
def test_every_oks_is_that_of_the_formula(seed):
    """Also where the box is so small that its area + 1 is not its area."""
    rng = np.random.default_rng(seed)
    labels, poses = rng.integers(0, 9, (2, 5, K, 3)).astype(float)
    labels[..., 2] = rng.integers(1, 4, (5, K))
    labels[0, :, 2] = 2
    corners = np.hstack(
        [np.zeros((5, 2)), rng.integers(0, 40, (5, 2)) * (np.arange(5) > 1)[:, None]]
    )
    ours = labels.copy()
    ours[..., 2] = np.array([0, 2, 1, 0])[labels[..., 2].astype(int)]
    found = best_visible_oks(ours, poses, corners, SIGMAS)
    pairs = list(zip(labels.reshape(5, -1).tolist(), corners.tolist()))
    flat = poses.reshape(5, -1).tolist()
    expected = [max(plain_oks(truth, box, pose) for pose in flat) for truth, box in pairs]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == 0 and 0 < found[1] < 1


def test_tables_of_ablations_show_metrics_that_there_are():
    assert {*reported_metrics("aic")} < {*score([one_person()], [])}
    assert reported_metrics("aic")[0] == AICEvaluator.primary


def test_order_and_scores_of_poses_change_nothing():
    labels, found = scene(3)
    assert own(score(labels, found, seed=1)) == own(score(labels, found, seed=2))


@pytest.mark.parametrize("seed", range(3))
def test_labels_as_predictions_score_1_less_people_without_a_visible_joint(seed):
    labels, _ = scene(seed)
    people = [p for each in labels for p in each["keypoint_annotations"].values()]
    visible = sum(1 in person[2::3] for person in people)
    assert own(score(labels, labels)) == pytest.approx([visible / len(people)] * 3)


def test_joints_that_are_hidden_or_not_labelled_do_not_count():
    labels = [one_person([1] * 5 + [2] * 5 + [3] * 4)]
    moved = RIGHT.copy()
    moved[5:] += 5000
    assert own(score(labels, poses(moved))) == [1, 1, 1]
    moved[0] += 5000
    assert own(score(labels, poses(moved)))[0] == pytest.approx(0.6)  # 4 of 5: .5 to .75


def test_an_oks_equal_to_the_threshold_does_not_count():
    labels = [one_person([1, 1] + [2] * 12)]
    half = RIGHT.copy()
    half[0] += 5000
    truth = np.reshape(labels[0]["keypoint_annotations"]["human1"], (1, K, 3))
    truth = truth * [1, 1, 0] + (truth[..., 2:] == 1) * [0, 0, 2]
    assert best_visible_oks(truth, half[None], np.array([[0, 0, 400, 400]]), SIGMAS) == 0.5
    assert own(score(labels, poses(half))) == [0, 0, 0]


def test_one_pose_may_serve_two_people_and_poses_too_many_cost():
    twice = entry("a", [RIGHT, RIGHT], [[0, 0, 400, 400]] * 2)
    assert own(score([twice], poses(RIGHT))) == [1, 1, 1]
    assert own(score([twice], poses(RIGHT, FAR, FAR, FAR))) == [0.5, 0.5, 0.5]
    assert own(score([twice], poses())) == own(score([twice], [])) == [0, 0, 0]


def test_poses_in_an_image_of_nobody_cost_too():
    labels = [one_person(), entry("b", [], [])]
    assert own(score(labels, poses(RIGHT))) == [1, 1, 1]
    beside = [*poses(RIGHT), entry("b", [FAR], [])]
    assert own(score(labels, beside)) == [0.5, 0.5, 0.5]


def test_a_larger_box_forgives_more_and_none_forgives_less():
    found = poses(RIGHT + [6, 0, 0])
    figures = []
    for side in (0, 200, 4000):
        labels = [one_person()]
        labels[0]["human_annotations"]["human1"] = [0, 0, side, side]
        truth = aic_annotations(labels)
        evaluator = AICEvaluator(truth, AIC)
        evaluator.add_results(results_of(found, truth, np.random.default_rng(0)))
        figures.append(evaluator.summarize()["AIC-AP"])
    assert figures[0] == 0 and figures[0] < figures[1] < figures[2] == 1


@pytest.mark.parametrize("labels", [[entry("a", [], [])], []])
def test_without_people_every_metric_is_minus_one_and_named(labels):
    figures = score(labels, poses(FAR) if labels else [])
    assert set(figures.values()) == {-1.0}
    assert "no people that count" in format_table(figures)


def test_crowds_do_not_count():
    truth = aic_annotations([entry("a", [RIGHT, FAR], [[0, 0, 400, 400]] * 2)])
    truth["annotations"][1]["iscrowd"] = 1
    evaluator = AICEvaluator(truth, AIC)
    evaluator.add_results(results_of(poses(RIGHT), truth, np.random.default_rng(0)))
    assert own(evaluator.summarize()) == [1, 1, 1]


def test_only_the_chosen_images_count():
    labels, found = scene(0)
    expected = plain_score(labels[2:4], found)
    assert own(score(labels, found, image_ids=[4, 3])) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("place", [0, 2, -1])
def test_nan_is_refused_and_nothing_is_kept(place):
    truth = aic_annotations([one_person()])
    evaluator = AICEvaluator(truth, AIC)
    results = results_of(poses(RIGHT, RIGHT), truth, np.random.default_rng(0))
    results[1]["keypoints"] = [*results[1]["keypoints"]]
    results[1]["keypoints"][place] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        evaluator.add_results(results)
    assert evaluator.results == []


def test_cocos_ap_has_another_name_and_areas_from_the_boxes():
    labels, found = scene(5)
    truth = aic_annotations(labels)
    for one in truth["annotations"]:
        assert one["area"] == pytest.approx(0.53 * one["bbox"][2] * one["bbox"][3])
    results = results_of(found, truth, np.random.default_rng(0))
    coco = KeypointEvaluator(truth, AIC)
    coco.add_results(results)
    expected = coco.summarize()
    outlined = copy.deepcopy(truth)
    for one in outlined["annotations"]:
        one["area"] = 1.0
    evaluator = AICEvaluator(outlined, AIC)
    evaluator.add_results(results)
    figures = evaluator.summarize()
    assert {name: figures[f"COCO-{name}"] for name in ("AP", "AP50", "AP75", "AR")} == {
        name: expected[name] for name in ("AP", "AP50", "AP75", "AR")
    }
    assert "AP" not in figures and evaluator.primary == "AIC-AP" in figures
    assert figures["AIC-AP"] != figures["COCO-AP"]


def test_other_skeletons_are_refused():
    with pytest.raises(ValueError, match="DATASET.SKELETON to aic.*nose"):
        AICEvaluator(aic_annotations([]), COCO)
    with pytest.raises(ValueError, match="tolerances"):
        AICEvaluator(aic_annotations([]), from_category({"keypoints": AIC.joints}))


# Conversion --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_conversion_loses_nobody_and_can_be_undone(seed):
    labels, _ = scene(seed)
    truth = aic_annotations([{**each, "url": f"http://{n}"} for n, each in enumerate(labels)])
    assert [one["id"] for one in truth["annotations"]] == [*range(1, 1 + len(truth["annotations"]))]
    for n, (image, source) in enumerate(zip(truth["images"], labels, strict=True)):
        assert image == {
            "id": n + 1, "file_name": f"{source['image_id']}.jpg", "url": f"http://{n}"
        }  # fmt: skip
        people = [one for one in truth["annotations"] if one["image_id"] == n + 1]
        back, boxes = {}, {}
        for one in people:
            joints = np.reshape(one["keypoints"], (K, 3))
            assert one["num_keypoints"] == (joints[:, 2] > 0).sum()
            joints[:, 2] = np.array([3, 2, 1])[joints[:, 2].astype(int)]
            back[one["human"]] = joints.ravel().tolist()
            x, y, w, h = one["bbox"]
            boxes[one["human"]] = [x, y, x + w, y + h]
        assert back == source["keypoint_annotations"] and boxes == source["human_annotations"]
    skeleton = from_category(truth["categories"][0])
    assert (skeleton.joints, skeleton.flip_order) == (AIC.joints, AIC.flip_order)
    assert set(skeleton.limbs) == set(AIC.limbs)


def test_places_of_joints_that_are_not_labelled_are_dropped():
    [one] = aic_annotations([one_person([3] + [1] * 13)])["annotations"]
    assert one["keypoints"][:3] == [0, 0, 0] and one["num_keypoints"] == 13


def changed(field, human=None, value=None):
    each = one_person()
    each[field] = {**each[field], "human1": value} if human else value
    return each


HUGE = 10**400


@pytest.mark.parametrize(
    "bad, message",
    [
        (changed("image_id", value=7), r"1 entries whose image_id is not a text \(0\)"),
        (changed("image_id", value=""), "image_id is not a text"),
        (changed("keypoint_annotations", value=None), r"not of the same people \(a\)"),
        (changed("keypoint_annotations", value=[]), "not of the same people"),
        (changed("human_annotations", value={}), "not of the same people.*results have no boxes"),
        (changed("keypoint_annotations", True, [1] * 41), r"not 42 finite numbers \(a human1\)"),
        (changed("keypoint_annotations", True, ["1"] * 42), "not 42 finite"),
        (changed("keypoint_annotations", True, [True] * 42), "not 42 finite"),
        (changed("keypoint_annotations", True, [float("nan")] * 42), "not 42 finite"),
        (changed("keypoint_annotations", True, [HUGE, 1, 1] * 14), "not 42 finite"),
        (changed("keypoint_annotations", True, None), "not 42 finite"),
        (changed("keypoint_annotations", True, [1, 1, 0] * 14), "visibility other than 1"),
        (changed("keypoint_annotations", True, [1, 1, 4] * 14), r"visibility.*\(a human1\)"),
        (changed("keypoint_annotations", True, [1, 1, 1.5] * 14), "visibility other"),
        (changed("human_annotations", True, [1, 2, 3]), "box corners are not 4 finite"),
        (changed("human_annotations", True, [9, 2, 3, 4]), "not left, top, right, bottom"),
        (changed("human_annotations", True, [1, 9, 3, 4]), r"left, top.*\(a human1\)"),
    ],
)
def test_entries_that_are_none_are_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=message):
        aic_annotations([bad])


def test_an_image_that_is_listed_twice_is_refused():
    with pytest.raises(ValueError, match=r"listed more than once \(a\)"):
        aic_annotations([one_person(), one_person()])


# The official sample -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    """Labels of 1,000 images and the predictions of 997 of them, as the challenge published them.

    Three more predictions are of images without labels, which its program passes over.
    """
    names = ("keypoint_annotations_example.json", "keypoint_predictions_example.json")
    labels, found = (json.loads((SAMPLE / name).read_text()) for name in names)
    known = {each["image_id"] for each in labels}
    found = [each for each in found if each["image_id"] in known]
    assert (len(labels), len(found)) == (1000, 997)
    return labels, found


@real_data
def test_the_published_score_of_the_official_example(sample, tmp_path):
    labels, found = sample
    path = tmp_path / "annotations" / "aic_validation.json"
    said = run(
        *("convert_data", "--from", "aic"),
        *("--annotations", SAMPLE / "keypoint_annotations_example.json", "--output", path),
    )
    assert said.startswith("2761 people with 32736 labelled joints in 1000 images")
    assert "joints: 5918 not labelled (0), 8578 hidden (1), 24158 visible (2)" in said
    overrides = ["DATASET.ROOT", str(tmp_path)]
    config = load_config(CONFIGS / "hrnet_w32_256x192.yaml", overrides)
    assert build_skeleton(config) == AIC
    truth = read_annotations(config, "validation")
    evaluator = build_evaluator(config, truth)
    evaluator.add_results(results_of(found, truth, np.random.default_rng(0)))
    figures = evaluator.summarize()
    assert own(figures) == pytest.approx([0.9967403114813471] * 3, abs=1e-9)
    assert figures["AIC-AP"] == pytest.approx(2752 / 2761, abs=1e-15)
    assert evaluator.primary == "AIC-AP"


@real_data
@pytest.mark.parametrize("seed", range(3))
def test_perturbed_predictions_of_the_example_score_as_a_plain_loop(sample, seed):
    labels, found = (copy.deepcopy(part[:150]) for part in sample)
    rng = np.random.default_rng(seed)
    for each in found:
        people = each["keypoint_annotations"]
        for human, joints in list(people.items()):
            moved = np.reshape(joints, (K, 3)) + rng.normal(0, 9, (K, 3)) * [1, 1, 0]
            people[human] = moved.ravel().tolist()
            if rng.random() < 0.1:
                del people[human]
            elif rng.random() < 0.1:
                people[f"{human} again"] = people[human]
    known = {each["image_id"] for each in labels}
    found = [each for each in found if each["image_id"] in known]
    expected = plain_score(labels, found)
    assert own(score(labels, found)) == pytest.approx(expected, abs=1e-12)
    assert 0.1 < expected[0] < 0.9


@real_data
def test_the_people_that_two_formats_hold_are_the_same():
    """Nine people of three images, which mmpose's sample has in COCO's format."""
    theirs = load_annotations(SAMPLE / "test_aic.json")
    ours = aic_annotations(json.loads((SAMPLE / "keypoint_annotations_example.json").read_text()))
    names = {image["id"]: image["file_name"] for image in ours["images"]}
    people = {(names[o["image_id"]], *o["bbox"]): o["keypoints"] for o in ours["annotations"]}
    names = {image["id"]: image["file_name"] for image in theirs["images"]}
    assert len(theirs["annotations"]) == 9
    for one in theirs["annotations"]:
        assert people[(names[one["image_id"]], *one["bbox"])] == one["keypoints"]


@real_data
def test_check_data_finds_no_error_in_the_three_images(sample, tmp_path):
    folder = SAMPLE / "images_mmpose"
    kept = [e for e in sample[0] if (folder / f"{e['image_id']}.jpg").is_file()]
    source = tmp_path / "three.json"
    source.write_text(json.dumps(kept))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "three").symlink_to(folder)
    output = tmp_path / "annotations" / "aic_three.json"
    words = ["--annotations", source, "--images", folder, "--output", output]
    assert run("convert_data", "--from", "aic", *words).startswith("9 people with")
    sizes = {(i["width"], i["height"]) for i in load_annotations(output)["images"]}
    assert (900, 600) in sizes and len(kept) == 3
    places = ["DATASET.ROOT", tmp_path, "DATASET.TRAIN", "three", "DATASET.VAL", "three"]
    places += ["OUTPUT_DIR", tmp_path / "output", *SMALL]
    report = run("check_data", "--cfg", CONFIGS / "w32_512.yaml", *places)
    assert "== three: nothing wrong" in report


@real_data
def test_missing_images_and_files_of_results_are_refused(tmp_path):
    words = ["--output", tmp_path / "out.json"]
    labels = ["--annotations", SAMPLE / "keypoint_annotations_example.json"]
    more = ["--images", SAMPLE / "images_mmpose"]
    said = run("convert_data", "--from", "aic", *labels, *more, *words, status=2)
    assert "997 image files cannot be used" in said and "(missing)" in said
    found = ["--annotations", SAMPLE / "keypoint_predictions_example.json"]
    said = run("convert_data", "--from", "aic", *found, *words, status=2)
    assert "files of results have no boxes" in said
    assert not (tmp_path / "out.json").exists()
