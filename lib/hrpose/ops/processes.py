"""Processes that help another one."""

from __future__ import annotations

import os
import signal


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
