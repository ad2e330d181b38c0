"""Operators on single elements, and reductions of many to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convsmith.graph.operators.base import Operator

__all__ = [
    "ACTIVATIONS",
    "COMPARISONS",
    "ELEMENTWISE",
    "REDUCTIONS",
    "TYPES",
    "UNARIES",
    "Activation",
    "Cast",
    "Cumulate",
    "Elementwise",
    "Identity",
    "Reduce",
    "Softmax",
    "TopK",
    "Unary",
    "Where",
]

ACTIVATIONS = (
    "relu",
    "relu6",
    "leakyrelu",
    "prelu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "gelutanh",
    "sigmoid",
    "hardsigmoid",
    "tanh",
    "silu",
    "hardswish",
    "softplus",
    "softsign",
    "mish",
    "clip",
)
UNARIES = (
    *("abs", "exp", "log", "sqrt", "rsqrt", "neg", "reciprocal", "square", "erf", "floor"),
    *("ceil", "round", "sign", "not", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh"),
)
COMPARISONS = ("equal", "notequal", "less", "lessequal", "greater", "greaterequal")
ELEMENTWISE = (
    *("add", "sub", "mul", "div", "maximum", "minimum", "pow", "mod", "fmod"),
    *COMPARISONS,
    *("and", "or", "xor"),
)
REDUCTIONS = (
    *("mean", "sum", "max", "min", "prod", "l1norm", "l2norm", "logsumexp"),
    *("argmax", "argmin"),
)
TYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Operator):
    """A nonlinearity applied to every element; ``kind`` is one of ``ACTIVATIONS``.

    ``alpha`` is the slope of ``leakyrelu``, the scale of ``elu`` / ``celu``, the slope of
    ``hardsigmoid``; ``beta`` the offset of ``hardsigmoid``; ``low`` and ``high`` bound ``clip``.
    """

    kind: str
    alpha: float | None = None
    beta: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Operator):
    """A mathematical function applied to every element; ``kind`` is one of ``UNARIES``."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise(Operator):
    """Two or more values combined element by element, with broadcasting.

    ``kind`` is one of ``ELEMENTWISE``. Comparisons give truth values; ``mod`` has the sign of its
    second operand, ``fmod`` that of its first.
    """

    kind: str = "add"


@dataclass(frozen=True, slots=True, kw_only=True)
class Where(Operator):
    """Per element the second input where the first one is true, else the third; broadcasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Operator):
    """Another element type, one of ``TYPES``: real numbers lose their fraction.

    A cast to a real type changes no value; that is ``Identity(kind="cast")``.
    """

    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Operator):
    """Passes its input through; ``kind`` remembers what it was (``dropout``, ``cast``, ...)."""

    kind: str = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax(Operator):
    """Softmax (or its logarithm) over one axis."""

    axis: int = 1
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce(Operator):
    """A reduction over axes; ``kind`` is one of ``REDUCTIONS``.

    ``argmax`` and ``argmin`` give the first place, counted row by row over the axes together.
    """

    kind: str
    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cumulate(Operator):
    """Running sums or products along one axis.

    ``exclusive``: an element does not count itself. ``reverse``: from the end.
    """

    kind: Literal["sum", "prod"] = "sum"
    axis: int
    exclusive: bool = False
    reverse: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Operator):
    """The ``count`` largest (or smallest) elements along an axis in order, and their places."""

    count: int
    axis: int = -1
    largest: bool = True
