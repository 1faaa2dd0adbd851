"""Run an ablation: YAML files x a grid of options x seeds, one subprocess per training.

All state is files, so that the same command continues where it stopped:

    docs/ablations/rows/<key>.json             a finished row: options, figures, environment
    docs/ablations/<name>.{md,csv,tex,png}     the tables of these rows
    OUTPUT_DIR/ablations/<training key>/       log.txt, training.yaml and the run folders
    .../<training key>/evaluations/<row key>/  rows that differ from the training in TEST.* only
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hrpose.config.renamed import current_option
from hrpose.ops.atomic_io import read_json, write_json
from hrpose.programs.ablation_plan import (
    RESULT_NEUTRAL,
    Experiment,
    digest,
    make_plan,
    measure_networks,
    without_defaults,
)
from hrpose.programs.ablation_tables import (
    frame_of,
    markdown_table,
    reported_metrics,
    to_percent,
    write_tables,
)

ENVIRONMENT = ("git", "python", "torch", "numpy", "device", "started", "finished")
"""What a finished row keeps of the run.json of its training."""


def main(known: argparse.Namespace) -> None:
    plan = make_plan(known.cfg, known.overrides, known.seeds, known.preset)
    for replaced in filter(None, dict.fromkeys(e.replaced for e in plan)):
        print(f"--preset {known.preset} replaces in {replaced}")
    ablation = Ablation(plan, known)
    groups = ablation.groups()
    if known.list:
        print(ablation.listing(len(groups)))
        return
    # Imports torch: only when the plan is known to be right.
    from hrpose.programs.ablation_runs import check_files, run_all

    _refuse_other_table(known.output / f"{ablation.title}.md", ablation.command)
    frame_of([])  # an error before any training, if pandas is missing
    check_files([experiment for group in groups for experiment in group], known.output)
    finished = ablation.finished()
    for e in ablation.plan:
        if e.key in finished:
            ablation.report(f"{e.label}: finished before")
    if groups:
        run_all(ablation, groups)
    paths = ablation.write_tables()
    table = markdown_table(frame_of(ablation.records()))
    print(f"\n{table}\nwritten: {', '.join(map(str, paths))}")
    if ablation.failures:
        failed = "".join(f"\n  {failure}" for failure in ablation.failures.values())
        count = f"rows that failed: {len(ablation.failures)}"
        print(f"{count}; the same command retries them:{failed}", file=sys.stderr)
        sys.exit(1)


class Ablation:
    """The planned experiments, their finished rows on disk, and the failures of this start."""

    def __init__(self, plan: Sequence[Experiment], known: argparse.Namespace):
        name = known.name or known.cfg[0].resolve().stem
        self.title = name if known.preset == "full" else f"{name}_{known.preset}"
        self.plan, self.folder, self.preset = plan, known.output, known.preset
        self.command, self.notes = _portable_command(known), _notes(plan, known)
        self.failures: dict[str, str] = {}  # key -> label and reason
        finished = self.finished()
        self.sizes = measure_networks(e for e in plan if e.key not in finished)
        self.sizes |= {k: (row["parameters"], row["gmacs"]) for k, row in finished.items()}

    def finished(self) -> dict[str, dict[str, Any]]:
        """key -> row on disk. Rows are matched by their options, whatever their file is called."""
        rows, planned = {}, {e.key for e in self.plan}
        for path in sorted((self.folder / "rows").glob("*.json")):
            try:
                row = read_json(path, "row")
                pairs = (current_option(*pair) for pair in row["options"].items())
                options = dict(filter(None, pairs))
                primary = reported_metrics(options.get("DATASET.FORMAT", ""))[0]
                row["figures"][primary], row["parameters"], row["gmacs"]
                rows[digest(without_defaults(options))] = {
                    **row,
                    "hash": path.stem,
                }
            except (ValueError, LookupError, TypeError):
                raise ValueError(
                    f"{path} is not a finished row; delete it to evaluate that row again"
                ) from None
        return {key: row for key, row in rows.items() if key in planned}

    def groups(self) -> list[list[Experiment]]:
        """Unfinished experiments, each once, those that share a training together."""
        finished = self.finished()
        groups: dict[str, dict[str, Experiment]] = {}
        for e in self.plan:
            if e.key not in finished:
                groups.setdefault(e.training_key, {}).setdefault(e.key, e)
        return [list(group.values()) for group in groups.values()]

    def keep(self, e: Experiment, figures: dict[str, float], facts: dict, seconds: float) -> None:
        """Write a finished row and the tables. facts: run.json of the training"""
        primary = reported_metrics(e.config.DATASET.FORMAT)[0]
        percent = to_percent(figures[primary], primary)
        shown = "unknown" if percent is None else f"{percent:.1f}"
        text = f"{primary} {shown} in {timedelta(seconds=round(seconds))}"
        row = {
            "row": e.name,
            "seed": e.seed,
            "preset": self.preset,
            "training": e.training_key,
            "options": e.options,
            "figures": figures,
            "parameters": self.sizes[e.key][0],
            "gmacs": self.sizes[e.key][1],
            "seconds": round(seconds, 1),
            "environment": {name: facts.get(name) for name in ENVIRONMENT},
        }
        write_json(self.folder / "rows" / f"{e.key}.json", row, indent=1)
        self.write_tables()
        self.report(f"{e.label}: {text}")

    def fail(self, e: Experiment, reason: str) -> None:
        """Show a row as failed; the next start runs it again."""
        reason += f" (log: {e.folder / 'log.txt'})"
        self.failures[e.key] = f"{e.label}: {reason}"
        self.write_tables()
        self.report(f"{e.label}: FAILED, {reason}")

    def report(self, text: str) -> None:
        done, total = len(self.finished()) + len(self.failures), len({e.key for e in self.plan})
        print(f"[{done:{len(str(total))}}/{total}] {text}", flush=True)

    def records(self) -> list[dict[str, Any]]:
        """A table record for every name and seed: rows in order, each with all its seeds."""
        records, rows = [], self.finished()
        names = list(dict.fromkeys(e.name for e in self.plan))
        for e in sorted(self.plan, key=lambda e: names.index(e.name)):
            row = rows.get(e.key, {"hash": e.key, "figures": {}})
            record = {"row": e.name, "seed": e.seed, "hash": row["hash"], "state": "missing"}
            record["parameters"], record["gmacs"] = (
                self.sizes[e.key][0],
                round(self.sizes[e.key][1], 4),
            )
            if e.key in rows or e.key in self.failures:
                record["state"] = "finished" if e.key in rows else "failed"
            for name in reported_metrics(e.config.DATASET.FORMAT):
                record[name] = to_percent(row["figures"].get(name, -1), name)
                record[f"published {name}"] = e.published.get(name)
            records.append(record)
        return records

    def write_tables(self) -> list[Path]:
        frame = frame_of(self.records())
        return write_tables(frame, self.folder, self.title, self.command, self.notes)

    def listing(self, trainings: int) -> str:
        """The plan, a line for every name and seed."""
        lines, finished = [], self.finished()
        for e in self.plan:
            parameters, gmacs = self.sizes[e.key][0], round(self.sizes[e.key][1], 4)
            state = "finished" if e.key in finished else "to do"
            published = ", ".join(f"{name} {value}" for name, value in e.published.items())
            lines.append(
                f"{state:9} {e.key} {parameters / 1e6:7.2f} M {gmacs:8.2f} GMAC  {e.label}"
                + f"  (published: {published})" * bool(published)
            )
        total = len({e.key for e in self.plan})
        rest = f"{total - len(finished)} of them to do in {trainings} trainings"
        return "\n".join([*lines, f"{total} different rows, {rest}"])


def _notes(plan: Sequence[Experiment], known: argparse.Namespace) -> list[str]:
    """What a reader of the tables has to know."""
    metrics = dict.fromkeys(reported_metrics(e.config.DATASET.FORMAT)[0] for e in plan)
    notes = [
        f"{' and '.join(metrics)} in percent: mean ± sample standard deviation over the seeds. "
        "GMAC: billions of multiply-adds of one forward pass at the test's size."
    ]
    changes = ["--preset", known.preset] if known.preset != "full" else []
    changes += _result_overrides(known.overrides)
    if changes and any(e.published for e in plan):
        notes.append(
            f"Published figures are of the full experiment, without {' '.join(changes)}: ours show "
            "that rows run and how far seeds spread."
        )
    return notes


def _result_overrides(overrides: Sequence[str]) -> list[str]:
    """KEY VALUES that change results, with paths relative to the working directory."""
    pairs = zip(overrides[::2], overrides[1::2])
    words = [word for key, values in pairs if key not in RESULT_NEUTRAL for word in (key, values)]
    return [os.path.relpath(word) if os.path.isabs(word) else word for word in words]


def _portable_command(known: argparse.Namespace) -> str:
    """The command that makes the same table on any machine."""
    words = [word for path in known.cfg for word in ("--cfg", os.path.relpath(path))]
    words += ["--seeds", ",".join(map(str, known.seeds))] if known.seeds else []
    words += ["--preset", known.preset] if known.preset != "full" else []
    words += ["--name", known.name] if known.name else []
    return shlex.join(["python", "tools/ablate.py", *words, *_result_overrides(known.overrides)])


def _refuse_other_table(path: Path, command: str) -> None:
    """ValueError: the table at `path` is of a command that differs in more than its seeds."""
    line = r"^python tools/ablate\.py.*$"
    for other in re.findall(line, path.read_text(), re.MULTILINE) if path.is_file() else ():
        ours, theirs = (re.sub(r" --seeds \S+", "", each) for each in (command, other))
        if ours != theirs:
            raise ValueError(
                f"{path} is the table of another command: {other}\nChoose a --name, or an --output"
            )
