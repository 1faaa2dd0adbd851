"""Measure how fast training, loading, decoding and inference are on this machine."""

from __future__ import annotations

import argparse

import torch
from yacs.config import CfgNode

from hrpose.builders.common import require_one_network
from hrpose.builders.devices import build_devices
from hrpose.programs import benchmark_inference, benchmark_training
from hrpose.programs.timing import environment_of, publish

BENCHMARKS = {
    "train": benchmark_training.benchmark_train,
    "data": benchmark_training.benchmark_data,
    "tags": benchmark_training.benchmark_tags,
    "decode": benchmark_inference.benchmark_decode,
    "forward": benchmark_inference.benchmark_forward,
    "infer": benchmark_inference.benchmark_infer,
}


def main(known: argparse.Namespace, config: CfgNode | None = None) -> None:
    if config is not None:
        require_one_network(config)
    on_host = known.what == "data" or config is None
    device = torch.device("cpu") if on_host else build_devices(config)[0]
    environment = environment_of(device, vars(known))  # before: the load is that of others
    publish(BENCHMARKS[known.what](known, config, device), environment, known.json)
