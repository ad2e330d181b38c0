"""The receptive field of every value: which pixels of the input it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from convsmith.analysis.field.axis import Axis, Support
from convsmith.analysis.field.positions import Positions
from convsmith.analysis.field.propagation import State, Where, propagate
from convsmith.errors import GraphError, UnsupportedOperatorError
from convsmith.graph import Graph
from convsmith.graph.slots import filled_directly

__all__ = ["Field", "FieldStatus", "field_of", "fields", "image_input", "seen", "supports"]

_Form = TypeVar("_Form", bound=Where)

FieldStatus = Literal["exact", "upper-bound", "global", "unknown"]


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What one value sees of the input, per image axis.

    Attributes:
        axes: The field along each image axis; ``None`` where it is not known or not bounded.
        status: ``exact``; ``upper-bound``: no output sees more than ``axes`` (where these are
            ``None``: nobody knows how far); ``global``: it sees the whole input, and no position
            sees anything else than the others; ``unknown``.
        everywhere: Per image axis: whether at least one path sees all of it (squeeze-and-excite,
            global pooling, a mean over positions), beside the local one that ``axes`` describes.
        reason: Why the status is not ``exact``, or who sees everything.
    """

    axes: tuple[Axis | None, ...]
    status: FieldStatus = "exact"
    everywhere: tuple[bool, ...] = ()
    reason: str = dataclass_field(default="", compare=False)

    @property
    def is_global(self) -> bool:
        """Whether some path sees the whole input, at least along one axis."""
        return any(self.everywhere)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Per axis: how many pixels wide it is, in the output phase where it is widest."""
        return tuple(None if axis is None else axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[Fraction | None, ...]:
        """Per axis: how many pixels it moves from one output to the next."""
        return tuple(None if axis is None else axis.stride for axis in self.axes)

    @property
    def offset(self) -> tuple[int | None, ...]:
        """Per axis: the first pixel that output 0 sees; negative: in the padding."""
        return tuple(None if axis is None else axis.offset for axis in self.axes)

    @property
    def padding(self) -> tuple[int | None, ...]:
        """Per axis: the effective padding, ``-offset`` (Araujo et al., 2019, equation 4)."""
        return tuple(None if axis is None else -axis.offset for axis in self.axes)

    @property
    def centre(self) -> tuple[Fraction | None, ...]:
        """Per axis: where the field of output 0 has its middle; see :attr:`Axis.centre`."""
        return tuple(None if axis is None else axis.centre for axis in self.axes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the field as JSON-ready data.

        ``global`` is there, and true, when some path sees the whole input. ``phases`` is there
        when the field depends on the phase of the output: per axis, the first and last pixel
        that outputs 0, 1, ... of one period see, and in ``union`` what all of them see.
        """
        data: dict[str, Any] = {
            "size": list(self.size),
            "stride": [None if s is None else str(s) for s in self.stride],
            "offset": [None if o is None else str(o) for o in self.offset],
            "status": self.status,
        }
        if self.is_global:
            data["global"] = True
        if self.reason:
            data["reason"] = self.reason
        if any(axis is not None and len(axis.phases) > 1 for axis in self.axes):
            data["phases"] = [
                axis and [interval and list(interval) for interval in axis.phases]
                for axis in self.axes
            ]
            unions = [axis and axis.union_of_phases for axis in self.axes]
            data["union"] = [union and list(union) for union in unions]
        return data


def fields(
    graph: Graph,
    input: str | None = None,  # noqa: A002
    *,
    offsets: Mapping[str, int] | None = None,
) -> Mapping[str, Field]:
    """Returns the receptive field of every value.

    Args:
        graph: The network.
        input: The input that is looked at; without it, for every value the first input with
            image axes that the value depends on.
        offsets: For deformable convolutions, by name: by how many pixels their offsets move a
            tap at most. Without it their field has no bound.

    Raises:
        GraphError: If there is no such input.

    >>> from convsmith.graph import parse
    >>> field = fields(parse("3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1"))["conv2"]
    >>> field.size, field.padding, field.status
    ((13, 13), (3, 3), 'exact')
    """
    names = [value.name for value in graph.inputs if len(value.shape) > 2]
    if input is not None:
        names = [image_input(graph, input)]
    found: dict[str, Field] = {}
    for name in names:
        image = graph.shape(name)[2:]
        made: dict[int, Field] = {}
        for value, state in propagate(graph, name, [Axis()] * len(image), offsets=offsets).items():
            if value in found:
                continue
            field = made.get(id(state))
            if field is None:
                field = made[id(state)] = field_of(state, len(image))
            found[value] = field
    rank = len(graph.shape(names[0])) - 2 if names else 0
    nothing = Field(
        axes=(Axis(phases=(None,), step=0),) * rank,
        status="exact" if names else "unknown",
        everywhere=(False,) * rank,
        reason="it does not depend on the input" if names else "no input has image axes",
    )
    return MappingProxyType({value: found.get(value, nothing) for value in graph.shapes})


