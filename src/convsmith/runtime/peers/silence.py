"""Keeps what native libraries print out of our output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

__all__ = ["silence"]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Sends everything that is written to the streams 1 and 2 of this process to nowhere.

    Libraries that print from C (MNN, when it is imported) would put their lines between ours, in
    the middle of JSON if need be. What they hold back in C's buffers is flushed before the streams
    come back.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    kept: list[tuple[int, int]] = []
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            with contextlib.suppress(OSError):  # a process may have no such stream
                kept.append((number, os.dup(number)))
                os.dup2(nowhere, number)
        os.close(nowhere)
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
