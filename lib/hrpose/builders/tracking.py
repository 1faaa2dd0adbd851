"""From a config to the tracker of a video."""

from __future__ import annotations

from yacs.config import CfgNode

from hrpose.builders.common import keywords
from hrpose.builders.datasets import build_skeleton
from hrpose.inference.tracking import TrackConfig, Tracker


def build_tracker(config: CfgNode) -> Tracker | None:
    """A tracker for one video; None where TEST.TRACK is not ENABLED."""
    if not config.TEST.TRACK.ENABLED:
        return None
    names = ("MIN_OKS", "MIN_SCORE", "MAX_LOST", "MIN_CUTOFF", "BETA")
    options = keywords(config.TEST.TRACK, *names)
    return Tracker(build_skeleton(config).sigmas, TrackConfig(**options))
