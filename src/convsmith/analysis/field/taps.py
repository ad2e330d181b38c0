"""Where along one axis the outputs of an operator look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

__all__ = ["LONGEST_PERIOD", "Interval", "Phases", "Taps"]

Interval = tuple[int, int]
"""First and last pixel; the first may be negative: before the image, in its padding."""

LONGEST_PERIOD = 4096
"""A rule that repeats more seldom than this is not written down; its hull is."""


class Phases(Sequence[Sequence[int]]):
    """Phases that are worked out when they are asked for, so that there may be very many.

    >>> Phases(1 << 40, lambda phase: (phase // 2,))[5]
    (2,)
    """

    __slots__ = ("_count", "_rule")

    def __init__(self, count: int, rule: Callable[[int], Sequence[int]]) -> None:
        self._count = count
        self._rule = rule

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sequence[int]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[int]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[int] | Sequence[Sequence[int]]:
        if isinstance(index, slice):
            return [self._rule(phase) for phase in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._rule(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """Where along an axis the outputs of one operator look.

    Output ``p + len(phases) * m`` looks at the inputs ``t + step * m`` for t in ``phases[p]``.

    Attributes:
        phases: Positions per phase, in ascending order; a phase may be empty.
        step: How far one period advances.
        beyond: What stands for a position outside the input.
    """

    phases: Sequence[Sequence[int]]
    step: int
    beyond: Literal["nothing", "edge", "reflect", "wrap"] = "nothing"

    def at(self, output: int) -> Iterator[int]:
        """The inputs that one output asks for, those outside included."""
        turns, phase = divmod(output, len(self.phases))
        return (tap + turns * self.step for tap in self.phases[phase])

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
