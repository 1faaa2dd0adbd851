"""Static int8 quantization of an ONNX model: a quarter of the size and half the time.

The time is that of processors with int8 dot products (VNNI); on older ones products may saturate.

Activations are rounded to 256 steps over ranges calibrated once on real images. The heads and all
that follows stay in float: the coarsest head outputs heatmaps and tags in one tensor, and the range
of tags is so wide that heatmaps between 0 and 1 would have only a few steps. (On the quickstart's
network that more than doubles the error of these heatmaps; its AP is the same.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hrpose.ops.atomic_io import atomic_write, naming_full_disk
from hrpose.programs.exporting.formats import INPUT_NAME

QUANTIZED = ("Conv", "ConvTranspose", "Add", "Relu", "Concat", "Resize", "MaxPool")
"""Kinds of nodes to quantize, before the heads."""


def quantize(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    """Write the ONNX model `source` in int8, its ranges calibrated on images (3, H, W) uint8."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    metadata = onnx.load(source).metadata_props
    feeds = ({INPUT_NAME: image[None]} for image in images)
    reader: Any = SimpleNamespace(get_next=lambda: next(feeds, None))  # a CalibrationDataReader
    temporary = Path(tempfile.gettempdir())
    with naming_full_disk(temporary), tempfile.TemporaryDirectory() as folder:
        plain, rounded = Path(folder) / "plain.onnx", Path(folder) / "rounded.onnx"
        quant_pre_process(source, plain, skip_symbolic_shape=True)
        quantization.quantize_static(
            plain,
            rounded,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,  # signed: half the layers in float
            nodes_to_quantize=before_heads(onnx.load(plain)),
        )
        model = onnx.load(rounded)
    del model.metadata_props[:]
    model.metadata_props.extend(metadata)
    atomic_write(target, lambda file: file.write(model.SerializeToString()))


def before_heads(model: Any) -> list[str]:
    """Names of the nodes to quantize: those that the heads depend on, without the heads."""
    maker = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    heads = [node for node in convolutions if any(".heads." in f".{name}" for name in node.input)]
    if not heads:
        raise ValueError("the model has no layer named heads.*: it was not exported from hrpose")
    seen: dict[str, Any] = {}
    waiting = [name for head in heads for name in head.input]
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.name not in seen:
            seen[node.name] = node
            waiting.extend(node.input)
    return [name for name, node in seen.items() if node.op_type in QUANTIZED and node not in heads]
