"""Crops of boxes: proportions, laws of their transform, and what is no box."""

import numpy as np
import pytest
import torch

from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.inference.scoring import rescore
from hrpose.inference.tta import flip_back
from hrpose.losses.heatmap import joints_mse, ohkm_mse
from hrpose.models.complexity import count_parameters
from hrpose.models.hrnet import HRNet
from hrpose.models.key_mapping import our_name, published_name
from hrpose.models.pose_hrnet import PoseHRNet
from hrpose.ops.boxes import check_boxes, crop_transform, padded_size
from hrpose.ops.coordinates import CONVENTIONS
from hrpose.skeletons import COCO

SIZES = [(192, 256), (288, 384), (256, 256), (256, 192)]


def box_of(rng):
    return np.concatenate([rng.uniform(-50, 300, 2), rng.uniform(3, 300, 2)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("coordinates", ["hrnet", "unbiased"])
def test_the_centre_the_scale_and_the_inverse(rng, size, coordinates):
    edge = CONVENTIONS[coordinates].pixel_offset
    for _ in range(20):
        box, degrees = box_of(rng), rng.uniform(-90, 90)
        to_crop = crop_transform(box, size, rotation=degrees, coordinates=coordinates)
        centre = box[:2] + box[2:] / 2
        np.testing.assert_allclose(to_crop.points(centre), np.array(size) / 2 - edge, atol=1e-9)
        width, height = padded_size(tuple(box[2:]), size)
        assert width / height == pytest.approx(size[0] / size[1])
        assert width >= 1.25 * box[2] - 1e-9 and height >= 1.25 * box[3] - 1e-9
        assert width == pytest.approx(1.25 * box[2]) or height == pytest.approx(1.25 * box[3])
        assert to_crop.scale == pytest.approx(size[0] / width)
        assert np.array_equal(padded_size(box[None, 2:].T, size), [[width], [height]])
        points = rng.uniform(0, 300, (9, 2))
        there = to_crop.inverse().points(to_crop.points(points))
        np.testing.assert_allclose(there, points, atol=1e-9)


def test_positive_rotation_turns_the_picture_counter_clockwise():
    """What was right of the middle comes above it."""
    to_crop = crop_transform([0, 0, 80, 80], (64, 64), 1.0, 90.0)
    np.testing.assert_allclose(to_crop.points([60, 40]), [32, 16], atol=1e-9)


@pytest.mark.parametrize("coordinates", ["hrnet", "unbiased"])
def test_crops_follow_the_image(rng, coordinates):
    """Moved with it, and scaled with it, from the edge where coordinates are."""
    box, points, shift = box_of(rng), rng.uniform(0, 300, (9, 2)), np.array([31.5, -12.25])
    once = crop_transform(box, (192, 256), coordinates=coordinates).points(points)
    moved = crop_transform([*(box[:2] + shift), *box[2:]], (192, 256), coordinates=coordinates)
    np.testing.assert_allclose(moved.points(points + shift), once, atol=1e-9)
    edge = CONVENTIONS[coordinates].pixel_offset
    larger = [*(3 * (box[:2] + edge) - edge), *(3 * box[2:])]
    scaled = crop_transform(larger, (192, 256), coordinates=coordinates)
    np.testing.assert_allclose(scaled.points(3 * (points + edge) - edge), once, atol=1e-9)


@pytest.mark.parametrize(("coordinates", "apart"), [("hrnet", 1), ("unbiased", 0)])
def test_a_flipped_image_gives_the_flipped_crop(rng, coordinates, apart):
    """Exactly so between edges; with hrnet coordinates moved by one network pixel."""
    box, width = box_of(rng), 400
    points = rng.uniform(0, 300, (9, 2))
    turned = [width - 1 - box[0] - box[2], *box[1:]]
    once = crop_transform(box, (192, 256), rotation=20, coordinates=coordinates).points(points)
    points[:, 0] = width - 1 - points[:, 0]
    other = crop_transform(turned, (192, 256), rotation=-20, coordinates=coordinates)
    np.testing.assert_allclose(191 - other.points(points)[:, 0] + apart, once[:, 0], atol=1e-9)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, -1], [0, np.nan, 5, 5], [0, 0, np.inf, 5]])
