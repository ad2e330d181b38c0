"""The table of values, part one: windows that slide over images.

Convolutions go through a matrix product over unfolded windows, block by block, so that whole
networks can be calibrated with it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from convsmith.errors import ShapeError
from convsmith.graph.compute.table import Array, compute
from convsmith.graph.operators import (
    AdaptivePool,
    Conv,
    Fold,
    GlobalPool,
    Pool,
    Unfold,
    Unpool,
)
from convsmith.graph.shape import (
    Windowed,
    effective_kernel,
    fold_positions,
    infer_shapes,
    resolve_padding,
)
from convsmith.parallel import spread

__all__ = ["pad_for_windows", "windows"]

_BLOCK_BYTES = 2 << 20
"""How much memory the unfolded windows of one block may take."""


def pad_for_windows(op: Windowed, x: Array, fill: float = 0.0) -> Array:
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


def windows(op: Windowed, padded: Array) -> Array:
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


@compute.register
def _(op: Conv, x: Array, weight: Array, *bias: Array) -> Array:
    if not op.transposed:
        return _convolve(op, x, weight, *bias)
    y = _transposed(op, x, weight)
    if bias:
        y += bias[0].reshape(1, -1, *(1,) * len(op.kernel))
    return y


def _convolve(op: Conv, x: Array, weight: Array, *bias: Array) -> Array:
    """One matrix product per image, group and block of output rows."""
    view = windows(op, pad_for_windows(op, x))
    rank = len(op.kernel)
    batch, channels = x.shape[:2]
    outputs = view.shape[2 : 2 + rank]
    inner = channels // op.groups * math.prod(op.kernel)
    y = np.empty((batch, op.channels, *outputs), dtype=np.result_type(x, weight))
    if op.groups == channels and op.channels == channels:
        return _convolve_depthwise(view, weight, y, *bias)
    matrices = weight.reshape(op.groups, -1, inner)
    wide, deep = channels // op.groups, op.channels // op.groups
    per_row = inner * math.prod(outputs[1:]) * x.itemsize
    rows = max(1, min(outputs[0], _BLOCK_BYTES // max(per_row, 1)))
    whole = math.prod(outputs[1:])
    flat = y.reshape(batch, op.groups, deep, outputs[0] * whole)
    order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))

    def block(place: tuple[int, int, int]) -> None:
        image, group, row = place
        part = view[image, group * wide : (group + 1) * wide, row : row + rows].transpose(order)
        out = flat[image, group, :, row * whole : (row + rows) * whole]
        np.matmul(matrices[group], part.reshape(inner, -1), out=out)
        if bias:
            out += bias[0][group * deep : (group + 1) * deep, None]

    places = itertools.product(range(batch), range(op.groups), range(0, outputs[0], rows))
    spread(block, places)
    return y


def _convolve_depthwise(view: Array, weight: Array, y: Array, *bias: Array) -> Array:
    column = (-1, *(1,) * (weight.ndim - 2))

    def one(image: int) -> None:
        y[image] = 0
        for tap in itertools.product(*map(range, weight.shape[2:])):
            here: tuple[Any, ...] = (..., *tap)
            y[image] += view[image][here] * weight[here][:, 0].reshape(column)
        if bias:
            y[image] += bias[0].reshape(column)

    spread(one, range(len(y)))
    return y


def _transposed(op: Conv, x: Array, weight: Array) -> Array:
    """Scatters every input element, some taps at a time: a matrix product per image and group."""
    outputs = infer_shapes(op, x.shape)[0]
    assert outputs is not None
    room = tuple(
        max((size - 1) * stride + effective_kernel(kernel, dilation), low + out)
        for size, stride, kernel, dilation, (low, _), out in zip(
            x.shape[2:], op.stride, op.kernel, op.dilation, op.padding, outputs[2:], strict=True
        )
    )
    wide, deep = x.shape[1] // op.groups, op.channels // op.groups
    full = np.zeros((x.shape[0], op.channels, *room), dtype=np.result_type(x, weight))
    taps = list(itertools.product(*map(range, op.kernel)))
    # (groups, taps, C_out / groups, C_in / groups)
    matrices = weight.reshape(op.groups, wide, deep, len(taps)).transpose(0, 3, 2, 1)
    size = max(1, _BLOCK_BYTES // max(math.prod(x.shape[2:]) * op.channels * x.itemsize, 1))
    runs = [
        (taps[start : start + size], matrices[:, start : start + size].reshape(op.groups, -1, wide))
        for start in range(0, len(taps), size)
    ]

    def one(image: int) -> None:
        seen = x[image].reshape(op.groups, wide, math.prod(x.shape[2:]))
        for some, matrix in runs:
            made = (matrix @ seen).reshape(op.groups, len(some), deep, *x.shape[2:])
            for index, tap in enumerate(some):
                place: tuple[Any, ...] = tuple(
                    slice(t * d, t * d + (count - 1) * s + 1, s)
                    for t, d, s, count in zip(tap, op.dilation, op.stride, x.shape[2:], strict=True)
                )
                part = made[:, index].reshape(op.channels, *x.shape[2:])
                full[image][(slice(None), *place)] += part

    spread(one, range(len(x)))
    crop = tuple(
        slice(low, low + out) for (low, _), out in zip(op.padding, outputs[2:], strict=True)
    )
    return np.ascontiguousarray(full[(slice(None), slice(None), *crop)])


@compute.register
def _(op: Pool, x: Array) -> Array | tuple[Array, ...]:
    taps = tuple(range(-len(op.kernel), 0))
    if op.kind == "max":
        view = windows(op, pad_for_windows(op, x, -np.inf))
        return _largest(op, view, x.shape[2:]) if op.indices else view.max(axis=taps)
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


def _largest(op: Pool, view: Array, spatial: tuple[int, ...]) -> tuple[Array, Array]:
    """The maximum of every window, and where it lies in the plane."""
    rank = len(op.kernel)
    columns = view.reshape(*view.shape[: 2 + rank], -1)
    best = columns.argmax(axis=-1)
    largest = np.take_along_axis(columns, best[..., None], -1)[..., 0]
    place = np.zeros(best.shape, np.int64)
    taps = np.unravel_index(best, op.kernel)
    padding = resolve_padding(op, spatial)
    for axis, (tap, size) in enumerate(zip(taps, spatial, strict=True)):
        outputs = np.arange(view.shape[2 + axis]).reshape(-1, *(1,) * (rank - 1 - axis))
        at = outputs * op.stride[axis] + tap * op.dilation[axis] - padding[axis][0]
        place = place * size + at
    return largest, place


@compute.register
def _(op: Unpool, x: Array, indices: Array) -> Array:
    made = np.zeros((math.prod(x.shape[:2]), math.prod(op.size)), x.dtype)
    flat = indices.reshape(made.shape[0], -1).astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < made.shape[1]:
        raise ShapeError(f"an index lies outside a plane of {made.shape[1]} elements")
    np.put_along_axis(made, flat, x.reshape(flat.shape), axis=1)
    return made.reshape(*x.shape[:2], *op.size)


@compute.register
def _(op: Unfold, x: Array) -> Array:
    rank = len(op.kernel)
    view = windows(op, pad_for_windows(op, x))
    outputs = view.shape[2 : 2 + rank]
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return view.transpose(order).reshape(x.shape[0], -1, *outputs)


@compute.register
def _(op: Fold, x: Array) -> Array:
    columns = x.reshape(x.shape[0], -1, *op.kernel, *fold_positions(op))
    room = tuple(s + low + high for s, (low, high) in zip(op.size, op.padding, strict=True))
    full = np.zeros((*columns.shape[:2], *room), x.dtype)
    for tap in itertools.product(*map(range, op.kernel)):
        place = tuple(
            slice(t * d, t * d + (count - 1) * s + 1, s)
            for t, d, s, count in zip(tap, op.dilation, op.stride, x.shape[2:], strict=True)
        )
        here: tuple[Any, ...] = (slice(None), slice(None), *tap)
        full[(slice(None), slice(None), *place)] += columns[here]
    crop = tuple(slice(low, low + size) for (low, _), size in zip(op.padding, op.size, strict=True))
    return full[(slice(None), slice(None), *crop)]


@compute.register
def _(op: GlobalPool, x: Array) -> Array:
    axes = tuple(range(2, x.ndim))
    reduce = np.max if op.kind == "max" else np.mean
    result: Array = reduce(x, axis=axes, keepdims=True)
    return result


@compute.register
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
