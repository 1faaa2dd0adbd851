"""The command line of all programs: config arguments, exit statuses, error messages."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.ops.atomic_io import with_cure

MISTAKES = (ValueError, FileNotFoundError, FloatingPointError, OSError)
"""Errors of the user or the machine, whose message suffices; all others show a traceback."""

DEBUG = "HRPOSE_DEBUG"
"""Environment variable that, if set, adds the traceback to every error message."""

INTERRUPTED = 130  # by Ctrl-C; by SIGTERM 143, by SIGUSR1 138


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--cfg FILE [KEY VALUE ...]`, to which a program adds its own arguments."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg", required=True, help="the experiment, e.g. configs/w32_512.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="options over it, e.g. TRAIN.LR 1e-3"
    )
    return parser


def parsed_config(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, CfgNode]:
    """The parsed arguments, and the config of `--cfg` with the overrides."""
    known = parser.parse_intermixed_args(arguments)
    return known, load_config(known.cfg, known.overrides)


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Decorate a `main`: errors end with their message and status 2, signals with 128 + number."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> None:
        try:
            main(arguments)
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

    return run
