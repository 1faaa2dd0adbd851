"""Everything between an image and its poses but the network: preprocessing, views, decoding.

The predictor has one `InferenceSpec`, an exported file carries it as JSON, and `OnnxPredictor`
reads it from there. This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import cv2
import numpy as np

from hrpose.codecs.offset import VOTES
from hrpose.inference.topdown_spec import TopDownSpec
from hrpose.ops.atomic_io import parse_json
from hrpose.ops.coordinates import BOTTOM_UP, CONVENTIONS, Affine, check_image, resize_transform
from hrpose.ops.subpixel import SUBPIXEL
from hrpose.skeletons import Skeleton, from_plain
from hrpose.structures import Poses


class DecoderConfig(NamedTuple):
    """How heatmaps and tags become people. The defaults are the published ones."""

    detection_threshold: float = 0.1  # 0 or more; a lower peak is no candidate
    tag_threshold: float = 1.0  # a candidate this far from every person starts a new one
    max_people: int = 30  # candidates per joint, and people kept
    nms_kernel: int = 5  # cells; side of the window of which a peak is the highest
    subpixel: str = "quarter"  # a name of ops.subpixel.SUBPIXEL
    unique_peaks: bool = False  # drop equally high peaks within one window but the first
    refine: bool = True  # search the whole maps for missing joints
    matcher: str = "munkres"  # munkres | scipy: see decode.MATCHERS
    matching_cost: str = "rounded"  # of tag distances: rounded (published) | clipped
    min_score: float = 0.0  # people of a lower score are dropped
    oks_nms: float = 1.0  # people whose OKS with a better one exceeds this are dropped


PUBLISHED = DecoderConfig()


class NetworkInput(NamedTuple):
    """An image as the network takes it, and where its maps lie in the image."""

    pixels: tuple[np.ndarray, ...]  # of every scale, (H, W, 3) uint8
    size: tuple[int, int]  # (H, W) of the maps to decode
    to_network: Affine  # image pixels -> network pixels of the base scale
    to_image: Affine  # cells of the maps, counted from their edge -> image pixels
    base: int  # index of the scale in whose frame all are averaged, and whose tags are taken


class View(NamedTuple):
    """A test-time view: its inputs are flipped, its outputs are flipped back."""

    axes: tuple[int, ...]  # that are flipped, of images and maps (..., H, W)
    order: Sequence[int] | slice  # of each joint: the map that shows it in the flipped image


VIEWS: dict[str, Callable[[Skeleton], View]] = {
    "identity": lambda skeleton: View((), slice(None)),
    "flip": lambda skeleton: View((-1,), skeleton.flip_order),
}


class InferenceSpec(NamedTuple):
    """How images become network inputs, outputs become maps, and maps become poses."""

    skeleton: Skeleton
    input_size: int = 512  # pixels of the shorter side at scale 1
    scales: tuple[float, ...] = (1.0,)
    views: tuple[str, ...] = ("identity",)  # names of VIEWS
    stride: int = 1  # network pixels per cell of the maps that are decoded; published: 1
    aggregate: tuple[int, ...] = ()  # strides of the outputs whose heatmaps are averaged; (): all
    convention: str = "published"  # of coordinates: a name of ops.coordinates.BOTTOM_UP
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # of the normalization, in units of 255
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    decoder: DecoderConfig = PUBLISHED

    @property
    def network_size(self) -> None:
        """Images of any size, in multiples of 32; crops of a top-down network have one."""

    def preprocess(self, image: np.ndarray) -> NetworkInput:
        """The image (H, W, 3) uint8 RGB at every scale."""
        image_size, smallest = check_image(image), min(self.scales)
        convention = BOTTOM_UP[self.convention]
        base = self.scales.index(1) if len(self.scales) > 1 else 0
        resized = [
            resize_transform(image_size, self.input_size, scale, smallest, convention)
            for scale in self.scales
        ]
        pixels = tuple(
            cv2.warpAffine(image, transform.matrix, size, flags=cv2.INTER_LINEAR)
            for size, transform in resized
        )
        (width, height), to_network = resized[base]
        size = (height // self.stride, width // self.stride)
        to_cells = (to_network.matrix + [0, 0, convention.pixel_offset]) / self.stride
        to_image = Affine(cv2.invertAffineTransform(to_cells))
        return NetworkInput(pixels, size, to_network, to_image, base)

    def postprocess(self, people: np.ndarray, scores: np.ndarray, inputs: NetworkInput) -> Poses:
        """People (N, K, 3 + T) in cells of the maps, and their scores (N,), in image pixels."""
        joints = people[..., :3].astype(np.float32)
        joints[..., :2] = inputs.to_image.points(people[..., :2])
        joints[people[..., 2] <= 0] = 0
        return Poses(joints, scores)


BOXES_REFUSED = (
    "a bottom-up model finds people without boxes: call the predictor with the image only, or load "
    "a top-down model"
)


# In an exported file -------------------------------------------------------------------------

METADATA_KEY = "hrpose"
"""The name of the file's metadata entry."""

