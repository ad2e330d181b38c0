"""What every single position along one axis sees, in one network of one size.

Borders included: what lies beyond the image is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.analysis.field.axis import hull
from convsmith.analysis.field.taps import Interval, Taps

__all__ = ["Positions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """What every position sees, one by one.

    Attributes:
        intervals: Per position; a single one stands for all positions.
        clear: Per position: whether nothing on its way looked beyond a border.
    """

    intervals: tuple[Interval | None, ...]
    clear: tuple[bool, ...]

    @classmethod
    def image(cls, size: int) -> Positions:
        """An axis of the image itself: every pixel sees itself."""
        return cls(intervals=tuple((i, i) for i in range(size)), clear=(True,) * size)

    @property
    def is_constant(self) -> bool:
        """Whether every position sees the same."""
        return len(self.intervals) == 1

    @property
    def gaps(self) -> int:
        """How many positions see nothing."""
        return self.intervals.count(None)

    @property
    def is_empty(self) -> bool:
        """Whether no position sees anything."""
        return self.gaps == len(self.intervals)

    def look(self, taps: Taps, size: int, count: int) -> Positions | None:
        """What ``count`` positions see that look at these ``size`` through taps."""
        intervals, clear = [], []
        for index in range(count):
            asked = list(taps.at(index))
            read = [q for p in asked if (q := taps.inside(p, size)) is not None]
            here = [0 if self.is_constant else q for q in read]
            intervals.append(hull([self.intervals[q] for q in here]))
            clear.append(len(read) == len(asked) and all(self.clear[q] for q in here)
                         and all(0 <= p < size for p in asked))  # fmt: skip
        return Positions(intervals=tuple(intervals), clear=tuple(clear))

    def whole(self, size: int, extent: int) -> Positions:
        """What sees all positions."""
        return Positions(intervals=(hull(self.intervals),), clear=(all(self.clear),))

    def fixed(self) -> Positions:
        """What sees position 0 wherever it stands."""
        return Positions(intervals=self.intervals[:1], clear=self.clear[:1])

    def nothing(self) -> Positions:
        """What sees nothing, in as many positions."""
        count = len(self.intervals)
        return Positions(intervals=(None,) * count, clear=self.clear)

    def gate(self, size: int, extent: int) -> Positions:
        """What sees its own position and, indirectly, all."""
        return self.union(self.whole(size, extent))

    def depends_on(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Which of several strides lead from one position to one that sees something else."""
        if self.is_constant:
            return ()
        unit = math.gcd(*steps)
        seen = self.intervals
        for period in _divisors(len(seen)):
            if period % unit == 0 and seen == seen[:period] * (len(seen) // period):
                return tuple(i for i, step in enumerate(steps) if step % period)
        return tuple(range(len(steps)))

    def union(self, other: Positions) -> Positions:
        """Both together."""
        count = max(len(self.intervals), len(other.intervals))
        a, b = self._repeated(count), other._repeated(count)
        return Positions(
            intervals=tuple(hull(pair) for pair in zip(a.intervals, b.intervals, strict=True)),
            clear=tuple(x and y for x, y in zip(a.clear, b.clear, strict=True)),
        )

    def _repeated(self, count: int) -> Positions:
        if len(self.intervals) == count:
            return self
        return Positions(intervals=self.intervals * count, clear=self.clear * count)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
