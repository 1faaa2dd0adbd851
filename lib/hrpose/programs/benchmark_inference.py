"""How fast people are found: decoding, the network computed in several ways, whole data sets."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from yacs.config import CfgNode

from hrpose.builders.bottomup import build_pipeline_config, build_predictor
from hrpose.builders.common import build_inference_model, build_model, load_model
from hrpose.builders.datasets import Split, build_evaluator, first, read_split
from hrpose.config import load_config
from hrpose.data.samples import ImageDataset
from hrpose.inference import decode as decoding
from hrpose.inference.onnx_predictor import open_session
from hrpose.inference.pipeline import stream
from hrpose.inference.spec import PUBLISHED
from hrpose.models.blocks import kaiming_init
from hrpose.models.complexity import operations_in
from hrpose.ops.normalize import normalize
from hrpose.programs import timing
from hrpose.programs.exporting.graphs import NetworkGraph, example
from hrpose.programs.timing import CONFIGURED, REFERENCE, Report, Row
from hrpose.skeletons import COCO
from hrpose.structures import Poses

STAGES = [
    (decoding, function, partial(timing.label, name))
    for name, function in (
        ("candidates", "find_candidates"),
        ("fill", "fill_missing"),
        ("score", "score_and_filter"),
    )
]
"""Labels for the steps of decoding, whose module imports no torch."""
DECODING = ("candidates", "fill", "score")


# decode -----------------------------------------------------------------------------------------


def benchmark_decode(options: Namespace, config: None, device: torch.device) -> Report:
    """Milliseconds for crowds on maps of a size (H, W), and for noise."""
    size, rng = tuple(options.size), np.random.default_rng(0)
    if min(size) < 32:
        raise ValueError(f"--size {size[0]} {size[1]}: give 32 pixels or more")
    scenes = timing.load_reference("scenes")
    settings = PUBLISHED._replace(matcher=options.matcher)
    crowds = [scenes.Crowd(people) for people in options.people]
    maps = {f"{one.people} people": scenes.crowd_maps(one, size, rng, size) for one in crowds}
    maps["noise"] = scenes.noise_maps(size, rng)
    report, ours, equal = Report(), {}, 0
    for name, (heatmaps, tags) in maps.items():
        calls = {CONFIGURED: partial(decoding.decode, heatmaps, tags, COCO, settings)}
        if options.against:
            given = heatmaps, np.ascontiguousarray(tags), COCO, settings
            calls[REFERENCE] = partial(timing.load_reference("decoding").decode, *given)
            equal += _same(*(call() for call in calls.values()))
        report.tables[name] = timing.compare_calls(calls, options.repeats)
        ours[name] = calls[CONFIGURED]
    with timing.replaced(STAGES):
        report.tables["Where the time goes"] = timing.phases(ours, DECODING, device)
    report.notes.append(f"17 x {size[0]} x {size[1]}, two tag values, matcher {options.matcher}.")
    if options.against:
        report.notes.append(f"Equal bit for bit: {equal} of {len(maps)} scenes.")
    return report


def _same(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs))


# forward ----------------------------------------------------------------------------------------

EAGER = "fp32"
WAYS = {
    name: (
        *("TEST.PRECISION", name[:4], "TEST.CHANNELS_LAST", str("channels last" in name)),
        *("TEST.FUSE_BN", str("fused" in name), "TEST.COMPILE", str("compiled" in name)),
    )
    for name in (
        EAGER,
        *("fp32, channels last", "fp32, channels last, fused"),
        *("fp32, channels last, fused, compiled", "bf16", "bf16, channels last, fused"),
        "bf16, channels last, fused, compiled",
    )
}
"""Ways to compute at test, as options."""

Maps = dict[str, Tensor]
"""heatmaps_<stride> and tags_<stride>, each (B, K, h, w)"""
ForwardFn = Callable[[Tensor], Maps]
"""uint8 images (B, 3, H, W) -> maps"""


def benchmark_forward(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """A table for every size, in which all ways of computing take turns."""
    model = (load_model(config) if config.TEST.MODEL_FILE else random_network(config)).to(device)
    networks, failed = dict[str, ForwardFn](), dict[str, str]()
    for name, way in WAYS.items():
        if name != EAGER and {*name.split(", ")} & {*options.skip}:
            continue
        own = load_config(options.cfg, [*options.overrides, *way])
        try:
            networks[name] = NetworkGraph(build_inference_model(own, model))
        except ValueError as error:  # for want of a compiler
            failed[name] = str(error)
    networks |= {path.name: onnx_network(path) for path in options.onnx}
    report, rates = (
        Report(),
        {each: timing.matmul_rate(device, each) for each in ("fp32", "bf16")},
    )
    for size in options.size or [config.TEST.INPUT_SIZE or config.DATASET.INPUT_SIZE]:
        noise = example(options.batch, (size, size)).to(device)
        work = 2e9 * options.batch * operations_in(model, (size, size))
        with torch.inference_mode():
            rows = _compare_networks(networks, noise, options.repeats, failed)
        for row in rows:
            rate = rates.get(row[""][:4])
            row["% of matmul"] = rate and timing.spread(1e5 * work / rate / ms for ms in row["ms"])
        report.tables[f"{options.batch} x {size} x {size}"] = rows
    report.notes = [
        f"Weights: {config.TEST.MODEL_FILE or 'random, in which rounding errors grow more'}. "
        "Images are noise; their normalisation counts. Off by: the largest difference to the "
        "first row, in the range of its maps. % of matmul: of what large products reach here.",
        *(f"Not measured: {name}, since {why}" for name, why in failed.items()),
    ]
    return report


def _compare_networks(
    networks: Mapping[str, ForwardFn], images: Tensor, repeats: int, failed: dict[str, str]
) -> list[Row]:
    """A row for each network that works; `failed` gets the others."""
    maps, started = dict[str, Maps](), dict[str, float]()
    for name, network in networks.items():
        begun = time.perf_counter()
        try:
            maps[name] = {kind: map.cpu() for kind, map in network(images).items()}
        except RuntimeError as error:
            if name == EAGER:
                raise
            failed[name] = str(error).strip().split("\n")[0]
            continue
        started[name] = time.perf_counter() - begun
    calls = {name: partial(networks[name], images) for name in maps}
    rows = timing.compare_calls(calls, repeats, 1, dict.fromkeys(calls, len(images)), EAGER)
    for row in rows:
        name = row[""]
        for kind in ("heatmaps", "tags"):
            row[f"{kind} off by"] = largest_difference(kind, maps[name], maps[EAGER])
        row["first call, s"] = started[name]
        if images.is_cuda:
            held = torch.cuda.memory_allocated(images.device) / 2**30
            row["activations, GiB"] = timing.peak_memory(calls[name], images.device) - held
    return rows


def onnx_network(path: Path) -> ForwardFn:
    """An ONNX file of one input, uint8 or normalised float32, in as many threads as torch has."""
    session = open_session(path, torch.get_num_threads(), ["CPUExecutionProvider"])
    (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Maps:
        taken = images if given.type == "tensor(uint8)" else normalize(images)
        outputs = session.run(names, {given.name: taken.cpu().numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs)}

    return run


def largest_difference(kind: str, maps: Maps, wanted: Maps) -> float | None:
    """Of maps of a kind, in the range of the wanted ones; None where a file has other maps."""
    names = [name for name in wanted if name.startswith(kind)]
    if any(name not in maps or maps[name].shape != wanted[name].shape for name in names):
        return None
    pairs = [(maps[name], wanted[name]) for name in names]
    return max(float((a - b).abs().max() / (b.max() - b.min())) for a, b in pairs)


def random_network(config: CfgNode) -> nn.Module:
    """The config's network with weights whose signals neither grow nor vanish, nor overflow."""
    torch.manual_seed(0)
    network = build_model(config)
    kaiming_init(network)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of the one batch that follows
    with torch.no_grad():
        network.train()(normalize(example(2, (128, 128))))
    return network.eval()


