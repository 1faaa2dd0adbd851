"""Run a program: arguments and config first, torch after; exit statuses and error messages."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from hrpose.engine.signals import Signals
from hrpose.ops.atomic_io import with_cure
from hrpose.programs.arguments import parse

MISTAKES = (ValueError, FileNotFoundError, FloatingPointError, OSError)
"""Errors of the user or the machine, whose message suffices; all others show a traceback."""

DEBUG = "HRPOSE_DEBUG"
"""Environment variable that, if set, adds the traceback to every error message."""

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # its warnings repeat what an error names
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # and so do those of its FFmpeg: none


def main(program: str, arguments: Sequence[str] | None = None) -> None:
    """Run tools/<program>.py with these arguments, by default the command line's.

    Errors end with their message and status 2, signals with 128 + their number: 130, 143 or 138.
    """
    logging.basicConfig(format="%(message)s")
    if os.environ.get("RANK", "0") == "0":
        logging.getLogger("hrpose").setLevel(logging.INFO)
    if not os.environ.get(DEBUG):
        warnings.showwarning = show_warning  # type: ignore[assignment]
    try:
        with Signals().installed():
            parsed = parse(program, arguments)
            importlib.import_module(f"hrpose.programs.{program}").main(*parsed)
            sys.stdout.flush()  # a full disk is an error here, not at the exit
    except MISTAKES as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(f"error: {with_cure(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(getattr(stop, "status", 130))


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
) -> None:
    """Print a warning as one line, with the package it is from if that is not hrpose."""
    parts = Path(filename).parts
    package = parts[parts.index("site-packages") + 1] if "site-packages" in parts else ""
    origin = f" of {package}" * bool(package)
    print(f"warning{origin}: {' '.join(f'{message}'.split())}", file=sys.stderr)
