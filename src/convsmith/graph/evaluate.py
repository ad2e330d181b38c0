"""The table of values: what every operator computes, in NumPy.

The plain twin of the compiled kernels: short enough to check against the definition, exact in
the type of its inputs (float64 in, float64 out), and the oracle that faster paths are tested
against. Convolutions go through a matrix product over unfolded windows, block by block, so
that whole networks can be calibrated with it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from convsmith.errors import ConvsmithError, DataError, ShapeError, UnsupportedOperatorError
from convsmith.graph.fragment import ConvStep
from convsmith.graph.graph import Graph, Node
from convsmith.graph.interpolation import resize
from convsmith.graph.nonlinearities import activate, unary
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
    roles,
)
from convsmith.graph.shape import (
    effective_kernel,
    infer_shapes,
    parameter_shapes,
    resolve_padding,
)
from convsmith.parallel import spread

__all__ = [
    "Array",
    "apply",
    "evaluate",
    "node_arguments",
    "pad_for_windows",
    "run_chain",
    "steps",
    "windows",
]

Array = npt.NDArray[Any]

_BLOCK_BYTES = 8 << 20
"""How much memory the unfolded windows of one block may take."""


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs a network and returns every value, inputs included.

    Args:
        graph: A network whose weights are present.
        inputs: One array per input; the sizes may differ from ``graph.inputs`` where the
            operators allow it.

    Raises:
        DataError: If an input is missing or a weight is absent.
        UnsupportedOperatorError: If an operator cannot be computed; names the node.

    >>> from convsmith.graph import parse
    >>> values = evaluate(parse("1@2 > relu"), {"x": np.array([[[[-1.0, 2.0], [3.0, -4.0]]]])})
    >>> values["relu1"].ravel()
    array([0., 2., 3., 0.])
    """
    values: dict[str, Array] = {}
    for _, made in steps(graph, inputs, keep_all=True):
        values.update(made)
    return {**{v.name: np.asarray(inputs[v.name]) for v in graph.inputs}, **values}


def steps(
    graph: Graph, inputs: Mapping[str, Array], *, keep_all: bool = False
) -> Iterator[tuple[Node, dict[str, Array]]]:
    """Runs a network node by node, forgetting each value after its last use.

    Yields:
        Each node with the values that it made.

    Raises:
        DataError: If an input is missing or a weight is absent.
        UnsupportedOperatorError: If an operator cannot be computed; names the node.
    """
    values: dict[str, Array] = {}
    for wanted in graph.inputs:
        if wanted.name not in inputs:
            raise DataError(f"input {wanted.name!r} is missing", remedy="give an array for it")
        values[wanted.name] = np.asarray(inputs[wanted.name])
    pending = Counter(used for node in graph.nodes for used in node.inputs)
    for node in graph.nodes:
        arguments, parameters = node_arguments(graph, node, values)
        try:
            results = apply(node.op, arguments, parameters)
        except ConvsmithError as error:
            raise error.at(node.name) from None
        made = dict(zip(node.outputs, results, strict=True))
        values.update(made)
        yield node, made
        if not keep_all:
            for used in node.inputs:
                pending[used] -= 1
                if pending[used] == 0 and used in values:
                    del values[used]


def node_arguments(
    graph: Graph, node: Node, values: Mapping[str, Array]
) -> tuple[list[Array], list[Array]]:
    """Collects what :func:`apply` needs for one node: its inputs and its parameters.

    Weights take the floating-point type of the values, so that float64 stays float64.

    Raises:
        DataError: If a weight is absent.
    """
    floats = next(
        (
            values[used].dtype
            for used in node.inputs
            if used in values and np.issubdtype(values[used].dtype, np.floating)
        ),
        None,
    )

    def constant(name: str) -> Array:
        data = graph.constants[name].data
        if data is None:
            raise DataError(
                f"its tensor {name!r} has no weights, only a shape",
                place=node.name,
                remedy="load a trained network",
            )
        if floats is not None and np.issubdtype(data.dtype, np.floating):
            return data.astype(floats, copy=False)
        return data

    inputs = [values[used] if used in values else constant(used) for used in node.inputs]
    return inputs, [constant(name) for name in node.parameters]


