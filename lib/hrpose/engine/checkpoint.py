"""Checkpoints that are either the old file or the new one, never half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hrpose.ops.files import write_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """state: tensors, plain numbers, texts, and lists and dicts of them"""
    write_whole(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote, on the CPU. Never runs what a file may hold."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or not a checkpoint of this program ({type(error).__name__})"
        ) from error
