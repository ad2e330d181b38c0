"""Measured time of whole networks: ONNX files in ONNX Runtime, graphs in several runtimes.

Networks are timed in turns (A B A B ...), so that whatever else the machine does meanwhile
slows all of them alike, and compared round by round: a ratio says more than two medians.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.parallel import limited_threads
from convsmith.parallel import threads as available_threads
from convsmith.runtime.interleaving import CLOCKS, Clock, no_garbage, turn
from convsmith.runtime.runtimes import RUNTIMES, Job, Runtime
from convsmith.runtime.sessions import onnxruntime as _onnxruntime
from convsmith.runtime.sessions import open_session as _session
from convsmith.runtime.sessions import run_session as _run

__all__ = ["Timing", "compare", "networks", "outputs"]

Array = npt.NDArray[Any]

LEAST_ROUNDS = 9
"""How often every network runs, however long that takes."""

MOST_ROUNDS = 200
"""How often every network runs at most, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a network took, run by run.

    Attributes:
        samples: Milliseconds of every run, in order.
        engine: What ran it.
        version: The engine's version.
        threads: How many threads it had.
        shapes: The shape of every input.

    >>> timing = Timing(samples=(3.0, 1.0, 2.0), engine="none", version="0", threads=1, shapes={})
    >>> timing.median, timing.minimum, timing.spread, timing.runs
    (2.0, 1.0, 1.0, 3)
    """

    samples: tuple[float, ...]
    engine: str
    version: str
    threads: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def median(self) -> float:
        """The median, in milliseconds."""
        return float(np.median(self.samples))

    @property
    def minimum(self) -> float:
        """The fastest run, in milliseconds."""
        return min(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range, in milliseconds."""
        low, high = np.percentile(self.samples, (25, 75))
        return float(high - low)

    @property
    def runs(self) -> int:
        """How many runs were timed."""
        return len(self.samples)

    def ratio(self, other: Timing) -> float:
        """How many times as long as ``other`` this took: the median over the rounds.

        Both must come from one call of :func:`compare`, where they ran in turns.

        Raises:
            UsageError: If they did not.

        >>> slow = Timing(samples=(4.0, 8.0), engine="", version="", threads=1, shapes={})
        >>> fast = Timing(samples=(2.0, 4.0), engine="", version="", threads=1, shapes={})
        >>> slow.ratio(fast)
        2.0
        """
        if self.runs != other.runs:
            raise UsageError(
                f"{self.runs} and {other.runs} runs were not taken in turns",
                remedy="compare timings of one call",
            )
        return float(np.median(np.divide(self.samples, other.samples)))


