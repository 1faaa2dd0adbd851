"""Run the rows of an ablation, as many at once as there are devices, and make its tables."""

from __future__ import annotations

import argparse
import os
import queue
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from threading import Event

from hrpose.builders.devices import build_devices
from hrpose.programs.ablation.budget import SCALES
from hrpose.programs.ablation.checks import check_files, measure
from hrpose.programs.ablation.ledger import Ledger
from hrpose.programs.ablation.plan import make_plan
from hrpose.programs.ablation.rows import FREE, Row
from hrpose.programs.ablation.tables import MISSING, Table, markdown_rows
from hrpose.programs.ablation.trials import (
    Outcome,
    RowFailed,
    Stopped,
    TrainingFailed,
    log_of,
    run_row,
)
from hrpose.programs.command import command

RunRow = Callable[[Row, str], Outcome]
"""(row, device) -> what came of it, or RowFailed, or Stopped."""

DESCRIPTION = """
Train and evaluate every row of an ablation and make its tables. Started again, it continues;
finished rows are kept as docs/ablations/rows/*.json. Status 1: a row failed.
"""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    known = _parser().parse_intermixed_args(arguments)
    ledger = open_ledger(known)
    if known.list:
        print(listing(ledger))
        return
    refuse_other_table(known.output / f"{ledger.stem}.md", ledger.heading.command)
    rest = [row for rows in ledger.waiting() for row in rows]
    check_files(rest)
    ledger.say_skipped()
    if rest:
        devices = [str(device) for device in build_devices(rest[0].config)]
        stop = Event()
        work_off(ledger, devices, partial(run_row, stop=stop), stop)
    written = ledger.write()
    print(f"\n{markdown_rows(ledger.table())}\nwritten: {', '.join(map(str, written))}")
    if ledger.failures:
        print(failures(ledger), file=sys.stderr)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    add = parser.add_argument
    add("--cfg", type=Path, action="append", required=True, help="a YAML or a folder; repeatable")
    add("--seeds", default="", help="e.g. 0,1,2; default: TRAIN.SEED of each config")
    add("--scale", choices=SCALES, default="full", help="bench: minutes a row on two CPU cores")
    add("--output", type=Path, default=Path("docs/ablations"), help="of finished rows and tables")
    add("--name", default="", help="of the tables; default: that of the first --cfg")
    add("--list", action="store_true", help="show the rows and how far they are, run nothing")
    add(
        "overrides",
        nargs="*",
        metavar="KEY VALUES",
        help="options over every row and over --scale; several values, e.g. LOSS.GAMMA 1,0.1, "
        "are a grid",
    )
    return parser


def open_ledger(known: argparse.Namespace) -> Ledger:
    """The plan that the arguments make, and how far it is."""
    plan = make_plan(known.cfg, known.overrides, parse_seeds(known.seeds), known.scale)
    first = known.cfg[0].resolve()
    name = known.name or (first.name if first.is_dir() else first.stem)
    stem = name if known.scale == "full" else f"{name}_{known.scale}"
    said = _effective(known.overrides)
    heading = Table(stem, (), repeated_command(known), notes(plan, known.scale, said))
    return Ledger(plan, measure(plan), known.output, stem, heading)


def refuse_other_table(path: Path, command: str) -> None:
    """ValueError: the table at `path` has rows or seeds that this command would take away."""
    text = path.read_text() if path.is_file() else ""
    before = re.search(r"^python tools/ablate\.py.*$", text, re.MULTILINE)
    if before and not _holds(command, before[0]):
        raise ValueError(
            f"{path} is the table of another command: {before[0]}\nChoose a --name, or an --output"
        )


def _holds(command: str, other: str) -> bool:
    """Whether a command runs what another does, or the same with more seeds."""
    (plain, seeds), (other_plain, other_seeds) = map(_without_seeds, (command, other))
    return plain == other_plain and other_seeds <= seeds


