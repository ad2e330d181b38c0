"""Several budgets at once: what each costs, what it loses, and how fast it really is.

The table of candidates takes most of the time of a rewrite. It is made once here, and every budget
is chosen from it; the networks that come out run in turns with the original, all in one round, so
that their times can be compared with each other, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from convsmith.analysis import Total
from convsmith.errors import BudgetError, UsageError
from convsmith.graph import Graph
from convsmith.parallel import one_blas_thread
from convsmith.results import Progress, Result
from convsmith.rewrite.asking import check_nonlinearity
from convsmith.rewrite.forms import KEEP
from convsmith.rewrite.measuring import Stopwatch, random_inputs
from convsmith.rewrite.outcome import Rewriting
from convsmith.rewrite.planning import StrategyName, Table
from convsmith.rewrite.rewriting import check_lift, warn_without, with_timings
from convsmith.rewrite.scoring import MetricFunction, MetricName
from convsmith.rewrite.statistics import Calibration
from convsmith.rewrite.task import Merges, Task
from convsmith.rewrite.verification import Verification
from convsmith.rewrite.verifying import verify
from convsmith.runtime.timing import Timing, networks

__all__ = [
    "BUDGETS",
    "Sweep",
    "SweepCurrency",
    "SweepPoint",
    "cost_of",
    "quality_of",
    "read_budgets",
    "sweep",
]

SweepCurrency = Literal["macs", "params", "latency"]

BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The shares that are tried unless others are asked for."""

STEPS = 7
"""How many budgets a range has unless it says so."""

