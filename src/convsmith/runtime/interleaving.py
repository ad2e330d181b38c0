"""Calls timed in turns, so that whatever else the machine does meanwhile slows all of them alike.

A turn: the input is laid ready, a pause until the threads of whoever had the turn before sleep
(some spin for ten milliseconds after their last work), runs that are not timed (one at least, and a
millisecond of them: they bring weights and images into the caches and wake the threads), and some
runs that are; their median is one sample. Turns go round, and every round begins with another call.

*Cold* is the other extreme: before every single timed run a memory larger than all caches is
written, so weights and images come from memory and the threads sleep.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from convsmith.parallel import spread, threads

__all__ = ["CLOCKS", "Clock", "Samples", "in_turns", "no_garbage", "one_by_one", "turn"]

Clock = Literal["wall", "processor"]
CLOCKS: Final[Mapping[Clock, Callable[[], float]]] = {
    "wall": time.perf_counter,
    "processor": time.process_time,
}
"""Seconds that pass, or seconds that the threads of this process compute: on a busy machine the
second says what one thread needs, however long it waited for a core."""

_PAUSE: Final = 0.003  # seconds
_PAUSES: Final = 50  # at most: a thread that never sleeps is part of somebody's way of working
_ASLEEP: Final = 0.2  # processors that the process keeps busy, at most, when its threads sleep
_WAKING: Final = 0.001  # seconds until all threads are awake
_TURN: Final = 0.008  # seconds of one turn
_MOST_RUNS: Final = 20  # of one turn
_FEW: Final = 3  # rounds of what is far behind
_FAR: Final = 8.0  # times as slow as the fastest
_NOTHING: Final[Mapping[str, Callable[[], None]]] = {}


@dataclass(frozen=True, slots=True)
class Samples:
    """Milliseconds, one number a turn.

    >>> samples = Samples((3.0, 1.0, 2.0))
    >>> samples.median, samples.spread, samples.fastest
    (2.0, 1.0, 1.0)
    """

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.milliseconds))

    @property
    def spread(self) -> float:
        """The interquartile range."""
        low, high = np.percentile(self.milliseconds, (25, 75))
        return float(high - low)

    @property
    def fastest(self) -> float:
        """The fastest turn: what it takes when nobody else is about."""
        return min(self.milliseconds)


def in_turns(
    calls: Mapping[str, Callable[[], None]],
    rounds: int,
    ready: Mapping[str, Callable[[], None]] = _NOTHING,
    clock: Clock = "wall",
) -> dict[str, Samples]:
    """Times calls against each other with warm caches.

    Args:
        calls: What to time, by name.
        rounds: Turns of each; those far behind the fastest get three.
        ready: By name, what lays the input ready, called before a turn and not timed.
        clock: What the milliseconds are.

    Returns:
        Samples by name, in the order of ``calls``.
    """
    return _rounds(calls, rounds, ready, partial(turn, clock=CLOCKS[clock]))


def one_by_one(
    calls: Mapping[str, Callable[[], None]],
    rounds: int,
    cache_bytes: int,
    ready: Mapping[str, Callable[[], None]] = _NOTHING,
    clock: Clock = "wall",
) -> dict[str, Samples]:
    """Times calls against each other with cold caches: evicted before every run.

    Args:
        calls: What to time, by name.
        rounds: Runs of each; those far behind the fastest get three.
        cache_bytes: The size of the largest cache; twice as much is written.
        ready: By name, what lays the input ready, called before the caches are evicted.
        clock: What the milliseconds are.
    """
    evict = _evictor(cache_bytes)

    def turn(call: Callable[[], None]) -> float:
        evict()
        return _timed(call, CLOCKS[clock])

    return _rounds(calls, rounds, ready, turn)


def _rounds(
    calls: Mapping[str, Callable[[], None]],
    rounds: int,
    ready: Mapping[str, Callable[[], None]],
    turn: Callable[[Callable[[], None]], float],
) -> dict[str, Samples]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with no_garbage():
        for index in range(rounds):
            first = index % max(len(names), 1)
            fastest = min((min(times) for times in taken.values() if times), default=0.0)
            for name in names[first:] + names[:first]:
                if index >= _FEW and min(taken[name]) > _FAR * fastest:
                    continue
                if name in ready:
                    ready[name]()
                taken[name].append(turn(calls[name]))
    return {name: Samples(tuple(times)) for name, times in taken.items()}


def turn(call: Callable[[], None], *, clock: Callable[[], float]) -> float:
    """Gives a call its turn, after a pause, and returns the median milliseconds of its runs."""
    _pause()
    awake = time.perf_counter() + _WAKING
    warm = _timed(call, clock)
    while time.perf_counter() < awake:
        warm = _timed(call, clock)
    runs = min(_MOST_RUNS, max(1, round(1e3 * _TURN / max(warm, 1e-3))))
    return float(np.median([_timed(call, clock) for _ in range(runs)]))


def _pause() -> None:
    """Waits until the threads of this process sleep."""
    for _ in range(_PAUSES):
        spent, began = time.process_time(), time.perf_counter()
        time.sleep(_PAUSE)
        if time.process_time() - spent < _ASLEEP * (time.perf_counter() - began):
            return


def _timed(call: Callable[[], None], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return 1e3 * (clock() - began)


@contextmanager
def no_garbage() -> Iterator[None]:
    """Keeps Python's garbage collector out of the times."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _evictor(cache_bytes: int) -> Callable[[], None]:
    """Returns what empties the caches: every thread writes its share of a large memory."""
    count = threads()
    each = -(-max(2 * cache_bytes, 64 << 20) // (4 * count))
    shares: list[NDArray[np.float32]] = [np.zeros(each, np.float32) for _ in range(count)]

    def write(share: NDArray[np.float32]) -> None:
        np.add(share, 1, out=share)

    def evict() -> None:
        spread(write, shares)

    return evict