def apply(op: Operator, inputs: list[Array], parameters: list[Array]) -> tuple[Array, ...]:
    """Computes one operator.

    Args:
        op: What to compute.
        inputs: Its input values.
        parameters: Its constants, in the order of ``roles(op)``.

    Raises:
        ShapeError: If the sizes do not fit.
        UnsupportedOperatorError: If there is no rule for it.
    """
    shapes = [x.shape for x in inputs]
    infer_shapes(op, *shapes)
    for role, want, have in zip(roles(op), parameter_shapes(op, *shapes), parameters, strict=True):
        shared_slope = isinstance(op, Activation) and have.shape == (1,)
        if have.shape != want and not shared_slope:
            raise ShapeError(
                f"its {role} has shape {have.shape}, the layer needs {want}",
                remedy="check the number of input channels",
            )
    result = _compute(op, *inputs, *parameters)
    return result if isinstance(result, tuple) else (result,)


def run_chain(chain: Sequence[ConvStep], x: Array) -> Array:
    """Runs convolutions that follow each other."""
    for step in chain:
        x = apply(step.op, [x], step.parameters)[0]
    return x


@singledispatch
def _compute(op: Operator, *arrays: Array) -> Array | tuple[Array, ...]:
    kind = getattr(op, "kind", type(op).__name__)
    raise UnsupportedOperatorError(
        f"operator {kind!r} cannot be computed", remedy="remove it or keep it out of the network"
    )


# Windows -----------------------------------------------------------------------------------


def pad_for_windows(op: Conv | Pool, x: Array, fill: float = 0.0) -> Array:
    """Pads an input to what the windows of ``op`` cover, what ``ceil`` adds included.

    With ``ceil``, padding behind that no window may start in is left out again.
    """
    spatial = x.shape[2:]
    outputs = infer_shapes(op, x.shape)[0]
    assert outputs is not None
    pads = [(0, 0), (0, 0)]
    covered = [slice(None)] * 2
    for size, out, kernel, stride, dilation, (low, high) in zip(
        spatial, outputs[2:], op.kernel, op.stride, op.dilation, resolve_padding(op, spatial),
        strict=True,
    ):  # fmt: skip
        needed = (out - 1) * stride + effective_kernel(kernel, dilation)
        pads.append((low, max(high, needed - size - low)))
        covered.append(slice(0, needed))
    if not any(low or high for low, high in pads):
        return x
    padded = np.pad(x, pads, constant_values=fill)
    return padded[tuple(covered)] if op.rounding == "ceil" else padded


def windows(op: Conv | Pool, padded: Array) -> Array:
    """A view of every window: ``(N, C, *outputs, *kernel)``, nothing copied."""
    strides = padded.strides[2:]
    outputs = tuple(
        (size - effective_kernel(kernel, dilation)) // stride + 1
        for size, kernel, stride, dilation in zip(
            padded.shape[2:], op.kernel, op.stride, op.dilation, strict=True
        )
    )
    return as_strided(
        padded,
        (*padded.shape[:2], *outputs, *op.kernel),
        (
            *padded.strides[:2],
            *(s * step for s, step in zip(strides, op.stride, strict=True)),
            *(s * gap for s, gap in zip(strides, op.dilation, strict=True)),
        ),
        writeable=False,
    )


@_compute.register
def _(op: Conv, x: Array, weight: Array, *bias: Array) -> Array:
    y = _transposed(op, x, weight) if op.transposed else _convolve(op, x, weight)
    if bias:
        y += bias[0].reshape(1, -1, *(1,) * len(op.kernel))
    return y


def _convolve(op: Conv, x: Array, weight: Array) -> Array:
    """One matrix product per image, group and block of output rows."""
    view = windows(op, pad_for_windows(op, x))
    rank = len(op.kernel)
    batch, channels = x.shape[:2]
    outputs = view.shape[2 : 2 + rank]
    inner = channels // op.groups * math.prod(op.kernel)
    y = np.empty((batch, op.channels, *outputs), dtype=np.result_type(x, weight))
    if op.groups == channels and op.channels == channels:
        return _convolve_depthwise(view, weight, y)
    matrices = weight.reshape(op.groups, -1, inner)
    wide, deep = channels // op.groups, op.channels // op.groups
    per_row = inner * math.prod(outputs[1:]) * x.itemsize
    rows = max(1, min(outputs[0], _BLOCK_BYTES // max(per_row, 1)))
    order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))

    def block(place: tuple[int, int, int]) -> None:
        image, group, row = place
        part = view[image, group * wide : (group + 1) * wide, row : row + rows].transpose(order)
        out = y[image, group * deep : (group + 1) * deep, row : row + rows]
        out[...] = (matrices[group] @ part.reshape(inner, -1)).reshape(out.shape)

    places = itertools.product(range(batch), range(op.groups), range(0, outputs[0], rows))
    spread(block, places)
    return y


