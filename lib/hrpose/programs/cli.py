"""Run a program: arguments and config first, torch after; exit statuses and error messages."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from hrpose.ops.atomic_io import with_cure
from hrpose.programs.arguments import parse

MISTAKES = (ValueError, FileNotFoundError, FloatingPointError, OSError)
"""Errors of the user or the machine, whose message suffices; all others show a traceback."""

DEBUG = "HRPOSE_DEBUG"
"""Environment variable that, if set, adds the traceback to every error message."""

INTERRUPTED = 130  # by Ctrl-C; by SIGTERM 143, by SIGUSR1 138


def main(program: str, arguments: Sequence[str] | None = None) -> None:
    """Run tools/<program>.py with these arguments, by default the command line's.

    Errors end with their message and status 2, signals with 128 + their number.
    """
    logging.basicConfig(format="%(message)s")
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("hrpose").setLevel(logging.INFO)
    try:
        parsed = parse(program, arguments)
        importlib.import_module(f"hrpose.programs.{program}").main(*parsed)
        sys.stdout.flush()  # a full disk is an error here, not at the exit
    except MISTAKES as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(f"error: {with_cure(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        if type(stop) is KeyboardInterrupt:  # others have reported what they left
            print("interrupted", file=sys.stderr)
        sys.exit(getattr(stop, "status", INTERRUPTED))
