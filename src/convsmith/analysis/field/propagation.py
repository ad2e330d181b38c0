"""One algorithm that follows image axes from the input through a whole network.

The moves of every operator are put together along every path; where paths meet, the field is
the union. The algorithm does not know in which form an axis says what its positions see: as a
rule (:class:`Axis`, :class:`Support`) or one by one (:class:`Positions`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Generic, Protocol, Self, TypeVar

from convsmith.analysis.field.axis import Axis, Periodic
from convsmith.analysis.field.moves import Move, Moves, Path, Row, moves
from convsmith.analysis.field.taps import LONGEST_PERIOD, Taps
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import (
    Activation,
    Cast,
    Concat,
    Conv,
    Identity,
    Norm,
    Slice,
    Split,
    Unary,
    Unsupported,
)

__all__ = ["State", "Track", "Where", "propagate", "row_of"]


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
    joined: _Joined[_Where] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Joined(Generic[_Where]):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Generic[_Where]):
    """What is known about one value.

    Attributes:
        tracks: Per image axis.
        varied: Whether channels see different pixels, and the tracks their union.
        bound: Whether the tracks are too large for some outputs.
        unknown: Whether nothing is known; ``reason`` says why.
        reason: Why the field is not exact.
        gate: Which node first sees everything.
    """

    tracks: tuple[Track[_Where], ...] = ()
    varied: bool = False
    bound: bool = False
    unknown: bool = False
    reason: str = ""
    gate: str = ""


def propagate(
    graph: Graph,
    name: str,
    start: Sequence[_Where],
    *,
    offsets: Mapping[str, int] | None = None,
    narrowest: bool = False,
) -> dict[str, State[_Where]]:
    """Follows the image axes of one input through everything that depends on it.

    Args:
        graph: The network.
        name: The input.
        start: What the input itself sees, per image axis.
        offsets: By node: by how many pixels it moves its taps at most (deformable convolution).
        narrowest: Whether to follow, where paths meet, only the one that sees least.

    Returns:
        The state of every value that depends on the input.
    """
    tracks = tuple(Track(where=where, axis=axis) for axis, where in enumerate(start, start=2))
    states: dict[str, State[_Where]] = {name: State(tracks=tracks)}
    image = graph.shape(name)[2:]
    walk: _Walk[_Where] = _Walk(
        graph=graph, image=image, offsets=offsets or {}, narrowest=narrowest
    )
    for node in graph.nodes:
        parts = [states.get(used) for used in node.inputs]
        if any(part is not None for part in parts):
            for index, made in enumerate(node.outputs):
                states[made] = walk.through(node, parts, index)
    return states


def row_of(
    graph: Graph, node: Node, index: int = 0, offsets: Mapping[str, int] | None = None
) -> Row | None:
    """The row of one output of a node; ``None`` where nobody knows.

    Where ``offsets`` says how far a node moves its taps, they are as wide as that allows.
    """
    shapes = graph.shapes
    known = tuple([shape for used in node.inputs if (shape := shapes[used]) is not None])
    output = shapes[node.outputs[index] if index else node.name]
    if output is None or len(known) < len(node.inputs):
        return None
    row = moves(node.op, known, output, index)
    if row is None or not offsets or node.name not in offsets:
        return row
    far = offsets[node.name]
    return tuple(
        path if isinstance(path, Path) else tuple(_within(move, far) for move in path)
        for path in row
    )


def _within(move: Move, far: int) -> Move:
    if move.how != "anywhere" or move.taps is None:
        return move
    phases = tuple(range(min(p) - far, max(p) + far + 1) for p in move.taps.phases)
    return replace(move, how="look", taps=replace(move.taps, phases=phases))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk(Generic[_Where]):
    """Goes from node to node.

    Attributes:
        graph: The network.
        image: The sizes of the image axes.
        offsets: By node: by how many pixels it moves its taps at most.
        narrowest: Whether to follow, where paths meet, only the one that sees least.
        met: What two states are together, by their identities: in a densely connected network
            every layer joins what the one before it has joined already.
    """

    graph: Graph
    image: Shape
    offsets: Mapping[str, int]
    narrowest: bool
    met: dict[tuple[int, int, bool], tuple[State[_Where], State[_Where], State[_Where]]] = field(
        default_factory=dict
    )

    def through(
        self, node: Node, parts: Sequence[State[_Where] | None], index: int
    ) -> State[_Where]:
        """The state of one output of a node, from those of its inputs."""
        for part in parts:
            if part is not None and part.unknown:
                return part
        if self._changes_nothing(node) and parts[0] is not None:
            return parts[0]
        row = row_of(self.graph, node, index, self.offsets)
        if row is None:
            kind = node.op.kind if isinstance(node.op, Unsupported) else type(node.op).__name__
            return State(unknown=True, reason=f"{node.name}: {kind} is not supported")
        output = self.graph.shape(node.outputs[index])
        moved = [
            self._input(node, part, path, self.graph.shape(used), output)
            for part, path, used in zip(parts, row, node.inputs, strict=True)
            if part is not None
        ]
        if len(moved) == 1:
            return moved[0]
        if self.narrowest:
            return min(moved, key=_width)
        return reduce(lambda a, b: self._union(node, a, b, output), moved)

    def _changes_nothing(self, node: Node) -> bool:
        """Whether every output sees what one input sees: the row says so of half of all nodes."""
        op = node.op
        if not isinstance(op, _POINTWISE) and not (isinstance(op, Norm) and op.kind == "batch"):
            return False
        shape = self.graph.shapes[node.name]
        return shape is not None and shape == self.graph.shapes[node.inputs[0]]

    def _input(
        self, node: Node, state: State[_Where], path: Moves | Path, shape: Shape, output: Shape
    ) -> State[_Where]:
        """Follows all tracks of one input through a node."""
        if not isinstance(path, Path):
            return self._step(node, state, path, shape, output)
        for moved, made in path.steps:
            state = self._input(node, state, moved, shape, made)
            shape = made
        return state

    def _step(
        self, node: Node, state: State[_Where], row: Moves, shape: Shape, output: Shape
    ) -> State[_Where]:
        kept = all(
            track.axis is not None
            and row[track.axis].how == "keep"
            and row[track.axis].to == track.axis
            for track in state.tracks
        )
        varied, bound, reason = state.varied, state.bound, state.reason
        if kept and not varied:
            return state
        if varied:
            if isinstance(node.op, Conv) and node.op.groups == 1:
                varied = False
            elif isinstance(node.op, Slice | Split):
                followed = {track.axis for track in state.tracks}
                bound |= any(
                    move.how == "look" and axis not in followed and shape[axis] != output[axis]
                    for axis, move in enumerate(row)
                )
            elif any(move.joins for move in self._taken(state, row)):
                bound = True
        if bound and not state.bound:
            reason = reason or f"{node.name} takes a part of channels that see different pixels"
        if kept:
            if (varied, bound) == (state.varied, state.bound):
                return state
            return replace(state, varied=varied, bound=bound, reason=reason)
        tracks = []
        gate = state.gate
        done: tuple[Track[_Where], Move, Track[_Where]] | None = None
        for track, extent in zip(state.tracks, self.image, strict=True):
            if track.axis is None:
                tracks.append(track)
                continue
            move = row[track.axis]
            size = shape[track.axis]
            if done is not None and _alike(done[0], track, done[1], move, shape, output):
                after = replace(done[2], axis=move.to)  # square images, square windows
            else:
                after, spreads = self._follow(track, move, size, output, extent)
                varied |= spreads
                done = (track, move, after) if after.scattered == track.scattered else None
            if after.everywhere and not track.everywhere:
                gate = gate or node.name
            if after.unbounded and not track.unbounded:
                reason = reason or f"{node.name} {move.reason}"
            elif move.reason and not after.where.is_constant:
                bound = True
                reason = reason or f"{node.name} {move.reason}"
            elif after.scattered and not track.scattered:
                reason = reason or f"{node.name} mixes positions with other axes"
            tracks.append(after)
        if any(track.where.is_empty for track in tracks):  # nothing along one axis: nothing at all
            tracks = [replace(track, where=track.where.nothing()) for track in tracks]
        return State(tracks=tuple(tracks), varied=varied, bound=bound, reason=reason, gate=gate)

    @staticmethod
    def _taken(state: State[_Where], row: Moves) -> list[Move]:
        return [row[track.axis] for track in state.tracks if track.axis is not None]

    def _follow(
        self, track: Track[_Where], move: Move, size: int, output: Shape, extent: int
    ) -> tuple[Track[_Where], bool]:
        """Follows one track through one move of an axis of ``size`` positions.

        Returns:
            The track, and whether positions that differ in another axis see different pixels.
        """
        where = track.where
        single = size == 1 or (where.is_constant and not track.scattered)
        match move.how:
            case "keep":
                return replace(track, axis=move.to), False
            case "gate" if single:
                return replace(track, axis=move.to), False
            case "gate":
                gated = where.gate(size, extent)
                return replace(track, axis=move.to, where=gated, everywhere=True), False
            case "reduce" if not single:
                all_of_it = where.whole(size, extent)
                return Track(where=all_of_it, axis=move.to, everywhere=True), False
            case "reduce" if move.to is not None and output[move.to] == 1:
                return replace(track, axis=move.to), False
            case "anywhere" if not single:
                freely = self._scattered(track, move.to, size, extent)
                return replace(freely, unbounded=True), False
            case "scatter" if not single:
                return _remembered(self._scattered(track, move.to, size, extent), track, move, size)
            case "look" if (restored := _restored(track, move, output)) is not None:
                return restored, False
            case "look" if track.scattered:
                return replace(track, axis=move.to, joined=None), False
            case "look" if move.taps is not None and move.to is not None:
                after, spreads = self._look(track, move, size, output, extent)
                return _remembered(after, track, move, size)[0], spreads
        return replace(track, axis=move.to, where=where.fixed(), joined=None), False

    @staticmethod
    def _scattered(track: Track[_Where], axis: int | None, size: int, extent: int) -> Track[_Where]:
        hull = track.where.whole(size, extent)
        return replace(track, axis=axis, where=hull, scattered=True, joined=None)

    def _look(
        self, track: Track[_Where], move: Move, size: int, output: Shape, extent: int
    ) -> tuple[Track[_Where], bool]:
        where = track.where
        assert move.taps is not None
        assert move.to is not None
        if isinstance(where, Periodic):
            if move.partial:
                return self._scattered(track, move.to, size, extent), False
            if where.is_constant and not _leaves_gaps(move.taps):
                return replace(track, axis=move.to, where=where.fixed(), joined=None), False
        axis, taps, spreads = _outermost(where, move, output)
        looked = where.look(taps, size, output[axis])
        if looked is None:
            return self._scattered(track, axis, size, extent), spreads
        after = Track(
            where=looked,
            axis=axis,
            everywhere=track.everywhere,
            scattered=track.scattered,
            unbounded=track.unbounded,
        )
        return after, spreads

    def _union(
        self, node: Node, a: State[_Where], b: State[_Where], output: Shape
    ) -> State[_Where]:
        """What sees what either of two inputs of a node sees."""
        if a is b:
            return a
        kinds = (id(a), id(b), isinstance(node.op, Concat))
        if kinds in self.met:
            return self.met[kinds][-1]
        for nothing, rest in ((a, b), (b, a)):
            if all(track.where.is_empty for track in nothing.tracks):
                return rest
        tracks = []
        apart: list[str] = []
        for one, other, extent in zip(a.tracks, b.tracks, self.image, strict=True):
            track = _meet(one, other, output, extent)
            if track.scattered and not (one.scattered or other.scattered or apart):
                apart = [str(t.where.stride) for t in (one, other) if isinstance(t.where, Periodic)]
            tracks.append(track)
        differ = a.tracks != b.tracks
        # The union over one axis forgets at which positions of the others a branch sees nothing.
        gaps = differ and any(track.where.gaps for track in (*a.tracks, *b.tracks))
        reason = a.reason or b.reason
        if not reason and gaps:
            reason = f"{node.name} joins branches that leave gaps"
        if not reason and len(set(apart)) > 1:
            reason = f"{node.name} joins branches of strides {' and '.join(apart)}"
        if not reason and any(track.scattered for track in tracks):
            reason = f"{node.name} mixes positions along different axes"
        both = State(
            tracks=tuple(tracks),
            varied=a.varied or b.varied or (differ and isinstance(node.op, Concat)),
            bound=a.bound or b.bound or gaps,
            reason=reason,
            gate=a.gate or b.gate,
        )
        if reason == (a.reason or b.reason) and not any(track.scattered for track in tracks):
            self.met[kinds] = a, b, both  # does not depend on where they meet
        return both


_POINTWISE = (Activation, Cast, Identity, Unary)


def _alike(
    a: Track[_Where], b: Track[_Where], one: Move, other: Move, shape: Shape, output: Shape
) -> bool:
    """Whether two tracks look through the same window, so that one result serves both."""
    if one.how != "look" or other.how != "look" or one.inner or other.inner or one.unit:
        return False
    if None in (a.axis, b.axis, one.to, other.to) or one.partial or other.partial or other.unit:
        return False
    sizes = (shape[a.axis or 0], output[one.to or 0]) == (shape[b.axis or 0], output[other.to or 0])
    same = (a.everywhere, a.scattered, a.unbounded) == (b.everywhere, b.scattered, b.unbounded)
    return (
        sizes
        and same
        and a.where == b.where
        and one.taps == other.taps
        and (one.reason == other.reason)
    )


def _remembered(
    after: Track[_Where], before: Track[_Where], move: Move, size: int
) -> tuple[Track[_Where], bool]:
    """The track on the longer axis, with what it was."""
    if not move.unit:
        return after, False
    joined = _Joined(where=before.where, scattered=before.scattered, unit=move.unit, size=size)
    return replace(after, joined=joined), False


def _restored(track: Track[_Where], move: Move, output: Shape) -> Track[_Where] | None:
    """The track as it was, if this move cuts its axis out of the longer one again."""
    joined = track.joined
    if joined is None or not move.inner or move.taps is None or move.to is None:
        return None
    for axis, step in ((move.to, move.taps.step), *move.inner):
        if (step, output[axis]) == (joined.unit, joined.size):
            return replace(
                track, axis=axis, where=joined.where, scattered=joined.scattered, joined=None
            )
    return None


def _width(state: State[_Where]) -> float:
    """How wide a field is, over all image axes."""
    width = 0.0
    for track in state.tracks:
        if track.unbounded or not isinstance(track.where, Axis):
            return math.inf
        width += track.where.size
    return width


def _leaves_gaps(taps: Taps) -> bool:
    """Whether some outputs may look at nothing, so that a constant does not stay one."""
    if len(taps.phases) == 1:
        return not len(taps.phases[0])
    return len(taps.phases) > LONGEST_PERIOD or not all(len(phase) for phase in taps.phases)


def _outermost(where: Where, move: Move, output: Shape) -> tuple[int, Taps, bool]:
    """Along which axis of the output a track goes on, with which taps.

    Where an axis is cut, its positions stand along several axes of the output. The track follows
    the outermost of those that make a difference and sees the union over the others.
    """
    assert move.taps is not None
    assert move.to is not None
    if not move.inner:
        return move.to, move.taps, False
    steps = ((move.to, move.taps.step), *move.inner)
    if move.anchored:  # at a border all of them make a difference
        matter = list(range(len(steps)))
    else:
        different = where.depends_on([step for _, step in steps])
        matter = [i for i in different if output[steps[i][0]] > 1]
    axis, step = steps[matter[0]] if matter else steps[0]
    rest = [(output[other], s) for i in matter[1:] for other, s in (steps[i],)]
    (base,) = move.taps.phases
    if math.prod(count for count, _ in rest) > _MOST_TAPS:
        low = sum((count - 1) * min(s, 0) for count, s in rest)
        high = sum((count - 1) * max(s, 0) for count, s in rest)
        positions: Sequence[int] = range(base[0] + low, base[-1] + high + 1)
    else:
        offsets = {0}
        for count, s in rest:
            offsets = {o + s * k for o in offsets for k in range(count)}
        positions = sorted(tap + offset for tap in base for offset in offsets)
    joined = Taps(phases=(positions,), step=step, beyond=move.taps.beyond)
    if not rest:
        return axis, joined, False
    alone = where.look(replace(joined, phases=(base,)), math.prod(output), output[axis])
    together = where.look(joined, math.prod(output), output[axis])
    return axis, joined, alone != together


_MOST_TAPS = 1 << 16


def _meet(a: Track[_Where], b: Track[_Where], output: Shape, extent: int) -> Track[_Where]:
    """One image axis where two paths meet."""
    if a == b:
        return a
    everywhere = a.everywhere or b.everywhere
    unbounded = a.unbounded or b.unbounded
    if isinstance(a.where, Periodic) and not (a.where.is_constant and b.where.is_constant):
        # A gate that sees everything: the direct path is what is worth describing.
        for gate, direct in ((a, b), (b, a)):
            if gate.where.is_constant and gate.everywhere and not gate.scattered:
                return replace(direct, everywhere=True)
    constant = [track.axis is None or track.where.is_constant for track in (a, b)]
    scattered = a.scattered or b.scattered or (a.axis != b.axis and not any(constant))
    where = None if scattered else a.where.union(b.where)
    if where is not None:
        axis = b.axis if constant[0] else a.axis
        return Track(
            where=where,
            axis=axis,
            everywhere=everywhere,
            unbounded=unbounded,
            joined=_both_joined(a, b),
        )
    hulls = [
        track.where.whole(1 if track.axis is None else output[track.axis], extent)
        for track in (a, b)
    ]
    together = hulls[0].union(hulls[1])
    assert together is not None  # constants always move at the same pace
    return Track(
        where=together,
        axis=a.axis if a.axis == b.axis else None,
        everywhere=everywhere,
        scattered=True,
        unbounded=unbounded,
        joined=_both_joined(a, b),
    )


def _both_joined(a: Track[_Where], b: Track[_Where]) -> _Joined[_Where] | None:
    """What two tracks on the same longer axis were, together."""
    one, other = a.joined, b.joined
    if one is None or other is None or a.axis != b.axis:
        return None
    if (one.unit, one.size) != (other.unit, other.size) or one.scattered or other.scattered:
        return None
    where = one.where.union(other.where)
    return None if where is None else replace(one, where=where)
