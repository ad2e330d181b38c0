"""One algorithm that follows image axes from the input through a whole network.

The moves of every operator are put together along every path; where paths meet, the field is
the union. The algorithm does not know in which form an axis says what its positions see: as a
rule (:class:`Axis`, :class:`Support`) or one by one (:class:`Positions`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from convsmith.analysis.field.axis import Axis, Periodic
from convsmith.analysis.field.channels import (
    along,
    blind,
    channelled,
    paired,
    relabelled,
    side_by_side,
)
from convsmith.analysis.field.cutting import leaves_gaps, outermost
from convsmith.analysis.field.meeting import meet
from convsmith.analysis.field.moves import Move, Moves, Path, Row, moves
from convsmith.analysis.field.states import Channels, Joined, State, Track, Where
from convsmith.analysis.field.taps import Taps
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import (
    Activation,
    Cast,
    Concat,
    Conv,
    Identity,
    Norm,
    Operator,
    Pad,
    Slice,
    Split,
    Unary,
    Unsupported,
)

__all__ = ["State", "Track", "Where", "propagate", "row_of"]


_Where = TypeVar("_Where", bound=Where)


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
    last = _last_part(graph)
    labelling = replace(walk, labelled=not narrowest)
    for place, node in enumerate(graph.nodes):
        parts = [states.get(used) for used in node.inputs]
        if any(part is not None for part in parts):
            follower = labelling if place <= last else walk
            for index, made in enumerate(node.outputs):
                states[made] = follower.through(node, parts, made, index)
    return states


def _last_part(graph: Graph) -> int:
    """The place of the last node that may take a part of the channels; -1: there is none.

    After channels that see nothing were added, every node may.
    """
    last = -1
    for place, node in enumerate(graph.nodes):
        if _takes_parts(node.op):
            last = place
        if isinstance(node.op, Pad) and any(map(any, node.op.padding[:2])):
            return len(graph.nodes)
    return last


def _takes_parts(op: Operator) -> bool:
    """Whether some channels may be left out; padding that is negative leaves some out."""
    if isinstance(op, Pad):
        return any(min(pads) < 0 for pads in op.padding[:2])
    return isinstance(op, Slice | Split)


def row_of(
    graph: Graph, node: Node, index: int = 0, offsets: Mapping[str, int] | None = None
) -> Row | None:
    """The row of one output of a node; ``None`` where nobody knows.

    Where ``offsets`` says how far a node moves its taps, they are as wide as that allows.
    """
    shapes = graph.shapes
    known = tuple([shape for used in node.inputs if (shape := shapes[used]) is not None])
    output = shapes[node.output(index)]
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
        labelled: Whether to remember what every channel sees: some node takes a part of them.
        met: What two states are together, by their identities: in a densely connected network
            every layer joins what the one before it has joined already.
        spent: How much work was done on rules of many phases.
    """

    graph: Graph
    image: Shape
    offsets: Mapping[str, int]
    narrowest: bool
    labelled: bool = False
    met: dict[tuple[int, int, bool], tuple[State[_Where], State[_Where], State[_Where]]] = field(
        default_factory=dict
    )
    spent: list[int] = field(default_factory=lambda: [0])

    def through(
        self, node: Node, parts: Sequence[State[_Where] | None], made: str, index: int
    ) -> State[_Where]:
        """The state of ``made``, one output of a node, from those of its inputs."""
        for part in parts:
            if part is not None and part.unknown:
                return part
        if self._changes_nothing(node) and parts[0] is not None:
            return parts[0]
        row = row_of(self.graph, node, index, self.offsets)
        if row is None:
            kind = node.op.kind if isinstance(node.op, Unsupported) else type(node.op).__name__
            return State(unknown=True, reason=f"{node.name}: {kind} is not supported")
        output = self.graph.shape(made)
        if self.labelled and isinstance(node.op, Concat):
            return self._concatenated(node, parts, row, output)
        if self.labelled and isinstance(node.op, Pad):
            parts = [_told_apart(parts[0], node.op, self.graph.shape(node.inputs[0]))]
        moved = [
            part
            if not part.varied and _stays(part, path)
            else self._input(node, part, path, self.graph.shape(used), output)
            for part, path, used in zip(parts, row, node.inputs, strict=True)
            if part is not None
        ]
        if self.narrowest:
            return min(moved, key=_width)
        return self._united(node, moved, output)

    def _united(self, node: Node, states: Sequence[State[_Where]], output: Shape) -> State[_Where]:
        united = states[0]
        for state in states[1:]:
            united = self._union(node, united, state, output)
        return united

    def _changes_nothing(self, node: Node) -> bool:
        """Whether every output sees what one input sees: the row says so of half of all nodes."""
        op = node.op
        if type(op) not in _POINTWISE and not (isinstance(op, Norm) and op.kind == "batch"):
            return False
        shape = self.graph.shapes[node.name]
        return shape is not None and shape == self.graph.shapes[node.inputs[0]]

    def _input(
        self, node: Node, state: State[_Where], path: Moves | Path, shape: Shape, output: Shape
    ) -> State[_Where]:
        """Follows all tracks of one input through a node."""
        if isinstance(path, Path) and (not path.reshapes or not self.labelled):
            if path.mirrors is not None and state.channels is not None:
                state = replace(state, channels=None)
            for moved, made in path.steps:
                state = self._input(node, state, moved, shape, made)
                shape = made
            return state
        after = self._through_all(node, state, path, shape, output)
        if state.channels is None or not self.labelled:
            return after
        return self._carried(node, state, after, path, shape, output)

    def _through_all(
        self, node: Node, state: State[_Where], path: Moves | Path, shape: Shape, output: Shape
    ) -> State[_Where]:
        """The same without a look at single channels."""
        if not isinstance(path, Path):
            return self._step(node, state, path, shape, output)
        for moved, made in path.steps:
            state = self._through_all(node, state, moved, shape, made)
            shape = made
        return state

    # Channel by channel

    def _carried(
        self,
        node: Node,
        state: State[_Where],
        after: State[_Where],
        path: Moves | Path,
        shape: Shape,
        output: Shape,
    ) -> State[_Where]:
        """Follows every channel of one input; ``after`` is what all of them together became."""
        channels = state.channels
        assert channels is not None
        if not after.varied:
            return _labelled(after, None)
        found = relabelled(channels, path, shape, output)
        parts = _takes_parts(node.op)
        if found is None:
            return replace(after, channels=None, bound=after.bound or parts)
        labels, sources = found
        moved: dict[int, State[_Where]] = {}
        for label in sorted(frozenset().union(*sources)):
            one = channels.states[label]
            moved[label] = self._through_all(node, one, path, shape, output)
            if moved[label].varied and (parts or any(len(source) > 1 for source in sources)):
                reason = moved[label].reason or _parts(node)
                moved[label] = replace(moved[label], bound=True, reason=reason)
        states = [
            self._united(node, [moved[label] for label in sorted(source)], output)
            if source
            else blind(after)
            for source in sources
        ]
        if parts and states:
            after = self._united(node, states, output)
        return _labelled(after, channelled(labels, states))

    def _concatenated(
        self, node: Node, parts: Sequence[State[_Where] | None], row: Row, output: Shape
    ) -> State[_Where]:
        """What the inputs of a concatenation are together; constants see nothing."""
        shapes = [self.graph.shape(used) for used in node.inputs]
        moved = [
            None if part is None else self._through_all(node, part, path, shape, output)
            for part, path, shape in zip(parts, row, shapes, strict=True)
        ]
        known = [state for state in moved if state is not None]
        both = self._united(node, known, output)
        if len({id(state) for state in moved}) == 1 and both.channels is None:
            return both
        assert isinstance(node.op, Concat)
        axis = node.op.axis % len(output)
        seen = [blind(known[0]) if state is None else state for state in moved]
        return _labelled(both, side_by_side(seen, axis, shapes))

    def _paired(
        self, node: Node, a: State[_Where], b: State[_Where], output: Shape
    ) -> Channels[_Where] | None:
        """What the channels see of two inputs that meet element by element."""
        if (a.channels is None and b.channels is None) or not self.labelled:
            return None
        pairs = paired(a, b)
        if pairs is None:
            return None
        labels, met = pairs
        return channelled(labels, [self._union(node, one, two, output) for one, two in met])

    # All channels together

    def _step(
        self, node: Node, state: State[_Where], row: Moves, shape: Shape, output: Shape
    ) -> State[_Where]:
        kept = _stays(state, row)
        varied, bound, reason = state.varied, state.bound, state.reason
        if kept and not varied:
            return state
        if varied:
            if isinstance(node.op, Conv) and node.op.groups == 1:
                varied = False
            elif _takes_parts(node.op) and not (state.channels and self.labelled):
                followed = {track.axis for track in state.tracks}
                bound |= any(
                    move.how == "look" and axis not in followed and shape[axis] != output[axis]
                    for axis, move in enumerate(row)
                )
            elif any(move.joins for move in self._taken(state, row)):
                bound = True
        if bound and not state.bound:
            reason = reason or _parts(node)
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
                after = done[2].on(move.to)  # square images, square windows
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
                return track.on(move.to), False
            case "gate" if single:
                return track.on(move.to), False
            case "gate":
                gated = where.gate(size, extent)
                return replace(track, axis=move.to, where=gated, everywhere=True), False
            case "reduce" if not single:
                all_of_it = where.whole(size, extent)
                return Track(where=all_of_it, axis=move.to, everywhere=True), False
            case "reduce" if move.to is not None and output[move.to] == 1:
                return track.on(move.to), False
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
            if where.is_constant and not leaves_gaps(move.taps):
                return replace(track, axis=move.to, where=where.fixed(), joined=None), False
        axis, taps, spreads = outermost(where, move, output)
        looked = where.look(taps, size, output[axis]) if self._affords(where, taps) else None
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

    def _affords(self, where: _Where, taps: Taps) -> bool:
        """Whether a look takes no more work than is left; if so, it is taken from that."""
        if not isinstance(where, Periodic):
            return True
        period = len(where.phases)
        phases = len(taps.phases) * (period // math.gcd(period, taps.step))
        work = phases * min(len(taps.phases[0]), 2 * period) - 2  # a window over a plain rule: none
        if work <= 0:
            return True
        self.spent[0] += work
        if self.spent[0] <= _MOST_WORK:
            return True
        self.spent[0] -= work
        return False

    def _union(
        self, node: Node, a: State[_Where], b: State[_Where], output: Shape
    ) -> State[_Where]:
        """What sees what either of two inputs of a node sees."""
        if a is b:
            return a
        kinds = (id(a), id(b), isinstance(node.op, Concat))
        if (met := self.met.get(kinds)) is not None:
            return met[-1]
        for nothing, rest in ((a, b), (b, a)):
            if all(track.where.is_empty for track in nothing.tracks):
                return rest
        tracks = []
        apart: list[str] = []
        for one, other, extent in zip(a.tracks, b.tracks, self.image, strict=True):
            track = meet(one, other, output, extent)
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
            channels=None if isinstance(node.op, Concat) else self._paired(node, a, b, output),
            tracks=tuple(tracks),
            varied=a.varied or b.varied or (differ and isinstance(node.op, Concat)),
            bound=a.bound or b.bound or gaps,
            reason=reason,
            gate=a.gate or b.gate,
        )
        if both.channels is not None and len(both.channels.states) == 1:
            both = _labelled(both, both.channels)
        if reason == (a.reason or b.reason) and not any(track.scattered for track in tracks):
            self.met[kinds] = a, b, both  # does not depend on where they meet
        return both


