"""Threads that cost microseconds: a pool whose loop is itself compiled code.

A *program* is a list of phases; a phase is one kernel with its arguments and the number of its
items. :func:`run` executes the phases in order, the items of a phase in any order on all threads,
and returns when all is done: one call from Python however many phases there are.

Workers are Python threads that went once into compiled code and stay there, without the
interpreter lock. Between programs they watch for the next one for some ten microseconds and then
sleep in the kernel, so they cost nothing while other libraries' threads (PyTorch's, say) work. A
phase counts finished *items*, not arrived threads: a worker that wakes late or loses its core
holds up nobody, it finds the items gone. Which thread runs an item changes no result.

The system may wake two threads on the same core and needs milliseconds to notice that another one
is idle. So a worker that finds itself where a member before it is (Linux) moves away from all of
them, and is free to go anywhere again after that.

One program has the pool at a time. Another Python thread that runs a program meanwhile does it
alone, on itself, with the same result. A forked child has no workers and starts its own when it
needs them.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from convsmith.kernel.pool_code import CORES, PHASE_WORDS, POOL_WORDS, pool_code
from convsmith.parallel import threads

__all__ = ["Phase", "Program", "run"]

Phase = tuple[int, int, int]
"""Address of a kernel, address of its arguments, number of items."""


_ADDRESS, _WORD = ctypes.c_void_p, ctypes.c_int64


@cache
def _alone() -> ctypes._CFunctionType:
    return ctypes.CFUNCTYPE(None, _ADDRESS, _WORD)(pool_code().address("alone"))


@cache
def _run() -> ctypes._CFunctionType:
    kind = ctypes.CFUNCTYPE(None, _ADDRESS, _ADDRESS, _WORD, _WORD)
    return kind(pool_code().address("run"))


class _Pool:
    """Workers, and the memory through which they are spoken to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory = np.zeros(POOL_WORDS + 16, dtype=np.int64)
        start = -self.memory.ctypes.data % 128
        self.address = self.memory.ctypes.data + start
        self.memory[start // 8 + CORES :] = -1  # nobody's core is known
        self.workers: list[threading.Thread] = []

    def grow(self, count: int) -> None:
        """Starts workers until there are ``count`` besides the caller."""
        serve = ctypes.CFUNCTYPE(None, _ADDRESS, _WORD)(pool_code().address("serve"))
        while len(self.workers) < count:
            index = len(self.workers) + 1
            worker = threading.Thread(
                target=serve, args=(self.address, index), name=f"convsmith-{index}", daemon=True
            )
            worker.start()
            self.workers.append(worker)

    def stop(self) -> None:
        """Ends the workers."""
        if self.workers:
            ctypes.CFUNCTYPE(None, _ADDRESS)(pool_code().address("stop"))(self.address)
            for worker in self.workers:
                worker.join()
            self.workers = []


_pool = _Pool()


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


@atexit.register
def _stop() -> None:
    _pool.stop()


class Program:
    """Phases ready to run, again and again.

    The arguments that the phases point to are the caller's; a program runs on one Python thread at
    a time, because its counters are in its own memory.
    """

    __slots__ = ("_memory", "address", "count")

    def __init__(self, phases: Iterable[Phase]) -> None:
        rows = list(phases)
        self._memory = np.zeros((len(rows) + 1) * PHASE_WORDS, dtype=np.int64)
        start = -self._memory.ctypes.data % 128 // 8
        table: NDArray[np.int64] = self._memory[start : start + len(rows) * PHASE_WORDS]
        table = table.reshape(len(rows), PHASE_WORDS)
        for row, phase in zip(table, rows, strict=True):
            row[:3] = phase
        self.address = self._memory.ctypes.data + 8 * start
        self.count = len(rows)


def run(program: Program, members: int | None = None) -> None:
    """Runs a program on the pool, or alone where the pool is busy or one thread is wanted.

    Args:
        program: The phases.
        members: How many threads; by default :func:`convsmith.parallel.threads`.
    """
    wanted = threads() if members is None else members
    pool = _pool
    if wanted > 1 and pool.lock.acquire(blocking=False):
        try:
            if len(pool.workers) < wanted - 1:
                pool.grow(wanted - 1)
            _run()(pool.address, program.address, program.count, wanted)
        finally:
            pool.lock.release()
    else:
        _alone()(program.address, program.count)
