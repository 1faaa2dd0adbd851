"""The exported file formats, ONNX and torch's own (.pt2): how each is written and loaded."""

from __future__ import annotations

import importlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.spec import METADATA_KEY, ExportedModel, from_json, to_json
from hrpose.models.optimize import fuse_conv_bn
from hrpose.programs.exporting.graphs import example

INPUT_NAME = "images"
LARGEST = 128
"""Side of the largest images, in units of 32 pixels: torch requires a bound, files have none."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Format(NamedTuple):
    """One kind of file."""

    suffix: str
    encode: Callable[[nn.Module, ExportedModel], bytes]
    load: Callable[[Path], OnnxPredictor]


def traced(graph: nn.Module, size: tuple[int, int] | None = None) -> torch.export.ExportedProgram:
    """The graph traced for batches of any size.

    The example has two images, and sides of two units or more: torch specializes on a 1.
    size: (H, W) of the images; None: any multiples of 32
    """
    images = example(2, size or (64, 96))
    with torch.no_grad():
        graph(images)  # caches of a first call must hold real tensors, not torch's fake ones
    rows, columns = (torch.export.Dim(name, min=2, max=LARGEST) for name in ("rows", "columns"))
    free = {0: torch.export.Dim("batch")} | ({} if size else {2: 32 * rows, 3: 32 * columns})
    with _quiet():
        return torch.export.export(
            graph, (images,), dynamic_shapes={INPUT_NAME: free}, strict=False
        )


def to_onnx(graph: nn.Module, model: ExportedModel) -> bytes:
    """One ONNX file, with weights and metadata.

    BatchNorms are fused first: the converter would fuse them too, after long thoughts on each.
    """
    require_extra()
    size = model.spec.network_size
    with torch.no_grad():
        names = list(graph(example(1, size or (64, 64))))
    with _quiet():
        converted = torch.onnx.export(
            traced(fuse_conv_bn(graph), size),
            dynamo=True,
            verbose=False,
            input_names=[INPUT_NAME],
            output_names=names,
        )
    proto = converted.model_proto  # type: ignore[union-attr]
    _tidy(proto.graph)
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=to_json(model))
    return proto.SerializeToString()


def _tidy(graph: Any) -> None:
    """Remove the source lines that the exporter notes on every node, and name the dynamic
    dimensions batch, rows and columns instead of torch's s34, 32*s30 ...
    """
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in (*graph.node, *values, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    shape = graph.input[0].type.tensor_type.shape.dim
    symbols = [shape[axis].dim_param.split("*")[-1] for axis in (0, 2, 3)]  # fixed: ""
    names = dict(zip(symbols, ("batch", "rows", "columns")))
    symbol = re.compile(r"\b(" + "|".join(map(re.escape, filter(None, symbols))) + r")\b")
    for side in (side for value in values for side in value.type.tensor_type.shape.dim):
        if side.dim_param:
            side.dim_param = symbol.sub(lambda match: names[match[0]], side.dim_param)


def to_torch(graph: nn.Module, model: ExportedModel) -> bytes:
    """One .pt2 file, which `torch.export.load` reads; the metadata is an extra file in it."""
    file = io.BytesIO()
    program = traced(graph, model.spec.network_size)
    torch.export.save(program, file, extra_files={METADATA_KEY: to_json(model)})
    return file.getvalue()


def load_torch(path: Path) -> OnnxPredictor:
    """The same predictor, running a .pt2 file in torch."""
    extra = {METADATA_KEY: ""}
    network = torch.export.load(path, extra_files=extra).module()

    @torch.inference_mode()
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in outputs.items()}

    return OnnxPredictor(run, from_json(extra[METADATA_KEY]))


FORMATS = {
    "onnx": Format(".onnx", to_onnx, OnnxPredictor.load),
    "torch": Format(".pt2", to_torch, load_torch),
}


def require_extra() -> None:
    """ValueError if a package that ONNX export needs is not installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ValueError(
                f"{name} is missing; pip install {' '.join(NEEDED)} (or hrpose[export])"
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about optional packages and its own deprecated code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
