"""The field from the top down: what one layer sees of every value before it.

The textbook's recursion for a chain is ``size = (size - 1) * stride + dilation * (kernel - 1) + 1``
from the last layer down. Here it goes down any graph, with sets of positions in place of sizes,
so that it is exact for every phase of the layer, with holes and branches. At the input it must
find what :func:`fields` finds from the bottom up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from convsmith.analysis.field.axis import Axis, Support
from convsmith.analysis.field.fields import Field, FieldStatus
from convsmith.analysis.field.moves import Move, Moves, Path
from convsmith.analysis.field.propagation import row_of
from convsmith.analysis.field.taps import LONGEST_PERIOD, Taps
from convsmith.errors import GraphError
from convsmith.graph import Graph, Shape

__all__ = ["top_down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What a layer sees along one axis of a value.

    Attributes:
        axis: The axis of the layer that decides; ``None``: every position sees the same.
        seen: By position along it.
        everywhere: Whether some path sees the whole axis.
        bound: Why it may be too large; empty if it is exact.
        unbounded: Whether nobody knows how far it sees.
        mixed: Whether not all of ``seen`` may be seen together with all that is seen along the
            other axes, so that a part of it may see less than the whole.
    """

    axis: int | None
    seen: Support
    everywhere: bool = False
    bound: str = ""
    unbounded: bool = False
    mixed: bool = False


_Views = tuple[_View, ...]


def top_down(
    graph: Graph, layer: str, *, offsets: Mapping[str, int] | None = None
) -> Mapping[str, Field]:
    """Returns what one layer sees of every value that it depends on, itself included.

    Args:
        graph: The network.
        layer: The name of a value.
        offsets: For deformable convolutions, by name: by how many pixels they move a tap at most.

    Returns:
        By value, in the order from the layer down: the field of the layer, in positions of that
        value along its axes after batch and channels.

    Raises:
        GraphError: If there is no such layer.
        UsageError: If the field is too wide to list.

    >>> from convsmith.graph import parse
    >>> graph = parse("3@200 > conv 8 5/2 p1 > maxpool 3/1 > conv 8 3/1 p1")
    >>> [(value, field.size[0]) for value, field in top_down(graph, "conv2").items()]
    [('conv2', 1), ('maxpool1', 3), ('conv1', 5), ('x', 13)]
    """
    if layer not in graph.shapes:
        raise GraphError(f"the network has no value {layer!r}")
    shape = graph.shape(layer)
    channels = tuple(_whole(size) for size in shape[:2])
    positions = tuple(_View(axis=axis, seen=Support()) for axis in range(2, len(shape)))
    known: dict[str, _Views | None] = {layer: (*channels, *positions)}
    for node in reversed(graph.nodes):
        for index, made in reversed(list(enumerate(node.outputs))):
            if made not in known:
                continue
            views = known[made]
            row = row_of(graph, node, index, offsets)
            for place, used in enumerate(node.inputs):
                if used in graph.constants:
                    continue
                if views is None or row is None:
                    known[used] = None
                    continue
                part = _down(views, row[place], graph.shape(used), graph.shape(made), node.name)
                before = known.get(used, part)
                known[used] = None if before is None else _both(before, part, graph.shape(used))
    return MappingProxyType({value: _field(views, value, graph) for value, views in known.items()})


def _field(views: _Views | None, value: str, graph: Graph) -> Field:
    if views is None:
        rank = max(len(graph.shapes[value] or ()) - 2, 0)
        return Field(
            axes=(None,) * rank,
            status="unknown",
            everywhere=(False,) * rank,
            reason="an operator on the way is not supported",
        )
    axes = [None if view.unbounded else _hull(view.seen) for view in views[2:]]
    if any(view.seen.is_empty for view in views):  # nothing along one axis: nothing at all
        axes = [Axis(phases=(None,), step=0)] * len(axes)
    everywhere = tuple(view.everywhere for view in views[2:])
    reasons = [view.bound for view in views[2:] if view.bound]
    status: FieldStatus = "upper-bound" if reasons else "exact"
    if any(everywhere) and all(axis is not None and axis.is_constant for axis in axes):
        status = "global"
    return Field(
        axes=tuple(axes), status=status, everywhere=everywhere, reason=reasons[0] if reasons else ""
    )


