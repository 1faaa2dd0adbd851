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


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to stop. `status` is what it should exit with."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number  # as shells have it: 130, 143, 138


class Signals:
    """Raises `Stopped` as soon as a request comes, or after what must not be disturbed.

    patient: only where processes have agreed, so that all of them stop at the same step; and not at
             all once a run is being stopped
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self._number = 0  # the request that waits
        self._held = 0  # blocks that must not be disturbed

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Answer requests in this block, where that can be: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._arrive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let requests wait until the block is done, so that nothing is half done."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if not self.patient:
            self._answer()

    def agree(self, agree: Callable[[int], int]) -> None:
        """Answer what any process was asked.

        agree: the number of this process's request, or 0, to that of all
        """
        agreed = agree(self._number)  # one that comes meanwhile waits for the next time
        if agreed:
            self._number = 0
            raise Stopped(agreed)

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if not self.patient:
            self._answer()

    def _answer(self) -> None:
        if self._number and not self._held:
            number, self._number = self._number, 0
            raise Stopped(number)
