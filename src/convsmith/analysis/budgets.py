"""Budgets: what a network may cost, in absolute numbers or against another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from convsmith.analysis.baseline import Baseline
from convsmith.errors import UsageError

__all__ = ["MEASURES", "Budget", "Verdict", "judge", "read_budget"]

MEASURES = {
    "macs": ("macs", "multiply-accumulates"),
    "params": ("params", "parameters"),
    "flops": ("flops", "operations"),
    "weight_bytes": ("weight_bytes", "bytes of weights"),
    "peak_memory": ("peak_activation_bytes", "bytes of activations at the peak"),
}
"""What can have a budget: its key in an analysis's ``total``, and what it is called."""

_UNITS = {unit: 1000**power for power, unit in enumerate(("", "k", "M", "G", "T", "P"))}
_UNITS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", start=1)} | {"K": 1000}
_AMOUNT = re.compile(
    r"(?P<sign>[+-]?)(?P<number>\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})\s*"
    r"(?:(?P<percent>%)|(?P<unit>[KMGTP]i|[kKMGTP])?B?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much of one measure a network may have.

    Attributes:
        measure: A key of ``MEASURES``.
        limit: As it was written: ``+2%``, ``-10%``, ``+1M``, ``4.1G``, ``100MiB``.
        amount: The number in it, units resolved; of a percentage, the hundredth.
        relative: Whether it is counted from what another network has.
        percent: Whether it is a share of what that has.
    """

    measure: str
    limit: str
    amount: Fraction
    relative: bool
    percent: bool

    def allowed(self, old: int | None) -> Fraction:
        """The most that is allowed.

        Args:
            old: What the other network has.

        Raises:
            UsageError: If that is needed and there is none.
        """
        if not self.relative:
            return self.amount
        if old is None:
            raise UsageError(
                f"{self.limit} needs a network to compare with",
                place=self.measure,
                remedy="give a baseline, or a budget without a sign such as 4.1G",
            )
        return old * (1 + self.amount) if self.percent else old + self.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a budget.

    Attributes:
        budget: What was asked for.
        old: What the other network has; ``None`` without one.
        new: What this network has.
        allowed: The most that was allowed, rounded down.
        met: Whether that was kept.
    """

    budget: Budget
    old: int | None
    new: int
    allowed: int
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON-ready data."""
        return {
            "measure": self.budget.measure,
            "limit": self.budget.limit,
            "old": self.old,
            "new": self.new,
            "allowed": self.allowed,
            "met": self.met,
        }

    def __str__(self) -> str:
        """One sentence: what there is, what was allowed, and by how much that was missed."""
        name = MEASURES[self.budget.measure][1]
        against = "" if self.old is None else f" ({self.budget.limit} against {self.old:,})"
        if self.met:
            return f"{self.new:,} {name} keep to the budget of {self.allowed:,}{against}"
        over = self.new - self.allowed
        return f"{self.new:,} {name} exceed the budget of {self.allowed:,}{against} by {over:,}"


def read_budget(measure: str, limit: str | int) -> Budget:
    """Reads a budget.

    With a sign it is relative to the other network, in percent (``+2%``, ``-10%``) or in numbers
    (``+1M``, ``-512KiB``); without one it is absolute (``4.1G``, ``100MiB``). ``k``, ``M``, ``G``,
    ``T`` and ``P`` are powers of 1000, ``Ki``, ``Mi``, ... of 1024.

    Raises:
        UsageError: If there is no such measure, or it cannot be read.

    >>> read_budget("macs", "+2%").allowed(1000), read_budget("macs", "1.5k").allowed(None)
    (Fraction(1020, 1), Fraction(1500, 1))
    """
    if measure not in MEASURES:
        raise UsageError(
            f"there is no budget for {measure!r}", remedy=f"it can be one of {', '.join(MEASURES)}"
        )
    limit = str(limit)
    found = _AMOUNT.fullmatch(limit.strip())
    if found is None:
        raise _unreadable(measure, limit, "use +2%, -10%, +1M, 4.1G or 100MiB")
    relative, percent = bool(found["sign"]), bool(found["percent"])
    if percent and not relative:
        raise _unreadable(measure, limit, f"write +{limit.strip()} or -{limit.strip()}")
    number = Fraction(found["number"]) * (-1 if found["sign"] == "-" else 1)
    if percent and number < -100:
        raise _unreadable(measure, limit, "nothing can lose more than 100 %")
    amount = number / 100 if percent else number * _UNITS[found["unit"] or ""]
    return Budget(
        measure=measure, limit=limit.strip(), amount=amount, relative=relative, percent=percent
    )


def _unreadable(measure: str, limit: str, remedy: str) -> UsageError:
    shown = repr(limit if len(limit) <= 40 else f"{limit[:40]}...")
    return UsageError(f"{shown} is no budget", place=measure, remedy=remedy)


def judge(
    budgets: Mapping[str, str | int], new: Baseline, old: Baseline | None = None
) -> tuple[Verdict, ...]:
    """Holds a network against budgets.

    Args:
        budgets: By measure, as :func:`read_budget` reads them.
        new: The network.
        old: What budgets with a sign are relative to.

    Raises:
        UsageError: If a budget cannot be read, or needs ``old`` and there is none.
    """
    verdicts = []
    for measure, limit in budgets.items():
        budget = read_budget(measure, limit)
        key = MEASURES[measure][0]
        before = None if old is None else old.total[key]
        allowed = budget.allowed(before)
        verdicts.append(
            Verdict(
                budget=budget,
                old=before if budget.relative else None,
                new=new.total[key],
                allowed=allowed.numerator // allowed.denominator,
                met=new.total[key] <= allowed,
            )
        )
    return tuple(verdicts)
