"""The table of gradients: what a change of an operator's inputs does to a scalar behind it.

One rule per kind of operator takes the gradient of the output to the gradients of the inputs (the
vector-Jacobian product of reverse-mode differentiation). Weights are constants here. Operators
that only move elements share one rule: run on the places of the elements instead of the elements,
they say themselves where everything goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np

from convsmith.errors import UnsupportedOperatorError
from convsmith.graph.affine import affine_of
from convsmith.graph.compute import Array, compute, pad_for_windows, windows
from convsmith.graph.evaluate import image_slices, node_arguments
from convsmith.graph.graph import Graph
from convsmith.graph.operators import (
    Activation,
    Concat,
    Conv,
    DepthToSpace,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Gather,
    GlobalPool,
    Identity,
    Linear,
    Norm,
    Operator,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    SpaceToDepth,
    Split,
    Transpose,
    Unary,
)
from convsmith.graph.shape import effective_kernel, resolve_padding
from convsmith.parallel import spread

__all__ = ["Run", "adjoint", "gradients"]

Gradients = tuple[Array | None, ...]
"""One per input; ``None`` where it is zero or means nothing."""

MOVES = (
    Concat,
    DepthToSpace,
    Expand,
    Flatten,
    Flip,
    Gather,
    Pad,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    Transpose,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """One operator in one run of its network, on the way back.

    Attributes:
        given: The gradient of every output; ``None`` where nothing depends on it.
        inputs: What it read.
        parameters: Its weights.
        outputs: What it made.
    """

    given: Sequence[Array | None]
    inputs: Sequence[Array]
    parameters: Sequence[Array]
    outputs: Sequence[Array]

    @property
    def gradient(self) -> Array:
        """Of the first output, the only one that has any."""
        gradient = self.given[0]
        assert gradient is not None
        return gradient


@singledispatch
def adjoint(op: Operator, run: Run) -> Gradients:
    """The gradients of an operator's inputs from those of its outputs.

    Args:
        op: The operator.
        run: What it read and made, and the gradients of that.

    Raises:
        UnsupportedOperatorError: If there is no rule for it.
    """
    if isinstance(op, MOVES):
        return _moved(op, run)
    kind = getattr(op, "kind", type(op).__name__)
    raise UnsupportedOperatorError(
        f"operator {kind!r} has no gradient here", remedy="leave out what needs it"
    )


def gradients(
    graph: Graph, values: Mapping[str, Array], given: Mapping[str, Array], wanted: set[str]
) -> dict[str, Array]:
    """Runs a network backwards.

    Args:
        graph: The network.
        values: Every value of one run, from ``evaluate``.
        given: The gradient of a scalar with respect to some values, such as the outputs.
        wanted: The values whose gradients are asked for.

    Returns:
        The gradients of those that the scalar depends on by operators that have rules; what lies
        in front of any other is left out.

    >>> from convsmith.graph import parse
    >>> from convsmith.graph.evaluate import evaluate
    >>> net = parse("1@2 > relu")
    >>> values = evaluate(net, {"x": np.array([[[[1.0, -1.0], [2.0, 3.0]]]])})
    >>> gradients(net, values, {net.outputs[0].value: np.ones((1, 1, 2, 2))}, {"x"})["x"][0, 0, 0]
    array([1., 0.])
    """
    found: dict[str, Array] = dict(given)
    unknown: set[str] = set()
    for node in reversed(graph.nodes):
        if unknown.intersection(node.outputs):
            unknown.update(node.inputs)
            continue
        got = [found.get(name) for name in node.outputs]
        for name in node.outputs:
            if name not in wanted:
                found.pop(name, None)
        if all(gradient is None for gradient in got):
            continue
        inputs, parameters = node_arguments(graph, node, values)
        try:
            outputs = [values[name] for name in node.outputs]
            run = Run(given=got, inputs=inputs, parameters=parameters, outputs=outputs)
            made = _by_image(node.op, run)
        except UnsupportedOperatorError:
            unknown.update(node.inputs)
            continue
        for name, gradient in zip(node.inputs, made, strict=True):
            if gradient is not None:
                found[name] = found[name] + gradient if name in found else gradient
    return {name: found[name] for name in wanted if name in found and name not in unknown}


def _by_image(op: Operator, run: Run) -> Gradients:
    """The gradients, some images at a time where each goes its own way and that takes a while."""
    one_way = isinstance(op, Activation | Unary | Norm | Pool)
    parts = image_slices(op, run.inputs) if one_way else []
    if not parts:
        return adjoint(op, run)
    made = np.empty_like(run.inputs[0], dtype=run.gradient.dtype)

    def put(images: slice) -> None:
        (gradient,) = adjoint(
            op,
            Run(
                given=[run.gradient[images]],
                inputs=[run.inputs[0][images]],
                parameters=run.parameters,
                outputs=[run.outputs[0][images]],
            ),
        )
        assert gradient is not None
        made[images] = gradient

    spread(put, parts)
    return (made,)


def _moved(op: Operator, run: Run) -> Gradients:
    """Adds every element's gradient up at the place that the element came from."""
    inputs = run.inputs
    data = 1 if isinstance(op, Gather) else len(inputs)  # what follows says where, not what
    starts = np.cumsum([1, *(x.size for x in inputs[:data])])
    places = [
        np.arange(start, start + x.size, dtype=np.float64).reshape(x.shape)
        for start, x in zip(starts, inputs[:data], strict=False)
    ]
    moved_op = replace(op, value=0.0) if isinstance(op, Pad) and op.mode == "constant" else op
    moved = compute(moved_op, *places, *inputs[data:])
    total = np.zeros(int(starts[-1]))
    for gradient, place in zip(
        run.given, moved if isinstance(moved, tuple) else (moved,), strict=True
    ):
        if gradient is not None:
            total += np.bincount(
                place.astype(np.int64).ravel(), gradient.ravel(), minlength=len(total)
            )
    return tuple(
        total[start : start + x.size].reshape(x.shape).astype(x.dtype)
        for start, x in zip(starts, inputs[:data], strict=False)
    ) + (None,) * (len(inputs) - data)


