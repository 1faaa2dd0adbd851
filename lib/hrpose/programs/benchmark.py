"""Measure how fast training, loading, decoding and inference are on this machine."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrpose.ops.atomic_io import check_writable
from hrpose.programs.cli import command, config_parser, parsed_config


def writable(text: str) -> Path:
    path = Path(text)
    check_writable(path)
    return path


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def network_sizes(text: str) -> list[int]:
    """Parse e.g. 512,704."""
    chosen = [positive(part) for part in text.split(",")]
    if any(size % 32 for size in chosen):
        raise argparse.ArgumentTypeError(f"{text}: HRNet takes multiples of 32 only")
    return chosen


Options = dict[str, dict[str, Any]]
COMMON: Options = {
    "--repeats": {"type": positive, "default": 4, "help": "interleaved runs of each side"},
    "--json": {"type": writable, "metavar": "FILE", "help": "write the same numbers to it"},
}
AGAINST: Options = {
    "--against": {
        "choices": ["reference"],
        "help": "compare with the slow implementation in tests/reference of a checkout",
    }
}
TRAIN: Options = {
    "--steps": {"type": positive, "default": 10, "help": "per run, without synchronizing"},
    "--sweep": {"action": "store_true", "help": "compare the training options for speed"},
    "--batch": {"type": positive, "help": "of --sweep; default: the largest that fits"},
}
DATA: Options = {"--samples": {"type": positive, "default": 48, "help": "per run"}}
TAGS: Options = {
    f"--{name}": {"type": positive, "default": default}
    for name, default in (("images", 12), ("people", 30), ("joints", 17), ("size", 128))
}
DECODE: Options = {
    "--people": {"type": positive, "nargs": "+", "default": [5, 15, 30]},
    "--size": {"type": positive, "nargs": 2, "default": [512, 704], "help": "H W"},
    "--matcher": {"choices": ["munkres", "scipy"], "default": "munkres"},
}
FORWARD: Options = {
    "--size": {"type": network_sizes, "help": "sides of images, e.g. 512,704"},
    "--batch": {"type": positive, "default": 1, "help": "images per batch"},
    "--skip": {
        "default": [],
        "action": "append",
        "help": "leave out variants with this option",
        "choices": ["bf16", "channels last", "fused", "compiled"],
    },
    "--onnx": {"default": [], "action": "append", "type": Path, "help": "time this file too"},
}
INFER: Options = {
    "--images": {"type": positive, "default": 180, "help": "the first of DATASET.VAL"}
}
BENCHMARKS: dict[str, tuple[str, Options, str]] = {
    "train": ("training", {**AGAINST, **TRAIN}, "images/s of a config's training, and its phases."),
    "data": ("training", {**AGAINST, **DATA}, "samples/s of one worker, and its phases."),
    "tags": ("training", {**AGAINST, **TAGS}, "The tag loss, forward and backward, on the CPU."),
    "decode": ("inference", {**AGAINST, **DECODE}, "Heatmaps and tags to people, on the CPU."),
    "forward": ("inference", FORWARD, "The network at test time, in all variants."),
    "infer": ("inference", {**AGAINST, **INFER}, "images/s of inference, and its stages."),
}
"""Subcommand -> module, options, description."""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=BENCHMARKS, help="`train -h` lists the options of train")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")
    known = parser.parse_args(arguments)
    name, (module, options, description) = known.what, BENCHMARKS[known.what]
    needs_config = name not in ("tags", "decode")
    own = config_parser(description) if needs_config else argparse.ArgumentParser()
    own.prog, own.description = f"{parser.prog} {name}", description
    for option, settings in {**options, **COMMON}.items():
        own.add_argument(option, **settings)
    if needs_config:
        known, config = parsed_config(own, known.rest)
    else:
        known, config = own.parse_args(known.rest), None

    # These import torch, which takes seconds: only when the arguments are known to be right.
    import torch

    from hrpose.builders.devices import build_devices
    from hrpose.programs.timing import environment_of, publish

    benchmarks = importlib.import_module(f"hrpose.programs.benchmark_{module}")
    device = torch.device("cpu") if name == "data" or not config else build_devices(config)[0]
    environment = environment_of(device, vars(known))  # before: the load is that of others
    report = getattr(benchmarks, f"benchmark_{name}")(known, config, device)
    publish(report, environment, known.json)
