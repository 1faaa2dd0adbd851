"""Encode -> decode gives the people back; a whole predictor with a network made of glass."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.decode import decode, find_candidates
from hrpose.inference.spec import PUBLISHED, DecoderConfig, InferenceSpec
from hrpose.ops.targets import draw_heatmaps
from hrpose.skeletons import COCO, CROWDPOSE, Skeleton
from hrpose.structures import HeadOutput

# Encode -> decode -------------------------------------------------------------------------------

SIZE = (160, 200)
DOTS = Skeleton(("nose", "left_ear", "right_ear"), (0.05,) * 3, ("nose", "left_ear", "right_ear"))


def people(skeleton, count, seed=0, spread=20, missing=0.0):
    """(N, K, 3): people side by side and over each other, no two joints of a kind in one window."""
    rng = np.random.default_rng(seed)
    kinds = len(skeleton.joints)
    joints = np.ones((count, kinds, 3), np.float32)
    centres = np.stack([np.linspace(25, 175, count), rng.uniform(30, 130, count)], -1)
    for k in range(kinds):
        joints[:, k, :2] = (
            centres + rng.uniform(-spread, spread, 2) + rng.uniform(-2, 2, (count, 2))
        )
    joints[..., 2] = rng.random((count, kinds)) >= missing
    return joints


def drawn(joints, values=1):
    """Perfect heatmaps, and tags 5 apart: each cell has that of the person nearest to it."""
    heatmaps = draw_heatmaps(torch.from_numpy(joints)[None], SIZE, 2.0)[0]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    away = np.hypot(
        columns - joints[:, :, 0, None, None].astype(int),
        rows - joints[:, :, 1, None, None].astype(int),
    )
    away[joints[..., 2] == 0] = np.inf
    owner = torch.from_numpy(away.argmin(0))  # (K, H, W)
    return heatmaps, (5.0 * owner)[..., None].repeat(1, 1, 1, values)


def matched(found, truth):
    """The found people in the order of the truth, by their tags."""
    owner = [round(float(p[p[:, 2] > 0, 3].mean() / 5)) for p in found]
    assert sorted(owner) == list(range(len(truth)))
    return found[np.argsort(owner)]


@pytest.mark.parametrize("matcher", ["munkres", "scipy"])
@pytest.mark.parametrize("skeleton", [COCO, CROWDPOSE])
@pytest.mark.parametrize("count, values", [(1, 1), (3, 2), (6, 1)])
def test_drawn_people_come_back(matcher, skeleton, count, values, record_difference):
    truth = people(skeleton, count)
    found, scores = decode(*drawn(truth, values), skeleton, DecoderConfig(matcher=matcher))
    assert found.shape == (count, len(skeleton.joints), 3 + values)
    found = matched(found, truth)
    away = abs(found[..., :2] - truth[..., :2])
    record_difference("decode: joints against truth (cells)", away.max())
    assert away.max() <= 0.75
    np.testing.assert_allclose(found[..., 2], 1)
    np.testing.assert_allclose(scores, 1)


def test_without_the_shift_a_joint_is_within_half_a_cell():
    truth = people(COCO, 4)
    found, _ = decode(*drawn(truth), COCO, PUBLISHED._replace(subpixel="none"))
    assert abs(matched(found, truth)[..., :2] - truth[..., :2]).max() <= 0.5 + 1e-6


def test_the_shift_leans_to_the_left():
    """As the authors' code: a drawn peak is symmetric, and ties go left; a quarter on average."""
    truth = people(COCO, 6)
    found, _ = decode(*drawn(truth), COCO)
    assert (matched(found, truth)[..., :2] - truth[..., :2]).mean() == pytest.approx(
        -0.25, abs=0.05
    )


