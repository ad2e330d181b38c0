"""Rows of operators that slide a window, or sample, along the image axes."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from convsmith.analysis.field.moves import Move, Moves, Path, Row, kept, moves, regrouped
from convsmith.analysis.field.taps import Phases, Taps
from convsmith.graph.operators import (
    AdaptivePool,
    Conv,
    DeformConv,
    Fold,
    GlobalPool,
    GridSample,
    Pool,
    Resize,
    Unfold,
    Unpool,
)
from convsmith.graph.shape import Shape, resolve_padding


def _windows(op: Conv | Pool | DeformConv | Unfold, x: Shape) -> list[Move]:
    padding = op.padding if op.same is None else resolve_padding(op, x[2:])
    return [
        _window(axis, kernel, stride, dilation, low)
        for axis, kernel, stride, dilation, (low, _) in zip(
            range(2, len(x)), op.kernel, op.stride, op.dilation, padding, strict=True
        )
    ]


@lru_cache(maxsize=4096)
def _window(axis: int, kernel: int, stride: int, dilation: int, low: int) -> Move:
    phases = (range(-low, -low + dilation * (kernel - 1) + 1, dilation),)
    return Move(to=axis, how="look", taps=Taps(phases=phases, step=stride))


_KEPT = tuple(kept(2))
_ALL_CHANNELS = Move(to=1, how="reduce")


def _channels(groups: int, before: int, after: int) -> Move:
    if groups == 1:
        return _ALL_CHANNELS
    if groups == before == after:
        return _KEPT[1]
    each = range(before // groups)
    phases = Phases(max(after // groups, 1), lambda phase: each)
    return Move(to=1, how="look", taps=Taps(phases=phases, step=before // groups))


@moves.register
def _(op: Conv, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    (x,) = inputs
    if op.transposed:
        taps = [
            _transposed(kernel, stride, dilation, low)
            for kernel, stride, dilation, (low, _) in zip(
                op.kernel, op.stride, op.dilation, op.padding, strict=True
            )
        ]
        spatial = [Move(to=axis, how="look", taps=each) for axis, each in enumerate(taps, start=2)]
    else:
        spatial = _windows(op, x)
    return ((_KEPT[0], _channels(op.groups, x[1], op.channels), *spatial),)


def _transposed(kernel: int, stride: int, dilation: int, low: int) -> Taps:
    """Input i reaches output ``i s + k d - low``; here, for every phase of the output, which i.

    Taps k that reach one phase are ``classes`` apart, and their inputs ``apart``.
    """
    common = math.gcd(stride, dilation)
    classes, apart = stride // common, dilation // common
    inverse = pow(apart, -1, classes)

    def reached(phase: int) -> range:
        if (phase + low) % common:
            return range(0)
        tap = (phase + low) // common * inverse % classes
        if tap >= kernel:
            return range(0)
        latest = (phase + low - tap * dilation) // stride
        count = -(-(kernel - tap) // classes)
        return range(latest - (count - 1) * apart, latest + 1, apart)

    return Taps(phases=Phases(stride, reached), step=1)


@moves.register
def _(op: DeformConv, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """The image is read where the offsets say; the offsets and factors at their own place."""
    x = inputs[0]
    freely = [
        replace(move, how="anywhere", reason="reads where its offsets say")
        for move in _windows(op, x)
    ]
    beside = (Move(to=0), Move(to=None, how="reduce"), *kept(len(x))[2:])
    image = (Move(to=0), _channels(op.groups, x[1], op.channels), *freely)
    return (image, *[beside] * (len(inputs) - 1))


@moves.register
def _(op: Pool, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    return ((*_KEPT, *_windows(op, inputs[0])),)


@moves.register
def _(op: Unpool, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    rank = len(output)
    freely = (
        *kept(2),
        *(
            Move(to=axis, how="anywhere", reason="puts elements where its second input says")
            for axis in range(2, rank)
        ),
    )
    return (freely, freely)


@moves.register
def _(op: GlobalPool, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    return (_averaged(len(inputs[0])),)


@lru_cache(maxsize=16)
def _averaged(rank: int) -> Moves:
    return (*_KEPT, *(Move(to=axis, how="reduce") for axis in range(2, rank)))


@moves.register
def _(op: AdaptivePool, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(2)
    for axis, (size, count) in enumerate(zip(inputs[0][2:], output[2:], strict=True), start=2):
        if count <= 1:
            result.append(Move(to=axis, how="reduce"))
        else:
            result.append(Move(to=axis, how="look", taps=_adaptive(size, count)))
    return (tuple(result),)


def _adaptive(size: int, count: int) -> Taps:
    """Output i averages inputs ``floor(i size / count)`` to ``ceil((i + 1) size / count) - 1``."""
    period = count // math.gcd(size, count)
    phases = Phases(period, lambda i: range(i * size // count, -(-(i + 1) * size // count)))
    return Taps(phases=phases, step=period * size // count)


@moves.register
def _(op: Unfold, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """Every tap of the window becomes a channel: first axes of their own, then joined."""
    return (_unfolded(op, inputs[0], output),)


def _unfolded(op: Unfold, x: Shape, output: Shape) -> Path:
    rank = len(op.kernel)
    apart = (x[0], x[1], *op.kernel, *output[2:])
    spatial = [
        Move(
            to=2 + rank + axis,
            how="look",
            taps=Taps(phases=((-low,),), step=stride),
            inner=((2 + axis, dilation),),
            anchored=True,
        )
        for axis, (stride, dilation, (low, _)) in enumerate(
            zip(op.stride, op.dilation, op.padding, strict=True)
        )
    ]
    return Path(steps=(((*kept(2), *spatial), apart), (regrouped(apart, output), output)))


@moves.register
def _(op: Fold, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    """What unfolding spread is collected: exactly the relation of ``Unfold``, mirrored."""
    (x,) = inputs
    spatial = [
        Move(to=axis, how="look", taps=_transposed(kernel, stride, dilation, low), joins=True)
        for axis, (kernel, stride, dilation, (low, _)) in enumerate(
            zip(op.kernel, op.stride, op.dilation, op.padding, strict=True), start=2
        )
    ]
    taps = math.prod(op.kernel)
    channels = Move(to=1, how="look", taps=Taps(phases=(range(taps),), step=taps))
    unfold = Unfold(kernel=op.kernel, stride=op.stride, padding=op.padding, dilation=op.dilation)
    row: Moves = (Move(to=0), channels, *spatial)
    return (Path(steps=((row, output),), mirrors=_unfolded(unfold, output, x)),)


# Resampling -----------------------------------------------------------------------


@moves.register
def _(op: Resize, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    result = kept(2)
    for axis, (size, count) in enumerate(zip(inputs[0][2:], output[2:], strict=True), start=2):
        ratio, shift = _coordinates(op, axis - 2, size, count)
        if ratio == 0:
            result.append(Move(to=axis, how="spread"))
            continue
        result.append(Move(to=axis, how="look", taps=_resampled(op, ratio, shift)))
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


def _resampled(op: Resize, ratio: Fraction, shift: Fraction) -> Taps:
    phases = Phases(ratio.denominator, lambda i: _sampled(op, ratio * i + shift))
    return Taps(phases=phases, step=ratio.numerator, beyond="edge")


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


@moves.register
def _(op: GridSample, inputs: tuple[Shape, ...], output: Shape, index: int) -> Row:
    rank = len(output)
    freely = [
        Move(to=axis, how="anywhere", reason="samples where its grid says")
        for axis in range(2, rank)
    ]
    grid = (Move(to=0), *kept(rank)[2:], Move(to=None, how="reduce"))
    return ((*kept(2), *freely), grid)
