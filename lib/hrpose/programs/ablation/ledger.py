"""How far an ablation is: kept on the disk after every row, and said on the screen."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrpose.ops.files import write_json
from hrpose.programs.ablation.checks import Size
from hrpose.programs.ablation.rows import Row
from hrpose.programs.ablation.tables import (
    FAILED,
    FINISHED,
    MISSING,
    Line,
    Table,
    Trial,
    write_tables,
)
from hrpose.programs.ablation.trials import Outcome, RowFailed, log_of


class Ledger:
    """The plan, what of it is finished, and what failed since the command was started.

    A finished row is the file rows/<key>.json of `folder`; the tables beside are made of them.
    Rows of equal key are one experiment: run once, and shown under each of their names.
    """

    def __init__(
        self,
        plan: Sequence[Row],
        sizes: Mapping[str, Size],
        folder: Path,
        stem: str,
        heading: Table,
    ):
        """stem: of the tables' names   heading: a table without its lines"""
        self.plan, self.sizes = plan, sizes
        self.folder, self.stem, self.heading = folder, stem, heading
        self.rows = {row.key: row for row in reversed(plan)}  # the first of equals stays
        self.finished = read_finished(folder, self.rows)
        self.failures: dict[str, RowFailed] = {}
        self._before = len(self.finished)
        self._began = time.monotonic()
        self._lock = threading.Lock()  # several devices end rows at once

    def waiting(self) -> list[list[Row]]:
        """What is still to do: rows of one training together, in the order of the plan."""
        shared: dict[str, dict[str, Row]] = {}
        for row in self.plan:
            if row.key not in self.finished:
                shared.setdefault(row.training_key, {}).setdefault(row.key, row)
        return [list(rows.values()) for rows in shared.values()]

    def keep(self, row: Row, outcome: Outcome, seconds: float) -> None:
        """Write down what came of a row."""
        size = self.sizes[row.name]
        record = {
            "row": row.name,
            "seed": row.seed,
            "scale": row.scale,
            "training": row.training_key,
            "options": row.options,
            "figures": outcome.figures,
            "parameters": size.parameters,
            "gmacs": size.gmacs,
            "seconds": round(seconds, 1),
            "circumstances": outcome.circumstances,
        }
        with self._lock:
            write_json(_path(self.folder, row.key), record, indent=1)
            self.finished[row.key] = record
            self.write()
            ap = 100 * outcome.figures["AP"]
            self._say(f"{row.label}: AP {ap:.1f} in {_time(seconds)}{self._left()}")

    def fail(self, row: Row, failure: RowFailed) -> None:
        """Remember that a row failed; the next start tries it again."""
        with self._lock:
            self.failures[row.key] = failure
            self.write()
            self._say(f"{row.label}: FAILED, {failure}{self._left()}")

    def say_begun(self, row: Row, device: str) -> None:
        with self._lock:
            self._say(f"{row.label}: begins on {device}, see {log_of(row)}")

    def say_skipped(self) -> None:
        """What was finished before this command was started, a line for each name."""
        seeds: dict[str, list[int]] = {}
        for row in self.plan:
            if row.key in self.finished:
                seeds.setdefault(row.name, []).append(row.seed)
        for name, done in seeds.items():
            self._say(f"{name}: finished before, seed {', '.join(map(str, done))}")

    def _say(self, text: str) -> None:
        done, total = len(self.finished) + len(self.failures), len(self.rows)
        print(f"[{done:{len(str(total))}}/{total}] {text}", flush=True)

    def _left(self) -> str:
        """How long the rest takes if it goes on as it went since the start."""
        now = len(self.finished) - self._before
        rest = len(self.rows) - len(self.finished) - len(self.failures)
        if not (now and rest):
            return ""
        return f"; about {_time((time.monotonic() - self._began) / now * rest)} left"

    def write(self) -> list[Path]:
        """The tables as they are now; the files."""
        return write_tables(self.table(), self.folder, self.stem)

    def table(self) -> Table:
        """Every name of the plan with all of its seeds."""
        named: dict[str, list[Row]] = {}
        for row in self.plan:
            named.setdefault(row.name, []).append(row)
        return self.heading._replace(lines=[self._line(rows) for rows in named.values()])

    def _line(self, rows: Sequence[Row]) -> Line:
        name, published = rows[0].name, rows[0].published
        return Line(name, self.sizes[name], [self._trial(row) for row in rows], published)

    def _trial(self, row: Row) -> Trial:
        if row.key in self.finished:
            return Trial(row.seed, row.key, FINISHED, self.finished[row.key]["figures"])
        return Trial(row.seed, row.key, FAILED if row.key in self.failures else MISSING, {})


def read_finished(folder: Path, keys: Mapping[str, Row]) -> dict[str, dict[str, Any]]:
    """key -> record of the rows that are finished."""
    paths = {key: _path(folder, key) for key in keys}
    return {key: _read(path) for key, path in paths.items() if path.is_file()}


def _path(folder: Path, key: str) -> Path:
    return folder / "rows" / f"{key}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        record["figures"]["AP"]
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{path} is no finished row; delete it, and the row is evaluated again"
        ) from None
    return record


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
