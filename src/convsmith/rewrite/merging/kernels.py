"""Sums and compositions of linear layers: the arithmetic of merging, exact but for rounding.

A layer's weight is brought into one layout, ``(groups, C_out / groups, C_in / groups, *kernel)``,
in which plain and transposed convolutions and linear layers (no kernel axes) are the same. All of
it happens in float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Shape
from convsmith.graph.affine import Affine
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear, Padding
from convsmith.graph.shape import effective_kernel, resolve_padding

__all__ = [
    "composed_op",
    "composition",
    "concatenated_op",
    "concatenation",
    "explicit",
    "groups_of",
    "is_identity",
    "is_pointwise",
    "pointwise_layer",
    "regrouped",
    "shift_of",
    "sum_of",
    "summed_op",
]

Array = npt.NDArray[Any]


def _grouped(layer: ConvStep) -> Array:
    """A weight as ``(groups, C_out / groups, C_in / groups, *kernel)``."""
    if isinstance(layer.op, Linear):
        return layer.weight[None]
    split = layer.weight.reshape(layer.op.groups, -1, *layer.weight.shape[1:])
    return split.swapaxes(1, 2) if layer.op.transposed else split


def shift_of(layer: ConvStep) -> Array:
    """A layer's bias; zeros where it has none."""
    if layer.bias is not None:
        return layer.bias
    return np.zeros(layer.op.channels)


def _layer(op: Conv | Linear, grouped: Array, bias: Array | None) -> ConvStep:
    """The layer of a weight in the common layout."""
    op = replace(op, bias=bias is not None)
    if isinstance(op, Linear):
        return ConvStep(op=op, weight=grouped[0], bias=bias)
    if op.transposed:
        grouped = grouped.swapaxes(1, 2)
    return ConvStep(op=op, weight=grouped.reshape(-1, *grouped.shape[2:]), bias=bias)


def groups_of(op: Conv | Linear) -> int:
    """Its groups; a linear layer is one."""
    return op.groups if isinstance(op, Conv) else 1


def is_pointwise(op: Conv | Linear) -> bool:
    """Whether every output position depends on the same input position only."""
    if isinstance(op, Linear):
        return True
    return (
        set(op.kernel) == set(op.stride) == {1}
        and not any(op.output_padding)
        and (op.same is not None or not any(map(any, op.padding)))
    )


def explicit(op: Conv, spatial: Shape) -> Padding | None:
    """Its padding in numbers, ``None`` where that depends on the size of the input."""
    if op.same is None:
        return op.padding
    if all(step == 1 or taps == 1 for step, taps in zip(op.stride, op.kernel, strict=True)):
        return resolve_padding(op, spatial)
    return None


def pointwise_layer(like: Conv | Linear, affine: Affine) -> ConvStep:
    """An affine map per channel as a layer of the class of another one."""
    channels = len(affine.scale)
    shift = affine.shift if affine.shift.any() else None
    if isinstance(like, Linear):
        op: Conv | Linear = Linear(features=channels, bias=shift is not None)
        return ConvStep(op=op, weight=np.diag(affine.scale), bias=shift)
    ones = (1,) * len(like.kernel)
    op = replace(
        like,
        channels=channels,
        kernel=ones,
        stride=ones,
        padding=((0, 0),) * len(ones),
        same=None,
        dilation=ones,
        groups=channels,
        rounding="floor",
        output_padding=(),
        bias=shift is not None,
    )
    return ConvStep(op=op, weight=affine.scale.reshape(-1, 1, *ones), bias=shift)


def regrouped(weight: Array, groups: int) -> Array:
    """The same map with fewer groups, a divisor of those it has; blocks of zeros between them."""
    fine, wide, deep = weight.shape[:3]
    ratio = fine // groups
    if ratio == 1:
        return weight
    split = weight.reshape(groups, ratio, wide, deep, *weight.shape[3:])
    made = np.zeros((groups, ratio * wide, ratio * deep, *weight.shape[3:]))
    for block in range(ratio):
        rows = slice(block * wide, (block + 1) * wide)
        columns = slice(block * deep, (block + 1) * deep)
        made[:, rows, columns] = split[:, block]
    return made