def _hull(seen: Support) -> Axis:
    phases = tuple(
        None if part is None else (part[0], part[0] + part[1].bit_length() - 1)
        for part in seen.phases
    )
    return Axis(phases=phases, step=seen.step).shortest()


def _whole(size: int, reason: str = "", *, everywhere: bool = False) -> _View:
    every = Support(phases=((0, 1),), step=1).whole(size, size)
    return _View(axis=None, seen=every, everywhere=everywhere, bound=reason)


# Down through one operator --------------------------------------------------------


def _down(views: _Views, path: Moves | Path, shape: Shape, output: Shape, node: str) -> _Views:
    if any(view.seen.is_empty for view in views):
        return (_View(axis=None, seen=Support(step=0).nothing()),) * len(shape)
    if not isinstance(path, Path):
        return _through(views, path, shape, output, node)
    shapes = [shape, *(made for _, made in path.steps)]
    for place in reversed(range(len(path.steps))):
        step, made = path.steps[place]
        views = _down(views, step, shapes[place], made, node)
    return views


def _through(views: _Views, row: Moves, shape: Shape, output: Shape, node: str) -> _Views:
    """All axes through one operator."""
    found = [_axis(views, move, size, output, node) for move, size in zip(row, shape, strict=True)]
    for place, move in enumerate(row[:2]):
        if move.taps is not None:
            found[place] = _inside(found[place], move.taps, shape[place])
    for to, above in enumerate(views):
        if above.axis is not None:
            continue
        own = [axis for axis, move in enumerate(row) if move.to == to and move.how == "look"]
        if any(row[axis].joins for axis in own):
            every = math.prod(found[axis].seen.count for axis in own)
            if every > above.seen.count:
                found = [replace(v, mixed=v.mixed or i in own) for i, v in enumerate(found)]
        elif above.mixed and any(row[axis].partial for axis in own):
            reason = f"{node} joins channels that are seen differently"
            found = [replace(view, bound=view.bound or reason) for view in found]
    return tuple(found)


def _axis(views: _Views, move: Move, size: int, output: Shape, node: str) -> _View:
    above = None if move.to is None else views[move.to]
    match move.how:
        case "keep" | "gate" if above is not None:
            gated = move.how == "gate" and size > 1
            return replace(above, everywhere=above.everywhere or gated)
        case "look" if move.taps is not None and above is not None:
            if move.partial and above.axis is None and len(move.taps.phases) == 1:
                return _cropped(above, move.taps.phases[0][0], size)
            if move.partial:
                return _whole(size, f"{node} mixes positions with other axes")
            found = _looked(views, above, move, output)
            if found is None:
                return _whole(size, f"{node} mixes positions with other axes")
            reason = f"{node} {move.reason}" if move.reason else ""
            return replace(found, bound=found.bound or reason)
        case "anywhere" if size > 1:
            return replace(_whole(size, f"{node} {move.reason}"), unbounded=True)
        case "scatter" if size > 1:
            return _whole(size, f"{node} mixes positions with other axes")
        case "reduce":
            return _whole(size, everywhere=size > 1)
    if above is not None and above.seen.gaps:  # where nothing is seen, not even position 0 is
        phases = tuple(None if part is None else (0, 1) for part in above.seen.phases)
        return _View(axis=above.axis, seen=Support(phases=phases, step=0))
    return _View(axis=None, seen=Support(step=0))


def _cropped(above: _View, first: int, size: int) -> _View:
    """The positions of one of several inputs that stand side by side."""
    part = above.seen.part(0)
    own = None if part is None else Support.cropped(Support.shifted(part, first), size)
    return replace(above, seen=Support(phases=(own,), step=0))


def _looked(views: _Views, above: _View, move: Move, output: Shape) -> _View | None:
    """What is seen through taps; ``None`` if no rule says it."""
    assert move.taps is not None
    taps = move.taps
    if move.inner:
        sides = [(views[axis], step, output[axis]) for axis, step in move.inner]
        ahead = [(above, taps.step, output[move.to or 0]), *sides]
        moving = [place for place, (view, _, _) in enumerate(ahead) if view.axis is not None]
        if len(moving) > 1:
            return None
        leading = moving[0] if moving else 0
        positions = set(taps.phases[0])
        bound = ""
        mixed = any(view.mixed for view, _, _ in ahead)
        for place, (view, step, count) in enumerate(ahead):
            if place != leading:
                bound = bound or view.bound
                inside = [q for q in view.seen.at(0) if 0 <= q < count]
                positions = {p + q * step for p in positions for q in inside}
        above = ahead[leading][0]
        above = replace(above, bound=above.bound or bound, mixed=mixed)
        taps = Taps(phases=(sorted(positions),), step=ahead[leading][1])
    seen = _composed(above.seen, taps)
    return None if seen is None else replace(above, seen=seen)