MOST = 64
"""How many budgets there may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """What one budget comes to.

    Attributes:
        budget: What was asked for: a share, or, above 1, a number.
        rewriting: The network and its plan; ``None`` if the budget cannot be met.
        verification: What it lost, on the images to verify with, else on the calibration samples.
        refusal: Why there is no network; else empty.
        frontier: Whether no other network (the original among them) costs as little and loses
            as little: costs are measured times where there are any, else what is paid with.
    """

    budget: float
    rewriting: Rewriting | None = None
    verification: Verification | None = None
    refusal: str = ""
    frontier: bool = False

    @property
    def faster(self) -> bool | None:
        """Whether it is faster in every runtime; ``None``: that was not measured."""
        gained = {} if self.rewriting is None else self.rewriting.speedups
        return all(factor > 1 for factor in gained.values()) if gained else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the point as JSON-ready data."""
        made, found = self.rewriting, self.verification
        output = max(found.outputs, key=lambda o: o.relative) if found is not None else None
        metric = None if found is None else found.metric
        return {
            "budget": self.budget,
            "reached": made is not None,
            "refusal": self.refusal,
            "params": made and made.after.params,
            "macs": made and made.after.macs,
            "milliseconds": {} if made is None else _medians(made.timings, "after"),
            "speedups": {} if made is None else made.speedups,
            "faster": self.faster,
            "frontier": self.frontier,
            "metric": metric and metric.after,
            "relative_error": output and output.relative,
            "agreement": output and output.agreement,
            "divergence": output and output.divergence,
            "plan": made and made.plan.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Result):
    """The same network under several budgets.

    Attributes:
        original: The network.
        currency: What the budgets are in: ``macs``, ``params`` or ``latency``.
        before: What it costs.
        points: One per budget, the least first.
        runtimes: What was measured, if anything; the first one decides about costs.
        data: What the losses were measured on, and on how many images.
        notes: What the reader should know of how it was made.
    """

    original: Graph
    currency: SweepCurrency
    before: Total
    points: tuple[SweepPoint, ...]
    runtimes: tuple[str, ...] = ()
    data: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def source(self) -> str:
        """What the network was read from."""
        return self.original.source

    @property
    def reached(self) -> tuple[SweepPoint, ...]:
        """The points that there is a network for."""
        return tuple(point for point in self.points if point.rewriting is not None)

    @property
    def metric_before(self) -> float | None:
        """The task metric of the original; ``None``: there is none."""
        for point in self.points:
            if point.verification is not None and point.verification.metric is not None:
                return point.verification.metric.before
        return None

    def at(self, budget: float) -> SweepPoint:
        """The point of a budget.

        Raises:
            BudgetError: If it cannot be met.
            UsageError: If it was not tried.
        """
        for point in self.points:
            if math.isclose(point.budget, budget):
                if point.rewriting is None:
                    raise BudgetError(point.refusal, remedy="allow more")
                return point
        raise UsageError(
            f"the budget {budget:g} was not tried",
            remedy=f"choose from {', '.join(f'{point.budget:g}' for point in self.points)}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the sweep as JSON-ready data, schema ``convsmith.sweep/1``."""
        timings = next((p.rewriting.timings for p in self.reached if p.rewriting is not None), {})
        return {
            "schema": "convsmith.sweep/1",
            "source": self.source,
            "currency": self.currency,
            "before": {
                "params": self.before.params,
                "macs": self.before.macs,
                "milliseconds": _medians(timings, "before"),
                "metric": self.metric_before,
            },
            "runtimes": list(self.runtimes),
            "data": self.data,
            "points": [point.to_dict() for point in self.points],
            "notes": list(self.notes),
        }


def _medians(timings: Mapping[str, Mapping[str, Timing]], side: str) -> dict[str, float]:
    return {runtime: both[side].median for runtime, both in timings.items()}


def read_budgets(budgets: str | Iterable[float]) -> tuple[float, ...]:
    """The budgets of a sweep, the least first, each once.

    Args:
        budgets: Numbers; or a range ``LEAST:MOST`` or ``LEAST:MOST:STEPS``, both ends included.

    Raises:
        UsageError: If that makes no sense.

    >>> read_budgets("0.3:0.9"), read_budgets("0.5:1:2"), read_budgets([0.7, 0.5])
    ((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.5, 1.0), (0.5, 0.7))
    """
    if isinstance(budgets, str):
        parts = budgets.split(":")
        try:
            low, high = float(parts[0]), float(parts[1])
            steps = int(parts[2]) if len(parts) > 2 else STEPS
        except (IndexError, ValueError):
            raise _no_range(budgets) from None
        if len(parts) > 3 or not 0 < low < high < math.inf or not 2 <= steps <= MOST:
            raise _no_range(budgets)
        width = (high - low) / (steps - 1)
        found = {float(f"{low + width * index:.6g}") for index in range(steps)}
    else:
        found = {float(budget) for budget in budgets}
    for budget in sorted(found):
        if not 0 < budget < math.inf:
            raise UsageError(
                f"{budget:g} is no budget",
                remedy="give shares such as 0.5, or numbers above 1",
            )
    if not 1 <= len(found) <= MOST:
        raise UsageError(f"{len(found)} budgets make no sweep", remedy=f"give 1 to {MOST}")
    return tuple(sorted(found))


def _no_range(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is no range of budgets",
        remedy=f"give LEAST:MOST or LEAST:MOST:STEPS, such as 0.3:0.9:7 (2 to {MOST} steps)",
    )


def sweep(
    net: Graph,
    budgets: str | Iterable[float] = BUDGETS,
    *,
    currency: SweepCurrency = "macs",
    calibration: Calibration | None = None,
    strategy: StrategyName = "thorough",
    forms: Iterable[str] | None = None,
    only: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    nonlinearity: Literal["relu"] | None = None,
    merge: Merges = False,
    batches: Iterable[Any] | None = None,
    metric: MetricName | MetricFunction | None = None,
    data: str = "",
    measure: Sequence[str] = ("convsmith",),
    tune: bool = True,
    progress: Progress | None = None,
) -> Sweep:
    """Rewrites a network under several budgets, measures all, and says which are worth having.

    Args:
        net: A network with weights.
        budgets: Shares of what the original costs (at most 1), or, above 1, numbers; or a range
            such as ``"0.3:0.9"`` (seven steps) or ``"0.3:0.9:4"``.
        currency: What they are in: ``macs``, ``params``, or ``latency``, time in convsmith's
            kernels.
        calibration: Statistics from :func:`convsmith.calibrate`; see :func:`convsmith.rewrite`.
        strategy: ``fast`` or ``thorough``.
        forms: Names of the forms to try.
        only: Names of the only layers that may be replaced.
        exclude: Names of layers that stay as they are.
        nonlinearity: ``relu`` puts a ReLU between the layers of stacks; see
            :func:`convsmith.rewrite`.
        merge: Whether layers are merged first, or the names of the rules to merge by.
        batches: What to verify with, as in :func:`convsmith.verify`; by default the calibration
            samples. An iterator is read once and kept.
        metric: The task metric, as in :func:`convsmith.verify`.
        data: What the batches are, for the report.
        measure: Runtimes that all networks are timed in, in turns; the first one decides which
            of them are on the frontier. Empty: nothing is measured.
        tune: Whether convsmith measures its algorithms first, where this machine has not:
            seconds for every convolution that is new to it. Without it predictions choose.
        progress: Called during long steps.

    Raises:
        BudgetError: If none of the budgets can be met.
        UsageError: If an option makes no sense.

    >>> from convsmith.graph import parse
    >>> found = sweep(parse("3@8 > conv 4 3 p1"), [1.0], measure=())
    >>> [(point.budget, point.rewriting.after.macs) for point in found.points]
    [(1.0, 6912)]
    """
    wanted = read_budgets(budgets)
    if currency not in get_args(SweepCurrency):
        raise UsageError(
            f"there is no currency {currency!r}",
            remedy=f"choose {', '.join(get_args(SweepCurrency))}",
        )
    if batches is not None and isinstance(batches, Iterator):
        batches = list(batches)
    forms = None if forms is None else tuple(forms)
    check_nonlinearity(nonlinearity, strategy, forms)
    check_lift(nonlinearity, calibration)
    task = Task.begin(net, calibration, progress, merge=merge, relu=nonlinearity is not None)
    with one_blas_thread():
        points = tuple(
            _verified(point, net, batches, metric, data, progress)
            for point in _points(
                task,
                wanted,
                currency,
                lambda: task.table(strategy=strategy, forms=forms, only=only, exclude=exclude),
            )
        )
    if not any(point.rewriting for point in points):
        raise BudgetError(points[-1].refusal, remedy="allow more, or try more forms")
    points = _timed(net, points, tuple(dict.fromkeys(measure)), tune, progress)
    verified = next((p.verification for p in points if p.verification is not None), None)
    return Sweep(
        original=net,
        currency=currency,
        before=task.before,
        points=_with_frontier(points, currency),
        runtimes=tuple(dict.fromkeys(measure)),
        data="" if verified is None else _described(verified),
        notes=_notes(task, points),
    )


def _described(found: Verification) -> str:
    images = f"{found.images} image{'s' if found.images != 1 else ''}"
    return f"{images} ({found.data})" if found.data else images


def _points(
    task: Task, budgets: Sequence[float], currency: SweepCurrency, make: Callable[[], Table]
) -> Iterator[SweepPoint]:
    """The network of every budget, from one table."""
    table: Table | None = None
    watch = Stopwatch()
    for budget in budgets:
        if budget == 1 or (currency != "latency" and task.affords(budget, currency)):
            yield SweepPoint(budget=budget, rewriting=task.kept({currency: budget}))
            continue
        if table is None:
            warn_without(task.job.calibration)
            table = make()
        try:
            if currency == "latency":
                made = task.timed(table, budget, watch)
            else:
                made = task.within(table, budget, currency)
        except BudgetError as error:
            yield SweepPoint(budget=budget, refusal=error.fact)
            continue
        yield SweepPoint(budget=budget, rewriting=made)


def _verified(
    point: SweepPoint,
    net: Graph,
    batches: Iterable[Any] | None,
    metric: MetricName | MetricFunction | None,
    data: str,
    progress: Progress | None,
) -> SweepPoint:
    made = point.rewriting
    if made is None:
        return point
    if batches is None:
        return replace(point, verification=made.verification)
    found = verify(net, made.net, batches, metric=metric, data=data, progress=progress)
    return replace(point, verification=found)


def _timed(
    net: Graph,
    points: tuple[SweepPoint, ...],
    runtimes: tuple[str, ...],
    tune: bool,
    progress: Progress | None,
) -> tuple[SweepPoint, ...]:
    """The points with the times of all networks, taken in turns with the original's."""
    if not runtimes:
        return points
    if progress is not None:
        progress("timing", 0, 0)
    nets = {str(i): p.rewriting.net for i, p in enumerate(points) if p.rewriting is not None}
    taken = networks({"before": net, **nets}, random_inputs(net), runtimes=runtimes, tune=tune)

    def one(index: int, point: SweepPoint) -> SweepPoint:
        if point.rewriting is None:
            return point
        timings = {
            name: {"before": taken["before"][name], "after": taken[str(index)][name]}
            for name in runtimes
        }
        return replace(point, rewriting=with_timings(point.rewriting, timings))

    return tuple(one(index, point) for index, point in enumerate(points))


def cost_of(point: SweepPoint, currency: SweepCurrency) -> float:
    """What a point costs, as a share of the original: measured time where there is one."""
    made = point.rewriting
    if made is None:
        return math.inf
    if made.speedups:
        return 1 / next(iter(made.speedups.values()))
    name = "macs" if currency == "latency" else currency
    return float(getattr(made.after, name) / max(getattr(made.before, name), 1))


def quality_of(found: Verification | None) -> tuple[float, float] | None:
    """How good the original and a rewritten network are; more is better."""
    if found is None:
        return None
    if found.metric is not None:
        sign = 1.0 if found.metric.higher_is_better else -1.0
        return sign * found.metric.before, sign * found.metric.after
    return 0.0, -max(output.relative for output in found.outputs)


def _with_frontier(
    points: tuple[SweepPoint, ...], currency: SweepCurrency
) -> tuple[SweepPoint, ...]:
    """The points, those marked that no other network beats."""
    rated = [quality_of(point.verification) for point in points]
    known = [(cost_of(p, currency), q[1]) for p, q in zip(points, rated, strict=True) if q]
    known += [(1.0, q[0]) for q in rated if q][:1]

    def best(point: SweepPoint, quality: tuple[float, float] | None) -> bool:
        if quality is None:
            return False
        cost, worth = cost_of(point, currency), quality[1]
        return cost < 1 and not any(
            c <= cost and q >= worth and (c, q) != (cost, worth) for c, q in known
        )

    return tuple(replace(p, frontier=best(p, q)) for p, q in zip(points, rated, strict=True))


def _notes(task: Task, points: Sequence[SweepPoint]) -> tuple[str, ...]:
    notes = [*task.notes]
    notes += [] if task.job.calibration is None else task.job.calibration.notes
    slow = [point for point in points if point.faster is False and _changed(point)]
    if slow:
        names = ", ".join(f"{point.budget:g}" for point in slow)
        notes.append(
            "not faster than the original wherever they were measured, so no improvement"
            f" there: {names} (latency budgets leave out candidates that are not faster)"
        )
    missed = [point for point in points if point.refusal]
    if missed:
        names = ", ".join(f"{point.budget:g}" for point in missed)
        notes.append(f"no choice of candidates is that cheap: {names}")
    return tuple(notes)


def _changed(point: SweepPoint) -> bool:
    made = point.rewriting
    return made is not None and any(choice.form != KEEP for choice in made.plan.choices)
