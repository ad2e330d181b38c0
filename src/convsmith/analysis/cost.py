"""The table of costs: what every operator computes, exactly.

``macs`` are multiply-accumulate pairs of convolutions, linear layers and matrix products, bias
excluded. ``mults`` and ``adds`` are the exact numbers of multiplications and additions,
``others`` everything else: comparisons, divisions, exponentials, roots.

Decisions, which hold for every network alike:

* Parameters are the learnable numbers of the tensors that layers compute with, shared tensors
  once. A weight that is made of others (weight normalization, a product of two matrices) counts
  as the tensor that is made, and making it is free: at inference it is made once.
* A window counts whole: multiplications by padding zeros are counted, as the textbooks do.
* A convolution of t terms has t - 1 additions per output, and one more with a bias. A transposed
  convolution computes a product for every *input* element and tap, also those that its padding
  cuts away; products that meet are added.
* Batch normalization is one multiplication and one addition per element: its stored statistics
  are folded into its scale and shift. Instance, group and layer normalization compute the mean
  and the variance of their input first.
* Maximum pooling compares k - 1 times per output; average pooling adds k - 1 times and divides
  once. Adaptive pooling has the windows that it really uses.
* ``exp``, ``tanh``, ``erf``, a power, a root, a division and a comparison are one ``other`` each.
* Linear interpolation weighs 2 values per interpolated axis and output (4 in two dimensions),
  cubic 4 (16); the weights are the same for every image and are not counted.
* A deformable convolution first makes its samples, then convolves them (only that are ``macs``).
  Per moved tap, at each output: one addition per axis for the place, and the weights of a linear
  sample; per input channel the sample itself; with factors one multiplication more.
* A sample between pixels of n axes: per axis one ``other`` (the floor) and two subtractions (the
  two shares), per corner of the cell n - 1 multiplications (its weight); these serve all channels.
  Per channel one multiplication per corner, and one addition less. A cubic sample has one share
  and 4 weights per axis, which are polynomials of it by Horner's rule (3 multiplications and 3
  additions each), and 4^n corners.
  A grid's coordinates are scaled to pixels first: one multiplication and one addition per axis,
  and two ``others`` (comparisons) where the border or a reflection holds them inside.
* An ``einsum`` is evaluated from the left to the right, two operands at a time, whatever order
  would be cheapest: an axis that only one of the two has, and nothing behind them needs, is
  summed before; the products of a pair are ``macs``, as those of a matrix product are.
* Folding adds what meets: one addition per element that does not come first at its place, also
  for those that the padding cuts away.
* ``topk`` of n elements counts the comparisons of k passes over what is left, or those of a merge
  sort, n ceil(log2 n), if these are fewer. ``where`` is one ``other`` per element, a running sum
  has n - 1 additions; ``logsumexp`` subtracts the maximum first.
* Free, because they only move elements or give them other names: reshape, flatten, transpose,
  concat, split, slice, pad, expand, identity, dropout, cast, flip, gather (embedding), unfold,
  unpool, depth to space and back, nearest resizing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

from convsmith.graph.contraction import contractions
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Cast,
    Concat,
    Conv,
    Cumulate,
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Fold,
    Gather,
    GlobalPool,
    GridSample,
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
    SpaceToDepth,
    Split,
    TopK,
    Transpose,
    Unary,
    Unfold,
    Unpool,
    Unsupported,
    Where,
)
from convsmith.graph.shape import Shape
from convsmith.graph.slots import filled_directly

__all__ = ["FREE", "UNSUPPORTED", "Cost", "Status", "cost"]

Status = Literal["counted", "free", "unsupported"]


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one application of an operator computes."""

    macs: int = 0
    mults: int = 0
    adds: int = 0
    others: int = 0
    status: Status = "counted"

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others


FREE = Cost(status="free")
UNSUPPORTED = Cost(status="unsupported")


