"""Error analysis: constructed errors, plain loops, laws, and the program."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import QUICKSTART, ROOT, run
from hrpose.evaluation.analysis import analyze_errors
from hrpose.evaluation.coco import KeypointEvaluator, crowdpose_evaluator, match_poses
from hrpose.evaluation.corrections import ks_distance, released_distance, soft_nms
from hrpose.evaluation.curves import CURVE_OKS, best_f1, crowding, group_images, precision_recall
from hrpose.evaluation.errors import (
    ANALYZED_RANGES,
    KINDS,
    classify_joints,
    find_grouping_errors,
    find_joint_errors,
)
from hrpose.skeletons import COCO, CROWDPOSE, Skeleton
from keypoint_scenes import as_results, scene
from reference import errors as reference

DATA = Path(__file__).parents[1].parent / "shared" / "data" / "results"
FIVE = Skeleton(
    joints=("top", "port hand", "starboard hand", "port foot", "starboard foot"),
    sigmas=(0.05, 0.06, 0.06, 0.08, 0.08),
    grouping_order=("top", "port hand", "starboard hand", "port foot", "starboard foot"),
    flip_pairs=(("port hand", "starboard hand"), ("port foot", "starboard foot")),
)
SKELETONS = {"coco": COCO, "crowdpose": CROWDPOSE, "five": FIVE}
AREA = 1e4
FREE = [k for k, twin in enumerate(COCO.flip_order) if k < twin]  # the left ones of twins


# scenes on purpose -------------------------------------------------------------------------------


def person_at(number, image_id=0, skeleton=COCO):
    """Joints 40 px apart, far beyond every tolerance, and 400 px from the next person's."""
    k = np.arange(len(skeleton.joints))
    places = np.stack([400 * number + 20 + 40 * (k % 5), 20 + 40 * (k // 5), 2 + 0 * k], 1)
    return {
        "id": number, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": AREA,
        "num_keypoints": len(k), "bbox": [400 * number, 0, 200, 200],
        "keypoints": places.astype(float).ravel().tolist(),
    }  # fmt: skip


def crowd_of(count, skeleton=COCO):
    people = [person_at(number, skeleton=skeleton) for number in range(count)]
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.joints)}
    labels = {"images": [{"id": 0}], "categories": [category], "annotations": people}
    return labels, [{**pose, "score": 0.9 - n / 100} for n, pose in enumerate(as_results(labels))]


def joints_of(pose):
    """A view (K, 3) that writes into the pose."""
    pose["keypoints"] = np.reshape(pose["keypoints"], (-1, 3)).astype(float)
    return pose["keypoints"]


def flat(results):
    return [{**pose, "keypoints": np.ravel(pose["keypoints"]).tolist()} for pose in results]


def compare(labels, results, skeleton=COCO):
    evaluator = KeypointEvaluator(labels, skeleton)
    evaluator.add_results(flat(results))
    return evaluator.comparison()


def analyze(labels, results, skeleton=COCO, **options):
    return analyze_errors(compare(labels, results, skeleton), skeleton, **options)


def gains(analysis, metric, group="all"):
    """Stage -> what it adds to AP, where that is anything."""
    stages = analysis["groups"][group]["ap"]
    values = [figures[metric] for figures in stages.values()]
    added = dict(zip([*stages][1:], np.diff(values)))
    return {stage: gain for stage, gain in added.items() if abs(gain) > 1e-12}


def kinds_of(analysis):
    return {kind: n for kind, n in analysis["groups"]["all"]["kinds"].items() if n}


def at_ks(pose, k, similarity, area=AREA):
    """Move joint k up, off all joints, to this ks."""
    joints_of(pose)[k, 1] -= 2 * COCO.sigmas[k] * math.sqrt(-2 * math.log(similarity) * area)


def test_perfect_poses_are_good_and_nothing_can_be_gained():
    analysis = analyze(*crowd_of(3))
    assert kinds_of(analysis) == {"good": 51}
    assert all(gains(analysis, metric) == {} for metric in ("AP", "AP50", "AP75"))
    assert analysis["groups"]["all"]["ap"]["found"] == dict.fromkeys(("AP50", "AP75", "AP"), 1.0)
    assert analysis["left"] == {oks: {"background": 0, "missed": 0} for oks in ("0.5", "0.75")}
    assert not analysis["grouping"]["merged"] and not analysis["grouping"]["split"]


@pytest.mark.parametrize(("similarity", "kind"), [(0.86, "good"), (0.7, "jitter"), (0.3, "miss")])
@pytest.mark.parametrize("k", [0, 5, 16])
def test_a_joint_that_is_moved_alone(similarity, kind, k):
    labels, poses = crowd_of(2)
    at_ks(poses[1], k, similarity)
    analysis = analyze(labels, poses)
    others = {name: {"good": 2} for name in COCO.joints}
    others[COCO.joints[k]] = {"good": 2} if kind == "good" else {"good": 1, kind: 1}
    assert {n: {k: v for k, v in c.items() if v} for n, c in analysis["joints"].items()} == others


def test_jitter_costs_what_its_correction_gains():
    labels, poses = crowd_of(2)
    for k in range(17):
        at_ks(poses[0], k, 0.6)
    analysis = analyze(labels, poses)
    assert kinds_of(analysis) == {"good": 17, "jitter": 17}
    assert gains(analysis, "AP50") == {}
    assert set(gains(analysis, "AP75")) == {"jitter"}
    assert analysis["groups"]["all"]["ap"]["jitter"]["AP75"] == 1.0  # without dropping anything


def test_misses_are_brought_to_half_similarity():
    labels, poses = crowd_of(2)
    for k in range(16):
        at_ks(poses[0], k, 0.2)
    analysis = analyze(labels, poses)
    assert kinds_of(analysis) == {"good": 18, "miss": 16}
    assert set(gains(analysis, "AP50")) == {"miss"}
    assert analysis["groups"]["all"]["ap"]["miss"]["AP50"] == 1.0
    # OKS is 9 / 17 then: at .75 the pose is false, and its person missed.
    assert set(gains(analysis, "AP75")) == {"score", "missed people"}
    assert analysis["left"]["0.75"] == {"background": 1, "missed": 1}


def test_exchanged_twins_are_inversions():
    labels, poses = crowd_of(2)
    some = FREE[:4]
    twins = [COCO.flip_order[k] for k in some]
    joints_of(poses[1])[some + twins] = joints_of(poses[1])[twins + some]
    analysis = analyze(labels, poses)
    assert kinds_of(analysis) == {"good": 26, "inversion": 8}
    assert set(gains(analysis, "AP75")) == set(gains(analysis, "AP")) == {"inversion"}
    assert analysis["groups"]["all"]["ap"]["inversion"]["AP"] == 1.0


@pytest.mark.parametrize("twin", [False, True])
def test_exchanged_people_are_swaps(twin):
    """Of the same joints, or of their twins."""
    labels, poses = crowd_of(3)
    one, two = joints_of(poses[0]), joints_of(poses[1])
    here = FREE[:6]
    there = [COCO.flip_order[k] for k in here] if twin else here
    one[here], two[there] = two[there].copy(), one[here].copy()
    analysis = analyze(labels, poses)
    assert kinds_of(analysis) == {"good": 39, "swap": 12}
    assert set(gains(analysis, "AP75")) == {"swap"}
    assert analysis["groups"]["all"]["ap"]["swap"]["AP"] == 1.0


def test_a_false_pose_of_high_score_is_an_error_of_scores():
    labels, poses = crowd_of(2)
    poses.append({**person_at(7), "score": 0.99})
    analysis = analyze(labels, poses)
    assert kinds_of(analysis) == {"good": 34}
    assert set(gains(analysis, "AP")) == {"score"}
    assert analysis["left"]["0.5"] == {"background": 1, "missed": 0}
    assert analysis["images"] == [
        {
            "image_id": 0,
            "found": ((1, 1, 1.0), (2, 2, 1.0)),
            "missed": (),
            "false": (3,),
            "error": 0,
        }
    ]


def test_a_false_pose_that_no_score_ranks_last_is_background():
    """Of two poses on either side of a person one is false, and better than the other person's."""
    labels, poses = crowd_of(2)
    area = 4 * AREA  # than which the poses are smaller: on either side they are unlike each other
    for person in labels["annotations"]:
        person["area"] = area
    below = json.loads(json.dumps(poses[0])) | {"score": 0.8}
    for k in range(17):
        at_ks(poses[0], k, 0.57, area)
        joints_of(below)[k, 1] += 2 * COCO.sigmas[k] * math.sqrt(-2 * math.log(0.57) * area)
        if k:
            at_ks(poses[1], k, 0.3, area)
    analysis = analyze(labels, [*poses, below])
    assert gains(analysis, "AP50")["background"] > 0
    assert analysis["groups"]["all"]["ap"]["background"]["AP50"] == 1.0


def test_dropped_poses_are_missed_people():
    labels, poses = crowd_of(4)
    analysis = analyze(labels, poses[1:])
    assert kinds_of(analysis) == {"good": 51}
    assert all(set(gains(analysis, metric)) == {"missed people"} for metric in ("AP50", "AP"))
    assert analysis["left"]["0.75"] == {"background": 0, "missed": 1}
    (image,) = analysis["images"]
    assert image["missed"] == (1,) and image["error"] == 1


def test_bounds_and_ties():
    def kind(*places):
        return classify_joints(np.array([[place] for place in places], float), 0)[0][0]

    assert kind([0.85, 0]) == "good" and kind([np.nextafter(0.85, 0), 0]) == "jitter"
    assert kind([0.5, 0]) == "jitter" and kind([np.nextafter(0.5, 0), 0]) == "miss"
    assert kind([0.6, 0.6], [0.6, 0.6]) == "jitter" and kind([0.5, 0.6], [0.6, 0.6]) == "inversion"
    assert kind([0.1, -1], [-1, 0.5]) == "swap" and kind([-1, 0.9], [0.9, -1]) == ""
    assert kind([0.49, 0.4], [0.49, 0.4]) == "miss"


def test_a_joint_is_no_inversion_of_an_unlabelled_twin():
    labels, poses = crowd_of(1)
    joints_of(poses[0])[5] = joints_of(poses[0])[6]
    labels["annotations"][0]["keypoints"][3 * 6 + 2] = 0
    assert kinds_of(analyze(labels, poses)) == {"good": 15, "miss": 1}


def test_the_distance_of_the_released_code_gives_the_fourth_root():
    sigma = np.array([0.05])
    for similarity in (0.5, 0.85):
        for distance, wanted in ((ks_distance, 1), (released_distance, 0.25)):
            reach = distance(similarity, AREA, sigma)
            reached = np.exp(-(reach**2) / (2 * AREA * (2 * sigma) ** 2))
            assert reached == pytest.approx(similarity**wanted)
    labels, poses = crowd_of(1)
    for k in range(16):
        at_ks(poses[0], k, 0.2)
    after = analyze(labels, poses, distance=released_distance)["groups"]["all"]["ap"]["miss"]
    assert after["AP75"] == pytest.approx(1)  # (1 + 16 * .5 ** (1 / 4)) / 17 = .85


# nobody, one, many, and those who do not count ------------------------------------------------


def test_without_people_or_poses():
    labels, poses = crowd_of(2)
    alone = analyze({**labels, "annotations": []}, poses)
    assert alone["groups"]["all"]["ap"]["missed people"]["AP"] == -1
    assert alone["best_f1"] is None and alone["matches"] == []
    none = analyze(labels, [])
    assert gains(none, "AP") == {"missed people": 1.0} and kinds_of(none) == {}
    assert none["left"]["0.5"] == {"background": 0, "missed": 2}
    empty = analyze({**labels, "annotations": []}, [])
    json.dumps([alone, none, empty], allow_nan=False)


def test_of_forty_people_the_best_twenty_poses_count():
    labels, poses = crowd_of(40)
    analysis = analyze(labels, poses)
    everyone = analysis["groups"]["all"]
    assert (everyone["people"], everyone["matched"]) == (40, 20)
    assert kinds_of(analysis) == {"good": 340}
    assert gains(analysis, "AP50").keys() == {"missed people"}


def test_crowds_small_and_uncounted_people_are_ignored_as_by_coco():
    labels, poses = crowd_of(5)
    crowd, small, uncounted, unlabelled, _ = labels["annotations"]
    crowd["iscrowd"], small["area"], uncounted["num_keypoints"] = 1, 1000, 0
    unlabelled["keypoints"] = [0] * 51
    analysis = analyze(labels, poses)
    everyone = analysis["groups"]["all"]
    assert (everyone["people"], everyone["matched"]) == (1, 1)
    assert kinds_of(analysis) == {"good": 17} and gains(analysis, "AP") == {}
    # But whose joints they are, small and uncounted people answer, and crowds do not.
    for other, kind in ((0, "miss"), (1, "swap"), (2, "swap")):
        moved = json.loads(json.dumps(poses))
        joints_of(moved[4])[9] = joints_of(moved[other])[9]
        assert kinds_of(analyze(labels, moved)) == {"good": 16, kind: 1}


@pytest.mark.parametrize("name", SKELETONS)
def test_unlabelled_joints_have_no_kind(name):
    skeleton = SKELETONS[name]
    labels, poses = crowd_of(2, skeleton)
    labels["annotations"][0]["keypoints"][2] = 0
    analysis = analyze(labels, poses, skeleton)
    assert analysis["matches"][0][2] == "." + "g" * (len(skeleton.joints) - 1)
    assert kinds_of(analysis) == {"good": 2 * len(skeleton.joints) - 1}


# plain loops and laws ----------------------------------------------------------------------------


def confused(seed, skeleton):
    """A random scene, whose poses also have exchanged twins and joints of other people."""
    rng = np.random.default_rng(seed)
    labels, found = scene(seed, skeleton, images=4)
    for pose in found:
        joints = joints_of(pose)
        for k, twin in enumerate(skeleton.flip_order):
            others = [p for p in labels["annotations"] if p["image_id"] == pose["image_id"]]
            if rng.random() < 0.15:
                joints[[k, twin]] = joints[[twin, k]]
            elif rng.random() < 0.15 and others:
                other = np.reshape(rng.choice(others)["keypoints"], (-1, 3))
                joints[k, :2] = other[rng.choice([k, twin]), :2] + rng.normal(0, 2, 2)
    return labels, flat(found)


@pytest.mark.parametrize(("seed", "name"), [(0, "coco"), (1, "crowdpose"), (2, "five")])
def test_equals_plain_loops(seed, name):
    skeleton = SKELETONS[name]
    labels, found = confused(seed, skeleton)
    for one in labels["annotations"]:
        one["area"] *= 2
    analysis = analyze(labels, found, skeleton)
    numbers = {id(one): n for n, one in enumerate(labels["annotations"], 1)}
    poses = {id(one): n for n, one in enumerate(found, 1)}
    expected = [
        [numbers[id(p)], poses[id(r)], "".join(kind[0][0] if kind else "." for kind in kinds)]
        for p, r, kinds in reference.all_errors(labels, found, skeleton)
    ]
    assert sorted(analysis["matches"]) == sorted(expected)
    assert set(kinds_of(analysis)) == set(KINDS)
    for metric, threshold in (("AP50", 0.5), ("AP75", 0.75)):
        plain = reference.ap_by_stage(labels, found, skeleton, threshold)
        stages = analysis["groups"]["all"]["ap"]
        ours = {stage: stages[stage][metric] for stage in plain}
        assert ours == pytest.approx(plain, abs=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SKELETONS)))
