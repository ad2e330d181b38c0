"""What the positions along one axis see, as a rule that holds far from the borders.

The rule repeats with a period, so that it describes every position in a few integers, also after
up-sampling, where the field depends on the phase of the position. :class:`Axis` says from where
to where a position sees, :class:`Support` exactly which pixels: dilation leaves holes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Generic, Self, TypeVar

from convsmith.analysis.field.taps import LONGEST_PERIOD, Interval, Taps
from convsmith.errors import UsageError
from convsmith.graph.slots import filled_directly

__all__ = ["Axis", "Periodic", "Support", "hull"]

_Seen = TypeVar("_Seen", bound=tuple[int, int])

_WIDEST = 1 << 22
"""How many pixels wide a set of pixels may be."""


def hull(intervals: Iterable[Interval | None]) -> Interval | None:
    """The smallest interval around others."""
    known = [interval for interval in intervals if interval is not None]
    if len(known) < 2:
        return known[0] if known else None
    return min(first for first, _ in known), max(last for _, last in known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic(Generic[_Seen]):
    """A rule for every position along one axis; abstract.

    Position ``p + len(phases) * m`` sees what stands in ``phases[p]``, moved by ``step * m``
    pixels; a phase of ``None`` sees nothing.
    """

    phases: tuple[_Seen | None, ...]
    step: int = 1

    @staticmethod
    @abstractmethod
    def joined(parts: Iterable[_Seen | None]) -> _Seen | None:
        """All of several parts."""

    @staticmethod
    @abstractmethod
    def shifted(part: _Seen, pixels: int) -> _Seen:
        """A part some pixels farther on."""

    @staticmethod
    @abstractmethod
    def cropped(part: _Seen, extent: int) -> _Seen | None:
        """What lies on an image of ``extent`` pixels."""

    @abstractmethod
    def ends(self) -> int | None:
        """How many of the first and of the last positions of a row say what all of it sees.

        ``None``: every position counts.
        """

    @property
    def stride(self) -> Fraction:
        """How many pixels the field moves from one position to the next."""
        return Fraction(self.step, len(self.phases))

    @property
    def is_constant(self) -> bool:
        """Whether every position sees the same."""
        return self.step == 0 and (len(self.phases) == 1 or len(set(self.phases)) == 1)

    @property
    def gaps(self) -> int:
        """How many phases see nothing."""
        return self.phases.count(None)

    @property
    def is_empty(self) -> bool:
        """Whether no position sees anything."""
        return self.gaps == len(self.phases)

    def part(self, position: int) -> _Seen | None:
        """What a position sees, as if there were no borders."""
        turns, phase = divmod(position, len(self.phases))
        seen = self.phases[phase]
        if seen is None or not turns:
            return seen
        return self.shifted(seen, turns * self.step)

    def look(self, taps: Taps, size: int, count: int) -> Self | None:
        """The field of what looks at this value through taps; ``None`` if it is too irregular."""
        period, turn = len(self.phases), len(taps.phases)
        rounds = period // math.gcd(period, taps.step)
        if turn * rounds > LONGEST_PERIOD:
            return None
        phases = []
        ends = self.ends()
        for index in range(turn * rounds):
            turns, phase = divmod(index, turn)
            positions = taps.phases[phase]
            if ends is not None and len(positions) > 2 * ends:
                positions = (*positions[:ends], *positions[-ends:])
            phases.append(self.joined([self.part(p + turns * taps.step) for p in positions]))
        step = rounds * taps.step // period * self.step
        return replace(self, phases=tuple(phases), step=step).shortest()

    def shortest(self) -> Self:
        """The same field with the shortest period that describes it."""
        period = len(self.phases)
        for shorter in range(1, period):
            if period % shorter or self.step * shorter % period:
                continue
            step = self.step * shorter // period
            short = replace(self, phases=self.phases[:shorter], step=step)
            if all(short.part(p) == self.phases[p] for p in range(shorter, period)):
                return short
        return self

    def whole(self, size: int, extent: int) -> Self:
        """The field of what sees all ``size`` positions, inside the image of ``extent`` pixels."""
        period = len(self.phases)
        phases = range(min(period, size))
        ends = [self.part(p) for p in phases]
        ends += [self.part((size - 1 - p) // period * period + p) for p in phases]
        seen = self.joined(ends)
        inside = None if seen is None else self.cropped(seen, extent)
        return replace(self, phases=(inside,), step=0)

    def fixed(self) -> Self:
        """The field of what sees position 0 wherever it stands."""
        if self.step == 0 and len(self.phases) == 1:
            return self
        return replace(self, phases=(self.part(0),), step=0)

    def nothing(self) -> Self:
        """The field of what sees nothing."""
        return replace(self, phases=(None,), step=0)

    def gate(self, size: int, extent: int) -> Self:
        """The direct field of what also sees all positions indirectly: it stays the same."""
        return self

    def depends_on(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Which of several strides lead from one position to one that sees something else.

        Of positions ``sum(strides * indices)``: those indices that make a difference.
        """
        if self.step:
            return tuple(range(len(steps)))
        return tuple(i for i, step in enumerate(steps) if step % len(self.phases))

    def union(self, other: Self) -> Self | None:
        """Both fields together; ``None`` if they do not move at the same pace."""
        if self.step * len(other.phases) != other.step * len(self.phases):
            return None
        if len(self.phases) == len(other.phases) == 1:
            seen = self.joined((self.phases[0], other.phases[0]))
            return self if seen == self.phases[0] else replace(self, phases=(seen,))
        period = math.lcm(len(self.phases), len(other.phases))
        if period > LONGEST_PERIOD:
            return None
        phases = tuple(self.joined((self.part(p), other.part(p))) for p in range(period))
        step = self.step * period // len(self.phases)
        return replace(self, phases=phases, step=step).shortest()


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Axis(Periodic[Interval]):
    """From where to where every position along one image axis sees.

    Position ``p + len(phases) * m`` sees the pixels ``first + step * m`` to ``last + step * m``,
    where ``first, last = phases[p]``; a phase of ``None`` sees nothing.

    >>> Axis(phases=((-1, 1),), step=2).at(5)
    (9, 11)
    """

    phases: tuple[Interval | None, ...] = ((0, 0),)
    step: int = 1

    @staticmethod
    def joined(parts: Iterable[Interval | None]) -> Interval | None:
        """The hull."""
        return hull(parts)

    @staticmethod
    def shifted(part: Interval, pixels: int) -> Interval:
        """The interval some pixels farther on."""
        return part[0] + pixels, part[1] + pixels

    @staticmethod
    def cropped(part: Interval, extent: int) -> Interval | None:
        """What lies on an image of ``extent`` pixels."""
        first, last = max(part[0], 0), min(part[1], extent - 1)
        return (first, last) if first <= last else None

    def ends(self) -> int | None:
        """The first and the last position of every phase see farthest."""
        return 1 if len(self.phases) == 1 or self._is_ordered() else len(self.phases)

    def look(self, taps: Taps, size: int, count: int) -> Self | None:
        """The field of what looks at this value through taps; ``None`` if it is too irregular."""
        if len(self.phases) == 1 == len(taps.phases):  # nearly always
            (seen,), (positions,) = self.phases, taps.phases
            if seen is not None and positions:
                near, far = positions[0] * self.step, positions[-1] * self.step
                if near > far:
                    near, far = far, near
                interval = (seen[0] + near, seen[1] + far)
                return type(self)(phases=(interval,), step=taps.step * self.step)
        return Periodic.look(self, taps, size, count)

    def _is_ordered(self) -> bool:
        """Whether later positions never see earlier pixels."""
        following = (*self.phases[1:], self.part(len(self.phases)))
        return all(
            a is not None and b is not None and a[0] <= b[0] and a[1] <= b[1]
            for a, b in zip(self.phases, following, strict=True)
        )

    @property
    def size(self) -> int:
        """How many pixels wide the field is, in the phase in which it is widest."""
        return max((last - first + 1 for first, last in filter(None, self.phases)), default=0)

    @property
    def offset(self) -> int:
        """The first pixel that position 0 (or the first that sees anything) sees."""
        return next((interval[0] for interval in self.phases if interval), 0)

    @property
    def union_of_phases(self) -> Interval | None:
        """First and last pixel that any output of the first period sees.

        >>> Axis(phases=((-1, 0), (0, 1)), step=1).union_of_phases
        (-1, 1)
        """
        return hull(self.phases)

    @property
    def centre(self) -> Fraction:
        """Where the field of output 0 has its middle (Araujo et al., 2019, equation 3).

        Pixels have their centres at integers. Where the field depends on the phase of the output,
        this is what the mean over one period says of output 0.

        >>> Axis(phases=((-3, 3),), step=2).centre, Axis(phases=((0, 1),), step=2).centre
        (Fraction(0, 1), Fraction(1, 2))
        """
        known = [(p, i) for p, i in enumerate(self.phases) if i is not None]
        if not known:
            return Fraction(0)
        middles = sum((Fraction(i[0] + i[1], 2) - p * self.stride for p, i in known), Fraction(0))
        return middles / len(known)

    def at(self, position: int) -> Interval | None:
        """The first and the last pixel that a position sees, as if there were no borders."""
        return self.part(position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Support(Periodic[tuple[int, int]]):
    """Which pixels every position along one image axis really sees, far from the borders.

    A set of pixels is ``(first, bits)``: bit i of ``bits`` stands for pixel ``first + i``.

    >>> seen = Support().look(Taps(phases=((-2, 0, 2),), step=1), 9, 9)
    >>> seen.at(5), seen.holes, seen.count
    ((3, 5, 7), 2, 3)
    """

    phases: tuple[tuple[int, int] | None, ...] = ((0, 1),)
    step: int = 1

    @staticmethod
    def joined(parts: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
        """The union."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        first = min(start for start, _ in known)
        bits = 0
        for start, more in known:
            if start - first + more.bit_length() > _WIDEST:
                raise UsageError(
                    f"the field is more than {_WIDEST:,} pixels wide",
                    remedy="ask for its size, not for its pixels",
                )
            bits |= more << (start - first)
        return first, bits

    @staticmethod
    def shifted(part: tuple[int, int], pixels: int) -> tuple[int, int]:
        """The set some pixels farther on."""
        return part[0] + pixels, part[1]

    @staticmethod
    def cropped(part: tuple[int, int], extent: int) -> tuple[int, int] | None:
        """What lies on an image of ``extent`` pixels."""
        first, bits = part
        bits = bits >> -first if first < 0 else bits
        first = max(first, 0)
        bits &= (1 << max(extent - first, 0)) - 1
        low = (bits & -bits).bit_length() - 1
        return (first + low, bits >> low) if bits else None

    def ends(self) -> int | None:
        """Every position counts."""
        return None

    def whole(self, size: int, extent: int) -> Self:
        """What all ``size`` positions see of an image of ``extent`` pixels."""
        if max(size, extent) > _WIDEST:
            raise UsageError(
                f"an axis of {max(size, extent):,} positions is too long to list",
                remedy="ask for its size, not for its pixels",
            )
        parts = (self.part(p) for p in range(size))
        seen = self.joined([c for part in parts if part and (c := self.cropped(part, extent))])
        return replace(self, phases=(seen,), step=0)

    @property
    def count(self) -> int:
        """How many pixels a position sees, in the phase that sees most."""
        return max((bits.bit_count() for _, bits in filter(None, self.phases)), default=0)

    @property
    def holes(self) -> int:
        """How many pixels between the first and the last are not seen, at most."""
        return max(
            (b.bit_length() - b.bit_count() for _, b in filter(None, self.phases)), default=0
        )

    def at(self, position: int) -> tuple[int, ...]:
        """The pixels that a position sees, as if there were no borders."""
        part = self.part(position)
        if part is None:
            return ()
        first, bits = part
        return tuple(first + i for i in range(bits.bit_length()) if bits >> i & 1)
