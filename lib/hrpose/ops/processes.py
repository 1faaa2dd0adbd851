"""Worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def begin_worker() -> None:
    """Ignore requests to stop, and end as soon as the process that started this one is gone.

    Only the main process handles SIGINT and SIGUSR1. A session of its own keeps a worker out of
    what a terminal or a scheduler sends to a whole job; SIGTERM still ends it. SIGKILL leaves the
    main process no time to end its workers, and one that waits for work would wait forever.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()  # type: ignore[union-attr]
        os._exit(1)

    if parent:
        threading.Thread(target=end_with_parent, daemon=True).start()
