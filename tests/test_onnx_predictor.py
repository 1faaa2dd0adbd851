"""An exported model without torch equals the predictor; networks stand in for its file."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from boxed_people import as_network
from hrpose.inference.bottomup import BottomUpPredictor
from hrpose.inference.onnx_bottomup import resize_on_host
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import (
    PUBLISHED,
    DecoderConfig,
    ExportedModel,
    InferenceSpec,
    from_json,
    to_json,
)
from hrpose.ops import peaks as torch_maps
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.programs.exporting.graphs import NetworkGraph, PeaksGraph
from hrpose.skeletons import COCO, Skeleton
from hrpose.structures import HeadOutput

DOTS = Skeleton(("nose", "neck", "belt"), (0.05,) * 3, ("nose", "neck", "belt"))


class Blobs(nn.Module):
    """Predicts a joint wherever a random filter responds, with tags so far apart that few are near.

    Along a line |a - p| + |b - q| often is |a - q| + |b - p|: the last digit of a map would decide.
    """

    def __init__(self, skeleton, seed=0):
        super().__init__()
        self.kinds = len(skeleton.joints)
        generator = torch.Generator().manual_seed(seed)
        self.filters = nn.Parameter(torch.randn(2 * self.kinds, 3, 5, 5, generator=generator) / 8)

    def forward(self, images):
        fine, coarse = F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)
        maps = F.conv2d(coarse, self.filters, padding=2)
        heat = F.conv2d(fine, self.filters[: self.kinds], padding=2)
        return [
            HeadOutput("1_4", 4, 0.4 + maps[:, : self.kinds] / 8, 200 * maps[:, self.kinds :]),
            HeadOutput("1_2", 2, 0.4 + heat / 8),
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
            HeadOutput("1_4", 4, F.avg_pool2d(fine, 2), tags),
            HeadOutput("1_2", 2, fine),
        ]


def scene(width, height, seed=0):
    """A smooth picture (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32))
    fine = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 255)
    return fine.byte().permute(1, 2, 0).numpy()


DECODER = PUBLISHED._replace(detection_threshold=0.6, matching_cost="clipped")


def pair(spec, graph="network", network=None):
    """A predictor, and the predictor of what would be exported from it."""
    predictor = BottomUpPredictor(network or Blobs(spec.skeleton), spec)
    made = {"network": NetworkGraph, "peaks": lambda network: PeaksGraph(network, spec)}
    text = to_json(ExportedModel(spec, graph, (4, 2)))
    return predictor, OnnxPredictor(as_network(made[graph](predictor.model)), from_json(text))


def assert_same_people(found, expected, pixels=1e-2):
    assert found.joints.shape == expected.joints.shape
    assert len(found.joints) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(found.joints[..., 2] > 0, expected.joints[..., 2] > 0)
    assert abs(found.joints - expected.joints).max() <= pixels


FLIPPED = ("identity", "flip")


def spec_of(skeleton=COCO, decoder=DECODER, **changes):
    spec = InferenceSpec(skeleton, 128, mean=IMAGENET_MEAN, std=IMAGENET_STD, decoder=decoder)
    return spec._replace(**changes)


SPECS = [
    spec_of(),
    spec_of(views=FLIPPED),
    spec_of(views=FLIPPED, stride=2),
    spec_of(views=FLIPPED, aggregate=(2,)),
    spec_of(aggregate=(4,), stride=2),
    spec_of(views=FLIPPED, convention="unbiased"),
    spec_of(views=FLIPPED, scales=(0.5,)),
    spec_of(views=FLIPPED, scales=(0.5, 1.0, 2.0)),
    spec_of(scales=(2.0, 1.0, 0.5), stride=2, convention="unbiased"),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width, height", [(300, 200), (97, 171)])
def test_maps_and_people_are_those_of_the_predictor(spec, width, height, record_difference):
    predictor, exported = pair(spec)
    image = scene(width, height)
    inputs = predictor.preprocess(image)
    maps = predictor.forward([inputs])
    heatmaps, tags, _ = exported.steps.forward(exported.steps.preprocess(image))
    for name, one, other in (("heatmaps", heatmaps, maps.heatmaps), ("tags", tags, maps.tags)):
        assert one.shape == tuple(other.shape[1:])
        away = abs(one - other[0].numpy()).max() / max(1, abs(one).max())
        record_difference(f"OnnxPredictor: {name} against the predictor's", away)
        assert away < 1e-6
    assert_same_people(exported(image), predictor(image))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if len(spec.scales) == 1])
