"""A page about one run or several: settings, curves, figures, errors and pictures of them."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrpose.engine.run_dir import plain_options
from hrpose.evaluation.analysis import AP_THRESHOLDS
from hrpose.evaluation.curves import CURVE_OKS
from hrpose.models.zoo import ZOO
from hrpose.ops.atomic_io import atomic_write
from hrpose.programs.ablation_plan import REPOSITORY, read_published
from hrpose.programs.environment import TIME_FORMAT
from hrpose.programs.error_analysis import STAGE_LABELS
from hrpose.programs.report_runs import (
    UNREADABLE,
    AnalyzedPoses,
    RecordedRun,
    analyzed_sets,
    count_gmac,
    draw_galleries,
    label_runs,
    read_run,
)
from hrpose.report.figures import draw_bars, draw_curves, draw_shares
from hrpose.report.page import Section, Table, render_page, require_packages

REPORT = "report.html"

_NO_LOSS = ("epoch", "eta", "memory")
_EVALUATED = re.compile(r"(val|ema)(_on_\w+_boxes)?/")
"""Beginning of the metrics of an evaluation in metrics.jsonl."""


def main(known: argparse.Namespace) -> None:
    output = known.output or known.runs[0] / REPORT
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; name a file, e.g. {output / REPORT}")
    start = time.perf_counter()
    size = write_report(known.runs, output)
    print(f"written to {output}: {size / 1e6:.1f} MB in {time.perf_counter() - start:.1f} s")


def write_report(folders: Sequence[Path], output: Path) -> int:
    """Write the page of these runs; returns its bytes. ValueError: a package is not installed."""
    require_packages()
    runs = [read_run(folder, label) for folder, label in zip(folders, label_runs(folders))]
    page = render_page(", ".join(run.label for run in runs), build_sections(runs))
    atomic_write(output, lambda file: file.write(page))
    return len(page)


def build_sections(runs: Sequence[RecordedRun]) -> list[Section]:
    """All parts of the page; the runs stand side by side in each."""
    figures = _figures(runs)
    sections = [_settings(runs), figures, *_curves(runs)]
    sets: dict[str, dict[str, AnalyzedPoses]] = {}
    for run in runs:
        for name, found in analyzed_sets(run):
            if isinstance(found, str):
                figures.notes.append(" ".join(filter(None, (f"{run.label}:", name, found))))
                print(f"warning: {figures.notes[-1]}", file=sys.stderr)
            else:
                sets.setdefault(name, {})[run.label] = found
    for name, analyzed in sets.items():
        of = f" of {name}" * bool(name)
        analyses = {label: poses.analysis for label, poses in analyzed.items()}
        sections += [_precision(analyses, of), _joint_errors(analyses, of), _costs(analyses, of)]
        sections.append(_groups(analyses, of))
        for label, poses in analyzed.items():
            title = f"Pictures{of}" + f": {label}" * (len(runs) > 1)
            sections.append(Section(title, galleries=draw_galleries(poses)))
    return sections


# Settings and figures -------------------------------------------------------------------------


def _settings(runs: Sequence[RecordedRun]) -> Section:
    columns = [_describe_run(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in names]
    section = Section("Settings", tables=[Table(["", *(run.label for run in runs)], rows)])
    options = [plain_options(run.config.dump()) if run.config else {} for run in runs]
    keys = sorted(set().union(*options))
    different = [key for key in keys if len({f"{each.get(key)}" for each in options}) > 1]
    if different:
        section.notes.append("Options in which the runs differ are in the second table.")
        rows = [[key, *(f"{each.get(key, '–')}" for each in options)] for key in different]
        section.tables.append(Table(["option", *(run.label for run in runs)], rows))
    prefix = len(runs) > 1
    section.notes += [f"{run.label}: " * prefix + note for run in runs for note in run.notes]
    return section


def _describe_run(run: RecordedRun) -> dict[str, str]:
    facts, config = run.facts, run.config
    versions = (f"{name} {facts[name]}" for name in ("python", "torch", "numpy") if name in facts)
    described = {
        "command": shlex.join(map(str, facts.get("command", []))),
        "commit": facts.get("git"),
        "device": ", ".join(map(str, facts.get("device", []))),
        "devices": facts.get("world_size"),
        "batch as used": facts.get("batch"),
        "learning rate as used": facts.get("learning_rate"),
        "training images or people": facts.get("images"),
        "boxes": facts.get("boxes"),
        "parameters": facts.get("parameters") and f"{facts['parameters'] / 1e6:.2f} M",
        "seed": facts.get("seed"),
        "versions": ", ".join(versions),
        "started": facts.get("started"),
        "continued": ", ".join(str(each.get("started")) for each in facts.get("continued", [])),
        "finished": facts.get("finished") or "unfinished",
        "time": _duration(facts),
    }
    if epochs := run.history.get("epoch"):
        described["epochs"] = f"{epochs[1][-1]:g} of {config.TRAIN.EPOCHS if config else '?'}"
    if config:
        data = config.DATASET
        described["network"] = f"{config.MODEL.NAME}, width {config.MODEL.WIDTH}"
        splits = f"{data.ROOT}: {data.TRAIN}, evaluated on {data.VAL}"
        described["data"] = ", ".join(map(str, data.SOURCES)) or splits
        with suppress(*UNREADABLE):
            described["GMAC"] = f"{count_gmac(config):.2f}"
    return {name: f"{value}" for name, value in described.items() if value not in (None, "")}


def _duration(facts: Mapping[str, Any]) -> str:
    """From the first start to the end, of a run that was not continued."""
    if facts.get("continued") or not facts.get("finished"):
        return ""
    with suppress(*UNREADABLE):
        ends = [time.strptime(facts[name], TIME_FORMAT) for name in ("started", "finished")]
        minutes = (time.mktime(ends[1]) - time.mktime(ends[0])) / 60
        return f"{minutes:.1f} minutes"
    return ""


def _figures(runs: Sequence[RecordedRun]) -> Section:
    section = Section("Figures")
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for run in runs:
        every = run.facts.get("all_figures") or {"val": run.facts.get("figures")}
        known = {name: each for name, each in every.items() if each} or _last_figures(run)
        rows += [(f"{run.label}, {name}", figures) for name, figures in known.items()]
        rows += _published(run)
        if not known:
            section.notes.append(f"{run.label}: never validated, so there are no figures yet")
    names = list(dict.fromkeys(name for _, figures in rows for name in figures))
    cells = [[label, *(_figure(figures.get(name)) for name in names)] for label, figures in rows]
    if cells:
        section.tables.append(Table(["", *names], cells))
        stated = any(label.startswith("published") for label, _ in rows)
        where = "are of the config as it is in configs/" if stated else "are not known"
        section.notes.append(f"Published figures, in percent, {where}.")
    return section


def _figure(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value in (None, -1) else f"{value:.3f}"


def _last_figures(run: RecordedRun) -> dict[str, dict[str, float]]:
    """Of an unfinished run, by its log."""
    last: dict[str, dict[str, float]] = {}
    for name, (_, values) in run.history.items():
        if found := _EVALUATED.match(name):
            group = last.setdefault(f"{found[0][:-1]} (last so far)", {})
            group[name[found.end() :]] = values[-1]
    return last


def _published(run: RecordedRun) -> list[tuple[str, dict[str, Any]]]:
    """What the header of the run's config states, and the sources of weights for it."""
    if run.config is None:
        return []
    name = run.config.NAME
    path = REPOSITORY / "configs" / f"{name}.yaml"
    rows: list[tuple[str, dict[str, Any]]] = []
    with suppress(*UNREADABLE):
        if stated := {key: f"{value}" for key, value in read_published(path).items()}:
            rows.append(("published (header of the config)", stated))
    for row in ZOO.values():
        if row.config == name and row.result and row.data in ("COCO", "CrowdPose"):
            rows.append((f"published (zoo:{row.name})", {"AP": row.result.partition(";")[0]}))
    return rows


