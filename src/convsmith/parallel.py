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
from contextvars import copy_context
from functools import cache
from pathlib import Path
from threading import Lock, local
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from convsmith.errors import UsageError

__all__ = [
    "cores_granted",
    "limited_threads",
    "one_blas_thread",
    "set_threads",
    "spread",
    "threads",
]

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


_chosen: int | None = None
_here = local()


def threads() -> int:
    """Returns how many threads to use.

    In this order: what :func:`set_threads` was given, the environment variable
    ``CONVSMITH_THREADS``, the cores that this process is granted. In work that :func:`spread`
    has spread, its share of them: all threads over as many as work there at the same time.

    >>> threads() >= 1
    True
    """
    granted = _granted()
    return min(granted, getattr(_here, "share", granted))


def _granted() -> int:
    if _chosen is not None:
        return _chosen
    wanted = os.environ.get("CONVSMITH_THREADS", "")
    if wanted.isascii() and wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return cores_granted()


def set_threads(count: int | None) -> None:
    """Bounds the threads that everything in convsmith uses from now on.

    Args:
        count: How many; ``None`` for the default again.

    Raises:
        UsageError: If it is no positive number.

    >>> set_threads(1)
    >>> threads()
    1
    >>> set_threads(None)
    """
    global _chosen
    if count is not None and count < 1:
        raise UsageError(
            f"{count!r} is no number of threads", remedy="give 1 or more, or None for the default"
        )
    _chosen = count


@contextmanager
def limited_threads(count: int | None) -> Iterator[int]:
    """Bounds the threads inside the block as :func:`set_threads` does; ``None`` changes nothing.

    Yields:
        How many threads there are.

    Raises:
        UsageError: If it is no positive number.

    >>> with limited_threads(1):
    ...     threads()
    1
    """
    before = _chosen
    if count is not None:
        set_threads(count)
    try:
        yield threads()
    finally:
        set_threads(before)


@cache
def cores_granted() -> int:
    """Returns how many cores this process may use: its affinity, within its group's quota.

    Read once: asking the system takes longer than a small convolution.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return min(cores, _quota() or cores)


@cache
def _quota() -> int | None:
    """Cores that the group's quota grants: read once, because every convolution asks."""
    granted = [quota for quota in (_quota_version_2(), _quota_version_1()) if quota]
    return max(1, round(min(granted))) if granted else None


def _quota_version_2() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_version_1() -> float | None:
    folder = Path("/sys/fs/cgroup/cpu")
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


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


def spread(
    work: Callable[[_Item], _Made], items: Iterable[_Item], *, singly: bool = False
) -> list[_Made]:
    """Applies ``work`` to every item, over all threads, and returns the results in order.

    Work that is spread again inside shares the threads: no more of them run than outside. What
    the caller has set for itself alone (``numpy.errstate``, context variables) holds there too.
    ``singly`` hands out one item at a time: for few that take very different times.

    >>> spread(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """
    listed = list(items)
    count = min(threads(), len(listed))
    with one_blas_thread():
        if count <= 1:
            return [work(item) for item in listed]
        # A few runs of neighbours per thread: even enough, and cheap for many small items.
        size = 1 if singly else -(-len(listed) // (4 * count))
        runs = [listed[start : start + size] for start in range(0, len(listed), size)]
        share = threads() // count
        contexts = [copy_context() for _ in runs]  # one can be entered by one thread at a time
        with ThreadPoolExecutor(count, initializer=_take, initargs=(share,)) as pool:
            made = pool.map(lambda c, run: c.run(lambda: [work(i) for i in run]), contexts, runs)
            return [one for some in made for one in some]


def _take(share: int) -> None:
    """Tells a thread how many it may use for what it spreads itself."""
    _here.share = share
