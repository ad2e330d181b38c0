"""The rules that most tools share: products, with and without their biases."""

from __future__ import annotations

import math

from convsmith.analysis.conventions.call import Call, Part, Rule
from convsmith.graph.operators import Conv, LocalResponseNorm

__all__ = [
    "CONVOLUTIONS",
    "MATRICES",
    "TRANSPOSED",
    "biases",
    "exact",
    "positions",
    "response_norm",
    "unpadded",
    "unseen",
]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
MATRICES = ("linear", "matmul", "addmm", "bmm", "mm", "baddbmm", "einsum")


def exact(call: Call) -> tuple[Part, ...]:
    """The products as they are."""
    return (Part(reason="products", amount=call.exact, why="sizes"),)


def biases(call: Call) -> tuple[Part, ...]:
    """The products, and one more per output for the bias."""
    if not call.size("bias"):
        return exact(call)
    return (*exact(call), Part(reason="bias", amount=call.outputs))


def unseen(why: str) -> Rule:
    """Nothing, for a reason."""
    return lambda call: (Part(reason="products", amount=0, why=why),)


def unpadded(rule: Rule) -> Rule:
    """The rule, but nothing for ``padding="same"``: torch's tracer calls that another operator."""

    def seen(call: Call) -> tuple[Part, ...]:
        if isinstance(call.op, Conv) and call.op.same is not None:
            return tuple(unseen("same")(call))
        return tuple(rule(call))

    return seen


def positions(call: Call) -> int:
    """Elements of one channel of the output, over all images."""
    return math.prod(call.output[:1] + call.output[2:])


def response_norm(call: Call) -> int:
    """Elements that torch's functions work on inside a local response normalization.

    A square, an average over padded channels (its input), a scale and a sum.
    """
    size = call.op.size if isinstance(call.op, LocalResponseNorm) else 1
    channels = call.output[1]
    padded = call.outputs // channels * (channels + size - 1) if channels else 0
    return 3 * call.outputs + padded
