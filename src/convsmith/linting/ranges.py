"""Interval arithmetic: between which numbers every value of a network must lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from convsmith.graph import Graph, Node
from convsmith.graph.nonlinearities import activate
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    DepthToSpace,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    GlobalPool,
    Identity,
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

__all__ = ["ANYTHING", "Range", "ranges"]

Range = tuple[float, float]

ANYTHING: Range = (-math.inf, math.inf)

_ABOVE_ZERO = math.ulp(0.0)
"""The least bound of what is never 0, rounding apart."""

_RISING = frozenset(
    ("relu", "relu6", "elu", "celu", "selu", "sigmoid", "hardsigmoid", "tanh", "softplus", "clip")
)
"""Activations that never fall, whatever their settings; ``leakyrelu`` is one if its slope is."""

_LEAST = {"gelu": -0.17, "gelutanh": -0.171, "silu": -0.2785, "hardswish": -0.375, "mish": -0.309}
"""A number below the minimum of those that dip and rise again."""


def ranges(graph: Graph) -> Mapping[str, Range]:
    """Returns bounds that hold for every input.

    >>> from convsmith.graph import parse
    >>> ranges(parse("3@8 > conv 4 1 > relu6 > maxpool 2/2"))["maxpool1"]
    (0.0, 6.0)
    """
    found = {value.name: ANYTHING for value in graph.inputs}
    for name, constant in graph.constants.items():
        data = constant.data
        known = data is not None and data.size > 0 and np.isfinite(data).all()
        found[name] = (float(np.min(data)), float(np.max(data))) if known else ANYTHING  # type: ignore[arg-type]
    for node in graph.nodes:
        made = _checked(_range(node, [found[used] for used in node.inputs]))
        found.update(dict.fromkeys(node.outputs, made))
    return MappingProxyType(found)


def _checked(found: Range) -> Range:
    low, high = found
    return ANYTHING if math.isnan(low) or math.isnan(high) else found


def _hull(parts: Sequence[Range]) -> Range:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _range(node: Node, inputs: list[Range]) -> Range:
    op = node.op
    if not inputs:
        return ANYTHING
    match op:
        case Activation():
            return _activated(op, inputs[0])
        case Unary():
            return _applied(op.kind, inputs[0])
        case Softmax(log=log):
            return (-math.inf, 0.0) if log else (_ABOVE_ZERO, 1.0)
        case Elementwise():
            return _combined(op.kind, inputs)
        case Pool(kind="average", padding=padding, same=same):
            padded = same is not None or any(low or high for low, high in padding)
            return _hull([inputs[0], (0.0, 0.0)]) if padded else inputs[0]
        case Pad(mode="constant", value=value):
            return _hull([inputs[0], (value, value)])
        case Resize(mode="cubic") | Identity(kind="cast"):
            return ANYTHING
        case Reduce(kind="mean" | "max" | "min") | Concat():
            return _hull(inputs)
    return inputs[0] if _moves_elements(op) else ANYTHING


def _moves_elements(op: Operator) -> bool:
    """Whether every element of the output is one of the input, or a mean of some."""
    return isinstance(
        op,
        Pool
        | GlobalPool
        | AdaptivePool
        | Identity
        | Reshape
        | Flatten
        | Transpose
        | Slice
        | Split
        | Expand
        | Flip
        | DepthToSpace
        | SpaceToDepth
        | Pad
        | Resize,
    )


def _activated(op: Activation, x: Range) -> Range:
    if op.kind in _LEAST:
        return _LEAST[op.kind], max(x[1], 0.0)
    if op.kind == "softsign":
        return -1.0, 1.0
    if op.kind not in _RISING and not (op.kind == "leakyrelu" and (op.alpha or 0) >= 0):
        return ANYTHING
    with np.errstate(all="ignore"):
        low, high = activate(op, np.array(x, dtype=np.float64))
    if op.kind in ("sigmoid", "softplus"):
        low = max(float(low), _ABOVE_ZERO)
    return float(low), float(high)


def _applied(kind: str, x: Range) -> Range:
    low, high = x
    match kind:
        case "neg":
            return -high, -low
        case "abs":
            return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(-low, high)
        case "exp":
            return (
                max(math.exp(min(low, 700.0)), _ABOVE_ZERO),
                math.exp(high) if high < 700 else math.inf,
            )
        case "square" | "sqrt":
            return 0.0, math.inf
        case "erf":
            return -1.0, 1.0
    return ANYTHING


def _combined(kind: str, inputs: list[Range]) -> Range:
    lows, highs = [low for low, _ in inputs], [high for _, high in inputs]
    match kind:
        case "add":
            return sum(lows), sum(highs)
        case "sub" if len(inputs) == 2:
            return lows[0] - highs[1], highs[0] - lows[1]
        case "maximum":
            return max(lows), max(highs)
        case "minimum":
            return min(lows), min(highs)
        case "mul" if len(inputs) == 2:
            products = [a * b for a in inputs[0] for b in inputs[1]]
            return (
                (min(products), max(products)) if not any(map(math.isnan, products)) else ANYTHING
            )
    return ANYTHING
