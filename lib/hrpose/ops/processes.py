"""Worker processes."""

from __future__ import annotations

import os
import signal


def ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGUSR1 in worker processes; only the main process handles them.

    A session of its own keeps a worker out of what a terminal or a scheduler sends to a whole job.
    SIGTERM still ends it.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