def test_missing_joints_stay_missing_without_refine():
    truth = people(COCO, 4, missing=0.3)
    found, scores = decode(*drawn(truth), COCO, PUBLISHED._replace(refine=False))
    found = matched(found, truth)
    assert np.array_equal(found[..., 2] > 0, truth[..., 2] > 0)
    assert not found[truth[..., 2] == 0].any()
    np.testing.assert_allclose(np.sort(scores), np.sort(truth[..., 2].mean(1)), rtol=1e-6)


def test_scores_are_those_before_filling():
    truth = people(COCO, 4, missing=0.3)
    plain = decode(*drawn(truth), COCO, PUBLISHED._replace(refine=False))
    filled = decode(*drawn(truth), COCO)
    assert np.array_equal(plain[1], filled[1])
    assert (filled[0][..., 2] > 0).sum() > (plain[0][..., 2] > 0).sum()
    found = plain[0][..., 2] > 0
    assert np.array_equal(filled[0][found], plain[0][found])


def test_best_first():
    truth = people(COCO, 5, missing=0.4)
    _, scores = decode(*drawn(truth), COCO)
    assert (np.diff(scores) <= 0).all()
    assert scores[0] > scores[-1]


@pytest.mark.parametrize("values", [1, 2])
def test_empty_maps_hold_no_people(values):
    found, scores = decode(torch.zeros(17, 32, 40), torch.zeros(17, 32, 40, values), COCO)
    assert found.shape == (0, 17, 3 + values)
    assert scores.shape == (0,)


def peaks_of(maps, config=PUBLISHED):
    return find_candidates(*(each.numpy() for each in maps), config).peaks


def test_the_config_reaches_the_peaks():
    maps = drawn(people(COCO, 3))
    assert peaks_of(maps).shape == (17, 30, 4)
    assert peaks_of(maps, PUBLISHED._replace(max_people=2)).shape == (17, 2, 4)
    assert len(decode(*maps, COCO, PUBLISHED._replace(detection_threshold=1.1))[0]) == 0
    assert len(decode(*maps, COCO, PUBLISHED._replace(tag_threshold=100.0))[0]) == 3


@pytest.mark.parametrize("kernel, count", [(5, 2), (15, 2), (21, 1)])
def test_a_window_of_the_kernel_has_one_peak(kernel, count):
    """Two noses 8 cells apart, one a little higher; half of 21 cells reaches over."""
    heatmaps, tags = torch.zeros(3, 20, 30), torch.zeros(3, 20, 30, 1)
    heatmaps[0, 10, 10], heatmaps[0, 10, 18] = 0.9, 0.8
    tags[0, 10, 18] = 5
    found, _ = decode(heatmaps, tags, DOTS, PUBLISHED._replace(nms_kernel=kernel))
    assert len(found) == count


def test_peaks_lie_where_the_offset_rule_puts_them():
    maps = drawn(people(COCO, 1))
    centres = peaks_of(maps, PUBLISHED._replace(subpixel="none"))[:, :1]
    stepped = peaks_of(maps)[:, :1]
    assert np.array_equal(abs(centres[..., :2] - stepped[..., :2]), np.full((17, 1, 2), 0.25))
    dark = peaks_of(maps, PUBLISHED._replace(subpixel="dark"))[:, :1]
    np.testing.assert_allclose(dark, centres, atol=1e-5)  # drawn about the middle of a cell


def test_maps_of_another_library_are_taken():
    heatmaps, tags = drawn(people(COCO, 2))
    from_torch, from_numpy = (
        decode(heatmaps, tags, COCO),
        decode(heatmaps.numpy(), tags.numpy(), COCO),
    )
    assert np.array_equal(from_torch[0], from_numpy[0])


# A whole predictor ------------------------------------------------------------------------------

TRUTH = np.array(  # two people of three dots, in shares of the image's width and height
    [[[0.20, 0.30], [0.30, 0.50], [0.15, 0.75]], [[0.70, 0.40], [0.85, 0.30], [0.75, 0.80]]]
)