@adjoint.register
def _(op: Conv, run: Run) -> Gradients:
    g, x = run.gradient, run.inputs[0]
    if op.transposed:
        back = replace(
            op, channels=x.shape[1], transposed=False, output_padding=(), bias=False, same=None
        )
        made = compute(back, g, run.parameters[0])
        assert isinstance(made, np.ndarray)
        whole = tuple(slice(0, size) for size in x.shape[2:])
        return (made[(slice(None), slice(None), *whole)],)
    if op.rounding != "floor":
        raise UnsupportedOperatorError("a convolution that rounds up has no gradient here")
    padding = resolve_padding(op, x.shape[2:])
    extra = tuple(
        size - ((out - 1) * stride - low - high + effective_kernel(kernel, dilation))
        for size, out, stride, (low, high), kernel, dilation in zip(
            x.shape[2:], g.shape[2:], op.stride, padding, op.kernel, op.dilation, strict=True
        )
    )
    back = replace(
        op,
        channels=x.shape[1],
        transposed=True,
        padding=padding,
        same=None,
        bias=False,
        output_padding=extra if any(extra) else (),
    )
    made = compute(back, g, run.parameters[0])
    assert isinstance(made, np.ndarray)
    return (made,)


@adjoint.register
def _(op: Linear, run: Run) -> Gradients:
    return (run.gradient @ run.parameters[0],)


@adjoint.register
def _(op: Identity, run: Run) -> Gradients:
    return (run.given[0], *(None,) * (len(run.inputs) - 1))


@adjoint.register(Activation)
@adjoint.register(Unary)
def _(op: Activation | Unary, run: Run) -> Gradients:
    """The slope of any function of one element, by a central difference in double precision."""
    g, (x,) = run.gradient, run.inputs
    if isinstance(op, Activation) and op.kind == "relu":
        return (g * (x > 0),)
    wide = x.astype(np.float64)
    step = 1e-5 * np.maximum(np.abs(wide), 1.0)
    double = [parameter.astype(np.float64) for parameter in run.parameters]
    high, low = compute(op, wide + step, *double), compute(op, wide - step, *double)
    assert isinstance(high, np.ndarray)
    assert isinstance(low, np.ndarray)
    slope = np.nan_to_num((high - low) / (2 * step))
    return (g * slope.astype(g.dtype),)


def _summed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Adds up what broadcasting spread."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1)
    made: Array = gradient.sum(axis=axes, keepdims=True) if axes else gradient
    return made


@adjoint.register
def _(op: Elementwise, run: Run) -> Gradients:
    g, inputs, (y, *_) = run.gradient, run.inputs, run.outputs
    if op.kind in ("add", "sum"):
        parts = [g] * len(inputs)
    elif op.kind == "sub" and len(inputs) == 2:
        parts = [g, -g]
    elif op.kind == "mul" and len(inputs) == 2:
        parts = [g * inputs[1], g * inputs[0]]
    elif op.kind == "div" and len(inputs) == 2:
        parts = [g / inputs[1], -g * y / inputs[1]]
    elif op.kind in ("maximum", "minimum"):
        hits = [x == y for x in inputs]  # equal ones share it
        parts = [g * hit / np.maximum(sum(h.astype(g.dtype) for h in hits), 1) for hit in hits]
    else:
        raise UnsupportedOperatorError(f"operator {op.kind!r} has no gradient here")
    return tuple(_summed(part, x.shape) for part, x in zip(parts, inputs, strict=True))


