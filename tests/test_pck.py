"""MPII: its conversion to COCO JSON, and PCKh against published figures, a plain loop and laws."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from commands import ROOT, SMALL, run
from hrpose.builders.datasets import build_evaluator, build_skeleton, check_annotations
from hrpose.config import load_config
from hrpose.data.coco import load_annotations
from hrpose.data.convert import MPII_NAMES, mpii_annotations, read_mpii_truth
from hrpose.data.rules import EVALUATION, TRAINING
from hrpose.engine.distributed import DistInfo
from hrpose.engine.evaluate import evaluate
from hrpose.evaluation.coco import format_table
from hrpose.evaluation.pck import PCKhEvaluator
from hrpose.skeletons import COCO, MPII, from_category
from hrpose.structures import Poses, to_results
from reference.pck import pckh

SAMPLE = Path(__file__).parents[1].parent / "shared" / "data" / "samples" / "mpii"
CONFIG = ROOT / "configs" / "mpii" / "hrnet_w32_256x256.yaml"
K = len(MPII.joints)
PUBLISHED = {
    "PCKh@.5": 82.33672, "Head": 95.600, "Shoulder": 92.714, "Elbow": 83.365, "Wrist": 76.736,
    "Hip": 81.928, "Knee": 73.363, "Ankle": 65.446, "PCKh@.5-16": 71.524,
    "PCKh@.5-plain-14": 81.458, "PCKh@.1": 28.975, "PCKh@.11": 33.138,
}  # fmt: skip

real_data = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no MPII sample in ../shared/data")


# scenes ------------------------------------------------------------------------------------------


def person(image_id, keypoints, head_size, **fields):
    return {
        "image_id": image_id, "category_id": 1, "iscrowd": 0, "head_size": head_size,
        "bbox": [0, 0, 9, 9], "area": 9, "keypoints": np.ravel(keypoints).tolist(), **fields,
    }  # fmt: skip


def pose(image_id, box_index, keypoints, score=1.0):
    flat = np.ravel(keypoints).tolist()
    return {
        "image_id": image_id, "category_id": 1, "keypoints": flat, "score": score,
        "box_index": box_index,
    }  # fmt: skip


def labels(people, images):
    numbered = [{"id": number, **one} for number, one in enumerate(people, 1)]
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(images)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(MPII.joints)}],
        "annotations": numbered,
    }


def scene(seed):
    """Unlabelled people and crowds among others; several poses of some boxes, none of others."""
    rng = np.random.default_rng(seed)
    people, found, counts = [], [], [0] * 6
    for image_id in rng.integers(1, 6, 20).tolist():
        flags = rng.integers(0, 3, K) * (rng.random() > 0.2)
        places = rng.integers(-20, 400, (K, 2))
        head, crowd = float(rng.integers(8, 40)), int(rng.random() < 0.15)
        people.append(person(image_id, np.column_stack([places, flags]), head, iscrowd=crowd))
        if not flags.any():
            continue
        for _ in range(rng.integers(0, 3)):
            moved = places + rng.integers(-12, 13, (K, 2)) * rng.integers(0, 2, (K, 1))
            joints = np.column_stack([moved, np.ones(K)]) * (rng.random((K, 1)) > 0.1)
            found.append(pose(image_id, counts[image_id], joints, rng.integers(0, 5) / 4))
        counts[image_id] += 1
    return labels(people, 6), found


def score(truth, results, **options):
    evaluator = PCKhEvaluator(truth, MPII, **options)
    evaluator.add_results(results)
    return evaluator.summarize()


def shift(truth, results, by):
    """All coordinates moved, but those of joints that are not found."""

    def moved(one):
        joints = np.reshape(one["keypoints"], (-1, 3)).astype(float)
        joints[(joints != 0).any(1), :2] += by
        return {**one, "keypoints": joints.ravel().tolist()}

    people = [moved(one) for one in truth["annotations"]]
    return {**truth, "annotations": people}, [moved(one) for one in results]


# PCKh --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_it_counts_as_a_plain_loop(seed):
    truth, results = scene(seed)
    figures = score(truth, results)
    assert figures == pytest.approx(pckh(truth, results, MPII.joints), abs=1e-12)
    assert 0 < figures["PCKh@.1"] < figures["PCKh@.5"] < 100


@pytest.mark.parametrize("seed", range(4))
def test_a_shift_of_all_coordinates_changes_nothing(seed):
    truth, results = scene(seed)
    assert score(*shift(truth, results, (128, 512))) == score(truth, results)


def test_half_a_head_counts_and_more_does_not():
    truth = labels([person(0, [[50, 50, 2]] * K, 10.0)], 1)
    assert score(truth, [pose(0, 0, [[53, 54, 1]] * K)])["PCKh@.5"] == 100  # 5 pixels
    beyond = np.nextafter(54, 55)
    assert score(truth, [pose(0, 0, [[53, beyond, 1]] * K)])["PCKh@.5"] == 0


def test_thresholds_of_a_tenth_and_of_eleven_hundredths_differ():
    truth = labels([person(0, [[50, 50, 2]] * K, 100.0)], 1)
    figures = score(truth, [pose(0, 0, [[60.5, 50, 1]] * K)])
    assert (figures["PCKh@.1"], figures["PCKh@.11"]) == (0, 100)


def test_unlabelled_joints_do_not_count_and_missing_people_do():
    ankles = np.zeros((K, 3))
    ankles[0] = 5, 5, 1
    truth = labels([person(0, ankles, 10.0), person(0, ankles, 10.0)], 1)
    figures = score(truth, [pose(0, 1, np.full((K, 3), 5))])
    assert figures["PCKh@.5"] == figures["Ankle"] == figures["PCKh@.5-plain-14"] == 50
    absent = [name for name, value in figures.items() if value == -1]
    assert absent == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee"]


def test_means_weigh_joints_and_leave_pelvis_and_thorax_out():
    joints = np.zeros((2, K, 3))
    joints[0] = 50, 50, 2  # all joints of one, the head alone of another
    joints[1, MPII.joints.index("head_top")] = 50, 50, 2
    found = joints.copy()
    found[0, [MPII.joints.index(name) for name in ("pelvis", "thorax", "left_hip")], 0] = 500
    truth = labels([person(0, each, 10.0) for each in joints], 1)
    figures = score(truth, [pose(0, n, each) for n, each in enumerate(found)])
    assert figures["PCKh@.5"] == pytest.approx(100 * 14 / 15)
    assert figures["PCKh@.5-16"] == pytest.approx(100 * 14 / 17)
    assert figures["PCKh@.5-plain-14"] == pytest.approx(100 * 13 / 14)
    assert figures["PCKh@.5-plain-16"] == pytest.approx(100 * 13 / 16)
    assert (figures["Head"], figures["Hip"], figures["Knee"]) == (100, 50, 100)


def test_a_joint_that_was_not_found_is_wrong_at_the_corner_too():
    truth = labels([person(0, [[1, 1, 2]] * K, 10.0)], 1)
    assert score(truth, [pose(0, 0, [[0, 0, 0]] * K)])["PCKh@.5"] == 0
    assert score(truth, [pose(0, 0, [[0, 0, 0.1]] * K)])["PCKh@.5"] == 100


def test_the_best_pose_of_a_box_counts_and_the_first_of_equals():
    right, wrong = [[50, 50, 1]] * K, [[500, 50, 1]] * K
    truth = labels([person(0, right, 10.0)], 1)
    assert score(truth, [pose(0, 0, right, 0.2), pose(0, 0, wrong, 0.3)])["PCKh@.5"] == 0
    assert score(truth, [pose(0, 0, right, 0.3), pose(0, 0, wrong, 0.3)])["PCKh@.5"] == 100


@pytest.mark.parametrize("people", [[], [person(1, np.zeros((K, 3)), 9.0)]])
def test_without_a_labelled_joint_every_metric_is_minus_one_and_named(people):
    figures = score(labels(people, 2), [])
    assert set(figures.values()) == {-1.0}
    assert "the annotations have no people that count" in format_table(figures)


def test_only_the_chosen_images_count():
    truth, results = scene(0)
    chosen = {**truth, "images": [image for image in truth["images"] if image["id"] in (2, 3)]}
    expected = pckh(chosen, results, MPII.joints)
    assert score(truth, results, image_ids=[3, 2]) == pytest.approx(expected, abs=1e-12)


class Main(DistInfo):
    """The main one of two processes, with what the other has predicted."""

    def all_gather(self, own):
        return [own, self.other]

    def broadcast(self, value):
        return value


def test_poses_of_two_processes_are_scored_as_those_of_one():
    truth, results = scene(1)
    images = [(image["id"], None) for image in truth["images"]]

    def poses_of(image_id):
        own = [r for r in results if r["image_id"] == image_id]
        joints = np.reshape([r["keypoints"] for r in own], (-1, K, 3)).astype(np.float32)
        scores = np.array([r["score"] for r in own], np.float32)
        return Poses(joints, scores, box_indices=np.array([r["box_index"] for r in own], int))

    def predict(subset):
        for i in range(len(subset)):
            yield subset[i][0], poses_of(subset[i][0])

    main = Main(0, 2)
    main.other = [(i, images[i][0], poses_of(images[i][0])) for i in range(1, len(images), 2)]
    merged = PCKhEvaluator(truth, MPII)
    figures = evaluate(predict, images, merged, main)
    single = PCKhEvaluator(truth, MPII)
    assert figures == evaluate(predict, images, single) == score(truth, results)
    assert merged.results == single.results
    again = json.loads(json.dumps(merged.results))  # as tools/valid.py --results reads them
    assert score(truth, again) == figures


def test_results_name_the_box_only_where_there_are_boxes():
    joints, scores = np.ones((2, K, 3), np.float32), np.ones(2, np.float32)
    assert "box_index" not in to_results(0, Poses(joints, scores), 1)[0]
    boxed = to_results(0, Poses(joints, scores, box_indices=np.array([4, 2])), 1)
    assert [result["box_index"] for result in boxed] == [4, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"box_index": None}, "need a box_index.*TEST.BOXES truth"),
        ({"box_index": 0.0}, "need a box_index"),
        ({"box_index": 1}, r"no such person for results: 0 \(1 in image 0\)"),
        ({"box_index": -1}, "no such person"),
        ({"image_id": 7}, "images that the annotations do not list"),
        ({"keypoints": [1, 2, 3]}, "of 16 joints"),
        ({"score": np.nan}, "must be finite"),
    ],
)
def test_poses_that_cannot_be_assigned_are_refused_and_none_is_kept(change, message):
    truth = labels([person(0, [[50, 50, 1]] * K, 10.0)], 1)
    evaluator = PCKhEvaluator(truth, MPII)
    good = pose(0, 0, [[50, 50, 1]] * K)
    with pytest.raises(ValueError, match=message):
        evaluator.add_results([{**good, **change}, good])
    assert evaluator.results == []


@pytest.mark.parametrize("size", [None, 0, -3.0, np.nan, np.inf, "12", True])
def test_people_without_a_head_size_are_refused_with_the_cure(size):
    truth = labels([person(0, [[50, 50, 1]] * K, size)], 1)
    with pytest.raises(ValueError, match=r"--ground-truth\). Annotations without it: 1"):
        PCKhEvaluator(truth, MPII)


def test_other_skeletons_are_refused():
    truth, _ = scene(0)
    with pytest.raises(ValueError, match="DATASET.SKELETON to mpii.*head_top"):
        PCKhEvaluator(truth, COCO)


# Conversion --------------------------------------------------------------------------------------


def mpii_files(folder, count=4):
    """annot/valid.json and gt_valid.mat of random people, two an image, and what they hold."""
    rng = np.random.default_rng(count)
    joints = rng.integers(5, 300, (count, K, 2)).astype(float)
    labelled = rng.random((count, K)) > 0.3
    people = [
        {
            "image": f"{n // 2:09}.jpg", "center": [100.0 + n, 90.0], "scale": 1.5 + n,
            "joints": np.where(known[:, None], own, -1).tolist(),
            "joints_vis": known.astype(int).tolist(),
        }
        for n, (own, known) in enumerate(zip(joints, labelled))
    ]  # fmt: skip
    heads = np.stack([np.full((count, 2), 10), np.full((count, 2), 10) + [30, 40]])  # (2, N, 2)
    fields = {
        "dataset_joints": np.array([list(MPII_NAMES)], object),
        "jnt_missing": (~labelled).T.astype(np.uint8),
        "pos_gt_src": joints.transpose(1, 2, 0) + 1e-4,
        "headboxes_src": heads.transpose(0, 2, 1),
    }
    (folder / "valid.json").write_text(json.dumps(people))
    savemat(folder / "gt_valid.mat", fields)
    return people, fields


def convert(folder, *words, status=0):
    words = ["--annotations", folder / "valid.json", *words, "--output", folder / "out.json"]
    return run("convert_data", "--from", "mpii", *words, status=status)


def test_a_conversion_counts_from_0_and_carries_the_head_sizes(tmp_path):
    people, fields = mpii_files(tmp_path)
    said = convert(tmp_path, "--ground-truth", tmp_path / "gt_valid.mat")
    assert said.startswith("4 people with")
    truth = load_annotations(tmp_path / "out.json")
    assert [image["file_name"] for image in truth["images"]] == ["000000000.jpg", "000000001.jpg"]
    assert [one["image_id"] for one in truth["annotations"]] == [1, 1, 2, 2]
    skeleton = from_category(truth["categories"][0])
    assert skeleton.joints == MPII.joints and skeleton.flip_order == MPII.flip_order
    assert set(skeleton.limbs) == set(MPII.limbs)
    for n, one in enumerate(truth["annotations"]):
        joints = np.reshape(one["keypoints"], (K, 3))
        known = fields["jnt_missing"][:, n] == 0
        np.testing.assert_array_equal(joints[:, 2], np.where(known, 2, 0))
        np.testing.assert_allclose(joints[known, :2] + 1, fields["pos_gt_src"][known, :, n])
        assert not joints[~known].any() and one["num_keypoints"] == known.sum()
        assert one["head_size"] == pytest.approx(0.6 * 50)


def test_joints_of_the_annotations_alone_are_converted_too(tmp_path):
    people, _ = mpii_files(tmp_path)
    assert "no head sizes" in convert(tmp_path)
    [*converted] = load_annotations(tmp_path / "out.json")["annotations"]
    for one, source in zip(converted, people):
        joints, known = np.reshape(one["keypoints"], (K, 3)), np.array(source["joints_vis"]) > 0
        np.testing.assert_array_equal(joints[known, :2] + 1, np.array(source["joints"])[known])
        assert not joints[~known].any() and "head_size" not in one


def test_the_box_padded_by_a_quarter_is_the_published_crop():
    """c = center, c_y + 15 s, s x 1.25, c - 1; the crop is 200 s on each side of c."""
    source = {
        "image": "a.jpg", "center": [594.0, 257.0], "scale": 3.0,
        "joints": [[1, 1]] * K, "joints_vis": [1] * K,
    }  # fmt: skip
    [one] = mpii_annotations([source])["annotations"]
    x, y, w, h = one["bbox"]
    assert (x + w / 2, y + h / 2) == (594 - 1, 257 + 15 * 3 - 1)
    assert (1.25 * w, 1.25 * h) == (200 * 3 * 1.25, 200 * 3 * 1.25)
    assert 0 < one["area"] < w * h


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": ""}, r"1 people without an image \(2\)"),
        ({"scale": 0.0}, r"scale is not above 0 \(2\)"),
        ({"scale": None}, "scale is not 1 finite"),
        ({"center": [1.0]}, "center is not 2 finite"),
        ({"center": [1.0, float("nan")]}, "center is not 2 finite"),
        ({"joints": [[1, 2]] * 15}, "joints is not 16 x 2 finite"),
        ({"joints": [[1, 2], [3]]}, "joints is not 16 x 2"),
        ({"joints_vis": {"a": 1}}, "joints_vis is not 16 finite"),
        ({"joints": [[1, 10**400]] * 16}, "joints is not 16 x 2"),
    ],
)
def test_people_that_are_incomplete_are_refused_by_number(tmp_path, change, message):
    people, _ = mpii_files(tmp_path)
    people[2] |= change
    with pytest.raises(ValueError, match=message):
        mpii_annotations(people)


def test_the_files_of_two_splits_are_refused(tmp_path):
    people, _ = mpii_files(tmp_path)
    truth = read_mpii_truth(tmp_path / "gt_valid.mat")
    with pytest.raises(ValueError, match="3 people are annotated.* has 4"):
        mpii_annotations(people[:3], truth)
    with pytest.raises(ValueError, match=r"2 people are at other places .*\(0, 1\)"):
        mpii_annotations([people[1], people[0], *people[2:]], truth)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"jnt_missing": None}, "KeyError: 'jnt_missing'"),
        ({"pos_gt_src": np.ones((K, 2, 3))}, "pos_gt_src"),
        ({"headboxes_src": np.full((2, 2, 4), np.nan)}, "headboxes_src"),
        ({"headboxes_src": np.ones((2, 2, 4))}, "head boxes without extent"),
        ({"headboxes_src": {"a": 1}}, "gt_valid.mat"),
        ({"jnt_missing": np.array(["a"] * 4, object)}, "gt_valid.mat"),
        ({"dataset_joints": np.array([["rank", "nose"]], object)}, "joints rank, nose"),
    ],
)
def test_ground_truth_that_is_none_is_refused(tmp_path, change, message):
    _, fields = mpii_files(tmp_path)
    changed = {name: value for name, value in {**fields, **change}.items() if value is not None}
    savemat(tmp_path / "gt_valid.mat", changed)
    with pytest.raises(ValueError, match=message):
        read_mpii_truth(tmp_path / "gt_valid.mat")


@pytest.mark.parametrize("content", [b"", b"no matlab file", b"MATLAB 5.0 MAT-file" + b"\0" * 200])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "gt_valid.mat").write_bytes(content)
    with pytest.raises(ValueError, match="is not MPII's gt_valid.mat"):
        read_mpii_truth(tmp_path / "gt_valid.mat")


def test_a_file_that_ends_scipy_is_named_too(tmp_path):
    """A text of a type that does not exist: scipy 1.17 ends in a segmentation fault."""
    mpii_files(tmp_path)
    content = bytearray((tmp_path / "gt_valid.mat").read_bytes())
    content[780] = 69
    (tmp_path / "gt_valid.mat").write_bytes(content)
    with pytest.raises(ValueError, match="is not MPII's gt_valid.mat"):
        read_mpii_truth(tmp_path / "gt_valid.mat")


def test_the_command_refuses_what_it_cannot_convert(tmp_path):
    people, _ = mpii_files(tmp_path)
    assert "no ground truth at" in convert(tmp_path, "--ground-truth", "absent.mat", status=2)
    bare = [{"image": "a.jpg", "center": [1, 1], "scale": 1}]
    (tmp_path / "valid.json").write_text(json.dumps(bare))
    assert "test split are not public" in convert(tmp_path, status=2)
    (tmp_path / "valid.json").write_text('{"images": []}')
    assert "is not a list of people" in convert(tmp_path, status=2)
    assert not (tmp_path / "out.json").exists()
    mpii_files(tmp_path)
    convert(tmp_path)
    assert "is there already" in convert(tmp_path, status=2)


# Real people -------------------------------------------------------------------------------------


def settings(root, split):
    places = ["DATASET.ROOT", root, "DATASET.TRAIN", split, "DATASET.VAL", split]
    return [*map(str, [*places, "OUTPUT_DIR", root / "output"]), *SMALL]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The sample as MPII's files have it, converted by the command, and its predictions."""
    root = tmp_path_factory.mktemp("mpii")
    fields = loadmat(SAMPLE / "detections_our_format.mat")
    listed = loadmat(SAMPLE / "detections.mat", simplify_cells=True)
    people = []
    for image, each in zip(listed["RELEASE_img_index"], listed["annolist"]):
        rect, joints = each["annorect"], np.full((K, 3), [-1, -1, 0], float)
        for point in rect["annopoints"]["point"]:
            joints[point["id"]] = point["x"], point["y"], 1
        centre = [float(rect["objpos"][axis]) for axis in "xy"]
        person = {"image": f"{image:09}.jpg", "center": centre, "scale": rect["scale"]}
        placed = {"joints": joints[:, :2].tolist(), "joints_vis": joints[:, 2].tolist()}
        people.append(person | placed)
    (root / "valid.json").write_text(json.dumps(people))
    wanted = ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src")
    savemat(root / "gt_valid.mat", {name: fields[name] for name in wanted})
    words = ["--annotations", root / "valid.json", "--ground-truth", root / "gt_valid.mat"]
    output = root / "annotations" / "mpii_valid.json"
    run("convert_data", "--from", "mpii", *words, "--output", output)
    return root, people, fields["pos_pred_src"].transpose(2, 0, 1) - 1


