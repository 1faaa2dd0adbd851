"""Option names and values of hrpose 0.1's checkpoints, releases and run folders.

Files keep the config they were made with; it is read under today's names. In a YAML file or on the
command line the old names are errors that name the new ones.
"""

from __future__ import annotations

from typing import Any

RENAMED = {
    "TRACKERS": "LOGGERS",
    "DATASET.SIGMAS": "DATASET.OKS_SIGMAS",
    "DATASET.IGNORE": "DATASET.IGNORE_REGIONS",
    "DATASET.MAX_ROTATION": "DATASET.AFFINE.ROTATION",
    "DATASET.MIN_SCALE": "DATASET.AFFINE.MIN_SCALE",
    "DATASET.MAX_SCALE": "DATASET.AFFINE.MAX_SCALE",
    "DATASET.MAX_TRANSLATE": "DATASET.AFFINE.TRANSLATE",
    "MODEL.STEM": "MODEL.BACKBONE.STEM",
    "MODEL.BOTTLENECKS": "MODEL.BACKBONE.BOTTLENECKS",
    "MODEL.MODULES": "MODEL.BACKBONE.MODULES",
    "MODEL.BLOCKS": "MODEL.BACKBONE.BLOCKS",
    "MODEL.CONVENTION": "MODEL.COORDINATES",
    "MODEL.MAY_MISS": "MODEL.ALLOW_MISSING",
    "LOSS.PULL": "LOSS.TAGS.PULL",
    "LOSS.PUSH": "LOSS.TAGS.PUSH",
    "LOSS.AE_TYPE": "LOSS.TAGS.KIND",
    "TRAIN.MILESTONES": "TRAIN.LR_STEP",
    "TRAIN.WARMUP": "TRAIN.WARMUP.EPOCHS",
    "TRAIN.PICTURES_EVERY": "TRAIN.VISUALIZE_EVERY",
    "TRAIN.IMAGES_PER_DEVICE": "TRAIN.MICRO_BATCH",
    "TRAIN.RECOMPUTE": "TRAIN.ACTIVATION_CHECKPOINTING",
    "TRAIN.SAVE_MINUTES": "TRAIN.SAVE.MINUTES",
    "TRAIN.SAVE_STEPS": "TRAIN.SAVE.STEPS",
    "TRAIN.KEEP_CHECKPOINTS": "TRAIN.SAVE.KEEP",
    **dict.fromkeys(
        ("TRAIN.FIRST_CYCLE", "TRAIN.T_0", "TRAIN.RESTARTS.T_0"), "TRAIN.RESTART.PERIOD"
    ),
    **dict.fromkeys(
        ("TRAIN.CYCLE_GROWTH", "TRAIN.T_MULT", "TRAIN.RESTARTS.T_MULT"), "TRAIN.RESTART.FACTOR"
    ),
    "TEST.HEATMAPS": "TEST.GT_HEATMAPS",
    "TEST.ADJUST": "TEST.SUBPIXEL",
    "TEST.SOLVER": "TEST.MATCHER",
    "TEST.COST": "TEST.MATCHING_COST",
    "TEST.SUPPRESS": "TEST.OKS_NMS",
}
"""Option names of checkpoints and run folders up to 0.1 -> today's names."""

RENAMED_VALUES: dict[str, dict[str | bool, Any]] = {
    "MODEL.COORDINATES": {"official": "published", "exact": "unbiased"},
    "TEST.GT_HEATMAPS": {"predicted": False, "annotated": True},
    "TEST.SUBPIXEL": {True: "convention", False: "none"},
}
"""Today's option -> {value of then: value of today}."""

NO_EFFECT = {
    "TEST.PRESET",  # stored beside the values that it set, which count
    *("TEST.FOLD_NORMS", "TEST.FUSE_BN", "TEST.CHANNELS_LAST"),  # up to rounding the same people
    *("TRAIN.MAX_LOST_STEPS", "TRAIN.MAX_NONFINITE_STEPS"),
}
"""Options that are gone and did not change what a network learns or finds."""

REMOVED: dict[str, Any] = {
    "TRAIN.LR_SCALING": "linear",
    "TRAIN.MOMENTUM": 0.9,
    **dict.fromkeys(("TRAIN.DROP", "TRAIN.LR_FACTOR"), 0.1),
    "TRAIN.CHANNELS_LAST": True,
    "TEST.NMS_KERNEL": 5,
    "TEST.CROWD_BOUNDS": [0.2, 0.8],
    "TEST.SCORE": "all",
}
"""Options that are gone -> the only value that still has its meaning."""


def current(key: str, value: Any) -> tuple[str, Any] | None:
    """An option of a stored config under its name and value of today; None if it is gone.

    Errors: ValueError where it is gone and had an effect
    """
    if key in NO_EFFECT:
        return None
    if key in REMOVED:
        if value != REMOVED[key]:
            raise ValueError(
                f"{key} was {value!r}, and is no option any more; its value is {REMOVED[key]!r}"
            )
        return None
    key = RENAMED.get(key, key)
    if isinstance(value, str | bool):
        value = RENAMED_VALUES.get(key, {}).get(value, value)
    return key, value


def current_option(key: str, value: Any) -> tuple[str, Any] | None:
    """The same, but an option that is gone and had an effect stays, so that no config equals it."""
    try:
        return current(key, value)
    except ValueError:
        return key, value