@adjoint.register
def _(op: Norm, run: Run) -> Gradients:
    g, (x,) = run.gradient, run.inputs
    column = (1, -1, *(1,) * (x.ndim - 2))
    if op.kind == "batch":
        scale = affine_of(op, run.parameters).scale
        return (g * scale.reshape(column).astype(g.dtype),)
    if op.kind == "rms":
        raise UnsupportedOperatorError("RMS normalization has no gradient here")
    if op.affine:
        g = g * (run.parameters[0] if op.kind == "layer" else run.parameters[0].reshape(column))
    if op.kind == "layer":
        split = (*x.shape[: x.ndim - op.axes], -1)
    else:
        split = (x.shape[0], op.groups if op.kind == "group" else x.shape[1], -1)
    flat, along = x.reshape(split), g.reshape(split)
    centred = flat - flat.mean(-1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + op.epsilon)
    unit = centred / deviation
    shared = along.mean(-1, keepdims=True) + unit * (along * unit).mean(-1, keepdims=True)
    return (((along - shared) / deviation).reshape(x.shape),)


@adjoint.register
def _(op: Softmax, run: Run) -> Gradients:
    g, (y,) = run.gradient, run.outputs
    if op.log:
        return (g - np.exp(y) * g.sum(op.axis, keepdims=True),)
    return (y * (g - (g * y).sum(op.axis, keepdims=True)),)


@adjoint.register
def _(op: GlobalPool, run: Run) -> Gradients:
    g, (x,) = run.gradient, run.inputs
    if op.kind == "max":
        hits = x == run.outputs[0]  # equal ones share it
        axes = tuple(range(2, x.ndim))
        return (g * hits / np.maximum(hits.sum(axes, keepdims=True), 1).astype(g.dtype),)
    share = g / max(int(np.prod(x.shape[2:])), 1)
    return (np.broadcast_to(share, x.shape),)


@adjoint.register
def _(op: Reduce, run: Run) -> Gradients:
    g, (x,) = run.gradient, run.inputs
    if op.kind not in ("mean", "sum"):
        raise UnsupportedOperatorError(f"operator {op.kind!r} has no gradient here")
    kept = [1 if i in _reduced(op, x.ndim) else size for i, size in enumerate(x.shape)]
    count = 1.0 if op.kind == "sum" else x.size / max(int(np.prod(kept)), 1)
    spread = np.broadcast_to((g / count).reshape(kept), x.shape)
    return (spread,)


def _reduced(op: Reduce, rank: int) -> set[int]:
    axes = op.axes
    return {axis % rank for axis in axes} if axes else set(range(rank))


@adjoint.register
def _(op: Pool, run: Run) -> Gradients:
    g, (x,) = run.gradient, run.inputs
    rank = len(op.kernel)
    padded = pad_for_windows(op, x, -np.inf if op.kind == "max" else 0.0)
    view = windows(op, padded)
    back = np.zeros(padded.shape, g.dtype)
    if op.kind == "max":
        y = run.outputs[0]
        left = g.copy()  # a maximum that stands at several places counts once
    else:
        # Of ones, the average is how many elements the window has inside, over what it divides by.
        ones = compute(op, np.ones_like(x))
        assert isinstance(ones, np.ndarray)
        inside = windows(op, pad_for_windows(op, np.ones_like(x)))
        count = inside.sum(axis=tuple(range(2 + rank, 2 + 2 * rank)))
        left = g * (ones / np.maximum(count, 1))
    for tap in itertools.product(*map(range, op.kernel)):
        place = tuple(
            slice(t * d, t * d + (count - 1) * s + 1, s)
            for t, d, s, count in zip(tap, op.dilation, op.stride, g.shape[2:], strict=True)
        )
        here: tuple[Any, ...] = (..., *tap)
        part = left
        if op.kind == "max":
            hit = view[here] == y
            part = np.where(hit, left, 0)
            left = np.where(hit, 0, left)
        back[(slice(None), slice(None), *place)] += part
    lows = [low for low, _ in resolve_padding(op, x.shape[2:])]
    crop = tuple(slice(low, low + size) for low, size in zip(lows, x.shape[2:], strict=True))
    return (back[(slice(None), slice(None), *crop)],)


@adjoint.register
def _(op: Resize, run: Run) -> Gradients:
    """Linear along every axis: the matrix of one axis is what it makes of unit vectors."""
    g, (x,) = run.gradient, run.inputs
    made = g
    for axis in range(2, x.ndim):
        if x.shape[axis] == g.shape[axis]:
            continue
        matrix = _along(op, x.shape, axis)
        made = np.moveaxis(np.moveaxis(made, axis, -1) @ matrix, -1, axis)
    return (made.astype(x.dtype, copy=False),)


def _along(op: Resize, shape: tuple[int, ...], axis: int) -> Array:
    """``(outputs, inputs)``: what resizing makes of unit vectors along one axis."""
    size = shape[axis]
    column = (size, 1, *(size if a == axis else 1 for a in range(2, len(shape))))
    units = np.broadcast_to(np.eye(size).reshape(column), (size, 1, *shape[2:]))
    out = compute(op, np.ascontiguousarray(units))
    assert isinstance(out, np.ndarray)
    corner = tuple(slice(None) if a == axis else 0 for a in range(1, len(shape)))
    matrix: Array = out[(slice(None), *corner)].T
    return matrix
