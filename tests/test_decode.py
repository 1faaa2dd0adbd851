"""Both branches of the decoder against the reference on random scenes: every bit equal."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from commands import ROOT
from hrpose.builders.bottomup import build_spec
from hrpose.builders.datasets import build_skeleton
from hrpose.config import load_config
from hrpose.inference import decode_on_device
from hrpose.inference.decode import (
    decode,
    fill_missing,
    find_candidates,
    group_by_tag,
    score_and_filter,
)
from hrpose.inference.decode_on_device import search_top_cells
from hrpose.inference.spec import PUBLISHED
from hrpose.ops.coordinates import UNBIASED
from hrpose.ops.subpixel import drop_duplicate_peaks
from hrpose.ops.targets import draw_heatmaps
from hrpose.skeletons import COCO, CROWDPOSE, Skeleton
from hrpose.structures import Candidates
from reference import decoding as reference
from reference.scenes import Crowd, crowd_maps, noise_maps

SCENES = 1000
NAMES = ("nose", "left_ear", "right_ear")
DOTS = Skeleton(NAMES, (0.05,) * 3, NAMES)
SHARES, USUAL = 11, 4
"""Tests that share the scenes, each with all kinds of them, and those of `make test`."""


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


def config_of(seed):
    matcher = ("munkres", "scipy")[seed // 2 % 2]
    return PUBLISHED._replace(matcher=matcher, max_people=(30, 5)[seed % 7 == 6])


def equal(result, expected):
    return all(np.array_equal(one, other) for one, other in zip(result, expected, strict=True))


def on_device(heatmaps, tags, skeleton, config=PUBLISHED):
    """`decode` by the branch for maps on a device, which also takes tensors in host memory."""
    maps = [torch.from_numpy(np.ascontiguousarray(each)) for each in (heatmaps, tags)]
    candidates = find_candidates(*maps, config)
    peaks = candidates.peaks
    if config.unique_peaks:
        peaks = drop_duplicate_peaks(peaks, config.nms_kernel // 2)
    people, scores = group_by_tag(peaks, skeleton.grouping_indices, config)
    if config.refine:
        people = fill_missing(people, *maps, config, candidates.top)
    return score_and_filter(people, scores, skeleton, config)


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(share, marks=pytest.mark.slow if share < USUAL else pytest.mark.long)
        for share in range(SHARES)
    ],
)
def test_a_thousand_scenes_oracle(share, record_difference):
    people, apart = 0, []
    for seed in range(share, SCENES, SHARES):
        heatmaps, tags, skeleton = scene(seed)
        result = decode(heatmaps, tags, skeleton, config_of(seed))
        people += len(result[0])
        if not equal(result, reference.decode(heatmaps, tags, skeleton, config_of(seed))):
            apart.append(seed)
    record_difference("scenes of 1,000 decoded differently from the reference", len(apart))
    assert not apart
    assert people > 500


@pytest.mark.slow
def test_the_device_branch_oracle(monkeypatch):
    """Peaks and highest cells in one copy, the rest searched in the whole maps.

    The host's branch, which the scenes above hold against the reference, gives what is expected.
    """
    monkeypatch.setattr(decode_on_device, "SEARCHES_AT_ONCE", 7)
    search = decode_on_device.search_whole_maps
    searched = {1: [], 64: [], 2048: []}  # TOP_CELLS -> searches of each scene

    def counted(heatmaps, tags, joint, *given):
        searched[decode_on_device.TOP_CELLS][-1] += len(joint)
        return search(heatmaps, tags, joint, *given)

    monkeypatch.setattr(decode_on_device, "search_whole_maps", counted)
    for seed in range(0, SCENES, 13):  # of all sizes and strides
        heatmaps, tags, skeleton = scene(seed)
        expected = decode(heatmaps, tags, skeleton, config_of(seed))
        for top_cells, counts in searched.items():
            monkeypatch.setattr(decode_on_device, "TOP_CELLS", top_cells)
            counts.append(0)
            result = on_device(heatmaps, tags, skeleton, config_of(seed))
            assert equal(result, expected), (seed, top_cells)
    assert all(any(counts) for counts in searched.values())
    assert not all(searched[64]) and not all(searched[2048])


@pytest.mark.parametrize("subpixel, unique", [("none", False), ("quarter", True), ("dark", True)])
def test_both_branches_are_equal_for_every_offset_and_filter_oracle(subpixel, unique):
    for seed in range(12):
        heatmaps, tags, skeleton = scene(seed)
        config = config_of(seed)._replace(
            subpixel=subpixel,
            unique_peaks=unique,
            matching_cost=("rounded", "clipped")[seed % 2],
            refine=seed % 4 > 0,
            min_score=0.05,
            oks_nms=0.7,
            nms_kernel=(3, 5, 9)[seed % 3],
        )
        result = decode(heatmaps, tags, skeleton, config)
        assert equal(on_device(heatmaps, tags, skeleton, config), result), seed


# Filling ------------------------------------------------------------------------------------------


def test_what_the_highest_cells_settle_is_what_the_whole_maps_give():
    """The certificate: among 128 cells of each joint much is settled, and all of it rightly."""
    settled = wanted = 0
    for seed in range(0, 60, 2):
        heatmaps, tags, skeleton = scene(seed)
        candidates = find_candidates(torch.from_numpy(heatmaps), torch.from_numpy(tags))
        people, _ = group_by_tag(candidates.peaks, skeleton.grouping_indices)
        if not len(people):
            continue
        joint, person = np.nonzero((people[..., 2] == 0).T)
        means = [np.mean(each[each[:, 2] > 0, 3:], axis=0) for each in people]
        tag = np.array(means, np.float32)[person]
        keypoints, is_open = search_top_cells(candidates.top, joint, tag)
        filled = fill_missing(people, heatmaps, tags)[person, joint]
        keypoints[keypoints[:, 2] <= 0] = 0
        assert np.array_equal(keypoints[~is_open], filled[~is_open])
        settled += (~is_open).sum()
        wanted += len(joint)
    assert 0 < settled < wanted


def test_a_joint_is_open_where_a_cell_below_the_floor_could_be_better(monkeypatch):
    """The tag fits nowhere among the highest cells; below their floor is one that fits."""
    heatmaps, tags = np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8, 1), np.float32)
    heatmaps[0, 1, 1] = 0.9
    heatmaps[1, 4, 4], tags[1, 4, 4] = 0.8, 7
    heatmaps[1, 2, 6] = 0.05
    for count, expected in ((1, True), (2, True), (3, False), (64, False)):
        monkeypatch.setattr(decode_on_device, "TOP_CELLS", count)
        top = find_candidates(torch.from_numpy(heatmaps), torch.from_numpy(tags)).top
        keypoints, is_open = search_top_cells(top, np.array([1]), np.zeros((1, 1), np.float32))
        assert is_open.tolist() == [expected]
        assert is_open or keypoints[0, 2] == np.float32(0.05)


# Scores, duplicates, the worst --------------------------------------------------------------------


def test_people_are_assembled_in_the_order_that_the_config_gives_oracle():
    """Of a built-in skeleton too: mmpose's CrowdPose files take the joints as they come."""
    natural = ["DATASET.GROUPING_ORDER", f"[{','.join(CROWDPOSE.joints)}]"]
    path = str(ROOT / "configs" / "crowdpose" / "w32_512.yaml")
    assert build_spec(load_config(path)).skeleton == CROWDPOSE
    skeleton = build_spec(load_config(path, natural)).skeleton
    assert skeleton == replace(CROWDPOSE, grouping_order=CROWDPOSE.joints)
    different = 0
    for seed in range(0, 50, 5):  # scenes of CrowdPose
        heatmaps, tags, _ = scene(seed)
        result = decode(heatmaps, tags, skeleton)
        assert equal(result, reference.decode(heatmaps, tags, skeleton, PUBLISHED))
        different += not equal(result, decode(heatmaps, tags, CROWDPOSE))
    assert different


