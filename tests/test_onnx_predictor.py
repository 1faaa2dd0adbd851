"""A shipped model without torch does what the predictor does; networks stand in for its file."""

import json

import numpy as np
import pytest
import torch
from hrpose.inference.recipe import Recipe, from_text, to_text
from hrpose.inference.runner import Runner, resize
from torch import nn
from torch.nn import functional as F

from hrpose.inference.bottomup import BottomUpPredictor, Sizing
from hrpose.inference.grouping import PUBLISHED
from hrpose.inference.tta import PLAIN, mirrored
from hrpose.ops import peaks as torch_maps
from hrpose.ops.pixels import normalise
from hrpose.programs.export import found
from hrpose.programs.exporting.graphs import Looking, NetworkGraph, PeaksGraph
from hrpose.skeletons import COCO, Skeleton
from hrpose.structures import ScaleOutput

DOTS = Skeleton(("nose", "neck", "belt"), (0.05,) * 3, ("nose", "neck", "belt"))


class Blobs(nn.Module):
    """Sees a joint wherever a random filter says so, with tags so far apart that few are near.

    Along a line |a - p| + |b - q| often is |a - q| + |b - p|: the last digit of a map would decide.
    """

    def __init__(self, skeleton, seed=0):
        super().__init__()
        self.kinds = len(skeleton.joints)
        dice = torch.Generator().manual_seed(seed)
        self.filters = nn.Parameter(torch.randn(2 * self.kinds, 3, 5, 5, generator=dice) / 8)

    def forward(self, images):
        fine, coarse = F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)
        said = F.conv2d(coarse, self.filters, padding=2)
        heat = F.conv2d(fine, self.filters[: self.kinds], padding=2)
        return [
            ScaleOutput(0.4 + said[:, : self.kinds] / 8, 200 * said[:, self.kinds :], None, 4),
            ScaleOutput(0.4 + heat / 8, None, None, 2),
        ]


