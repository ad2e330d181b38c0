"""The formulas of receptive fields: the forward recursion, in rationals.

``r`` is how many pixels wide a field is, ``j`` how far it moves from one output to the next, and
``o`` its first pixel for output 0 (Araujo, Norris & Sim, 2019, "Computing receptive fields of
convolutional neural networks", section 2). Where a field depends on the phase of its output, no
single recursion says it: the numbers then come from the intervals of all phases, and a note says
so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch

from convsmith.analysis.explaining.expression import (
    Expression,
    Symbol,
    ceiling,
    gcd,
    maximum,
    minimum,
)
from convsmith.analysis.explaining.layer import (
    Layer,
    Line,
    Note,
    axis_letters,
    axis_symbol,
)
from convsmith.analysis.field import Axis, Field
from convsmith.analysis.recursion import backward, chain
from convsmith.errors import GraphError
from convsmith.graph import Graph
from convsmith.graph.operators import Concat, Conv, Elementwise, Operator, Pad, Pool, Slice, Unfold
from convsmith.graph.shape import resolve_padding

__all__ = ["backward_lines", "field_lines", "seen_backwards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The recursion along one axis: size, stride and offset."""

    size: Expression
    stride: Expression
    offset: Expression | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What the input sees, along one axis."""

    r: Symbol
    j: Symbol
    o: Symbol


def field_lines(layer: Layer) -> tuple[Line | Note, ...]:
    """Returns the recursion of a layer's field, or why there is none."""
    return tuple(_lines(layer))


def _lines(layer: Layer) -> Iterator[Line | Note]:
    after = layer.row.rf
    if not after.axes:
        yield Note(key="field-none")
        return
    if any(axis is None for axis in after.axes):
        yield Note(key="field-unknown", values=(("reason", after.reason),))
        return
    if all(axis is not None and axis.is_constant for axis in after.axes):
        if after.status == "upper-bound":
            yield Note(key="field-together")
            yield Note(key="field-bound")
        else:
            yield Note(key="field-global" if all(after.everywhere) else "field-constant")
        return
    steps = _steps(layer)
    if steps is None:
        direct = {field.axes for field in layer.before if field is not None and _moves(field)}
        yield Note(key="field-same" if direct == {after.axes} else "field-phases")
    else:
        yield from _written(steps, after)
    if after.is_global:
        yield Note(key="field-gate" if all(after.everywhere) else "field-gate-axis")
    if after.status == "upper-bound":
        yield Note(key="field-bound")


def _written(steps: list[_Step], after: Field) -> Iterator[Line | Note]:
    """One line an axis and quantity, or one for all axes where the numbers agree."""
    rank = len(steps)
    rows: tuple[tuple[str, str, list[Expression | None]], ...] = (
        ("r", "rf.size", [step.size for step in steps]),
        ("j", "rf.stride", [step.stride for step in steps]),
        ("o", "rf.offset", [step.offset for step in steps]),
    )
    for letter, quantity, formulas in rows:
        known = [f for f in formulas if f is not None]
        if len(known) < rank:
            yield Note(key="field-offset")
            continue
        if len({f.text(numbers=True) for f in known}) == 1:
            subject = Symbol(letter, known[0].value)
            yield Line(quantity=quantity, subjects=(subject,), formula=known[0])
            continue
        for axis, f in enumerate(known):
            name = f"{letter}_{axis_letters(rank)[axis].lower()}"
            yield Line(quantity=quantity, subjects=(Symbol(name, f.value),), formula=f)


def _moves(field: Field) -> bool:
    """Whether different positions see different pixels; the factors of a gate do not."""
    return any(axis is None or not axis.is_constant for axis in field.axes)


def _regular(axis: Axis | None) -> bool:
    """Whether every position sees the same, moved on: one phase, one pace."""
    return axis is not None and len(axis.phases) == 1 and axis.step > 0 and not axis.is_empty


