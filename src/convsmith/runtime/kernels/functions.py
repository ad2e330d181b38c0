"""Functions of one element, written for vectors: the compiled twin of graph.nonlinearities.

Accurate to a few units in the last place of float32, relative to the larger of value and 1.
Polynomials are fitted here, at Chebyshev's points, when a kernel is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import log1p as log1p_of

from convsmith.kernel.emit import Code, Value
from convsmith.kernel.kinds import lanes_of
from convsmith.kernel.tile import exponential

__all__ = ["BINARY", "UNARY", "apply"]


@cache
def _fit(name: str, low: float, high: float, degree: int) -> tuple[float, ...]:
    """Coefficients, the constant first, of a polynomial close to a function on an interval."""
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "tanh": lambda s: np.tanh(np.sqrt(s)) / np.sqrt(s),
        "expm1": lambda x: np.expm1(x) / x,
        "log1p": lambda x: log1p_of(x) / x,
    }
    fitted = Chebyshev.interpolate(functions[name], degree, domain=[low, high])
    return tuple(float(c) for c in fitted.convert(kind=Polynomial).coef)


def _polynomial(code: Code, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule."""
    lanes = lanes_of(x.kind)
    total = code.splat(coefficients[-1], lanes)
    for c in reversed(coefficients[:-1]):
        total = code.fma(total, x, code.splat(c, lanes))
    return total


def _absolute(code: Code, x: Value) -> Value:
    return code._intrinsic("fabs", x)


def _expm1(code: Code, x: Value) -> Value:
    """e^x - 1 for x <= 0."""
    near = x * _polynomial(code, x, _fit("expm1", -0.5, 1e-9, 6))
    return (x > -0.5).select(near, exponential(code, x) - 1.0)


def _tanh(code: Code, x: Value) -> Value:
    small = x * _polynomial(code, x * x, _fit("tanh", 1e-12, 0.36, 5))
    size = code.minimum(_absolute(code, x), 10.0)
    e = exponential(code, size * 2.0)
    large = code.splat(1.0, lanes_of(x.kind)) - code.splat(2.0, lanes_of(x.kind)) / (e + 1.0)
    signed = (x < 0.0).select(-large, large)
    return (_absolute(code, x) < 0.6).select(small, signed)


def _sigmoid(code: Code, x: Value) -> Value:
    return code.splat(1.0, lanes_of(x.kind)) / (exponential(code, -x) + 1.0)


def _softplus(code: Code, x: Value) -> Value:
    """max(x, 0) + log(1 + e^-|x|)."""
    e = exponential(code, -_absolute(code, x))
    return code.maximum(x, 0.0) + e * _polynomial(code, e, _fit("log1p", 1e-9, 1.0, 10))


def _normal_distribution(code: Code, x: Value) -> Value:
    """The cumulative normal distribution, within 1e-7.

    Abramowitz & Stegun 1964, formula 7.1.26.
    """
    z = _absolute(code, x) * math.sqrt(0.5)
    lanes = lanes_of(x.kind)
    t = code.splat(1.0, lanes) / code.fma(z, code.splat(0.3275911, lanes), code.splat(1.0, lanes))
    series = (0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
    tail = _polynomial(code, t, series) * exponential(code, -(z * z)) * 0.5
    return (x > 0.0).select(code.splat(1.0, lanes) - tail, tail)


def _mish(code: Code, x: Value) -> Value:
    """Mish: x tanh(log(1 + e^x)) = x (e^2 + 2e) / (e^2 + 2e + 2), e = e^x; x itself for large x."""
    e = exponential(code, code.minimum(x, 20.0))
    s = e * (e + 2.0)
    return (x > 20.0).select(x, x * (s / (s + 2.0)))


def _gelutanh(code: Code, x: Value) -> Value:
    inner = x * (x * x * 0.044715 + 1.0) * math.sqrt(2 / math.pi)
    return x * 0.5 * (_tanh(code, inner) + 1.0)


def _elu(code: Code, x: Value, alpha: float) -> Value:
    return (x > 0.0).select(x, _expm1(code, code.minimum(x, 0.0)) * alpha)


def _celu(code: Code, x: Value, alpha: float) -> Value:
    low = _expm1(code, code.minimum(x, 0.0) * (1 / alpha)) * alpha
    return (x > 0.0).select(x, low)


def _larger(code: Code, a: Value, b: Value) -> Value:
    """The larger of two, NaN if one of them is."""
    return ((a > b) | a.unequal(a)).select(a, b)


def _smaller(code: Code, a: Value, b: Value) -> Value:
    """The smaller of two, NaN if one of them is."""
    return ((a < b) | a.unequal(a)).select(a, b)


def _hardswish(code: Code, x: Value) -> Value:
    return x * code.minimum(code.maximum(x * (1 / 6) + 0.5, 0.0), 1.0)


def _clip(code: Code, x: Value, low: float, high: float) -> Value:
    y = x if low == -math.inf else code.maximum(x, low)
    return y if high == math.inf else code.minimum(y, high)


UNARY: Final[dict[str, Callable[..., Value]]] = {
    "relu": lambda code, x: code.maximum(x, 0.0),
    "relu6": lambda code, x: _clip(code, x, 0.0, 6.0),
    "clip": _clip,
    "leakyrelu": lambda code, x, slope: (x >= 0.0).select(x, x * slope),
    "elu": _elu,
    "celu": _celu,
    "selu": lambda code, x: _elu(code, x, 1.6732632423543772) * 1.0507009873554805,
    "gelu": lambda code, x: x * _normal_distribution(code, x),
    "gelutanh": _gelutanh,
    "sigmoid": _sigmoid,
    "hardsigmoid": lambda code, x, slope, offset: _clip(code, x * slope + offset, 0.0, 1.0),
    "tanh": _tanh,
    "silu": lambda code, x: x / (exponential(code, -x) + 1.0),
    "hardswish": _hardswish,
    "softplus": _softplus,
    "softsign": lambda code, x: x / (_absolute(code, x) + 1.0),
    "mish": _mish,
    "abs": _absolute,
    "exp": exponential,
    "sqrt": lambda code, x: code.sqrt(x),
    "rsqrt": lambda code, x: code.splat(1.0, lanes_of(x.kind)) / code.sqrt(x),
    "neg": lambda code, x: -x,
    "reciprocal": lambda code, x: code.splat(1.0, lanes_of(x.kind)) / x,
    "square": lambda code, x: x * x,
    "floor": lambda code, x: code.floor(x),
    "ceil": lambda code, x: -code.floor(-x),
}
"""By name: (code, x, *numbers) -> y."""

BINARY: Final[dict[str, Callable[[Code, Value, Value], Value]]] = {
    "add": lambda code, a, b: a + b,
    "sub": lambda code, a, b: a - b,
    "mul": lambda code, a, b: a * b,
    "div": lambda code, a, b: a / b,
    "maximum": _larger,
    "minimum": _smaller,
    "prelu": lambda code, x, slope: (x >= 0.0).select(x, x * slope),
}
"""By name: (code, a, b) -> y."""


def apply(code: Code, name: str, values: Sequence[Value], numbers: Sequence[float]) -> Value:
    """Returns a function of vectors; ``affine`` is ``x * a + b``, ``constant`` a number."""
    if name == "affine":
        return code.fma(*values)
    if name in BINARY:
        return BINARY[name](code, *values)
    return UNARY[name](code, *values, *numbers)
