"""Tracks: the metrics by hand, what holds of any tracker and filter, and drawn clips."""

import json
import math
import zlib
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

import tracked_clips
from commands import ROOT
from hrpose.builders.tracking import build_tracker
from hrpose.config.loading import load_config
from hrpose.inference.tracking import MIN_HITS, OneEuroFilter, TrackConfig, Tracker
from hrpose.skeletons import COCO
from hrpose.structures import NO_TRACK, Poses, to_results
from hrpose.synthetic.clips import annotate_clip, draw_clip
from hrpose.synthetic.dataset import write_clips
from hrpose.synthetic.drawing import IDS_PER_PERSON, IMAGE_SIZE
from reference.tracking_metrics import count_clip, one_euro
from tracked_clips import FRAME_RATE

RAW = TrackConfig(min_cutoff=math.inf)
BODY = np.random.default_rng(5).uniform(0, 100, (17, 2)) * (1, 2)  # 100 x 200 px


def poses_at(places, score=0.9):
    """People of one shape, at these places."""
    joints = np.array([[[*point, score] for point in BODY + place] for place in places])
    return Poses(joints.reshape(-1, 17, 3), np.full(len(places), score))


def track(frames, config=RAW):
    """The outputs for poses, 25 a second."""
    tracker = Tracker(COCO.sigmas, config)
    return [tracker.update(poses, n / 25) for n, poses in enumerate(frames)]


def ids(outputs):
    return [output.track_ids.tolist() for output in outputs]


def crossing(frames=60):
    """Places of two people who meet in the middle, one 15 px lower."""
    return [[(6.0 * n, 0), (6.0 * (frames - n), 15)] for n in range(frames)]


# ---- the reference metrics, by hand


def test_perfect_tracks_have_mota_and_idf1_of_1():
    counts = count_clip([([1, 2], [7, 8], [[1, 0], [0, 1]])] * 3)
    assert (counts.mota, counts.idf1, counts.switches) == (1, 1, 0)


def test_one_identity_in_two_halves_is_one_switch():
    counts = count_clip([([1], [7], [[1]])] * 2 + [([1], [8], [[1]])] * 2)
    assert (counts.switches, counts.mota, counts.idf1) == (1, 1 - 1 / 4, 2 * 2 / (4 + 4))


def test_missed_and_false_people_are_counted():
    counts = count_clip([([1, 2], [7], [[1], [0]]), ([1], [7, 9], [[1, 0.4]])])
    assert (counts.missed, counts.false, counts.switches) == (1, 1, 0)
    assert counts.mota == 1 - 2 / 3 and counts.idf1 == 2 * 2 / (3 + 3)


def test_a_pair_is_kept_while_it_fits_though_another_fits_better():
    counts = count_clip([([1], [7], [[1]]), ([1], [7, 8], [[0.6, 0.9]])])
    assert (counts.switches, counts.false) == (0, 1)


def test_nobody_has_no_counts():
    assert not any(count_clip([([], [], [])]))


# ---- identities


@pytest.mark.parametrize("mirrored", [False, True])
def test_ids_survive_a_crossing(mirrored):
    frames = [poses_at(places) for places in crossing()]
    if mirrored:
        for poses in frames:
            poses.joints[..., 0] = 500 - poses.joints[..., 0]
    named = ids(track(frames))
    assert named[: MIN_HITS - 1] == [[NO_TRACK] * 2] * (MIN_HITS - 1)
    assert named[MIN_HITS - 1 :] == [[1, 2]] * (len(frames) - MIN_HITS + 1)


@pytest.mark.parametrize(("gap", "expected"), [(1, 1), (5, 1), (30, 1), (31, NO_TRACK)])
def test_a_person_is_found_again_after_max_lost_frames_at_most(gap, expected):
    places = [[(40, 0)]] * 5 + [[]] * gap + [[(42, 0)]]
    assert ids(track([poses_at(p) for p in places], replace(RAW, max_lost=30)))[-1] == [expected]


