"""The slow reference and the package compute the same, whatever is in an image."""

import numpy as np
import pytest
import torch

from commands import QUICKSTART, SMALL
from hrpose.builders.bottomup import build_loss, build_predictor, build_targets, output_strides
from hrpose.builders.common import build_model
from hrpose.builders.training import build_optimizer_step, build_training_loader
from hrpose.config import load_config
from hrpose.losses.combine import make_targets
from hrpose.ops.normalize import normalize
from hrpose.structures import HeadOutput
from reference.data import reference_loader
from reference.predictor import ReferencePredictor
from reference.scenes import Crowd, crowd_maps, noise_maps
from reference.training_step import ReferenceStep, reference_loss

PEOPLE = [0, 1, 2, 5, 30, 33]
"""People of an image; DATASET.MAX_NUM_PEOPLE is 30."""
ADAPTIVE = ["MODEL.NAME", "swahr", "LOSS.SAHR", "true", "LOSS.WAHR", "true"]


@pytest.fixture
def config_of(scenes):
    """(KEY, VALUE, ...) -> the config of a small network on the scenes."""
    more = ["DATASET.ROOT", str(scenes), "MODEL.BACKBONE.MODULES", "[1,1,1]", "DATASET.FLIP", ".5"]
    return lambda *overrides: load_config(QUICKSTART, [*SMALL, *more, *overrides])


def crowded(config):
    """The loaders of both, on the same images with PEOPLE in them."""
    loader = build_training_loader(config)
    known = np.concatenate([record.joints for record in loader.dataset.records])
    rng = np.random.default_rng(0)
    for i, record in enumerate(loader.dataset.records):
        joints = known[rng.integers(len(known), size=PEOPLE[i % len(PEOPLE)])]
        boxes = np.tile(np.float32([5, 5, 50, 90]), (len(joints), 1))
        loader.dataset.records[i] = record._replace(joints=joints, boxes=boxes)
    return loader, reference_loader(config, loader)


def pairs(config):
    """(batch, the same batch of the reference), of two epochs."""
    loaders = crowded(config)
    for epoch in range(2):
        for loader in loaders:
            loader.batch_sampler.enter(epoch)
        yield from zip(*loaders)


# Data and targets -------------------------------------------------------------------------------


def test_the_scenes_show_what_is_to_be_compared(config_of):
    result = [batch for batch, _ in pairs(config_of())]
    flipped = torch.cat([batch["flipped"] for batch in result])
    counts = torch.cat([(batch["joints"][..., 2] > 0).any(-1).sum(-1) for batch in result])
    assert flipped.any() and not flipped.all()
    assert set(PEOPLE) == set(counts.tolist())


@pytest.mark.parametrize("more", ([], ["MODEL.NUM_DECONVS", "2", "LOSS.SIGMA", "[2,2.5,3]"]))
def test_images_and_targets_are_the_same(config_of, more, record_difference):
    config = config_of(*more)
    strides, targets = output_strides(config), build_targets(config)
    for batch, slow in pairs(config):
        apart = (normalize(batch["image"]) - slow["image"]).abs().max()
        record_difference("reference: images", apart)
        assert apart <= 1e-6
        for stride, truth in zip(strides, make_targets(batch, strides, targets), strict=True):
            apart = (truth.heatmaps - slow[f"heatmaps/{stride}"]).abs().max()
            record_difference("reference: heatmaps", apart)
            assert apart <= 1e-6
            assert torch.equal(truth.mask.float(), slow[f"mask/{stride}"])
            count = truth.cells.shape[1]  # of the fullest image; the reference lists 30 people
            assert torch.equal(truth.cells, slow[f"cells/{stride}"][:, :count])
            assert (slow[f"cells/{stride}"][:, count:] == -1).all()


# Losses and steps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["LOSS.TAGS.KIND", "max"],
        ["LOSS.HEATMAP", "[1,.5]"],
        ["LOSS.TERMS", "['tags']"],
        ADAPTIVE,
    ],
)
def test_losses_and_their_gradients_are_the_same(config_of, more, record_difference):
    config = config_of(*more)
    fast, loops = build_loss(config), reference_loss(config)
    for batch, slow in pairs(config):
        outputs = random_outputs(batch, output_strides(config))
        terms = fast(outputs, batch)
        total = sum(terms.weights[name] * value for name, value in terms.losses.items())
        losses = loops(outputs, slow)
        assert set(losses) == {"loss", *terms.losses}
        for name, value in {"loss": total, **terms.losses}.items():
            torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-6)
        leaves = [
            leaf
            for output in outputs
            for leaf in (output.heatmaps, output.tags, output.scales)
            if leaf is not None
        ]
        gradients, expected = (
            torch.autograd.grad(each.sum(), leaves, allow_unused=True, materialize_grads=True)
            for each in (total, losses["loss"])
        )
        apart = max((a - b).abs().max() for a, b in zip(gradients, expected))
        record_difference("reference: gradients of the loss", apart)
        assert apart <= 1e-6


