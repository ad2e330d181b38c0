"""The table of element types: what every operator makes of the types of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from convsmith.graph.operators import (
    COMPARISONS,
    Cast,
    Elementwise,
    Identity,
    Operator,
    Pool,
    Reduce,
    TopK,
    Unary,
    Where,
    results,
)

__all__ = ["result_types"]


def result_types(op: Operator, inputs: Sequence[str]) -> tuple[str, ...]:
    """Returns the element type of every output, by NumPy's names.

    Args:
        op: The operator.
        inputs: The types of its inputs.

    An operator makes what its first input is, with few exceptions: comparisons make truth
    values, places are ``int64``, and a cast says what it makes (one to real numbers makes
    ``float32`` of what is none).

    >>> from convsmith.graph.operators import Elementwise, TopK
    >>> result_types(Elementwise(kind="less"), ["float32", "float32"])
    ('bool',)
    >>> result_types(TopK(count=3), ["float16"])
    ('float16', 'int64')
    """
    first = inputs[0] if inputs else "float32"
    if type(op) not in _OTHERS:
        return (first,) * results(op)
    match op:
        case Elementwise(kind=kind) if kind in (*COMPARISONS, "and", "or", "xor"):
            return ("bool",)
        case Unary(kind="not"):
            return ("bool",)
        case Reduce(kind="argmax" | "argmin"):
            return ("int64",)
        case Cast(dtype=dtype):
            return (dtype,)
        case Identity(kind="cast"):
            return (first if "float" in first else "float32",)
        case Where():
            return (inputs[1],)
        case TopK() | Pool(indices=True):
            return first, "int64"
    return (first,) * results(op)


# Operator classes are final, so that their type decides.
_OTHERS = frozenset((Elementwise, Unary, Reduce, Cast, Identity, Where, TopK, Pool))
