"""What all commands share: their arguments, and errors that a person can read."""

from __future__ import annotations

import argparse
import functools
import sys
import traceback
from collections.abc import Callable, Sequence

from yacs.config import CfgNode

from hrpose.config import load_config
from hrpose.ops.atomic_io import with_cure

MISTAKES = (ValueError, FileNotFoundError, FloatingPointError, OSError)
"""Errors whose message says all that the user needs; others are ours and show where they arose."""

INTERRUPTED = 130  # by Ctrl-C; by SIGTERM 143, by SIGUSR1 138


def config_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--cfg FILE [KEY VALUE ...]`; add what the command has of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg", required=True, help="the experiment, e.g. configs/w32_512.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="options over it, e.g. TRAIN.LR 1e-3"
    )
    return parser


def parsed_config(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, CfgNode]:
    """The command's own arguments, and the config that `--cfg` and KEY VALUE make."""
    known = parser.parse_intermixed_args(arguments)
    return known, load_config(known.cfg, known.overrides)


def _origin(error: BaseException) -> str:
    """Where an error arose, for those who want to know."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.filename}, line {last.lineno}"


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Let a mistake end with its message and status 2, and a request to stop with 128 + signal."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> None:
        try:
            main(arguments)
            sys.stdout.flush()  # what a full disk does not take is an error here, not at the exit
        except MISTAKES as error:
            print(f"error: {with_cure(error)}\n({_origin(error)})", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            if type(stop) is KeyboardInterrupt:  # others have said what they leave
                print("interrupted", file=sys.stderr)
            sys.exit(getattr(stop, "status", INTERRUPTED))

    return run
