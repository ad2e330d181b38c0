"""The race between candidates: who computes one convolution fastest, by the clock.

Candidates take turns, so that a disturbance hits all alike. Their weights lie in the caches
(*warm*: the same layer again and again) or come from memory in every run (*cold*: a layer of a
network whose weights are more than the caches hold, where all others pass between two of its runs).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.plan import ConvPlan, Prepared, aligned
from convsmith.conv.spec import ConvSpec
from convsmith.kernel.target import host

__all__ = ["Measurement", "beaten", "name_of", "outgrows_caches", "race"]

_TURN: Final = 0.006  # seconds of one candidate's turn
_MOST_RUNS: Final = 50  # of one turn
_TURNS: Final = 3  # of every candidate that is not far behind
_LAST_TURNS: Final = 7  # more, of those close to the fastest
_CLOSE: Final = 1.25  # times as slow as the fastest
_FAR: Final = 2.0
_HOPELESS: Final = 3.0  # so much that another tiling would not help
_CHANCES: Final = 6  # runs of a candidate that seems far behind
_COLD_TURNS: Final = 3
_COLD_RUNS: Final = 8  # of one turn, one copy of the weights each
_EVICTING: Final = 1.5  # copies of the weights together, over the last-level cache
_MOST_COPIES: Final = 64
_SMALL: Final = 32  # weights of less than this part of that cache cost nothing to fetch
_LEAST_CACHE: Final = 8 << 20  # bytes, where the system does not say what there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one candidate took, for the spec's batch and with weights prepared before.

    Attributes:
        algorithm: Its name.
        tiling: Its tiling, as text.
        milliseconds: The median of some turns with its weights in the caches.
        cold_milliseconds: The same with weights that come from memory.
    """

    algorithm: str
    tiling: str
    milliseconds: float
    cold_milliseconds: float


def outgrows_caches(weight_bytes: int) -> bool:
    """Whether a network with so many weights finds them in memory in every run, not in caches.

    Half of the last-level cache is taken to be theirs: images pass through it as well, and weights
    that are transformed for an algorithm are more than they were.
    """
    return weight_bytes > _last_cache() // 2


def _last_cache() -> int:
    machine = host()
    return max(machine.level3, 4 * machine.level2, _LEAST_CACHE)


def name_of(made: ConvPlan) -> str:
    """Returns what tells a candidate from the others of its spec."""
    return f"{made.algorithm} {made.tiling}"


def race(
    spec: ConvSpec, likely: Sequence[ConvPlan], progress: Callable[[str], None] | None = None
) -> dict[str, Measurement]:
    """Measures candidates against each other.

    Args:
        spec: The problem.
        likely: The candidates, what is predicted to be fastest first: those that are far behind
            the ones before drop out after some runs; of an algorithm that is hopeless in one
            tiling no other one is compiled.
        progress: Called with the name of every candidate that runs.

    Returns:
        Measurements by :func:`name_of`, of those that ran.
    """
    track = _Track(spec)
    entered = []
    for made in likely:
        if made.algorithm in track.hopeless:
            continue
        if progress is not None:
            progress(name_of(made))
        track.enter(made)
        entered.append(made)
    warm = track.warm()
    cold = track.cold(warm)
    return {
        name_of(made): Measurement(
            algorithm=made.algorithm,
            tiling=str(made.tiling),
            milliseconds=1e3 * warm[name_of(made)],
            cold_milliseconds=1e3 * cold[name_of(made)],
        )
        for made in entered
    }


def beaten(measured: Iterable[Measurement]) -> frozenset[str]:
    """Returns the algorithms whose other tilings need no measurement: they are too far behind.

    By less than made them drop out, where they had some runs only.
    """
    fastest: dict[str, float] = {}
    for one in measured:
        fastest[one.algorithm] = min(one.milliseconds, fastest.get(one.algorithm, math.inf))
    least = min(fastest.values(), default=0.0)
    return frozenset(name for name, time in fastest.items() if time > _FAR * least)