def test_kinds_partition_the_labelled_joints(seed, name):
    labels, found = confused(seed, SKELETONS[name])
    errors = find_joint_errors(compare(labels, found, SKELETONS[name]), SKELETONS[name])
    people = [labels["annotations"][number - 1] for number in errors.people]
    for person, kinds, similarities in zip(people, errors.kinds, errors.similarities):
        flags = np.array(person["keypoints"][2::3])
        assert sum((kinds == kind).sum() for kind in KINDS) == person["num_keypoints"] > 0
        assert ((kinds != "") == (flags > 0)).all() and ((similarities >= 0) == (flags > 0)).all()


@pytest.mark.parametrize(("seed", "name"), [(3, "coco"), (4, "crowdpose"), (5, "five")])
def test_all_corrections_end_in_one_and_all_counts_add_up(seed, name):
    labels, found = confused(seed, SKELETONS[name])
    analysis = analyze(labels, found, SKELETONS[name])
    everyone, images = analysis["groups"]["all"], analysis["images"]
    for group in analysis["groups"].values():
        before, after = (group["ap"][stage]["AP75"] for stage in ("score", "background"))
        assert group["ap"]["missed people"]["AP75"] == (1.0 if group["people"] else -1)
        assert after >= before - 1e-12
    for count in ("people", "matched"):
        sizes = ("medium", "large")
        assert everyone[count] == sum(analysis["groups"][size][count] for size in sizes) > 0
    total = sum(everyone["kinds"].values())
    assert total == sum(sum(counts.values()) for counts in analysis["joints"].values())
    assert everyone["people"] == sum(len(i["found"]) + len(i["missed"]) for i in images)
    assert [i["error"] for i in images] == sorted((i["error"] for i in images), reverse=True)
    for image in images:
        poses = [pose for _, pose, _ in image["found"]] + list(image["false"])
        assert len(set(poses)) == len(poses) <= 20
        assert all(found[pose - 1]["image_id"] == image["image_id"] for pose in poses)
        assert all(oks >= 0.5 - 1e-9 for _, _, oks in image["found"])


