"""Rows of element-wise operators, statistics over axes, and products of matrices."""

from __future__ import annotations

from functools import lru_cache

from convsmith.analysis.field.moves import Move, Moves, Row, kept, moves
from convsmith.analysis.field.taps import Phases, Taps
from convsmith.graph.operators import (
    Activation,
    Cast,
    Cumulate,
    Einsum,
    Elementwise,
    Expand,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Reduce,
    Softmax,
    TopK,
    Unary,
    Where,
)
from convsmith.graph.shape import Shape

# Element by element ---------------------------------------------------------------


@lru_cache(maxsize=4096)
def _broadcast(x: Shape, output: Shape) -> Moves:
    shift = len(output) - len(x)
    if not shift and x == output:
        return tuple(kept(len(x)))
    return tuple(
        Move(to=axis, how="spread" if size == 1 < output[axis] else "keep")
        for axis, size in enumerate(x, start=shift)
    )


@moves.register(Activation)
@moves.register(Cast)
@moves.register(Elementwise)
@moves.register(Expand)
@moves.register(Identity)
@moves.register(Unary)
@moves.register(Where)
def _(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    return tuple(_broadcast(x, output) for x in inputs)


# Statistics over axes -------------------------------------------------------------


@moves.register
def _(op: Norm, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    rank = len(inputs[0])
    match op.kind:
        case "batch":
            return (tuple(kept(rank)),)
        case "instance":
            return (_gated(rank, range(2, rank)),)
        case "group":
            each = inputs[0][1] // op.groups
            phases = Phases(max(each, 1), lambda phase: range(each))
            group = Move(to=1, how="gate", taps=Taps(phases=phases, step=each))
            return ((Move(to=0), group, *_gated(rank, range(2, rank))[2:]),)
        case _:
            return (_gated(rank, range(rank - op.axes, rank)),)


def _gated(rank: int, axes: range) -> Moves:
    return tuple(Move(to=i, how="gate" if i in axes else "keep") for i in range(rank))


@moves.register
def _(op: Softmax, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    axis = op.axis % len(output)
    return (_gated(len(output), range(axis, axis + 1)),)


@moves.register
def _(op: LocalResponseNorm, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    before = (op.size - 1) // 2 if op.lean == "upper" else op.size // 2
    window = Taps(phases=(range(-before, op.size - before),), step=1)
    result = kept(len(output))
    result[1] = Move(to=1, how="gate", taps=window)
    return (tuple(result),)


@moves.register
def _(op: Reduce, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    rank = len(inputs[0])
    axes = {axis % rank for axis in op.axes}
    result, to = [], 0
    for axis in range(rank):
        gone = axis in axes and not op.keep
        place = None if gone else to
        result.append(Move(to=place, how="reduce") if axis in axes else Move(to=place))
        to += not gone
    return (tuple(result),)


@moves.register
def _(op: Cumulate, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    size, late = output[op.axis], int(op.exclusive)

    def counted(place: int) -> range:
        return range(place + late, size) if op.reverse else range(place + 1 - late)

    result = kept(len(output))
    axis = op.axis % len(output)
    taps = Taps(phases=Phases(max(size, 1), counted), step=0)
    result[axis] = Move(to=axis, how="look", taps=taps, partial=True)
    return (tuple(result),)


@moves.register
def _(op: TopK, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(len(output))
    axis = op.axis % len(output)
    result[axis] = Move(to=axis, how="reduce")
    return (tuple(result),)


# Products of matrices -------------------------------------------------------------


@moves.register
def _(op: Linear, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    last = len(output) - 1
    return ((*kept(last), Move(to=last, how="reduce")),)


@moves.register
def _(op: MatMul, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    a, b = inputs
    rows, columns = len(a) > 1, len(b) > 1
    batch = len(output) - rows - columns
    inner = Move(to=None, how="reduce")
    left = _broadcast(a[:-2], output[:batch])
    right = _broadcast(b[:-2], output[:batch])
    return (
        (*left, Move(to=batch), inner) if rows else (inner,),
        (*right, inner, Move(to=batch + rows)) if columns else (inner,),
    )


@moves.register
def _(op: Einsum, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """An axis whose letter stands in the result stays; all others are summed over."""
    operands, _, result = op.equation.replace(" ", "").partition("->")
    return tuple(
        tuple(
            Move(to=None, how="reduce")
            if letter not in result
            else Move(
                to=result.index(letter),
                how="spread" if size == 1 < output[result.index(letter)] else "keep",
            )
            for letter, size in zip(letters, x, strict=True)
        )
        for letters, x in zip(operands.split(","), inputs, strict=True)
    )