def test_what_is_no_box_is_refused_by_its_index(box):
    with pytest.raises(ValueError, match="box 1 is .*width, height"):
        check_boxes(np.array([[0, 0, 5, 5], box]))
    with pytest.raises(ValueError, match="above 0"):
        crop_transform(box, (192, 256))
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        check_boxes(np.zeros((3, 5)))


def test_joints_mse_oracle(rng):
    predicted, target = rng.normal(size=(2, 3, 5, 6, 7)).astype(np.float32)
    weights = rng.choice([0, 1, 0.5], (3, 5)).astype(np.float32)
    given = torch.from_numpy(predicted).requires_grad_()
    loss = joints_mse(given, torch.from_numpy(target), torch.from_numpy(weights))
    plain, hard = np.zeros(3), np.zeros(3)
    for b in range(3):
        terms = [
            0.5 * ((weights[b, k] * (predicted[b, k] - target[b, k])) ** 2).mean() for k in range(5)
        ]
        plain[b], hard[b] = np.mean(terms), np.mean(sorted(terms)[-2:])
    np.testing.assert_allclose(loss.detach(), plain, rtol=1e-5)
    ours = ohkm_mse(given, torch.from_numpy(target), torch.from_numpy(weights), hardest=2)
    np.testing.assert_allclose(ours.detach(), hard, rtol=1e-5)
    of_all = ohkm_mse(given, torch.from_numpy(target), torch.from_numpy(weights))  # 8 of 5
    np.testing.assert_allclose(of_all.detach(), plain, rtol=1e-5)
    loss.sum().backward()
    expected = weights[..., None, None] ** 2 * (predicted - target) / (5 * 6 * 7)
    np.testing.assert_allclose(given.grad, expected, rtol=1e-4, atol=1e-8)


def test_rescoring():
    values = np.array([[0.9, 0.1, 0.5], [0.2, 0.1, 0.0], [0.21, 0.2, 0.3]])
    scores = rescore(np.array([0.5, 1.0, 1.0]), values)
    np.testing.assert_allclose(scores, [0.5 * 0.7, 0, 0.255], rtol=1e-6)
    assert rescore(np.zeros(0), np.zeros((0, 17))).shape == (0,)
    random = np.random.default_rng(0)
    boxes, joints = random.random(50), random.uniform(-0.2, 1, (50, 17))
    assert (rescore(boxes, joints) <= boxes + 1e-7).all() and rescore(boxes, joints).any()


def test_flipping_back_undoes_a_flip_but_for_the_shift(rng):
    maps = torch.from_numpy(rng.random((2, 17, 8, 6)))
    turned = maps.flip(-1)[:, list(COCO.flip_order)]
    assert torch.equal(flip_back(turned, COCO.flip_order, HeatmapCodec("unbiased")), maps)
    back = flip_back(turned, COCO.flip_order, HeatmapCodec())
    assert torch.equal(back[..., 1:], maps[..., :-1]) and torch.equal(back[..., 0], maps[..., 0])


# The network --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "parameters"), [(32, 28.536), (48, 63.596)])
def test_pose_hrnet_has_the_published_parameters_and_names(width, parameters):
    """1,754 tensors, all of which have a published name."""
    with torch.device("meta"):
        model = PoseHRNet(HRNet(width), 17)
        (output,) = model.eval()(torch.zeros(1, 3, 256, 192))
    assert count_parameters(model) / 1e6 == pytest.approx(parameters, abs=5e-4)
    assert output.heatmaps.shape == (1, 17, 64, 48) and output.stride == 4
    names = list(model.state_dict())
    assert len(names) == 1754 and {our_name(published_name(name)) for name in names} == set(names)
    assert published_name("head.weight") == "final_layer.weight"