def test_soft_nms_leaves_distant_poses_and_lowers_copies():
    _, poses = crowd_of(3)
    joints = np.stack([joints_of(pose) for pose in [*poses, poses[1]]])
    scores = soft_nms(joints, np.array([0.5, 0.9, 0.7, 0.8]), np.array(COCO.sigmas))
    assert scores == pytest.approx([0.5, 0.9, 0.7, 0.8 * math.exp(-2)])
    assert soft_nms(joints[:0], np.zeros(0), np.array(COCO.sigmas)).shape == (0,)


# grouping ----------------------------------------------------------------------------------------


def test_a_pose_of_two_people_is_merged():
    labels, poses = crowd_of(2)
    joints_of(poses[0])[11:] = joints_of(poses[1])[11:]
    found = find_grouping_errors(compare(labels, poses[:1]), COCO)
    assert found.merged == (1,) and found.split == () and found.foreign == pytest.approx(6 / 17)
    joints_of(poses[0])[13:] = 0  # two of thirteen joints found are no part
    found = find_grouping_errors(compare(labels, poses[:1]), COCO)
    assert found.merged == () and found.foreign == pytest.approx(2 / 13)


def test_a_person_in_two_poses_is_split():
    labels, poses = crowd_of(2)
    upper, lower = (json.loads(json.dumps(poses[0])) for _ in range(2))
    joints_of(upper)[11:], joints_of(lower)[:11] = 0, 0
    assert find_grouping_errors(compare(labels, [upper, lower, poses[1]]), COCO).split == (1,)
    assert find_grouping_errors(compare(labels, [upper, poses[1]]), COCO).split == ()
    assert find_grouping_errors(compare(labels, [poses[1], poses[1]]), COCO).split == (2,)
    joints_of(lower)[:14] = 0  # three joints of seventeen are no part
    assert find_grouping_errors(compare(labels, [upper, lower]), COCO).split == ()