class _Track:
    """One convolution's input and output, and those who run for it."""

    def __init__(self, spec: ConvSpec) -> None:
        random = np.random.default_rng(0)
        self.x = aligned(math.prod(spec.input_shape)).reshape(spec.input_shape)
        self.x[...] = random.standard_normal(spec.input_shape, np.float32)
        self.weights: NDArray[Any] = random.standard_normal(spec.weight_shape, np.float32)
        self.bias = np.zeros(spec.filters, np.float32) if spec.bias else None
        self.out = aligned(math.prod(spec.output_shape)).reshape(spec.output_shape)
        self.residual = np.zeros_like(self.out) if spec.residual else None
        self.ready: dict[str, Prepared] = {}
        self.taken: dict[str, float] = {}  # seconds, of those that dropped out
        self.hopeless: set[str] = set()  # algorithms
        self.least = math.inf

    def once(self, prepared: Prepared) -> float:
        began = time.perf_counter()
        prepared(self.x, self.out, residual=self.residual)
        return time.perf_counter() - began

    def enter(self, made: ConvPlan) -> None:
        """Prepares a candidate; one that is far behind has its measurement at once."""
        prepared = made.prepare(self.weights, self.bias)
        runs = [self.once(prepared)]
        while len(runs) < _CHANCES and min(runs) > _FAR * self.least:
            runs.append(self.once(prepared))  # the first ones find neither weights nor code
        if min(runs) > _FAR * self.least:
            self.taken[name_of(made)] = min(runs)
            if min(runs) > _HOPELESS * self.least:
                self.hopeless.add(made.algorithm)
        else:
            self.ready[name_of(made)] = prepared
        self.least = min(self.least, *runs)

    def warm(self) -> dict[str, float]:
        """Returns seconds by name: what decides is the median of ten turns of the close ones."""
        turns: dict[str, list[float]] = {name: [] for name in self.ready}

        def turn(name: str) -> None:
            prepared = self.ready[name]
            self.once(prepared)  # brings its weights into the caches
            runs = [self.once(prepared)]
            while sum(runs) < _TURN and len(runs) < _MOST_RUNS:
                runs.append(self.once(prepared))
            turns[name].append(median(runs))

        for _ in range(_TURNS):
            for name in turns:
                turn(name)
        fastest = min((median(times) for times in turns.values()), default=0.0)
        last = [name for name in turns if median(turns[name]) <= _CLOSE * fastest]
        for _ in range(_LAST_TURNS if len(last) > 1 else 0):
            for name in last:
                turn(name)
        return self.taken | {name: median(times) for name, times in turns.items()}

    def cold(self, warm: dict[str, float]) -> dict[str, float]:
        """Returns seconds by name, with weights from memory where there are many.

        Copies of the weights take turns, more of them than the caches hold; input and output stay
        where they are, as if the layer before had just been run.
        """
        cache = _last_cache()
        racing = {
            name: prepared
            for name, prepared in self.ready.items()
            if warm[name] <= _FAR * min(warm.values())
        }
        if all(prepared.weight_bytes < cache // _SMALL for prepared in racing.values()):
            return warm
        runners: dict[str, Iterator[Prepared]] = {}
        for name, prepared in racing.items():
            count = min(math.ceil(_EVICTING * cache / prepared.weight_bytes), _MOST_COPIES)
            copies = [prepared, *(prepared.copied() for _ in range(count - 1))]
            for one in copies:
                self.once(one)
            runners[name] = cycle(copies)
        turns: dict[str, list[float]] = {name: [] for name in racing}
        for _ in range(_COLD_TURNS):
            for name, runner in runners.items():
                turns[name].append(median(self.once(next(runner)) for _ in range(_COLD_RUNS)))
        return warm | {name: median(times) for name, times in turns.items()}
