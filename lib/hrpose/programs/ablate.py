"""Run an ablation: YAML files x a grid of options x seeds, one subprocess per training.

All state is files, so that the same command continues where it stopped:

    docs/ablations/rows/<key>.json             a finished row: options, figures, environment
    docs/ablations/<name>.{md,csv,tex,png}     the tables of these rows
    OUTPUT_DIR/ablations/<training key>/       log.txt, training.yaml and the run folders
    .../<training key>/evaluations/<row key>/  rows that differ from the training in TEST.* only
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from hrpose.config.renamed import current_option
from hrpose.ops.atomic_io import write_json
from hrpose.programs.ablation_plan import (
    RESULT_NEUTRAL,
    Experiment,
    digest,
    make_plan,
    measure_networks,
    parse_seeds,
    without_defaults,
)
from hrpose.programs.ablation_tables import METRICS, frame_of, markdown_table, write_tables

ENVIRONMENT = ("git", "python", "torch", "numpy", "device", "started", "finished")
"""What a finished row keeps of the run.json of its training."""


def main(known: argparse.Namespace) -> None:
    plan = make_plan(known.cfg, known.overrides, parse_seeds(known.seeds), known.preset)
    for replaced in filter(None, dict.fromkeys(e.replaced for e in plan)):
        print(f"--preset {known.preset} replaces in {replaced}")
    # These import torch: only when the plan is known to be right.
    from hrpose.programs.ablation_runs import check_files, run_all

    ablation = Ablation(plan, known)
    groups = ablation.groups()
    if known.list:
        print(ablation.listing(groups))
        return
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


# Results --------------------------------------------------------------------------------------


class Ablation:
    """The planned experiments, their finished rows on disk, and the failures of this start."""

    def __init__(self, plan: Sequence[Experiment], known: argparse.Namespace):
        first = known.cfg[0].resolve()
        name = known.name or (first.name if first.is_dir() else first.stem)
        self.title = name if known.preset == "full" else f"{name}_{known.preset}"
        self.plan, self.folder, self.preset = plan, known.output, known.preset
        self.command, self.notes = _portable_command(known), _notes(plan, known)
        self.failures: dict[str, str] = {}  # key -> label and reason
        self._keys = {e.key for e in plan}
        finished = self.finished()
        sizes = measure_networks(e for e in plan if e.key not in finished)
        self._sizes = sizes | {k: (row["parameters"], row["gmacs"]) for k, row in finished.items()}
        self._finished_before, self._start = len(finished), time.monotonic()
        self._lock = Lock()  # several devices finish rows at once

    def finished(self) -> dict[str, dict[str, Any]]:
        """key -> row on disk. Rows are matched by their options, whatever their file is called."""
        rows = {}
        for path in sorted((self.folder / "rows").glob("*.json")):
            try:
                row = json.loads(path.read_bytes())
                row["figures"]["AP"], row["parameters"], row["gmacs"]
                options = (current_option(*pair) for pair in row["options"].items())
                known = without_defaults(dict(pair for pair in options if pair))
                rows[digest(known)] = {**row, "hash": path.stem}
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ValueError(
                    f"{path} is not a finished row; delete it to evaluate that row again"
                ) from None
        return {key: row for key, row in rows.items() if key in self._keys}

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
        parameters, gmacs = self._sizes[e.key]
        row = {
            "row": e.name,
            "seed": e.seed,
            "preset": self.preset,
            "training": e.training_key,
            "options": e.options,
            "figures": figures,
            "parameters": parameters,
            "gmacs": gmacs,
            "seconds": round(seconds, 1),
            "environment": {name: facts.get(name) for name in ENVIRONMENT},
        }
        with self._lock:
            write_json(self.folder / "rows" / f"{e.key}.json", row, indent=1)
            self.write_tables()
        duration = timedelta(seconds=round(seconds))
        self.report(f"{e.label}: AP {100 * figures['AP']:.1f} in {duration}")

    def fail(self, e: Experiment, reason: str) -> None:
        """Show a row as failed; the next start runs it again."""
        reason += f" (log: {e.folder / 'log.txt'})"
        with self._lock:
            self.failures[e.key] = f"{e.label}: {reason}"
            self.write_tables()
        self.report(f"{e.label}: FAILED, {reason}")

    def report(self, text: str) -> None:
        """Print progress and, once a row has finished, the time left at the speed so far."""
        finished, total = len(self.finished()), len(self._keys)
        done, now = finished + len(self.failures), finished - self._finished_before
        if now and done < total:
            seconds = (time.monotonic() - self._start) / now * (total - done)
            text += f"; about {timedelta(seconds=round(seconds))} left"
        print(f"[{done:{len(str(total))}}/{total}] {text}", flush=True)

    def records(self) -> list[dict[str, Any]]:
        """A table record for every name and seed: rows in order, each with all its seeds."""
        records, rows = [], self.finished()
        names = list(dict.fromkeys(e.name for e in self.plan))
        for e in sorted(self.plan, key=lambda e: names.index(e.name)):
            row = rows.get(e.key, {"hash": e.key, "figures": {}})
            unfinished = "failed" if e.key in self.failures else "missing"
            parameters, gmacs = self._sizes[e.key]
            record = {
                "key": e.key,
                "row": e.name,
                "seed": e.seed,
                "state": "finished" if e.key in rows else unfinished,
                "hash": row["hash"],
                "parameters": parameters,
                "gmacs": round(gmacs, 4),
            }
            for name in METRICS:
                value = row["figures"].get(name, -1)  # COCO's -1: no ground truth
                record[name] = None if value == -1 else round(100 * value, 6)
                record[f"published {name}"] = e.published.get(name)
            records.append(record)
        return records

    def write_tables(self) -> list[Path]:
        frame = frame_of(self.records())
        return write_tables(frame, self.folder, self.title, self.command, self.notes)

    def listing(self, groups: Sequence[Sequence[Experiment]]) -> str:
        """The plan, a line for every name and seed."""
        lines = []
        for r in self.records():
            state = "finished" if r["state"] == "finished" else "to do"
            size = f"{r['parameters'] / 1e6:7.2f} M {r['gmacs']:8.2f} GMAC"
            figures = {name: r[f"published {name}"] for name in METRICS}
            published = ", ".join(f"{name} {v}" for name, v in figures.items() if v is not None)
            line = f"{state:9} {r['key']} {size}  {r['row']}, seed {r['seed']}"
            lines.append(line + (f"  (published: {published})" if published else ""))
        rest = f"{sum(map(len, groups))} of them to do in {len(groups)} trainings"
        return "\n".join([*lines, f"{len(self._keys)} different rows, {rest}"])


def _notes(plan: Sequence[Experiment], known: argparse.Namespace) -> list[str]:
    """What a reader of the tables has to know."""
    seeds = ", ".join(map(str, dict.fromkeys(e.seed for e in plan)))
    notes = [
        "AP in percent: mean ± sample standard deviation over the seeds. GMAC: billions of "
        "multiply-adds of one forward pass at the test's size.",
        f"Preset {known.preset}, seed {seeds}.",
    ]
    words = _result_overrides(known.overrides)
    extra = ", ".join(f"{key} {values}" for key, values in zip(words[::2], words[1::2]))
    published = any(e.published for e in plan)
    if published and extra and known.preset == "full":
        notes.append(f"Published figures are of the experiment without {extra}.")
    if published and known.preset != "full":
        notes.append(
            f"Published figures are of the full experiment. Preset {known.preset} has other data, "
            "sizes and lengths: it shows that rows run, and how far seeds spread."
        )
    names: dict[str, dict[str, None]] = {}
    for e in plan:
        names.setdefault(e.key, {})[e.name] = None
    equal = dict.fromkeys(tuple(group) for group in names.values() if len(group) > 1)
    return notes + [f"The same experiment: {', '.join(group)}." for group in equal]


def _result_overrides(overrides: Sequence[str]) -> list[str]:
    """KEY VALUES that change results, with paths relative to the working directory."""
    pairs = zip(overrides[::2], overrides[1::2])
    words = [word for key, values in pairs if key not in RESULT_NEUTRAL for word in (key, values)]
    return [os.path.relpath(word) if os.path.isabs(word) else word for word in words]


def _portable_command(known: argparse.Namespace) -> str:
    """The command that makes the same table on any machine."""
    words = [word for path in known.cfg for word in ("--cfg", os.path.relpath(path))]
    words += ["--seeds", known.seeds] if known.seeds else []
    words += ["--preset", known.preset] if known.preset != "full" else []
    words += ["--name", known.name] if known.name else []
    return shlex.join(["python", "tools/ablate.py", *words, *_result_overrides(known.overrides)])


def _refuse_other_table(path: Path, command: str) -> None:
    """ValueError: the table at `path` has rows or seeds that this command would drop."""
    text = path.read_text() if path.is_file() else ""
    before = re.search(r"^python tools/ablate\.py.*$", text, re.MULTILINE)
    if not before:
        return
    option = r" --seeds (\S+)"
    seeds = [
        {seed for found in re.findall(option, words) for seed in parse_seeds(found)}
        for words in (before[0], command)
    ]
    same = re.sub(option, "", before[0]) == re.sub(option, "", command)
    if not same or not seeds[0] <= seeds[1]:
        raise ValueError(
            f"{path} is the table of another command: {before[0]}\nChoose a --name, or an --output"
        )
