"""The table of comparisons, choices, places, orders and running sums."""

from __future__ import annotations

from typing import Literal

import numpy as np
from onnx import TensorProto

from convsmith.graph.operators import (
    TYPES,
    Cast,
    Concat,
    Cumulate,
    Elementwise,
    Gather,
    Identity,
    Reduce,
    Reshape,
    Slice,
    TopK,
    Unary,
    Where,
)
from convsmith.sources.onnx.calls import Call, Inexpressible, Row, Step, check_makeable
from convsmith.sources.onnx.tensors import element_type

__all__ = ["PLACES"]

_REAL = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _two(kind: str) -> Row:
    def row(call: Call) -> Step:
        if "string" in call.dtypes:
            raise Inexpressible("a comparison of words")
        return Step(Elementwise(kind=kind), (0, 1))

    return row


def _one(kind: str) -> Row:
    return lambda call: Step(Unary(kind=kind))


def _mod(call: Call) -> Step:
    kind = "fmod" if call.integer("fmod", 0) else "mod"
    return Step(Elementwise(kind=kind), (0, 1))


def _where(call: Call) -> Step:
    return Step(Where(), (0, 1, 2))


def _cast(call: Call) -> Step:
    to = call.integer("to", TensorProto.UNDEFINED)
    if to in _REAL:
        return Step(Identity(kind="cast"))
    return _cast_to(element_type(to))


def _cast_to(dtype: str) -> Step:
    if dtype not in TYPES:
        raise Inexpressible(f"a cast to {dtype or 'a type that is not known'}")
    return Step(Cast(dtype=dtype))


def _cast_like(call: Call) -> Step:
    if call.dtypes[1] == call.dtypes[0] != "":
        return Step(Identity())
    if call.dtypes[1] in ("float16", "float32", "float64"):
        return Step(Identity(kind="cast"))
    return _cast_to(call.dtypes[1])


def _threshold(call: Call) -> Step:
    """``x`` where it is larger than alpha, else 0."""
    alpha = np.array(call.number("alpha", 1.0), np.float32)
    above = Step(Elementwise(kind="greater"), (0, alpha))
    return Step(Where(), (above, 0, np.zeros((), np.float32)))


def _shrink(call: Call) -> Step:
    """Towards zero by ``bias`` where the size is above ``lambd``, else 0."""
    bound = np.array(call.number("lambd", 0.5), np.float32)
    bias = np.array(call.number("bias", 0.0), np.float32)
    kept = Step(Elementwise(kind="greater"), (Step(Unary(kind="abs")), bound))
    value: int | Step = 0
    if bias:
        less = Step(Elementwise(kind="mul"), (Step(Unary(kind="sign")), bias))
        value = Step(Elementwise(kind="sub"), (0, less))
    return Step(Where(), (kept, value, np.zeros((), np.float32)))


def _trilu(call: Call) -> Step:
    shape = call.shape(0)
    if len(shape) < 2:
        raise ValueError(f"a triangle of shape {shape}")
    diagonal = int(call.data(1).reshape(())) if call.has(1) else 0
    corner = np.triu if call.integer("upper", 1) else np.tril
    check_makeable(shape[-2] * shape[-1])
    mask = corner(np.ones(shape[-2:], bool), max(min(diagonal, shape[-1]), -shape[-2]))
    return Step(Where(), (mask, 0, np.zeros((), np.float32)))


# Places and orders ------------------------------------------------------------------


def _gather(call: Call) -> Step:
    """Places along an axis; a single known one is a slice."""
    shape = call.shape(0)
    axis = call.axis(call.integer("axis", 0))
    if call.known[1] is None or call.data(1).size != 1 or call.data(1).ndim > 1:
        return Step(Gather(axis=axis), (0, 1))
    places = call.data(1)
    place = call.axis(int(places.reshape(())), shape[axis])
    stop = None if place + 1 == shape[axis] else place + 1
    cut = Step(Slice(ranges=((axis, place, stop, 1),)))
    if places.ndim == 1:
        return cut
    rest = (*shape[:axis], *shape[axis + 1 :])
    if axis and rest and 0 not in rest:
        rest = (-1, *rest[1:])
    return Step(Reshape(shape=rest), (cut,))


