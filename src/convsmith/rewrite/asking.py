"""What is asked of a rewrite: budget and options, checked before the long work begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError

from convsmith.errors import MissingDependencyError, UsageError
from convsmith.rewrite.forms import named
from convsmith.rewrite.job import budget_of
from convsmith.rewrite.planning import STRATEGIES, work_of
from convsmith.runtime.runtimes import RUNTIMES

__all__ = ["NONLINEARITIES", "Budget", "check_nonlinearity", "check_options", "runnable"]

NONLINEARITIES = ("relu",)
"""What can stand between the layers of a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a rewrite may cost or lose: exactly one of these; see :func:`convsmith.rewrite`.

    Attributes:
        macs: Multiply-accumulates: a share, or, above 1, their number.
        params: The same for parameters.
        latency: The same for time in convsmith's kernels, in milliseconds.
        max_loss: How far the outputs may move.
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    max_loss: float | None = None

    @property
    def given(self) -> tuple[str, float]:
        """Which one it is, and how much.

        Raises:
            BudgetError: If it is no budget.
            UsageError: If there is not exactly one.

        >>> Budget(macs=0.5).given
        ('macs', 0.5)
        """
        found = [(name, value) for name, value in self._all if value is not None]
        if len(found) != 1:
            raise UsageError(
                "exactly one of macs, params, latency and max_loss is the budget"
                + (f", not {' and '.join(name for name, _ in found)}" if found else ""),
                remedy="such as macs=0.5",
            )
        name, value = found[0]
        budget_of(value, 1, name)
        return name, value

    @property
    def _all(self) -> tuple[tuple[str, float | None], ...]:
        return (
            ("macs", self.macs),
            ("params", self.params),
            ("latency", self.latency),
            ("max_loss", self.max_loss),
        )


def check_options(
    strategy: str,
    forms: Iterable[str] | None,
    measure: Sequence[str],
    nonlinearity: str | None = None,
) -> None:
    """Checks what would otherwise be noticed after the long work.

    Raises:
        UsageError: If there is no such strategy, form, runtime or nonlinearity.
    """
    forms = None if forms is None else tuple(forms)
    named(forms)
    kinds: list[tuple[str, str, Collection[str]]] = [("strategy", strategy, STRATEGIES)]
    kinds += [("runtime", name, RUNTIMES) for name in measure]
    for kind, name, known in kinds:
        if name not in known:
            raise UsageError(f"there is no {kind} {name!r}", remedy=f"choose {', '.join(known)}")
        if kind == "runtime" and name.startswith("torch"):
            raise UsageError(
                "torch runs modules, and this network is a graph",
                remedy="time modules with convsmith.verify(..., measure=['torch'], modules=...)",
            )
    check_nonlinearity(nonlinearity, strategy, forms)


def check_nonlinearity(name: str | None, strategy: str, forms: Collection[str] | None) -> None:
    """Checks that there is such a function between layers, and forms that have a place for it.

    Raises:
        UsageError: If not.

    >>> check_nonlinearity("relu", "thorough", None)
    """
    if name not in (None, *NONLINEARITIES):
        raise UsageError(
            f"there is no {name!r} between layers", remedy=f"give {' or '.join(NONLINEARITIES)}"
        )
    if forms is None and strategy in STRATEGIES:
        forms = work_of(strategy).forms
    if name is not None and forms is not None and "stack" not in forms:
        raise UsageError(
            f"only stacks have a place for {name!r}, and {' and '.join(forms)} are tried",
            remedy="try the form stack, too, or the strategy thorough",
        )


def runnable(runtimes: Iterable[str], notes: list[str]) -> tuple[str, ...]:
    """The runtimes that are installed; of each that is not, a note is added."""
    found = []
    for name in dict.fromkeys(runtimes):
        try:
            RUNTIMES[name].version()
            found.append(name)
        except (MissingDependencyError, PackageNotFoundError) as error:
            why = error if isinstance(error, MissingDependencyError) else f"{name} is missing."
            notes.append(f"Not timed in {name}: {why}")
    return tuple(found)
