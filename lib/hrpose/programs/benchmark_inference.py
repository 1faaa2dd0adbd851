"""Speed of inference: decoding, the network in several variants, and the whole pipeline."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from yacs.config import CfgNode

from hrpose.builders.common import build_inference_model, build_model, load_model
from hrpose.builders.families import box_source, family, is_top_down
from hrpose.builders.sources import build_source_evaluator, evaluated_sources, read_first
from hrpose.config import load_config
from hrpose.inference import decode as decoding
from hrpose.inference.onnx_predictor import open_session
from hrpose.inference.spec import PUBLISHED
from hrpose.models.blocks import kaiming_init
from hrpose.ops.normalize import normalize
from hrpose.programs import timing
from hrpose.programs.exporting.graphs import NetworkGraph, example
from hrpose.programs.timing import CONFIGURED, REFERENCE, Report, Row
from hrpose.skeletons import COCO
from hrpose.structures import Images, Poses

DECODING = {
    "candidates": "find_candidates", "fill": "fill_missing", "score": "score_and_filter"
}  # fmt: skip
"""Label of each timed stage of decoding -> its function."""
STAGES = [(decoding, function, label) for label, function in DECODING.items()]


# decode -----------------------------------------------------------------------------------------


def benchmark_decode(options: Namespace, config: None, device: torch.device) -> Report:
    """Milliseconds to decode synthetic crowds, and noise, on maps of --size (H, W)."""
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
        calls, given = {}, (heatmaps, np.ascontiguousarray(tags), COCO, settings)
        if options.against:
            calls[REFERENCE] = partial(timing.load_reference("decoding").decode, *given)
        calls[CONFIGURED] = partial(decoding.decode, heatmaps, tags, COCO, settings)
        (people, scores), (others, their_scores) = calls[CONFIGURED](), next(iter(calls.values()))()
        equal += np.array_equal(people, others) and np.array_equal(scores, their_scores)
        report.tables[name] = timing.compare_calls(calls, options.repeats, dict.fromkeys(calls, 1))
        ours[name] = calls[CONFIGURED]
    with timing.labelled(STAGES):
        report.tables["Where the time goes"] = timing.phases(ours, DECODING, device)
    report.notes.append(f"17 x {size[0]} x {size[1]}, two tag values, matcher {options.matcher}.")
    if options.against:
        report.notes.append(f"Equal bit for bit: {equal} of {len(maps)} scenes.")
    return report


# forward ----------------------------------------------------------------------------------------

AS_TRAINED = "fp32, as trained"  # BatchNorms not fused, maps contiguous
VARIANTS = ("fp32", "fp32, compiled", "bf16", "bf16, compiled")
Maps = dict[str, Tensor]
"""heatmaps_<stride> and tags_<stride>, each (B, K, h, w)"""
ForwardFn = Callable[[Tensor], Maps]
"""uint8 images (B, 3, H, W) -> maps"""


def benchmark_forward(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """A table per size that compares all variants of the network in interleaved runs."""
    model = (load_model(config) if config.TEST.MODEL_FILE else random_network(config)).to(device)
    networks: dict[str, ForwardFn] = {AS_TRAINED: NetworkGraph(model.eval())}
    report, failed = Report(), dict[str, str]()
    for name in VARIANTS:
        if {*name.split(", ")} & {*options.skip}:
            continue
        overrides = [*options.overrides, *timing.speed_options(name, "TEST")]
        try:
            own = load_config(options.cfg, overrides)
            networks[name] = NetworkGraph(build_inference_model(own, model))
        except ValueError as error:  # no compiler
            failed[name] = str(error)
    networks |= {path.name: onnx_network(path) for path in options.onnx}
    squares = [(side, side) for side in options.size or ()]
    for width, height in squares or [family(config).typical_size(config)]:
        noise = example(options.batch, (height, width)).to(device)
        with torch.inference_mode():
            rows = _compare_networks(networks, noise, options.repeats, failed)
        report.tables[f"{options.batch} x {height} x {width}"] = rows
    report.notes = [
        f"Weights: {config.TEST.MODEL_FILE or 'random, in which rounding errors grow more'}. "
        "Images are noise; their normalization counts. Off by: the largest difference to the "
        "first row, relative to the range of its maps.",
        *(f"Not measured: {name}, since {why}" for name, why in failed.items()),
    ]
    return report


def _compare_networks(
    networks: Mapping[str, ForwardFn], images: Tensor, repeats: int, failed: dict[str, str]
) -> list[Row]:
    """A row for each network that runs; the errors of the others go to `failed`."""
    maps, started = dict[str, Maps](), dict[str, float]()
    for name, network in networks.items():
        begun = time.perf_counter()
        try:
            maps[name] = {kind: map.cpu() for kind, map in network(images).items()}
        except RuntimeError as error:
            if name == AS_TRAINED:
                raise
            failed[name] = str(error).strip().split("\n")[0]
            continue
        started[name] = time.perf_counter() - begun
    calls = {name: partial(networks[name], images) for name in maps}
    rows = timing.compare_calls(calls, repeats, dict.fromkeys(calls, len(images)))
    for row in rows:
        name = row[""]
        for kind in ("heatmaps", "tags"):
            row[f"{kind} off by"] = largest_difference(kind, maps[name], maps[AS_TRAINED])
        row["first call, s"] = started[name]
        if images.is_cuda:
            held = torch.cuda.memory_allocated(images.device) / 2**30
            row["activations, GiB"] = timing.peak_memory(calls[name], images.device) - held
    return rows


def onnx_network(path: Path) -> ForwardFn:
    """An ONNX file with one input, uint8 or normalized float32, run in as many threads as torch."""
    session = open_session(path, torch.get_num_threads(), ["CPUExecutionProvider"])
    (given,), names = session.get_inputs(), [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Maps:
        taken = images if given.type == "tensor(uint8)" else normalize(images)
        outputs = session.run(names, {given.name: taken.cpu().numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(names, outputs)}

    return run


def largest_difference(kind: str, maps: Maps, wanted: Maps) -> float | None:
    """Between maps of a kind, relative to the range of `wanted`; None if names or shapes differ."""
    names = [name for name in wanted if name.startswith(kind)]
    if not names or any(
        name not in maps or maps[name].shape != wanted[name].shape for name in names
    ):
        return None
    pairs = [(maps[name], wanted[name]) for name in names]
    return max(float((a - b).abs().max() / (b.max() - b.min())) for a, b in pairs)


def random_network(config: CfgNode) -> nn.Module:
    """The config's network, initialized so that its maps are not flat."""
    torch.manual_seed(0)
    network = build_model(config)
    kaiming_init(network)
    return network