def compare(
    models: Mapping[str, Path],
    inputs: Mapping[str, Array],
    *,
    repeats: int | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
) -> dict[str, Timing]:
    """Times networks against each other, in turns.

    Args:
        models: ONNX files by the name to report them under.
        inputs: One array per input; all networks take the same.
        repeats: The most rounds; each network runs once a round.
        threads: How many threads each network may use; all cores by default.
        seconds: No round starts after this time, except the first ``LEAST_ROUNDS`` (or
            ``repeats``).

    Raises:
        MissingDependencyError: If ONNX Runtime is not installed.
        SourceError: If a file is missing or ONNX Runtime cannot run it.
        DataError: If an input is missing or has the wrong size or type.
        UsageError: If ``repeats`` or ``threads`` is less than 1.
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is less than 1", remedy="give a positive number")
    count = threads or available_threads()
    most = repeats or MOST_ROUNDS
    sessions = {name: _session(path, count) for name, path in models.items()}
    for name, session in sessions.items():
        for _ in range(2):  # the first run allocates, the second finds its memory
            _run(session, inputs, models[name])
    samples: dict[str, list[float]] = {name: [] for name in models}
    begin = perf_counter()
    for done in range(most):
        if done >= LEAST_ROUNDS and perf_counter() - begin > seconds:
            break
        for name, session in sessions.items():
            start = perf_counter()
            _run(session, inputs, models[name])
            samples[name].append((perf_counter() - start) * 1e3)
    shapes = {name: array.shape for name, array in inputs.items()}
    return {
        name: Timing(
            samples=tuple(taken),
            engine="ONNX Runtime",
            version=_onnxruntime().__version__,
            threads=count,
            shapes=shapes,
        )
        for name, taken in samples.items()
    }


def networks(
    nets: Mapping[str, Graph],
    inputs: Mapping[str, Array],
    *,
    runtimes: Sequence[str] = ("convsmith", "onnxruntime"),
    modules: Mapping[str, Any] | None = None,
    repeats: int | None = None,
    threads: int | None = None,
    seconds: float = 3.0,
    tune: bool = True,
    clock: Clock = "wall",
) -> dict[str, dict[str, Timing]]:
    """Times whole networks in several runtimes against each other, all in turns.

    In every round each network has a turn in each runtime: one run that is not timed, then some
    that are; their median is its sample of that round. So the samples of a round belong together,
    and :meth:`Timing.ratio` compares any two of the result.

    Args:
        nets: Networks with weights, by the name to report them under.
        inputs: One array per input; all networks take the same.
        runtimes: Names of :data:`convsmith.runtime.runtimes.RUNTIMES`: ``convsmith`` (compiled),
            ``onnxruntime``, ``openvino``, ``torch``, ``torch channels_last``.
        modules: The torch modules of the networks, by the same names; torch runs only these.
        repeats: The most rounds.
        threads: How many threads everybody may use; all cores by default.
        seconds: No round starts after this time, except the first ``LEAST_ROUNDS`` (or
            ``repeats``).
        tune: Whether convsmith measures its candidates first, where this machine has not.
        clock: ``wall``; or ``processor``, the time for which this process computed: with one
            thread it leaves out how long a busy machine let it wait.

    Returns:
        Per network, per runtime, how long it took.

    Raises:
        MissingDependencyError: If a runtime is not installed.
        SourceError: If a runtime cannot run a network.
        DataError: If an input is missing or has the wrong size or type, or weights are absent.
        UsageError: If a runtime is unknown or a number is less than 1.

    >>> from convsmith.graph import parse
    >>> x = {"x": np.ones((1, 1, 4, 4), np.float32)}
    >>> nets = {"before": parse("1@4 > relu"), "after": parse("1@4 > relu > relu")}
    >>> timings = networks(nets, x, runtimes=["convsmith"], repeats=3, threads=1)
    >>> [(name, list(timed), timed["convsmith"].runs) for name, timed in timings.items()]
    [('before', ['convsmith'], 3), ('after', ['convsmith'], 3)]
    """
    for name, value in (("repeats", repeats), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is less than 1", remedy="give a positive number")
    for name in runtimes:
        if name not in RUNTIMES:
            raise UsageError(
                f"there is no runtime {name!r}", remedy=f"choose of {', '.join(RUNTIMES)}"
            )
    if clock not in CLOCKS:
        raise UsageError(f"there is no clock {clock!r}", remedy="choose wall or processor")
    given = {} if modules is None else modules
    calls: dict[tuple[str, str], tuple[Runtime, Callable[[], None]]] = {}
    with ExitStack() as held:
        count = held.enter_context(limited_threads(threads))
        if clock == "processor" and count > 1:
            raise UsageError(
                f"processor time of {count} threads is their sum", remedy="use threads=1, or wall"
            )
        for chosen in dict.fromkeys(runtimes):
            held.enter_context(RUNTIMES[chosen].using(count))
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="convsmith-")))
        for number, (name, net) in enumerate(nets.items()):
            file = folder / f"{number}.onnx"
            job = Job(
                net=net, file=file, module=given.get(name), inputs=inputs, threads=count, tune=tune
            )
            for chosen in dict.fromkeys(runtimes):
                runtime = RUNTIMES[chosen]
                calls[name, chosen] = (runtime, runtime.prepare(job))
        for _, call in calls.values():
            call()  # the first run allocates
        runs = {key: call for key, (_, call) in calls.items()}
        taken = _in_rounds(runs, repeats, seconds, clock)
    shapes = {name: array.shape for name, array in inputs.items()}
    return {
        name: {
            chosen: Timing(
                samples=tuple(taken[name, chosen]),
                engine=runtime.engine,
                version=runtime.version(),
                threads=count,
                shapes=shapes,
            )
            for (of, chosen), (runtime, _) in calls.items()
            if of == name
        }
        for name in nets
    }


def _in_rounds(
    calls: Mapping[tuple[str, str], Callable[[], None]],
    repeats: int | None,
    seconds: float,
    clock: Clock,
) -> dict[tuple[str, str], list[float]]:
    """Gives everybody a turn a round; every round begins with another one."""
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    order = list(calls)
    begin = perf_counter()
    with no_garbage():
        for done in range(repeats or MOST_ROUNDS):
            if done >= LEAST_ROUNDS and perf_counter() - begin > seconds:
                break
            first = done % max(len(order), 1)
            for key in order[first:] + order[:first]:
                taken[key].append(turn(calls[key], clock=CLOCKS[clock]))
    return taken


def outputs(model: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs an ONNX file once and returns its outputs by name.

    Raises:
        MissingDependencyError: If ONNX Runtime is not installed.
        SourceError: If the file is missing or ONNX Runtime cannot run it.
        DataError: If an input is missing or has the wrong size or type.
    """
    session = _session(model, available_threads())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, _run(session, inputs, model), strict=True))