# infer ------------------------------------------------------------------------------------------

FINDING = ("read", "preprocess", "forward", "aggregate", *DECODING)
STAGED = 20
"""Images that are taken through the stages one by one."""


def benchmark_infer(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """images/s on the first images of DATASET.VAL, stages of some, and the AP of what is found."""
    split = first(read_split(config, config.DATASET.VAL), options.images)
    images = ImageDataset(split.records, split.images)
    model = (load_model(config) if config.TEST.MODEL_FILE else build_model(config)).to(device)
    predictor = build_predictor(config, build_inference_model(config, model))
    alone: dict[str, Any] = {CONFIGURED: predictor}
    found: dict[str, list] = {}
    if options.against:
        alone[REFERENCE] = timing.load_reference("predictor").ReferencePredictor(predictor, model)

    some = min(STAGED, len(images))

    def find_all(name: str) -> None:
        if name == CONFIGURED:
            found[name] = list(
                stream([predictor], images, build_pipeline_config(config, [predictor]))
            )
        else:
            found[name] = predict_sequentially(name, len(images))

    def predict_sequentially(name: str, count: int) -> list[tuple[int, Poses]]:
        poses = []
        for i in range(count):
            with record_function("read"):
                image_id, image = images[i]
            poses.append((image_id, alone[name](image)))
        return poses

    calls = {name: partial(find_all, name) for name in alone}
    peaks = {name: timing.peak_memory(call, device) for name, call in calls.items()}
    rows = timing.compare_calls(calls, options.repeats, len(images))
    for row in rows:
        row |= _figures(config, split, found[row[""]])
        row["peak memory, GiB"] = peaks[row[""]]
    labels = [
        (predictor, "preprocess", partial(timing.label, "preprocess")),
        (predictor, "forward", partial(timing.label, "aggregate")),  # less the network
        (predictor.model, "forward", partial(timing.label, "forward")),
        *STAGES,
    ]
    with timing.replaced(labels):
        staged = {name: partial(predict_sequentially, name, some) for name in alone}
        parts = timing.phases(staged, FINDING, device, some)
    notes = [
        f"{len(images)} images of {config.DATASET.VAL}, {config.TEST.BATCH} at a time where of one "
        f"size. Phases are of the first {some}, one by one. Weights: "
        f"{config.TEST.MODEL_FILE or 'random'}."
    ]
    if options.against:
        equal = sum(_decoded_alike(predictor, images[i][1]) for i in range(some))
        notes.append(f"The same maps decoded by both, bit for bit: {equal} of {some} images.")
    return Report({"Finding people": rows, "Where the time of an image goes": parts}, notes)


def _figures(config: CfgNode, split: Split, found: Sequence[tuple[int, Poses]]) -> Row:
    evaluator = build_evaluator(config, split.truth)
    for image_id, poses in found:
        evaluator.add(image_id, poses)
    people = sum(len(poses.joints) for _, poses in found)
    return {"AP": evaluator.summarize()["AP"], "people": people}


def _decoded_alike(predictor: Any, image: np.ndarray) -> bool:
    maps = predictor.forward([predictor.preprocess(image)])
    host = maps.heatmaps[0].float().cpu().numpy(), maps.tags[0].float().cpu().numpy()
    spec = predictor.spec
    theirs = timing.load_reference("decoding").decode(*host, spec.skeleton, spec.decoder)
    ours = decoding.decode(maps.heatmaps[0], maps.tags[0], spec.skeleton, spec.decoder)
    return _same(ours, theirs)