@real_data
def test_the_published_figures_of_2958_people(sample):
    root, people, found = sample
    config = load_config(CONFIG, settings(root, "valid"))
    assert build_skeleton(config) == MPII
    truth = load_annotations(root / "annotations" / "mpii_valid.json")
    numbers, results = {}, []
    for one, joints in zip(truth["annotations"], found):
        index = numbers[one["image_id"]] = numbers.get(one["image_id"], -1) + 1
        results.append(pose(one["image_id"], index, np.column_stack([joints, np.ones(K)])))
    evaluator = build_evaluator(config, truth)
    evaluator.add_results(np.random.default_rng(0).permutation(results).tolist())
    figures = evaluator.summarize()
    assert len(results) == 2958 and evaluator.primary == "PCKh@.5"
    assert {name: figures[name] for name in PUBLISHED} == pytest.approx(PUBLISHED, abs=5.1e-4)
    assert figures["PCKh@.5"] == pytest.approx(82.33672, abs=5e-6)


@real_data
def test_the_sample_satisfies_the_rules_of_training_and_evaluation(sample):
    root = sample[0]
    truth = load_annotations(root / "annotations" / "mpii_valid.json")
    config = load_config(CONFIG, settings(root, "valid"))
    for stage in (TRAINING, EVALUATION):
        check_annotations(config, truth, "valid", stage)


@real_data
def test_check_data_finds_no_error_in_the_five_images(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "images", ignore=shutil.ignore_patterns("*.mat"))
    words = ["--annotations", SAMPLE / "test_mpii.json"]
    output = tmp_path / "annotations" / "mpii_five.json"
    run("convert_data", "--from", "mpii", *words, "--output", output)
    report = run("check_data", "--cfg", CONFIG, *settings(tmp_path, "five"))
    assert "== five: 0 kinds of errors" in report


@real_data
def test_both_files_of_a_person_have_the_same_joints(sample):
    """The annotations of the five published images, against the ground truth of all."""
    root, people, _ = sample
    joints, _ = read_mpii_truth(root / "gt_valid.mat")
    for source in json.loads((SAMPLE / "test_mpii.json").read_text()):
        own = np.array(source["joints"]) - 1
        distance = np.median(np.abs(joints[..., :2] - own).max(-1), axis=1)
        match = int(distance.argmin())
        assert distance[match] < 1e-4
        assert np.allclose(people[match]["center"], source["center"])
        assert np.isclose(people[match]["scale"], source["scale"])
