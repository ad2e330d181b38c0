"""The receptive field of every value: which pixels of the input it sees.

The moves of :mod:`convsmith.analysis.looking` are put together from the input on, along every
path; where paths meet, the field is the union. Nothing is rounded: fields are integers, also
after upsampling, where they repeat with the phase of the output (Araujo, Norris & Sim, 2019,
"Computing receptive fields of convolutional neural networks", generalized to rational strides).

A field is about what an output *can* depend on: weights are taken to be non-zero, and a window
with holes (dilation) counts from its first to its last pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from types import MappingProxyType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from convsmith.analysis.intervals import Axis, Positions, Taps
from convsmith.analysis.looking import Move, Moves, moves
from convsmith.errors import GraphError, UnsupportedOperatorError
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import Concat, Conv, Slice, Split, Unsupported

__all__ = ["Field", "FieldStatus", "fields", "seen"]

FieldStatus = Literal["exact", "upper-bound", "global", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What one value sees of the input, per image axis.

    Attributes:
        axes: The field along each image axis; ``None`` where it is not known.
        status: ``exact``; ``upper-bound``: no output sees more; ``global``: at least one path
            sees the whole input, ``axes`` describes the direct path where there is one;
            ``unknown``.
        reason: Why the status is not ``exact``.
    """

    axes: tuple[Axis | None, ...]
    status: FieldStatus = "exact"
    reason: str = ""

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

    def to_dict(self) -> dict[str, Any]:
        """Returns the field as JSON-ready data.

        ``phases`` is there when the field depends on the phase of the output: per axis, the
        first and last pixel that outputs 0, 1, ... of one period see.
        """
        data: dict[str, Any] = {
            "size": list(self.size),
            "stride": [None if s is None else str(s) for s in self.stride],
            "offset": [None if o is None else str(o) for o in self.offset],
            "status": self.status,
        }
        if self.reason:
            data["reason"] = self.reason
        if any(axis is not None and len(axis.phases) > 1 for axis in self.axes):
            data["phases"] = [
                axis and [interval and list(interval) for interval in axis.phases]
                for axis in self.axes
            ]
        return data


def fields(graph: Graph, input: str | None = None) -> Mapping[str, Field]:  # noqa: A002
    """Returns the receptive field of every value.

    Args:
        graph: The network.
        input: The input that is looked at; without it, for every value the first input with
            image axes that the value depends on.

    Raises:
        GraphError: If there is no such input.

    >>> from convsmith.graph import parse
    >>> field = fields(parse("3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1"))["conv2"]
    >>> field.size, field.status
    ((13, 13), 'exact')
    """
    names = [value.name for value in graph.inputs if len(value.shape) > 2]
    if input is not None:
        names = [_image(graph, input)]
    found: dict[str, Field] = {}
    for name in names:
        image = graph.shape(name)[2:]
        states = _propagate(graph, name, [Axis()] * len(image))
        for value, state in states.items():
            found.setdefault(value, _field(state, len(image)))
    rank = len(graph.shape(names[0])) - 2 if names else 0
    nothing = Field(
        axes=(Axis(phases=(None,), step=0),) * rank,
        status="exact" if names else "unknown",
        reason="it does not depend on the input" if names else "no input has image axes",
    )
    return MappingProxyType({value: found.get(value, nothing) for value in graph.shapes})


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
    images = [v.name for v in graph.inputs if len(v.shape) > 2]
    if input is None and not images:
        raise GraphError("no input has image axes")
    name = _image(graph, input or images[0])
    start = [Positions.image(size) for size in graph.shape(name)[2:]]
    state = _propagate(graph, name, start).get(value)
    if state is None:
        raise GraphError(f"{value!r} does not depend on input {name!r}")
    if state.unknown:
        raise UnsupportedOperatorError(state.reason, place=value)
    return tuple(track.where for track in state.tracks)


def _image(graph: Graph, name: str) -> str:
    images = [value.name for value in graph.inputs if len(value.shape) > 2]
    if name not in images:
        raise GraphError(
            f"no input {name!r} with image axes", remedy=f"it has {', '.join(images) or 'none'}"
        )
    return name


# One algorithm for both forms of intervals ---------------------------------------


