"""A random person: body proportions, posture, viewpoint and clothing.

Body frame: x to the person's left, y down, z to the front of the chest; unit: the standing height;
origin: midway between the hips. Camera frame: x to the right of the image, y down, z towards the
camera. Unturned, people face the camera, and their left shoulder is on the right of the image.
Random numbers are uniform, or sums of uniform ones: the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, radians, sin, sqrt
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator

_T = TypeVar("_T")
Colour = tuple[int, ...]  # red, green, blue: 0 to 255
Disc = tuple[float, float, float]  # x, y, radius
Points = dict[str, np.ndarray]  # name -> (3,): x, y, z

SIDES = {"left": 1.0, "right": -1.0}  # and their sign of x in the body frame

HEAD_RADIUS, _HALF_SHOULDERS, _HALF_HIPS = 0.088, 0.108, 0.062
_TORSO, _NECK = 0.275, 0.03
_UPPER_ARM, _FOREARM, _HAND = 0.15, 0.13, 0.032
_THIGH, _SHIN = 0.22, 0.21


def _both_sides(places: dict[str, tuple[float, float, float]]) -> Points:
    """`places`, and the mirror images on the right of those on the left."""
    return {
        name.replace("left", side): np.array([sign * x, y, z])
        for side, sign in reversed(SIDES.items())
        for name, (x, y, z) in places.items()
    }


# fmt: off
# _SPINE moves with the spine; chest_front and chest_back carry the jacket's seams.
_SPINE = _both_sides({
    "neck": (0.0, -_TORSO - 0.005, 0.0), "chest": (0.0, -0.72 * _TORSO, 0.0),
    "chest_front": (0.0, -0.86 * _TORSO, 0.075), "chest_back": (0.0, -0.86 * _TORSO, -0.07),
    "left_shoulder": (_HALF_SHOULDERS, -_TORSO + 0.02, 0.0),
    "left_waist": (0.058, -0.12 * _TORSO, 0.0),
})
_PELVIS = _both_sides({
    "pelvis": (0.0, 0.0, 0.0), "fly": (0.0, 0.02, 0.06), "tail": (0.0, 0.02, -0.065),
    "left_hip": (_HALF_HIPS, 0.0, 0.0),
})
_HEAD = _both_sides({  # on a head of radius 1 that faces along z
    "nose": (0.0, 0.2, 1.0), "peak": (0.0, -0.36, 1.4), "chin": (0.0, 0.78, 0.42),
    "crown": (0.0, -0.75, -0.05), "nape": (0.0, 0.35, -0.75), "left_eye": (0.37, -0.04, 0.88),
    "left_ear": (1.0, 0.1, -0.02), "left_cheek": (0.4, 0.3, 0.66), "left_brow": (0.4, -0.32, 0.7),
    "left_temple": (0.86, -0.38, 0.0), "left_smile": (0.24, 0.48, 0.86),
    "left_lip": (0.13, 0.57, 0.88),
})

# Weight; degrees: abduction in the plane of the chest (0 hangs, 90 sideways, 180 up) and flexion
# forwards out of that plane, of the upper bone, then of the lower bone.
_ARMS = {
    "hanging": (22, (11, -3, 5, 10)), "loose": (18, (20, -5, 10, 18)),
    "swung forward": (8, (8, 24, 4, 45)), "swung back": (8, (9, -28, 6, -6)),
    "on the hip": (12, (42, -16, -42, 14)), "waving": (8, (82, 8, 158, 8)),
    "raised": (6, (150, 6, 170, 6)), "spread": (5, (90, 2, 88, 5)),
    "holding": (5, (14, 14, -150, 50)), "pointing": (4, (28, 55, 26, 72)),
    "folded": (3, (15, 12, -78, 34)), "behind the head": (1, (118, 0, 222, -12)),
}
_LEGS = {  # and by how much the spine is bent forwards
    "standing": (26, ((4, 1, 1, -4), (4, 1, 1, -4)), 0),
    "at ease": (18, ((3, 1, 1, -3), (15, 10, 6, -8)), 0),
    "astride": (12, ((17, 2, 12, -4), (17, 2, 12, -4)), 0),
    "walking": (20, ((3, 26, 2, 8), (3, -16, 2, -42)), 4),
    "running": (5, ((4, 48, 2, -36), (3, -24, 2, -72)), 12),
    "lunging": (5, ((30, 22, -2, -8), (28, 0, 22, -6)), 6),
    "crouching": (5, ((34, 48, -2, -42), (34, 48, -2, -42)), 20),
    "sitting": (6, ((11, 74, 3, -4), (11, 74, 3, -4)), 4),
    "jumping": (3, ((30, 20, -12, -46), (24, 8, 2, -34)), 0),
}
_TURNS = {(0, 32): 52, (180, 30): 20, (60, 25): 9, (-60, 25): 9, (125, 25): 5, (-125, 25): 5}

# Depth relative to a point, in standing heights, beyond which the body hides its own joint.
_HIDDEN_DEPTH = {
    "eye": ("head", 0.05 * HEAD_RADIUS), "ear": ("head", -0.62 * HEAD_RADIUS),
    "shoulder": ("chest", -0.85 * _HALF_SHOULDERS), "hip": ("pelvis", -0.85 * _HALF_HIPS),
}

_COLOURS: dict[str, Sequence[Colour]] = {  # what an outfit chooses from, in the order of the draws
    "left_top": ((252, 206, 84), (255, 164, 84), (250, 128, 106), (255, 232, 196), (252, 178, 190),
                 (246, 244, 238), (255, 112, 84), (228, 208, 132)),
    "right_top": ((38, 56, 110), (22, 92, 98), (78, 52, 120), (34, 84, 62), (52, 58, 74),
                  (86, 38, 66), (28, 76, 132), (44, 44, 52)),
    "skin": ((255, 219, 188), (243, 196, 158), (224, 168, 126), (192, 132, 92), (150, 98, 66)),
    "hair": ((44, 32, 30), (78, 50, 34), (122, 74, 40), (196, 148, 76), (96, 92, 96),
             (140, 58, 34)),
    "left_leg": ((238, 214, 160), (206, 196, 176), (238, 186, 130), (226, 226, 222),
                 (232, 170, 150)),
    "right_leg": ((36, 44, 76), (46, 50, 58), (40, 66, 70), (66, 46, 70), (60, 52, 46)),
    "left_shoe": ((255, 250, 240), (255, 226, 90), (255, 150, 120)),
    "right_shoe": ((30, 30, 36), (56, 30, 40), (26, 36, 66)),
    "accent": ((226, 52, 62), (255, 255, 255), (34, 168, 196), (250, 190, 40)),
}
_STYLES = {  # an option named twice is twice as common
    "sleeves": ("long", "short"),
    "bottoms": ("trousers", "trousers", "shorts", "shorts", "skirt"),
    "hair": ("short", "short", "long", "long", "bun", "cap"),
    "face": ("plain", "plain", "plain", "glasses", "beard"),
}
# fmt: on


class Outfit(NamedTuple):
    """Clothes, hair and build, which distinguish one person from another.

    Light and warm colours on the left, dark and cool ones on the right: the sides differ in
    appearance, seen from the front and from behind.
    """

    colours: dict[str, Colour]  # by the keys of _COLOURS
    styles: dict[str, str]  # by the keys of _STYLES
    girth: float


class SyntheticPerson(NamedTuple):
    """A person placed in the image."""

    stance: str  # a key of _LEGS
    points: Points  # x, y: pixels; z: pixels towards the camera
    unit: float  # pixels per standing height
    outfit: Outfit

    def depth(self, name: str, reference: str) -> float:
        """How much nearer to the camera `name` is than `reference`, in standing heights."""
        return float(self.points[name][2] - self.points[reference][2]) / self.unit

    def hides(self, joint: str) -> bool:
        """Whether a joint lies behind the person's own head or trunk."""
        _, _, kind = joint.partition("_")
        reference, limit = _HIDDEN_DEPTH.get(kind, (joint, 0.0))
        return self.depth(joint, reference) < limit

    def faces_away(self) -> bool:
        """Whether only hair is visible of the head."""
        return self.depth("nose", "head") < -0.25 * HEAD_RADIUS

    def disc(self, radius: float, start: str, end: str = "", fraction: float = 0.0) -> Disc:
        """A disc at `start`, or `fraction` of the way to `end`; radius in standing heights."""
        first = self.points[start]
        x, y, _ = (first + (self.points[end or start] - first) * fraction).tolist()
        return x, y, radius * self.unit

    def lowest(self) -> float:
        """y in pixels of the lowest point, where the person touches the ground."""
        return max(float(point[1]) for point in self.points.values())


