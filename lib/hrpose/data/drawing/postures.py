"""How a body stands, walks, waves or sits: plausible joint angles, and the points they lead to.

Body frame: x to the person's own left, y down, z the way the chest faces; the unit is the height
of a person standing upright; the origin lies between the hips. After the view is applied, x is to
the viewer's right and z is nearness to the viewer, so that a person turned by 0 degrees faces us
with the left shoulder to the right.
"""

from __future__ import annotations

from math import cos, radians, sin, sqrt
from typing import NamedTuple

import numpy as np

from hrpose.data.drawing.dice import bell, pick_by_odds

HEAD_RADIUS = 0.088
SIDES = (("left", 1.0), ("right", -1.0))

HALF_SHOULDERS, HALF_HIPS = 0.108, 0.062
_TORSO, _NECK = 0.275, 0.03
_UPPER_ARM, _FOREARM, _HAND = 0.15, 0.13, 0.032
_THIGH, _SHIN = 0.22, 0.21

# Swings in degrees: outwards in the plane of the chest (0 hangs, 90 sideways, 180 up), then
# forwards out of that plane; first the upper bone, then the lower.
_ARMS: dict[str, tuple[float, float, float, float]] = {
    "hanging": (11, -3, 5, 10),
    "loose": (20, -5, 10, 18),
    "swung forward": (8, 24, 4, 45),
    "swung back": (9, -28, 6, -6),
    "on the hip": (42, -16, -42, 14),
    "waving": (82, 8, 158, 8),
    "raised": (150, 6, 170, 6),
    "spread": (90, 2, 88, 5),
    "holding": (14, 14, -150, 50),
    "pointing": (28, 55, 26, 72),
    "folded": (15, 12, -78, 34),
    "behind the head": (118, 0, 222, -12),
}
_ARM_ODDS = (22, 18, 8, 8, 12, 8, 6, 5, 5, 4, 3, 1)

_STRAIGHT = (4, 1, 1, -4)
_LEGS: dict[str, tuple[tuple[float, float, float, float], tuple[float, float, float, float]]] = {
    "standing": (_STRAIGHT, _STRAIGHT),
    "at ease": ((3, 1, 1, -3), (15, 10, 6, -8)),
    "astride": ((17, 2, 12, -4), (17, 2, 12, -4)),
    "walking": ((3, 26, 2, 8), (3, -16, 2, -42)),
    "running": ((4, 48, 2, -36), (3, -24, 2, -72)),
    "lunging": ((30, 22, -2, -8), (28, 0, 22, -6)),
    "crouching": ((34, 48, -2, -42), (34, 48, -2, -42)),
    "sitting": ((11, 74, 3, -4), (11, 74, 3, -4)),
    "jumping": ((30, 20, -12, -46), (24, 8, 2, -34)),
}
_LEG_ODDS = (26, 18, 12, 20, 5, 5, 5, 6, 3)
_BENT = {"running": 12.0, "crouching": 20.0, "sitting": 4.0, "lunging": 6.0, "walking": 4.0}

# Of a head of radius 1 that looks along z.
_FACE = {
    "nose": (0.0, 0.2, 1.0),
    "left_eye": (0.37, -0.04, 0.88),
    "right_eye": (-0.37, -0.04, 0.88),
    "left_ear": (1.0, 0.1, -0.02),
    "right_ear": (-1.0, 0.1, -0.02),
    "left_cheek": (0.4, 0.3, 0.66),
    "right_cheek": (-0.4, 0.3, 0.66),
    "left_brow": (0.4, -0.32, 0.7),
    "right_brow": (-0.4, -0.32, 0.7),
    "left_temple": (0.86, -0.38, 0.0),
    "right_temple": (-0.86, -0.38, 0.0),
    "peak": (0.0, -0.36, 1.4),
    "left_smile": (0.24, 0.48, 0.86),
    "right_smile": (-0.24, 0.48, 0.86),
    "left_lip": (0.13, 0.57, 0.88),
    "right_lip": (-0.13, 0.57, 0.88),
    "chin": (0.0, 0.78, 0.42),
    "crown": (0.0, -0.75, -0.05),
    "nape": (0.0, 0.35, -0.75),
}


class Posture(NamedTuple):
    """One body, seen from one side."""

    stance: str  # a key of _LEGS
    points: dict[str, np.ndarray]  # name -> (3,): x, y, nearness, in standing heights