def test_a_walker_is_found_again_where_the_walk_leads():
    walk = [poses_at([(8.0 * n, 0)]) for n in range(20)]
    assert ids(track(walk[:10] + [poses_at([])] * 2 + walk[12:]))[-1] == [1]


def test_the_order_of_poses_changes_nothing(rng):
    frames = [poses_at([*places, (700, 0), (0, 400)]) for places in crossing()]
    orders = [rng.permutation(4) for _ in frames]
    mixed = [Poses(p.joints[order], p.scores[order]) for p, order in zip(frames, orders)]
    names = dict(enumerate((orders[0] + 1).tolist(), start=1))  # ids follow the first frame
    for n, (plain, other) in enumerate(zip(track(frames), track(mixed))):
        if n >= MIN_HITS - 1:
            of_people = plain.track_ids[orders[n]].tolist()
            assert sorted(of_people) == [1, 2, 3, 4]
            assert [names[i] for i in other.track_ids.tolist()] == of_people


def test_a_weak_pose_continues_a_track_but_begins_none():
    strong, weak = poses_at([(0, 0)]), poses_at([(0, 0)], 0.25)
    assert ids(track([strong] * 3 + [weak] * 5 + [strong]))[2:] == [[1]] * 7
    assert ids(track([weak] * 9)) == [[NO_TRACK]] * 9


def test_a_pose_seen_once_has_no_id():
    assert ids(track([poses_at([(0, 0)]), poses_at([]), *[poses_at([(0, 0)])] * 2]))[-1] == [-1]


def test_nobody_is_nobody():
    (output,) = track([poses_at([])])
    assert output.joints.shape == (0, 17, 3) and output.track_ids.shape == (0,)


def test_forty_people_keep_their_ids(rng):
    places = np.stack(np.meshgrid(np.arange(8) * 90, np.arange(5) * 180), -1).reshape(-1, 2)
    frames = [poses_at(places + rng.normal(0, 2, places.shape)) for _ in range(10)]
    assert ids(track(frames))[-1] == list(range(1, 41))


def test_a_pose_without_joints_has_no_id():
    assert ids(track([Poses(np.zeros((1, 17, 3)), np.ones(1))] * 5))[-1] == [NO_TRACK]


@pytest.mark.parametrize("time", [1.0, 0.5, math.nan, math.inf])
def test_times_that_do_not_increase_are_refused(time):
    tracker = Tracker(COCO.sigmas)
    tracker.update(poses_at([]), 1.0)
    with pytest.raises(ValueError, match="times that increase"):
        tracker.update(poses_at([]), time)


@pytest.mark.parametrize("name", ["joints", "scores"])
def test_values_that_are_not_finite_are_refused_and_change_nothing(name):
    tracker, poses = Tracker(COCO.sigmas), poses_at([(0, 0)])
    broken = replace(poses, **{name: np.full_like(getattr(poses, name), np.nan)})
    with pytest.raises(ValueError, match="not finite"):
        tracker.update(broken, 0.0)
    assert tracker.update(poses, 0.0).track_ids.tolist() == [NO_TRACK]


def test_joints_of_another_skeleton_are_refused():
    with pytest.raises(ValueError, match="whose sigmas"):
        Tracker(COCO.sigmas[:5]).update(poses_at([(0, 0)]), 0.0)


def test_results_name_confirmed_tracks_only():
    poses = replace(poses_at([(0, 0), (9, 9)]), track_ids=np.array([4, NO_TRACK]))
    named, unnamed = to_results(1, poses, 1)
    assert named["track_id"] == 4 and "track_id" not in unnamed


