"""What of a data set violates the rules of data/rules.py.

`validate` reports every violation; `require` raises at those that training or evaluation cannot
use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrpose.data.rules import ERROR, KEEP, NOTE, RULES, Rule
from hrpose.data.statistics import DatasetView
from hrpose.ops.progress import listed

EXAMPLES = 5
"""Violations that a finding lists."""


@dataclass(frozen=True)
class Finding:
    """The violations of one rule."""

    rule: str
    severity: str
    what: str
    count: int
    examples: tuple[str, ...]
    cure: str
    stops: tuple[str, ...] = ()


def validate(view: DatasetView) -> list[Finding]:
    """The violated rules, errors first."""
    labelled = int(view.is_labelled.sum())
    return violated([_apply(rule, view, labelled) for rule in RULES])


def _apply(rule: Rule, view: DatasetView, labelled: int) -> Finding:
    found = finding(rule.name, rule.severity, rule.what, rule.check(view), rule.cure)
    if found.count > rule.tolerated * labelled and rule.stops:
        return replace(found, severity=ERROR, stops=rule.stops)
    return found


def require(view: DatasetView, stage: str, path: str | Path) -> list[Finding]:
    """The violated rules, which do not stop this stage; ValueError with those that do.

    stage: TRAINING or EVALUATION   path: of the annotations, for the message
    """
    findings = validate(view)
    if stopping := [found for found in findings if stage in found.stops]:
        lines = [f"{path}: {_in_a_line(found)}" for found in stopping]
        raise ValueError("\n".join([*lines, "tools/check_data.py lists all of it"]))
    return findings


def _in_a_line(found: Finding) -> str:
    return f"{found.what}: {listed(found.examples, EXAMPLES, found.count)}; {found.cure}"


def summary(findings: Sequence[Finding], path: str | Path) -> str:
    """Findings that stop nothing, in one line; empty if there are none."""
    counts = ", ".join(f"{found.what} ({found.count})" for found in findings)
    return f"{path}: {counts}; tools/check_data.py lists them with their cures" if counts else ""


def finding(rule: str, severity: str, what: str, found: Iterable[str], cure: str) -> Finding:
    examples = list(found)
    return Finding(rule, severity, what, len(examples), tuple(examples[:EXAMPLES]), cure)


def violated(findings: Iterable[Finding]) -> list[Finding]:
    """The findings with any violation, errors before notes."""
    return sorted((f for f in findings if f.count), key=lambda each: each.severity != ERROR)


def compare_splits(first: DatasetView, second: DatasetView) -> list[Finding]:
    """Images that two splits share."""
    ids, others = (
        {image.get("file_name"): number for number, image in view.images.items()}
        for view in (first, second)
    )
    names = [name for name in ids if name and name in others]
    known = [
        {name: info.digest for name, info in view.files.items() if info.digest}
        for view in (first, second)
    ]
    # Sets that both number their images from 1 share ids and names, but not pictures.
    differ = {name for name in names if len({each[name] for each in known if name in each}) == 2}
    same = [name for name in names if ids[name] == others[name] and name not in differ]
    numbers = [str(number) for number in first.images if number in second.images]
    separate = "remove them from one split: scores on images that were trained on mean nothing"
    coincidence = f"{KEEP} if the images differ"
    return violated(
        [
            finding("shared-files", ERROR, "equal files in both splits",
                    _equal_files(first, second), separate),
            finding("shared-images", ERROR, "images of one id and file name in both splits",
                    same, separate),
            finding("shared-names", NOTE, "file names in both splits", names, coincidence),
            finding("shared-ids", NOTE, "image ids in both splits", numbers, coincidence),
        ]
    )  # fmt: skip


def _equal_files(first: DatasetView, second: DatasetView) -> Iterator[str]:
    others = {info.digest: name for name, info in second.files.items() if info.digest}
    for name, info in first.files.items():
        if info.digest in others:
            yield f"{name} = {others[info.digest]}"
