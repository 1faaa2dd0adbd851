"""Clips with identities, the poses that a network might find in them, and how they are tracked."""

from typing import NamedTuple
from unittest.mock import patch

import numpy as np

from hrpose.inference import tracking
from hrpose.ops.oks import BOX_FILL, joint_areas, oks
from hrpose.skeletons import COCO
from hrpose.structures import NO_TRACK, Poses
from hrpose.synthetic.clips import FRAME_RATE, draw_clip
from hrpose.synthetic.scenes import annotate_people
from reference.tracking_metrics import TrackingCounts, count_clip

LEAST_JOINTS = 4  # people of whom fewer are labelled are not looked for
SIGMAS = np.array(COCO.sigmas)


class TrueFrame(NamedTuple):
    """The people of a frame who can be found."""

    ids: list[int]
    joints: np.ndarray  # (N, K, 3): x, y, COCO visibility
    areas: np.ndarray  # (N,) of the whole body, hidden or not


class FinderFaults(NamedTuple):
    """How a simulated network errs."""

    noise: float = 1.0  # deviation of a visible joint, in sigmas of OKS; of a hidden one twice that
    missed: float = 0.08  # probability that a wholly visible person is missed in a frame
    hidden: float = 0.6  # added to it for one who is all but hidden
    false: float = 0.15  # false people per frame


def true_clip(seed, frames=75):
    """The people of every frame of a drawn clip."""
    return [_true_frame(scene) for scene in draw_clip(np.random.default_rng(seed), frames)]


def _true_frame(scene):
    ids, joints, areas = [], [], []
    for number, label in annotate_people(scene, COCO.joints):
        if label["num_keypoints"] >= LEAST_JOINTS:
            points = scene.people[number - 1].points
            body = np.array([[*points[name][:2], 1] for name in COCO.joints])
            ids.append(number)
            joints.append(np.array(label["keypoints"], float).reshape(-1, 3))
            areas.append(BOX_FILL * joint_areas(body[None])[0])
    return TrueFrame(ids, np.array(joints).reshape(-1, len(SIGMAS), 3), np.array(areas))


def find_people(frame, rng, faults=FinderFaults()):  # noqa: B008
    """The poses that a network finds in a frame, with noise, gaps and false people; best first."""
    found = []
    for joints, area in zip(frame.joints, frame.areas):
        visible, labelled = joints[:, 2] == 2, joints[:, 2] > 0
        if rng.random() < faults.missed + faults.hidden * (1 - visible.mean()) ** 2:
            continue
        deviation = faults.noise * SIGMAS * np.sqrt(area) * np.where(visible, 1, 2)
        places = joints[:, :2] + deviation[:, None] * rng.normal(size=(len(SIGMAS), 2))
        value = np.where(visible, 0.5, 0.1) + np.where(visible, 0.5, 0.4) * rng.random(len(SIGMAS))
        value *= labelled & (rng.random(len(SIGMAS)) < np.where(visible, 0.97, 0.4))
        found.append(np.column_stack([places, value]) * (value > 0)[:, None])
    for _ in range(rng.poisson(faults.false) if len(frame.ids) else 0):
        joints = frame.joints[rng.integers(len(frame.ids))].copy()
        joints[:, :2] += 512 * (rng.random(2) - 0.5)
        joints[:, 2] = (joints[:, 2] > 0) * (0.1 + 0.5 * rng.random(len(SIGMAS)))
        found.append(joints)
    joints = np.array(found, np.float32).reshape(-1, len(SIGMAS), 3)
    scores = joints[..., 2].mean(1)
    order = np.argsort(-scores, kind="stable")
    return Poses(joints[order], scores[order])


def track_clip(clip, found, config):
    """What the tracker gives for the poses found in each frame, and its counts."""
    tracker, frames, outputs = tracking.Tracker(COCO.sigmas, config), [], []
    for number, (frame, poses) in enumerate(zip(clip, found)):
        poses = tracker.update(poses, number / FRAME_RATE)
        named = poses.track_ids != NO_TRACK
        alike = true_similarities(frame, poses.joints[named])
        frames.append((frame.ids, poses.track_ids[named].tolist(), alike))
        outputs.append(poses)
    return outputs, count_clip(frames)


def true_similarities(frame, joints):
    """OKS (N, M) of the people to poses (M, K, 3), over the joints that are labelled and found."""
    both = (frame.joints[:, None, :, 2] > 0) & (joints[None, :, :, 2] > 0)
    areas = np.repeat(frame.areas[:, None], len(joints), 1)
    return oks(frame.joints, joints, areas, SIGMAS, both)


