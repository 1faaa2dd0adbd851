"""Option names and values of hrpose 0.1's first checkpoints, releases and run folders.

Files keep the config they were made with; it is read under today's names. In a YAML file or on the
command line the old names are errors that name the new ones.
"""

from __future__ import annotations

from typing import Any

RENAMED = {
    "TRACKERS": "LOGGERS",
    "DATASET.SIGMAS": "DATASET.OKS_SIGMAS",
    "DATASET.IGNORE": "DATASET.IGNORE_REGIONS",
    "MODEL.CONVENTION": "MODEL.COORDINATES",
    "MODEL.MAY_MISS": "MODEL.ALLOW_MISSING",
    "TRAIN.MILESTONES": "TRAIN.LR_STEP",
    "TRAIN.DROP": "TRAIN.LR_FACTOR",
    "TRAIN.FIRST_CYCLE": "TRAIN.T_0",
    "TRAIN.CYCLE_GROWTH": "TRAIN.T_MULT",
    "TRAIN.PICTURES_EVERY": "TRAIN.VISUALIZE_EVERY",
    "TRAIN.IMAGES_PER_DEVICE": "TRAIN.MICRO_BATCH",
    "TRAIN.RECOMPUTE": "TRAIN.ACTIVATION_CHECKPOINTING",
    "TRAIN.MAX_LOST_STEPS": "TRAIN.MAX_NONFINITE_STEPS",
    "TEST.HEATMAPS": "TEST.GT_HEATMAPS",
    "TEST.ADJUST": "TEST.SUBPIXEL",
    "TEST.SOLVER": "TEST.MATCHER",
    "TEST.COST": "TEST.MATCHING_COST",
    "TEST.SUPPRESS": "TEST.OKS_NMS",
    "TEST.FOLD_NORMS": "TEST.FUSE_BN",
}
"""Option names of checkpoints and run folders up to 0.1 -> today's names."""

RENAMED_VALUES: dict[str, dict[str | bool, Any]] = {
    "MODEL.COORDINATES": {"official": "published", "exact": "unbiased"},
    "TEST.GT_HEATMAPS": {"predicted": False, "annotated": True},
    "TEST.SUBPIXEL": {True: "convention", False: "none"},
}
"""Today's option -> {value of then: value of today}."""

REMOVED = {"TEST.SCORE": "all"}
"""Options that are gone -> the only value that still has its meaning."""


def current(key: str, value: Any) -> tuple[str, Any] | None:
    """An option of a stored config under its name and value of today; None if it is gone.

    A preset is stored beside the values that it set, which count.
    Errors: ValueError where it is gone and had an effect
    """
    if key == "TEST.PRESET":
        return None
    if key in REMOVED:
        if value != REMOVED[key]:
            raise ValueError(
                f"{key} was {value!r}, and is no option any more: scores are the published ones"
            )
        return None
    key = RENAMED.get(key, key)
    if isinstance(value, str | bool):
        value = RENAMED_VALUES.get(key, {}).get(value, value)
    return key, value
