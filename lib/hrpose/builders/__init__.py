"""From a config to objects: the only place, beside the programs, that reads options."""

from hrpose.builders.common import build_model
from hrpose.builders.families import build_loss, load_predictor

__all__ = ["build_loss", "build_model", "load_predictor"]
