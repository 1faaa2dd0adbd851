"""Clips: people who walk through a scene, with the same identity in every frame.

Some cross, stop, are hidden by one another or by an object, enter or leave the picture, come nearer
or go away. Truth is that of a scene: counts over the ID buffer, and rounded coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi, sin
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from hrpose.skeletons import COCO
from hrpose.synthetic import body
from hrpose.synthetic.body import Outfit, Points, SyntheticPerson
from hrpose.synthetic.drawing import IMAGE_SIZE, Canvas
from hrpose.synthetic.scenery import add_texture, draw_place
from hrpose.synthetic.scenes import (
    Ground,
    Scene,
    annotate_people,
    draw_in_order,
    sample_ground,
    sample_standing,
)

FRAME_RATE = 25.0  # Hz
FRAMES = 75

_STRIDE = 0.85  # standing heights from a step with one leg to the next with the same
_SPEEDS = (0.55, 0.95)  # standing heights per second
_HEIGHTS = (110.0, 230.0)  # pixels, in the middle of the clip
_GROWTH = 0.12  # largest relative change of the height per second
_STANDING_SHARE, _STOPPING_SHARE = 0.15, 0.25


class Walker(NamedTuple):
    """A person on a straight path."""

    stride: tuple[Points, Points]  # the two ends of a stride, in standing heights
    outfit: Outfit
    x: float  # pixels, at the time `passes`
    passes: float  # seconds
    speed: float  # standing heights per second, to the right
    stops: float  # seconds: stands still from then on
    height: float  # pixels, in the middle of the clip
    growth: float  # relative change of the height per second

    def at(self, time: float, middle: float, ground: Ground) -> SyntheticPerson:
        """The person at a time in seconds; middle: of the clip."""
        moving = min(time, self.stops)
        distance = self.speed * (moving - self.passes)
        share = 0.5 + 0.5 * sin(2 * pi * distance / _STRIDE)
        first, second = self.stride
        points = {name: first[name] + share * (second[name] - first[name]) for name in first}
        unit = self.height * (1 + self.growth * (moving - middle))
        x = self.x + distance * self.height
        return body.place_person(("walking", points), self.outfit, unit, x, ground(unit))


def draw_clip(rng: Generator, frames: int = FRAMES) -> Iterator[Scene]:
    """The frames of one clip, `FRAME_RATE` a second; person n has the same number in all.

    The first two people meet in the middle of the clip.
    """
    middle = frames / FRAME_RATE / 2
    horizon, ground = sample_ground(rng)
    place, names = draw_place(horizon, rng)
    walkers = [_sample_walker(number, middle, rng) for number in range(int(rng.integers(2, 7)))]
    # Between the people, some nearer than most of them.
    heights = [80 + 220 * float(rng.random()) for _ in range(int(rng.integers(2, 6)))]
    objects = [sample_standing(names, ground, height, rng) for height in heights]
    texture = int(rng.integers(1 << 32))  # the same in all frames
    for frame in range(frames):
        people = [walker.at(frame / FRAME_RATE, middle, ground) for walker in walkers]
        canvas = Canvas(place.image.copy(), place.ids.copy())
        draw_in_order(canvas, people, objects)
        add_texture(canvas, np.random.default_rng(texture))
        yield Scene(canvas, people, [True] * len(people))


def annotate_clip(
    scenes: Iterator[Scene], joints: Sequence[str] = COCO.joints
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Image (H, W, 3) and annotations of each frame, as `annotate_scene`, with track_id."""
    for scene in scenes:
        people = annotate_people(scene, joints)
        labels = [annotation | {"track_id": number} for number, annotation in people]
        yield scene.canvas.image, labels


def _sample_walker(number: int, middle: float, rng: Generator) -> Walker:
    """The people numbered 0 and 1 walk towards each other, others anywhere."""
    meets = number < 2
    direction = (1, -1)[number] if meets else int(2 * rng.integers(2) - 1)
    stride, outfit = body.sample_stride(direction, rng), body.sample_outfit(rng)
    x, passes, speed, height, growth, kind = rng.random(6).tolist()
    speed = direction * (_SPEEDS[0] + speed * (_SPEEDS[1] - _SPEEDS[0]))
    return Walker(
        stride,
        outfit,
        IMAGE_SIZE * (0.35 + 0.3 * x if meets else 1.2 * x - 0.1),
        middle if meets else 2 * middle * passes,
        0.0 if kind < _STANDING_SHARE and not meets else speed,
        middle * (1 + passes) if kind > 1 - _STOPPING_SHARE else np.inf,
        _HEIGHTS[0] + height * (_HEIGHTS[1] - _HEIGHTS[0]),
        _GROWTH * (2 * growth - 1),
    )