def _curves(runs: Sequence[RecordedRun]) -> list[Section]:
    """Accuracy, losses, tags, and speed."""
    titles = ("Accuracy", "Losses", "Tags", "Learning rate and speed")
    groups: dict[str, dict[str, dict[str, Any]]] = {title: {} for title in titles}
    for run in runs:
        for name, curve in run.history.items():
            if group := _group_of(name):
                groups[group].setdefault(name, {})[run.label] = curve
    return [
        Section(
            f"Curves: {title}",
            figures=[draw_curves(panels, lowest=0 if title == "Accuracy" else None)],
        )
        for title, panels in groups.items()
        if panels
    ]


def _group_of(name: str) -> str:
    """The figure in which a metric of metrics.jsonl is drawn; empty: in none."""
    if name in _NO_LOSS:
        return ""
    if _EVALUATED.match(name):
        return "Accuracy" if name.rpartition("/")[2][:2] in ("AP", "PC", "AI", "CO") else ""
    if name.startswith("tag_"):
        return "Tags"
    return "Learning rate and speed" if name in ("lr", "images/s", "data_wait") else "Losses"


# Errors ---------------------------------------------------------------------------------------

Analyses = Mapping[str, Mapping[str, Any]]
"""Label of a run -> `analyze_errors`."""