def test_a_grouping_order_holds_for_joints_of_files_and_of_weights(tmp_path):
    joints = ["nose", "left_ear", "right_ear"]
    order = ["DATASET.GROUPING_ORDER", "[right_ear,nose,left_ear]"]
    category = {"id": 1, "name": "dog", "keypoints": joints, "skeleton": []}
    content = {"images": [], "annotations": [], "categories": [category]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    given = ["DATASET.SKELETON", "file", "DATASET.ROOT", str(tmp_path), "DATASET.TRAIN", "train"]
    given += ["DATASET.ANNOTATIONS", "{split}.json"]
    path = str(ROOT / "configs" / "w32_512.yaml")
    assert build_skeleton(load_config(path, given)).grouping_indices == [0, 1, 2]
    assert build_skeleton(load_config(path, [*given, *order])).grouping_indices == [2, 0, 1]
    (tmp_path / "train.json").unlink()
    torch.save({"skeleton": asdict(DOTS), "model": {}}, tmp_path / "dog.pth")
    given += ["TEST.MODEL_FILE", str(tmp_path / "dog.pth")]
    assert build_skeleton(load_config(path, [*given, *order])).grouping_indices == [2, 0, 1]
    with pytest.raises(ValueError, match=r"DATASET.GROUPING_ORDER\) must name every joint once"):
        build_skeleton(load_config(path, ["DATASET.GROUPING_ORDER", "[nose]"]))


def two_alike():
    """A person of three joints, another like it of two, one elsewhere; the second's is filled."""
    people = np.zeros((3, 3, 4), np.float32)
    people[0] = [[10, 10, 0.9, 0], [20, 10, 0.9, 0], [15, 30, 0.9, 0]]
    people[1] = people[0] + np.float32([0.2, 0.1, -0.2, 0])
    people[1, 2] = [15, 30, 0.3, 0]
    people[2] = people[0] + np.float32([60, 0, -0.5, 0])
    return people, np.float32([0.9, 1.4 / 3, 0.4])


def filtered(**changes):
    return score_and_filter(*two_alike(), DOTS, PUBLISHED._replace(**changes))


def test_scores_are_the_mean_over_all_joints_before_filling():
    """Joints that are filled in later do not count."""
    for seed in (2, 4, 8):
        heatmaps, tags, skeleton = scene(seed)
        people, scores = decode(heatmaps, tags, skeleton, PUBLISHED._replace(refine=False))
        np.testing.assert_allclose(scores, people[..., 2].mean(1), rtol=1e-6)
        filled, again = decode(heatmaps, tags, skeleton)
        assert np.array_equal(again, scores)
        assert (filled[..., 2].mean(1) > scores + 1e-3).any()
    assert np.array_equal(filtered()[1], two_alike()[1])


def test_poses_of_a_low_score_are_dropped():
    people, scores = filtered(min_score=0.45)
    assert len(people) == len(scores) == 2
    assert (scores >= 0.45).all()


def test_duplicates_are_dropped_and_the_best_first():
    people, scores = filtered(oks_nms=0.8)
    np.testing.assert_allclose(scores, [0.9, 0.4], rtol=1e-6)
    assert people[1, 0, 0] == 70
    assert len(filtered(oks_nms=1.0)[0]) == 3


def test_people_are_sorted_by_score():
    people, _ = two_alike()
    ordered, scores = score_and_filter(people, np.float32([0.1, 0.5, 0.5]), DOTS)
    assert scores.tolist() == [0.5, 0.5, np.float32(0.1)]
    assert np.array_equal(ordered, people[[1, 2, 0]])


def test_no_people_are_filtered():
    empty, none = np.zeros((0, 17, 4), np.float32), np.zeros(0, np.float32)
    people, scores = score_and_filter(empty, none, COCO, PUBLISHED._replace(oks_nms=0.5))
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
    """Without refinement, or without people, tags beside no peak are not read."""
    heatmaps, tags, skeleton = scene(2)
    found_only = PUBLISHED._replace(refine=False)
    wanted = decode(heatmaps, tags, skeleton, found_only)
    apart = heatmaps[0] < 0.05
    assert len(wanted[0]) and apart.any()
    tags[0, apart] = np.nan
    assert equal(decode(heatmaps, tags, skeleton, found_only), wanted)
    assert len(decode(np.zeros_like(heatmaps), tags, skeleton)[0]) == 0
    with pytest.raises(FloatingPointError, match="finite"):
        decode(heatmaps, tags, skeleton)


def test_given_candidates_are_those_that_are_grouped():
    heatmaps, tags, skeleton = scene(2)
    candidates = find_candidates(heatmaps, tags)
    wanted = decode(heatmaps, tags, skeleton)
    assert equal(decode(heatmaps, tags, skeleton, candidates=candidates), wanted)
    is_first = np.arange(candidates.peaks.shape[1])[:, None] == 0
    one = Candidates(np.where(is_first, candidates.peaks, 0))
    found, _ = decode(heatmaps, tags, skeleton, candidates=one)
    assert 0 < len(found) < len(wanted[0])


def test_a_thread_may_decode_when_the_program_is_ending():
    late = """
import threading, time
import numpy as np
from hrpose.inference.decode import decode
from hrpose.skeletons import COCO

def work():
    time.sleep(0.3)
    print(len(decode(np.ones((17, 32, 32), np.float32), np.zeros((17, 32, 32, 1)), COCO)[0]))

threading.Thread(target=work).start()
"""
    done = subprocess.run([sys.executable, "-c", late], check=True, capture_output=True, text=True)
    assert done.stdout == "30\n"


@pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("way", ["host", "device"])
def test_a_joint_halfway_between_cells_is_one_joint(shift, way):
    """An unbiased heatmap has two or four highest cells there; published ones never do."""
    joints = torch.tensor([[[[10.0, 12, 1], [25, 20, 1], [40, 8, 1]]]])
    joints[..., :2] += torch.tensor(shift)
    heatmaps = draw_heatmaps(joints, (32, 48), 2.0, convention=UNBIASED)[0]
    maps = heatmaps.numpy(), np.zeros((3, 32, 48, 1), np.float32)
    config = PUBLISHED._replace(subpixel="dark", unique_peaks=True)
    people, _ = {"host": decode, "device": on_device}[way](*maps, DOTS, config)
    assert len(people) == 1
    np.testing.assert_allclose(people[0, :, :2] - 0.5, joints[0, 0, :, :2], atol=1e-3)
    assert len(decode(*maps, DOTS)[0]) > 1