class _Intervals(Protocol):
    """What :class:`Axis` and :class:`Positions` have in common."""

    @property
    def is_constant(self) -> bool: ...
    @property
    def gaps(self) -> int: ...
    @property
    def is_empty(self) -> bool: ...
    def look(self, taps: Taps, size: int, count: int) -> Self | None: ...
    def whole(self, size: int, extent: int) -> Self: ...
    def gate(self, size: int, extent: int) -> Self: ...
    def fixed(self) -> Self: ...
    def nothing(self) -> Self: ...
    def union(self, other: Self) -> Self | None: ...


_Where = TypeVar("_Where", bound=_Intervals)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track(Generic[_Where]):
    """One image axis, followed through the network.

    Attributes:
        where: What each position sees.
        axis: The axis of the value along which positions count; ``None``: there is none.
        everywhere: Whether some path sees all of the image axis.
        scattered: Whether positions are mixed with other axes, so that ``where`` is the hull.
    """

    where: _Where
    axis: int | None
    everywhere: bool = False
    scattered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _State(Generic[_Where]):
    """What is known about one value.

    Attributes:
        tracks: Per image axis.
        varied: Whether channels see different pixels, and the tracks their union.
        bound: Whether the tracks are too large for some outputs.
        unknown: Whether nothing is known; ``reason`` says why.
        reason: Why the field is not exact.
    """

    tracks: tuple[_Track[_Where], ...] = ()
    varied: bool = False
    bound: bool = False
    unknown: bool = False
    reason: str = ""


def _field(state: _State[Axis], rank: int) -> Field:
    if state.unknown:
        return Field(axes=(None,) * rank, status="unknown", reason=state.reason)
    status: FieldStatus = "exact"
    if any(track.everywhere for track in state.tracks):
        status = "global"
    elif state.bound or any(track.scattered for track in state.tracks):
        status = "upper-bound"
    axes = tuple(track.where for track in state.tracks)
    return Field(axes=axes, status=status, reason="" if status == "exact" else state.reason)


def _propagate(graph: Graph, name: str, start: Sequence[_Where]) -> dict[str, _State[_Where]]:
    """The state of every value that depends on an input."""
    tracks = tuple(_Track(where=where, axis=axis) for axis, where in enumerate(start, start=2))
    states = {name: _State(tracks=tracks)}
    image = graph.shape(name)[2:]
    for node in graph.nodes:
        parts = [states.get(used) for used in node.inputs]
        if any(part is not None for part in parts):
            for index, made in enumerate(node.outputs):
                states[made] = _through(graph, node, parts, index, image)
    return states


def _through(
    graph: Graph, node: Node, parts: list[_State[_Where] | None], index: int, image: Shape
) -> _State[_Where]:
    """The state of one output of a node, from those of its inputs."""
    for part in parts:
        if part is not None and part.unknown:
            return part
    inputs = [graph.shapes[used] for used in node.inputs]
    known = tuple(shape for shape in inputs if shape is not None)
    output = graph.shapes[node.outputs[index]]
    table = None
    if output is not None and len(known) == len(inputs):
        table = moves(node.op, known, output, index)
    if table is None or output is None:
        kind = node.op.kind if isinstance(node.op, Unsupported) else type(node.op).__name__
        return _State(unknown=True, reason=f"{node.name}: {kind} is not supported")
    moved = [
        _move(node, part, row, shape, output, image)
        for part, row, shape in zip(parts, table, known, strict=True)
        if part is not None
    ]
    return reduce(lambda a, b: _union(node, a, b, output, image), moved)


def _move(
    node: Node, state: _State[_Where], row: Moves, shape: Shape, output: Shape, image: Shape
) -> _State[_Where]:
    """Follows all tracks of one input through a node."""
    varied, bound = state.varied, state.bound
    if isinstance(node.op, Conv) and node.op.groups == 1:
        varied = False
    followed = {track.axis for track in state.tracks}
    if varied and isinstance(node.op, Slice | Split):
        bound |= any(
            move.how == "look" and axis not in followed and shape[axis] != output[axis]
            for axis, move in enumerate(row)
        )
    tracks = []
    reason = state.reason
    for track, extent in zip(state.tracks, image, strict=True):
        if track.axis is None:
            tracks.append(track)
            continue
        move = row[track.axis]
        bound |= varied and move.regroups == "join"
        varied |= move.regroups == "cut" and not track.where.is_constant
        after = _follow(track, move, shape[track.axis], output, extent)
        if after.everywhere and not track.everywhere:
            reason = f"{node.name} sees the whole input"
        elif after.scattered and not track.scattered:
            reason = f"{node.name} mixes positions with other axes"
        tracks.append(after)
    if any(track.where.is_empty for track in tracks):  # nothing along one axis: nothing at all
        tracks = [replace(track, where=track.where.nothing()) for track in tracks]
    if bound and not state.bound:
        reason = f"{node.name} takes a part of channels that see different pixels"
    return _State(tracks=tuple(tracks), varied=varied, bound=bound, reason=reason)