def test_a_graph_with_peaks_finds_the_same_people(spec):
    predictor, exported = pair(spec, "peaks")
    image = scene(300, 200, seed=1)
    assert_same_people(exported(image), predictor(image))


@pytest.mark.parametrize("graph", ["network", "peaks"])
@pytest.mark.parametrize(
    "changed",
    [
        {"subpixel": "none"},
        {"refine": False},
        {"matcher": "scipy", "max_people": 4},
        {"tag_threshold": 0.3, "nms_kernel": 9},
    ],
)
def test_the_decoder_config_travels_with_the_model(graph, changed):
    decoder = DECODER._replace(**changed)
    predictor, exported = pair(spec_of(DOTS, decoder, views=FLIPPED), graph)
    image = scene(200, 260, seed=2)
    assert_same_people(exported(image), predictor(image))


@pytest.mark.parametrize("graph", ["network", "peaks"])
@pytest.mark.parametrize("views", [("identity",), FLIPPED])
@pytest.mark.parametrize("convention", ["published", "unbiased"])
def test_the_published_config_finds_two_people_where_they_are(graph, views, convention):
    truth = np.array([[[40, 60], [60, 100], [30, 150]], [[200, 80], [230, 60], [220, 160]]])
    away = np.hypot(*(np.mgrid[:200, :280][:, None, None] - truth.T[::-1, ..., None, None]))
    image = (250 * np.exp(-(away.min(1) ** 2) / 50)).astype(np.uint8).transpose(1, 2, 0)
    decoder = (
        DecoderConfig(subpixel="dark", unique_peaks=True) if convention == "unbiased" else PUBLISHED
    )
    spec = spec_of(DOTS, decoder, views=views, convention=convention)
    predictor, exported = pair(spec, graph, Dots())
    poses = exported(image)
    assert_same_people(poses, predictor(image))
    found = poses.joints[np.argsort(poses.joints[:, 0, 0])]
    assert abs(found[..., :2] - truth).max() < 3  # two pixels of the network


def test_boxes_are_refused():
    _, exported = pair(spec_of())
    with pytest.raises(ValueError, match="without boxes"):
        exported(scene(200, 100), np.float32([[0, 0, 100, 80]]))


def test_broken_weights_are_refused():
    for graph in ("network", "peaks"):
        predictor, exported = pair(spec_of(DOTS, views=FLIPPED), graph)
        predictor.model.filters.data.fill_(float("nan"))
        with pytest.raises(FloatingPointError, match="finite"):
            exported(scene(200, 200))


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
    resized = resize_on_host(maps, wanted)
    assert resized.dtype == np.float32
    of_torch = torch_maps.resize(torch.from_numpy(maps)[None], wanted)[0].numpy()
    record_difference("resize_on_host: against torch's", abs(resized - of_torch).max())
    assert abs(resized - of_torch).max() <= apart
    for plane, result in zip(maps, resized):
        np.testing.assert_allclose(result, plain_resize(plane, wanted), atol=2e-6)


# Metadata ---------------------------------------------------------------------------------------

MODEL = ExportedModel(
    spec_of(scales=(0.5, 1.0), aggregate=(2,), views=FLIPPED), "network", (4, 2), "ab", "9.1"
)


def test_metadata_comes_back_as_it_was_written():
    assert from_json(to_json(MODEL)) == MODEL