def test_the_tracker_of_a_config_has_its_options_and_skeleton():
    config = load_config(ROOT / "configs/quickstart.yaml")
    assert build_tracker(config) is None
    options = ["TEST.TRACK.ENABLED", "true", "TEST.TRACK.MAX_LOST", "7"]
    tracker = build_tracker(load_config(ROOT / "configs/quickstart.yaml", options))
    assert tracker.config == TrackConfig(max_lost=7)
    assert tracker.update(poses_at([(0, 0)]), 0.0).track_ids.tolist() == [NO_TRACK]
    with pytest.raises(ValueError, match="no effect"):
        load_config(ROOT / "configs/quickstart.yaml", options[2:])


# ---- smoothing


def filtered(points, times, cutoff=1.7, beta=10.0, unit=1.0):
    """What a filter makes of points (T, K, 2)."""
    smooth = OneEuroFilter(points.shape[1], cutoff, beta)
    found = np.concatenate([points, np.ones_like(points[..., :1])], 2)
    return np.array([smooth(row, time, unit)[:, :2] for row, time in zip(found, times)])


def test_the_filter_is_that_of_single_joints(rng):
    points, times = rng.normal(0, 5, (40, 3, 2)).cumsum(0), rng.uniform(0.01, 0.2, 40).cumsum()
    result = filtered(points, times, 1.3, 0.7, unit=4.0)
    for joint in range(3):
        alone = 4 * np.array(one_euro((points[:, joint] / 4).tolist(), times.tolist(), 1.3, 0.7))
        np.testing.assert_allclose(result[:, joint], alone, rtol=1e-12)


def test_a_joint_at_rest_stays_and_no_cutoff_changes_nothing(rng):
    rest = np.full((30, 2, 2), 7.25)
    assert (filtered(rest, np.arange(30) / 25) == rest).all()
    points = rng.normal(size=(30, 2, 2))
    np.testing.assert_allclose(filtered(points, np.arange(30) / 25, np.inf), points, atol=1e-12)


def test_a_step_reaches_95_percent_in_the_time_of_its_cutoff():
    """Without beta the rest of a step shrinks by 1 - alpha a frame."""
    alpha = 1 / (1 + 25 / (2 * math.pi * 1.7))
    frames = math.ceil(math.log(0.05) / math.log(1 - alpha))
    points = np.where(np.arange(40) > 0, 1.0, 0.0)[:, None, None] * np.ones((1, 1, 2))
    reached = filtered(points, np.arange(40) / 25, beta=0.0)[:, 0, 0] >= 0.95
    assert reached.argmax() == frames
    assert filtered(points, np.arange(40) / 25)[1, 0, 0] > 0.9  # beta follows a fast motion


def test_the_variance_of_jitter_falls(rng):
    noise = rng.normal(0, 0.01, (400, 17, 2))
    assert filtered(noise, np.arange(400) / 25)[50:].var() < 0.35 * noise[50:].var()


def test_smoothing_does_not_depend_on_the_size_of_the_image(rng):
    frames = [poses_at([(2.0 * n, 0) + rng.normal(0, 1, 2)]) for n in range(12)]
    large = [Poses(p.joints * (3, 3, 1), p.scores) for p in frames]
    for one, three in zip(track(frames, TrackConfig()), track(large, TrackConfig())):
        np.testing.assert_allclose(one.joints * (3, 3, 1), three.joints, rtol=1e-9)


def test_a_joint_not_found_is_not_invented_and_begins_anew_after_a_gap():
    smooth = OneEuroFilter(1, 1.7, 0.0)
    smooth(np.array([[10.0, 10, 1]]), 0.0, 1.0)
    lost = np.array([[0.0, 0, 0]])
    assert (smooth(lost, 0.1, 1.0) == lost).all()
    near = smooth(np.array([[20.0, 20, 1]]), 0.4, 1.0)
    assert 10 < near[0, 0] < 20
    later = np.array([[90.0, 90, 1]])
    assert (smooth(later, 1.0, 1.0) == later).all()


# ---- clips


