"""Measure how fast training, loading, decoding and inference are on this machine."""

from __future__ import annotations

import argparse
import importlib

import torch
from yacs.config import CfgNode

from hrpose.builders.devices import build_devices
from hrpose.programs.timing import environment_of, publish

MODULES = {
    "train": "training",
    "data": "data",
    "tags": "data",
    "decode": "inference",
    "forward": "inference",
    "infer": "inference",
}


def main(known: argparse.Namespace, config: CfgNode | None = None) -> None:
    module = MODULES[known.what]
    benchmarks = importlib.import_module(f"hrpose.programs.benchmark_{module}")
    device = torch.device("cpu") if module == "data" or not config else build_devices(config)[0]
    environment = environment_of(device, vars(known))  # before: the load is that of others
    report = getattr(benchmarks, f"benchmark_{known.what}")(known, config, device)
    publish(report, environment, known.json)