def _gather_elements(call: Call) -> Step:
    return Step(Gather(axis=call.axis(call.integer("axis", 0)), along=True), (0, 1))


def _best(kind: str) -> Row:
    def row(call: Call) -> Step:
        if call.integer("select_last_index", 0):
            raise Inexpressible("the last of equal elements")
        axis = call.axis(call.integer("axis", 0))
        return Step(Reduce(kind=kind, axes=(axis,), keep=bool(call.integer("keepdims", 1))))

    return row


def _top(call: Call) -> Step:
    count = call.integer("k", 0) if call.opset < 10 else int(call.data(1).reshape(()))
    axis = call.axis(call.integer("axis", -1))
    return Step(TopK(count=count, axis=axis, largest=bool(call.integer("largest", 1))))


def _cumulate(kind: Literal["sum", "prod"]) -> Row:
    def row(call: Call) -> Step:
        op = Cumulate(
            kind=kind,
            axis=call.axis(int(call.data(1).reshape(()))),
            exclusive=bool(call.integer("exclusive", 0)),
            reverse=bool(call.integer("reverse", 0)),
        )
        return Step(op)

    return row


def _tile(call: Call) -> Step:
    repeats = call.data_ints(1)
    if len(repeats) != call.rank() or min(repeats, default=1) < 0:
        raise ValueError(f"repeats {repeats}")
    if 0 in repeats or max(repeats, default=1) > 1000:
        raise Inexpressible("no or very many repetitions")
    step: int | Step = 0
    for axis, count in enumerate(repeats):
        if count > 1:
            step = Step(Concat(axis=axis), (step,) * count)
    return Step(Identity()) if isinstance(step, int) else step


# Reductions of functions ------------------------------------------------------------


def _reduced(kind: str, before: str | None, after: str | None) -> Row:
    """A reduction of ``before(x)``, with ``after`` applied to the result."""

    def row(call: Call) -> Step:
        axes = call.list_or_input("axes", 1, 18) or ()
        if not axes and call.integer("noop_with_empty_axes", 0):
            raise Inexpressible("a reduction over no axes")
        places = {call.axis(axis) for axis in axes} or range(call.rank())
        op = Reduce(kind=kind, axes=tuple(sorted(places)), keep=bool(call.integer("keepdims", 1)))
        step = Step(op, (Step(Unary(kind=before)) if before else 0,))
        return Step(Unary(kind=after), (step,)) if after else step

    return row


_UNARIES = (
    *("Ceil", "Round", "Sign", "Not", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan"),
    *("Sinh", "Cosh"),
)

PLACES: dict[str, Row] = {
    **{name: _one(name.lower()) for name in _UNARIES},
    "And": _two("and"),
    "ArgMax": _best("argmax"),
    "ArgMin": _best("argmin"),
    "Cast": _cast,
    "CastLike": _cast_like,
    "CumProd": _cumulate("prod"),
    "CumSum": _cumulate("sum"),
    "Equal": _two("equal"),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Greater": _two("greater"),
    "GreaterOrEqual": _two("greaterequal"),
    "Less": _two("less"),
    "LessOrEqual": _two("lessequal"),
    "Mod": _mod,
    "Or": _two("or"),
    "ReduceLogSum": _reduced("sum", None, "log"),
    "ReduceLogSumExp": _reduced("logsumexp", None, None),
    "ReduceSumSquare": _reduced("sum", "square", None),
    "Shrink": _shrink,
    "ThresholdedRelu": _threshold,
    "Tile": _tile,
    "TopK": _top,
    "Trilu": _trilu,
    "Where": _where,
    "Xor": _two("xor"),
}
