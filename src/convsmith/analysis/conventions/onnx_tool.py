"""onnx-tool 1.0.1: instructions of an ONNX graph, weighed by what they take on a CPU.

An addition, a multiplication and a comparison are 1, a division 4, a root 24, an exponential
32, a logarithm 43; a stored batch normalization is computed anew for every element (31). Biases
count, transposed convolutions by their outputs, and pooling with ``ceil`` keeps windows that
begin behind the input.
"""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import Call, Part, Rules
from convsmith.analysis.conventions.products import biases
from convsmith.graph import Shape
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Conv,
    Elementwise,
    GlobalPool,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pool,
    Reduce,
    Resize,
    Softmax,
    Unary,
)
from convsmith.graph.shape import effective_kernel

__all__ = ["RULES", "size_of"]

_DIVISION, _ROOT, _EXPONENTIAL, _LOGARITHM = 4, 24, 32, 43

# Per element.
_ACTIVATIONS = {
    "relu": 1,
    "relu6": 2,
    "clip": 2,
    "leakyrelu": 2,
    "prelu": 2,
    "elu": 35,
    "sigmoid": _EXPONENTIAL,
    "hardsigmoid": 4,
    "hardswish": 5,
    "tanh": 2 * (_EXPONENTIAL + 2 + _DIVISION),
    "softplus": _EXPONENTIAL + 1 + _LOGARITHM,
    "gelu": _EXPONENTIAL + 2,
    "gelutanh": _EXPONENTIAL + 2,
}
_UNARIES = {
    "abs": 1,
    "neg": 1,
    "exp": _EXPONENTIAL,
    "log": _LOGARITHM,
    "sqrt": _ROOT,
    "reciprocal": _DIVISION,
}
_ELEMENTWISE = {
    "add": 1,
    "sub": 1,
    "mul": 1,
    "maximum": 1,
    "minimum": 1,
    "div": _DIVISION,
    "pow": _EXPONENTIAL,
}


def _each(reason: str, per: int, count: int) -> tuple[Part, ...]:
    return (Part(reason=reason, amount=per * count, per=per),) if per else ()


def _count(call: Call) -> tuple[Part, ...]:
    match call.op:
        case Conv(transposed=True, channels=channels, groups=groups, kernel=kernel):
            amount = call.outputs * (channels // groups) * math.prod(kernel)
            bias = Part(reason="bias", amount=call.outputs)
            products = Part(reason="products", amount=amount, why="transposed")
            return (products, bias) if call.size("bias") else (products,)
        case Conv():
            terms = call.inputs[0][1] // call.op.groups * math.prod(call.op.kernel)
            return (_products(call, terms), *biases(call)[1:])
        case Linear():
            return (_products(call, call.inputs[0][-1]), *biases(call)[1:])
        case MatMul():
            return (_products(call, call.inputs[0][-1]),)
        case Norm() | LocalResponseNorm():
            return _normalization(call)
        case Activation(kind=kind):
            return _each("activation", _ACTIVATIONS.get(kind, 0), call.outputs)
        case Unary(kind=kind):
            return _each("elementwise", _UNARIES.get(kind, 0), call.outputs)
        case Elementwise(kind=kind):
            per = _ELEMENTWISE.get(kind, 0) * (len(call.inputs) - 1 if kind == "add" else 1)
            return _each("elementwise", per, call.outputs)
        case Softmax(log=log):
            per = _EXPONENTIAL + _DIVISION + log * (1 + _LOGARITHM)
            return _each("softmax", per, call.outputs)
        case Resize(mode=mode):
            per = {"linear": 4, "cubic": 8}.get(mode, 0)
            return _each("interpolation", per, call.outputs)
        case Reduce(kind="mean" | "sum" | "max" | "min" | "prod"):
            return _each("reduction", 1, call.elements)
    return _pooling(call)


def _products(call: Call, terms: int) -> Part:
    return Part(reason="products", amount=call.outputs * terms, why="sizes")


def _pooling(call: Call) -> tuple[Part, ...]:
    match call.op:
        case Pool(kernel=kernel):
            window = kernel[0] if len(kernel) == 3 else math.prod(kernel)
            return (Part(reason="pool-kernel", amount=call.outputs * window),)
        case GlobalPool(kind="average") | AdaptivePool(kind="average"):
            amount = call.elements + _DIVISION * call.outputs
            return (Part(reason="pool-windows", amount=amount),)
    return ()


def _normalization(call: Call) -> tuple[Part, ...]:
    match call.op:
        case Norm(kind="batch"):
            return _each("norm", 3 + _ROOT + _DIVISION, call.outputs)
        case Norm(kind="instance"):
            return _each("norm", 3 + _DIVISION, call.outputs)
        case Norm(kind="layer"):
            sets = call.outputs // call.output[len(call.output) - call.op.axes]
            amount = sets * (1 + _ROOT + _DIVISION)
            return (
                *_each("norm", 7, call.outputs),
                Part(reason="norm-statistics", amount=amount),
            )
        case LocalResponseNorm(size=size):
            return _each("norm", _DIVISION + _EXPONENTIAL + 1 + size, call.outputs)
    return ()


RULES: Rules = {"*": _count}


def size_of(op: Operator, inputs: tuple[Shape, ...]) -> Shape | None:
    """The output shape where it computes another one; ``None`` where it agrees."""
    match op:
        case Pool(rounding="ceil", same=None):
            sizes = tuple(
                -(-(size + low + high - effective_kernel(kernel, dilation)) // stride) + 1
                for size, kernel, stride, dilation, (low, high) in zip(
                    inputs[0][2:], op.kernel, op.stride, op.dilation, op.padding, strict=True
                )
            )
            return (*inputs[0][:2], *sizes)
    return None
