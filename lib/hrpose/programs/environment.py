"""The environment of a run: command, commit, versions, devices, time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


def environment_info(devices: list[torch.device]) -> dict[str, Any]:
    """For run.json: what a result may depend on."""
    return {
        "command": sys.argv,
        "git": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": [
            torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
            for device in devices
        ],
        "fp32 convolutions": "TF32" if uses_tf32(devices[0]) else "float32",
        "started": time.strftime(TIME_FORMAT),
    }


def uses_tf32(device: torch.device) -> bool:
    """Whether convolutions of float32 round their inputs to TF32's 10 bits: by the option TF32, or
    NVIDIA_TF32_OVERRIDE=0, which NVIDIA's libraries read.
    """
    if device.type != "cuda" or os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return False
    ampere_or_later = torch.cuda.get_device_capability(device) >= (8, 0)
    return ampere_or_later and torch.backends.cudnn.allow_tf32


def _git_commit() -> str:
    """The commit of the code, "-dirty" if it was changed since; empty outside of git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
