"""Values over images, notes and scatter plots."""

import sys

import numpy as np
import pytest

from hrpose.skeletons import COCO
from hrpose.structures import NO_TRACK
from hrpose.visualize import colour_bar, draw_notes, draw_poses, draw_values, scatter


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_values_have_the_colours_of_the_bar(share):
    image = np.full((8, 30, 3), 90, np.uint8)
    values = np.full((8, 30), 0.8 + share * 0.4)
    shown = draw_values(image, values, (0.8, 1.2), np.ones_like(values))
    bar = colour_bar(481, (0.8, 1.2))  # of 400 steps, after a margin of 40
    np.testing.assert_allclose(shown[4, 15].astype(int), bar[10, 40 + int(400 * share)], atol=2)


def test_values_beyond_the_range_are_clipped():
    image, all_of_it = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5))
    for end, beyond in ((0.8, -7), (1.2, 9)):
        at_end, far = (
            draw_values(image, value * all_of_it, (0.8, 1.2), all_of_it) for value in (end, beyond)
        )
        assert (at_end == far).all()


def test_a_missing_joint_is_not_drawn_in_the_corner():
    joints = np.zeros((1, 17, 3))
    joints[0, 5] = 30, 20, 0.9
    picture = draw_poses(np.zeros((40, 60, 3), np.uint8), joints, COCO)
    assert picture[20, 30].any() and not picture[:15, :15].any()
    assert not draw_poses(picture * 0, joints, COCO, 0.95).any()


def test_an_identity_has_one_colour_whatever_its_place_in_the_list():
    joints = np.full((2, 17, 3), 0.9)
    joints[0, :, :2], joints[1, :, :2] = (10, 30), (60, 30)
    joints[:, 5, 1] = 10  # limbs between here and the rest
    black = np.zeros((40, 80, 3), np.uint8)
    one = draw_poses(black, joints, COCO, track_ids=np.array([4, NO_TRACK]))
    two = draw_poses(black, joints[::-1], COCO, track_ids=np.array([NO_TRACK, 4]))
    assert (one == two).all()
    assert tuple(one[20, 60]) == (255, 255, 255)
    assert len(set(one[20, 10].tolist())) > 1
    assert (
        draw_poses(black, joints[:1], COCO, track_ids=np.array([5]))[20, 10] != one[20, 10]
    ).any()


def test_notes_are_moved_into_the_image():
    image = np.full((40, 60, 3), 90, np.uint8)
    for place in ((-50, -50), (500, 500), (20, 20)):
        noted = draw_notes(image, np.array([place]), ["12"])
        assert noted.shape == image.shape and (noted > 150).any() and (noted == 90).any()


def test_a_share_of_0_shows_the_grey_image(rng):
    image = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    shown = draw_values(image, np.full((8, 9), 3.0), (0, 1), np.zeros((8, 9)))
    assert (shown == shown[..., :1]).all()
    assert abs(shown[..., 0].astype(float) - image @ (0.299, 0.587, 0.114)).max() < 2


def test_a_scatter_plot_is_an_image(rng):
    x, y = rng.uniform(10, 500, 40), rng.normal(1, 0.1, 40)
    one, two = (scatter(x, dict.fromkeys(names, y), ("x", "y"), level=1) for names in ("a", "ab"))
    assert one.dtype == np.uint8 and one.shape[2] == 3
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)


def test_without_matplotlib_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        scatter(np.ones(3), {"a": np.ones(3)}, ("x", "y"), level=1)
