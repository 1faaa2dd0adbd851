"""What is shown of many: a bar, or now and then a line where output is piped; names; stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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


def progress(
    items: Iterable[Item],
    title: str,
    total: int | None,
    leave: bool = True,
    note: Callable[[], str] = str,
) -> Iterator[Item]:
    """The items one by one, while stderr shows how many of `total` images are done.

    total: None: not known   leave: whether a finished bar stays on the terminal
    note: what is shown beside them, e.g. the slowest stage
    """
    if shows_bars():
        bar = tqdm(items, title, total, leave, unit="image")
        for item in bar:
            yield item
            bar.set_postfix_str(note(), refresh=False)
        return
    start = shown = time.monotonic()
    for count, item in enumerate(items):
        now = time.monotonic()
        if count and now - shown >= SECONDS:
            text = f"{title}: {count}"
            if total is not None:
                left = (now - start) / count * max(0, total - count)
                text += f" of {total} images, {tqdm.format_interval(int(left))} to go"
            text = ", ".join(filter(None, [text, note()]))
            print(text, file=sys.stderr, flush=True)
            shown = now
        yield item


class StageTimes:
    """How long each stage of overlapping work is busy, and on how many items."""

    def __init__(self, *stages: str) -> None:
        self.seconds, self.items = dict.fromkeys(stages, 0.0), dict.fromkeys(stages, 0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Work on one item, in this block; a stage has one thread."""
        begun = time.perf_counter()
        try:
            yield
            self.items[stage] += 1
        finally:
            self.seconds[stage] += time.perf_counter() - begun

    def each(self, stage: str, items: Iterable[Item]) -> Generator[Item, None, None]:
        """The items; making them is the work."""
        iterator = iter(items)
        with suppress(StopIteration):
            while True:
                with self.timed(stage):
                    item = next(iterator)
                yield item

    def slowest(self) -> str:
        return max(self.seconds, key=self.seconds.__getitem__)

    def describe(self) -> str:
        """The rate that each stage would have if it never waited for the others."""
        rates = [f"{name} {self.items[name] / max(own, 1e-9):.3g}"
                 for name, own in self.seconds.items()]  # fmt: skip
        return f"{', '.join(rates)} frames/s; slowest: {self.slowest()}"
