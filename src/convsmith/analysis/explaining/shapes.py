"""The formulas of shapes: what every operator makes of the sizes of its input.

Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), relations 6 and
14 and their dilated forms; SAME as in TensorFlow, ``ceil`` as in Caffe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch

from convsmith.analysis.explaining.expression import (
    Expression,
    Number,
    Symbol,
    ceiling,
    floor,
    product,
    total,
)
from convsmith.analysis.explaining.layer import (
    Layer,
    Line,
    Note,
    axis_letters,
    axis_symbol,
    elements,
)
from convsmith.graph.operators import (
    AdaptivePool,
    Concat,
    Conv,
    DeformConv,
    Flatten,
    Fold,
    GlobalPool,
    Linear,
    MatMul,
    Operator,
    Pad,
    Pool,
    Resize,
    Slice,
    Split,
    Unfold,
)
from convsmith.graph.shape import resolve_padding

__all__ = ["shape_lines"]

Found = Iterator[Line | Note]
_Windowed = Conv | DeformConv | Pool | Unfold


@singledispatch
def _rule(op: Operator, layer: Layer) -> Found:
    """Sizes stay, or are named by the operator: a note says what happens."""
    same = bool(layer.inputs) and layer.output == layer.inputs[0]
    yield Note(key="shape-same" if same else f"shape-{type(op).__name__}")


def shape_lines(layer: Layer) -> tuple[Line | Note, ...]:
    """Returns the formulas of the output's sizes."""
    return tuple(_rule(layer.op, layer))


def _per_axis(
    layer: Layer, formula: Callable[[int, Symbol], Expression], alike: tuple[object, ...]
) -> Found:
    """One line an axis, or one for all where all numbers agree."""
    sizes, made = layer.inputs[0][2:], layer.output[2:]
    letters = axis_letters(len(sizes))
    outputs = [Symbol(f"{a}_out", m) for a, m in zip(letters, made, strict=True)]
    if len(set(zip(sizes, made, alike, strict=True))) == 1:
        yield Line(
            quantity="shape",
            subjects=tuple(outputs),
            formula=formula(0, Symbol(f"{letters[0]}_in", sizes[0])),
        )
        return
    for axis, output in enumerate(outputs):
        source = Symbol(f"{letters[axis]}_in", sizes[axis])
        yield Line(quantity="shape", subjects=(output,), formula=formula(axis, source))


_SIDES = {1: (("left", "right"),), 2: (("top", "bottom"), ("left", "right"))}


def _padded(axis: int, rank: int, pair: tuple[int, int], *, alike: bool) -> Expression:
    """``2 p``, or both sides apart where they differ."""
    if pair[0] == pair[1]:
        return product(2, axis_symbol("p", axis, rank, pair[0], alike=alike))
    sides = (("front", "back"), *_SIDES[2]) if rank == 3 else _SIDES.get(rank, ())
    before, behind = sides[axis] if sides else ("before", "behind")
    return total(Symbol(f"p_{before}", pair[0]), Symbol(f"p_{behind}", pair[1]))


def _window(op: _Windowed, layer: Layer) -> Found:
    rank = len(op.kernel)
    padding = resolve_padding(op, layer.inputs[0][2:])
    alike = len(set(zip(op.kernel, op.stride, op.dilation, padding, strict=True))) == 1
    keys = tuple(zip(op.kernel, op.stride, op.dilation, padding, strict=True))
    rounded = ceiling if op.rounding == "ceil" else floor

    def size(axis: int, source: Symbol) -> Expression:
        k, s, d = _ksd(op, axis, alike=alike)
        if op.same is not None:
            return ceiling(source / s)
        room = source + _padded(axis, rank, padding[axis], alike=alike) - d * (k - 1) - 1
        count = rounded(room / s) + 1
        return count - (int(count.value) - layer.output[2 + axis])

    yield from _per_axis(layer, size, keys)
    if op.same is not None:
        shown = ", ".join(f"{low} + {high}" for low, high in padding)
        yield Note(key=f"same-{op.same}", values=(("padding", shown),))
    elif op.rounding == "ceil":
        yield Note(key="shape-ceil")


def _ksd(op: _Windowed, axis: int, *, alike: bool) -> tuple[Symbol, Symbol, Symbol]:
    rank = len(op.kernel)
    return (
        axis_symbol("k", axis, rank, op.kernel[axis], alike=alike or len(set(op.kernel)) == 1),
        axis_symbol("s", axis, rank, op.stride[axis], alike=alike or len(set(op.stride)) == 1),
        axis_symbol("d", axis, rank, op.dilation[axis], alike=alike or len(set(op.dilation)) == 1),
    )