# Sums --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taps:
    """Where the taps of a kernel lie along one axis, relative to the window's place."""

    start: int
    gap: int
    count: int

    @property
    def last(self) -> int:
        return self.start + (self.count - 1) * self.gap


def _taps(op: Conv, spatial: Shape) -> list[_Taps] | None:
    padding = explicit(op, spatial)
    if padding is None:
        return None
    return [
        _Taps(start=-low, gap=gap, count=count)
        for (low, _), gap, count in zip(padding, op.dilation, op.kernel, strict=True)
    ]


def _union(one: _Taps, other: _Taps) -> _Taps:
    """The smallest grid that has the taps of both."""
    gaps = [taps.gap for taps in (one, other) if taps.count > 1]
    gap = math.gcd(*gaps, abs(one.start - other.start)) or 1
    start, last = min(one.start, other.start), max(one.last, other.last)
    return _Taps(start=start, gap=gap, count=(last - start) // gap + 1)


def summed_op(one: Conv | Linear, other: Conv | Linear, spatial: Shape) -> Conv | Linear | str:
    """The layer whose output is the sum of two layers' of the same input and output size.

    Args:
        one: A layer.
        other: Another one.
        spatial: The spatial sizes of their input.

    Returns:
        Its operator, with a bias if one of them has; or why there is none.

    >>> from convsmith.graph import parse
    >>> a, b = (parse(f"4@8 > {text}").nodes[0].op for text in ("conv 4 3 p1", "conv 4 1"))
    >>> summed_op(a, b, (8, 8)) == a
    True
    """
    bias = one.bias or other.bias
    if isinstance(one, Linear) or isinstance(other, Linear):
        if type(one) is not type(other):
            return "one is a linear layer, the other a convolution"
        return replace(one, bias=bias)
    if len(one.kernel) != len(other.kernel) or one.transposed != other.transposed:
        return "one is transposed or has other axes"
    if one.stride != other.stride:
        return "their strides differ"
    groups = math.gcd(one.groups, other.groups)
    if replace(one, bias=bias, groups=1) == replace(other, bias=bias, groups=1):
        return replace(one, bias=bias, groups=groups)
    if "ceil" in (one.rounding, other.rounding):
        return "a convolution rounds its size up"
    if any(one.output_padding) or any(other.output_padding):
        return "their kernels differ, and one has output padding"
    mine, theirs = _taps(one, spatial), _taps(other, spatial)
    if mine is None or theirs is None:
        return "with SAME padding and a stride, which pixels meet depends on the size of the input"
    merged = [_union(a, b) for a, b in zip(mine, theirs, strict=True)]
    padding = explicit(one, spatial)
    assert padding is not None
    return replace(
        one,
        kernel=tuple(taps.count for taps in merged),
        dilation=tuple(taps.gap for taps in merged),
        padding=tuple(
            (-taps.start, high + taps.last - own.last)
            for taps, own, (_, high) in zip(merged, mine, padding, strict=True)
        ),
        same=None,
        groups=groups,
        bias=bias,
    )


def sum_of(
    one: ConvStep, other: ConvStep, op: Conv | Linear, spatial: Shape, signs: tuple[int, int]
) -> ConvStep:
    """Returns the layer that :func:`summed_op` promised, ``signs[0] one + signs[1] other``."""
    parts = [
        sign * regrouped(_grouped(layer), groups_of(op))
        for sign, layer in zip(signs, (one, other), strict=True)
    ]
    weight = np.zeros((*parts[0].shape[:3], *(op.kernel if isinstance(op, Conv) else ())))
    for part, layer in zip(parts, (one, other), strict=True):
        place: list[slice] = []
        if isinstance(op, Conv) and isinstance(layer.op, Conv):
            own = layer.op
            if replace(own, bias=op.bias, groups=op.groups) != op:
                mine, all_taps = _taps(own, spatial), _taps(op, spatial)
                assert mine is not None
                assert all_taps is not None
                place = [_places(a, b) for a, b in zip(mine, all_taps, strict=True)]
        weight[(slice(None),) * 3 + tuple(place)] += part
    bias = signs[0] * shift_of(one) + signs[1] * shift_of(other) if op.bias else None
    return _layer(op, weight, bias)


def _places(own: _Taps, merged: _Taps) -> slice:
    """Where the taps of a kernel lie in the merged one."""
    first = (own.start - merged.start) // merged.gap
    step = own.gap // merged.gap if own.count > 1 else 1
    return slice(first, first + (own.count - 1) * step + 1, step)


def is_identity(layer: ConvStep, spatial: Shape) -> bool:
    """Whether the layer's output is its input, to the bit; both of the same size."""
    grouped = _grouped(layer)
    channels = grouped.shape[0] * grouped.shape[1]
    if grouped.shape[1] != grouped.shape[2] or shift_of(layer).any():
        return False
    if np.count_nonzero(grouped) != channels:
        return False
    tap: tuple[int, ...] = ()
    if isinstance(layer.op, Conv):
        taps = _taps(layer.op, spatial)
        if taps is None or set(layer.op.stride) != {1} or layer.op.rounding == "ceil":
            return False
        if any(own.start % own.gap or not own.start <= 0 <= own.last for own in taps):
            return False
        tap = tuple(-own.start // own.gap for own in taps)
    here: tuple[Any, ...] = (..., *tap)
    return bool((grouped[here] == np.eye(grouped.shape[1])).all())


# Compositions ------------------------------------------------------------------------------


def composed_op(
    first: Conv | Linear, second: Conv | Linear, spatial: Shape, shifted: bool
) -> Conv | Linear | str:
    """The layer that does the work of two in a row, borders included.

    With a kernel behind another one, zeros that the second layer pads with are not what the
    first would have made there. So the second must not pad, unless the first has a kernel of
    one element and no bias.

    Args:
        first: A layer.
        second: The layer behind it.
        spatial: The spatial sizes of the first one's input.
        shifted: Whether the first adds a bias other than 0.

    Returns:
        Its operator, with a bias if one of them has; or why there is none.

    >>> from convsmith.graph import operator_text, parse
    >>> a, b = (node.op for node in parse("4@8 > conv 4 3/2 p1 > conv 4 3").nodes)
    >>> operator_text(composed_op(a, b, (8, 8), shifted=True))
    'conv 4 7/2 p1'
    """
    bias = first.bias or second.bias
    if isinstance(first, Linear) or isinstance(second, Linear):
        if type(first) is not type(second):
            return "one is a linear layer, the other a convolution"
        return replace(second, bias=bias)
    if len(first.kernel) != len(second.kernel):
        return "they have other axes"
    groups = math.gcd(first.groups, second.groups)
    if is_pointwise(second):
        return replace(first, channels=second.channels, groups=groups, bias=bias)
    if is_pointwise(first):
        borders = explicit(second, spatial)
        padded = borders is None or any(map(any, borders))
        if shifted and (padded or second.transposed or second.rounding == "ceil"):
            return "the bias of the first is missing in the border that the second pads"
        return replace(second, groups=groups, bias=bias)
    if first.transposed or second.transposed:
        return "a transposed kernel and another kernel are no single one"
    if "ceil" in (first.rounding, second.rounding):
        return "a convolution rounds its size up"
    low_high = explicit(first, spatial)
    inner = [1] * len(spatial)  # the second one's padding is explicit for every size, or for none
    behind = explicit(second, tuple(inner))
    if low_high is None or behind is None:
        return "with SAME padding and a stride, which pixels meet depends on the size of the input"
    padding = low_high
    if any(map(any, behind)):
        if shifted or set(first.kernel) != {1} or any(map(any, low_high)):
            return "the second pads with zeros what the first would have filled"
        padding = tuple(
            (low * step, high * step)
            for (low, high), step in zip(behind, first.stride, strict=True)
        )
    kernel, dilation = [], []
    for k1, k2, d1, d2, step in zip(
        first.kernel, second.kernel, first.dilation, second.dilation, first.stride, strict=True
    ):
        gaps = [gap for gap, taps in ((d1, k1), (d2 * step, k2)) if taps > 1]
        gap = math.gcd(*gaps) or 1
        extent = effective_kernel(k1, d1) + (k2 - 1) * d2 * step
        kernel.append((extent - 1) // gap + 1)
        dilation.append(gap)
    return replace(
        first,
        channels=second.channels,
        kernel=tuple(kernel),
        stride=tuple(a * b for a, b in zip(first.stride, second.stride, strict=True)),
        padding=padding,
        same=None,
        dilation=tuple(dilation),
        groups=groups,
        bias=bias,
    )


def composition(first: ConvStep, second: ConvStep, op: Conv | Linear) -> ConvStep:
    """Returns the layer that :func:`composed_op` promised.

    ``K[o, i, t] = sum_m sum_{t1 + t2 = t} B[o, m, t2] A[m, i, t1]``: the full convolution of the
    kernels, summed over the channels between them.
    """
    groups = groups_of(op)
    a, b = regrouped(_grouped(first), groups), regrouped(_grouped(second), groups)
    inside, outside = a.shape[2], b.shape[1]
    if not isinstance(op, Conv):
        return _composed(op, b @ a, first, second, b)
    assert isinstance(first.op, Conv)
    assert isinstance(second.op, Conv)
    weight = np.zeros((groups, outside, inside, *op.kernel))
    flat = a.reshape(groups, a.shape[1], -1)
    # Where a transposed layer has a kernel, the other one has a single tap and no stride.
    steps = first.op.stride if not first.op.transposed else (1,) * len(op.kernel)
    for tap in itertools.product(*map(range, second.op.kernel)):
        here: tuple[Any, ...] = (..., *tap)
        part = b[here] @ flat
        place = []
        for t2, d2, step, d1, k1, gap in zip(
            tap, second.op.dilation, steps, first.op.dilation, first.op.kernel, op.dilation,
            strict=True,
        ):  # fmt: skip
            start, stride = t2 * d2 * step // gap, d1 // gap if k1 > 1 else 1
            place.append(slice(start, start + (k1 - 1) * stride + 1, stride))
        weight[(slice(None),) * 3 + tuple(place)] += part.reshape(groups, outside, *a.shape[2:])
    return _composed(op, weight, first, second, b)


def _composed(
    op: Conv | Linear, weight: Array, first: ConvStep, second: ConvStep, b: Array
) -> ConvStep:
    if not op.bias:
        return _layer(op, weight, None)
    sums = b.sum(axis=tuple(range(3, b.ndim)))
    between = shift_of(first).reshape(b.shape[0], -1, 1)
    return _layer(op, weight, shift_of(second) + (sums @ between).reshape(-1))


# Concatenations ----------------------------------------------------------------------------


def concatenated_op(one: Conv | Linear, other: Conv | Linear) -> Conv | Linear | None:
    """The layer whose output channels are those of two layers of one input; ``None``: none is."""
    bias = one.bias or other.bias
    match one, other:
        case Linear(), Linear():
            return replace(one, features=one.features + other.features, bias=bias)
        case Conv(), Conv():
            if one.groups == 1 and replace(one, channels=other.channels, bias=other.bias) == other:
                return replace(one, channels=one.channels + other.channels, bias=bias)
    return None


def concatenation(one: ConvStep, other: ConvStep, op: Conv | Linear) -> ConvStep:
    """Returns the layer that :func:`concatenated_op` promised."""
    bias = np.concatenate([shift_of(one), shift_of(other)]) if op.bias else None
    return _layer(op, np.concatenate([_grouped(one), _grouped(other)], axis=1), bias)
