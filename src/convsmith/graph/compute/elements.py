"""The table of values, part two: elements, normalizations, products and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convsmith.graph.compute.table import Array, compute
from convsmith.graph.nonlinearities import activate, unary
from convsmith.graph.operators import (
    Activation,
    Cast,
    Cumulate,
    Einsum,
    Elementwise,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Reduce,
    Softmax,
    TopK,
    Unary,
    Where,
)

__all__: list[str] = []


# Normalization -----------------------------------------------------------------------------


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    variance = np.square(centred).mean(axes, keepdims=True)
    result: Array = centred / np.sqrt(variance + epsilon)
    return result


@compute.register
def _(op: Norm, x: Array, *parameters: Array) -> Array:
    column = (1, -1, *(1,) * (x.ndim - 2))
    if op.kind == "batch":
        mean, variance = parameters[-2:]
        y = (x - mean.reshape(column)) / np.sqrt(variance.reshape(column) + op.epsilon)
    elif op.kind == "rms":
        axes = tuple(range(x.ndim - op.axes, x.ndim))
        scaled: Array = x / np.sqrt(np.square(x).mean(axes, keepdims=True) + op.epsilon)
        return scaled * parameters[0] if op.affine else scaled
    elif op.kind == "layer":
        y = _standardize(x, tuple(range(x.ndim - op.axes, x.ndim)), op.epsilon)
        return y * parameters[0] + parameters[1] if op.affine else y
    else:
        groups = op.groups if op.kind == "group" else x.shape[1]
        split = x.reshape(x.shape[0], groups, -1)
        y = _standardize(split, (2,), op.epsilon).reshape(x.shape)
    if op.affine:
        y = y * parameters[0].reshape(column) + parameters[1].reshape(column)
    result: Array = y.astype(x.dtype, copy=False)
    return result


@compute.register
def _(op: LocalResponseNorm, x: Array) -> Array:
    before = (op.size - 1) // 2 if op.lean == "upper" else op.size // 2
    pads = [(0, 0), (before, op.size - 1 - before), *((0, 0),) * (x.ndim - 2)]
    squares = np.pad(np.square(x), pads)
    total = sum(squares[:, i : i + x.shape[1]] for i in range(op.size))
    result: Array = (x / (op.k + op.alpha / op.size * total) ** op.beta).astype(x.dtype)
    return result


# Element by element ------------------------------------------------------------------------


@compute.register
def _(op: Activation, x: Array, *slope: Array) -> Array:
    return activate(op, x, *slope).astype(x.dtype, copy=False)


@compute.register
def _(op: Unary, x: Array) -> Array:
    return unary(op, x)


_ELEMENTWISE: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
    "mod": np.mod,
    "fmod": np.fmod,
    "equal": np.equal,
    "notequal": np.not_equal,
    "less": np.less,
    "lessequal": np.less_equal,
    "greater": np.greater,
    "greaterequal": np.greater_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


@compute.register
def _(op: Elementwise, first: Array, *others: Array) -> Array:
    for other in others:
        first = _ELEMENTWISE[op.kind](first, other)
    return first


@compute.register
def _(op: Where, condition: Array, one: Array, other: Array) -> Array:
    return np.where(condition.astype(bool), one, other)


@compute.register
def _(op: Cast, x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return x.astype(op.dtype)


@compute.register
def _(op: Softmax, x: Array) -> Array:
    shifted = x - x.max(axis=op.axis, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=op.axis, keepdims=True)
    result: Array = shifted - np.log(total) if op.log else exponentials / total
    return result


# Products ----------------------------------------------------------------------------------


@compute.register
def _(op: Linear, x: Array, weight: Array, *bias: Array) -> Array:
    y: Array = x @ weight.T
    return y + bias[0] if bias else y


@compute.register
def _(op: MatMul, a: Array, b: Array) -> Array:
    product: Array = np.matmul(a, b)
    return product


@compute.register
def _(op: Einsum, *operands: Array) -> Array:
    result: Array = np.asarray(np.einsum(op.equation, *operands, optimize="greedy"))
    return result


_REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...], bool], Array]] = {
    "mean": lambda x, axes, keep: x.mean(axis=axes, keepdims=keep),
    "sum": lambda x, axes, keep: x.sum(axis=axes, keepdims=keep),
    "max": lambda x, axes, keep: x.max(axis=axes, keepdims=keep),
    "min": lambda x, axes, keep: x.min(axis=axes, keepdims=keep),
    "prod": lambda x, axes, keep: x.prod(axis=axes, keepdims=keep),
    "l1norm": lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep),
    "l2norm": lambda x, axes, keep: np.sqrt(np.square(x).sum(axis=axes, keepdims=keep)),
}


def _logsumexp(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    largest = x.max(axis=axes, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total: Array = np.log(np.exp(x - largest).sum(axis=axes, keepdims=True)) + largest
    return total if keep else total.squeeze(axes)


def _place(function: Callable[..., Array]) -> Callable[[Array, tuple[int, ...], bool], Array]:
    def reduce(x: Array, axes: tuple[int, ...], keep: bool) -> Array:
        inner = sorted(axis % x.ndim for axis in axes)
        moved = np.moveaxis(x, inner, range(x.ndim - len(inner), x.ndim))
        found = function(moved.reshape(*moved.shape[: x.ndim - len(inner)], -1), axis=-1)
        return np.expand_dims(found, tuple(inner)) if keep else found

    return reduce


_REDUCTIONS |= {"argmax": _place(np.argmax), "argmin": _place(np.argmin), "logsumexp": _logsumexp}


@compute.register
def _(op: Reduce, x: Array) -> Array:
    result: Array = np.asarray(_REDUCTIONS[op.kind](x, op.axes, op.keep))
    return result


@compute.register
def _(op: Identity, x: Array) -> Array:
    to_real = op.kind == "cast" and x.dtype.kind in "biu"
    return x.astype(np.float64) if to_real else x


@compute.register
def _(op: Cumulate, x: Array) -> Array:
    x = np.flip(x, op.axis) if op.reverse else x
    start, accumulate = (0, np.cumsum) if op.kind == "sum" else (1, np.cumprod)
    y: Array = accumulate(x, axis=op.axis, dtype=x.dtype)
    if op.exclusive:
        y = np.roll(y, 1, op.axis)
        np.moveaxis(y, op.axis, 0)[:1] = start
    return np.flip(y, op.axis) if op.reverse else y


@compute.register
def _(op: TopK, x: Array) -> tuple[Array, Array]:
    """Of equal elements the earlier one comes first."""
    order: Array
    if op.largest:
        turned = np.argsort(np.flip(x, op.axis), axis=op.axis, kind="stable")
        order = x.shape[op.axis] - 1 - np.flip(turned, op.axis)
    else:
        order = np.argsort(x, axis=op.axis, kind="stable")
    order = order.take(range(op.count), axis=op.axis).astype(np.int64)
    return np.take_along_axis(x, order, op.axis), order
