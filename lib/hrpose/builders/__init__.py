"""From a config to objects: the only place, beside the programs, that reads options."""

from hrpose.builders.bottomup import build_loss, build_model, load_predictor

__all__ = ["build_loss", "build_model", "load_predictor"]
