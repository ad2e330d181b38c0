"""What every unit of every layer sees of one input: rules, and where borders bend them.

Far from the borders a few integers say what all positions see (:class:`Axis`). Near them every
single position is followed; where that says something else than the rule cut off at the edge of
the image, the position is listed. So a page can draw any of millions of units exactly, from little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from convsmith.analysis.field import Axis, Field, FieldStatus, Positions, Support
from convsmith.analysis.field.propagation import State, propagate
from convsmith.analysis.field.taps import Interval, Taps
from convsmith.errors import UsageError
from convsmith.graph import Graph, Shape

__all__ = ["AxisView", "LayerView", "views"]

_MOST_STEPS = 20_000_000
"""Nodes times pixels along the axes: beyond this the borders are not followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Direct(Positions):
    """Positions that leave out what is only seen through gates, as ``Sight.at`` does.

    Attributes:
        sees_all: Whether this is what something sees that sees all positions.
    """

    sees_all: bool = False

    @classmethod
    def _of(cls, found: Positions, *, sees_all: bool = False) -> _Direct:
        return cls(intervals=found.intervals, clear=found.clear, sees_all=sees_all)

    @classmethod
    def image(cls, size: int) -> _Direct:
        """An axis of the image itself: every pixel sees itself."""
        return cls._of(Positions.image(size))

    def look(self, taps: Taps, size: int, count: int) -> _Direct | None:
        """What positions see that look at these through taps."""
        found = Positions.look(self, taps, size, count)
        if found is None:
            return None
        if self.sees_all:  # the same wherever it is looked at from
            found = Positions(intervals=self.intervals, clear=self.clear)
        return self._of(found, sees_all=self.sees_all)

    def whole(self, size: int, extent: int) -> _Direct:
        """What sees all positions."""
        return self._of(Positions.whole(self, size, extent), sees_all=True)

    def fixed(self) -> _Direct:
        """What sees position 0 wherever it stands."""
        return self._of(Positions.fixed(self), sees_all=self.sees_all)

    def nothing(self) -> _Direct:
        """What sees nothing, in as many positions."""
        return self._of(Positions.nothing(self))

    def gate(self, size: int, extent: int) -> _Direct:
        """What sees its own position and, indirectly, all: the same as before."""
        return self

    def union(self, other: Positions) -> _Direct:
        """Both together, or the direct path beside one that sees everything."""
        assert isinstance(other, _Direct)
        if self.sees_all != other.sees_all:
            return other if self.sees_all else self
        return self._of(Positions.union(self, other), sees_all=self.sees_all)


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisView:
    """What the positions of a layer see along one image axis.

    Attributes:
        axis: Which of the layer's image axes counts its positions; ``None``: all see the same.
        rule: What a position sees far from the borders; ``None``: that has no bound.
        exceptions: Positions that see something else than the rule cut off at the image's edge.
        everywhere: Whether some path (a gate) sees all of the axis besides.
        support: Which pixels between first and last are really seen, where some are not.
    """

    axis: int | None
    rule: Axis | None
    exceptions: Mapping[int, Interval | None] = field(default_factory=dict)
    everywhere: bool = False
    support: Support | None = None

    def at(self, position: int, extent: int) -> Interval | None:
        """The first and last pixel of an image of ``extent`` that a position really sees."""
        if self.rule is None:
            return (0, extent - 1)
        index = 0 if self.axis is None else position
        if index in self.exceptions:
            return self.exceptions[index]
        seen = self.rule.at(index)
        return None if seen is None else self.rule.cropped(seen, extent)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """What one layer sees of the input.

    Attributes:
        positions: The sizes of its image axes; empty if it has none.
        axes: Per image axis of the input; empty if nothing is known.
        field: The field in the words of the analysis.
        followed: Whether every position was followed to the borders.
    """

    positions: Shape
    axes: tuple[AxisView, ...]
    field: Field
    followed: bool = True

    @property
    def status(self) -> FieldStatus:
        """How much is known."""
        return self.field.status


def views(graph: Graph, input: str, seen: Mapping[str, Field]) -> dict[str, LayerView]:  # noqa: A002
    """Returns what every value that depends on an input sees of it.

    Args:
        graph: The network.
        input: The input, with image axes.
        seen: The fields of its values, as the analysis has them.

    >>> from convsmith.analysis.field import fields
    >>> from convsmith.graph import parse
    >>> graph = parse("3@32 > conv 8 3 p1 > maxpool 2/2 > conv 8 3 p1")
    >>> view = views(graph, "x", fields(graph))["conv2"]
    >>> [axis.at(p, 32) for axis, p in zip(view.axes, (0, 5))]
    [(0, 4), (7, 14)]
    """
    image = graph.shape(input)[2:]
    rules = propagate(graph, input, [Axis()] * len(image))
    places: dict[str, State[Positions]] = {}
    if len(graph.nodes) * sum(image) <= _MOST_STEPS:
        start: list[Positions] = [_Direct.image(size) for size in image]
        places = propagate(graph, input, start)
    supports = _supports(graph, input, len(image))
    made: dict[tuple[int, int, Shape | None], LayerView] = {}
    found = {}
    for value, state in rules.items():
        shape = graph.shapes[value]
        exact = places.get(value)
        key = (id(state), id(exact), shape)
        if key not in made:
            made[key] = _view(state, exact, supports.get(value), shape, image, seen[value])
        found[value] = made[key]
    return found


def _supports(graph: Graph, name: str, rank: int) -> Mapping[str, State[Support]]:
    """Which pixels are really seen; nothing where fields are too wide to list their pixels."""
    try:
        return propagate(graph, name, [Support()] * rank)
    except UsageError:
        return {}


def _view(
    state: State[Axis],
    exact: State[Positions] | None,
    support: State[Support] | None,
    shape: Shape | None,
    image: Shape,
    seen: Field,
) -> LayerView:
    positions = () if shape is None else shape[2:]
    if state.unknown or shape is None:
        return LayerView(positions=positions, axes=(), field=seen)
    axes = []
    followed = exact is not None and not exact.unknown
    for index, (track, extent) in enumerate(zip(state.tracks, image, strict=True)):
        rule, axis = track.where, track.axis
        if axis is not None and axis < 2:  # its positions are channels: any of them
            rule, axis = rule.whole(shape[axis], extent), None
        if rule.is_constant:
            axis = None
        count = 1 if axis is None else shape[axis]
        exceptions: dict[int, Interval | None] = {}
        if followed and exact is not None and not track.unbounded and track.axis not in (0, 1):
            exceptions = _exceptions(rule, exact.tracks[index].where.intervals, count, extent)
        axes.append(
            AxisView(
                axis=None if axis is None else axis - 2,
                rule=None if track.unbounded else rule,
                exceptions=exceptions,
                everywhere=track.everywhere,
                support=_with_holes(support, index),
            )
        )
    return LayerView(positions=positions, axes=tuple(axes), field=seen, followed=followed)


def _exceptions(
    rule: Axis, intervals: Sequence[Interval | None], count: int, extent: int
) -> dict[int, Interval | None]:
    found = {}
    for position in range(count):
        seen = rule.at(position)
        expected = None if seen is None else rule.cropped(seen, extent)
        really = intervals[position if len(intervals) > 1 else 0]
        if really != expected:
            found[position] = really
    return found


def _with_holes(support: State[Support] | None, index: int) -> Support | None:
    if support is None or support.unknown or support.bound:
        return None
    track = support.tracks[index]
    if track.unbounded or track.scattered or track.axis in (0, 1):
        return None
    return track.where if track.where.holes else None