@lru_cache(maxsize=1)
def short_clip():
    """The scenes of a clip of 8 frames, and images and annotations of each."""
    scenes = list(draw_clip(np.random.default_rng(3), 8))
    return scenes, list(annotate_clip(iter(scenes)))


def test_people_of_a_clip_keep_number_clothes_and_pace():
    scenes, _ = short_clip()
    for before, after in zip(scenes, scenes[1:]):
        assert len(before.people) == len(after.people)
        for one, two in zip(before.people, after.people):
            assert one.outfit == two.outfit
            step = two.points["pelvis"][:2] - one.points["pelvis"][:2]
            assert np.hypot(*step) < 0.1 * one.unit  # a step of a walk, in 1/25 s


def test_truth_of_a_clip_lies_in_the_picture_and_on_the_person():
    scenes, frames = short_clip()
    for scene, (image, labels) in zip(scenes, frames):
        assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        numbers = [label["track_id"] for label in labels]
        assert len(set(numbers)) == len(numbers) > 0
        for label in labels:
            x, y, v = np.array(label["keypoints"]).reshape(-1, 3).T
            assert ((x >= 0) & (x < IMAGE_SIZE) & (y >= 0) & (y < IMAGE_SIZE)).all()
            rows, columns = y[v == 2].astype(int), x[v == 2].astype(int)
            numbers = scene.canvas.ids[rows, columns] // IDS_PER_PERSON
            assert (numbers == label["track_id"]).all()


def test_a_clip_is_the_same_on_every_machine():
    _, frames = short_clip()
    kept = [[(a["track_id"], a["bbox"], a["keypoints"]) for a in labels] for _, labels in frames]
    assert zlib.crc32(repr(kept).encode()) == 3380740578


def test_clips_are_written_as_a_coco_set_with_identities(tmp_path):
    for _ in range(2):  # the second time nothing is drawn
        write_clips(tmp_path, 2, seed=0, frames=2)
    index = json.loads((tmp_path / "annotations/person_keypoints_clips.json").read_text())
    names = [f"{clip}/{frame}.jpg" for clip in ("0001", "0002") for frame in ("000000", "000001")]
    assert [image["file_name"] for image in index["images"]] == names
    assert all((tmp_path / "images/clips" / name).is_file() for name in names)
    people = [{a["track_id"] for a in index["annotations"] if a["image_id"] == i} for i in (1, 2)]
    assert people[0] and people[0] == people[1]


# ---- must show: both rules of matching on the same poses


def compare(count):
    """Counts by name of the rule, and smoothing figures by name, of `count` clips."""
    clips = [tracked_clips.true_clip(seed) for seed in range(count)]
    return tracked_clips.compare_matching(clips), tracked_clips.compare_smoothing(clips)


def test_oks_switches_less_than_box_iou_and_smoothing_steadies():
    rules, smoothing = compare(3)
    assert rules["OKS"].switches <= rules["box IoU"].switches
    assert rules["OKS"].idf1 > rules["box IoU"].idf1
    assert smoothing["smoothed"].jitter < 0.75 * smoothing["raw"].jitter
    assert smoothing["smoothed"].error < smoothing["raw"].error
    assert smoothing["smoothed"].lag < 1 / FRAME_RATE


@pytest.mark.long
def test_the_table_of_200_clips(capsys):
    rules, smoothing = compare(200)
    with capsys.disabled():
        print("\n| matching | switches | IDF1 | MOTA | missed | false | people |")
        for name, c in rules.items():
            print(f"| {name} | {c.switches} | {c.idf1:.3f} | {c.mota:.3f} | {c.missed} "
                  f"| {c.false} | {c.people} |")  # fmt: skip
        print("| joints | jitter variance | error | lag, ms |")
        for name, s in smoothing.items():
            print(f"| {name} | {s.jitter:.3g} | {s.error:.4f} | {1000 * s.lag:.1f} |")
    assert rules["OKS"].switches < rules["box IoU"].switches