def choice(options: Sequence[_T], rng: Generator) -> _T:
    """One of `options`, uniformly."""
    return options[int(rng.integers(len(options)))]


def weighted_choice(weights: Mapping[_T, int], rng: Generator) -> _T:
    """One of the keys with probability proportional to its weight."""
    return choice([option for option, weight in weights.items() for _ in range(weight)], rng)


def _bell(rng: Generator) -> float:
    """A bell-shaped (Irwin-Hall) number in -1..1: the scaled sum of three uniform ones."""
    return float(rng.random(3).sum() / 1.5 - 1)


def sample_outfit(rng: Generator) -> Outfit:
    """Draw the clothes, hair and build of one person."""
    colours = {name: choice(options, rng) for name, options in _COLOURS.items()}
    styles = {name: choice(options, rng) for name, options in _STYLES.items()}
    return Outfit(colours, styles, girth=0.92 + 0.3 * float(rng.random()))


def sample_posture(rng: Generator) -> tuple[str, Points]:
    """Draw a stance and the body's points in the camera frame, in standing heights."""
    stance = weighted_choice({name: weight for name, (weight, _, _) in _LEGS.items()}, rng)
    _, swings, bend = _LEGS[stance]
    return stance, _pose_body(swings, bend, _TURNS, rng)