@singledispatch
def cost(op: Operator, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    """Returns what an operator computes.

    Args:
        op: The operator.
        inputs: The shapes of its inputs.
        output: The shape of its (first) output.

    >>> from convsmith.graph.operators import Linear
    >>> cost(Linear(features=10), ((1, 4),), (1, 10))
    Cost(macs=40, mults=40, adds=40, others=0, status='counted')
    """
    return UNSUPPORTED


def _folds(outputs: int, terms: int) -> int:
    """Operations that combine ``terms`` values into each of ``outputs`` values."""
    return outputs * max(terms - 1, 0)


def _dot_products(outputs: int, terms: int, bias: bool) -> Cost:
    macs = outputs * terms
    return Cost(macs=macs, mults=macs, adds=_folds(outputs, terms) + bias * outputs)


@cost.register
def _(op: Conv, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    x = inputs[0]
    taps = math.prod(op.kernel)
    if not op.transposed:
        return _dot_products(math.prod(output), x[1] // op.groups * taps, op.bias)
    macs = math.prod(x) * (op.channels // op.groups) * taps
    reached = (
        x[0] * op.channels * math.prod(map(_reached, x[2:], op.kernel, op.stride, op.dilation))
    )
    return Cost(macs=macs, mults=macs, adds=macs - reached + op.bias * math.prod(output))


def _reached(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many positions ``i * stride + k * dilation`` there are, for i < size and k < kernel.

    Taps that agree modulo the stride land on one grid; on it, each tap is an interval of
    ``size`` positions, ``apart`` from the one before.
    """
    classes = stride // math.gcd(stride, dilation)
    apart = dilation // math.gcd(stride, dilation)
    rounds, longer = divmod(kernel, classes)

    def union(taps: int) -> int:
        return taps and size + (taps - 1) * min(apart, size)

    return longer * union(rounds + 1) + (classes - longer) * union(rounds)


@cost.register
def _(op: Linear, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return _dot_products(math.prod(output), inputs[0][-1], op.bias)


@cost.register
def _(op: MatMul, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return _dot_products(math.prod(output), inputs[0][-1], bias=False)


@cost.register
def _(op: Einsum, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    steps = list(contractions(op.equation, inputs))
    macs = sum(step.products for step in steps)
    return Cost(macs=macs, mults=macs, adds=sum(step.sums for step in steps))


# Samples between pixels -----------------------------------------------------------


def _samples(mode: str, axes: int, places: int, channels: int) -> Cost:
    """Values of ``channels`` planes at real positions, ``places`` in all (batch included)."""
    if mode == "nearest":
        return Cost(others=axes * places)
    width = 2 if mode == "linear" else 4
    corners = width**axes
    shares = (0, 2) if mode == "linear" else (12, 12 + 1)
    per_place = shares[0] * axes + corners * (axes - 1)
    return Cost(
        mults=places * (per_place + channels * corners),
        adds=places * (shares[1] * axes + channels * (corners - 1)),
        others=places * axes,
    )


@cost.register
def _(op: GridSample, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    axes, places = len(output) - 2, output[0] * math.prod(output[2:])
    made = _samples(op.mode, axes, places, output[1])
    held = 0 if op.beyond == "zeros" else 2 * axes * places
    return Cost(
        mults=made.mults + axes * places,
        adds=made.adds + axes * places,
        others=made.others + held,
    )


@cost.register
def _(op: DeformConv, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    x, axes, taps = inputs[0], len(op.kernel), math.prod(op.kernel)
    positions = x[0] * math.prod(output[2:])
    places = positions * taps * op.offset_groups
    made = _samples("linear", axes, places, x[1] // op.offset_groups)
    factors = positions * taps * x[1] if len(inputs) > 2 else 0
    products = _dot_products(math.prod(output), x[1] // op.groups * taps, op.bias)
    return Cost(
        macs=products.macs,
        mults=products.mults + made.mults + factors,
        adds=products.adds + made.adds + axes * places,
        others=made.others,
    )


@cost.register
def _(op: Fold, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    x = inputs[0]
    reached = math.prod(map(_reached, x[2:], op.kernel, op.stride, op.dilation))
    return Cost(adds=max(math.prod(x) - math.prod(output[:2]) * reached, 0))


# Pooling and reductions -----------------------------------------------------------


def _pooled(kind: str, outputs: int, elements: int) -> Cost:
    """Windows with ``elements`` members in all, each folded into one of ``outputs``."""
    folds = max(elements - outputs, 0)
    if kind == "max":
        return Cost(others=folds)
    return Cost(adds=folds, others=outputs)


@cost.register
def _(op: Pool, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    outputs = math.prod(output)
    return _pooled(op.kind, outputs, outputs * math.prod(op.kernel))


@cost.register
def _(op: GlobalPool, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return _pooled(op.kind, math.prod(output), math.prod(inputs[0]))


@cost.register
def _(op: AdaptivePool, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements = math.prod(output[:2]) * math.prod(map(_adaptive, inputs[0][2:], output[2:]))
    return _pooled(op.kind, math.prod(output), elements)


def _adaptive(size: int, count: int) -> int:
    """The lengths of ``count`` adaptive windows, from floor(i n / c) to ceil((i + 1) n / c).

    Neighbours share one element wherever a border falls between two: at all inner borders but
    the ``gcd - 1`` that are whole.
    """
    return size + count - math.gcd(size, count) if size else 0


@cost.register
def _(op: Reduce, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements, outputs = math.prod(inputs[0]), math.prod(output)
    folds = max(elements - outputs, 0)
    match op.kind:
        case "mean":
            return Cost(adds=folds, others=outputs)
        case "sum":
            return Cost(adds=folds)
        case "prod":
            return Cost(mults=folds)
        case "l1norm":
            return Cost(adds=folds, others=elements)
        case "l2norm":
            return Cost(mults=elements, adds=folds, others=outputs)
        case "max" | "min" | "argmax" | "argmin":
            return Cost(others=folds)
        case "logsumexp":  # maximum, minus it, exp, sum, log, plus it
            return Cost(adds=elements + folds + outputs, others=folds + elements + outputs)
    return UNSUPPORTED


@cost.register
def _(op: Cumulate, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements = math.prod(output)
    used = output[op.axis] - 1 - op.exclusive
    folds = elements // output[op.axis] * max(used, 0) if elements else 0
    return Cost(adds=folds) if op.kind == "sum" else Cost(mults=folds)


@cost.register
def _(op: TopK, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    x = inputs[0]
    size, count = x[op.axis], output[op.axis]
    lines = math.prod(x) // size if size else 0
    passes = count * (size - 1) - count * (count - 1) // 2
    merges = size * (size - 1).bit_length() if size else 0
    return Cost(others=lines * min(passes, merges))


# Normalization --------------------------------------------------------------------


@cost.register
def _(op: Norm, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    x = inputs[0]
    elements = math.prod(x)
    if op.kind == "batch":
        return Cost(mults=elements, adds=elements)
    match op.kind:
        case "instance":
            sets = math.prod(x[:2])
        case "group":
            sets = x[0] * op.groups
        case _:
            sets = math.prod(x[: len(x) - op.axes])
    folds = max(elements - sets, 0)
    if op.kind == "rms":  # sum of squares, epsilon; divide, root, reciprocal
        return Cost(mults=(2 + op.affine) * elements, adds=folds + sets, others=3 * sets)
    # Sum; subtract the mean; sum of squares; epsilon. Divide, divide, root, reciprocal.
    return Cost(
        mults=(2 + op.affine) * elements,
        adds=2 * folds + (1 + op.affine) * elements + sets,
        others=4 * sets,
    )


@cost.register
def _(op: LocalResponseNorm, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements = math.prod(output)
    # Square, times alpha / size; size - 1 sums, plus k; power, division.
    return Cost(mults=2 * elements, adds=op.size * elements, others=2 * elements)


@cost.register
def _(op: Softmax, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements = math.prod(output)
    sets = elements // output[op.axis] if elements else 0
    folds = elements - sets
    if op.log:  # maximum, minus it, exp, sum, log, minus it
        return Cost(adds=2 * elements + folds, others=folds + elements + sets)
    return Cost(adds=elements + folds, others=folds + 2 * elements)


# Element by element ---------------------------------------------------------------

# Multiplications, additions and others per element.
_ACTIVATIONS: dict[str, tuple[int, int, int]] = {
    "relu": (0, 0, 1),
    "relu6": (0, 0, 2),
    "clip": (0, 0, 2),
    "leakyrelu": (1, 0, 1),
    "prelu": (1, 0, 1),
    "elu": (1, 1, 2),  # alpha (exp(x) - 1) below zero
    "selu": (2, 1, 2),
    "celu": (2, 1, 2),
    "gelu": (3, 1, 1),  # x / 2 (1 + erf(x / sqrt 2))
    "gelutanh": (6, 2, 1),  # x / 2 (1 + tanh(a (x + b x^3)))
    "sigmoid": (0, 1, 2),  # 1 / (1 + exp(-x))
    "hardsigmoid": (1, 1, 2),
    "tanh": (0, 0, 1),
    "silu": (1, 1, 2),
    "hardswish": (2, 1, 2),
    "softplus": (0, 1, 2),  # log(1 + exp(x))
    "softsign": (0, 1, 2),  # x / (1 + |x|)
    "mish": (1, 1, 3),  # x tanh(log(1 + exp(x)))
}


@cost.register
def _(op: Activation, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    if op.kind not in _ACTIVATIONS:
        return UNSUPPORTED
    elements = math.prod(output)
    mults, adds, others = _ACTIVATIONS[op.kind]
    return Cost(mults=mults * elements, adds=adds * elements, others=others * elements)


@cost.register
def _(op: Where, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return Cost(others=math.prod(output))


@cost.register
def _(op: Unary, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    elements = math.prod(output)
    return Cost(mults=elements) if op.kind == "square" else Cost(others=elements)


@cost.register
def _(op: Elementwise, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    folds = _folds(math.prod(output), len(inputs))
    match op.kind:
        case "add" | "sub":
            return Cost(adds=folds)
        case "mul":
            return Cost(mults=folds)
    return Cost(others=folds)


@cost.register
def _(op: Resize, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    if op.mode == "nearest":
        return FREE
    interpolated = sum(a != b for a, b in zip(inputs[0][2:], output[2:], strict=True))
    taps = (2 if op.mode == "linear" else 4) ** interpolated
    elements = math.prod(output)
    return Cost(mults=taps * elements, adds=_folds(elements, taps)) if interpolated else FREE


# No arithmetic --------------------------------------------------------------------


@cost.register(Cast)
@cost.register(Concat)
@cost.register(DepthToSpace)
@cost.register(Expand)
@cost.register(Flatten)
@cost.register(Flip)
@cost.register(Gather)
@cost.register(Identity)
@cost.register(Pad)
@cost.register(Reshape)
@cost.register(Slice)
@cost.register(SpaceToDepth)
@cost.register(Split)
@cost.register(Transpose)
@cost.register(Unfold)
@cost.register(Unpool)
def _(op: Operator, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return FREE


@cost.register
def _(op: Unsupported, inputs: tuple[Shape, ...], output: Shape) -> Cost:
    return UNSUPPORTED