def field_of(state: State[Axis], rank: int) -> Field:
    """What is known about one value, in the words of the report."""
    if state.unknown:
        unknown = (None,) * rank
        return Field(
            axes=unknown, status="unknown", everywhere=(False,) * rank, reason=state.reason
        )
    everywhere = tuple(track.everywhere for track in state.tracks)
    status: FieldStatus = "exact"
    if any(everywhere) and all(
        track.where.is_constant and not track.unbounded for track in state.tracks
    ):
        status = "global"
    elif state.bound or any(track.scattered for track in state.tracks):
        status = "upper-bound"
    reason = state.reason if status == "upper-bound" else ""
    if any(everywhere) and not reason:
        reason = f"{state.gate} sees the whole input"
    axes = tuple(None if track.unbounded else track.where for track in state.tracks)
    return Field(axes=axes, status=status, everywhere=everywhere, reason=reason)


def seen(graph: Graph, value: str, input: str | None = None) -> tuple[Positions, ...]:  # noqa: A002
    """Returns, per image axis, what every single position of a value sees, borders included.

    Raises:
        UnsupportedOperatorError: If an operator on the way is not known.
        GraphError: If there is no such value or input, or it does not depend on the input.

    >>> from convsmith.graph import parse
    >>> rows, columns = seen(parse("1@5 > conv 1 3 p1"), "conv1")
    >>> rows.intervals
    ((0, 1), (0, 2), (1, 3), (2, 4), (3, 4))
    """
    name = image_input(graph, input)
    start = [Positions.image(size) for size in graph.shape(name)[2:]]
    state = _known(propagate(graph, name, start), value, name)
    return tuple(track.where for track in state.tracks)


def supports(
    graph: Graph,
    value: str,
    input: str | None = None,  # noqa: A002
    *,
    offsets: Mapping[str, int] | None = None,
) -> tuple[Support, ...]:
    """Returns, per image axis, which pixels the outputs of a value really see, holes left out.

    The rule holds far from the borders, and where the field of the value is exact. Where
    branches with different holes meet, it is the union along each axis.

    Raises:
        UnsupportedOperatorError: If an operator on the way is not known.
        GraphError: If there is no such value or input, or it does not depend on the input.
        UsageError: If the field is too wide to list its pixels.

    >>> from convsmith.graph import parse
    >>> rows, _ = supports(parse("1@32 > conv 1 3 d2 > conv 1 2 d8"), "conv2")
    >>> rows.at(0)
    (0, 2, 4, 8, 10, 12)
    """
    name = image_input(graph, input)
    start = [Support()] * (len(graph.shape(name)) - 2)
    states = propagate(graph, name, start, offsets=offsets)
    return tuple(track.where for track in _known(states, value, name).tracks)


def _known(states: Mapping[str, State[_Form]], value: str, name: str) -> State[_Form]:
    state = states.get(value)
    if state is None:
        raise GraphError(f"{value!r} does not depend on input {name!r}")
    if state.unknown:
        raise UnsupportedOperatorError(state.reason, place=value)
    return state


def image_input(graph: Graph, name: str | None = None) -> str:
    """Returns the input of a name, or the first, with image axes.

    Raises:
        GraphError: If there is none.
    """
    images = [value.name for value in graph.inputs if len(value.shape) > 2]
    if name is None and images:
        return images[0]
    if name is None:
        raise GraphError("no input has image axes")
    if name not in images:
        raise GraphError(
            f"no input {name!r} with image axes", remedy=f"it has {', '.join(images) or 'none'}"
        )
    return name
