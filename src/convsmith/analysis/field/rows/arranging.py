"""Rows of operators that only move elements."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

from convsmith.analysis.field.moves import Move, Path, Row, kept, looking, moves, regrouped, through
from convsmith.analysis.field.taps import Taps
from convsmith.graph.operators import (
    Concat,
    DepthToSpace,
    Flatten,
    Flip,
    Gather,
    Operator,
    Pad,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    Transpose,
)
from convsmith.graph.shape import Shape


@moves.register
def _(op: Concat, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    rank = len(output)
    axis = op.axis % rank
    if len(inputs) == 1:
        return (tuple(kept(rank)),)
    starts = accumulate((x[axis] for x in inputs[:-1]), initial=0)
    before, behind = kept(rank)[:axis], kept(rank)[axis + 1 :]
    return tuple((*before, looking(axis, -start, partial=True), *behind) for start in starts)


@moves.register
def _(op: Split, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(len(output))
    axis = op.axis % len(output)
    result[axis] = looking(axis, sum(op.sizes[:index]))
    return (tuple(result),)


@moves.register
def _(op: Slice, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(len(output))
    for axis, start, _, step in op.ranges:
        axis %= len(output)
        result[axis] = looking(axis, start, step=step)
    return (tuple(result),)


@moves.register
def _(op: Flip, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(len(output))
    for axis in {axis % len(output) for axis in op.axes}:
        result[axis] = looking(axis, output[axis] - 1, step=-1)
    return (tuple(result),)


@moves.register
def _(op: Gather, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    x, places = inputs
    axis = op.axis % len(x)
    freely = "reads where its second input says"
    if op.along:
        result = kept(len(x))
        result[axis] = Move(to=axis, how="anywhere", reason=freely)
        return (tuple(result), tuple(kept(len(places))))
    rank = len(places)
    behind = [Move(to=place + rank - 1) for place in range(axis + 1, len(x))]
    chosen = Move(to=axis if rank else None, how="anywhere", reason=freely)
    return (
        (*kept(axis), chosen, *behind),
        tuple(Move(to=axis + place) for place in range(rank)),
    )


@moves.register
def _(op: Pad, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    beyond: Literal["nothing", "edge", "reflect", "wrap"] = (
        "nothing" if op.mode == "constant" else op.mode
    )
    return (
        tuple(
            Move(to=axis, how="look", taps=Taps(phases=((-low,),), step=1, beyond=beyond))
            if low or high
            else Move(to=axis)
            for axis, (low, high) in enumerate(op.padding)
        ),
    )


@moves.register
def _(op: Transpose, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    order = [axis % len(output) for axis in op.permutation]
    return (tuple(Move(to=order.index(axis)) for axis in range(len(output))),)


@moves.register(Flatten)
@moves.register(Reshape)
def _(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    (x,) = inputs
    return (tuple(kept(len(x))) if x == output else regrouped(x, output),)


@moves.register
def _(op: DepthToSpace, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """Channels cut into blocks, these moved beside their axes, and joined with them."""
    (x,) = inputs
    rank = len(op.block)
    spatial = range(rank + 2, 2 * rank + 2)
    if op.order == "crd":
        apart = (x[0], output[1], *op.block, *x[2:])
        first, blocks = 1, range(2, rank + 2)
    else:
        apart = (x[0], *op.block, output[1], *x[2:])
        first, blocks = rank + 1, range(1, rank + 1)
    order = (0, first, *(a for pair in zip(spatial, blocks, strict=True) for a in pair))
    steps = (Reshape(shape=apart), Transpose(permutation=order), Reshape(shape=output))
    return (through(steps, x),)


@moves.register
def _(op: SpaceToDepth, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """The inverse of the row above."""
    (x,) = inputs
    rank = len(op.block)
    cut = tuple(part for pair in zip(output[2:], op.block, strict=True) for part in pair)
    spatial, blocks = range(2, 2 * rank + 2, 2), range(3, 2 * rank + 3, 2)
    apart = [
        Move(
            to=outer,
            how="look",
            taps=Taps(phases=((0,),), step=block),
            inner=((inner, 1),),
            anchored=True,
        )
        for outer, inner, block in zip(spatial, blocks, op.block, strict=True)
    ]
    order = (0, 1, *blocks, *spatial) if op.order == "crd" else (0, *blocks, 1, *spatial)
    made = (*x[:2], *cut)
    rest = through((Transpose(permutation=order), Reshape(shape=output)), made)
    return (Path(steps=(((*kept(2), *apart), made), (rest, output))),)
