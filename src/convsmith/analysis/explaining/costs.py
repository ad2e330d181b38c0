"""The formulas of costs: what every operator computes, and its parameters.

They say the same as the table of :mod:`convsmith.analysis.cost`, symbol by symbol; a test holds
both together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from convsmith.analysis.cost import cost
from convsmith.analysis.explaining.expression import (
    Expression,
    Number,
    Symbol,
    gcd,
    maximum,
    minimum,
    product,
    total,
)
from convsmith.analysis.explaining.layer import (
    Layer,
    axis_letters,
    axis_symbol,
    elements,
    window_symbols,
)
from convsmith.graph import Shape
from convsmith.graph.contraction import contractions
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Conv,
    Cumulate,
    DeformConv,
    Einsum,
    Elementwise,
    Fold,
    GlobalPool,
    GridSample,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pool,
    Reduce,
    Resize,
    Softmax,
    TopK,
    Unary,
    Where,
)

__all__ = ["Costs", "cost_formulas"]

_ZERO = Number(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one application computes; all zero: nothing."""

    macs: Expression = _ZERO
    mults: Expression = _ZERO
    adds: Expression = _ZERO
    others: Expression = _ZERO


@singledispatch
def _rule(op: Operator, layer: Layer) -> Costs | None:
    return None


def cost_formulas(layer: Layer) -> Costs | None:
    """Returns the formulas of a layer's costs; ``None`` where it computes nothing, or unknown."""
    return _rule(layer.op, layer)


# Products -------------------------------------------------------------------------


def _folds(terms: Expression) -> Expression:
    """Additions that combine terms into one value."""
    return terms - 1 if terms.value >= 1 else _ZERO


def _dot_products(outputs: Expression, terms: Expression, *, bias: bool) -> Costs:
    macs = product(outputs, terms)
    each = total(_folds(terms), 1) if bias else _folds(terms)
    return Costs(macs=macs, mults=macs, adds=product(outputs, each))


def _grouped(name: str, channels: int, groups: int) -> Expression:
    symbol = Symbol(name, channels)
    return symbol if groups == 1 else symbol / Symbol("g", groups)


def _outputs(layer: Layer) -> Expression:
    return product(*elements(layer.output, "out"))


def _inputs(layer: Layer) -> Expression:
    return product(*elements(layer.inputs[0], "in"))


@_rule.register
def _(op: Conv, layer: Layer) -> Costs:
    taps = window_symbols(op.kernel)
    channels = layer.inputs[0][1]
    if not op.transposed:
        terms = product(_grouped("C_in", channels, op.groups), taps)
        return _dot_products(_outputs(layer), terms, bias=op.bias)
    macs = product(_inputs(layer), _grouped("C_out", op.channels, op.groups), taps)
    images = (Symbol("N", layer.output[0]), Symbol("C_out", op.channels))
    reached = product(*images, *_reached(op, layer.inputs[0][2:]))
    bias = _outputs(layer) if op.bias else _ZERO
    return Costs(macs=macs, mults=macs, adds=macs - reached + bias)


