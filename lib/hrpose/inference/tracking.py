"""Tracking: the same person has the same id in all frames of a video, and steadier joints.

Poses are matched to tracks by OKS, weak poses after strong ones (ByteTrack), and joints are
low-pass filtered (One-Euro). A track is tentative until it has been found in MIN_HITS frames in a
row, then confirmed; confirmed, it may be lost for `max_lost` frames before it ends. This module
imports no torch.

Sources: Zhang et al., ECCV 2022 (ByteTrack); Casiez et al., CHI 2012 (One-Euro filter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from hrpose.ops.oks import BOX_FILL, joint_areas, oks
from hrpose.structures import NO_TRACK, Poses

MIN_JOINT = 0.2
"""Joints above this value are compared."""

MIN_HITS = 3
"""Frames in a row that confirm a track."""

DAMPING = 0.8
"""Factor of a track's velocity after each frame in which it is not found: people stop, too."""

SPEED_CUTOFF = 1.0
"""Cutoff frequency of the One-Euro filter for the speed, in Hz."""

MAX_GAP = 0.5
"""Seconds without a joint after which its filter begins anew."""


@dataclass(frozen=True)
class TrackConfig:
    """How poses become tracks, and how strongly their joints are smoothed."""

    min_oks: float = 0.2  # of a pose and the track that it continues
    min_score: float = 0.3  # a weaker pose continues confirmed tracks, but begins none
    max_lost: int = 30  # frames for which a lost track is kept
    min_cutoff: float = 1.7  # Hz, of a joint at rest; inf: no smoothing
    beta: float = 10.0  # Hz of cutoff for each sqrt(person area) per second of a joint's speed


class OneEuroFilter:
    """A low-pass filter of K joints: strong at rest, where jitter shows, weak in fast motion."""

    def __init__(self, joint_count: int, min_cutoff: float, beta: float) -> None:
        self._min_cutoff, self._beta = min_cutoff, beta
        self._places = np.zeros((joint_count, 2))
        self._velocities = np.zeros((joint_count, 2))  # units per second
        self._times = np.full(joint_count, -np.inf)  # when each joint was found last

    def __call__(self, joints: np.ndarray, time: float, unit: float) -> np.ndarray:
        """Joints (K, 3) at a time in seconds, later than the one before; those found are smoothed.

        unit: pixels in which speeds are measured, sqrt(person area)
        """
        steps = time - self._times
        found = joints[:, 2] > 0
        begins, goes_on = found & (steps > MAX_GAP), found & (steps <= MAX_GAP)
        self._places[begins], self._velocities[begins] = joints[begins, :2], 0

        step = steps[goes_on, None]
        change = joints[goes_on, :2] - self._places[goes_on]
        velocity, weight = self._velocities[goes_on], smoothing_factor(SPEED_CUTOFF, step)
        velocity += weight * (change / (step * unit) - velocity)
        speed = np.hypot(*velocity.T)[:, None]
        cutoff = self._min_cutoff + self._beta * speed
        self._places[goes_on] += smoothing_factor(cutoff, step) * change
        self._velocities[goes_on] = velocity
        self._times[found] = time

        smoothed = joints.copy()
        smoothed[found, :2] = self._places[found]
        return smoothed