def total_counts(clips, config, faults=FinderFaults(), seed=0):  # noqa: B008
    """The counts over several clips, people found with these faults."""
    total = TrackingCounts()
    for number, clip in enumerate(clips):
        rng = np.random.default_rng((seed, number))
        total = total.plus(track_clip(clip, [find_people(f, rng, faults) for f in clip], config)[1])
    return total


def mean_area_oks(expected, ages, found, sigmas):
    """OKS (T, N) where the area of a pair is the mean of both poses' boxes, however old."""
    both = (expected[:, None, :, 2] > 0) & (found[None, :, :, 2] > 0)
    areas = BOX_FILL * (joint_areas(expected)[:, None] + joint_areas(found)) / 2
    return oks(expected, found, areas, sigmas, both)


def box_similarities(expected, ages, found, sigmas):
    """IoU (T, N) of the boxes about the joints found, in place of OKS."""

    def corners(joints):
        xy, seen = joints[..., :2], joints[..., 2:] > 0
        low, high = np.where(seen, xy, np.inf).min(1), np.where(seen, xy, -np.inf).max(1)
        return np.nan_to_num(low), np.nan_to_num(high)

    (low_a, high_a), (low_b, high_b) = corners(expected), corners(found)
    sides = np.minimum(high_a[:, None], high_b) - np.maximum(low_a[:, None], low_b)
    common = np.prod(np.maximum(sides, 0), -1)
    areas = (np.prod(high - low, -1) for high, low in ((high_a, low_a), (high_b, low_b)))
    first, second = areas
    return common / np.maximum(first[:, None] + second - common, 1e-9)


def compare_matching(clips):
    """Counts by rule of matching, on the same poses; from .2, of OKS or IoU, unless .3 is named.

    Of the thresholds .1, .2, .3 and .4 (IoU: .5), .2 had the highest IDF1 of both rules on 40 other
    clips (1000 to 1039).
    """
    counts = {"OKS": total_counts(clips, tracking.TrackConfig())}
    for name, rule in (("OKS, mean area", mean_area_oks), ("box IoU", box_similarities)):
        with patch.object(tracking, "pose_similarities", rule):
            counts[name] = total_counts(clips, tracking.TrackConfig())
            counts[f"{name}, .3"] = total_counts(clips, tracking.TrackConfig(min_oks=0.3))
    return counts


class SmoothingFigures(NamedTuple):
    """Of joints that are visible and found in two frames running, in sqrt(person area)."""

    jitter: float  # variance of the change of a joint's error from frame to frame, over 2
    error: float  # root mean square
    lag: float  # seconds; the shift in time along the true motion that explains most of the error


def compare_smoothing(clips):
    """Figures of the joints as they are found, and smoothed."""
    configs = {
        "raw": tracking.TrackConfig(min_cutoff=np.inf),
        "smoothed": tracking.TrackConfig(),
        "smoothed, beta .3": tracking.TrackConfig(beta=0.3),
    }
    return {name: _smoothing_figures(clips, config) for name, config in configs.items()}


def _smoothing_figures(clips, config):
    changes, errors, against, speeds = [], [], [], []
    for number, clip in enumerate(clips):
        rng = np.random.default_rng((0, number))
        outputs = track_clip(clip, [find_people(frame, rng) for frame in clip], config)[0]
        before = {}
        for frame, poses in zip(clip, outputs):
            now = _joint_errors(frame, poses)
            for person in now.keys() & before.keys():
                (place, error), (old_place, old_error) = now[person], before[person]
                good = np.isfinite(error + old_error).all(1)
                velocity = (place - old_place)[good] * FRAME_RATE
                changes.append((error - old_error)[good].ravel())
                errors.append(error[good].ravel())
                against.append(-(error[good] * velocity).sum())
                speeds.append((velocity**2).sum())
            before = now
    jitter = np.mean(np.concatenate(changes) ** 2) / 2
    error = np.sqrt(2 * np.mean(np.concatenate(errors) ** 2))  # of both coordinates
    return SmoothingFigures(float(jitter), float(error), float(sum(against) / sum(speeds)))


def _joint_errors(frame, poses):
    """person -> true places and errors (K, 2) of the pose of its track; NaN where not visible."""
    named = poses.joints[poses.track_ids != NO_TRACK]
    alike, errors = true_similarities(frame, named), {}
    for row, person in enumerate(frame.ids):
        if len(named) and alike[row].max() > 0.5:
            pose, truth = named[alike[row].argmax()], frame.joints[row]
            unit = np.sqrt(frame.areas[row])
            good = (truth[:, 2:] == 2) & (pose[:, 2:] > 0)
            errors[person] = (
                truth[:, :2] / unit,
                np.where(good, (pose - truth)[:, :2] / unit, np.nan),
            )
    return errors