class Dots(nn.Module):
    """Red dots are noses, green ones necks, blue ones belts; to the left of the middle they are of
    one person, to the right of another.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1) / 4)

    def forward(self, images):
        fine = (F.avg_pool2d(images, 2) + 2) * self.weight
        tags = torch.zeros_like(fine[..., ::2, ::2])
        tags[..., tags.shape[-1] // 2 :] = 6
        return [
            ScaleOutput(F.avg_pool2d(fine, 2), tags, None, 4),
            ScaleOutput(fine, None, None, 2),
        ]


def scene(width, height, seed=0):
    """A smooth picture (H, W, 3) uint8."""
    dice = np.random.default_rng(seed)
    coarse = torch.from_numpy(dice.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 255)
    return fine.byte().permute(1, 2, 0).numpy()


SETTINGS = PUBLISHED._replace(detection_threshold=0.6, cost="clipped")


def as_network(graph):
    """A graph in torch as the runner asks one."""

    @torch.inference_mode()
    def network(images):
        said = graph(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in said.items()}

    return network


def pair(skeleton, sizing, views, settings=SETTINGS, graph="network", network=None):
    """A predictor, and the runner of what would be exported from it."""
    looks = [PLAIN, mirrored(skeleton.flip_order)][: len(views)]
    network = network or Blobs(skeleton)
    predictor = BottomUpPredictor(network, normalise, skeleton, sizing, looks, settings)
    looking = Looking(looks, sizing.stride, sizing.outputs, lambda h, t: found(h, t, settings))
    made = {"network": NetworkGraph, "peaks": lambda network: PeaksGraph(network, looking)}
    recipe = Recipe(
        skeleton,
        graph,
        (4, 2),
        sizing.input_size,
        sizing.scales,
        sizing.stride,
        sizing.outputs,
        views,
        sizing.convention,
        settings=settings,
    )
    return predictor, Runner(as_network(made[graph](predictor.model)), from_text(to_text(recipe)))


def assert_same_people(ours, theirs, pixels=1e-2):
    assert ours.joints.shape == theirs.joints.shape
    assert len(ours.joints) > 0
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
    np.testing.assert_array_equal(ours.joints[..., 2] > 0, theirs.joints[..., 2] > 0)
    assert abs(ours.joints - theirs.joints).max() <= pixels


BOTH = ("plain", "mirrored")
SIZINGS = [
    (Sizing(128), ("plain",)),
    (Sizing(128), BOTH),
    (Sizing(128, stride=2), BOTH),
    (Sizing(128, outputs=(2,)), BOTH),
    (Sizing(128, outputs=(4,), stride=2), ("plain",)),
    (Sizing(128, convention="exact"), BOTH),
    (Sizing(128, (0.5,)), BOTH),
    (Sizing(128, (0.5, 1.0, 2.0)), BOTH),
    (Sizing(128, (2.0, 1.0, 0.5), stride=2, convention="exact"), ("plain",)),
]


@pytest.mark.parametrize("sizing, views", SIZINGS)
@pytest.mark.parametrize("width, height", [(300, 200), (97, 171)])
def test_maps_and_people_are_those_of_the_predictor(
    sizing, views, width, height, record_difference
):
    predictor, runner = pair(COCO, sizing, views)
    image = scene(width, height)
    maps, to_maps = predictor.maps(image)
    heatmaps, tags = runner.maps(image)
    np.testing.assert_array_equal(runner.to_maps(image).matrix, to_maps.matrix)
    for name, ours, theirs in (("heatmaps", heatmaps, maps.heatmaps), ("tags", tags, maps.tags)):
        assert ours.shape == tuple(theirs.shape[1:])
        away = abs(ours - theirs[0].numpy()).max() / max(1, abs(ours).max())
        record_difference(f"runner: {name} against the predictor's", away)
        assert away < 1e-6
    assert_same_people(runner(image), predictor(image))


ONE_SCALE = [(sizing, views) for sizing, views in SIZINGS if len(sizing.scales) == 1]


@pytest.mark.parametrize("sizing, views", ONE_SCALE)
def test_a_graph_with_peaks_finds_the_same_people(sizing, views):
    predictor, runner = pair(COCO, sizing, views, graph="peaks")
    image = scene(300, 200, seed=1)
    assert_same_people(runner(image), predictor(image))


@pytest.mark.parametrize("graph", ["network", "peaks"])
@pytest.mark.parametrize(
    "changed",
    [
        {"adjust": False},
        {"refine": False},
        {"solver": "scipy", "max_people": 4},
        {"tag_threshold": 0.3, "nms_kernel": 9},
    ],
)
def test_settings_travel_with_the_model(graph, changed):
    settings = SETTINGS._replace(**changed)
    predictor, runner = pair(DOTS, Sizing(128), BOTH, settings, graph)
    image = scene(200, 260, seed=2)
    assert_same_people(runner(image), predictor(image))


@pytest.mark.parametrize("graph", ["network", "peaks"])
@pytest.mark.parametrize("views", [("plain",), BOTH])
@pytest.mark.parametrize("convention", ["official", "exact"])
def test_published_settings_find_two_people_where_they_are(graph, views, convention):
    truth = np.array([[[40, 60], [60, 100], [30, 150]], [[200, 80], [230, 60], [220, 160]]])
    away = np.hypot(*(np.mgrid[:200, :280][:, None, None] - truth.T[::-1, ..., None, None]))
    image = (250 * np.exp(-(away.min(1) ** 2) / 50)).astype(np.uint8).transpose(1, 2, 0)
    sizing = Sizing(128, convention=convention)
    predictor, runner = pair(DOTS, sizing, views, PUBLISHED, graph, Dots())
    poses = runner(image)
    assert_same_people(poses, predictor(image))
    found = poses.joints[np.argsort(poses.joints[:, 0, 0])]
    assert abs(found[..., :2] - truth).max() < 3  # two pixels of the network


def test_broken_weights_are_refused():
    for graph in ("network", "peaks"):
        predictor, runner = pair(DOTS, Sizing(128), BOTH, graph=graph)
        predictor.model.filters.data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="finite"):
            runner(scene(200, 200))


def plain_resize(plane, size):
    """Bilinear, pixel centres aligned, what lies outside being the nearest inside: float64."""
    (height, width), (rows, columns) = plane.shape, size
    resized = np.zeros(size)
    for row, column in np.ndindex(*size):
        y = min(max((row + 0.5) * height / rows - 0.5, 0), height - 1)
        x = min(max((column + 0.5) * width / columns - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        below, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        resized[row, column] = (1 - dy) * (
            (1 - dx) * plane[top, left] + dx * plane[top, right]
        ) + dy * ((1 - dx) * plane[below, left] + dx * plane[below, right])
    return resized


@pytest.mark.parametrize(
    "size, wanted, apart",
    [
        ((16, 24), (32, 48), 1e-6),  # to the finest output
        ((16, 24), (64, 96), 1e-6),  # to the network's input
        ((12, 20), (32, 40), 1e-6),  # between scales
        ((32, 48), (16, 24), 1e-6),  # from scale 2
        ((10, 14), (24, 33), 1e-5),  # torch holds such a ratio in 24 bits, OpenCV in 53
        ((8, 8), (8, 8), 0),
    ],
)
def test_resizing_is_torchs_and_a_plain_loops(rng, size, wanted, apart, record_difference):
    maps = rng.standard_normal((3, *size)).astype(np.float32)
    resized = resize(maps, wanted)
    assert resized.dtype == np.float32
    of_torch = torch_maps.resize(torch.from_numpy(maps)[None], wanted)[0].numpy()
    record_difference("runner: resize against torch's", abs(resized - of_torch).max())
    assert abs(resized - of_torch).max() <= apart
    for plane, ours in zip(maps, resized):
        np.testing.assert_allclose(ours, plain_resize(plane, wanted), atol=2e-6)


# The recipe -------------------------------------------------------------------------------------

RECIPE = Recipe(COCO, "network", (4, 2), 512, (0.5, 1.0), averaged=(2,), weights_sha256="ab")


def test_a_recipe_comes_back_as_it_was_written():
    assert from_text(to_text(RECIPE)) == RECIPE


def test_a_recipe_also_tells_others_what_they_need():
    said = json.loads(to_text(RECIPE))
    assert said["skeleton"]["flips"][:3] == [0, 2, 1]
    assert said["skeleton"]["joints"][0] == "nose"
    assert "multiples of 32" in said["input"]
    assert said["settings"]["tag_threshold"] == 1.0


def test_a_recipe_of_another_format_is_refused_with_the_version_that_reads_it():
    said = {**json.loads(to_text(RECIPE._replace(hrpose="9.1"))), "format": 7}
    with pytest.raises(ValueError, match="format 7.*hrpose 9.1"):
        from_text(json.dumps(said))
