"""A fault that was found, and how faults are looked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hrpose.data.survey import Marks

ERROR, NOTE = "error", "note"
"""What training or evaluation would stop at or be misled by; and what is worth knowing."""

SHOWN = 5
"""Culprits that a finding names."""

Find = Callable[[Marks], Iterable[str]]
"""Names of the culprits."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd."""

    level: str  # ERROR or NOTE
    what: str
    count: int
    examples: tuple[str, ...]
    cure: str


class Check(NamedTuple):
    """A kind of fault: how grave it is, what it is, who the culprits are, and the cure."""

    level: str
    what: str
    find: Find
    cure: str


def found(level: str, what: str, culprits: Iterable[str], cure: str) -> Finding:
    names = list(culprits)
    return Finding(level, what, len(names), tuple(names[:SHOWN]), cure)


def graver_first(results: Iterable[Finding]) -> list[Finding]:
    """Those that found anybody, errors before notes."""
    return sorted((f for f in results if f.count), key=lambda finding: finding.level != ERROR)


def called(person: Mapping[str, Any]) -> str:
    return f"annotation {person.get('id')} of image {person.get('image_id')}"


def repeated(listed: str, field: str) -> Find:
    """Values of a field that stand more than once in a list of the annotation file."""

    def find(marks: Marks) -> list[str]:
        values = Counter(entry[field] for entry in marks.truth[listed] if field in entry)
        return [f"{value} ({count} times)" for value, count in values.items() if count > 1]

    return find