def random_outputs(batch, strides):
    """What a network might predict, as leaves; tags at the coarsest resolution."""
    generator, images = torch.Generator().manual_seed(1), len(batch["image"])
    outputs = []
    for i, stride in enumerate(strides):
        shape = (images, 17, 64 // stride, 64 // stride)
        heatmaps, tags, scales = (
            torch.randn(shape, generator=generator).requires_grad_() for _ in range(3)
        )
        outputs.append(HeadOutput(f"1_{stride}", stride, heatmaps, None if i else tags, scales))
    return outputs


def test_two_steps_are_the_same(config_of):
    """The second loss is that of the weights that the first step made."""
    config, cpu = config_of(), torch.device("cpu")
    loaders = crowded(config)
    torch.manual_seed(config.TRAIN.SEED)
    optimizer_step = build_optimizer_step(
        config, build_model(config), loaders[0].batch_sampler.batch, [cpu]
    )
    optimizer_step.train_step.train()
    slow = ReferenceStep(config, cpu)
    for batch, other in zip(*loaders):
        result, _ = optimizer_step.step(batch, lr=config.TRAIN.LR, number=0)
        torch.testing.assert_close(result["loss"], slow(other)["loss"], rtol=1e-3, atol=1e-6)


# Finding people ---------------------------------------------------------------------------------


def predictor_of(config):
    """With heads so large that an untrained network finds people."""
    torch.manual_seed(0)
    model = build_model(config)
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return build_predictor(config, model), model


def test_the_same_maps_and_people(config_of, record_difference):
    fast, model = predictor_of(config_of("TEST.SCALE_FACTOR", "[1]", "TEST.FLIP_TEST", "true"))
    slow = ReferencePredictor(fast, model)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    inputs = fast.preprocess(image)
    maps, expected = fast.forward([inputs]), slow.maps(inputs)
    assert maps.tags.shape[-1] == 2
    for one, other in zip(maps, expected):
        apart = ((one - other).abs().max() / other.abs().max()).item()
        record_difference("reference: maps, relative", apart)
        assert apart < 1e-5
    poses, wanted = fast(image), slow(image)
    assert len(poses.joints) == len(wanted.joints) > 0
    np.testing.assert_allclose(poses.scores, wanted.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "more", "cure"),
    [
        ("data", ["LOSS.SHR", "256"], "LOSS.SHR 0"),
        ("data", ["DATASET.AUGMENTATIONS", "['flip']"], "affine"),
        ("predictor", ["TEST.SCALE_FACTOR", "[0.5,1]"], "TEST.SCALE_FACTOR"),
        (
            "predictor",
            ["TEST.SCALE_FACTOR", "[1]", "TEST.MATCHING_COST", "clipped"],
            "as published",
        ),
    ],
)
def test_what_the_reference_does_not_implement_is_refused(config_of, build, more, cure):
    config = config_of(*more)
    with pytest.raises(ValueError, match=cure):
        if build == "data":
            reference_loader(config, build_training_loader(config))
        else:
            ReferencePredictor(*predictor_of(config))


# Scenes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 2])
def test_crowds_are_like_the_maps_of_a_network(views):
    rng = np.random.default_rng(0)
    heatmaps, tags = crowd_maps(Crowd(4, views=views, noise=0), (128, 160), rng, (64, 80))
    assert heatmaps.shape == (17, 64, 80)
    assert tags.shape == (17, 64, 80, views)
    assert 0.3 < heatmaps.max() <= 1
    assert 0 < (heatmaps > 0.1).mean() < 0.2
    assert set(np.unique(tags.round(3))) >= {0, 1.5, 3, 4.5, 6}


def test_noise_has_peaks_everywhere():
    heatmaps, tags = noise_maps((64, 80), np.random.default_rng(0))
    assert heatmaps.shape == (17, 64, 80)
    assert tags.shape == (17, 64, 80, 2)
    assert abs(np.median(heatmaps) - 0.5) < 0.02
