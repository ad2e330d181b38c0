"""The choice between algorithms: measured once per shape and machine, remembered on disk.

Candidates are ordered by a prediction and measured in that order, the unlikely ones not at all.
What was measured is kept with everything that it depends on in its name (the spec, the processor,
the vector width, the number of threads, the sources of the kernels), so it is never wrong, only
missing. FFTW's users call this wisdom. Without it the prediction chooses.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final

from convsmith.conv.measuring import Measurement, beaten, name_of, race
from convsmith.conv.plan import ConvPlan, candidates, plan_with
from convsmith.conv.spec import ConvSpec
from convsmith.errors import UsageError
from convsmith.kernel.machine import sources_digest
from convsmith.kernel.store import Store, cache_folder, digest
from convsmith.kernel.target import Target, host
from convsmith.parallel import threads

__all__ = ["DEFAULT_TOLERANCE", "Measurement", "choice_store", "plan", "tune"]

DEFAULT_TOLERANCE: Final = 20.0
EXACT: Final = ("direct", "im2col", "pointwise", "depthwise", "planar")
"""Algorithms that sum the products of the definition, nothing else."""

_SCHEMA: Final = "convsmith.choice/3"
_UNLIKELY: Final = 2.5  # times the best candidate's predicted effort
_DOUBTFUL: Final = 8.0  # the same, for the best of another algorithm
_KEPT: Final = 1024  # decisions of this process
_EVEN: Final = 1.03  # times the least: measured again, the other one may be first
_PIECES: Final = 4  # of a thread's work: more make no difference

_lock = threading.Lock()
_decided: dict[tuple[object, ...], ConvPlan] = {}


def choice_store() -> Store:
    """Returns the store of measured choices."""
    return Store(folder=cache_folder() / "choices", suffix=".json", limit=16 << 20)


def plan(
    spec: ConvSpec,
    *,
    algorithm: str = "auto",
    tolerance: float = DEFAULT_TOLERANCE,
    tune: bool = False,
    cold: bool = False,
    target: Target | None = None,
) -> ConvPlan:
    """Returns how a convolution is best computed.

    Args:
        spec: The problem.
        algorithm: ``auto``; ``exact`` for algorithms that sum just the products of the definition;
            or the name of one.
        tolerance: The largest error that ``auto`` accepts: expected root mean square over that of
            direct convolution in float32.
        tune: Whether to measure the candidates, if this machine has not measured them before. Takes
            a second or so; without it, what was measured before counts, else a prediction.
        cold: Whether the weights come from memory in every run, as in a network whose weights are
            more than the caches hold; else the same layer runs again and again.
        target: The machine to plan for; by default this one. Another one is never measured.

    Raises:
        UsageError: If there is no such algorithm, or the tolerance is below 1.
        UnsupportedOperatorError: If the named algorithm does not take the spec.

    >>> spec = ConvSpec(size=(8, 8), channels=4, filters=4, kernel=(3, 3))
    >>> plan(spec, algorithm="exact").error_ratio
    1.0
    """
    if not tolerance >= 1:
        raise UsageError(
            f"tolerance {tolerance} is below 1, the error of direct convolution",
            remedy="give 1 or more, or algorithm='exact'",
        )
    key = (spec, algorithm, tolerance, tune, cold, target or host(), threads(), cache_folder())
    found = _decided.get(key)
    if found is None:
        found = _decide(spec, algorithm, tolerance, tune, cold, target)
        with _lock:
            if len(_decided) >= _KEPT:
                _decided.pop(next(iter(_decided)))
            _decided[key] = found
    return found


def _decide(
    spec: ConvSpec, algorithm: str, tolerance: float, tune: bool, cold: bool, target: Target | None
) -> ConvPlan:
    if not spec.batch:  # nothing to measure or to predict: as for one image
        one = spec.with_batch(1)
        return _decide(one, algorithm, tolerance, False, cold, target).with_batch(0)
    machine = target or host()
    if algorithm not in ("auto", "exact"):
        possible = [
            made for made in candidates(spec, target=machine) if made.algorithm == algorithm
        ]
        if len(possible) < 2:
            return plan_with(spec, algorithm, target=machine)
    else:
        possible = [
            made
            for made in candidates(spec, target=machine)
            if (made.algorithm in EXACT if algorithm == "exact" else made.error_ratio <= tolerance)
        ]
    measured = _remembered(spec, machine)
    if tune and target is None and not _covers(measured, possible):
        measured = _measure(spec, possible, measured)
    timed = [_with_time(made, measured, cold) for made in possible]
    return _preferred(timed) or min(possible, key=_effort)


def _preferred(possible: list[ConvPlan]) -> ConvPlan | None:
    """Returns what took the least time; of several that are even, what is in enough pieces.

    Their threads wait less where one of them is slower than the others.
    """
    timed = sorted((made.milliseconds, i) for i, made in enumerate(possible) if made.milliseconds)
    even = [possible[i] for time, i in timed if time <= _EVEN * timed[0][0]]
    enough = _PIECES * threads() if threads() > 1 else 1

    def pieces(made: ConvPlan) -> int:
        return min(enough, *(items for _, items in made.lowered.phases(made.spec.batch)))

    return max(even, key=pieces, default=None)


def tune(
    spec: ConvSpec,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    progress: Callable[[str], None] | None = None,
) -> tuple[Measurement, ...]:
    """Measures every likely candidate again and remembers the result; the fastest comes first."""
    spec = spec.with_batch(max(spec.batch, 1))
    possible = [made for made in candidates(spec) if made.error_ratio <= tolerance]
    measured = _measure(spec, possible, {}, progress)
    return tuple(sorted(measured.values(), key=lambda found: found.milliseconds))


def _effort(made: ConvPlan) -> float:
    return made.predicted_effort


def _with_time(made: ConvPlan, measured: dict[str, Measurement], cold: bool) -> ConvPlan:
    found = measured.get(name_of(made))
    if found is None:
        return made
    return replace(made, milliseconds=found.cold_milliseconds if cold else found.milliseconds)


def _likely(possible: list[ConvPlan]) -> list[ConvPlan]:
    """What is predicted to be not far behind, and the best of every algorithm that may be."""
    ordered = sorted(possible, key=_effort)
    least = ordered[0].predicted_effort
    first = {made.algorithm: made for made in reversed(ordered)}
    return [
        made
        for made in ordered
        if made.predicted_effort
        <= least * (_DOUBTFUL if made is first[made.algorithm] else _UNLIKELY)
    ]


def _covers(measured: dict[str, Measurement], possible: list[ConvPlan]) -> bool:
    """Whether measurements decide between candidates: all likely ones have one, or no chance."""
    likely = _likely(possible)
    missing = [made for made in likely if name_of(made) not in measured]
    if not missing:
        return True
    out = beaten(measured[name_of(made)] for made in likely if name_of(made) in measured)
    return all(made.algorithm in out for made in missing)


def _measure(
    spec: ConvSpec,
    possible: list[ConvPlan],
    known: dict[str, Measurement],
    progress: Callable[[str], None] | None = None,
) -> dict[str, Measurement]:
    """Measures the likely candidates that are not known, and remembers all."""
    likely = [made for made in _likely(possible) if name_of(made) not in known]
    measured = known | race(spec, likely, progress)
    _remember(spec, host(), measured)
    return measured


def _key(spec: ConvSpec, target: Target) -> str:
    return digest(
        _SCHEMA, repr(spec), target.cpu, str(target.lanes), str(threads()), sources_digest()
    )


def _remembered(spec: ConvSpec, target: Target) -> dict[str, Measurement]:
    blob = choice_store().read(_key(spec, target))
    if blob is None:
        return {}
    try:
        rows: list[dict[str, Any]] = json.loads(blob)["measured"]
        found = [Measurement(**row) for row in rows]
    except (ValueError, KeyError, TypeError):
        return {}
    return {f"{row.algorithm} {row.tiling}": row for row in found}


def _remember(spec: ConvSpec, target: Target, measured: dict[str, Measurement]) -> None:
    rows = [asdict(row) for row in measured.values()]
    text = json.dumps({"schema": _SCHEMA, "spec": str(spec), "measured": rows}, indent=1)
    choice_store().write(_key(spec, target), text.encode())
    with _lock:
        _decided.clear()
