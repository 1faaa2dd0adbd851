"""The fast decoders against the plain one on random scenes: every number equal, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hrpose.inference.decoding import decode_maps, group, judged, peaks_of
from hrpose.inference.refine import fill_from_cells, fill_from_maps
from hrpose.ops.blocks import heat_in_blocks, tags_in_blocks
from hrpose.ops.cells import quarter_step

from hrpose.inference import gathering
from hrpose.inference.bottomup import decode
from hrpose.inference.grouping import PUBLISHED
from hrpose.ops.gaussian import draw_exact_heatmaps
from hrpose.programs.benchmarking.crowd_maps import Crowd, crowd_maps, noise_maps
from hrpose.programs.benchmarking.plain_decode import plain_decode, plain_peaks
from hrpose.skeletons import COCO, CROWDPOSE, Skeleton
from oracles import asked_of_munkres, grouped, quarter, refined

SCENES = 1000
NAMES = ("nose", "left_ear", "right_ear")
DOTS = Skeleton(NAMES, (0.05,) * 3, NAMES)
SHARES = 8
"""Tests that share the scenes."""


def scene(seed):
    """Maps of 0 to 40 people or of noise, at one of several sizes; tags of one or two values."""
    rng = np.random.default_rng(seed)
    skeleton = (COCO, CROWDPOSE)[seed % 5 == 0]
    size, stride = ((64, 96), (96, 64), (128, 160))[seed % 3], (1, 2, 4)[seed // 3 % 3]
    cells = (size[0] // stride, size[1] // stride)
    views = 1 + seed % 2
    if seed % 10 == 9:
        heatmaps, tags = noise_maps(cells, rng, len(skeleton.joints), rng.choice([0.2, 3, 30]))
        tags = tags[..., :views]
    else:
        crowd = Crowd(rng.integers(0, 41), len(skeleton.joints), views, rng.choice([0, 0.3, 0.7]))
        crowd = crowd._replace(noise=rng.choice([0, 0.01, 0.05]))
        heatmaps, tags = crowd_maps(crowd, size, rng, cells)
    if seed % 4 == 3:  # many ties, of heat and of distances
        heatmaps, tags = np.round(heatmaps * 8) / 8, np.round(tags * 4) / 4
    return heatmaps.astype(np.float32), tags.astype(np.float32), skeleton


def settings_of(seed):
    solver = ("munkres", "scipy")[seed // 2 % 2]
    return PUBLISHED._replace(solver=solver, max_people=(30, 5)[seed % 7 == 6])


def equal(ours, plain):
    return all(np.array_equal(one, other) for one, other in zip(ours, plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_thousand_scenes_oracle(share, record_difference):
    people, apart = 0, []
    for seed in range(share, SCENES, SHARES):
        heatmaps, tags, skeleton = scene(seed)
        settings = settings_of(seed)
        ours = decode_maps(heatmaps, tags, skeleton, settings)
        plain = plain_decode(heatmaps, tags, skeleton, settings)
        people += len(ours[0])
        if not equal(ours, plain):
            apart.append(seed)
    record_difference("scenes of 1,000 decoded otherwise than by the plain way", len(apart))
    assert not apart
    assert people > 500


@pytest.mark.slow
@pytest.mark.parametrize("highest", [1, 64, 2048])
def test_the_device_way_oracle(highest, monkeypatch):
    """Peaks and highest cells gathered in batches, the rest filled in from the whole maps."""
    monkeypatch.setattr(gathering, "HIGHEST", highest)
    monkeypatch.setattr(gathering, "AT_ONCE", 7)
    opened = []
    for seed in range(0, SCENES, 9):
        heatmaps, tags, skeleton = scene(seed)
        settings = settings_of(seed)
        two = [torch.from_numpy(np.stack([maps[:, ::-1], maps])) for maps in (heatmaps, tags)]
        candidates = gathering.gather(*two, settings)[1]
        grouped = group(candidates, skeleton, settings)
        filled = gathering.fill_open(grouped, two[0][1], two[1][1], settings)
        ours = judged(grouped.found, filled, skeleton, settings)
        assert equal(ours, plain_decode(heatmaps, tags, skeleton, settings)), seed
        opened.append(grouped.open.any())
    assert any(opened)
    assert highest == 1 or not all(opened)


def test_the_plain_way_oracle():
    """What the others are measured against is what the loops of the other tests say."""
    for seed in (1, 2, 4, 5, 6):
        heatmaps, tags, skeleton = scene(seed)
        heatmaps, tags = heatmaps[:, :20, :24].copy(), tags[:, :20, :24].copy()
        settings = PUBLISHED._replace(max_people=4)
        peaks = plain_peaks(heatmaps, tags, 4, 5)
        people = np.array(
            grouped(peaks, skeleton.grouping_indices, most=4, assign=asked_of_munkres)
        ).reshape(-1, *peaks.shape[::2])
        for person in people:
            for k in np.flatnonzero(person[:, 2]):
                person[k, :2] = quarter(heatmaps[k], *person[k, :2].astype(int))
        loops = refined(people, heatmaps, tags) if len(people) else people
        ours, scores = plain_decode(heatmaps, tags, skeleton, settings)
        np.testing.assert_allclose(ours, loops, atol=1e-6)
        np.testing.assert_allclose(scores, people[:, :, 2].mean(1), rtol=1e-6)


# Filling ------------------------------------------------------------------------------------------


def test_what_is_settled_by_the_highest_cells_is_what_the_maps_say():
    """The certificate: among 128 cells for each joint much is settled, and all of it rightly."""
    settled = wanted = 0
    for seed in range(0, 60, 2):
        heatmaps, tags, skeleton = scene(seed)
        two = torch.from_numpy(heatmaps)[None], torch.from_numpy(tags)[None]
        [candidates] = gathering.gather(*two)
        people = group(candidates, skeleton, PUBLISHED._replace(refine=False)).found
        if not len(people):
            continue
        filled, unsettled = fill_from_cells(people, candidates.highest)
        whole = fill_from_maps(people, heat_in_blocks(heatmaps), tags_in_blocks(tags), quarter_step)
        assert np.array_equal(filled[~unsettled], whole[~unsettled])
        assert np.array_equal(filled[unsettled], people[unsettled])
        missing = people[..., 2] == 0
        assert not (unsettled & ~missing).any()
        settled += (missing & ~unsettled).sum()
        wanted += missing.sum()
    assert 0 < settled < wanted


def test_a_joint_is_open_where_the_floor_could_be_better():
    """The tag fits nowhere among the highest cells; below their floor lies one that fits."""
    heatmaps, tags = np.zeros((1, 2, 8, 8), np.float32), np.zeros((1, 2, 8, 8, 1), np.float32)
    heatmaps[0, 0, 1, 1] = 0.9
    heatmaps[0, 1, 4, 4], tags[0, 1, 4, 4] = 0.8, 7
    heatmaps[0, 1, 2, 6] = 0.05
    highest = [
        gathering.unpacked(
            gathering.gather_cells(
                torch.from_numpy(heatmaps),
                torch.from_numpy(tags),
                gathering.highest_cells(torch.from_numpy(heatmaps), count),
            )[0].numpy(),
            0,
            8,
            64,
            PUBLISHED,
        ).highest
        for count in (1, 2, 3, 64)
    ]
    person = np.zeros((1, 2, 4), np.float32)
    person[0, 0] = [1.25, 1.25, 0.9, 0]
    for known, is_open in zip(highest, (True, True, False, False)):
        filled, unsettled = fill_from_cells(person, known)
        assert unsettled.tolist() == [[False, is_open]]
        assert (filled[0, 1, 2] == np.float32(0.05)) != is_open


# Scores, duplicates, the worst --------------------------------------------------------------------


def two_alike():
    """A person of three joints, another like it, one elsewhere; of the second a joint is filled."""
    found = np.zeros((3, 3, 4), np.float32)
    found[0] = [[10, 10, 0.9, 0], [20, 10, 0.9, 0], [15, 30, 0.9, 0]]
    found[1] = found[0] + np.float32([0.2, 0.1, -0.2, 0])
    found[1, 2] = 0
    found[2] = found[0] + np.float32([60, 0, -0.5, 0])
    filled = found.copy()
    filled[1, 2] = [15, 30, 0.3, 0]
    return found, filled


def judge(**changes):
    return judged(*two_alike(), DOTS, PUBLISHED._replace(**changes))


def test_scores():
    np.testing.assert_allclose(judge()[1], [0.9, 1.4 / 3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(judge(score="found")[1], [0.9, 0.7, 0.4], rtol=1e-6)
    np.testing.assert_allclose(judge(score="filled")[1], [0.9, 1.7 / 3, 0.4], rtol=1e-6)


def test_poses_of_a_low_score_are_dropped():
    people, scores = judge(min_score=0.45)
    assert len(people) == len(scores) == 2
    assert (scores >= 0.45).all()


def test_duplicates_are_dropped_and_the_best_first():
    people, scores = judge(suppress=0.8)
    np.testing.assert_allclose(scores, [0.9, 0.4], rtol=1e-6)
    assert people[1, 0, 0] == 70
    assert len(judge(suppress=1.0)[0]) == 3


def test_scores_reorder_people():
    found, filled = two_alike()
    found[0, 1:] = filled[0, 1:] = 0
    people, scores = judged(found, filled, DOTS, PUBLISHED._replace(score="found"))
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(scores, [0.9, 0.7, 0.4], rtol=1e-6)
    _, published = judged(found, filled, DOTS, PUBLISHED)
    np.testing.assert_allclose(published, [1.4 / 3, 0.4, 0.3], rtol=1e-6)


def test_nobody_is_judged():
    nobody = np.zeros((0, 17, 4), np.float32)
    people, scores = judged(nobody, nobody, COCO, PUBLISHED._replace(suppress=0.5, score="found"))
    assert people.shape == (0, 17, 4)
    assert scores.shape == (0,)


def test_decode_takes_maps_of_any_layout():
    heatmaps, tags, skeleton = scene(2)
    wanted = decode(heatmaps, tags, skeleton)
    assert len(wanted[0])
    assert equal(decode(heatmaps, np.ascontiguousarray(tags), skeleton), wanted)
    turned = np.ascontiguousarray(heatmaps.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert equal(decode(turned, tags, skeleton), wanted)


def test_tags_are_read_where_they_are_needed():
    """Without refinement, or without people, tags beside no peak are not looked at."""
    heatmaps, tags, skeleton = scene(2)
    wanted = decode_maps(heatmaps, tags, skeleton, PUBLISHED._replace(refine=False))
    apart = heatmaps[0] < 0.05
    assert len(wanted[0]) and apart.any()
    tags[0, apart] = np.nan
    assert equal(decode_maps(heatmaps, tags, skeleton, PUBLISHED._replace(refine=False)), wanted)
    assert len(decode_maps(np.zeros_like(heatmaps), tags, skeleton)[0]) == 0
    with pytest.raises(FloatingPointError, match="finite"):
        decode_maps(heatmaps, tags, skeleton)


def test_peaks_that_are_given_are_those_that_are_grouped():
    heatmaps, tags, skeleton = scene(2)
    peaks = peaks_of(heat_in_blocks(heatmaps), tags)
    assert equal(
        decode_maps(heatmaps, tags, skeleton, peaks=peaks), decode_maps(heatmaps, tags, skeleton)
    )
    one = np.where(np.arange(peaks.shape[1])[:, None] == 0, peaks, 0)
    found, _ = decode_maps(heatmaps, tags, skeleton, peaks=one)
    assert 0 < len(found) < len(decode_maps(heatmaps, tags, skeleton)[0])


LATE = """
import threading, time
import numpy as np
from hrpose.inference.decoding import decode_maps
from hrpose.skeletons import COCO