def _steps(layer: Layer) -> list[_Step] | None:
    """The recursion per axis; ``None`` where none holds."""
    fields = layer.before
    known = [field for field in fields if field is not None]
    if not known or not all(_regular(axis) for field in known for axis in field.axes):
        return None
    steps = _rule(layer.op, layer, known)
    if steps is None:
        return None
    after = layer.row.rf
    # A rule knows its operator alone: it holds unless the shapes around it say something else.
    agree = (
        (step.size.value, step.stride.value) == (size, stride)
        and (step.offset is None or step.offset.value == offset)
        for step, size, stride, offset in zip(
            steps, after.size, after.stride, after.offset, strict=True
        )
    )
    return steps if all(agree) else None


def _before(field: Field, axis: int) -> _Before:
    size, stride, offset = field.size[axis], field.stride[axis], field.offset[axis]
    assert size is not None
    assert stride is not None
    assert offset is not None
    return _Before(r=Symbol("r_in", size), j=Symbol("j_in", stride), o=Symbol("o_in", offset))


# From the output back ---------------------------------------------------------------


def seen_backwards(graph: Graph) -> Mapping[str, tuple[int, ...]]:
    """Per window of a chain, how much of its output the network's output sees, along each axis.

    The recursion of the other direction; it holds where a network has no branches, and is empty
    elsewhere.
    """
    nodes = [node for node in graph.nodes if isinstance(node.op, Conv | Pool)]
    ranks = {len(node.op.kernel) for node in nodes if isinstance(node.op, Conv | Pool)}
    if len(ranks) != 1 or not graph.nodes or graph.outputs[0].value != graph.nodes[-1].name:
        return {}
    try:
        axes = [chain(graph, axis) for axis in range(ranks.pop())]
    except GraphError:
        return {}
    sizes = [(1, *backward(windows)[:-1])[::-1] for windows in axes]
    return {node.name: tuple(size[index] for size in sizes) for index, node in enumerate(nodes)}


def backward_lines(layer: Layer, seen: tuple[int, ...]) -> Iterator[Line]:
    """How much of the layer's input the network's output sees: ``(b_out - 1) s + d (k - 1) + 1``.

    Args:
        layer: A window.
        seen: How much of its output, along each axis.
    """
    op = layer.op
    if not isinstance(op, Conv | Pool):
        return
    rank = len(op.kernel)
    formulas = []
    for axis, size in enumerate(seen):
        k = axis_symbol("k", axis, rank, op.kernel[axis], alike=len(set(op.kernel)) == 1)
        s = axis_symbol("s", axis, rank, op.stride[axis], alike=len(set(op.stride)) == 1)
        d = axis_symbol("d", axis, rank, op.dilation[axis], alike=len(set(op.dilation)) == 1)
        formulas.append((Symbol("b_out", size) - 1) * s + d * (k - 1) + 1)
    alike = len({formula.text(numbers=True) for formula in formulas}) == 1
    for axis, formula in enumerate(formulas[:1] if alike else formulas):
        index = "" if alike else f"_{axis_letters(rank)[axis].lower()}"
        subject = Symbol(f"b{index}" if index else "b_in", formula.value)
        yield Line(quantity="rf.back", subjects=(subject,), formula=formula)


@singledispatch
def _rule(op: Operator, layer: Layer, fields: list[Field]) -> list[_Step] | None:
    return None


def _per_axis(
    fields: list[Field], step: Callable[[int, _Before], _Step | None]
) -> list[_Step] | None:
    steps = [step(axis, _before(fields[0], axis)) for axis in range(len(fields[0].axes))]
    found = [s for s in steps if s is not None]
    return found if len(found) == len(steps) else None


