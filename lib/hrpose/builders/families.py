"""The two families, and what both are asked for: MODEL.NAME decides which of them builds it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from yacs.config import CfgNode

from hrpose.builders import bottomup, topdown
from hrpose.builders.common import build_inference_model, ensemble_configs, load_model
from hrpose.builders.datasets import build_skeleton
from hrpose.builders.detectors import source_name
from hrpose.builders.devices import build_devices
from hrpose.config.options import TOP_DOWN_MODELS
from hrpose.engine.distributed import SINGLE_PROCESS, DistInfo
from hrpose.inference.onnx_predictor import OnnxPredictor
from hrpose.inference.topdown import TopDownEnsemble
from hrpose.inference.topdown_spec import TopDownSpec


def is_top_down(config: CfgNode) -> bool:
    return config.MODEL.NAME in TOP_DOWN_MODELS


def family(config: CfgNode) -> ModuleType:
    """builders.bottomup or builders.topdown, which have the same functions."""
    return topdown if is_top_down(config) else bottomup


def load_predictor(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> Any:
    """A predictor with the weights of TEST.MODEL_FILE, on the first of this process's devices.

    With TEST.ENSEMBLE it averages all of these networks. An ONNX file predicts as it was exported,
    whatever other options of TEST are.
    """
    if config.TEST.MODEL_FILE.endswith(".onnx"):
        return _load_exported(config)
    return _load_predictors(config, build_devices(config, dist)[:1])[0]


def _load_exported(config: CfgNode) -> OnnxPredictor:
    """Errors: ValueError if the file is of another family, or other joints, than the config"""
    path = config.TEST.MODEL_FILE
    if config.TEST.ENSEMBLE:
        raise ValueError(f"TEST.MODEL_FILE {path}: TEST.ENSEMBLE averages networks, no ONNX files")
    predictor = OnnxPredictor.load(path)
    spec, joints = predictor.spec, build_skeleton(config).joints
    if isinstance(spec, TopDownSpec) != is_top_down(config) or spec.skeleton.joints != joints:
        raise ValueError(
            f"TEST.MODEL_FILE {path} is not of this config: the family or the joints differ; give "
            f"the config that it was exported with (its joints: {', '.join(spec.skeleton.joints)})"
        )
    return predictor


def load_predictors(config: CfgNode, dist: DistInfo = SINGLE_PROCESS) -> list[Any]:
    """One on each of this process's devices."""
    return _load_predictors(config, build_devices(config, dist))


def _load_predictors(config: CfgNode, devices: Sequence[torch.device]) -> list[Any]:
    members: list[list[Any]] = [[] for _ in devices]
    for number, each in enumerate(ensemble_configs(config)):
        try:
            model = load_model(each)
        except ValueError as error:
            if number:
                cure = "in TEST.ENSEMBLE networks of other configs are <config>,<weights>"
                raise ValueError(f"{error}; {cure}") from error
            raise
        copies = [model, *(copy.deepcopy(model) for _ in devices[1:])]
        for found, device, network in zip(members, devices, copies):
            network = build_inference_model(each, network.to(device))
            found.append(family(each).build_predictor(each, network))
    if not config.TEST.ENSEMBLE:
        return [found[0] for found in members]
    try:
        return [TopDownEnsemble(found) for found in members]
    except ValueError as error:
        raise ValueError(f"TEST.ENSEMBLE {list(config.TEST.ENSEMBLE)}: {error}") from error


def box_source(config: CfgNode) -> str:
    """Whose boxes a top-down network is given: truth, a detector, or a file; empty: no boxes."""
    return source_name(config.TEST.BOXES) if is_top_down(config) else ""
