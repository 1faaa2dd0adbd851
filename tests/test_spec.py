"""InferenceSpec: what a config becomes, and how images are brought to the network."""

from pathlib import Path

import numpy as np
import pytest

from hrpose.builders.bottomup import build_spec
from hrpose.config import load_config
from hrpose.inference.spec import PUBLISHED, InferenceSpec, from_json
from hrpose.ops.coordinates import BOTTOM_UP, resize_transform
from hrpose.ops.normalize import IMAGENET_MEAN, IMAGENET_STD
from hrpose.skeletons import COCO

CONFIG = Path(__file__).parents[1] / "configs" / "w32_512.yaml"


def spec_of(*overrides):
    return build_spec(load_config(CONFIG, overrides))


def test_the_published_config_is_the_published_decoder():
    spec = spec_of()
    assert spec.decoder == PUBLISHED
    assert spec.views == ("identity", "flip")
    assert (spec.input_size, spec.scales, spec.stride, spec.aggregate) == (512, (1.0,), 1, ())
    assert (spec.skeleton, spec.mean, spec.std) == (COCO, IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize(
    ("convention", "option", "rule"),
    [
        ("published", "convention", "quarter"),
        ("published", "quarter", "quarter"),
        ("published", "dark", "dark"),
        ("unbiased", "convention", "dark"),
        ("unbiased", "quarter", "signed_quarter"),
        ("unbiased", "none", "none"),
    ],
)
def test_the_convention_decides_offsets_and_duplicates(convention, option, rule):
    decoder = spec_of("MODEL.COORDINATES", convention, "TEST.SUBPIXEL", option).decoder
    assert decoder.subpixel == rule
    assert decoder.unique_peaks == (convention == "unbiased")


def test_every_option_of_the_decoder_is_read():
    decoder = spec_of(
        *("TEST.DETECTION_THRESHOLD", "0.2", "TEST.TAG_THRESHOLD", "0.5"),
        *("DATASET.MAX_NUM_PEOPLE", "9", "TEST.REFINE", "false", "TEST.MATCHER", "scipy"),
        *("TEST.MATCHING_COST", "clipped", "TEST.MIN_SCORE", "0.1", "TEST.OKS_NMS", "0.8"),
    ).decoder
    assert decoder == (0.2, 0.5, 9, 5, "quarter", False, False, "scipy", "clipped", 0.1, 0.8)


@pytest.mark.parametrize("convention", BOTTOM_UP)
@pytest.mark.parametrize("scales, base", [((1.0,), 0), ((0.5,), 0), ((2.0, 1.0, 0.5), 1)])
@pytest.mark.parametrize("stride", [1, 4])
def test_images_are_resized_at_every_scale(rng, convention, scales, base, stride):
    spec = InferenceSpec(COCO, 128, scales, stride=stride, convention=convention)
    image = rng.integers(0, 255, (90, 130, 3)).astype(np.uint8)
    inputs = spec.preprocess(image)
    assert inputs.base == base
    for scale, pixels in zip(scales, inputs.pixels):
        size, to_network = resize_transform(
            (130, 90), 128, scale, min(scales), BOTTOM_UP[convention]
        )
        assert np.array_equal(pixels, to_network.image(image, size))
    height, width = inputs.pixels[base].shape[:2]
    assert inputs.size == (height // stride, width // stride)
    offset = BOTTOM_UP[convention].pixel_offset
    in_network = inputs.to_network.points(np.array([40, 30]))
    back = inputs.to_image.points((in_network + offset) / stride)
    np.testing.assert_allclose(back, [40, 30])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "{}", "[" * 100_000, '{"format": 2}', '{"format": 2, "spec": 1, "graph": []}',
     '{"format": 1, "skeleton": {"__instance_type__": ["os", "x"]}}'],
)  # fmt: skip
def test_metadata_of_another_program_are_refused(text):
    with pytest.raises(ValueError):
        from_json(text)