def test_named_pairs_of_joints_travel_with_the_model():
    """Their names do not tell which are left and right."""
    paired = Skeleton(("a", "b"), (0.05,) * 2, ("a", "b"), flip_pairs=(("a", "b"),))
    text = to_json(MODEL._replace(spec=MODEL.spec._replace(skeleton=paired)))
    assert from_json(text).spec.skeleton.flip_order == [1, 0]
    body = json.loads(text)
    del body["spec"]["skeleton"]["flip_pairs"]  # as before they were written
    with pytest.raises(ValueError, match="flip_order.*tools/export.py"):
        from_json(json.dumps(body))


def test_metadata_of_format_2_is_read():
    body = json.loads(to_json(MODEL))
    del body["family"]
    assert from_json(json.dumps({**body, "format": 2})) == MODEL


def test_metadata_also_has_what_other_programs_need():
    body = json.loads(to_json(MODEL))
    assert body["spec"]["skeleton"]["flip_order"][:3] == [0, 2, 1]
    assert body["spec"]["skeleton"]["joints"][0] == "nose"
    assert "multiples of 32" in body["input"]
    assert body["spec"]["decoder"]["tag_threshold"] == 1.0


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(format=7),
        lambda body: body.update(graph="soup"),
        lambda body: body.update(family="soup"),
        lambda body: body["spec"].update(convention="polar"),
        lambda body: body["spec"].update(views=["polar"]),
        lambda body: body["spec"]["decoder"].update(mystery=1),
    ],
)
def test_unknown_metadata_is_refused_with_the_version_that_reads_it(change):
    body = json.loads(to_json(MODEL))
    change(body)
    with pytest.raises(ValueError, match="(7|soup|polar|mystery).*hrpose 9.1.*tools/export.py"):
        from_json(json.dumps(body))


def of_format_1(**settings):
    """Metadata as written before format 2."""
    skeleton = {
        "joints": DOTS.joints,
        "flips": DOTS.flip_order,
        "sigmas": DOTS.sigmas,
        "grouping_order": DOTS.grouping_order,
        "limbs": [],
    }
    known = {
        "detection_threshold": 0.2,
        "tag_threshold": 1.0,
        "max_people": 20,
        "nms_kernel": 5,
        "adjust": True,
        "refine": True,
        "solver": "scipy",
        "cost": "clipped",
        "step": "taylor",
        "score": "all",
        "min_score": 0.1,
        "suppress": 0.9,
    }
    return json.dumps(
        {
            "format": 1,
            "input": "uint8 RGB (B, 3, H, W), H and W multiples of 32",
            "resize_rule": "hrpose.ops.affine.fit: ...",
            "skeleton": skeleton,
            "graph": "peaks",
            "strides": [4, 2],
            "input_size": 384,
            "scales": [1.0],
            "stride": 2,
            "averaged": [2],
            "views": ["plain", "mirrored"],
            "convention": "exact",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
            "settings": {**known, **settings},
            "weights_sha256": "cd",
            "hrpose": "0.1.0",
        }
    )


def test_metadata_of_format_1_is_read():
    decoder = DecoderConfig(
        detection_threshold=0.2,
        max_people=20,
        subpixel="dark",
        unique_peaks=True,
        matcher="scipy",
        matching_cost="clipped",
        min_score=0.1,
        oks_nms=0.9,
    )
    spec = InferenceSpec(
        DOTS, 384, (1.0,), FLIPPED, 2, (2,), "unbiased", (0.5,) * 3, (0.2,) * 3, decoder
    )
    assert from_json(of_format_1()) == ExportedModel(spec, "peaks", (4, 2), "cd", "0.1.0")
    assert from_json(of_format_1(adjust=False)).spec.decoder.subpixel == "none"
    published = from_json(of_format_1(step="quarter")).spec.decoder
    assert (published.subpixel, published.unique_peaks) == ("quarter", False)


def test_a_score_of_format_1_that_is_gone_is_refused_with_the_command_that_converts():
    with pytest.raises(ValueError, match="'found'.*hrpose 0.1.0.*tools/export.py"):
        from_json(of_format_1(score="found"))