def sample_stride(direction: int, rng: Generator) -> tuple[Points, Points]:
    """The two ends of a person's stride, the left or the right leg in front, as `sample_posture`.

    direction: 1 walks to the right of the image, -1 to the left
    """
    _, swings, bend = _LEGS["walking"]
    turns, seed = {(65 * direction, 25): 1}, int(rng.integers(1 << 32))
    first, second = (
        _pose_body(legs, bend, turns, np.random.default_rng(seed))
        for legs in (swings, swings[::-1])
    )
    return first, second


def _pose_body(
    swings: Sequence[Sequence[float]],
    bend: float,
    turns: dict[tuple[int, int], int],
    rng: Generator,
) -> Points:
    """The body's points in the camera frame.

    swings: of the legs   bend: of the spine   turns: (mean, spread) in degrees -> weight
    """
    lean = 25 * _bell(rng) if rng.random() < 0.35 else 8 * _bell(rng)
    spine = _rotation("z", lean) @ _rotation("x", -bend - 4 * rng.random())
    points = {name: spine @ place for name, place in _SPINE.items()} | _PELVIS
    _add_legs(points, swings, rng)
    _add_arms(points, spine, rng)
    _add_head(points, spine, rng)
    pitch, roll = _rotation("x", -6 - 6 * rng.random()), _rotation("z", 4 * _bell(rng))
    turn, spread = weighted_choice(turns, rng)
    view = pitch @ roll @ _rotation("y", turn + spread * _bell(rng))
    seen = np.stack(list(points.values())) @ view.T  # (points, 3)
    return dict(zip(points, seen))


def _rotation(axis: str, degrees: float) -> np.ndarray:
    """The right-handed rotation (3, 3) about one axis.

    Positive: "x" leans backwards, "y" turns the front to the person's left, "z" leans to the left.
    """
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix, angle = np.eye(3), radians(degrees)
    matrix[[i, i, j, j], [i, j, i, j]] = cos(angle), -sin(angle), sin(angle), cos(angle)
    return matrix


