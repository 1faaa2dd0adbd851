"""The AP of every row as a picture, and beside it what the papers say."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS, THEIRS = "tab:blue", "tab:orange"

Bar = tuple[str, Sequence[float], Mapping[str, float]]
"""Name of a row, its AP with every seed, its published figures; all in percent."""


def plot(bars: Sequence[Bar]) -> bytes | None:
    """A PNG with the rows in their order from above; None where matplotlib is not installed.

    Left: the seeds as dots, their mean, their deviation. Right: the published AP, where any is.
    The two have axes of their own, since a smaller scale is another experiment.
    """
    try:
        from matplotlib.figure import Figure  # as such it draws with Agg, on no screen
    except ImportError:
        return None
    published = any("AP" in theirs for _, _, theirs in bars)
    figure = Figure(figsize=(9 if published else 6, 1.2 + 0.32 * len(bars)), layout="constrained")
    panels = figure.subplots(1, 1 + published, sharey=True, squeeze=False)[0]
    _draw_ours(panels[0], bars)
    if published:
        _draw_published(panels[1], bars)
    names = [name.replace("$", r"\$") for name, _, _ in bars]  # else a formula begins
    panels[0].set_yticks(range(len(bars)), names)
    panels[0].set_ylim(len(bars) - 0.5, -0.5)
    for panel in panels:
        panel.grid(axis="x", alpha=0.4)
        panel.locator_params(axis="x", nbins=6)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()


def _draw_ours(panel: Any, bars: Sequence[Bar]) -> None:
    panel.set_title("ours")
    panel.set_xlabel("AP: mean, deviation, every seed")
    for place, (_, values, _) in enumerate(bars):
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.fmean(values)
            panel.errorbar(mean, place, xerr=spread, fmt="D", color=OURS, capsize=3)
            panel.plot(values, [place] * len(values), "o", color=OURS, alpha=0.4, markersize=4)


def _draw_published(panel: Any, bars: Sequence[Bar]) -> None:
    panel.set_title("published")
    panel.set_xlabel("AP")
    for place, (_, _, theirs) in enumerate(bars):
        if "AP" in theirs:
            panel.plot(theirs["AP"], place, "D", color=THEIRS)
