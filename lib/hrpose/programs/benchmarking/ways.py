"""Ways for a network to compute at test, and files that were shipped, ready to be looked with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from hrpose.build import build_model
from hrpose.inference.onnx_predictor import open_session
from hrpose.models.blocks import fan_in_init
from hrpose.ops.pixels import normalise
from hrpose.programs.benchmarking.timing import waiter
from hrpose.programs.exporting.graphs import example
from hrpose.structures import ScaleOutput

PLAIN = "plain"

Maps = dict[str, Tensor]
"""heatmaps_<stride> and tags_<stride>, each (B, K, h, w), on the host"""


class Way(NamedTuple):
    """A way of computing, as options of TEST."""

    words: tuple[str, ...]
    precision: str
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        return ", ".join(self.words) or PLAIN


def _way(precision: str, layout: str = "", folded: str = "", compiled: str = "") -> Way:
    """Each word names what is done; where it is empty, that is not."""
    special = "" if precision == "fp32" else precision
    return Way(
        tuple(word for word in (special, layout, folded, compiled) if word),
        precision,
        (
            *("TEST.PRECISION", precision, "TEST.CHANNELS_LAST", str(bool(layout)).lower()),
            *("TEST.FOLD_NORMS", str(bool(folded)).lower()),
            *("TEST.COMPILE", str(bool(compiled)).lower()),
        ),
    )


_LAYOUT, _FOLDED, _COMPILED = "channels last", "folded", "compiled"
WAYS = (
    _way("fp32"),
    _way("fp32", _LAYOUT),
    _way("fp32", _LAYOUT, _FOLDED),
    _way("fp32", _LAYOUT, _FOLDED, _COMPILED),
    _way("bf16"),
    _way("bf16", _LAYOUT, _FOLDED),
    _way("bf16", _LAYOUT, _FOLDED, _COMPILED),
)


class Side(NamedTuple):
    """Something that looks at images."""

    name: str
    precision: str  # empty where we do not know it
    look: Callable[[Tensor], Any]  # uint8 images (B, 3, H, W) on the device
    maps: Callable[[Any], Maps]  # of what a look gives


class Warm(NamedTuple):
    """A side that has looked before: what it said, and seconds that the first look took."""

    side: Side
    look: Callable[[], object]
    maps: Maps
    first: float


def network_side(way: Way, network: nn.Module, device: torch.device) -> Side:
    wait = waiter(device)

    @torch.inference_mode()
    def look(images: Tensor) -> list[ScaleOutput]:
        outputs = network(normalise(images))
        wait()
        return outputs

    return Side(way.name, way.precision, look, network_maps)


def network_maps(outputs: Sequence[ScaleOutput]) -> Maps:
    """Under the names that they have in a shipped file."""
    maps: Maps = {}
    for output in outputs:
        maps[f"heatmaps_{output.stride}"] = output.heatmaps.cpu()
        if output.tags is not None:
            maps[f"tags_{output.stride}"] = output.tags.cpu()
    return maps


def shipped_side(path: Path) -> Side:
    """An ONNX file in onnxruntime, with as many threads as torch has.

    Its one input is images (B, 3, H, W): uint8, or normalised float32.
    """
    session = open_session(path, torch.get_num_threads(), ["CPUExecutionProvider"])
    (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]

    def look(images: Tensor) -> list[np.ndarray]:
        taken = images if given.type == "tensor(uint8)" else normalise(images)
        return session.run(names, {given.name: taken.cpu().numpy()})

    def maps(said: list[np.ndarray]) -> Maps:
        return {name: torch.from_numpy(array) for name, array in zip(names, said)}

    return Side(path.name, "", look, maps)


def warmed(side: Side, images: Tensor) -> Warm:
    """The side after two looks: the second is the first for which everything has been allocated."""
    begun = time.perf_counter()
    said = side.look(images)
    first = time.perf_counter() - begun
    side.look(images)
    return Warm(side, partial(side.look, images), side.maps(said), first)


def random_network(config: CfgNode) -> nn.Module:
    """The config's network with weights whose signals neither grow nor vanish, nor overflow.

    Its norms know the statistics of noise. Rounding grows in it as in no network that has learnt.
    """
    torch.manual_seed(0)
    network = build_model(config)
    fan_in_init(network)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of the one batch that follows
    with torch.no_grad():
        network.train()(normalise(example(2, (128, 128))))
    return network.eval()
