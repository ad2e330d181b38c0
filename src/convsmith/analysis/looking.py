"""The table of looking: which positions of its inputs every output of an operator depends on.

For each input and each of its axes, a :class:`Move` says where the axis goes and what an output
sees of it. :mod:`convsmith.analysis.field` puts the moves of a whole network together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch
from typing import Literal

from convsmith.analysis.intervals import LONGEST_PERIOD, Taps
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    Expand,
    Flatten,
    GlobalPool,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Split,
    Transpose,
    Unary,
)
from convsmith.graph.shape import Shape, resolve_padding

__all__ = ["Move", "Moves", "moves"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What becomes of one axis of one input.

    Attributes:
        to: The axis of the output where its positions are found; ``None``: nowhere.
        how: ``keep``: each output position sees its own; ``look``: it sees ``taps``;
            ``reduce``: it sees all; ``gate``: its own directly and all indirectly; ``spread``:
            it sees position 0; ``scatter``: positions mix with those of other axes.
        taps: For ``look``.
        regroups: ``cut``: outputs that differ in another axis only see different positions;
            ``join``: two axes became one.
    """

    to: int | None
    how: Literal["keep", "look", "reduce", "gate", "spread", "scatter"] = "keep"
    taps: Taps | None = None
    regroups: Literal["", "cut", "join"] = ""


Moves = tuple[Move, ...]


@singledispatch
def moves(
    op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int
) -> tuple[Moves, ...] | None:
    """Returns the moves of every axis of every input; ``None`` if nobody knows them.

    Args:
        op: The operator.
        inputs: The shapes of its inputs.
        output: The shape of the output that is asked about.
        index: Which of its outputs that is.
    """
    return None


def _kept(rank: int) -> list[Move]:
    return [Move(to=axis) for axis in range(rank)]


def _look(to: int, *positions: int, step: int = 1) -> Move:
    return Move(to=to, how="look", taps=Taps(phases=(positions,), step=step))


# Windows --------------------------------------------------------------------------


def _windows(op: Conv | Pool, x: Shape) -> list[Move]:
    result = []
    padding = resolve_padding(op, x[2:])
    for axis, (kernel, stride, dilation, (low, _)) in enumerate(
        zip(op.kernel, op.stride, op.dilation, padding, strict=True), start=2
    ):
        window = range(-low, -low + dilation * (kernel - 1) + 1, dilation)
        result.append(Move(to=axis, how="look", taps=Taps(phases=(window,), step=stride)))
    return result


def _channels(op: Conv, x: Shape) -> Move:
    depthwise = op.groups == x[1] == op.channels
    return Move(to=1, how="keep" if depthwise else "reduce")


