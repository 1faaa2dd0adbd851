"""The two families, and what both are asked for: MODEL.NAME decides which of them builds it."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from hrpose.builders import bottomup, topdown
from hrpose.builders.common import build_inference_model, load_model
from hrpose.builders.detectors import source_name
from hrpose.builders.devices import build_devices
from hrpose.config.options import TOP_DOWN_MODELS
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo


def is_top_down(config: CfgNode) -> bool:
    return config.MODEL.NAME in TOP_DOWN_MODELS


def family(config: CfgNode) -> ModuleType:
    """builders.bottomup or builders.topdown, which have the same functions."""
    return topdown if is_top_down(config) else bottomup


def load_predictor(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> Any:
    """A predictor with the weights of TEST.MODEL_FILE, on the first of this process's devices."""
    return _predictor_on(build_devices(config, dist)[0], config, load_model(config))


def load_predictors(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> list[Any]:
    """One on each of this process's devices."""
    model, devices = load_model(config), build_devices(config, dist)
    models = [model, *(copy.deepcopy(model) for _ in devices[1:])]
    return [_predictor_on(device, config, each) for device, each in zip(devices, models)]


def _predictor_on(device: torch.device, config: CfgNode, model: nn.Module) -> Any:
    model = build_inference_model(config, model.to(device))
    return family(config).build_predictor(config, model)


def box_source(config: CfgNode) -> str:
    """Whose boxes a top-down network is given: truth, a detector, or a file; empty: no boxes."""
    return source_name(config.TEST.BOXES) if is_top_down(config) else ""
