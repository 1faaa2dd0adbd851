"""Tables of an ablation: Markdown, CSV, LaTeX and a plot, from one record per row and seed.

A record is a dict: row, seed, state (finished, failed or missing), hash, parameters, gmacs, METRICS
in percent (None where unknown), and "published <metric>".
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
    from pandas import DataFrame

METRICS = ("AP", "AP50", "AP75", "AP-M", "AP-L")
PUBLISHED_METRICS = tuple(f"published {name}" for name in METRICS)


def frame_of(records: Sequence[dict[str, Any]]) -> DataFrame:
    """The records as a table. ValueError, with the cure: pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise ValueError(
            "the tables need pandas, which is not installed: pip install -e '.[ablations]'"
        ) from None
    heads = ["row", "seed", "state", "hash", "parameters", "gmacs", *METRICS, *PUBLISHED_METRICS]
    figures = dict.fromkeys([*METRICS, *PUBLISHED_METRICS], float)
    return pandas.DataFrame(list(records), columns=heads).astype(figures)


def write_tables(
    frame: DataFrame, folder: Path, title: str, command: str, notes: Sequence[str]
) -> list[Path]:
    """Write `folder`/`title`.{md,csv,tex,png} and return the paths; png only with matplotlib."""
    text = "".join(f"- {_escape_markdown(note)}\n" for note in notes)
    heading = f"# {_escape_markdown(title)}"
    markdown = f"{heading}\n\n{markdown_table(frame)}\n{text}\n```\n{command}\n```\n"
    latex = f"% {title}. \\usepackage{{booktabs}}\n% {command}\n{latex_table(frame)}"
    csv = frame.to_csv(index=False, lineterminator="\n")
    contents = {"md": markdown.encode(), "csv": csv.encode(), "tex": latex.encode()}
    picture = _plot(frame)
    contents |= {"png": picture} if picture else {}
    for suffix, content in contents.items():
        atomic_write(folder / f"{title}.{suffix}", methodcaller("write", content))
    return [folder / f"{title}.{suffix}" for suffix in contents]


def _summary(frame: DataFrame) -> DataFrame:
    """A row of text cells per experiment: mean ± sample standard deviation over its seeds."""
    groups = frame.groupby("row", sort=False)
    table = groups[["parameters", "gmacs"]].first().reset_index()
    table.columns = ["row", "params (M)", "GMAC"]
    table["params (M)"] = [f"{value / 1e6:.2f}" for value in table["params (M)"]]
    table["GMAC"] = [f"{value:.2f}" for value in table["GMAC"]]
    for metric in METRICS:
        pairs = zip(groups[metric].mean(), groups[metric].std())
        table[metric] = [
            "–" if mean != mean else f"{mean:.1f}" + (f" ± {std:.1f}" if std == std else "")
            for mean, std in pairs  # NaN, unequal to itself, is unknown
        ]
    counts = [
        (*(list(s).count(w) for w in ("finished", "failed")), len(s)) for _, s in groups.state
    ]
    table["seeds"] = [
        (f"{done}" if done == total else f"{done} of {total}")
        + (f", {failed} failed" if failed else "")
        for done, failed, total in counts
    ]
    for i, (done, failed, _) in enumerate(counts):
        if not done:
            table.loc[i, "AP"] = "failed" if failed else "missing"
    for name in PUBLISHED_METRICS:
        if frame[name].notna().any():
            values = groups[name].first()
            table[name] = ["–" if value != value else f"{value:.1f}" for value in values]
    return table


def markdown_table(frame: DataFrame) -> str:
    table = _summary(frame)
    heads, *rows = [[*map(_escape_markdown, row)] for row in [table.columns, *table.values]]
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *rows])


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|_*`<\[\]])", r"\\\1", text)


def latex_table(frame: DataFrame) -> str:
    """A tabular; the document needs \\usepackage{booktabs}."""
    table = _summary(frame)
    columns = "l" + "r" * (len(table.columns) - 1)
    text = table.to_latex(index=False, escape=True, column_format=columns)
    for letter, name in {"<": "less", ">": "greater", "|": "bar"}.items():
        text = text.replace(letter, rf"\text{name}{{}}")
    return re.sub(r"(?<= )(\S+) ± (\S+)(?= )", r"$\1 \\pm \2$", text).replace("–", "--")


def _plot(frame: DataFrame) -> bytes | None:
    """A PNG of every row's AP: seeds, mean and deviation; beside them the published AP, if any.

    The panels have axes of their own, since a preset is another experiment. None: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # draws with Agg, without a display
    except ImportError:
        return None
    groups = frame.groupby("row", sort=False)
    names, columns = list(groups.groups), ["AP", "published AP"]
    columns = [c for c in columns if c == "AP" or frame[c].notna().any()]
    figure = Figure(figsize=(3 + 3 * len(columns), 1.2 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns):
        mean, spread = groups[column].mean(), groups[column].std().fillna(0)
        panel.errorbar(mean, range(len(names)), xerr=spread, fmt="D", capsize=3)
        panel.set(title="ours" if column == "AP" else "published", xlabel="AP")
        panel.grid(axis="x", alpha=0.4)
        panel.locator_params(axis="x", nbins=6)
    panels[0].plot(frame["AP"], groups.ngroup(), "o", color="tab:blue", alpha=0.4, markersize=4)
    panels[0].set_xlabel("AP: mean, deviation, every seed")
    panels[0].set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
