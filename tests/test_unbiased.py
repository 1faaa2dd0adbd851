"""The unbiased convention through samples, training steps and real annotations."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hrpose.builders.common import build_model
from hrpose.builders.families import family, is_top_down
from hrpose.builders.training import build_optimizer, build_train_step
from hrpose.codecs.heatmap import HeatmapCodec
from hrpose.codecs.tags import TagCodec
from hrpose.config import load_config
from hrpose.data.augment import CropConfig, flip, random_affine
from hrpose.data.coco import image_annotations
from hrpose.data.loaders import collate
from hrpose.evaluation.coco import KeypointEvaluator
from hrpose.losses.combine import TargetConfig, make_targets
from hrpose.models.weights import load_weights
from hrpose.ops.coordinates import HIGHERHRNET, HRNET, UNBIASED, resize_transform
from hrpose.ops.peaks import resize
from hrpose.ops.subpixel import gather_keypoints
from hrpose.skeletons import COCO
from hrpose.structures import Poses, Sample
from reference.targets import downsample_mask, draw_gaussians, flat_cells
from test_options import CONFIGS, ROOT, SMALL

UNBIASED_COORDINATES = ("MODEL.COORDINATES", "unbiased")
CODEC = HeatmapCodec("unbiased")


def test_an_enlarged_map_shows_the_joint_where_it_is(rng, record_difference):
    """From 1/4 to 1/2, as heatmaps are averaged: cell c of the one is 2 c + 0.5 of the other."""
    joints = torch.from_numpy(rng.uniform(50, 76, (1, 1, 50, 3))).float()
    larger = resize(CODEC.encode(joints, (32, 32), 4)[0], (64, 64))
    away = abs(CODEC.decode(larger, 2)[0, :, :2] - joints[0, 0, :, :2].numpy()).max()
    record_difference("unbiased: located at 1/2 in a map drawn at 1/4 (px)", away)
    assert away < 0.1


# Samples, batches, steps ------------------------------------------------------------------------


def spotted(rng, size=(301, 243), people=2):
    """A soft spot at a joint, in a dark image of which a part on the left is not supervised."""
    joints = rng.uniform(0.3, 0.7, (people, 17, 3)).astype(np.float32) * [*size, 0]
    joints[..., 2] = 2
    rows, columns = np.indices(size[::-1])
    away = (columns - joints[0, 0, 0]) ** 2 + (rows - joints[0, 0, 1]) ** 2
    image = np.repeat((255 * np.exp(-away / 32)).astype(np.uint8)[..., None], 3, -1)
    mask = np.ones(size[::-1], bool)
    mask[:, :90] = False
    boxes = np.full((people, 4), 80, np.float32)
    return Sample(image, joints.astype(np.float32), mask, image_id=1, boxes=boxes)


def batch_of(*samples):
    return collate(list(enumerate(samples)))


@pytest.mark.parametrize("seed", range(5))
def test_a_flipped_sample_has_flipped_targets(rng, seed):
    crop = CropConfig(128, stride=2, convention=UNBIASED)
    plain = random_affine(spotted(rng), np.random.default_rng(seed), crop)
    sixteenths = np.round(plain.joints * 8) / 8 + np.float32([1 / 16, 1 / 16, 0])  # no rounding
    plain = replace(plain, joints=sixteenths)
    batch = batch_of(plain, flip(plain, COCO.flip_order))
    for target in make_targets(batch, [4, 2], TargetConfig(convention=UNBIASED)):
        here, there = target.heatmaps
        assert here.any()
        assert torch.equal(there, here.flip(-1)[COCO.flip_order])
        assert torch.equal(target.mask[1], target.mask[0].flip(-1))
        assert 0.1 < target.mask.float().mean() < 1


def test_targets_are_the_parts_put_together_by_hand(rng):
    crop = CropConfig(64, stride=2, convention=UNBIASED)
    batch = batch_of(*(random_affine(spotted(rng), rng, crop) for _ in range(2)))
    coarse, fine = make_targets(batch, [4, 2], TargetConfig(max_people=1, convention=UNBIASED))
    for stride, target in ((4, coarse), (2, fine)):
        cells = ((batch["joints"] + 0.5) / stride - 0.5).numpy()
        cells[..., 2] = batch["joints"][..., 2]
        size = (64 // stride, 64 // stride)
        drawn = draw_gaussians(cells, size, 2.0, convention="unbiased")
        np.testing.assert_allclose(target.heatmaps, drawn, atol=1e-5)
        assert np.array_equal(target.cells, flat_cells(cells[:, :1], size, "unbiased"))
    assert np.array_equal(fine.mask, batch["mask"])
    assert np.array_equal(coarse.mask, downsample_mask(batch["mask"].numpy(), 2))


def crop_of(config):
    return family(config).AUGMENTATIONS["affine"](config).keywords["crop"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_yaml_may_choose_unbiased_coordinates(path, tmp_path):
    """And keeps them in the frozen config of a run, which is read again."""
    config = load_config(path, UNBIASED_COORDINATES)
    parts = family(config)
    assert crop_of(config).convention is parts.build_targets(config).convention is UNBIASED
    (tmp_path / "config.yaml").write_text(config.dump())
    assert load_config(tmp_path / "config.yaml") == config
    published = load_config(path, ["MODEL.COORDINATES", "published"])
    convention = HRNET if is_top_down(config) else HIGHERHRNET
    assert crop_of(published).convention is convention
    assert parts.build_targets(published).convention is convention


SWAHR = ("MODEL.NAME", "swahr", "LOSS.SAHR", "true", "LOSS.WAHR", "true")


@pytest.mark.parametrize("more", [(), SWAHR, ("MODEL.NUM_DECONVS", "2"), ("LOSS.SHR", "256")])
def test_a_step_of_training_is_finite(rng, more):
    config = load_config(ROOT / "configs" / "w32_512.yaml", [*SMALL, *UNBIASED_COORDINATES, *more])
    stride = 4 // 2**config.MODEL.NUM_DECONVS
    crop = CropConfig(64, stride=stride, convention=UNBIASED)
    samples = [random_affine(spotted(rng), rng, crop) for _ in range(2)]
    batch = batch_of(samples[0], flip(samples[1], COCO.flip_order))
    model = build_model(config)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = build_train_step(config, model)(batch)["loss"].mean()
    loss.backward()
    build_optimizer(config, model).step()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_weights_of_the_other_convention_are_refused():
    unbiased, published = (
        load_config(ROOT / "configs" / "w32_512.yaml", [*SMALL, "MODEL.COORDINATES", name])
        for name in ("unbiased", "published")
    )
    for here, there in ((unbiased, published), (published, unbiased)):
        stored = there.MODEL.COORDINATES
        checkpoint = {"model": build_model(there).state_dict(), "convention": stored}
        with pytest.raises(ValueError, match=f"MODEL.COORDINATES {stored}"):
            load_weights(build_model(here), checkpoint)
        load_weights(build_model(there), checkpoint)


# From end to end --------------------------------------------------------------------------------


def read_back(joints, image_size, input_size, stride):
    """Joints (N, K, 3) of an image, drawn in its cells, located there and mapped back."""
    size, to_network = resize_transform(image_size, input_size, convention=UNBIASED)
    there = torch.from_numpy(to_network.joints(joints))[None].float()
    shape = (size[1] // stride, size[0] // stride)
    heatmaps = CODEC.encode(there, shape, stride)[0][0].numpy()
    cells = TagCodec(UNBIASED).encode(there, shape, stride)[0].numpy()
    joint, cell = np.divmod(np.maximum(cells, 0), shape[0] * shape[1])
    no_tags = np.empty((*heatmaps.shape, 0), np.float32)
    found = gather_keypoints(heatmaps, no_tags, joint, cell, "dark")
    found[..., 2] = 1
    back = to_network.to_cell_frame(stride, UNBIASED).inverse().joints(found)
    return back * (cells >= 0)[..., None]


@pytest.mark.parametrize("image_size", [(301, 243), (200, 415)])
@pytest.mark.parametrize("stride", [4, 2])
def test_people_come_back_from_their_heatmaps(rng, image_size, stride, record_difference):
    """At 256 px, to a thousandth of a pixel of the image where no other person is near."""
    for _ in range(10):
        joints = rng.uniform(0.1, 0.9, (1, 17, 3)) * [*image_size, 0] + [0, 0, 2]
        back = read_back(joints, image_size, 256, stride)
        away = abs(back[..., :2] - joints[..., :2]).max()
        record_difference(f"unbiased: joints drawn at 1/{stride}, mapped back (px)", away)
        assert away < 1e-3


REAL = ROOT.parent / "shared" / "data" / "coco_subset" / "annotations"
REAL = REAL / "person_keypoints_val2017.json"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason=f"no real annotations at {REAL}")
@pytest.mark.parametrize(("stride", "least"), [(4, 0.98), (2, 0.99)])
def test_what_cells_cost_real_people(stride, least, record_difference):
    """AP of the truth drawn at 256 px and located, with every joint given to its person."""
    truth = json.loads(REAL.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    evaluator = KeypointEvaluator(truth, COCO)
    for record in image_annotations(truth, 17, 1):
        joints = read_back(record.joints, sizes[record.image_id], 256, stride)
        scores = np.ones(len(joints), np.float32)
        evaluator.add(record.image_id, Poses(joints.astype(np.float32), scores))
    found = evaluator.summarize()["AP"]
    record_difference(f"unbiased: ceiling at 256 px, 1/{stride}: AP", found)
    assert found > least