def smoothing_factor(cutoff: np.ndarray | float, step: np.ndarray) -> np.ndarray:
    """alpha = 1 / (1 + 1 / (2 pi f dt)), the weight of the newest value in a low-pass filter."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


class Track:
    """One person over time; `joints` (K, 3) is where the person is expected, 0 where unknown."""

    def __init__(self, joints: np.ndarray, time: float, config: TrackConfig) -> None:
        self.joints = self._found = joints
        self._time = time
        self._velocity = np.zeros(2)  # of the pose, pixels per second
        self.hits, self.missed, self.id = 1, 0, NO_TRACK
        self.smooth = OneEuroFilter(len(joints), config.min_cutoff, config.beta)

    def predict(self, step: float) -> None:
        """Move on by `step` seconds, at a velocity that falls from frame to frame."""
        self.joints = self.joints + [*(self._velocity * step), 0]
        self._velocity = self._velocity * DAMPING
        self.missed += 1

    def update(self, joints: np.ndarray, time: float) -> None:
        """The person is found, in this pose (K, 3)."""
        both = (self._found[:, 2] > 0) & (joints[:, 2] > 0)
        if both.any():
            moved = (joints[both, :2] - self._found[both, :2]).mean(0)
            self._velocity = moved / (time - self._time)
        self.joints = self._found = joints
        self._time = time
        self.hits, self.missed = self.hits + 1, 0


class Tracker:
    """Gives the people in the frames of one video their ids, frame by frame.

    sigmas: (K,) OKS tolerance of each joint, of the skeleton
    """

    def __init__(self, sigmas: Sequence[float], config: TrackConfig | None = None) -> None:
        self.config = config or TrackConfig()
        self._sigmas = np.asarray(sigmas)
        self._tracks: list[Track] = []
        self._time = -np.inf
        self._last_id = 0

    def update(self, poses: Poses, time: float) -> Poses:
        """The same poses, in the same order, with track_ids and smoothed joints.

        A pose whose track is tentative, or that has none, has the id NO_TRACK (-1), and keeps its
        joints as they are unless they are of a track. Ids count from 1 in the order in which
        tracks are confirmed.

        time: of the frame in seconds, later than that of the frame before
        Errors: ValueError for a time that is not later, and for joints or scores that are not
        finite; nothing is changed then
        """
        self._check(poses, time)
        for track in self._tracks:
            track.predict(time - self._time)
        self._time = time
        owners = self._match(poses, time)
        for track in owners.values():
            if track.hits >= MIN_HITS and track.id == NO_TRACK:
                self._last_id += 1
                track.id = self._last_id
        self._tracks = [
            track
            for track in self._tracks
            if track.missed <= (self.config.max_lost if track.id != NO_TRACK else 0)
        ]
        return self._label(poses, owners, time)

    def _check(self, poses: Poses, time: float) -> None:
        if not time > self._time or not np.isfinite(time):
            raise ValueError(
                f"a frame at {time} s after one at {self._time} s; give the frames of one video in "
                "their order, with times that increase (index / frame rate if it has none), and "
                "each video a tracker of its own"
            )
        if poses.joints.shape[1:] != (len(self._sigmas), 3):
            raise ValueError(
                f"joints are {poses.joints.shape}; give (N, {len(self._sigmas)}, 3), the joints of "
                "the skeleton whose sigmas the tracker has"
            )
        if not (np.isfinite(poses.joints).all() and np.isfinite(poses.scores).all()):
            raise ValueError(
                f"joints or scores at {time} s are not finite, and would be matched at random; "
                "check the network's outputs, half precision first"
            )

    def _match(self, poses: Poses, time: float) -> dict[int, Track]:
        """Continue tracks with poses, and begin new ones: index of a pose -> its track."""
        joints = np.where(poses.joints[..., 2:] > MIN_JOINT, poses.joints, 0).astype(float)
        strong = poses.scores >= self.config.min_score
        owners = self._assign(self._tracks, np.flatnonzero(strong), joints)
        lost = [track for track in self._tracks if track.id != NO_TRACK]
        lost = [track for track in lost if track not in owners.values()]
        owners |= self._assign(lost, np.flatnonzero(~strong), joints)
        for index, track in owners.items():
            track.update(joints[index], time)
        # A pose of no area has no OKS with any other.
        for index in np.flatnonzero(strong & (joint_areas(joints) > 0)).tolist():
            if index not in owners:
                owners[index] = Track(joints[index], time, self.config)
                self._tracks.append(owners[index])
        return owners

    def _assign(
        self, tracks: Sequence[Track], indices: np.ndarray, joints: np.ndarray
    ) -> dict[int, Track]:
        """The assignment of greatest total OKS among the poses of these indices.

        joints: (N, K, 3) of all poses
        """
        if not tracks or not len(indices):
            return {}
        expected = np.stack([track.joints for track in tracks])
        ages = np.array([track.missed for track in tracks])
        alike = pose_similarities(expected, ages, joints[indices], self._sigmas)
        accepted = alike >= self.config.min_oks
        rows, columns = linear_sum_assignment(np.where(accepted, alike, 0), maximize=True)
        pairs = zip(rows.tolist(), columns.tolist())
        return {int(indices[column]): tracks[row] for row, column in pairs if accepted[row, column]}

    def _label(self, poses: Poses, owners: dict[int, Track], time: float) -> Poses:
        joints, ids = poses.joints.copy(), np.full(len(poses.joints), NO_TRACK)
        units = np.sqrt(np.maximum(BOX_FILL * joint_areas(poses.joints), 1))
        for index, track in owners.items():
            joints[index] = track.smooth(joints[index], time, units[index])
            ids[index] = track.id
        return replace(poses, joints=joints, track_ids=ids)


def pose_similarities(
    expected: np.ndarray, ages: np.ndarray, found: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """OKS (T, N) of expected poses (T, K, 3) and those found (N, K, 3), over common joints.

    Both are uncertain, hence the area of a pair, which scales the variance that OKS tolerates, is
    the sum of both, that of the expected pose times its age.

    ages: (T,) frames since each was found, from 1   Joints of the value 0 are missing.
    """
    both = (expected[:, None, :, 2] > 0) & (found[None, :, :, 2] > 0)  # (T, N, K)
    areas = BOX_FILL * ((ages * joint_areas(expected))[:, None] + joint_areas(found))
    return oks(expected, found, areas, sigmas, both)
