"""Processes, and threads, that help another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def begun(call: Callable[..., Result], *given: object) -> Callable[[], Result]:
    """Begin a call in a thread of its own; what is returned waits for its result, or its error."""
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(call(*given))
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=work, daemon=True).start()
    return outcome.result


def leave_stops_to_others() -> None:
    """Requests to stop are for the program alone to answer that this process helps.

    In a session of its own it is not told what a terminal or a scheduler tells all of a job.
    SIGTERM still ends it.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