@_rule.register(Conv)
@_rule.register(Pool)
@_rule.register(Unfold)
def _(op: Conv | Pool | Unfold, layer: Layer, fields: list[Field]) -> list[_Step] | None:
    rank = len(op.kernel)
    if len(fields[0].axes) != rank or len(layer.inputs[0]) != rank + 2:
        return None
    if isinstance(op, Conv) and op.transposed:
        return _per_axis(fields, lambda axis, before: _transposed(op, axis, before))
    padding = resolve_padding(op, layer.inputs[0][2:])

    def step(axis: int, before: _Before) -> _Step:
        k = axis_symbol("k", axis, rank, op.kernel[axis], alike=len(set(op.kernel)) == 1)
        s = axis_symbol("s", axis, rank, op.stride[axis], alike=len(set(op.stride)) == 1)
        d = axis_symbol("d", axis, rank, op.dilation[axis], alike=len(set(op.dilation)) == 1)
        low = padding[axis][0]
        p = axis_symbol("p", axis, rank, low, alike=len(set(padding)) == 1)
        return _Step(
            size=before.r + (k - 1) * d * before.j,
            stride=before.j * s,
            offset=before.o - p * before.j,
        )

    return _per_axis(fields, step)


def _transposed(op: Conv, axis: int, before: _Before) -> _Step:
    """Taps that reach one output are ``s / gcd(s, d)`` apart, their inputs ``d / gcd(s, d)``."""
    rank = len(op.kernel)
    kernel, stride, dilation = op.kernel[axis], op.stride[axis], op.dilation[axis]
    low = op.padding[axis][0]
    k = axis_symbol("k", axis, rank, kernel, alike=len(set(op.kernel)) == 1)
    s = axis_symbol("s", axis, rank, stride, alike=len(set(op.stride)) == 1)
    d = axis_symbol("d", axis, rank, dilation, alike=len(set(op.dilation)) == 1)
    p = axis_symbol("p", axis, rank, low, alike=len(set(op.padding)) == 1)
    grids = s if math.gcd(stride, dilation) == 1 else s / gcd(s, d)
    taps = ceiling(k / grids)
    apart = d if math.gcd(stride, dilation) == 1 else d / gcd(s, d)
    size = before.r + (taps - 1) * (before.j if dilation == 1 else apart * before.j)
    offset = None
    if dilation == 1 and kernel >= stride:
        offset = before.o + ceiling((p - (k - 1)) / s) * before.j
    return _Step(size=size, stride=before.j / s, offset=offset)


@_rule.register(Concat)
@_rule.register(Elementwise)
def _(op: Operator, layer: Layer, fields: list[Field]) -> list[_Step] | None:
    """The union of what the branches see, from the first pixel of one to the last of one."""
    distinct = list({field.axes: field for field in fields}.values())
    if len(distinct) < 2:
        return None
    steps = []
    for axis in range(len(fields[0].axes)):
        starts, ends = [], []
        for index, field in enumerate(distinct, start=1):
            before = _before(field, axis)
            start, size = (
                Symbol(f"o_{index}", before.o.number),
                Symbol(f"r_{index}", before.r.number),
            )
            starts.append(start)
            ends.append(start + size)
        stride = _before(distinct[0], axis).j
        first = minimum(*starts)
        steps.append(_Step(size=maximum(*ends) - first, stride=stride, offset=first))
    return steps


@_rule.register
def _(op: Pad, layer: Layer, fields: list[Field]) -> list[_Step] | None:
    if op.mode != "constant" or len(op.padding) != len(fields[0].axes) + 2:
        return None

    def step(axis: int, before: _Before) -> _Step:
        p = Symbol("p_before", op.padding[axis + 2][0])
        return _Step(size=before.r, stride=before.j, offset=before.o - p * before.j)

    return _per_axis(fields, step)


@_rule.register
def _(op: Slice, layer: Layer, fields: list[Field]) -> list[_Step] | None:
    ranges = {axis: (start, step) for axis, start, _, step in op.ranges}
    if not any(axis + 2 in ranges for axis in range(len(fields[0].axes))):
        return None

    def step(axis: int, before: _Before) -> _Step:
        start, pace = ranges.get(axis + 2, (0, 1))
        return _Step(
            size=before.r,
            stride=before.j * Symbol("step", pace),
            offset=before.o + Symbol("start", start) * before.j,
        )

    return _per_axis(fields, step)
