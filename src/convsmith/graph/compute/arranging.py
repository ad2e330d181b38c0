"""The table of values, part three: what moves elements without computing anything."""

from __future__ import annotations

import math

import numpy as np

from convsmith.errors import ShapeError
from convsmith.graph.compute.table import Array, compute
from convsmith.graph.operators import (
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
from convsmith.graph.shape import infer_shapes

__all__: list[str] = []


@compute.register
def _(op: Concat, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=op.axis)


@compute.register
def _(op: Split, x: Array) -> tuple[Array, ...]:
    return tuple(np.split(x, np.cumsum(op.sizes)[:-1].tolist(), axis=op.axis))


@compute.register
def _(op: Slice, x: Array) -> Array:
    cut = [slice(None)] * x.ndim
    for axis, start, stop, step in op.ranges:
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@compute.register
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


@compute.register
def _(op: Reshape, x: Array) -> Array:
    return x.reshape(op.shape)


@compute.register
def _(op: Flatten, x: Array) -> Array:
    shape = infer_shapes(op, x.shape)[0]
    assert shape is not None
    return x.reshape(shape)


@compute.register
def _(op: Transpose, x: Array) -> Array:
    return x.transpose(op.permutation)


@compute.register
def _(op: Expand, x: Array) -> Array:
    return x * np.ones(op.shape, dtype=x.dtype)


@compute.register
def _(op: Flip, x: Array) -> Array:
    return np.flip(x, op.axes)


@compute.register
def _(op: Gather, x: Array, places: Array) -> Array:
    axis, places = op.axis % x.ndim, places.astype(np.int64)
    size = x.shape[axis]
    if places.size and not -size <= places.min() <= places.max() < size:
        raise ShapeError(f"a place lies outside the {size} elements of axis {axis}")
    if not op.along:
        return np.take(x, places, axis=axis)
    cut = tuple(
        slice(None) if i == axis else slice(0, count) for i, count in enumerate(places.shape)
    )
    return np.take_along_axis(x[cut], places % max(size, 1), axis)


@compute.register
def _(op: DepthToSpace, x: Array) -> Array:
    rank = len(op.block)
    spatial = x.shape[2:]
    blocks = range(2, 2 + rank) if op.order == "crd" else range(1, 1 + rank)
    channels = 1 if op.order == "crd" else 1 + rank
    inner = x.shape[1] // math.prod(op.block)
    apart = (inner, *op.block) if op.order == "crd" else (*op.block, inner)
    turned = x.reshape(x.shape[0], *apart, *spatial).transpose(
        0, channels, *(axis for i, b in enumerate(blocks) for axis in (2 + rank + i, b))
    )
    sizes = (size * block for size, block in zip(spatial, op.block, strict=True))
    return turned.reshape(x.shape[0], inner, *sizes)


@compute.register
def _(op: SpaceToDepth, x: Array) -> Array:
    rank = len(op.block)
    outer = [size // block for size, block in zip(x.shape[2:], op.block, strict=True)]
    split = (part for pair in zip(outer, op.block, strict=True) for part in pair)
    places, blocks = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    channels = (1, *blocks) if op.order == "crd" else (*blocks, 1)
    turned = x.reshape(*x.shape[:2], *split).transpose(0, *channels, *places)
    return turned.reshape(x.shape[0], x.shape[1] * math.prod(op.block), *outer)
