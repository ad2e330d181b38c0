"""Which pixels of one image axis each position of a value sees, in two forms.

:class:`Axis` is the rule far from the borders: it repeats with a period, so that it holds for
every position in a few integers, also after upsampling, where the field depends on the phase of
the position. :class:`Positions` lists every position of one network and one size, borders
included: what lies beyond the image is not seen. Both compose with :class:`Taps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

__all__ = ["Axis", "Interval", "Positions", "Taps"]

Interval = tuple[int, int]
"""First and last pixel; the first may be negative: before the image, in its padding."""

LONGEST_PERIOD = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Where along an axis the outputs of one operator look.

    Output ``p + len(phases) * m`` looks at the inputs ``t + step * m`` for t in ``phases[p]``.

    Attributes:
        phases: Positions per phase, in ascending order; a phase may be empty.
        step: How far one period advances.
        beyond: What stands for a position outside the input.
    """

    phases: tuple[Sequence[int], ...]
    step: int
    beyond: Literal["nothing", "edge", "reflect", "wrap"] = "nothing"

    def inside(self, position: int, size: int) -> int | None:
        """The position that is really read; ``None`` if it is padding."""
        if 0 <= position < size:
            return position
        match self.beyond:
            case "edge":
                return min(max(position, 0), size - 1)
            case "wrap":
                return position % size
            case "reflect" if size > 1:
                position %= 2 * (size - 1)
                return min(position, 2 * (size - 1) - position)
        return None


def _hull(intervals: Iterable[Interval | None]) -> Interval | None:
    known = [interval for interval in intervals if interval is not None]
    if not known:
        return None
    return min(first for first, _ in known), max(last for _, last in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The field of every position along one image axis.

    Position ``p + len(phases) * m`` sees the pixels ``first + step * m`` to ``last + step * m``,
    where ``first, last = phases[p]``; a phase of ``None`` sees nothing.

    >>> Axis(phases=((-1, 1),), step=2).at(5)
    (9, 11)
    """

    phases: tuple[Interval | None, ...] = ((0, 0),)
    step: int = 1

    @property
    def stride(self) -> Fraction:
        """How many pixels the field moves from one position to the next."""
        return Fraction(self.step, len(self.phases))

    @property
    def size(self) -> int:
        """How many pixels wide the field is, in the phase in which it is widest."""
        return max((last - first + 1 for first, last in filter(None, self.phases)), default=0)

    @property
    def offset(self) -> int:
        """The first pixel that position 0 (or the first that sees anything) sees."""
        return next((interval[0] for interval in self.phases if interval), 0)

    @property
    def is_constant(self) -> bool:
        """Whether every position sees the same."""
        return self.step == 0 and len(set(self.phases)) == 1

    @property
    def gaps(self) -> int:
        """How many phases see nothing."""
        return self.phases.count(None)

    @property
    def is_empty(self) -> bool:
        """Whether no position sees anything."""
        return self.gaps == len(self.phases)

    def at(self, position: int) -> Interval | None:
        """The first and the last pixel that a position sees, as if there were no borders."""
        turns, phase = divmod(position, len(self.phases))
        interval = self.phases[phase]
        if interval is None:
            return None
        return interval[0] + turns * self.step, interval[1] + turns * self.step

    def look(self, taps: Taps, size: int, count: int) -> Axis | None:
        """The field of what looks at this value through taps; ``None`` if it is too irregular."""
        period, turn = len(self.phases), len(taps.phases)
        rounds = period // math.gcd(period, taps.step)
        if turn * rounds > LONGEST_PERIOD:
            return None
        ordered = self._is_ordered()
        phases = []
        for index in range(turn * rounds):
            turns, phase = divmod(index, turn)
            positions: Sequence[int] = taps.phases[phase]
            # The first and the last position of every phase are those that see farthest.
            ends = 1 if ordered else period
            if len(positions) > 2 * ends:
                positions = (*positions[:ends], *positions[-ends:])
            phases.append(_hull([self.at(p + turns * taps.step) for p in positions]))
        return Axis(phases=tuple(phases), step=rounds * taps.step // period * self.step)._shortest()

    def _is_ordered(self) -> bool:
        """Whether later positions never see earlier pixels."""
        following = (*self.phases[1:], self.at(len(self.phases)))
        return all(
            a is not None and b is not None and a[0] <= b[0] and a[1] <= b[1]
            for a, b in zip(self.phases, following, strict=True)
        )

    def _shortest(self) -> Axis:
        """The same field with the shortest period that describes it."""
        period = len(self.phases)
        for shorter in range(1, period):
            if period % shorter or self.step * shorter % period:
                continue
            short = Axis(phases=self.phases[:shorter], step=self.step * shorter // period)
            if all(short.at(p) == self.phases[p] for p in range(shorter, period)):
                return short
        return self

    def whole(self, size: int, extent: int) -> Axis:
        """The field of what sees all ``size`` positions, inside the image of ``extent`` pixels."""
        period = len(self.phases)
        phases = range(min(period, size))
        ends = [self.at(p) for p in phases]
        ends += [self.at((size - 1 - p) // period * period + p) for p in phases]
        hull = _hull(ends)
        inside = None if hull is None else (max(hull[0], 0), min(hull[1], extent - 1))
        return Axis(phases=(inside,), step=0)

    def fixed(self) -> Axis:
        """The field of what sees position 0 wherever it stands."""
        return Axis(phases=(self.at(0),), step=0)

    def nothing(self) -> Axis:
        """The field of what sees nothing."""
        return Axis(phases=(None,), step=0)

    def gate(self, size: int, extent: int) -> Axis:
        """The direct field of what also sees all positions indirectly: it stays the same."""
        return self

    def union(self, other: Axis) -> Axis | None:
        """Both fields together; ``None`` if they do not move at the same pace."""
        if self.stride != other.stride:
            return None
        period = math.lcm(len(self.phases), len(other.phases))
        if period > LONGEST_PERIOD:
            return None
        phases = tuple(_hull((self.at(p), other.at(p))) for p in range(period))
        return Axis(phases=phases, step=int(self.stride * period))._shortest()


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
            turns, phase = divmod(index, len(taps.phases))
            asked = [t + turns * taps.step for t in taps.phases[phase]]
            read = [q for p in asked if (q := taps.inside(p, size)) is not None]
            here = [0 if self.is_constant else q for q in read]
            intervals.append(_hull([self.intervals[q] for q in here]))
            clear.append(all(0 <= p < size for p in asked) and all(self.clear[q] for q in here))
        return Positions(intervals=tuple(intervals), clear=tuple(clear))

    def whole(self, size: int, extent: int) -> Positions:
        """What sees all positions."""
        return Positions(intervals=(_hull(self.intervals),), clear=(all(self.clear),))

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

    def union(self, other: Positions) -> Positions:
        """Both together."""
        count = max(len(self.intervals), len(other.intervals))
        a, b = self._repeated(count), other._repeated(count)
        return Positions(
            intervals=tuple(_hull(pair) for pair in zip(a.intervals, b.intervals, strict=True)),
            clear=tuple(x and y for x, y in zip(a.clear, b.clear, strict=True)),
        )

    def _repeated(self, count: int) -> Positions:
        if len(self.intervals) == count:
            return self
        return Positions(intervals=self.intervals * count, clear=self.clear * count)
