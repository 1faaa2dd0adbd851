"""Tables of an ablation: Markdown, CSV, LaTeX and a plot, from one record per row and seed.

A record is a dict: row, seed, state (finished, failed or missing), hash, parameters, gmacs, the
`reported_metrics` of its data in percent (None where unknown), and "published <metric>" of each.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrpose.ops.atomic_io import atomic_write

if TYPE_CHECKING:
    from pandas import DataFrame, Series

AP_METRICS = ("AP", "AP50", "AP75", "AP-M", "AP-L")
"""Between 0 and 1, as they are evaluated."""

PCKH_METRICS = ("PCKh@.5", "Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "PCKh@.1")
"""In percent, as they are evaluated."""

AIC_METRICS = ("AIC-AP", "AIC-AP50", "AIC-AP75", "COCO-AP")
"""Between 0 and 1, as they are evaluated."""

METRICS = AP_METRICS + PCKH_METRICS + AIC_METRICS


def reported_metrics(data_format: str) -> tuple[str, ...]:
    """The metrics of data of this DATASET.FORMAT; rows are compared by the first."""
    return {"mpii": PCKH_METRICS, "aic": AIC_METRICS}.get(data_format, AP_METRICS)


def to_percent(figure: float, metric: str) -> float | None:
    """An evaluated figure in percent; None for -1, where there is no ground truth."""
    return None if figure == -1 else round(figure * (1 if metric in PCKH_METRICS else 100), 6)


def frame_of(records: Sequence[dict[str, Any]]) -> DataFrame:
    """The records as a table. ValueError, with the cure: pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise ValueError(
            "the tables need pandas, which is not installed: pip install -e '.[ablations]'"
        ) from None
    metrics = [name for name in METRICS if any(name in record for record in records)]
    figures = [*metrics, *(f"published {name}" for name in metrics)]
    heads = ["row", "seed", "state", "hash", "parameters", "gmacs", *figures]
    return pandas.DataFrame(list(records), columns=heads).astype(dict.fromkeys(figures, float))


def write_tables(
    frame: DataFrame, folder: Path, title: str, command: str, notes: Sequence[str]
) -> list[Path]:
    """Write `folder`/`title`.{md,csv,tex,png} and return the paths; png only with matplotlib."""
    table, lines = markdown_table(frame), "".join(f"- {_escape(note)}\n" for note in notes)
    markdown = f"# {_escape(title)}\n\n{table}\n{lines}\n```\n{command}\n```\n"
    latex = _summary(frame).to_latex(index=False, escape=True)
    csv = frame.to_csv(index=False, lineterminator="\n")
    contents = {"md": markdown, "csv": csv, "tex": f"% {command}\n{latex}"}
    encoded = {suffix: text.encode() for suffix, text in contents.items()}
    encoded |= _plot(frame)
    for suffix, content in encoded.items():
        atomic_write(folder / f"{title}.{suffix}", methodcaller("write", content))
    return [folder / f"{title}.{suffix}" for suffix in encoded]


def _summary(frame: DataFrame) -> DataFrame:
    """A row of text cells per experiment: mean ± sample standard deviation over its seeds."""

    def statistic(values: Series) -> str:
        spread = f" ± {values.std():.1f}" if values.count() > 1 else ""
        return f"{values.mean():.1f}{spread}" if values.count() else "–"

    def seeds(states: Series) -> str:
        done, failed = sum(states == "finished"), sum(states == "failed")
        text = f"{done}" if done == len(states) else f"{done} of {len(states)}"
        return text + (f", {failed} failed" if failed else "")

    groups = frame.groupby("row", sort=False)
    table = groups[[]].first()
    table["params (M)"] = groups["parameters"].agg(lambda each: f"{each.iloc[0] / 1e6:.2f}")
    table["GMAC"] = groups["gmacs"].agg(lambda each: f"{each.iloc[0]:.2f}")
    metrics = [name for name in METRICS if name in frame]
    for metric in metrics:
        table[metric] = groups[metric].agg(statistic)
    table["seeds"] = groups["state"].agg(seeds)
    for name in (f"published {metric}" for metric in metrics):
        if frame[name].notna().any():
            table[name] = groups[name].agg(lambda each: statistic(each[:1]))
    return table.reset_index()


def markdown_table(frame: DataFrame) -> str:
    table = _summary(frame)
    heads, *rows = [[*map(_escape, row)] for row in [table.columns, *table.values]]
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *rows])


def _escape(text: str) -> str:
    """Markdown that shows this text."""
    return re.sub(r"([\\|_*`<\[\]])", r"\\\1", text)


def _plot(frame: DataFrame) -> dict[str, bytes]:
    """ "png": every row's AP, or PCKh: seeds, mean and deviation; beside them the published one.

    The panels have axes of their own, since a preset is another experiment. {}: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # draws with Agg, without a display
    except ImportError:
        return {}
    groups = frame.groupby("row", sort=False)
    names = [name.replace("$", r"\$") for name in groups.groups]
    metric = next(name for name in METRICS if name in frame)
    columns = [metric, f"published {metric}"]
    columns = columns[: 1 + frame[columns[1]].notna().any()]
    figure = Figure(figsize=(3 + 3 * len(columns), 1.2 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns):
        spread = groups[column].std().fillna(0)
        panel.errorbar(groups[column].mean(), range(len(names)), xerr=spread, fmt="D", capsize=3)
        panel.plot(frame[column], groups.ngroup(), "o", color="tab:blue", alpha=0.4, markersize=4)
        panel.set(title="ours" if column == metric else "published", xlabel=metric)
        panel.grid(axis="x", alpha=0.4)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return {"png": picture.getvalue()}