# curves and groups -------------------------------------------------------------------------------


def test_curves_and_the_best_threshold_equal_plain_counting():
    labels, found = scene(5)
    for n, pose in enumerate(found):
        pose["score"] = round(pose["score"], 1) + n * 1e-9 * (n % 2)  # with equal ones
    pair = compare(labels, found)
    matches = match_poses(pair, ANALYZED_RANGES)
    curves = precision_recall(matches, pair.image_ids)
    analysis = analyze(labels, found)
    assert set(curves) == {f"{threshold}" for threshold in CURVE_OKS}
    for oks, metric in (("0.5", "AP50"), ("0.75", "AP75")):
        found_ap = analysis["groups"]["all"]["ap"]["found"][metric]
        assert np.mean(curves[oks]["precision"]) == pytest.approx(found_ap)
        assert len(curves[oks]["score"]) == len(curves[oks]["recall"]) == 101

    like = lambda one, pose: reference.similarity(one, pose, COCO.sigmas)  # noqa: E731
    hits, total = [], 0
    for people, poses in reference.images(labels, found):
        new, count = reference.hits_of_one_image(people, poses, like, 0.5, reference.SIZE)
        hits, total = hits + new, total + count
    best = (-1.0, 0.0)
    for score in sorted({score for score, _ in hits}, reverse=True):
        kept = [hit for value, hit in hits if value >= score]
        best = max(best, (2 * sum(kept) / (len(kept) + total), score), key=lambda pair: pair[0])
    ours = best_f1(matches)
    assert (ours["f1"], ours["score"]) == pytest.approx(best)
    precision, recall = ours["precision"], ours["recall"]
    assert ours["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_images_are_grouped_by_their_people():
    labels, _ = crowd_of(2)
    alone, near = person_at(0, image_id=1), [person_at(0, image_id=2) for _ in range(4)]
    near[1]["keypoints"] = (np.array(near[1]["keypoints"]) + 10).tolist()
    near[1]["keypoints"][2::3] = [2] * 17
    labels["annotations"] += [alone, *near]
    labels["images"] = [{"id": n, "crowdIndex": n / 4} for n in range(4)]
    pair = compare(labels, [])
    assert crowding(pair, 1) == crowding(pair, 3) == 0 and crowding(pair, 0) < 0.01
    assert crowding(pair, 2) == 1
    groups = {name: ids for name, ids in group_images(pair).items() if ids}
    assert groups == {
        "1 person": {1}, "2 to 3 people": {0}, "4 to 7 people": {2},
        "neighbour OKS below .01": {0, 1}, "neighbour OKS from .1": {2},
        "crowdIndex easy": {0}, "crowdIndex medium": {1, 2, 3},
    }  # fmt: skip


def test_nearness_is_over_the_joints_that_both_have():
    labels, _ = crowd_of(2)
    one, two = labels["annotations"]
    two["keypoints"] = list(one["keypoints"])
    for k in range(16):
        (one if k % 2 else two)["keypoints"][3 * k : 3 * k + 3] = [0, 0, 0]
    assert crowding(compare(labels, []), 0) == 1


def test_crowdpose_is_analysed_with_the_areas_of_its_boxes():
    labels, found = scene(3, CROWDPOSE)
    evaluator = crowdpose_evaluator(labels, CROWDPOSE)
    evaluator.add_results(found)
    analysis = analyze_errors(evaluator.comparison(), CROWDPOSE)
    people = [{**p, "area": 0.53 * p["bbox"][2] * p["bbox"][3]} for p in labels["annotations"]]
    assert analysis == analyze({**labels, "annotations": people}, found, CROWDPOSE)
    assert "crowdIndex hard" in analysis["groups"]


# the program -------------------------------------------------------------------------------------


def written(folder, labels, results, name="annotations/person_keypoints_val2017.json"):
    path = folder / name
    path.parent.mkdir(parents=True)
    labels = {**labels, "images": [{"file_name": f"{i['id']}.jpg", **i} for i in labels["images"]]}
    path.write_text(json.dumps(labels))
    (folder / "found.json").write_text(json.dumps(flat(results)))
    return ["--results", folder / "found.json", "--output", folder / "out", "DATASET.ROOT", folder]


@pytest.mark.parametrize("layout", ["coco", "crowdpose"])
def test_the_program_prints_tables_and_writes_the_analysis(tmp_path, layout):
    skeleton = SKELETONS[layout]
    labels, poses = crowd_of(3, skeleton)
    config, name = QUICKSTART, "annotations/person_keypoints_val2017.json"
    if layout == "crowdpose":
        labels["images"][0]["crowdIndex"] = 0.5
        config, name = ROOT / "configs" / "crowdpose" / "w48_640.yaml", "json/crowdpose_test.json"
    joints_of(poses[0])[0] += 500
    command = written(tmp_path, labels, poses, name)
    printed = run("valid", "--cfg", config, "--errors", *command)
    assert "3 of 3 people of 32^2 square pixels and more are matched at OKS 0.1" in printed
    assert f"|  {skeleton.joints[0]} | 66.7 % |".replace(" ", "") in printed.replace(" ", "")
    assert (
        "(as found)" in printed and "missed people" in printed and "split people: 0 of" in printed
    )
    analysis = json.loads((tmp_path / "out" / "results" / "errors.json").read_text())
    assert analysis["joints"][skeleton.joints[0]]["miss"] == 1
    assert ("crowdIndex medium" in analysis["groups"]) == (layout == "crowdpose")


@pytest.mark.parametrize("config", ["mpii/hrnet_w32_256x256", "aic/hrnet_w32_256x192"])
def test_formats_of_other_metrics_are_refused(tmp_path, config):
    path = next((ROOT / "configs").glob(f"{config}*.yaml"), None)
    assert path
    arguments = ["--errors", "OUTPUT_DIR", tmp_path / "runs"]
    printed = run("valid", "--cfg", path, *arguments, status=2)
    assert "--errors needs DATASET.FORMAT coco or crowdpose" in printed
    assert f"has {config.split('/')[0]}" in printed


@pytest.mark.parametrize("field", ["area", "bbox"])
def test_labels_without_areas_or_boxes_are_refused(tmp_path, field):
    labels, poses = crowd_of(2)
    del labels["annotations"][0][field]
    command = written(tmp_path, labels, poses)
    printed = run("valid", "--cfg", QUICKSTART, "--errors", *command, status=2)
    assert f"people without a{'n area' if field == 'area' else ' box'}" in printed


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_real_detections_partition_their_joints():
    name = "lightweight_openpose"
    labels = json.loads((DATA / f"{name}_val_subset_gt.json").read_text())
    found = json.loads((DATA / f"{name}_detections.json").read_text())
    pair = compare(labels, found)
    errors = find_joint_errors(pair, COCO)
    labelled = [pair.truth.anns[person]["num_keypoints"] for person in errors.people]
    assert ((errors.kinds != "").sum(1) == labelled).all()
    counted = (errors.kinds != "").sum()
    assert sum((errors.kinds == kind).sum() for kind in KINDS) == counted > 3000
