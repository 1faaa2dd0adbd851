"""From a config to objects: the only place, beside the programs, that reads options."""

from collections.abc import Callable

from yacs.config import CfgNode

from hrpose.builders.common import build_model
from hrpose.builders.detectors import load_detector
from hrpose.builders.families import family, load_predictor

__all__ = ["build_loss", "build_model", "load_detector", "load_predictor"]


def build_loss(config: CfgNode) -> Callable:
    """(outputs, batch) -> LossOutput"""
    return family(config).build_loss(config)
