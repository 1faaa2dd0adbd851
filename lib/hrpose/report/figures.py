"""Figures as inline SVG, the same text each time: curves, stacked bars and bars side by side.

Text stays text, in the fonts of the page. matplotlib is imported when the first one is drawn.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Label -> x and y."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hrpose",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
}
COLUMNS = 4
WIDTH = 11.0
"""Inches of a figure of several panels."""

MOST_POINTS = 400
"""Of a curve; more are averaged."""

LARGE_SPAN = 20.0
"""Highest value over the lowest from which an axis is logarithmic."""

KIND_COLOURS = ("#7fbf7b", "#fdd49e", "#9e77c4", "#4c8fd1", "#d9534f", "#c9a227", "#999999", "#333")


def draw_curves(
    panels: Mapping[str, Curves],
    names: tuple[str, str] = ("step", ""),
    lowest: float | None = None,
) -> str:
    """A panel for each title; a label has the same colour in all.

    names: of both axes   lowest: y where axes begin, linear; None: wherever the values do
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    with _figure(len(panels), COLUMNS, 2.1) as (figure, plots):
        for axes, (title, curves) in zip(plots, panels.items()):
            for label, (x, y) in curves.items():
                x, y = thinned(x, y)
                mark = "o" if len(x) < 3 else ""
                axes.plot(x, y, mark + "-", color=f"C{labels.index(label)}", label=label, ms=3)
            values = np.concatenate([np.asarray(y, float) for _, y in curves.values()])
            if lowest is not None:
                axes.set_ylim(lowest, max(1.05 * values.max(initial=lowest), lowest + 0.01))
            elif 0 < LARGE_SPAN * values.min(initial=np.inf) < values.max(initial=0):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")  # the usual one writes formulas
                axes.yaxis.set_minor_formatter("")
            axes.set(title=title, xlabel=names[0], ylabel=names[1])
        _legend(figure, plots[0], len(labels))
        return _svg(figure)


def draw_shares(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Title -> bar -> part -> size: horizontal bars of the parts' shares in all of a bar."""
    bars = max(len(rows) for rows in panels.values())
    with _figure(len(panels), 2, 1.1 + 0.17 * bars) as (figure, plots):
        for axes, (title, rows) in zip(plots, panels.items()):
            parts = list(next(iter(rows.values())))
            sizes = np.array([[row[part] for part in parts] for row in rows.values()], float)
            shares = sizes / sizes.sum(1, keepdims=True).clip(min=1e-12)
            left = np.zeros(len(rows))
            for part, share, colour in zip(parts, shares.T, KIND_COLOURS):
                axes.barh(range(len(rows)), share, left=left, color=colour, label=part)
                left += share
            axes.set_yticks(range(len(rows)), list(rows))
            axes.set(title=title, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        _legend(figure, plots[0], len(parts))
        return _svg(figure)


def draw_bars(panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Title -> label -> bar -> length: for every bar those of the labels below each other."""
    with _figure(len(panels), 3, 2.6) as (figure, plots):
        for axes, (title, groups) in zip(plots, panels.items()):
            bars = list(next(iter(groups.values())))
            height = 0.8 / len(groups)
            for i, (label, lengths) in enumerate(groups.items()):
                at = np.arange(len(bars)) + height * (i - (len(groups) - 1) / 2)
                axes.barh(at, [lengths[bar] for bar in bars], height, label=label, color=f"C{i}")
            axes.set_yticks(range(len(bars)), bars)
            axes.set(title=title, xlim=(0, 1), ylim=(len(bars) - 0.5, -0.5))
        _legend(figure, plots[0], len(groups))
        return _svg(figure)


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """The means of at most MOST_POINTS parts of a curve, each of about as many points."""
    parts = np.array_split(np.arange(len(x)), min(len(x), MOST_POINTS) or 1)
    means = [
        [float(np.mean(np.asarray(v, float)[part])) for part in parts if len(part)] for v in (x, y)
    ]
    return means[0], means[1]


@contextmanager
def _figure(count: int, columns: int, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure of `count` panels in the style, at most `columns` side by side; and the panels."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(count, columns)
    rows = math.ceil(count / columns)
    with matplotlib.rc_context(STYLE):
        size = (WIDTH / max(columns, 2) * columns, height * rows)
        figure = Figure(figsize=size, layout="constrained")
        plots = figure.subplots(rows, columns, squeeze=False).ravel()
        for empty in plots[count:]:
            empty.set_visible(False)
        yield figure, plots[:count]


def _legend(figure: Any, axes: Any, count: int) -> None:
    if count > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(count, 4))


def _svg(figure: Any) -> str:
    """Without the XML declaration, the date and the version of matplotlib."""
    text = io.StringIO()
    unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=unknown)
    svg = text.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