def _convolve_depthwise(view: Array, weight: Array, y: Array) -> Array:
    rank = weight.ndim - 2
    y[...] = 0
    for tap in itertools.product(*map(range, weight.shape[2:])):
        here: tuple[Any, ...] = (..., *tap)
        y += view[here] * weight[here][:, 0].reshape(-1, *(1,) * rank)
    return y


def _transposed(op: Conv, x: Array, weight: Array) -> Array:
    """Scatters every input element, tap by tap."""
    outputs = infer_shapes(op, x.shape)[0]
    assert outputs is not None
    room = tuple(
        max((size - 1) * stride + effective_kernel(kernel, dilation), low + out)
        for size, stride, kernel, dilation, (low, _), out in zip(
            x.shape[2:], op.stride, op.kernel, op.dilation, op.padding, outputs[2:], strict=True
        )
    )
    full = np.zeros((x.shape[0], op.channels, *room), dtype=np.result_type(x, weight))
    xs = x.reshape(x.shape[0], op.groups, -1, math.prod(x.shape[2:]))
    ws = weight.reshape(op.groups, -1, op.channels // op.groups, *op.kernel)
    for tap in itertools.product(*map(range, op.kernel)):
        here: tuple[Any, ...] = (..., *tap)
        part = np.einsum("ngil,gio->ngol", xs, ws[here], optimize=True)
        place = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, s, size in zip(tap, op.dilation, op.stride, x.shape[2:], strict=True)
        )
        full[(slice(None), slice(None), *place)] += part.reshape(
            x.shape[0], op.channels, *x.shape[2:]
        )
    crop = tuple(
        slice(low, low + out) for (low, _), out in zip(op.padding, outputs[2:], strict=True)
    )
    return np.ascontiguousarray(full[(slice(None), slice(None), *crop)])


@_compute.register
def _(op: Pool, x: Array) -> Array:
    taps = tuple(range(-len(op.kernel), 0))
    if op.kind == "max":
        view = windows(op, pad_for_windows(op, x, -np.inf))
        largest: Array = view.max(axis=taps)
        return largest
    padded = pad_for_windows(op, x)
    total: Array = windows(op, padded).sum(axis=taps)
    # How many elements each window divides by: padding counts or not, what ceil adds never.
    low_high = resolve_padding(op, x.shape[2:])
    counted = np.zeros((1, 1, *padded.shape[2:]), dtype=x.dtype)
    inside = tuple(
        slice(0, low + size + high) if op.count_padding else slice(low, low + size)
        for size, (low, high) in zip(x.shape[2:], low_high, strict=True)
    )
    region: tuple[Any, ...] = (0, 0, *inside)
    counted[region] = 1
    average: Array = total / windows(op, counted).sum(axis=taps)
    return average


@_compute.register
def _(op: GlobalPool, x: Array) -> Array:
    axes = tuple(range(2, x.ndim))
    reduce = np.max if op.kind == "max" else np.mean
    result: Array = reduce(x, axis=axes, keepdims=True)
    return result


