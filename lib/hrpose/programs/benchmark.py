"""Measure how fast we are, against the plain way of doing the same in the same run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hrpose.builders.devices import build_devices
from hrpose.inference.assignment import SOLVERS
from hrpose.inference.grouping import PUBLISHED
from hrpose.ops.files import refuse_unwritable
from hrpose.programs.benchmarking.crowds import benchmark_crowds
from hrpose.programs.benchmarking.forward import Task, benchmark_forward
from hrpose.programs.benchmarking.inference import benchmark_inference
from hrpose.programs.benchmarking.ladder import Ladder, benchmark_ladder
from hrpose.programs.benchmarking.loading import benchmark_loading
from hrpose.programs.benchmarking.report import publish, surroundings
from hrpose.programs.benchmarking.tags import Crowd, benchmark_tags
from hrpose.programs.benchmarking.training import benchmark_training
from hrpose.programs.benchmarking.ways import PLAIN, WAYS
from hrpose.programs.command import command, config_parser, parsed_config

CPU = torch.device("cpu")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=BENCHMARKS, help="what to measure; `train -h` says more")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")
    known = parser.parse_args(arguments)
    BENCHMARKS[known.what](known.rest)


def benchmark_train(arguments: Sequence[str]) -> None:
    parser = config_parser("images/s of a config's training, and where the time goes.")
    _add_common(parser, "train")
    parser.add_argument("--steps", type=at_least_1, default=10, help="timed steps of a block")
    parser.add_argument("--ladder", action="store_true", help="one means of speed after the other")
    parser.add_argument("--batch", type=at_least_1, help="of --ladder, not the largest that fits")
    known, config = parsed_config(parser, arguments)
    _check_ladder(known)
    device = build_devices(config)[0]
    facts = _facts(known, device)
    if known.ladder:
        ladder = Ladder(known.cfg, known.overrides, device)
        report = benchmark_ladder(ladder, known.batch, known.steps, known.blocks)
    else:
        report = benchmark_training(config, device, known.against, known.steps, known.blocks)
    publish(report, facts, known.json)


def _check_ladder(known: argparse.Namespace) -> None:
    if known.ladder and known.against:
        raise ValueError("--ladder begins with the plain way; leave --against out")
    if known.batch and not known.ladder:
        raise ValueError("--batch belongs to --ladder; without it, give TRAIN.BATCH N")


def benchmark_data(arguments: Sequence[str]) -> None:
    parser = config_parser("samples/s of one worker, and where its time goes.")
    _add_common(parser, "data")
    parser.add_argument("--samples", type=at_least_1, default=48, help="of a block")
    known, config = parsed_config(parser, arguments)
    facts = _facts(known, CPU)
    report = benchmark_loading(config, known.against, known.samples, known.blocks)
    publish(report, facts, known.json)


def benchmark_tag_loss(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="The loss of the tags, forward and backward.")
    _add_common(parser, "tags")
    for name, default in Crowd._field_defaults.items():
        parser.add_argument(f"--{name}", type=at_least_1, default=default)
    known = parser.parse_args(arguments)
    facts = _facts(known, CPU)
    crowd = Crowd(*(getattr(known, name) for name in Crowd._fields))
    publish(benchmark_tags(crowd, known.against, known.blocks), facts, known.json)


def benchmark_network(arguments: Sequence[str]) -> None:
    parser = config_parser("The network at test, computed in one way after the other.")
    _add_turns(parser, "forward")
    parser.add_argument("--size", type=sizes, help="sides of images, e.g. 512,704")
    parser.add_argument("--batch", type=at_least_1, default=1, help="images at once")
    words = sorted({word for way in WAYS for word in way.words})
    parser.add_argument(
        "--skip", default=[], action="append", choices=words, help="leave these ways out"
    )
    parser.add_argument(
        "--onnx", default=[], action="append", type=Path, help="time an exported file beside them"
    )
    known, config = parsed_config(parser, arguments)
    device = build_devices(config)[0]
    facts = _facts(known, device)
    looked_at = known.size or [config.TEST.INPUT_SIZE or config.DATASET.INPUT_SIZE]
    task = Task(known.cfg, known.overrides, device, looked_at, known.batch)
    ways = [way for way in WAYS if way.name == PLAIN or not {*way.words} & {*known.skip}]
    publish(benchmark_forward(task, ways, known.onnx, known.blocks), facts, known.json)


def benchmark_infer(arguments: Sequence[str]) -> None:
    parser = config_parser("images/s of finding people with TEST.MODEL_FILE, stage by stage.")
    _add_common(parser, "infer")
    parser.add_argument("--images", type=at_least_1, default=180, help="the first of DATASET.VAL")
    known, config = parsed_config(parser, arguments)
    facts = _facts(known, build_devices(config)[0])
    report = benchmark_inference(config, known.against, known.images, known.blocks)
    publish(report, facts, known.json)


def benchmark_decode(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Heatmaps and tags to people, on the CPU.")
    _add_common(parser, "decode")
    parser.add_argument("--people", type=at_least_1, nargs="+", default=[5, 15, 30])
    parser.add_argument("--size", type=at_least_1, nargs=2, default=[512, 704], help="H W")
    parser.add_argument("--solver", choices=SOLVERS, default="munkres")
    known = parser.parse_args(arguments)
    facts, settings = _facts(known, CPU), PUBLISHED._replace(solver=known.solver)
    size = (known.size[0], known.size[1])
    if min(size) < 32:
        parser.error(f"--size {size[0]} {size[1]}: people want 32 pixels at least")
    report = benchmark_crowds(known.people, size, settings, known.against, known.blocks)
    publish(report, facts, known.json)


BENCHMARKS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": benchmark_train,
    "data": benchmark_data,
    "tags": benchmark_tag_loss,
    "infer": benchmark_infer,
    "decode": benchmark_decode,
    "forward": benchmark_network,
}


def _add_common(parser: argparse.ArgumentParser, what: str) -> None:
    _add_turns(parser, what)
    parser.add_argument("--against", choices=["plain"], help="beside the plain way, in turns")


def _add_turns(parser: argparse.ArgumentParser, what: str) -> None:
    parser.prog = f"{parser.prog} {what}"
    parser.add_argument("--blocks", type=at_least_1, default=4, help="turns that each side takes")
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="write the same numbers there"
    )


def _writable(text: str) -> Path:
    path = Path(text)
    refuse_unwritable(path)
    return path


def at_least_1(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return value


def sizes(text: str) -> list[int]:
    """512,704"""
    chosen = [at_least_1(part) for part in text.split(",")]
    if any(size % 32 for size in chosen):
        raise argparse.ArgumentTypeError(f"{text}: HRNet takes multiples of 32 alone")
    return chosen


def _facts(known: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Taken before, so that the load is that of others."""
    facts = surroundings([device])
    options = {name: str(value) for name, value in vars(known).items() if value is not None}
    return {**facts, "options": options}
