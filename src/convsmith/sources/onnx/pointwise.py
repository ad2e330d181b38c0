"""The table of what happens to every element by itself, or to several values element by element."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from convsmith.graph.operators import Activation, Elementwise, Identity, Softmax, Unary
from convsmith.sources.onnx.calls import Call, Inexpressible, Row, Step

__all__ = ["POINTWISE"]

_SELU = (1.6732632, 1.050701)
_FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _activation(kind: str) -> Row:
    op = Activation(kind=kind)
    return lambda call: Step(op)


def _scaled(kind: str, alpha: float) -> Row:
    return lambda call: Step(Activation(kind=kind, alpha=call.number("alpha", alpha)))


def _unary(kind: str) -> Row:
    op = Unary(kind=kind)
    return lambda call: Step(op)


def _hard_sigmoid(call: Call) -> Step:
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    return Step(Activation(kind="hardsigmoid", alpha=alpha, beta=beta))


def _selu(call: Call) -> Step:
    given = (call.number("alpha", _SELU[0]), call.number("gamma", _SELU[1]))
    if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, _SELU, strict=True)):
        raise Inexpressible("selu with other numbers than its own")
    return Step(Activation(kind="selu"))


def _gelu(call: Call) -> Step:
    approximate = call.text("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate {approximate!r}")
    return Step(Activation(kind="gelutanh" if approximate == "tanh" else "gelu"))


def _swish(call: Call) -> Step:
    if call.number("alpha", 1.0) != 1:
        raise Inexpressible("swish with a factor")
    return Step(Activation(kind="silu"))


def _prelu(call: Call) -> Step:
    slope = call.weight(1)
    if slope.data.size == 1:
        return Step(Activation(kind="prelu"), (0,), (slope.reshaped((1,)),))
    rank = call.rank()
    shape = (1,) * (rank - slope.data.ndim) + slope.data.shape
    channels = call.shape(0)[1] if rank > 1 else 0
    if shape != tuple(channels if axis == 1 else 1 for axis in range(rank)):
        raise Inexpressible("a slope that is not per channel")
    return Step(Activation(kind="prelu"), (0,), (slope.reshaped((channels,)),))


def _clip(call: Call) -> Step:
    bounds: list[float | None] = []
    for index, (name, none) in enumerate((("min", -3.4028235e38), ("max", 3.4028235e38)), 1):
        if call.opset < 11:
            value: float | None = call.number(name, none)
        else:
            value = call.data_float(index) if call.has(index) else None
        unbounded = value is not None and (np.isinf(value) or value == none)
        bounds.append(None if unbounded else value)
    low, high = bounds
    if (low, high) == (0, 6):
        return Step(Activation(kind="relu6"))
    if low is None and high is None:
        return Step(Identity(kind="identity"))
    return Step(Activation(kind="clip", low=low, high=high))


def _softmax(log: bool) -> Row:
    def row(call: Call) -> Step:
        shape = call.shape(0)
        axis = call.axis(call.integer("axis", 1 if call.opset < 13 else -1))
        if call.opset < 13:  # over all axes from this one on, as if they were one
            long = [i for i in range(axis, len(shape)) if shape[i] != 1]
            if len(long) > 1:
                raise Inexpressible("softmax over several axes")
            axis = long[0] if long else axis
        return Step(Softmax(axis=axis, log=log))

    return row


def _elementwise(kind: str) -> Row:
    op = Elementwise(kind=kind)

    def row(call: Call) -> Step:
        if call.count == 1:
            return Step(Identity(kind="identity"))
        return Step(op, tuple(range(call.count)))

    return row


def _div(call: Call) -> Step:
    if any("int" in dtype for dtype in call.dtypes):
        raise Inexpressible("a division that rounds")
    return Step(Elementwise(kind="div"), (0, 1))


def _dropout(call: Call) -> Step:
    if call.has(2) and bool(call.data(2).reshape(())):
        raise Inexpressible("dropout as in training")
    return Step(Identity(kind="dropout"))


POINTWISE: dict[str, Row] = {
    "Abs": _unary("abs"),
    "Add": _elementwise("add"),
    "Celu": _scaled("celu", 1.0),
    "Clip": _clip,
    "Div": _div,
    "Dropout": _dropout,
    "Elu": _scaled("elu", 1.0),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Floor": _unary("floor"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation("hardswish"),
    "Identity": lambda call: Step(Identity(kind="identity")),
    "LeakyRelu": _scaled("leakyrelu", 0.01),
    "Log": _unary("log"),
    "LogSoftmax": _softmax(True),
    "Max": _elementwise("maximum"),
    "Min": _elementwise("minimum"),
    "Mish": _activation("mish"),
    "Mul": _elementwise("mul"),
    "Neg": _unary("neg"),
    "PRelu": _prelu,
    "Pow": _elementwise("pow"),
    "Reciprocal": _unary("reciprocal"),
    "Relu": _activation("relu"),
    "Selu": _selu,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _softmax(False),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Sqrt": _unary("sqrt"),
    "Sub": _elementwise("sub"),
    "Sum": _elementwise("add"),
    "Swish": _swish,
    "Tanh": _activation("tanh"),
}
