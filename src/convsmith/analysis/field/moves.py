"""The words in which the table of looking is written, and the table itself.

A row says, for every input of an operator, which of its elements one output depends on. It is one
small function, registered for the class of the operator::

    @moves.register
    def _(op: Flip, inputs, output, index):
        (x,) = inputs
        row = kept(len(x))
        for axis in op.axes:
            row[axis] = looking(axis, x[axis] - 1, step=-1)
        return (tuple(row),)

It returns one entry per input: a tuple with one :class:`Move` per axis of that input, or a
:class:`Path` for what takes several such steps (:func:`through` makes one of simpler operators,
:func:`regrouped` one of a reshape). Everything else - fields, supports, units, their inverse -
follows from the row. A row must be exact; where that is impossible, a move says ``anywhere``
with its reason, and every result is marked as a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, singledispatch
from typing import Literal

from convsmith.analysis.field.taps import LONGEST_PERIOD, Phases, Taps
from convsmith.graph.operators import Operator
from convsmith.graph.shape import Shape, infer_shapes
from convsmith.graph.slots import filled_directly

__all__ = [
    "Move",
    "Moves",
    "Path",
    "Row",
    "groups_of",
    "kept",
    "looking",
    "moves",
    "regrouped",
    "through",
]


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What becomes of one axis of one input.

    Attributes:
        to: The axis of the output where its positions are found; ``None``: nowhere.
        how: ``keep``: each output position sees its own; ``look``: it sees ``taps``;
            ``reduce``: it sees all; ``gate``: its own directly and all indirectly; ``spread``:
            it sees position 0; ``anywhere``: what it sees is not known before it runs;
            ``scatter``: positions mix with those of other axes (only inside of a reshape).
        taps: For ``look``.
        inner: For ``look``: other axes of the output along which the taps move too, each with
            its step: an axis that is cut in two has its outer part in ``to``, its inner here.
        anchored: Whether positions are always counted along ``to``, even if it has only one.
        partial: For ``look``: no rule that repeats; it holds for a part of the positions.
        joins: Whether ``to`` unites several axes.
        unit: For one of several axes that become one: how far apart its positions lie there.
        reason: For ``anywhere``: who decides.
    """

    to: int | None
    how: Literal["keep", "look", "reduce", "gate", "spread", "anywhere", "scatter"] = "keep"
    taps: Taps | None = None
    inner: tuple[tuple[int, int], ...] = ()
    anchored: bool = False
    partial: bool = False
    joins: bool = False
    unit: int = 0
    reason: str = ""


Moves = tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Several steps, one after the other.

    Attributes:
        steps: Each with the shape that it makes.
        reshapes: Whether all of them together keep the order of the elements.
        mirrors: The exact path from the output to the input, where the steps forget something.
    """

    steps: tuple[tuple[Moves | Path, Shape], ...]
    reshapes: bool = False
    mirrors: Path | None = None


Row = tuple[Moves | Path, ...]
"""One entry per input."""


@singledispatch
def moves(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row | None:
    """Returns what every output sees of every input; ``None`` if nobody knows.

    Args:
        op: The operator.
        inputs: The shapes of its inputs.
        output: The shape of the output that is asked about.
        index: Which of its outputs that is.
    """
    return None


_KEEP = tuple(Move(to=axis) for axis in range(8))


def kept(rank: int) -> list[Move]:
    """Moves that leave every axis where it is."""
    if rank <= len(_KEEP):
        return list(_KEEP[:rank])
    return [Move(to=axis) for axis in range(rank)]


@lru_cache(maxsize=4096)
def looking(to: int, *positions: int, step: int = 1, partial: bool = False) -> Move:
    """A move that sees the same positions relative to every output."""
    return Move(to=to, how="look", taps=Taps(phases=(positions,), step=step), partial=partial)


def through(op_or_ops: Operator | Sequence[Operator], x: Shape) -> Path:
    """The path through operators of one input, one after the other."""
    steps: list[tuple[Moves | Path, Shape]] = []
    for op in [op_or_ops] if isinstance(op_or_ops, Operator) else op_or_ops:
        (made,) = infer_shapes(op, x)
        if made is None or (row := moves(op, (x,), made, 0)) is None:
            raise LookupError(f"{type(op).__name__} has no row")
        steps.append((row[0], made))
        x = made
    return Path(steps=tuple(steps))


def regrouped(x: Shape, output: Shape) -> Path:
    """The same elements in the same order in another shape.

    Axes are joined in the smallest groups whose products agree, and cut again.
    """
    joined: list[Move] = [Move(to=None, how="spread")] * len(x)
    groups = groups_of(x, output)
    middle = tuple(math.prod(x[axis] for axis in old) for old, _ in groups)
    cut: list[Move] = []
    for place, (old, new) in enumerate(groups):
        for order, axis in enumerate(old):
            inner = math.prod(x[i] for i in old[order + 1 :])
            joined[axis] = _join(place, x[axis], inner, outermost=order == 0)
        strides = [math.prod(output[i] for i in new[order + 1 :]) for order in range(len(new))]
        outer = Taps(phases=((0,),), step=strides[0])
        inside = tuple(zip(new[1:], strides[1:], strict=True))
        cut.append(
            Move(to=new[0], how="look", taps=outer, inner=inside) if inside else Move(to=new[0])
        )
    return Path(steps=((tuple(joined), middle), (tuple(cut), output)), reshapes=True)


def _join(to: int, size: int, inner: int, *, outermost: bool) -> Move:
    """One of several axes that become one: position ``outer * inner + ...``."""
    if inner == 1 and outermost:
        return Move(to=to)
    period = inner if outermost else inner * size
    if period > LONGEST_PERIOD:
        return Move(to=to, how="scatter", joins=True, unit=inner)
    step = 1 if outermost else 0
    phases = Phases(period, lambda phase: (phase // inner,))
    taps = Taps(phases=phases, step=step)
    return Move(to=to, how="look", taps=taps, joins=True, unit=inner)


def groups_of(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes, without those of size 1, whose products agree."""
    if 0 in old or 0 in new:
        return []
    left = [axis for axis, size in enumerate(old) if size > 1]
    right = [axis for axis, size in enumerate(new) if size > 1]
    groups = []
    first = second = 0
    while first < len(left):
        a, b = [left[first]], [right[second]]
        first, second = first + 1, second + 1
        have, want = old[a[0]], new[b[0]]
        while have != want:
            if have < want:
                a.append(left[first])
                have *= old[left[first]]
                first += 1
            else:
                b.append(right[second])
                want *= new[right[second]]
                second += 1
        groups.append((a, b))
    return groups
