"""What a shipped model says of itself: all that turns an image into its input, and what it then
says into poses. Written into the model's file as JSON; read without torch.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from hrpose.inference.grouping import PUBLISHED, Settings
from hrpose.ops.files import parse_json
from hrpose.skeletons import Skeleton, from_plain

KEY = "hrpose"
"""Under which name of the file's metadata the recipe stands."""

FORMAT = 1

GRAPHS = ("network", "peaks")
"""network: outputs of each resolution; peaks: all views, averaged, and their peaks."""

RESIZE_RULE = (
    "hrpose.ops.affine.fit: bilinear, aspect kept; the shorter side becomes input_size * scale, "
    "the longer a multiple of 64; what the image does not cover is 0"
)


class Recipe(NamedTuple):
    """How to use the graph in a shipped file."""

    skeleton: Skeleton
    graph: str  # one of GRAPHS
    strides: tuple[int, ...]  # of the network's outputs, coarse to fine
    input_size: int  # pixels of the shorter side at scale 1
    scales: tuple[float, ...] = (1.0,)
    stride: int = 1  # network pixels per cell of the maps that are decoded
    averaged: tuple[int, ...] = ()  # strides of the outputs whose heatmaps are averaged; none: all
    views: tuple[str, ...] = ("plain", "mirrored")
    convention: str = "official"  # of coordinates: ops/affine.py
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # in units of 255; the graph itself normalises
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    settings: Settings = PUBLISHED
    weights_sha256: str = ""  # of the file of weights that was exported
    hrpose: str = ""  # the version that exported it


def to_text(recipe: Recipe) -> str:
    """The recipe as JSON, with what follows from it and other programs may want to know."""
    skeleton = recipe.skeleton
    body = {
        "joints": skeleton.joints,
        "flips": skeleton.flip_order,
        "sigmas": skeleton.sigmas,
        "grouping_order": skeleton.grouping_order,
        "limbs": skeleton.limbs,
    }
    rest = {**recipe._asdict(), "settings": recipe.settings._asdict(), "skeleton": body}
    says = {"input": "uint8 RGB (B, 3, H, W), H and W multiples of 32", "resize_rule": RESIZE_RULE}
    return json.dumps({"format": FORMAT, **says, **rest}, indent=1)


def from_text(text: str) -> Recipe:
    """The recipe that `to_text` wrote; ValueError where it is of another format."""
    said = parse_json(text)
    if not isinstance(said, dict):
        raise ValueError("the model's recipe is no JSON object; make the file with tools/export.py")
    if said.get("format") != FORMAT:
        raise ValueError(
            f"the model's recipe is of format {said.get('format')}, this hrpose reads {FORMAT}; "
            f"use hrpose {said.get('hrpose')}, or export the weights again"
        )
    unknown = sorted(set(said["settings"]) - set(Settings._fields))
    if unknown or said["graph"] not in GRAPHS:
        raise ValueError(
            f"the model asks for {', '.join(unknown) or said['graph']}, which this hrpose does not "
            f"know; use hrpose {said.get('hrpose')}, or export the weights again"
        )
    rest: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in said.items()
        if name in Recipe._fields
    }
    skeleton = from_plain(said["skeleton"])
    return Recipe(**rest | {"skeleton": skeleton, "settings": Settings(**said["settings"])})