class Glass(nn.Module):
    """Detects joints as dots: red is a nose, green a left ear, blue a right ear.

    The second of two views is the mirrored image, where a network that knows anatomy calls a green
    dot a right ear. People in the left half of its input get tag 0, the others 6.
    """

    def __init__(self, views=1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.views = views
        self.sizes = []
        self.training_at_calls = []

    def forward(self, images):
        is_mirrored = len(self.sizes) % self.views == 1
        self.sizes.append(tuple(images.shape[-2:]))
        self.training_at_calls.append(self.training)
        marks = images[:, DOTS.flip_order] if is_mirrored else images
        fine = F.avg_pool2d(marks, 2) * self.weight
        coarse = F.avg_pool2d(fine, 2)
        tags = torch.zeros_like(coarse)
        tags[..., tags.shape[-1] // 2 :] = 6
        return [HeadOutput("1_4", 4, coarse, tags), HeadOutput("1_2", 2, fine)]


def picture(width, height, dot):
    """TRUTH as dots, and its joints in pixels."""
    image = np.zeros((height, width, 3), np.float32)
    joints = TRUTH * (width, height)
    columns, rows = np.arange(width), np.arange(height)[:, None]
    for k, (x, y) in ((k, joint) for person in joints for k, joint in enumerate(person)):
        squared = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2
        image[..., k] = np.maximum(image[..., k], 250 * np.exp(-squared / (2 * dot**2)))
    return image.astype(np.uint8), joints


FLIPPED = ("identity", "flip")
AT_128 = InferenceSpec(DOTS, 128)


def predictor(model=None, spec=AT_128, **changes):
    spec = spec._replace(decoder=spec.decoder._replace(**changes))
    return BottomUpPredictor(model or Glass(len(spec.views)), spec)


SPECS = [
    AT_128,
    InferenceSpec(DOTS, 128, views=FLIPPED),
    InferenceSpec(DOTS, 128, views=FLIPPED, stride=2),
    InferenceSpec(DOTS, 128, (0.5, 1.0, 2.0), FLIPPED),
    InferenceSpec(DOTS, 128, (2.0, 1.0, 0.5), stride=2),
    InferenceSpec(DOTS, 128, (0.5,)),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width, height", [(300, 200), (180, 333), (256, 256), (97, 71)])
def test_people_are_found_in_image_pixels(spec, width, height, record_difference):
    pixel = min(width, height) / (spec.input_size * min(1, max(spec.scales)))  # of the network
    image, joints = picture(width, height, dot=4 * pixel)
    poses = predictor(spec=spec)(image)
    assert poses.joints.dtype == np.float32
    assert poses.joints.shape == (2, 3, 3)
    assert poses.scores.shape == (2,)
    found = poses.joints[np.argsort(poses.joints[:, 0, 0])]
    away = abs(found[..., :2] - joints).max() / pixel
    record_difference("predictor: joints against truth (network px)", away)
    assert away < 1.5  # not a cell of the finest output, which is 2
    assert (found[..., 2] > 0.1).all()


def test_both_decoding_sizes_agree_in_image_pixels():
    image, _ = picture(300, 200, dot=6)
    fine, coarse = (predictor(spec=AT_128._replace(stride=s))(image) for s in (1, 2))
    order = [np.argsort(poses.joints[:, 0, 0]) for poses in (fine, coarse)]
    away = fine.joints[order[0], :, :2] - coarse.joints[order[1], :, :2]
    assert abs(away).max() <= 2 * 200 / 128  # a cell of the coarse maps


def test_the_network_runs_at_every_scale_and_view():
    model = Glass(views=2)
    predictor(model, InferenceSpec(DOTS, 128, (0.5, 1.0, 2.0), FLIPPED))(picture(300, 200, 5)[0])
    assert model.sizes == [(64, 128), (64, 128), (128, 256), (128, 256), (256, 512), (256, 512)]
    assert not any(model.training_at_calls)


def test_maps_have_the_requested_size():
    image, _ = picture(300, 200, 5)
    for stride in (1, 2):
        result = predictor(spec=InferenceSpec(DOTS, 128, (0.5, 1.0), FLIPPED, stride))
        inputs = result.preprocess(image)
        maps = result.forward([inputs])
        assert inputs.size == tuple(maps.heatmaps.shape[2:])
        assert maps.heatmaps.shape == (1, 3, 128 // stride, 256 // stride)
        assert maps.tags.shape == (1, 3, 128 // stride, 256 // stride, 2)
        middle = inputs.to_image.points(np.array([128 / stride, 64 / stride]))
        np.testing.assert_allclose(middle, [150, 100])
        assert not maps.heatmaps.requires_grad


def test_a_missing_joint_is_all_0_in_image_pixels():
    image, _ = picture(290, 200, 6)
    image[..., 2] = 0
    poses = predictor(refine=False)(image)
    assert len(poses.joints) == 2
    assert not poses.joints[:, 2].any()
    assert (poses.joints[:, :2, 2] > 0).all()


def test_boxes_are_refused():
    image, boxes = picture(100, 80, 6)[0], np.float32([[0, 0, 100, 80]])
    for given in ({"boxes": boxes}, {"box_scores": np.ones(1)}):
        with pytest.raises(ValueError, match="without boxes"):
            predictor()(image, **given)


def test_poses_are_read_by_name_and_never_changed():
    poses = predictor()(picture(300, 200, 6)[0])
    assert poses.boxes is poses.box_indices is poses.track_ids is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        poses.scores = poses.scores[:1]


def test_an_empty_image_has_no_poses():
    poses = predictor(spec=AT_128._replace(views=FLIPPED))(np.zeros((50, 80, 3), np.uint8))
    assert poses.joints.shape == (0, 3, 3)
    assert poses.scores.shape == (0,)


def test_a_network_in_training_predicts_as_in_evaluation():
    model = Glass()
    ask = predictor(model)
    model.train()
    ask(picture(256, 256, 8)[0])
    assert model.training_at_calls == [False]


def test_a_view_of_an_array_is_an_image_too():
    image, _ = picture(256, 200, 8)
    turned = image[:, ::-1][:, ::-1]
    readonly = image.copy()
    readonly.flags.writeable = False
    wanted = predictor()(image)
    for given in (turned, readonly, np.asfortranarray(image)):
        assert np.array_equal(predictor()(given).joints, wanted.joints)


@pytest.mark.parametrize("broken", ["heatmaps", "tags"])
def test_maps_that_are_not_finite_are_refused(broken):
    """The published solver would search for an assignment of NaNs for ever."""
    maps = {"heatmaps": torch.rand(17, 16, 16), "tags": torch.rand(17, 16, 16, 1)}
    maps[broken].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="finite"):
        decode(maps["heatmaps"], maps["tags"], COCO)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_maps_decode_in_full(kind):
    heatmaps = torch.zeros(17, 4, 400)
    heatmaps[:, 1, 283] = 1
    people, _ = decode(heatmaps.to(kind), torch.zeros(17, 4, 400, 1).to(kind), COCO)
    assert people[0, 0, 0] == 283.25


def test_the_network_is_given_images_channel_by_channel():
    """Weights of another layout would bring it with them."""

    class Layout(Glass):
        def forward(self, images):
            self.contiguous = images.is_contiguous()
            return super().forward(images)

    model = Layout()
    predictor(model)(picture(256, 200, 8)[0])
    assert model.contiguous


@pytest.mark.parametrize("broken", ["heatmaps", "tags"])
def test_maps_on_a_device_that_are_not_finite_are_refused(broken):
    maps = {"heatmaps": torch.rand(17, 16, 16), "tags": torch.rand(17, 16, 16, 1)}
    maps[broken][3].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="finite"):
        find_candidates(maps["heatmaps"], maps["tags"])
