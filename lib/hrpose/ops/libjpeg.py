"""Warnings of libjpeg, which decodes damaged files and writes to C's stderr that they are.

In the GNU C library, stderr is a variable. It is replaced by a stream that calls back, within the
thread that decodes: good files pay nothing, and threads do not mix. (Turning file descriptor 2 to a
file would be for all threads at once, and cost the last words of a process that dies.)
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

DAMAGE = (b"Corrupt JPEG data", b"Premature end of JPEG file")
"""How its warnings begin; pixels after the place may be shifted or grey."""

_heard = threading.local()


def with_damage(decode: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """What `decode` returns, and whether a JPEG in it is damaged.

    Without the GNU C library it is never called damaged.
    """
    _listen()
    _heard.damage = False
    image = decode()
    return image, _heard.damage


def _write(_: Any, text: Any, size: int) -> int:
    """Of a stream: note warnings of damage, pass on everything else."""
    if text[:size].startswith(DAMAGE):
        _heard.damage = True
    else:
        os.write(2, text[:size])
    return size


_WRITE = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t
)


class _Functions(ctypes.Structure):
    """cookie_io_functions_t"""

    _fields_ = [
        *(("read", ctypes.c_void_p), ("write", _WRITE)),
        *(("seek", ctypes.c_void_p), ("close", ctypes.c_void_p)),
    ]


_FUNCTIONS = _Functions(write=_WRITE(_write))


@lru_cache(maxsize=1)
def _listen() -> None:
    """Replace C's stderr until Python ends."""
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.fopencookie.restype = ctypes.c_void_p
    stderr = ctypes.c_void_p.in_dll(library, "stderr")
    before = stderr.value
    stream = ctypes.c_void_p(library.fopencookie(None, b"w", _FUNCTIONS))
    library.setvbuf(stream, None, 2, 0)  # _IONBF: a warning is written at once
    stderr.value = stream.value
    atexit.register(lambda: setattr(stderr, "value", before))
