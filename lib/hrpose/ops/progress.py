"""What is shown of many: a bar, or now and then a line where the output is piped; some names."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS = 30.0
"""Between two lines of a piped output."""


def listed(items: Sequence[object], most: int = 5, total: int = 0) -> str:
    """The first items, and how many more there are: "a, b and 3 more".

    total: number of all, where `items` are only the first of them
    """
    more = (total or len(items)) - min(most, len(items))
    return ", ".join(map(str, items[:most])) + f" and {more} more" * (more > 0)


def shows_bars() -> bool:
    """Whether a bar, which is drawn anew in its line, can be seen as it is meant."""
    return sys.stderr.isatty()


def progress(items: Iterable[Item], title: str, total: int, leave: bool = True) -> Iterator[Item]:
    """The items one by one, while stderr shows how many of `total` images are done.

    leave: whether a finished bar stays on the terminal
    """
    if shows_bars():
        yield from tqdm(items, title, total, leave, unit="image")
        return
    start = shown = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - shown >= SECONDS:
            left = tqdm.format_interval(int((now - start) / count * (total - count)))
            text = f"{title}: {count} of {total} images, {left} to go"
            print(text, file=sys.stderr, flush=True)
            shown = now
        yield item
