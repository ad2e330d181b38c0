"""What is known about one value while its image axes are followed through a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from convsmith.analysis.field.taps import Taps
from convsmith.graph.slots import filled_directly

__all__ = ["Channels", "Joined", "Labels", "State", "Track", "Where"]

Labels = npt.NDArray[np.intp]
"""Which of several states every element is in; an axis along which none changes has size 1."""


class Where(Protocol):
    """What all forms have in common."""

    @property
    def is_constant(self) -> bool:
        """Whether every position sees the same."""

    @property
    def gaps(self) -> int:
        """How many phases or positions see nothing."""

    @property
    def is_empty(self) -> bool:
        """Whether no position sees anything."""

    def look(self, taps: Taps, size: int, count: int) -> Self | None:
        """What ``count`` positions see that look at these ``size`` through taps."""

    def whole(self, size: int, extent: int) -> Self:
        """What sees all positions."""

    def gate(self, size: int, extent: int) -> Self:
        """What sees its own position and, indirectly, all."""

    def fixed(self) -> Self:
        """What sees position 0 wherever it stands."""

    def nothing(self) -> Self:
        """What sees nothing."""

    def depends_on(self, steps: Sequence[int]) -> tuple[int, ...]:
        """Which of several strides lead to positions that see something else."""

    def union(self, other: Self) -> Self | None:
        """Both together; ``None`` if no rule says it."""


_Where = TypeVar("_Where", bound=Where)


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Track(Generic[_Where]):
    """One image axis, followed through the network.

    Attributes:
        where: What each position sees.
        axis: The axis of the value along which positions count; ``None``: there is none.
        everywhere: Whether some path sees all of the image axis.
        scattered: Whether ``where`` is only the hull of what all positions see together.
        unbounded: Whether nobody knows how far a position sees.
        joined: What it was before its axis became a part of a longer one.
    """

    where: _Where
    axis: int | None
    everywhere: bool = False
    scattered: bool = False
    unbounded: bool = False
    joined: Joined[_Where] | None = None

    def on(self, axis: int | None) -> Track[_Where]:
        """The same along another axis of the value."""
        if axis == self.axis:
            return self
        return Track(
            where=self.where,
            axis=axis,
            everywhere=self.everywhere,
            scattered=self.scattered,
            unbounded=self.unbounded,
            joined=self.joined,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Generic[_Where]):
    """A track on an axis that is now a part of a longer one: the axis may be cut out again.

    Attributes:
        where: What each position saw.
        scattered: Whether that was only a hull.
        unit: How far apart its positions lie on the longer axis.
        size: How many there are.
    """

    where: _Where
    scattered: bool
    unit: int
    size: int


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class State(Generic[_Where]):
    """What is known about one value.

    Attributes:
        tracks: Per image axis.
        varied: Whether channels see different pixels, and the tracks their union.
        channels: If so, what each of them sees; ``None``: that is not known.
        bound: Whether the tracks are too large for some outputs.
        unknown: Whether nothing is known; ``reason`` says why.
        reason: Why the field is not exact.
        gate: Which node first sees everything.
    """

    tracks: tuple[Track[_Where], ...] = ()
    varied: bool = False
    channels: Channels[_Where] | None = None
    bound: bool = False
    unknown: bool = False
    reason: str = ""
    gate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels(Generic[_Where]):
    """What every channel of a value sees.

    Attributes:
        labels: Per channel (or per element of any axes that are not followed): which state.
        states: The states, all different, none of which has channels of its own.
    """

    labels: Labels
    states: tuple[State[_Where], ...]
