"""Requests to stop: Ctrl-C, SIGTERM, and the SIGUSR1 that job schedulers send before time is up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class StopRequested(KeyboardInterrupt):
    """This process received a signal to stop. `status` is the exit status it should have."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number  # as in shells: 130, 143, 138


class Signals:
    """Raises `StopRequested` when a signal arrives, or after the block that must be completed.

    sync_only: raise only in `sync`, so that all processes stop after the same step; also set while
               a run is being stopped, so that saving is not interrupted
    """

    def __init__(self, sync_only: bool = False) -> None:
        self.sync_only = sync_only
        self._pending = 0  # number of the signal that has not been raised yet
        self._deferrals = 0  # nested blocks that must be completed

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle signals in this block, in the main thread; in others Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Complete this block before a signal is raised."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        if not self.sync_only:
            self._raise_pending()

    def sync(self, reduce_max: Callable[[int], int]) -> None:
        """Raise in all processes if any of them received a signal.

        reduce_max: this process's pending signal (0: none) -> the maximum over all processes
        """
        number = reduce_max(self._pending)  # a signal that arrives meanwhile waits for the next
        if number:
            self._pending = 0
            raise StopRequested(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        if not self.sync_only:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending and not self._deferrals:
            number, self._pending = self._pending, 0
            raise StopRequested(number)