@moves.register
def _(op: Conv, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    (x,) = inputs
    if not op.transposed:
        return ((Move(to=0), _channels(op, x), *_windows(op, x)),)
    spatial = [
        Move(to=axis, how="scatter")
        if stride > LONGEST_PERIOD
        else Move(to=axis, how="look", taps=_transposed(kernel, stride, dilation, low))
        for axis, (kernel, stride, dilation, (low, _)) in enumerate(
            zip(op.kernel, op.stride, op.dilation, op.padding, strict=True), start=2
        )
    ]
    return ((Move(to=0), _channels(op, x), *spatial),)


def _transposed(kernel: int, stride: int, dilation: int, low: int) -> Taps:
    """Input i reaches output ``i s + k d - low``; here, for every phase of the output, which i.

    Taps k that reach one phase are ``classes`` apart, and their inputs ``apart``.
    """
    common = math.gcd(stride, dilation)
    classes, apart = stride // common, dilation // common
    phases: list[range] = [range(0)] * stride
    for tap in range(min(classes, kernel)):
        phase = (tap * dilation - low) % stride
        latest = (phase + low - tap * dilation) // stride
        count = -(-(kernel - tap) // classes)
        phases[phase] = range(latest - (count - 1) * apart, latest + 1, apart)
    return Taps(phases=tuple(phases), step=1)


@moves.register
def _(op: Pool, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    return ((*_kept(2), *_windows(op, inputs[0])),)


@moves.register
def _(op: GlobalPool, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    spatial = [Move(to=axis, how="reduce") for axis in range(2, len(inputs[0]))]
    return ((*_kept(2), *spatial),)


@moves.register
def _(op: AdaptivePool, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    result = _kept(2)
    for axis, (size, count) in enumerate(zip(inputs[0][2:], output[2:], strict=True), start=2):
        period = count // math.gcd(size, count)
        if count == 1:
            result.append(Move(to=axis, how="reduce"))
        elif period > LONGEST_PERIOD:
            result.append(Move(to=axis, how="scatter"))
        else:
            windows = tuple(
                range(i * size // count, -(-(i + 1) * size // count)) for i in range(period)
            )
            taps = Taps(phases=windows, step=period * size // count)
            result.append(Move(to=axis, how="look", taps=taps))
    return (tuple(result),)


@moves.register
def _(op: Resize, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    result = _kept(2)
    for axis, (size, count) in enumerate(zip(inputs[0][2:], output[2:], strict=True), start=2):
        ratio, shift = _coordinates(op, axis - 2, size, count)
        if ratio == 0:
            result.append(Move(to=axis, how="spread"))
        elif ratio.denominator > LONGEST_PERIOD:
            result.append(Move(to=axis, how="scatter"))
        else:
            phases = tuple(_sampled(op, ratio * i + shift) for i in range(ratio.denominator))
            taps = Taps(phases=phases, step=ratio.numerator, beyond="edge")
            result.append(Move(to=axis, how="look", taps=taps))
    return (tuple(result),)


def _coordinates(op: Resize, axis: int, size: int, count: int) -> tuple[Fraction, Fraction]:
    """Output i samples the input at ``ratio * i + shift`` (ONNX, operator Resize)."""
    ratio = 1 / op.scale[axis] if op.scale else Fraction(size, max(count, 1))
    if op.alignment == "align_corners":
        return (Fraction(size - 1, count - 1) if count > 1 else Fraction(0)), Fraction(0)
    if op.alignment == "asymmetric":
        return ratio, Fraction(0)
    if op.alignment == "pytorch_half_pixel" and count == 1:
        return Fraction(0), Fraction(0)
    return ratio, ratio / 2 - Fraction(1, 2)


def _sampled(op: Resize, at: Fraction) -> tuple[int, ...]:
    """The input positions that one sample is made of."""
    floor = math.floor(at)
    if op.mode != "nearest":
        before, behind = (0, 1) if op.mode == "linear" else (1, 2)
        return (floor,) if at == floor else tuple(range(floor - before, floor + behind + 1))
    half = Fraction(1, 2)
    match op.rounding:
        case "floor":
            return (floor,)
        case "ceil":
            return (math.ceil(at),)
        case "round_prefer_floor":
            return (math.ceil(at - half),)
    return (math.floor(at + half),)


# Statistics over axes -------------------------------------------------------------


@moves.register
def _(op: Norm, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    rank = len(inputs[0])
    match op.kind:
        case "batch":
            axes = range(0)
        case "instance":
            axes = range(2, rank)
        case "group":
            axes = range(1, rank)
        case _:
            axes = range(rank - op.axes, rank)
    return (_gated(rank, axes),)


def _gated(rank: int, axes: range) -> Moves:
    return tuple(Move(to=i, how="gate" if i in axes else "keep") for i in range(rank))


@moves.register
def _(op: Softmax, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    axis = op.axis % len(output)
    return (_gated(len(output), range(axis, axis + 1)),)


@moves.register
def _(
    op: LocalResponseNorm, inputs: tuple[Shape, ...], output: Shape, index: int
) -> tuple[Moves, ...]:
    return (_gated(len(output), range(1, 2)),)


@moves.register
def _(op: Reduce, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    rank = len(inputs[0])
    axes = {axis % rank for axis in op.axes}
    result, to = [], 0
    for axis in range(rank):
        gone = axis in axes and not op.keep
        how: Literal["reduce", "keep"] = "reduce" if axis in axes else "keep"
        result.append(Move(to=None if gone else to, how=how))
        to += not gone
    return (tuple(result),)


@moves.register
def _(op: Linear, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    last = len(output) - 1
    return ((*_kept(last), Move(to=last, how="reduce")),)


@moves.register
def _(op: MatMul, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
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


# Element by element ---------------------------------------------------------------


def _broadcast(x: Shape, output: Shape) -> Moves:
    shift = len(output) - len(x)
    return tuple(
        Move(to=axis, how="spread" if size == 1 < output[axis] else "keep")
        for axis, size in enumerate(x, start=shift)
    )


@moves.register(Activation)
@moves.register(Elementwise)
@moves.register(Expand)
@moves.register(Identity)
@moves.register(Unary)
def _(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    return tuple(_broadcast(x, output) for x in inputs)


# Moving elements ------------------------------------------------------------------


@moves.register
def _(op: Concat, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    rank = len(output)
    axis = op.axis % rank
    joined = Move(to=axis, how="scatter" if len(inputs) > 1 else "keep")
    return ((*_kept(axis), joined, *_kept(rank)[axis + 1 :]),) * len(inputs)


@moves.register
def _(op: Split, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    result = _kept(len(output))
    axis = op.axis % len(output)
    result[axis] = _look(axis, sum(op.sizes[:index]))
    return (tuple(result),)


@moves.register
def _(op: Slice, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    result = _kept(len(output))
    for axis, start, _, step in op.ranges:
        result[axis] = _look(axis, start, step=step)
    return (tuple(result),)


@moves.register
def _(op: Pad, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    beyond: Literal["nothing", "edge", "reflect", "wrap"] = (
        "nothing" if op.mode == "constant" else op.mode
    )
    return (
        tuple(
            Move(to=axis, how="look", taps=Taps(phases=((-low,),), step=1, beyond=beyond))
            for axis, (low, _) in enumerate(op.padding)
        ),
    )


@moves.register
def _(op: Transpose, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    return (tuple(Move(to=op.permutation.index(axis)) for axis in range(len(output))),)


@moves.register(Flatten)
@moves.register(Reshape)
def _(op: Operator, inputs: tuple[Shape, ...], output: Shape, index: int) -> tuple[Moves, ...]:
    """Axes are cut and joined in groups of equal products.

    An axis cut in two is still found in the outer part; of two axes joined, the outer one is
    found by dividing, the inner one is not a regular position any more.
    """
    (x,) = inputs
    result = [Move(to=None, how="spread")] * len(x)
    for old, new in _groups(x, output):
        for place, axis in enumerate(old):
            inner = math.prod(x[i] for i in old[place + 1 :])
            if place or len(old) > 1 < len(new):
                to = new[0] if len(new) == 1 else None
                result[axis] = Move(to=to, how="scatter")
            elif len(new) > 1:
                inner = x[axis] // output[new[0]]
                taps = Taps(phases=(range(inner),), step=inner)
                result[axis] = Move(to=new[0], how="look", taps=taps, regroups="cut")
            elif inner == 1:
                result[axis] = Move(to=new[0])
            elif inner > LONGEST_PERIOD:
                result[axis] = Move(to=new[0], how="scatter")
            else:
                taps = Taps(phases=((0,),) * inner, step=1)
                result[axis] = Move(to=new[0], how="look", taps=taps, regroups="join")
    return (tuple(result),)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes, without those of size 1, whose products agree."""
    if 0 in old or 0 in new:
        return []
    left = [axis for axis, size in enumerate(old) if size > 1]
    right = [axis for axis, size in enumerate(new) if size > 1]
    groups = []
    while left:
        a, b = [left.pop(0)], [right.pop(0)]
        while (have := math.prod(old[i] for i in a)) != (want := math.prod(new[i] for i in b)):
            if have < want:
                a.append(left.pop(0))
            else:
                b.append(right.pop(0))
        groups.append((a, b))
    return groups