def _about_x(degrees: float) -> np.ndarray:
    """The rotation (3, 3) that tips the upright forwards."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def _about_y(degrees: float) -> np.ndarray:
    """The rotation (3, 3) that turns the front to the viewer's right."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _about_z(degrees: float) -> np.ndarray:
    """The rotation (3, 3) that leans the upright to the person's left."""
    c, s = cos(radians(degrees)), sin(radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def choose_posture(rng: np.random.Generator) -> Posture:
    """Draw a posture and the side from which it is seen."""
    stance = pick_by_odds(list(_LEGS), _LEG_ODDS, rng)
    lean = 25 * bell(rng) if rng.random() < 0.35 else 8 * bell(rng)
    spine = _about_z(lean) @ _about_x(_BENT.get(stance, 0.0) + 4 * rng.random())
    points = _torso(spine) | _legs(stance, rng) | _arms(spine, rng)
    points |= _head(points["neck"], spine, rng)
    view = _about_x(6 + 6 * rng.random()) @ _about_z(4 * bell(rng)) @ _about_y(_choose_turn(rng))
    seen = np.stack(list(points.values())) @ view.T  # (points, 3)
    return Posture(stance, dict(zip(points, seen)))


def _choose_turn(rng: np.random.Generator) -> float:
    """Degrees: mostly facing us, often facing away, sometimes from the side."""
    centre, spread = pick_by_odds([(0, 32), (180, 30), (60, 25), (-60, 25), (125, 25), (-125, 25)],
                           (52, 20, 9, 9, 5, 5), rng)  # fmt: skip
    return centre + spread * bell(rng)


def _torso(spine: np.ndarray) -> dict[str, np.ndarray]:
    """Trunk points; those in front and behind carry the seams of a jacket."""
    upright = {
        "neck": (0, -_TORSO - 0.005, 0),
        "chest": (0, -0.72 * _TORSO, 0),
        "chest_front": (0, -0.86 * _TORSO, 0.075),
        "chest_back": (0, -0.86 * _TORSO, -0.07),
    }
    points = {name: spine @ place for name, place in upright.items()}
    points |= {"pelvis": np.zeros(3)}
    points |= {"fly": np.array([0, 0.02, 0.06]), "tail": np.array([0, 0.02, -0.065])}
    for side, sign in SIDES:
        points[f"{side}_shoulder"] = spine @ (sign * HALF_SHOULDERS, -_TORSO + 0.02, 0)
        points[f"{side}_waist"] = spine @ (sign * 0.058, -0.12 * _TORSO, 0)
        points[f"{side}_hip"] = np.array([sign * HALF_HIPS, 0.0, 0.0])
    return points


def _arms(spine: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    points: dict[str, np.ndarray] = {}
    gesture = pick_by_odds(list(_ARMS), _ARM_ODDS, rng)
    for side, sign in SIDES:
        if rng.random() < 0.55:
            gesture = pick_by_odds(list(_ARMS), _ARM_ODDS, rng)
        upper, lower = _swing(_ARMS[gesture], 10, sign, rng)
        shoulder = spine @ (sign * HALF_SHOULDERS, -_TORSO + 0.02, 0)
        elbow = shoulder + spine @ upper * _UPPER_ARM
        wrist = elbow + spine @ lower * _FOREARM
        points |= {f"{side}_elbow": elbow, f"{side}_wrist": wrist}
        points[f"{side}_hand"] = wrist + spine @ lower * _HAND
    return points


def _legs(stance: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    points: dict[str, np.ndarray] = {}
    order = (0, 1) if rng.random() < 0.5 else (1, 0)
    for (side, sign), which in zip(SIDES, order):
        upper, lower = _swing(_LEGS[stance][which], 5, sign, rng)
        knee = np.array([sign * HALF_HIPS, 0.0, 0.0]) + upper * _THIGH
        ankle = knee + lower * _SHIN
        toes = _across(lower, np.array([sign * 0.35, 0.1, 1.0]))
        points |= {f"{side}_knee": knee, f"{side}_ankle": ankle}
        points[f"{side}_heel"] = ankle + lower * 0.03 - toes * 0.012
        points[f"{side}_toe"] = ankle + lower * 0.037 + toes * 0.068
    return points


def _head(neck: np.ndarray, spine: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The head follows half of the spine's lean and turns on its own."""
    poise = _about_z(9 * bell(rng)) @ _about_x(4 + 8 * bell(rng)) @ _about_y(28 * bell(rng))
    upright = neck * 0.55 + np.array([0, neck[1] * 0.45, 0])
    rise = upright / sqrt(float(upright @ upright))
    centre = neck + rise * (_NECK + 0.8 * HEAD_RADIUS) + spine @ (0, 0, 0.012)
    points = {name: centre + HEAD_RADIUS * (poise @ place) for name, place in _FACE.items()}
    return points | {"head": centre}


def _swing(
    swings: tuple[float, float, float, float], spread: float, sign: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Directions of the upper and the lower bone, each (3,)."""
    angles = np.array(swings) + spread * (2 * rng.random(4) - 1)
    return _direction(angles[0], angles[1], sign), _direction(angles[2], angles[3], sign)


def _direction(out: float, forward: float, sign: float) -> np.ndarray:
    o, f = radians(out), radians(forward)
    return np.array([sign * sin(o) * cos(f), cos(o) * cos(f), sin(f)])


def _across(bone: np.ndarray, wish: np.ndarray) -> np.ndarray:
    """The unit vector at right angles to `bone` nearest to `wish`."""
    rest = wish - bone * (bone @ wish)
    return rest / sqrt(float(rest @ rest))
