"""The table of values, part four: values between pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convsmith.graph.compute.table import Array, compute
from convsmith.graph.interpolation import keys, resize
from convsmith.graph.operators import DeformConv, GridSample, Resize
from convsmith.graph.shape import infer_shapes

__all__: list[str] = []


@compute.register
def _(op: Resize, x: Array) -> Array:
    return resize(op, x)


def _pixels(planes: Array, index: Sequence[Array]) -> Array:
    """The elements of ``(C, *spatial)`` at whole positions; zero outside."""
    inside = np.ones(index[0].shape, bool)
    held = []
    for at, size in zip(index, planes.shape[1:], strict=True):
        inside &= (at >= 0) & (at < size)
        held.append(np.clip(at, 0, size - 1).astype(np.int64))
    here: tuple[Any, ...] = (slice(None), *held)
    values: Array = planes[here] * inside
    return values


def _linear(planes: Array, at: Sequence[Array]) -> Array:
    """The planes at real positions, interpolated linearly; zero outside."""
    floors = [np.floor(position) for position in at]
    shares = [position - low for position, low in zip(at, floors, strict=True)]
    total = np.zeros((len(planes), *at[0].shape), planes.dtype)
    for corner in itertools.product((0, 1), repeat=len(at)):
        weight = math.prod(
            (share if up else 1 - share for up, share in zip(corner, shares, strict=True)),
            start=np.ones(at[0].shape, planes.dtype),
        )
        index = [low + up for up, low in zip(corner, floors, strict=True)]
        total += weight * _pixels(planes, index)
    return total


@compute.register
def _(op: DeformConv, x: Array, offset: Array, *rest: Array) -> Array:
    factors = rest[0] if len(rest) > 1 + op.bias else None
    weight = rest[-1 - op.bias]
    outputs = offset.shape[2:]
    rank, taps = len(op.kernel), list(itertools.product(*map(range, op.kernel)))
    moved = offset.reshape(x.shape[0], op.offset_groups, len(taps), rank, *outputs)
    wide = x.shape[1] // op.offset_groups
    columns = np.empty((*x.shape[:2], len(taps), *outputs), x.dtype)
    grid = np.meshgrid(*map(np.arange, outputs), indexing="ij")
    for image, group, place in itertools.product(
        range(x.shape[0]), range(op.offset_groups), range(len(taps))
    ):
        at = [
            grid[axis] * op.stride[axis]
            - op.padding[axis][0]
            + taps[place][axis] * op.dilation[axis]
            + moved[image, group, place, axis]
            for axis in range(rank)
        ]
        channels = slice(group * wide, (group + 1) * wide)
        columns[image, channels, place] = _linear(x[image, channels], at)
    if factors is not None:
        each = factors.reshape(x.shape[0], op.offset_groups, 1, len(taps), *outputs)
        split = columns.reshape(x.shape[0], op.offset_groups, wide, len(taps), *outputs)
        columns = (split * each).reshape(columns.shape)
    matrices = weight.reshape(op.groups, op.channels // op.groups, -1)
    flat = columns.reshape(x.shape[0], op.groups, matrices.shape[2], -1)
    y: Array = np.matmul(matrices, flat).reshape(x.shape[0], op.channels, *outputs)
    return y + rest[-1].reshape(-1, *(1,) * rank) if op.bias else y


@compute.register
def _(op: GridSample, x: Array, grid: Array) -> Array:
    made = infer_shapes(op, x.shape, grid.shape)[0]
    assert made is not None
    y = np.empty(made, x.dtype)
    sizes = x.shape[2:]
    for image, (planes, points) in enumerate(zip(x, grid, strict=True)):
        at = [
            (points[..., -1 - axis] + 1) / 2 * (size - 1)
            if op.aligned
            else ((points[..., -1 - axis] + 1) * size - 1) / 2
            for axis, size in enumerate(sizes)
        ]
        if op.mode == "cubic":
            y[image] = _cubic(op, planes, at)
            continue
        held = [_held(op, position, size) for position, size in zip(at, sizes, strict=True)]
        if op.mode == "nearest":
            y[image] = _pixels(planes, [np.round(position) for position in held])
        else:
            y[image] = _linear(planes, held)
    return y


def _cubic(op: GridSample, planes: Array, at: Sequence[Array]) -> Array:
    """Keys' interpolation; what lies beyond the border is decided pixel by pixel."""
    floors = [np.floor(position) for position in at]
    weight_of = np.vectorize(keys, otypes=[float])
    total = np.zeros((len(planes), *at[0].shape), planes.dtype)
    for corner in itertools.product((-1, 0, 1, 2), repeat=len(at)):
        weight = math.prod(
            weight_of(np.abs(p - low - step))
            for p, low, step in zip(at, floors, corner, strict=True)
        )
        index = [
            np.round(_held(op, low + step, size))
            for low, step, size in zip(floors, corner, planes.shape[1:], strict=True)
        ]
        total += weight * _pixels(planes, index)
    return total


def _held(op: GridSample, at: Array, size: int) -> Array:
    """Positions brought back into the image, as ``beyond`` says."""
    if op.beyond == "zeros":
        return at
    if op.beyond == "reflection":
        low, span = (0.0, size - 1.0) if op.aligned else (-0.5, float(size))
        if span == 0:
            return np.zeros_like(at)
        folded = np.abs(at - low)
        rest, flips = np.fmod(folded, span), np.floor(folded / span)
        at = np.where(flips % 2 == 0, rest + low, span - rest + low)
    return np.clip(at, 0, size - 1)
