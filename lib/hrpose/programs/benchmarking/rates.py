"""How fast the device multiplies matrices, and how much of that a step makes use of."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from yacs.config import CfgNode

from hrpose.build import build_model
from hrpose.builders.devices import PRECISIONS
from hrpose.models.counting import operations_in
from hrpose.programs.benchmarking.report import number
from hrpose.programs.benchmarking.timing import waiter

SIDES = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the square matrices, by kind of device."""


def operations_of_an_image(config: CfgNode) -> float:
    """Floating-point operations of a training step, for one image.

    Two for every multiply-add, and backward takes twice as many as forward. What is there in
    training alone (SWAHR's scale branch) is not counted, nor is the loss.
    """
    size = config.DATASET.INPUT_SIZE
    return 3 * 2 * 1e9 * operations_in(build_model(config), (size, size))


def matmul_rates(
    device: torch.device, precisions: Iterable[str], seconds: float = 0.5
) -> dict[str, float]:
    """What the device reaches in each of these precisions."""
    return {name: matmul_rate(device, name, seconds) for name in dict.fromkeys(precisions)}


def matmul_rate(device: torch.device, precision: str, seconds: float) -> float:
    """Floating-point operations in a second: the best of the large products that it has time for.

    They are seven at least. The best, since others may use the machine too.
    """
    side, wait = SIDES[device.type], waiter(device)
    one, other = torch.randn(2, side, side, device=device).to(PRECISIONS[precision])
    passed: list[float] = []
    while len(passed) < 7 or sum(passed) < seconds:
        wait()
        begun = time.perf_counter()
        torch.matmul(one, other)
        wait()
        passed.append(time.perf_counter() - begun)
    return 2 * side**3 / min(passed)


def rate_note(device: torch.device, precision: str, rate: float) -> str:
    """What the share of the matmul rate is a share of."""
    side = SIDES[device.type]
    said = (
        f"Matmul rate, measured here: {number(rate / 1e12)} TFLOP/s ({side} x {side}, {precision}"
    )
    if precision == "fp32" and device.type == "cuda":
        allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        said += f"; TF32 allowed to matrices {allowed[0]}, to convolutions {allowed[1]}"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{said}{threads})."