def _without_seeds(command: str) -> tuple[str, set[int]]:
    found = re.search(r" --seeds (\S+)", command)
    return (
        (command.replace(found[0], ""), set(parse_seeds(found[1]))) if found else (command, set())
    )


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` -> 0, 1, 2; each once"""
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(","))) if text else []
    except ValueError:
        raise ValueError(f"--seeds {text}: wanted whole numbers such as 0,1,2") from None


# Running --------------------------------------------------------------------------------------


def work_off(ledger: Ledger, devices: Sequence[str], run: RunRow, stop: Event) -> None:
    """Run all that waits, one row at a time on every device, until it is done or `stop` is set.

    Rows of one training follow each other on one device. Ctrl-C sets `stop` and waits for `run`.
    """
    waiting: queue.SimpleQueue[list[Row]] = queue.SimpleQueue()
    for rows in ledger.waiting():
        waiting.put(rows)
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            jobs = [pool.submit(_serve, device, waiting, ledger, run, stop) for device in devices]
            for job in as_completed(jobs):
                job.result()
        except KeyboardInterrupt:
            print("\nstopping; the same command continues", flush=True)
            raise
        finally:
            stop.set()


def _serve(
    device: str,
    waiting: queue.SimpleQueue[list[Row]],
    ledger: Ledger,
    run: RunRow,
    stop: Event,
) -> None:
    """What one device does: training after training, as long as any waits."""
    while not stop.is_set():
        try:
            rows = waiting.get_nowait()
            _run_all(rows, device, ledger, run)
        except (queue.Empty, Stopped):
            return


def _run_all(rows: Sequence[Row], device: str, ledger: Ledger, run: RunRow) -> None:
    """All rows of one training."""
    for place, row in enumerate(rows):
        ledger.say_begun(row, device)
        began = time.monotonic()
        try:
            outcome = run(row, device)
        except TrainingFailed as failure:
            for lost in rows[place:]:
                ledger.fail(lost, failure)
            return
        except RowFailed as failure:
            ledger.fail(row, failure)
        except (OSError, ValueError, LookupError) as error:  # a damaged file of this row alone
            ledger.fail(row, RowFailed(f"{type(error).__name__}: {error}", log_of(row)))
        else:
            ledger.keep(row, outcome, time.monotonic() - began)


# What is said ---------------------------------------------------------------------------------


def listing(ledger: Ledger) -> str:
    """The plan, a line for every row and seed."""
    lines = []
    for line in ledger.table().lines:
        size = f"{line.size.parameters / 1e6:7.2f} M {line.size.gmacs:8.2f} GMAC"
        said = ", ".join(f"{name} {value}" for name, value in line.published.items())
        lines += [
            f"{'to do' if trial.state == MISSING else trial.state:9} {trial.key} {size}  "
            f"{line.name}, seed {trial.seed}" + (f"  (published: {said})" if said else "")
            for trial in line.trials
        ]
    total, rest = len(ledger.rows), len(ledger.rows) - len(ledger.finished)
    return "\n".join([*lines, f"{total} different rows, {rest} of them to do"])


def failures(ledger: Ledger) -> str:
    """Every failed row with its reason."""
    named = [f"  {ledger.rows[key].label}: {why}" for key, why in ledger.failures.items()]
    return "\n".join(
        [f"rows that failed: {len(named)}; the same command tries them again:", *named]
    )


def repeated_command(known: argparse.Namespace) -> str:
    """The command that makes the same table anywhere: without what does not change it."""
    words = [word for place in known.cfg for word in ("--cfg", _here(place))]
    words += ["--seeds", known.seeds] if known.seeds else []
    words += ["--scale", known.scale] if known.scale != "full" else []
    words += ["--name", known.name] if known.name else []
    words += _effective(known.overrides)
    return shlex.join(["python", "tools/ablate.py", *words])


def _effective(overrides: Sequence[str]) -> list[str]:
    """The KEY VALUES that change what comes of a row, as they are written anywhere."""
    pairs = zip(overrides[::2], overrides[1::2])
    words = [word for key, values in pairs if key not in FREE for word in (key, values)]
    return [_here(word) if os.path.isabs(word) else word for word in words]


def _here(path: str | Path) -> str:
    return os.path.relpath(path)


def notes(plan: Sequence[Row], scale: str, overrides: Sequence[str]) -> list[str]:
    """What a reader of the table has to know."""
    seeds = ", ".join(map(str, dict.fromkeys(row.seed for row in plan)))
    said = [
        "AP in percent: the mean over the seeds ± their sample standard deviation. GMAC: billions "
        "of multiply-adds for one image of the test's size, looked at once.",
        f"Scale {scale}, seed {seeds}.",
    ]
    extra = [f"{key} {value}" for key, value in zip(overrides[::2], overrides[1::2])]
    published = any(row.published for row in plan)
    if published and extra and scale == "full":
        said.append(f"Published figures are of the experiment without {', '.join(extra)}.")
    if published and scale != "full":
        said.append(
            f"Published figures are of the full experiment. Scale {scale} is another one, with "
            "other data, sizes and lengths: it shows that rows run, and how far seeds spread."
        )
    return said + [f"The same experiment: {', '.join(names)}." for names in _equals(plan)]


def _equals(plan: Sequence[Row]) -> list[list[str]]:
    """Names under which one experiment stands in the plan."""
    names: dict[str, dict[str, None]] = {}
    for row in plan:
        names.setdefault(row.key, {})[row.name] = None
    equal = (tuple(shared) for shared in names.values() if len(shared) > 1)
    return [list(shared) for shared in dict.fromkeys(equal)]
