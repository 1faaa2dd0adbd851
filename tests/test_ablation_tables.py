"""What tables say of rows: means and spreads, failures, and names as they are."""

import csv
import io
import re
import statistics
import sys

import cv2
import pytest

from hrpose.programs.ablation.checks import Size
from hrpose.programs.ablation.tables import (
    FAILED,
    FINISHED,
    LATEX,
    MARKDOWN,
    MISSING,
    Line,
    Table,
    Trial,
    cells,
    to_csv,
    to_latex,
    to_markdown,
    write_tables,
)


def trial(seed, ap, state=FINISHED, **others):
    figures = {"AP": ap, **others} if state == FINISHED else {}
    return Trial(seed, f"{seed:012x}", state, figures)


def line(name, *trials, published=()):
    return Line(name, Size(28_645_331, 46.203), trials, dict(published))


def table(*lines):
    return Table("a_table", lines, "python tools/ablate.py --cfg x_y.yaml", ["100 % done."])


def row_of(markdown, name):
    """Heading -> cell of the row of a Markdown table whose name holds `name`."""
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert len({len(row) for row in split}) == 1
    (found,) = [row for row in split[2:] if name in row[0]]
    return dict(zip(split[0], found))


def test_a_row_shows_mean_and_spread_of_its_seeds_in_percent():
    aps = [0.6712, 0.6698, 0.6751]
    shown = row_of(to_markdown(table(line("w", *(trial(i, ap) for i, ap in enumerate(aps))))), "w")
    mean, spread = (100 * f(aps) for f in (statistics.mean, statistics.stdev))
    assert shown["AP"] == f"{mean:.1f} ± {spread:.1f}"
    assert shown["seeds"] == "3"
    assert (shown["params (M)"], shown["GMAC"]) == ("28.65", "46.20")


def test_a_single_seed_has_no_spread():
    assert row_of(to_markdown(table(line("w", trial(0, 0.5)))), "w")["AP"] == "50.0"


def test_the_published_figures_stand_beside_ours():
    lines = [line("a", trial(0, 0.5), published={"AP": 67.1, "AP-L": 76}), line("b", trial(0, 0.5))]
    text = to_markdown(table(*lines))
    assert row_of(text, "a")["published AP"] == "67.1"
    assert row_of(text, "a")["published AP-L"] == "76.0"
    assert row_of(text, "b")["published AP"] == MARKDOWN.nothing
    assert "published AP-M" not in row_of(text, "a")
    assert "published" not in to_markdown(table(line("b", trial(0, 0.5))))


def test_what_failed_or_is_missing_is_shown_as_such():
    lost, absent = trial(1, 0, FAILED), trial(2, 0, MISSING)
    lines = [line("some", trial(0, 0.5), lost, absent), line("bad", lost), line("late", absent)]
    text = to_markdown(table(*lines))
    assert row_of(text, "some")["AP"] == "50.0"
    assert row_of(text, "some")["seeds"] == "1 of 3, 1 failed"
    assert row_of(text, "bad")["AP"] == "failed"
    assert row_of(text, "late")["AP"] == "missing" and row_of(text, "late")["seeds"] == "0 of 1"
    assert [r["state"] for r in csv_of(*lines)] == [FINISHED, FAILED, MISSING, FAILED, MISSING]


def test_nobody_to_find_is_no_figure():
    nobody = {"AP-M": -1.0}
    lines = [line("w", trial(0, 0.5, **nobody), trial(1, 0.7, **nobody))]
    assert row_of(to_markdown(table(*lines)), "w")["AP-M"] == MARKDOWN.nothing
    assert [r["AP-M"] for r in csv_of(*lines)] == ["", ""]


def csv_of(*lines):
    return list(csv.DictReader(io.StringIO(to_csv(table(*lines)))))


def test_the_csv_has_a_record_of_every_row_and_seed_from_which_the_means_follow():
    aps = [0.6712345, 0.6698, 0.6751]
    records = csv_of(line('a "b", c', *(trial(i, ap) for i, ap in enumerate(aps))))
    assert [int(record["seed"]) for record in records] == [0, 1, 2]
    assert {record["row"] for record in records} == {'a "b", c'}
    assert len({record["hash"] for record in records}) == 3
    assert [float(r["AP"]) for r in records] == pytest.approx([100 * ap for ap in aps], abs=1e-5)
    assert records[0]["parameters"] == "28645331"


AWKWARD = r"a_b|c 50% & #1 {x} ~ ^ \ $y$ LOSS.SIGMA=[2,3]"


def test_names_are_names_in_markdown():
    text = to_markdown(table(line(AWKWARD, trial(0, 0.5)), line("z", trial(0, 0.5))))
    shown = row_of(text, "50%")["row"]
    assert re.sub(r"\\([\\|_*`<\[\]])", r"\1", shown) == AWKWARD


def test_names_are_names_in_latex():
    text = to_latex(table(line(AWKWARD, trial(0, 0.5), trial(1, 0.6)), line("z", trial(0, 0.5))))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", body[0])
    rows = [line.removesuffix(r"\\") for line in body if line.endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
        bare = re.sub(r"\\[&%$#_{}]", "", row)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"[%#_^~]", bare) and bare.count("$") % 2 == 0
        commands = set(re.findall(r"\\([a-z]+)", bare))
        known = {"pm", "textbackslash", "textasciitilde", "textasciicircum", "textbar"}
        assert commands <= known
    assert [body[i] for i in (1, 3, -2, -1)] == [
        r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert r"$55.0 \pm 7.1$" in rows[1]


def test_all_forms_have_the_same_cells():
    lines = [line("a", trial(0, 0.5), published={"AP": 1}), line("b", trial(0, 0.25))]
    markdown, latex = (cells(table(*lines), form) for form in (MARKDOWN, LATEX))
    assert [len(row) for row in markdown] == [len(row) for row in latex]
    assert [row[3] for row in markdown] == [row[3] for row in latex] == ["AP", "50.0", "25.0"]


@pytest.mark.parametrize("published", [{}, {"AP": 67.1}])
def test_every_form_is_written_and_the_plot_is_a_picture(tmp_path, published):
    lines = [
        line("a", trial(0, 0.5), trial(1, 0.6), published=published),
        line("b", trial(0, 0.5)),
        line("c", trial(0, 0, FAILED)),
        line(r"$\no_formula{$", trial(0, 0.5)),
    ]
    paths = write_tables(table(*lines), tmp_path, "gamma_0.01_bench")
    stem = "gamma_0.01_bench"
    assert [path.name for path in paths] == [f"{stem}.{s}" for s in ("md", "csv", "tex", "png")]
    picture = cv2.imread(str(tmp_path / f"{stem}.png"))
    assert min(picture.shape[:2]) > 150
    assert picture.min() < 100 < 200 < picture.max()


def test_without_matplotlib_there_is_no_plot_and_all_else(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    paths = write_tables(table(line("a", trial(0, 0.5))), tmp_path, "x")
    assert [path.suffix for path in paths] == [".md", ".csv", ".tex"]