def work():
    time.sleep(0.3)
    print(len(decode_maps(np.ones((17, 32, 32), np.float32), np.zeros((17, 32, 32, 1)), COCO)[0]))

threading.Thread(target=work).start()
"""


def test_a_thread_may_decode_when_the_program_has_nothing_else_to_do():
    done = subprocess.run([sys.executable, "-c", LATE], check=True, capture_output=True, text=True)
    assert done.stdout == "30\n"


@pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("way", ["host", "device"])
def test_a_joint_halfway_between_cells_is_one_joint(shift, way):
    """An exact heatmap has two or four highest cells there; official ones never do."""
    joints = torch.tensor([[[[10.0, 12, 1], [25, 20, 1], [40, 8, 1]]]])
    joints[..., :2] += torch.tensor(shift)
    heatmaps, tags = draw_exact_heatmaps(joints, (32, 48), 2.0), torch.zeros(1, 3, 32, 48, 1)
    settings = PUBLISHED._replace(step="taylor")
    if way == "host":
        people, _ = decode(heatmaps[0], tags[0], DOTS, settings)
    else:
        [candidates] = gathering.gather(heatmaps, tags, settings)
        people = group(candidates, DOTS, settings).filled
    assert len(people) == 1
    np.testing.assert_allclose(people[0, :, :2] - 0.5, joints[0, 0, :, :2], atol=1e-3)
    assert len(decode(heatmaps[0], tags[0], DOTS)[0]) > 1