def _reached(op: Conv | Fold, sizes: Shape) -> list[Expression]:
    """Per axis, the positions ``i s + t d`` that there are: where products land.

    Taps that agree modulo the stride land on one grid. With ``c = s / gcd(s, d)`` grids and taps
    ``a = d / gcd(s, d)`` apart, ``k mod c`` grids have one tap more than ``k div c``.
    """
    rank = len(op.kernel)
    found = []
    for axis, (size, kernel, stride, dilation) in enumerate(
        zip(sizes, op.kernel, op.stride, op.dilation, strict=True)
    ):
        source = Symbol(f"{axis_letters(rank)[axis]}_in", size)
        k = axis_symbol("k", axis, rank, kernel, alike=len(set(op.kernel)) == 1)
        s = axis_symbol("s", axis, rank, stride, alike=len(set(op.stride)) == 1)
        d = axis_symbol("d", axis, rank, dilation, alike=len(set(op.dilation)) == 1)
        common = math.gcd(stride, dilation)
        if dilation == 1 and kernel >= stride and size:
            found.append((source - 1) * s + k)
        elif kernel <= stride // common:
            found.append(k * source)
        else:
            grids = s / gcd(s, d) if common > 1 else s
            apart = minimum(d / gcd(s, d) if common > 1 else d, source)
            rounds, longer = divmod(kernel, stride // common)
            long, short = Number(longer), grids - longer
            found.append(
                total(
                    product(long, source + product(rounds, apart)) if longer else _ZERO,
                    product(short, source + product(rounds - 1, apart)),
                )
            )
    return found


@_rule.register
def _(op: Linear, layer: Layer) -> Costs:
    source = layer.inputs[0]
    rows = _rows(source[:-1])
    outputs = product(*rows, Symbol("F_out", op.features))
    return _dot_products(outputs, Symbol("F_in", source[-1]), bias=op.bias)


def _rows(leading: Shape) -> tuple[Symbol, ...]:
    if len(leading) <= 1:
        return tuple(Symbol("N", size) for size in leading)
    return tuple(Symbol(f"n_{axis}", size) for axis, size in enumerate(leading, start=1))


@_rule.register
def _(op: MatMul, layer: Layer) -> Costs:
    outputs = product(*(Symbol(f"n_{i}", size) for i, size in enumerate(layer.output, start=1)))
    return _dot_products(outputs, Symbol("m", layer.inputs[0][-1]), bias=False)


@_rule.register
def _(op: Einsum, layer: Layer) -> Costs:
    steps = list(contractions(op.equation, layer.inputs))
    macs = total(*(Symbol(f"m_{i}", step.products) for i, step in enumerate(steps, start=1)))
    sums = total(*(Symbol(f"a_{i}", step.sums) for i, step in enumerate(steps, start=1)))
    return Costs(macs=macs, mults=macs, adds=sums)


# Samples between pixels -----------------------------------------------------------


def _samples(mode: str, axes: int, places: Expression, channels: Expression) -> Costs:
    if mode == "nearest":
        return Costs(others=product(axes, places))
    corners = Number((2 if mode == "linear" else 4) ** axes)
    scaling, shares = (0, 2) if mode == "linear" else (12, 13)
    weights = Number(scaling * axes + int(corners.value) * (axes - 1))
    return Costs(
        mults=product(places, total(weights, product(channels, corners))),
        adds=product(places, total(shares * axes, product(channels, corners - 1))),
        others=product(axes, places),
    )


@_rule.register
def _(op: GridSample, layer: Layer) -> Costs:
    batch, channels, *sizes = elements(layer.output, "out")
    axes = len(sizes)
    places = product(batch, *sizes)
    made = _samples(op.mode, axes, places, channels)
    held = _ZERO if op.beyond == "zeros" else product(2 * axes, places)
    return Costs(
        mults=total(made.mults, product(axes, places)),
        adds=total(made.adds, product(axes, places)),
        others=total(made.others, held),
    )


@_rule.register
def _(op: DeformConv, layer: Layer) -> Costs:
    source, axes = layer.inputs[0], len(op.kernel)
    taps = window_symbols(op.kernel)
    batch, _, *sizes = elements(layer.output, "out")
    positions = product(batch, *sizes)
    channels = Symbol("C_in", source[1])
    moved = Symbol("g_o", op.offset_groups)
    places = product(positions, taps, moved)
    made = _samples("linear", axes, places, channels / moved)
    factors = product(positions, taps, channels) if len(layer.inputs) > 2 else _ZERO
    terms = product(_grouped("C_in", source[1], op.groups), taps)
    products = _dot_products(_outputs(layer), terms, bias=op.bias)
    return Costs(
        macs=products.macs,
        mults=total(products.mults, made.mults, factors),
        adds=total(products.adds, made.adds, product(axes, places)),
        others=made.others,
    )


@_rule.register
def _(op: Fold, layer: Layer) -> Costs:
    batch, channels, *_ = elements(layer.output, "out")
    # What is folded has the sizes of the unfolded image, outputs of the window at every place.
    source = layer.inputs[0]
    reached = product(batch, channels, *_reached(op, source[2:]))
    return Costs(adds=maximum(_inputs(layer) - reached, 0))


@_rule.register
def _(op: Resize, layer: Layer) -> Costs | None:
    moved = sum(a != b for a, b in zip(layer.inputs[0][2:], layer.output[2:], strict=True))
    if op.mode == "nearest" or not moved:
        return None
    taps = Number(2 if op.mode == "linear" else 4) ** moved
    outputs = _outputs(layer)
    return Costs(mults=product(taps, outputs), adds=product(taps - 1, outputs))


# Pooling and reductions -----------------------------------------------------------


def _pooled(kind: str, outputs: Expression, folds: Expression) -> Costs:
    if folds.value < 0:
        folds = _ZERO
    return Costs(others=folds) if kind == "max" else Costs(adds=folds, others=outputs)


@_rule.register
def _(op: Pool, layer: Layer) -> Costs:
    outputs = _outputs(layer)
    return _pooled(op.kind, outputs, product(outputs, _folds(window_symbols(op.kernel))))


@_rule.register
def _(op: GlobalPool, layer: Layer) -> Costs:
    batch, channels, *sizes = elements(layer.inputs[0], "in")
    outputs = product(batch, channels)
    return _pooled(op.kind, outputs, product(outputs, product(*sizes) - 1))


@_rule.register
def _(op: AdaptivePool, layer: Layer) -> Costs:
    batch, channels, *made = elements(layer.output, "out")
    _, _, *sizes = elements(layer.inputs[0], "in")
    windows = product(
        batch,
        channels,
        *(size + count - gcd(size, count) for size, count in zip(sizes, made, strict=True)),
    )
    outputs = _outputs(layer)
    return _pooled(op.kind, outputs, windows - outputs)


@_rule.register
def _(op: Reduce, layer: Layer) -> Costs:
    inputs = Symbol("E_in", math.prod(layer.inputs[0]))
    outputs = Symbol("E_out", math.prod(layer.output))
    folds = inputs - outputs if inputs.value >= outputs.value else _ZERO
    match op.kind:
        case "mean":
            return Costs(adds=folds, others=outputs)
        case "sum":
            return Costs(adds=folds)
        case "prod":
            return Costs(mults=folds)
        case "l1norm":
            return Costs(adds=folds, others=inputs)
        case "l2norm":
            return Costs(mults=inputs, adds=folds, others=outputs)
        case "logsumexp":
            return Costs(adds=total(inputs, folds, outputs), others=total(folds, inputs, outputs))
    return Costs(others=folds)


@_rule.register
def _(op: Cumulate, layer: Layer) -> Costs:
    size = layer.output[op.axis]
    lines = Symbol("M", math.prod(layer.output) // size if size else 0)
    steps = max(size - 1 - op.exclusive, 0)
    folds = product(lines, Symbol("n", size) - (size - steps))
    return Costs(adds=folds) if op.kind == "sum" else Costs(mults=folds)


@_rule.register
def _(op: TopK, layer: Layer) -> Costs:
    size, count = layer.inputs[0][op.axis], layer.output[op.axis]
    lines = Symbol("M", math.prod(layer.inputs[0]) // size if size else 0)
    n, k = Symbol("n", size), Symbol("k", count)
    rounds = Number((size - 1).bit_length() if size else 0)
    passes = k * (n - 1) - k * (k - 1) / 2
    return Costs(others=product(lines, minimum(passes, product(n, rounds))))


# Normalization --------------------------------------------------------------------


@_rule.register
def _(op: Norm, layer: Layer) -> Costs:
    shape = layer.inputs[0]
    each = product(*elements(shape))
    if op.kind == "batch":
        return Costs(mults=each, adds=each)
    match op.kind:
        case "instance":
            sets = math.prod(shape[:2])
        case "group":
            sets = shape[0] * op.groups
        case _:
            sets = math.prod(shape[: len(shape) - op.axes])
    count, groups = Symbol("E", math.prod(shape)), Symbol("M", sets)
    folds = count - groups if count.value >= groups.value else _ZERO
    mults = product(2 + op.affine, count)
    if op.kind == "rms":
        return Costs(mults=mults, adds=total(folds, groups), others=product(3, groups))
    return Costs(
        mults=mults,
        adds=total(product(2, folds), product(1 + op.affine, count), groups),
        others=product(4, groups),
    )


@_rule.register
def _(op: LocalResponseNorm, layer: Layer) -> Costs:
    each = product(*elements(layer.output))
    size = Symbol("n", op.size)
    return Costs(mults=product(2, each), adds=product(size, each), others=product(2, each))


@_rule.register
def _(op: Softmax, layer: Layer) -> Costs:
    each = Symbol("E", math.prod(layer.output))
    sets = Symbol("M", each.number // layer.output[op.axis] if each.number else 0)
    folds = each - sets
    if op.log:
        return Costs(adds=total(product(2, each), folds), others=total(folds, each, sets))
    return Costs(adds=total(each, folds), others=total(folds, product(2, each)))


# Element by element ---------------------------------------------------------------


@_rule.register(Activation)
@_rule.register(Unary)
@_rule.register(Where)
def _(op: Operator, layer: Layer) -> Costs:
    one = cost(op, ((1,),) * len(layer.inputs), (1,))
    each = product(*elements(layer.output))
    return Costs(
        mults=product(one.mults, each) if one.mults else _ZERO,
        adds=product(one.adds, each) if one.adds else _ZERO,
        others=product(one.others, each) if one.others else _ZERO,
    )


@_rule.register
def _(op: Elementwise, layer: Layer) -> Costs:
    one = cost(op, ((1,),) * 2, (1,))
    each = product(*elements(layer.output))
    more = len(layer.inputs) - 1
    folds = product(more, each) if more else _ZERO
    return Costs(
        mults=folds if one.mults else _ZERO,
        adds=folds if one.adds else _ZERO,
        others=folds if one.others else _ZERO,
    )