FORMAT = 3
"""1 has other words, 2 names no family: both are of bottom-up models, and are read."""

FAMILIES: dict[str, Any] = {"bottom_up": InferenceSpec, "top_down": TopDownSpec}

GRAPHS = ("network", "peaks")
"""network: outputs of each resolution; peaks, bottom-up: all views, averaged, and their peaks."""

Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""An exported graph: uint8 RGB (B, 3, H, W) -> its outputs by name"""

INPUT_FORMAT = "uint8 RGB (B, 3, H, W), {}; normalized in the graph"
INPUT_RULES = {
    "bottom_up": {
        "resize_rule": "hrpose.ops.coordinates.resize_transform: bilinear, aspect kept; the "
        "shorter side becomes input_size * scale, the longer a multiple of 64; outside the image "
        "is 0"
    },
    "top_down": {
        "crop_rule": "hrpose.ops.boxes.crop_transform: bilinear; a box is extended about its "
        "centre to the proportions of input_size (W, H), then by padding; outside the image is 0; "
        "every rotation and scale is another crop",
        "decode_rule": "hrpose.codecs.heatmap.HeatmapCodec.decode: the highest cell of the maps, "
        "averaged over views, and the step of subpixel within it, in these coordinates; with a "
        "disc_radius hrpose.codecs.offset.OffsetCodec.decode: the votes of offsets near that cell",
    },
}
"""Where the code of a family's rules is, for other programs."""


class ExportedModel(NamedTuple):
    """What an exported file holds beside its graph."""

    spec: InferenceSpec | TopDownSpec
    graph: str  # one of GRAPHS
    strides: tuple[int, ...]  # of the network's outputs, coarse to fine
    weights_sha256: str = ""  # of the file of weights that was exported
    hrpose: str = ""  # the version that exported it


def to_json(model: ExportedModel) -> str:
    """The metadata of an exported file, with derived entries that other programs may want."""
    spec, skeleton = model.spec, model.spec.skeleton
    joints = {**asdict(skeleton), "flip_order": skeleton.flip_order}
    plain = {**spec._asdict(), "skeleton": joints}
    if isinstance(spec, InferenceSpec):
        plain["decoder"] = spec.decoder._asdict()
    (family,) = (name for name, kind in FAMILIES.items() if isinstance(spec, kind))
    height, width = spec.network_size or (0, 0)
    size = f"H = {height}, W = {width}" if height else "H and W multiples of 32"
    derived = {"format": FORMAT, "family": family, "input": INPUT_FORMAT.format(size)}
    body = {**derived, **INPUT_RULES[family], **model._asdict(), "spec": plain}
    return json.dumps(body, indent=1)


def from_json(text: str) -> ExportedModel:
    """Read what `to_json` wrote, or metadata of earlier formats; ValueError for anything else."""
    try:
        return _read_metadata(parse_json(text))
    except (KeyError, TypeError, AttributeError) as error:  # of another program, or damaged
        raise ValueError(
            f"the model's metadata are not those of an exported model ({error!r}); export the "
            "weights with tools/export.py"
        ) from None