def _inside(view: _View, taps: Taps, size: int) -> _View:
    """What is really read of batch or channels: none of what a padding added."""
    part = view.seen.part(0)
    if view.axis is not None or part is None:
        return view
    first, bits = part
    if first >= 0 and first + bits.bit_length() <= size:
        return view
    read = {q for p in view.seen.at(0) if (q := taps.inside(p, size)) is not None}
    seen = Support(phases=(Support.joined((q, 1) for q in read),), step=0)
    return replace(view, seen=seen)


def _composed(seen: Support, taps: Taps) -> Support | None:
    """What is seen through taps by what sees some positions; ``None`` if it is too irregular."""
    turn = len(taps.phases)
    rounds = turn // math.gcd(turn, seen.step)
    period = len(seen.phases) * rounds
    if period > LONGEST_PERIOD:
        return None
    phases = tuple(_spread(seen.part(index), taps) for index in range(period))
    step = seen.step * rounds // turn * taps.step
    return Support(phases=phases, step=step).shortest()


def _spread(part: tuple[int, int] | None, taps: Taps) -> tuple[int, int] | None:
    """All inputs that a set of outputs looks at."""
    if part is None:
        return None
    first, bits = part
    if len(taps.phases) == 1 and taps.step > 0:
        wide = bits if taps.step == 1 else _apart(bits, taps.step)
        start = first * taps.step
        return Support.joined((start + tap, wide) for tap in _doubled(taps.phases[0], wide))
    positions = [first + i for i in range(bits.bit_length()) if bits >> i & 1]
    return Support.joined((tap, 1) for q in positions for tap in taps.at(q))


def _doubled(taps: Sequence[int], bits: int) -> Sequence[int]:
    """Those taps that suffice: of a gapless window over a gapless set, as few as overlap."""
    width = bits.bit_length()
    if not isinstance(taps, range) or taps.step != 1 or bits != (1 << width) - 1:
        return taps
    return sorted({*taps[::width], *taps[-1:]})


def _apart(bits: int, step: int) -> int:
    """The same bits, ``step`` apart."""
    return int(("0" * (step - 1)).join(format(bits, "b")), 2)


def _both(a: _Views, b: _Views, shape: Shape) -> _Views:
    """What is seen along either of two paths."""
    if a is b or a == b:
        return a
    for nothing, rest in ((a, b), (b, a)):
        if any(view.seen.is_empty for view in nothing):
            return rest
    apart = sum(x != y for x, y in zip(a, b, strict=True)) > 1
    return tuple(_joined(x, y, size, apart) for x, y, size in zip(a, b, shape, strict=True))


def _joined(a: _View, b: _View, size: int, apart: bool) -> _View:
    """One axis of two paths that are ``apart`` along other axes, too."""
    if a == b:
        return a
    mixed = apart or a.mixed or b.mixed
    everywhere = a.everywhere or b.everywhere
    unbounded = a.unbounded or b.unbounded
    bound = a.bound or b.bound
    for gate, direct in ((a, b), (b, a)):
        local = direct.axis is not None or not direct.everywhere
        if gate.axis is None and gate.everywhere and not gate.bound and local:
            return replace(direct, everywhere=True)
    if a.axis == b.axis or a.axis is None or b.axis is None:
        seen = a.seen.union(b.seen)
        if seen is not None:
            axis = b.axis if a.axis is None else a.axis
            return _View(
                axis=axis,
                seen=seen,
                everywhere=everywhere,
                bound=bound,
                unbounded=unbounded,
                mixed=mixed,
            )
    reason = bound or "paths of different strides meet"
    return replace(_whole(size, reason), everywhere=everywhere, unbounded=unbounded, mixed=mixed)