def _labelled(state: State[_Where], channels: Channels[_Where] | None) -> State[_Where]:
    """A state, and what its channels see: nothing else, if they all see the same."""
    if channels is None:
        return state if state.channels is None else replace(state, channels=None)
    if len(channels.states) == 1:
        return replace(state, channels=None, varied=channels.states[0].varied)
    return replace(state, channels=channels, varied=True)


def _told_apart(state: State[_Where] | None, op: Pad, shape: Shape) -> State[_Where] | None:
    """A state with a label for every channel beside which channels are added that see nothing."""
    if state is None or op.mode != "constant":
        return state
    followed = {track.axis for track in state.tracks}
    axes = [a for a, pads in enumerate(op.padding) if any(pads) and a not in followed]
    if not axes or (state.varied and state.channels is None):
        return state
    return replace(state, varied=True, channels=along(state, axes, shape))


def _parts(node: Node) -> str:
    return f"{node.name} takes a part of channels that see different pixels"


_POINTWISE = frozenset((Activation, Cast, Identity, Unary))  # operator classes are final


def _stays(state: State[_Where], path: Moves | Path) -> bool:
    """Whether all tracks stay on their axes, every position where it is."""
    if isinstance(path, Path):
        return False
    for track in state.tracks:
        axis = track.axis
        if axis is None or (move := path[axis]).how != "keep" or move.to != axis:
            return False
    return True


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
    joined = Joined(where=before.where, scattered=before.scattered, unit=move.unit, size=size)
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


_MOST_WORK = 1 << 21
"""On all rules of a network together; what takes more becomes a bound."""
