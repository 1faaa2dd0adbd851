"""What came of an ablation, as a table: Markdown for people, CSV for spreadsheets, LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hrpose.ops.files import write_whole
from hrpose.programs.ablation.checks import Size
from hrpose.programs.ablation.plot import plot
from hrpose.programs.ablation.rows import FIGURES

FINISHED, FAILED, MISSING = "finished", "failed", "missing"


class Trial(NamedTuple):
    """One row with one seed, and how far it is."""

    seed: int
    key: str
    state: str  # finished, failed or missing
    figures: Mapping[str, float]  # 0..1; exactly -1: nobody to find

    def percent(self, figure: str) -> float | None:
        """None: it is not known, or there is nobody to find."""
        value = self.figures.get(figure, -1.0)
        return None if value == -1 else 100 * value


class Line(NamedTuple):
    """One experiment over all of its seeds, beside what its paper says."""

    name: str
    size: Size
    trials: Sequence[Trial]
    published: Mapping[str, float]  # percent

    def values(self, figure: str) -> list[float]:
        """A figure of every seed of which it is known, in percent."""
        found = [trial.percent(figure) for trial in self.trials]
        return [value for value in found if value is not None]

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)


class Table(NamedTuple):
    """All lines of an ablation, and what a reader of them has to know."""

    title: str
    lines: Sequence[Line]
    command: str
    notes: Sequence[str]


class Form(NamedTuple):
    """How a language writes what tables need."""

    text: Callable[[str], str]  # with nothing in it that the language takes for its own
    spread: str  # of a mean and a deviation
    nothing: str


def write_tables(table: Table, folder: Path, stem: str) -> list[Path]:
    """The table in every form that it has; the files."""
    forms = {
        "md": to_markdown(table).encode(),
        "csv": to_csv(table).encode(),
        "tex": to_latex(table).encode(),
        "png": plot([(line.name, line.values("AP"), line.published) for line in table.lines]),
    }
    return [
        _written(folder / f"{stem}.{suffix}", content)
        for suffix, content in forms.items()
        if content is not None
    ]


def _written(path: Path, content: bytes) -> Path:
    write_whole(path, lambda file: file.write(content))
    return path


# Cells ----------------------------------------------------------------------------------------


def cells(table: Table, form: Form) -> list[list[str]]:
    """A row of headings, then one of every line."""
    known = [name for name in FIGURES if any(name in line.published for line in table.lines)]
    heads = ["row", "params (M)", "GMAC", *FIGURES, "seeds", *(f"published {n}" for n in known)]
    rows = [[*_our_cells(line, form), *_published_cells(line, known, form)] for line in table.lines]
    return [[form.text(head) for head in heads], *rows]


def _our_cells(line: Line, form: Form) -> list[str]:
    size = [f"{line.size.parameters / 1e6:.2f}", f"{line.size.gmacs:.2f}"]
    done = line.count(FINISHED)
    figures = [_mean(line.values(name), form) for name in FIGURES]
    if not done:
        figures[0] = FAILED if line.count(FAILED) else MISSING
    return [form.text(line.name), *size, *figures, _seeds(line)]


def _mean(values: Sequence[float], form: Form) -> str:
    """The mean with one decimal and, over several seeds, their deviation."""
    if not values:
        return form.nothing
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return form.spread.format(f"{mean:.1f}", f"{statistics.stdev(values):.1f}")


def _seeds(line: Line) -> str:
    """3, or 1 of 3, 1 failed"""
    done, failed, total = line.count(FINISHED), line.count(FAILED), len(line.trials)
    whole = f"{done} of {total}" if done < total else f"{total}"
    return f"{whole}, {failed} failed" if failed else whole


def _published_cells(line: Line, names: Sequence[str], form: Form) -> list[str]:
    return [f"{line.published[n]:.1f}" if n in line.published else form.nothing for n in names]


# Markdown -------------------------------------------------------------------------------------


def _markdown_text(text: str) -> str:
    return "".join(f"\\{letter}" if letter in r"\|_*`<[]" else letter for letter in text)


MARKDOWN = Form(_markdown_text, "{} ± {}", "–")


def markdown_rows(table: Table) -> str:
    """The table alone."""
    heads, *rows = cells(table, MARKDOWN)
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, rule, *rows])


def to_markdown(table: Table) -> str:
    """The table, what it shows, and how to make it again."""
    notes = "".join(f"- {_markdown_text(note)}\n" for note in table.notes)
    title = _markdown_text(table.title)
    return f"# {title}\n\n{markdown_rows(table)}\n{notes}\n```\n{table.command}\n```\n"


# CSV ------------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """One record for every row and seed; figures in percent, those that are missing empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["row", "seed", "state", "hash", "parameters", "gmacs", *FIGURES]
    writer.writerow([*heads, *(f"published {name}" for name in FIGURES)])
    for line in table.lines:
        for trial in line.trials:
            writer.writerow(_record(line, trial))
    return text.getvalue()


def _record(line: Line, trial: Trial) -> list[object]:
    mark = [line.name, trial.seed, trial.state, trial.key]
    size = [line.size.parameters, round(line.size.gmacs, 4)]
    ours = [trial.percent(name) for name in FIGURES]
    figures = ["" if value is None else round(value, 6) for value in ours]
    return [*mark, *size, *figures, *(line.published.get(name, "") for name in FIGURES)]


# LaTeX ----------------------------------------------------------------------------------------

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}


def _latex_text(text: str) -> str:
    return "".join(_COMMANDS.get(letter, letter) for letter in text)


LATEX = Form(_latex_text, r"${} \pm {}$", "--")


def to_latex(table: Table) -> str:
    """A tabular; the document needs \\usepackage{booktabs}."""
    heads, *rows = cells(table, LATEX)
    return "\n".join(
        [
            rf"% {table.title}. \usepackage{{booktabs}}",
            f"% {table.command}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            _latex_row(heads),
            r"\midrule",
            *map(_latex_row, rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_row(row: Sequence[str]) -> str:
    return rf"{' & '.join(row)} \\"