@_compute.register
def _(op: AdaptivePool, x: Array) -> Array:
    """Window i covers [floor(i n / m), ceil((i + 1) n / m))."""
    reduce = np.max if op.kind == "max" else np.mean
    for axis, want in enumerate(op.size, start=2):
        size = x.shape[axis]
        if want:
            parts = [
                reduce(
                    x.take(range(i * size // want, -(-(i + 1) * size // want)), axis),
                    axis=axis,
                    keepdims=True,
                )
                for i in range(want)
            ]
            x = np.concatenate(parts, axis=axis)
    return x


# Normalization -----------------------------------------------------------------------------


def _standardize(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    variance = np.square(centred).mean(axes, keepdims=True)
    result: Array = centred / np.sqrt(variance + epsilon)
    return result


@_compute.register
def _(op: Norm, x: Array, *parameters: Array) -> Array:
    column = (1, -1, *(1,) * (x.ndim - 2))
    if op.kind == "batch":
        mean, variance = parameters[-2:]
        y = (x - mean.reshape(column)) / np.sqrt(variance.reshape(column) + op.epsilon)
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


@_compute.register
def _(op: LocalResponseNorm, x: Array) -> Array:
    before = (op.size - 1) // 2
    pads = [(0, 0), (before, op.size - 1 - before), *((0, 0),) * (x.ndim - 2)]
    squares = np.pad(np.square(x), pads)
    total = sum(squares[:, i : i + x.shape[1]] for i in range(op.size))
    result: Array = (x / (op.k + op.alpha / op.size * total) ** op.beta).astype(x.dtype)
    return result


# Element by element ------------------------------------------------------------------------


@_compute.register
def _(op: Activation, x: Array, *slope: Array) -> Array:
    return activate(op, x, *slope).astype(x.dtype, copy=False)


@_compute.register
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
}


@_compute.register
def _(op: Elementwise, first: Array, *others: Array) -> Array:
    for other in others:
        first = _ELEMENTWISE[op.kind](first, other)
    return first


@_compute.register
def _(op: Softmax, x: Array) -> Array:
    shifted = x - x.max(axis=op.axis, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=op.axis, keepdims=True)
    result: Array = shifted - np.log(total) if op.log else exponentials / total
    return result


# Products ----------------------------------------------------------------------------------


@_compute.register
def _(op: Linear, x: Array, weight: Array, *bias: Array) -> Array:
    y: Array = x @ weight.T
    return y + bias[0] if bias else y


@_compute.register
def _(op: MatMul, a: Array, b: Array) -> Array:
    product: Array = np.matmul(a, b)
    return product


# Shapes ------------------------------------------------------------------------------------


@_compute.register
def _(op: Concat, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=op.axis)


@_compute.register
def _(op: Split, x: Array) -> tuple[Array, ...]:
    return tuple(np.split(x, np.cumsum(op.sizes)[:-1].tolist(), axis=op.axis))


@_compute.register
def _(op: Slice, x: Array) -> Array:
    cut = [slice(None)] * x.ndim
    for axis, start, stop, step in op.ranges:
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@_compute.register
def _(op: Pad, x: Array) -> Array:
    crop = tuple(
        slice(max(0, -low), size - max(0, -high))
        for size, (low, high) in zip(x.shape, op.padding, strict=True)
    )
    pads = [(max(0, low), max(0, high)) for low, high in op.padding]
    if op.mode == "constant":
        return np.pad(x[crop], pads, constant_values=op.value)
    padded: Array = np.pad(x[crop], pads, mode=op.mode)
    return padded


@_compute.register
def _(op: Reshape, x: Array) -> Array:
    return x.reshape(op.shape)


@_compute.register
def _(op: Flatten, x: Array) -> Array:
    shape = infer_shapes(op, x.shape)[0]
    assert shape is not None
    return x.reshape(shape)


@_compute.register
def _(op: Transpose, x: Array) -> Array:
    return x.transpose(op.permutation)


@_compute.register
def _(op: Expand, x: Array) -> Array:
    return x * np.ones(op.shape, dtype=x.dtype)


@_compute.register
def _(op: Resize, x: Array) -> Array:
    return resize(op, x)


_REDUCTIONS: dict[str, Callable[[Array, tuple[int, ...], bool], Array]] = {
    "mean": lambda x, axes, keep: x.mean(axis=axes, keepdims=keep),
    "sum": lambda x, axes, keep: x.sum(axis=axes, keepdims=keep),
    "max": lambda x, axes, keep: x.max(axis=axes, keepdims=keep),
    "min": lambda x, axes, keep: x.min(axis=axes, keepdims=keep),
    "prod": lambda x, axes, keep: x.prod(axis=axes, keepdims=keep),
    "l1norm": lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep),
    "l2norm": lambda x, axes, keep: np.sqrt(np.square(x).sum(axis=axes, keepdims=keep)),
}


@_compute.register
def _(op: Reduce, x: Array) -> Array:
    result: Array = np.asarray(_REDUCTIONS[op.kind](x, op.axes, op.keep))
    return result


@_compute.register
def _(op: Identity, x: Array) -> Array:
    return x