def _follow(
    track: _Track[_Where], move: Move, size: int, output: Shape, extent: int
) -> _Track[_Where]:
    """Follows one track through one move of an axis of ``size`` positions."""
    where = track.where
    single = size == 1 or (where.is_constant and not track.scattered)
    match move.how:
        case "keep":
            return replace(track, axis=move.to)
        case "gate" if single:
            return replace(track, axis=move.to)
        case "gate":
            return replace(track, axis=move.to, where=where.gate(size, extent), everywhere=True)
        case "reduce" if not single:
            return _Track(where=where.whole(size, extent), axis=move.to, everywhere=True)
        case "reduce" if move.to is not None and output[move.to] == 1:
            return replace(track, axis=move.to)
        case "scatter" if not single:
            hull = where.whole(size, extent)
            return replace(track, axis=move.to, where=hull, scattered=True)
        case "look" if track.scattered:
            return replace(track, axis=move.to)
        case "look" if move.taps is not None and move.to is not None:
            looked = where.look(move.taps, size, output[move.to])
            if looked is not None:
                return replace(track, axis=move.to, where=looked)
            hull = where.whole(size, extent)
            return replace(track, axis=move.to, where=hull, scattered=True)
    return replace(track, axis=move.to, where=where.fixed())


def _union(
    node: Node, a: _State[_Where], b: _State[_Where], output: Shape, image: Shape
) -> _State[_Where]:
    """What sees what either of two inputs of a node sees."""
    if a.unknown or b.unknown:
        return a if a.unknown else b
    for nothing, rest in ((a, b), (b, a)):
        if all(track.where.is_empty for track in nothing.tracks):
            return rest
    tracks = []
    for one, other, extent in zip(a.tracks, b.tracks, image, strict=True):
        track = _meet(one, other, output, extent)
        if track is None:
            strides = [str(t.where.stride) for t in (one, other) if isinstance(t.where, Axis)]
            return _State(
                unknown=True,
                reason=f"{node.name} joins branches of strides {' and '.join(strides)}",
            )
        tracks.append(track)
    differ = a.tracks != b.tracks
    # The union over one axis forgets at which positions of the others a branch sees nothing.
    gaps = differ and any(track.where.gaps for track in (*a.tracks, *b.tracks))
    reason = a.reason or b.reason
    if not reason and gaps:
        reason = f"{node.name} joins branches that leave gaps"
    if not reason and any(track.scattered for track in tracks):
        reason = f"{node.name} mixes positions along different axes"
    return _State(
        tracks=tuple(tracks),
        varied=a.varied or b.varied or (differ and isinstance(node.op, Concat)),
        bound=a.bound or b.bound or gaps,
        reason=reason,
    )


def _meet(
    a: _Track[_Where], b: _Track[_Where], output: Shape, extent: int
) -> _Track[_Where] | None:
    """One image axis where two paths meet; ``None`` if the paths move at different paces."""
    if a == b:
        return a
    everywhere = a.everywhere or b.everywhere
    if isinstance(a.where, Axis) and not (a.where.is_constant and b.where.is_constant):
        # A gate that sees everything: the direct path is what is worth describing.
        for gate, direct in ((a, b), (b, a)):
            if gate.where.is_constant and gate.everywhere and not gate.scattered:
                return replace(direct, everywhere=True)
    constant = [track.axis is None or track.where.is_constant for track in (a, b)]
    if a.scattered or b.scattered or (a.axis != b.axis and not any(constant)):
        hulls = [
            track.where.whole(1 if track.axis is None else output[track.axis], extent)
            for track in (a, b)
        ]
        where = hulls[0].union(hulls[1])
        axis = a.axis if a.axis == b.axis else None
        scattered = True
    else:
        where = a.where.union(b.where)
        axis = b.axis if constant[0] else a.axis
        scattered = False
    if where is None:
        return None
    return _Track(where=where, axis=axis, everywhere=everywhere, scattered=scattered)
