"""Measured time, with ONNX Runtime on the CPU.

Networks are timed in turns (A B A B ...), so that whatever else the machine does meanwhile
slows all of them alike, and compared round by round: a ratio says more than two medians.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.errors import DataError, MissingDependencyError, SourceError, UsageError
from convsmith.parallel import threads as available_threads

__all__ = ["Timing", "compare", "outputs"]

Array = npt.NDArray[Any]

LEAST_ROUNDS = 9
"""How often every network runs, however long that takes."""

MOST_ROUNDS = 200
"""How often every network runs at most, unless the caller says otherwise."""

_ERRORS_ONLY = 3


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


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise MissingDependencyError(
            "ONNX Runtime is not installed",
            remedy="pip install 'convsmith[onnxruntime]'",
        ) from None


@contextlib.contextmanager
def _its_errors(model: Path) -> Iterator[None]:
    """Turns ONNX Runtime's exceptions, which share no base of their own, into ours."""
    errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    kinds: tuple[type[Exception], ...] = (
        RuntimeError,
        ValueError,
        *(k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)),
    )
    try:
        yield
    except kinds as error:
        reason = str(error).split(" : ")[-1].strip().splitlines() or [type(error).__name__]
        if isinstance(error, ValueError | errors.InvalidArgument):
            raise DataError(
                f"ONNX Runtime does not take the inputs ({reason[0]})",
                place=str(model),
                remedy="give arrays of the sizes and types that the network takes",
            ) from None
        raise SourceError(
            f"ONNX Runtime cannot run it ({reason[0]})",
            place=str(model),
            remedy="update onnxruntime, or go without measured times",
        ) from None


def _session(model: Path, count: int) -> Any:
    runtime = _onnxruntime()
    if not model.is_file():
        raise SourceError("there is no such file", place=str(model), remedy="check its name")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = count
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait for the next run in a busy loop would slow the network whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with _its_errors(model):
        return runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: Mapping[str, Array], model: Path) -> Sequence[Array]:
    wanted = [value.name for value in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise DataError(
            f"input {missing[0]!r} is missing",
            place=str(model),
            remedy=f"it takes {', '.join(map(repr, wanted))}",
        )
    with _its_errors(model):
        made: Sequence[Array] = session.run(None, {name: inputs[name] for name in wanted})
    return made
