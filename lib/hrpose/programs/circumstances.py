"""Under which circumstances something was done: what a reader of its figures will want to know."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

NOW = "%Y-%m-%d %H:%M:%S"


def circumstances(devices: list[torch.device]) -> dict[str, Any]:
    """Command, code, versions, devices, time."""
    return {
        "command": sys.argv,
        "git": _git_state(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": [_device_name(device) for device in devices],
        "started": time.strftime(NOW),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _git_state() -> str:
    """The commit of the code, and whether anything was changed since; empty outside of git."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
