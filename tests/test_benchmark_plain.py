"""The plain way that benchmarks compare with computes the same, whatever is in an image."""

import pytest
import torch

from crowded_scenes import CPU, PEOPLE, QUICKSTART, crowded, small
from hrpose.build import build_loss, build_targets, output_strides
from hrpose.builders.training import build_training_loader
from hrpose.config import load_config
from hrpose.losses.multi_scale import draw_truths
from hrpose.losses.tags import tag_loss
from hrpose.ops.pixels import normalise
from hrpose.programs.benchmarking.loading import bytes_of
from hrpose.programs.benchmarking.plain_data import plain_loader
from hrpose.programs.benchmarking.plain_step import build_plain_loss, listed, looped_tag_loss
from hrpose.programs.benchmarking.sides import configured_side, fetched, plain_side
from hrpose.programs.benchmarking.tags import Crowd, draw_crowd
from hrpose.structures import ScaleOutput


@pytest.fixture
def options(scenes):
    return small(scenes)


def pairs(config):
    """(batch, the same batch the plain way), of two epochs."""
    loaders = crowded(config)
    for epoch in range(2):
        for loader in loaders:
            loader.batch_sampler.enter(epoch)
        yield from zip(*loaders)


def test_the_scenes_show_what_is_to_be_compared(options):
    config = load_config(QUICKSTART, options)
    ours = [batch for batch, _ in pairs(config)]
    mirrored = torch.cat([batch["mirrored"] for batch in ours])
    counts = torch.cat([(batch["joints"][..., 2] > 0).any(-1).sum(-1) for batch in ours])
    assert mirrored.any() and not mirrored.all()
    assert set(PEOPLE) == set(counts.tolist())


@pytest.mark.parametrize("more", ([], ["MODEL.NUM_DECONVS", "2", "LOSS.SIGMA", "[2,2.5,3]"]))
def test_images_and_targets_are_the_same(options, more, record_difference):
    config = load_config(QUICKSTART, [*options, *more])
    strides, targets = output_strides(config), build_targets(config)
    for batch, plain in pairs(config):
        apart = (normalise(batch["image"]) - plain["image"]).abs().max()
        record_difference("benchmark: images, plain way", apart)
        assert apart <= 1e-6
        for stride, truth in zip(strides, draw_truths(batch, strides, targets), strict=True):
            apart = (truth.heatmaps - plain[f"heatmaps/{stride}"]).abs().max()
            record_difference("benchmark: heatmaps, plain way", apart)
            assert apart <= 1e-6
            assert torch.equal(truth.mask.float(), plain[f"mask/{stride}"])
            assert people(truth.cells) == people(unpacked(plain[f"joints/{stride}"]))


def unpacked(joints):
    """(B, N, K, 2) -> (B, N, K), -1 where there is none"""
    return joints[..., 0].where(joints[..., 1] > 0, -1)


def people(cells):
    """The cells of every person of every image, but for those of whom none is seen at the end."""
    images = [[sorted(c for c in row if c >= 0) for row in image] for image in cells.tolist()]
    return [
        image[: max((n + 1 for n, row in enumerate(image) if row), default=0)] for image in images
    ]


ADAPTIVE = ["MODEL.NAME", "swahr", "LOSS.SAHR", "true", "LOSS.WAHR", "true"]


@pytest.mark.parametrize(
    "more",
    [[], ["LOSS.AE_TYPE", "max"], ["LOSS.HEATMAP", "[1,.5]"], ["LOSS.TERMS", "['tags']"], ADAPTIVE],
)
def test_losses_and_their_gradients_are_the_same(options, more, record_difference):
    config = load_config(QUICKSTART, [*options, *more])
    ours, loops = build_loss(config), build_plain_loss(config)
    for batch, plain in pairs(config):
        outputs = random_outputs(batch, output_strides(config))
        terms = ours(outputs, batch)
        total = sum(terms.weights[name] * value for name, value in terms.loss.items())
        said = loops(outputs, plain)
        assert set(said) == {"loss", *terms.loss}
        for name, value in {"loss": total, **terms.loss}.items():
            torch.testing.assert_close(said[name], value, rtol=1e-6, atol=1e-6)
        compare_slopes(outputs, total, said["loss"], record_difference)


def random_outputs(batch, strides):
    """What a network might say, as leaves; tags at the coarsest resolution."""
    dice, images = torch.Generator().manual_seed(1), len(batch["image"])
    outputs = []
    for i, stride in enumerate(strides):
        shape = (images, 17, 64 // stride, 64 // stride)
        heatmaps, tags, scales = (
            torch.randn(shape, generator=dice).requires_grad_() for _ in range(3)
        )
        outputs.append(ScaleOutput(heatmaps, None if i else tags, scales, stride))
    return outputs


def compare_slopes(outputs, one, other, record_difference):
    leaves = [leaf for output in outputs for leaf in output[:3] if leaf is not None]
    slopes = [
        torch.autograd.grad(total.sum(), leaves, allow_unused=True, materialize_grads=True)
        for total in (one, other)
    ]
    apart = max((a - b).abs().max() for a, b in zip(*slopes))
    record_difference("benchmark: slopes of the loss, plain way", apart)
    assert apart <= 1e-6


@pytest.mark.parametrize("kind", ["exp", "max"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_the_tags_are_looped_over_to_the_same_end(kind, count):
    tags, cells = draw_crowd(Crowd(images=3, people=count, size=16))
    cells[1] = -1  # an image of nobody
    leaf = tags.double().requires_grad_()
    said = [tag_loss(leaf, cells, kind), looped_tag_loss(leaf, listed(cells), kind)]
    slopes = [torch.autograd.grad(pull.sum() + 2 * push.sum(), leaf)[0] for pull, push in said]
    torch.testing.assert_close(*said, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


def test_both_sides_begin_with_the_same_loss(options):
    config = load_config(QUICKSTART, options)
    losses = []
    for build, loader in zip((configured_side, plain_side), crowded(config)):
        side = build(config, CPU, fetched(loader))
        losses.append(side.step(next(side.batches.source))["loss"])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


def test_the_plain_way_ships_dense_float32(options):
    batch, plain = next(pairs(load_config(QUICKSTART, options)))
    joints = 2 * 30 * 17 * 2 * 8
    assert bytes_of(plain) == 4 * (4 * 3 * 64**2 + 4 * (17 + 1) * (16**2 + 32**2) + joints)
    assert bytes_of(batch) < bytes_of(plain) / 5


@pytest.mark.parametrize(
    ("more", "cure"),
    [(["LOSS.SHR", "256"], "LOSS.SHR 0"), (["DATASET.AUGMENTATIONS", "['flip']"], "affine")],
)
def test_what_the_plain_way_cannot_do_is_refused(options, more, cure):
    config = load_config(QUICKSTART, [*options, *more])
    with pytest.raises(ValueError, match=cure):
        plain_loader(config, build_training_loader(config))
