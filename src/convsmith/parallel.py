"""Work spread over the cores by Python threads, with the BLAS library kept to one thread each.

NumPy and SciPy release the interpreter lock in everything that takes long here. A BLAS library
with threads of its own underneath would fight with them for the same cores (measured: a network
evaluated on a busy 4-core machine took 36 times longer), so it is held to one thread while the
work is spread, and gets its setting back afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "spread", "threads"]

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def threads() -> int:
    """How many threads to use: ``CONVSMITH_THREADS``, or the cores that this process may run on.

    >>> threads() >= 1
    True
    """
    wanted = os.environ.get("CONVSMITH_THREADS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


_lock = Lock()
_depth = 0
_limit: object = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Holds the BLAS library to one thread; nested and concurrent uses count as one."""
    global _depth, _limit
    with _lock:
        if _depth == 0:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _limit.restore_original_limits()  # type: ignore[attr-defined]  # untyped library
                _limit = None


def spread(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> list[_Made]:
    """Applies ``work`` to every item, over all threads, and returns the results in order.

    >>> spread(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """
    listed = list(items)
    count = min(threads(), len(listed))
    with one_blas_thread():
        if count <= 1:
            return [work(item) for item in listed]
        # A few runs of neighbours per thread: even enough, and cheap for many small items.
        size = -(-len(listed) // (4 * count))
        runs = [listed[start : start + size] for start in range(0, len(listed), size)]
        with ThreadPoolExecutor(count) as pool:
            return [made for run in pool.map(lambda r: [work(i) for i in r], runs) for made in run]