@_rule.register
def _(op: Conv, layer: Layer) -> Found:
    if not op.transposed:
        yield from _window(op, layer)
        return
    rank = len(op.kernel)
    extra = op.output_padding or (0,) * rank
    keys = tuple(zip(op.kernel, op.stride, op.dilation, op.padding, extra, strict=True))
    alike = len(set(keys)) == 1

    def size(axis: int, source: Symbol) -> Expression:
        k, s, d = _ksd(op, axis, alike=alike)
        more = axis_symbol("q", axis, rank, extra[axis], alike=alike) if extra[axis] else Number(0)
        pads = _padded(axis, rank, op.padding[axis], alike=alike)
        return (source - 1) * s - pads + d * (k - 1) + 1 + more

    yield from _per_axis(layer, size, keys)


@_rule.register(DeformConv)
@_rule.register(Pool)
def _(op: DeformConv | Pool, layer: Layer) -> Found:
    yield from _window(op, layer)


@_rule.register(GlobalPool)
@_rule.register(AdaptivePool)
@_rule.register(Fold)
def _(op: Operator, layer: Layer) -> Found:
    sizes = layer.output[2:]
    letters = axis_letters(len(sizes))
    symbols = [Symbol(f"{letter}_out", made) for letter, made in zip(letters, sizes, strict=True)]
    if len(set(sizes)) == 1:
        yield Line(quantity="shape", subjects=tuple(symbols), formula=Number(sizes[0]))
    else:
        for symbol in symbols:
            yield Line(quantity="shape", subjects=(symbol,), formula=Number(symbol.number))
    yield Note(key=f"shape-{type(op).__name__}")


@_rule.register
def _(op: Resize, layer: Layer) -> Found:
    if not op.scale:
        yield Note(key="shape-Resize")
        return
    rank = len(op.scale)

    def size(axis: int, source: Symbol) -> Expression:
        alike = len(set(op.scale)) == 1
        index = "" if alike or rank == 1 else f"_{axis_letters(rank)[axis].lower()}"
        return floor(source * Symbol(f"u{index}", op.scale[axis]))

    yield from _per_axis(layer, size, tuple(op.scale))


@_rule.register
def _(op: Linear, layer: Layer) -> Found:
    made = Symbol("F_out", op.features)
    yield Line(quantity="shape", subjects=(made,), formula=Number(op.features))


@_rule.register
def _(op: MatMul, layer: Layer) -> Found:
    yield Note(key="shape-MatMul")


@_rule.register
def _(op: Concat, layer: Layer) -> Found:
    axis = op.axis % len(layer.output)
    name = elements(layer.output, "out")[axis].name
    parts = [Symbol(f"c_{i}", shape[axis]) for i, shape in enumerate(layer.inputs, start=1)]
    subject = Symbol(name, layer.output[axis])
    yield Line(quantity="shape", subjects=(subject,), formula=total(*parts))


@_rule.register
def _(op: Split, layer: Layer) -> Found:
    axis = op.axis % len(layer.output)
    values = (("sizes", " + ".join(map(str, op.sizes))), ("axis", str(axis)))
    yield Note(key="shape-Split", values=values)


@_rule.register
def _(op: Slice, layer: Layer) -> Found:
    names = elements(layer.output, "out")
    for axis, start, stop, step in op.ranges:
        size = layer.inputs[0][axis]
        end = size if stop is None else min(stop, size)
        if end <= start:
            continue
        formula = ceiling((Symbol("end", end) - Symbol("start", start)) / Symbol("step", step))
        yield Line(quantity="shape", subjects=(names[axis],), formula=formula)


@_rule.register
def _(op: Pad, layer: Layer) -> Found:
    sources, names = elements(layer.inputs[0], "in"), elements(layer.output, "out")
    for axis, (low, high) in enumerate(op.padding):
        if low or high:
            formula = total(sources[axis], Symbol("p_before", low), Symbol("p_behind", high))
            yield Line(quantity="shape", subjects=(names[axis],), formula=formula)


@_rule.register
def _(op: Flatten, layer: Layer) -> Found:
    source = layer.inputs[0]
    if op.axis == len(source):
        yield Note(key="shape-Reshape")
        return
    first, last = op.axis % len(source), op.last % len(source)
    joined = elements(source, "in")[first : last + 1]
    made = elements(layer.output, "out")[first]
    yield Line(quantity="shape", subjects=(made,), formula=product(*joined))
