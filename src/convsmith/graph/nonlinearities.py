"""The formulas of activations and other functions of one element, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf, ndtr

from convsmith.errors import UnsupportedOperatorError
from convsmith.graph.operators import Activation, Unary

__all__ = ["activate", "unary"]

Array = npt.NDArray[Any]


def _sigmoid(x: Array) -> Array:
    result: Array = np.exp(-np.logaddexp(0, -x))
    return result


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: x * ndtr(x),
    "gelutanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "hardswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "selu": lambda x: (
        1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))
    ),
}


def activate(op: Activation, x: Array, *slope: Array) -> Array:
    """Applies an activation to every element; ``slope`` is the learned one of ``prelu``.

    Raises:
        UnsupportedOperatorError: If there is no formula for its kind.
    """
    alpha = op.alpha
    match op.kind:
        case "leakyrelu":
            y = np.where(x >= 0, x, x * (0.01 if alpha is None else alpha))
        case "prelu":
            column = slope[0].reshape(-1, *(1,) * (x.ndim - 2))
            y = np.where(x >= 0, x, x * column)
        case "elu":
            y = np.where(x > 0, x, (1.0 if alpha is None else alpha) * np.expm1(np.minimum(x, 0)))
        case "celu":
            scale = 1.0 if alpha is None else alpha
            y = np.maximum(x, 0) + np.minimum(scale * np.expm1(np.minimum(x, 0) / scale), 0)
        case "hardsigmoid":
            slope_ = 1 / 6 if alpha is None else alpha
            y = np.clip(x * slope_ + (0.5 if op.beta is None else op.beta), 0, 1)
        case "clip":
            y = x if op.low is None else np.maximum(x, op.low)
            y = y if op.high is None else np.minimum(y, op.high)
        case kind if kind in _ACTIVATIONS:
            y = _ACTIVATIONS[kind](x)
        case kind:
            raise UnsupportedOperatorError(f"activation {kind!r} cannot be computed")
    return y


_UNARIES: dict[str, Callable[[Array], Array]] = {
    "abs": np.abs,
    "erf": erf,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "square": np.square,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,  # halves go to the even neighbour
    "sign": np.sign,
    "not": np.logical_not,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
}


def unary(op: Unary, x: Array) -> Array:
    """Applies a mathematical function to every element."""
    return _UNARIES[op.kind](x)