def _precision(analyses: Analyses, of: str) -> Section:
    curves = {label: each["curves"] for label, each in analyses.items()}
    panels = {
        f"OKS {t}": {label: (c[t]["recall"], c[t]["precision"]) for label, c in curves.items()}
        for t in map(str, CURVE_OKS)
    }
    rows = []
    for label, each in analyses.items():
        best = each["best_f1"] or {}
        cells = [f"{best[n]:.3f}" if best else "–" for n in ("score", "f1", "precision", "recall")]
        rows.append([label, *cells])
    heads = ["best F1 at OKS .5", "from score", "F1", "precision", "recall"]
    figure = draw_curves(panels, ("recall", "precision"), lowest=0)
    return Section(f"Precision and recall{of}", tables=[Table(heads, rows)], figures=[figure])


def _joint_errors(analyses: Analyses, of: str) -> Section:
    section = Section(f"Errors of joints{of}")
    bars = {}
    for label, each in analyses.items():
        everyone, grouping = each["groups"]["all"], each["grouping"]
        bars[label] = {"all": everyone["kinds"], **each["joints"]}
        section.notes.append(
            f"{label}: {everyone['matched']} of {everyone['people']} people are matched at OKS .1; "
            f"merged: {len(grouping['merged'])} of {grouping['poses']} poses; split: "
            f"{len(grouping['split'])} of {grouping['people']} people; "
            f"{100 * grouping['foreign']:.1f} % of joints are from a pose's second person"
        )
        kinds = list(everyone["kinds"])
        rows = [[name, *(f"{n}" for n in row.values())] for name, row in bars[label].items()]
        section.tables.append(Table([label, *kinds], rows))
    section.figures.append(draw_shares(bars))
    return section


def _costs(analyses: Analyses, of: str) -> Section:
    note = "AP without these errors and those before them, and what that gains."
    section = Section(f"What the errors cost{of}", [note])
    bars: dict[str, dict[str, dict[str, float]]] = {}
    for label, each in analyses.items():
        stages, rows, before = each["groups"]["all"]["ap"], [], None
        for stage, figures in stages.items():
            gains = {n: figures[n] - before[n] if before else figures[n] for n in AP_THRESHOLDS}
            gained = [f" ({gains[n]:+.3f})" * bool(before) for n in AP_THRESHOLDS]
            cells = [f"{ap:.3f}{gain}" for ap, gain in zip(figures.values(), gained)]
            rows.append([STAGE_LABELS[stage], *cells])
            for n in AP_THRESHOLDS:
                bars.setdefault(label, {}).setdefault(n, {})[STAGE_LABELS[stage]] = max(0, gains[n])
            before = figures
        section.tables.append(Table([label, *AP_THRESHOLDS], rows))
    section.figures.append(draw_shares(bars))
    return section


def _groups(analyses: Analyses, of: str) -> Section:
    first = next(iter(analyses.values()))["groups"]
    names = [name for name, group in first.items() if group["people"]]
    rows, bars = [], {}
    for label, each in analyses.items():
        groups = {name: each["groups"][name] for name in names if name in each["groups"]}
        bars[label] = {name: max(0, group["ap"]["found"]["AP"]) for name, group in groups.items()}
        for name, group in groups.items():
            found = [_figure(value) for value in group["ap"]["found"].values()]
            counts = [f"{group[key]}" for key in ("images", "people", "matched")]
            rows.append([name, *([label] * (len(analyses) > 1)), *counts, *found])
    heads = ["group", *(["run"] * (len(analyses) > 1)), "images", "people", "matched"]
    return Section(
        f"AP by size, number of people and crowding{of}",
        tables=[Table([*heads, *AP_THRESHOLDS], rows)],
        figures=[draw_bars({"AP": bars})],
    )