# infer ------------------------------------------------------------------------------------------

STAGED = 20
"""Images whose stages are timed one by one."""


def benchmark_infer(options: Namespace, config: CfgNode, device: torch.device) -> Report:
    """images/s on the first images of DATASET.VAL, stages of some, AP of the predictions."""
    source = evaluated_sources(config)[0]
    split = read_first(source, source.config.DATASET.VAL, options.images)
    built, count = family(config), min(STAGED, len(split.records))
    images = built.build_test_images(source.config, split.records, split.images)
    model = (load_model(config) if config.TEST.MODEL_FILE else build_model(config)).to(device)
    predictor = built.build_predictor(config, build_inference_model(config, model))
    predictors: dict[str, Any] = {}
    if options.against:
        reference = timing.load_reference("topdown" if is_top_down(config) else "predictor")
        predictors[REFERENCE] = reference.ReferencePredictor(predictor, model)
    predictors[CONFIGURED] = predictor
    found: dict[str, list[tuple[int, Poses]]] = {}

    def predict_all(name: str) -> None:
        if name == REFERENCE:
            found[name] = _one_by_one(predictors[name], images, len(images))
        else:
            found[name] = list(built.build_predict_all(config, [predictor])(images))

    calls = {name: partial(predict_all, name) for name in predictors}
    peaks = {name: timing.peak_memory(call, device) for name, call in calls.items()}
    rows = timing.compare_calls(calls, options.repeats, dict.fromkeys(calls, len(images)))
    for row in rows:
        ids = [record.image_id for record in split.records]
        evaluator = build_source_evaluator(source, split.truth, ids)
        for image_id, poses in found[row[""]]:
            evaluator.add(image_id, poses)
        row[evaluator.primary] = evaluator.summarize()[evaluator.primary]
        row["people"] = sum(len(poses.joints) for _, poses in found[row[""]])
        row["peak memory, GiB"] = peaks[row[""]]
    model_label = (predictor.model, "forward", "forward")  # excluded from its caller's "aggregate"
    labels = (predictor, "preprocess", "preprocess"), (predictor, "forward", "aggregate")
    decoding_stages, names = STAGES, tuple(DECODING)
    if is_top_down(config):
        decoding_stages, names = [(predictor, "decode", "decode")], ("decode",)
    with timing.labelled([*labels, model_label, *decoding_stages]):
        few = {name: partial(_one_by_one, each, images, count) for name, each in predictors.items()}
        stages = ("read", "preprocess", "forward", "aggregate", *names)
        parts = timing.phases(few, stages, device, count)
    unit = f"crops of {box_source(config)} boxes" if is_top_down(config) else "of one size"
    note = (
        f"{len(images)} images of {source.key(source.config.DATASET.VAL)}, up to "
        f"{config.TEST.BATCH} {unit} at a time. Phases are of the first {count}, one by one. "
        f"Weights: {config.TEST.MODEL_FILE or 'random'}."
    )
    return Report({"Inference": rows, "Where the time of an image goes": parts}, [note])


def _one_by_one(predict: Any, images: Images, count: int) -> list[tuple[int, Poses]]:
    poses = []
    for i in range(count):
        with record_function("read"):
            image_id, image = images[i]
        given = image if isinstance(image, tuple) else (image,)  # with boxes, or alone
        poses.append((image_id, predict(*given)))
    return poses