def _add_legs(points: Points, swings: Sequence[Sequence[float]], rng: Generator) -> None:
    for side, swing in zip(SIDES, swings if rng.random() < 0.5 else swings[::-1]):
        upper, lower = _bones(swing, 5, side, rng)
        knee = points[f"{side}_hip"] + upper * _THIGH
        ankle = knee + lower * _SHIN
        forwards = np.array([SIDES[side] * 0.35, 0.1, 1.0])
        forwards = forwards - lower * (lower @ forwards)  # at right angles to the shin
        toes = forwards / sqrt(float(forwards @ forwards))
        points |= {f"{side}_knee": knee, f"{side}_ankle": ankle}
        points[f"{side}_heel"] = ankle + lower * 0.03 - toes * 0.012
        points[f"{side}_toe"] = ankle + lower * 0.037 + toes * 0.068


def _add_arms(points: Points, spine: np.ndarray, rng: Generator) -> None:
    """Both arms make the same gesture, or each its own."""
    weights = {name: weight for name, (weight, _) in _ARMS.items()}
    gesture = weighted_choice(weights, rng)
    for side in SIDES:
        if rng.random() < 0.55:
            gesture = weighted_choice(weights, rng)
        upper, lower = _bones(_ARMS[gesture][1], 10, side, rng)
        elbow = points[f"{side}_shoulder"] + spine @ upper * _UPPER_ARM
        wrist = elbow + spine @ lower * _FOREARM
        points |= {f"{side}_elbow": elbow, f"{side}_wrist": wrist}
        points[f"{side}_hand"] = wrist + spine @ lower * _HAND


def _bones(swings: Sequence[float], spread: float, side: str, rng: Generator) -> list[np.ndarray]:
    """Unit vectors (3,) along the upper and the lower bone; angles vary by `spread` degrees."""
    angles = map(radians, np.array(swings) + spread * (2 * rng.random(4) - 1))
    return [
        np.array([SIDES[side] * sin(a) * cos(f), cos(a) * cos(f), sin(f)])
        for a, f in zip(angles, angles)  # abduction and flexion
    ]


def _add_head(points: Points, spine: np.ndarray, rng: Generator) -> None:
    """The head follows half of the spine's lean and turns on its own."""
    roll, pitch = _rotation("z", 9 * _bell(rng)), _rotation("x", -4 - 8 * _bell(rng))
    pose = roll @ pitch @ _rotation("y", 28 * _bell(rng))
    neck = points["neck"]
    upright = neck * 0.55 + np.array([0, neck[1] * 0.45, 0])
    rise = upright / sqrt(float(upright @ upright))
    centre = neck + rise * (_NECK + 0.8 * HEAD_RADIUS) + spine @ (0, 0, 0.012)
    points |= {name: centre + HEAD_RADIUS * (pose @ place) for name, place in _HEAD.items()}
    points["head"] = centre


def body_extent(points: Points) -> tuple[float, float]:
    """y of the highest hair or finger and of the soles, in standing heights."""
    hands = min(float(points[f"{side}_hand"][1]) for side in SIDES) - 0.034
    hair = float(points["head"][1]) - 1.25 * HEAD_RADIUS
    feet = [float(points[f"{side}_{end}"][1]) for side in SIDES for end in ("toe", "heel")]
    return min(hands, hair), max(feet) + 0.022


def place_person(
    posture: tuple[str, Points], outfit: Outfit, unit: float, x: float, ground: float
) -> SyntheticPerson:
    """A person of `unit` pixels standing on the line y = `ground`, the pelvis at `x`."""
    stance, points = posture
    shift = np.array([x, ground - body_extent(points)[1] * unit, 0.0])
    placed = {name: point * unit + shift for name, point in points.items()}
    return SyntheticPerson(stance, placed, unit, outfit)
