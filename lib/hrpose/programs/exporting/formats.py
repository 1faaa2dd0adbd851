"""The files that a graph is shipped in, ONNX and torch's own (.pt2), and how each is run again."""

from __future__ import annotations

import hashlib
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

from hrpose.inference.recipe import KEY, Recipe, from_text, to_text
from hrpose.inference.runner import Runner
from hrpose.ops.files import write_whole
from hrpose.programs.exporting.graphs import example

INPUT = "images"
LARGEST = 128
"""Side of the largest images, in units of 32 pixels. torch wants some bound; no file knows it."""

SPELT_OUT = {torch.ops.aten.remainder.Scalar: lambda value, by: value - value // by * by}
"""Operations that the converter to ONNX knows only with sizes that are fixed."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Format(NamedTuple):
    """One kind of file."""

    suffix: str
    encode: Callable[[nn.Module, Recipe], bytes]
    load: Callable[[Path], Runner]


def traced(graph: nn.Module) -> torch.export.ExportedProgram:
    """The graph as operations on batches of any size and images of any multiple of 32.

    The example has two images, and sides of two units or more: torch holds a 1 for a constant.
    """
    images = example(2, (64, 96))
    with torch.no_grad():
        graph(images)  # what is kept from a first call must be tensors, not torch's stand-ins
    rows, columns = (torch.export.Dim(name, min=2, max=LARGEST) for name in ("rows", "columns"))
    free = {0: torch.export.Dim("batch"), 2: 32 * rows, 3: 32 * columns}
    with _without_chatter():
        return torch.export.export(graph, (images,), dynamic_shapes={INPUT: free}, strict=False)


def to_onnx(graph: nn.Module, recipe: Recipe) -> bytes:
    """One ONNX file, weights and recipe included."""
    require_extra()
    with _without_chatter():
        program = traced(graph).run_decompositions(SPELT_OUT)
        converted = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(_names(graph)),
        )
    model = converted.model_proto  # type: ignore[union-attr]
    forget_origins(model.graph)
    name_dimensions(model.graph)
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, to_text(recipe)
    return model.SerializeToString()


def _names(graph: nn.Module) -> Iterator[str]:
    with torch.no_grad():
        yield from graph(example(1, (64, 64)))


def forget_origins(graph: Any) -> None:
    """Take out the notes on every node of which line of whose file made it."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


def name_dimensions(graph: Any) -> None:
    """Call what is free batch, rows and columns, where torch counts up: s34, 32*s30, 32*s68."""
    shape = graph.input[0].type.tensor_type.shape.dim
    symbols = [shape[axis].dim_param.split("*")[-1] for axis in (0, 2, 3)]
    names = dict(zip(symbols, ("batch", "rows", "columns")))
    symbol = re.compile(r"\b(" + "|".join(map(re.escape, symbols)) + r")\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = symbol.sub(lambda found: names[found[0]], side.dim_param)


def to_torch(graph: nn.Module, recipe: Recipe) -> bytes:
    """One .pt2 file, which `torch.export.load` reads; the recipe is an extra file in it."""
    file = io.BytesIO()
    torch.export.save(traced(graph), file, extra_files={KEY: to_text(recipe)})
    return file.getvalue()


def load_torch(path: Path) -> Runner:
    """A runner of a .pt2 file, in this process's torch."""
    extra = {KEY: ""}
    network = torch.export.load(path, extra_files=extra).module()

    @torch.inference_mode()
    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        said = network(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in said.items()}

    return Runner(run, from_text(extra[KEY]))


FORMATS = {
    "onnx": Format(".onnx", to_onnx, Runner.load),
    "torch": Format(".pt2", to_torch, load_torch),
}


def write(path: Path, format_: Format, graph: nn.Module, recipe: Recipe) -> None:
    content = format_.encode(graph, recipe)
    write_whole(path, lambda file: file.write(content))


def require_extra() -> None:
    """ValueError where the packages that ONNX needs are not installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise ValueError(
                f"{name} is missing; pip install {' '.join(NEEDED)} (or hrpose[export])"
            ) from None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _without_chatter() -> Iterator[None]:
    """torch's exporter warns of packages that are not installed and of its own old code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