def _read_metadata(body: Any) -> ExportedModel:
    version = body.get("hrpose")
    cure = f"use hrpose {version}, or export the weights again with tools/export.py"
    if body.get("format") == 1:
        body = _from_format_1(body, cure)
    elif body.get("format") not in (2, FORMAT):
        raise ValueError(
            f"the model's metadata is of format {body.get('format')}, this hrpose reads 1 to "
            f"{FORMAT}; {cure}"
        )
    family, plain = body.get("family", "bottom_up"), body["spec"]
    unknown = ({family} - {*FAMILIES}) | ({body["graph"]} - {*GRAPHS})
    unknown = unknown or _UNKNOWN_PARTS[family](plain)
    if unknown:
        parts = ", ".join(sorted(unknown))
        raise ValueError(f"the model needs {parts}, which this hrpose does not know; {cure}")
    skeleton, order = from_plain(plain["skeleton"]), plain["skeleton"].get("flip_order")
    if order not in (None, skeleton.flip_order):  # by pairs that formats 1 and 2 did not hold
        raise TypeError(f"flip_order {order} does not follow from the joints")
    fields = {**_known_fields(plain, FAMILIES[family]), "skeleton": skeleton}
    if "decoder" in fields:
        fields["decoder"] = DecoderConfig(**plain["decoder"])
    spec = FAMILIES[family](**fields)
    return ExportedModel(**{**_known_fields(body, ExportedModel), "spec": spec})


def _unknown_in_bottom_up(spec: Mapping[str, Any]) -> set[str]:
    unknown = ({*spec["decoder"]} - {*DecoderConfig._fields}) | ({*spec["views"]} - {*VIEWS})
    return unknown | ({spec["convention"]} - {*BOTTOM_UP})


def _unknown_in_top_down(spec: Mapping[str, Any]) -> set[str]:
    """Errors: KeyError for a field that is missing, TypeError for a size that is none."""
    later = {"disc_radius", "rotations", "scales", "cross_views"}  # which earlier files lack
    for name in {*TopDownSpec._fields} - later:
        spec[name]
    turned, scales = spec.get("rotations", [0]), spec.get("scales", [1])
    numbers = (*spec["input_size"], spec["stride"], spec["batch"], spec["padding"])
    if len(numbers) != 5 or not all(number > 0 for number in (*numbers, *scales)):
        raise TypeError(f"input_size, stride, batch and padding are {numbers}, scales {scales}")
    if not (turned and scales and np.isfinite(turned).all()):
        raise TypeError(f"rotations are {turned}, scales {scales}")
    unknown = ({*spec} - {*TopDownSpec._fields}) | ({*spec["views"]} - {*VIEWS})
    unknown |= {spec["coordinates"]} - {*CONVENTIONS}
    rules = VOTES if spec.get("disc_radius") else SUBPIXEL
    return unknown | ({spec["subpixel"]} - {"convention", *rules})


_UNKNOWN_PARTS = {"bottom_up": _unknown_in_bottom_up, "top_down": _unknown_in_top_down}


def _known_fields(body: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """The fields of a NamedTuple, lists being tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in body.items()
        if name in kind._fields
    }


_RENAMED_IN_FORMAT_2 = {"averaged": "aggregate"}
_DECODER_RENAMED_IN_FORMAT_2 = {"solver": "matcher", "cost": "matching_cost", "suppress": "oks_nms"}
_VIEWS_OF_FORMAT_1 = {"plain": "identity", "mirrored": "flip"}
_OFFSETS_OF_FORMAT_1 = {"quarter": "quarter", "taylor": "dark"}
_CONVENTIONS_OF_FORMAT_1 = dict(zip(("official", "exact"), BOTTOM_UP))


def _from_format_1(body: Mapping[str, Any], cure: str) -> dict[str, Any]:
    """The metadata of files exported before format 2, in today's terms."""
    decoder = dict(body["settings"])
    score, adjust, step = (decoder.pop(name, None) for name in ("score", "adjust", "step"))
    if score != "all":
        raise ValueError(f"the model scores people by {score!r}, which is no more known; {cure}")
    decoder = {_DECODER_RENAMED_IN_FORMAT_2.get(name, name): v for name, v in decoder.items()}
    decoder["subpixel"] = _OFFSETS_OF_FORMAT_1[step] if adjust else "none"
    decoder["unique_peaks"] = step == "taylor"
    spec = {_RENAMED_IN_FORMAT_2.get(name, name): value for name, value in body.items()}
    return {
        **body,
        "spec": {
            **spec,
            "views": [_VIEWS_OF_FORMAT_1[view] for view in body["views"]],
            "convention": _CONVENTIONS_OF_FORMAT_1[body["convention"]],
            "decoder": decoder,
        },
    }
