"""Tables of an ablation: Markdown, CSV, LaTeX and a plot, from one record per row and seed.

A record is a dict: row, seed, state (finished, failed or missing), hash, parameters, gmacs, METRICS
in percent ("" where unknown), and "published <metric>".
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

from hrpose.ops.atomic_io import atomic_write

METRICS = ("AP", "AP50", "AP75", "AP-M", "AP-L")
PUBLISHED_METRICS = tuple(f"published {name}" for name in METRICS)

FinishedRow = dict[str, Any]


def write_tables(
    records: Sequence[FinishedRow], folder: Path, title: str, command: str, notes: Sequence[str]
) -> list[Path]:
    """Write the tables as `folder`/`title`.{md,csv,tex,png}; the files."""
    text = "".join(f"- {_markdown(note)}\n" for note in notes)
    markdown = f"# {_markdown(title)}\n\n{markdown_table(records)}\n{text}\n```\n{command}\n```\n"
    contents = {
        "md": markdown.encode(),
        "csv": _csv(records).encode(),
        "tex": _latex_table(records, f"% {title}. \\usepackage{{booktabs}}\n% {command}").encode(),
        "png": _plot(records),
    }
    paths = []
    for suffix, content in contents.items():
        if content is not None:
            paths.append(folder / f"{title}.{suffix}")
            atomic_write(paths[-1], partial(_write, content))
    return paths


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _by_row(records: Sequence[FinishedRow]) -> Iterator[tuple[str, list[FinishedRow]]]:
    return ((name, list(group)) for name, group in groupby(records, lambda r: r["row"]))


def _values(records: Sequence[FinishedRow], metric: str) -> list[float]:
    return [record[metric] for record in records if record[metric] != ""]


def _cells(records: Sequence[FinishedRow]) -> list[list[str]]:
    """A row of headings, then one row for each experiment: mean ± deviation over its seeds."""
    published = [name for name in PUBLISHED_METRICS if any(_values(records, name))]
    table = [["row", "params (M)", "GMAC", *METRICS, "seeds", *published]]
    for name, group in _by_row(records):
        first, states = group[0], [record["state"] for record in group]
        metrics = []
        for values in (_values(group, metric) for metric in METRICS):
            mean = f"{statistics.fmean(values):.1f}" if values else "–"
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            metrics.append(mean + spread)
        done, failed = states.count("finished"), states.count("failed")
        if not done:
            metrics[0] = "failed" if failed else "missing"
        seeds = f"{done} of {len(group)}" if done < len(group) else f"{done}"
        seeds += f", {failed} failed" if failed else ""
        size = [f"{first['parameters'] / 1e6:.2f}", f"{first['gmacs']:.2f}"]
        theirs = ["–" if first[p] == "" else f"{first[p]:.1f}" for p in published]
        table.append([name, *size, *metrics, seeds, *theirs])
    return table


def _markdown(text: str) -> str:
    return re.sub(r"([\\|_*`<\[\]])", r"\\\1", text)


def markdown_table(records: Sequence[FinishedRow]) -> str:
    heads, *rows = [[_markdown(cell) for cell in row] for row in _cells(records)]
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *rows])


def _csv(records: Sequence[FinishedRow]) -> str:
    text = io.StringIO()
    heads = ["row", "seed", "state", "hash", "parameters", "gmacs", *METRICS, *PUBLISHED_METRICS]
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def _latex_cell(text: str) -> str:
    text = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"^(\S+) ± (\S+)$", r"$\1 \\pm \2$", text).replace("–", "--")


def _latex_table(records: Sequence[FinishedRow], comment: str) -> str:
    """A tabular; the document needs \\usepackage{booktabs}."""
    heads, *rows = [
        " & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in _cells(records)
    ]
    columns = "r" * heads.count(" & ")
    begin = [comment, rf"\begin{{tabular}}{{l{columns}}}", r"\toprule", heads, r"\midrule"]
    return "\n".join([*begin, *rows, r"\bottomrule", r"\end{tabular}", ""])


def _plot(records: Sequence[FinishedRow]) -> bytes | None:
    """A PNG of every row's AP: seeds, mean and deviation; beside them the published AP, if any.

    The panels have axes of their own, since a preset is another experiment. None: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # draws with Agg, without a display
    except ImportError:
        return None
    rows = list(_by_row(records))
    published = any(_values(records, "published AP"))
    figure = Figure(figsize=(9 if published else 6, 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 1 + published, sharey=True, squeeze=False)[0]
    for y, (_, group) in enumerate(rows):
        values = _values(group, "AP")
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.fmean(values)
            panels[0].errorbar(mean, y, xerr=spread, fmt="D", color="tab:blue", capsize=3)
            panels[0].plot(
                values, [y] * len(values), "o", color="tab:blue", alpha=0.4, markersize=4
            )
        if group[0]["published AP"] != "":
            panels[1].plot(group[0]["published AP"], y, "D", color="tab:orange")
    panels[0].set_yticks(range(len(rows)), [name.replace("$", r"\$") for name, _ in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    labels = [("ours", "AP: mean, deviation, every seed"), ("published", "AP")]
    for panel, (title, label) in zip(panels, labels):
        panel.set_title(title)
        panel.set_xlabel(label)
        panel.grid(axis="x", alpha=0.4)
        panel.locator_params(axis="x", nbins=6)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    return picture.getvalue()
