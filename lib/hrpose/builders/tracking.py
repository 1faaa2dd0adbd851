"""From a config to the tracker of a video."""

from __future__ import annotations

from yacs.config import CfgNode

from hrpose.builders.common import keywords
from hrpose.builders.datasets import build_skeleton
from hrpose.inference.tracking import TrackConfig, Tracker


def build_tracker(config: CfgNode) -> Tracker | None:
    """A tracker for one video; None where TEST.TRACK is not ENABLED."""
    track = config.TEST.TRACK
    if not track.ENABLED:
        return None
    names = ("MIN_OKS", "MIN_SCORE", "MAX_LOST", "MIN_CUTOFF", "BETA")
    return Tracker(build_skeleton(config).sigmas, TrackConfig(**keywords(track, *names)))
