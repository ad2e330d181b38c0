"""The mapping table, fourth part: comparisons, choices, places and orders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from convsmith.graph.operators import (
    Cast,
    Cumulate,
    Elementwise,
    Flip,
    Gather,
    Reduce,
    Reshape,
    TopK,
    Transpose,
    Unary,
    Where,
)
from convsmith.sources.torch.call import Call, Unmapped, later, maps

__all__: list[str] = []


def _number(call: Call, value: Any, dtype: torch.dtype) -> str:
    """A tensor, or a Python number as a constant of a type."""
    if isinstance(value, torch.Tensor):
        return call.value(value)
    return call.value(torch.tensor(value, dtype=dtype, device="cpu"))


# Comparisons and choices -------------------------------------------------------------------

_COMPARISONS = {
    "eq": "equal", "ne": "notequal", "lt": "less", "le": "lessequal", "gt": "greater",
    "ge": "greaterequal", "not_equal": "notequal", "less": "less", "less_equal": "lessequal",
    "greater": "greater", "greater_equal": "greaterequal",
}  # fmt: skip
_LOGIC = {
    **{f"logical_{kind}": kind for kind in ("and", "or", "xor")},
    **{f"bitwise_{kind}": kind for kind in ("and", "or", "xor")},
}


@maps(*_COMPARISONS)
def _(call: Call) -> str:
    left, right = call["self"], call["other"]
    dtype = left.dtype
    if isinstance(right, float) and not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    op = Elementwise(kind=_COMPARISONS[call.name])
    return call.add(op, call.value(left), _number(call, right, dtype))


@maps(*_LOGIC)
def _(call: Call) -> str:
    left, right = call["self"], call["other"]
    if not all(isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in (left, right)):
        raise Unmapped
    return call.add(Elementwise(kind=_LOGIC[call.name]), left, right)


@maps("logical_not", "bitwise_not")
def _(call: Call) -> str:
    if call.first.dtype != torch.bool:
        raise Unmapped
    return call.add(Unary(kind="not"))


@maps("where")
def _(call: Call) -> str:
    if call.overload not in ("self", "ScalarSelf", "ScalarOther", "Scalar"):
        raise Unmapped
    dtype = call.outputs[0].dtype
    one, other = (_number(call, call[name], dtype) for name in ("self", "other"))
    return call.add(Where(), call.value(call["condition"]), one, other)


@maps("masked_fill")
def _(call: Call) -> str:
    x = call["self"]
    return call.add(Where(), call["mask"], _number(call, call["value"], x.dtype), call.value(x))


@maps("threshold")
def _(call: Call) -> str:
    x = call.first
    above = Elementwise(kind="greater")
    kept = call.add(above, call.value(x), _number(call, call["threshold"], x.dtype), step="greater")
    return call.add(Where(), kept, call.value(x), _number(call, call["value"], x.dtype))


@maps("hardshrink", "softshrink")
def _(call: Call) -> str:
    x, bound = call.first, call["lambd"]
    size = call.add(Unary(kind="abs"), step="abs")
    above = Elementwise(kind="greater")
    kept = call.add(above, size, _number(call, bound, x.dtype), step="greater")
    value = call.value(x)
    if call.name == "softshrink":
        side = call.add(Unary(kind="sign"), step="sign")
        product = Elementwise(kind="mul")
        less = call.add(product, side, _number(call, bound, x.dtype), step="mul")
        value = call.add(Elementwise(kind="sub"), value, less, step="sub")
    return call.add(Where(), kept, value, _number(call, 0.0, x.dtype))


# Reductions to places, and orders ----------------------------------------------------------


@maps("argmax", "argmin")
def _(call: Call) -> str:
    return _best(call, call.name)


def _best(call: Call, kind: str) -> str:
    x, axis = call.first, call.arguments.get("dim")
    axes = tuple(range(x.dim())) if axis is None else (axis % max(x.dim(), 1),)
    if not x.dim():
        raise Unmapped
    keep = bool(call.arguments.get("keepdim", False))
    return call.add(Reduce(kind=kind, axes=axes, keep=keep), x)


@later("max", "min")
def _(call: Call) -> str:
    return _best(call, f"arg{call.name}")


@maps("topk", "sort", "argsort", "kthvalue")
def _(call: Call) -> str | tuple[str, ...]:
    x = call.first
    if not x.dim() or call.name == "kthvalue":
        raise Unmapped
    axis = call["dim"] % x.dim()
    if call.name == "topk":
        return call.add_all(TopK(count=call["k"], axis=axis, largest=call["largest"]), x)
    op = TopK(count=x.shape[axis], axis=axis, largest=bool(call["descending"]))
    values, places = call.add_all(op, x)
    return places if call.name == "argsort" else (values, places)


@maps("cumsum", "cumprod")
def _(call: Call) -> str:
    x = call.first
    if not x.dim() or call.outputs[0].dtype != x.dtype:
        raise Unmapped
    kind: Any = call.name.removeprefix("cum")
    return call.add(Cumulate(kind=kind, axis=call["dim"] % x.dim()))


@maps("logsumexp", "any", "all")
def _(call: Call) -> str:
    x, given = call.first, call.arguments.get("dim")
    axes = [given] if isinstance(given, int) else list(given or range(x.dim()))
    if not x.dim():
        raise Unmapped
    kind = {"any": "max", "all": "min"}.get(call.name, call.name)
    value = call.value(x)
    if call.name != "logsumexp" and x.dtype != torch.bool:
        value = call.add(Cast(dtype="bool"), step="cast")
    places = tuple(sorted(axis % x.dim() for axis in axes))
    keep = bool(call.arguments.get("keepdim", False))
    return call.add(Reduce(kind=kind, axes=places, keep=keep), value)


@maps("var", "std", "var_mean", "std_mean")
def _(call: Call) -> str | tuple[str, ...]:
    """Sums of squared distances from the mean, divided by their number minus the correction."""
    x, given = call.first, call.arguments.get("dim")
    axes = [given] if isinstance(given, int) else list(given or range(x.dim()))
    if not x.dim():
        raise Unmapped
    places = tuple(sorted({axis % x.dim() for axis in axes}))
    keep = bool(call.arguments.get("keepdim", False))
    correction = call.arguments.get("correction")
    if correction is None:
        correction = 1 if call.arguments.get("unbiased", True) else 0
    count = math.prod(x.shape[axis] for axis in places)
    mean = call.add(Reduce(kind="mean", axes=places, keep=True), x, step="mean")
    distance = call.add(Elementwise(kind="sub"), call.value(x), mean, step="sub")
    square = call.add(Unary(kind="square"), distance, step="square")
    total = call.add(Reduce(kind="sum", axes=places, keep=keep), square, step="sum")
    divisor = _number(call, float(max(count - correction, 0)), x.dtype)
    is_root = call.name.startswith("std")
    step = "var" if is_root else None
    spread = call.add(Elementwise(kind="div"), total, divisor, step=step)
    if is_root:
        spread = call.add(Unary(kind="sqrt"), spread)
    if not call.name.endswith("_mean"):
        return spread
    if not keep:
        mean = call.add(Reshape(shape=tuple(call.outputs[1].shape)), mean, step="squeeze")
    return spread, mean


# Places ------------------------------------------------------------------------------------


@maps("flip")
def _(call: Call) -> str:
    x = call.first
    axes = tuple(sorted(axis % x.dim() for axis in call["dims"]))
    return call.add(Flip(axes=axes)) if axes else call.value(x)


@maps("rot90")
def _(call: Call) -> str:
    x, turns = call.first, call["k"] % 4
    one, other = (axis % x.dim() for axis in call["dims"])
    value = call.value(x)
    axes = {0: (), 1: (other,), 2: (one, other), 3: (one,)}[turns]
    if axes:
        value = call.add(Flip(axes=tuple(sorted(axes))), value, step="flip")
    if turns % 2:
        order = list(range(x.dim()))
        order[one], order[other] = other, one
        value = call.add(Transpose(permutation=tuple(order)), value)
    return value


@maps("tril", "triu")
def _(call: Call) -> str:
    x = call.first
    corner = getattr(torch, call.name)
    mask = corner(torch.ones(x.shape[-2:], dtype=torch.bool, device="cpu"), call["diagonal"])
    return call.add(Where(), call.value(mask), call.value(x), _number(call, 0, x.dtype))


@maps("embedding")
def _(call: Call) -> str:
    return call.add(Gather(), call["weight"], call["indices"])


@maps("index_select")
def _(call: Call) -> str:
    x, places = call["self"], call["index"]
    if not x.dim() or not places.dim():
        raise Unmapped
    return call.add(Gather(axis=call["dim"] % x.dim()), x, places)


@maps("gather")
def _(call: Call) -> str:
    x = call["self"]
    if not x.dim():
        raise Unmapped
    return call.add(Gather(axis=call["dim"] % x.dim(), along=True), x, call["index"])


@maps("index")
def _(call: Call) -> str:
    """``x[:, a, b]``: neighbouring axes that are indexed together become one first."""
    x, indices = call["self"], call["indices"]
    places = [axis for axis, index in enumerate(indices) if index is not None]
    given = [indices[axis] for axis in places]
    first, last = places[0], places[-1] + 1
    if any(index.dtype in (torch.bool, torch.uint8) for index in given):
        raise Unmapped  # how many elements that selects depends on data
    if len(given) == 1:
        return call.add(Gather(axis=first), x, given[0])
    known = not any(call.recorder.value_of(index) is not None or index.is_meta for index in given)
    if last - first != len(places) or not known:
        raise Unmapped
    sizes = tuple(x.shape[first:last])
    grid = np.broadcast_arrays(*(index.cpu().numpy() for index in given))
    wrapped = [index % size for index, size in zip(grid, sizes, strict=True)]
    flat = np.ravel_multi_index(tuple(wrapped), sizes)
    shape = (*x.shape[:first], math.prod(sizes), *x.shape[last:])
    joined = call.add(Reshape(shape=shape), x, step="join")
    return call.add(Gather(axis=first), joined, call.value(torch.from_numpy(flat)))


@maps("unfold")
def _(call: Call) -> str:
    """Windows along one axis, which become a new last axis."""
    x, size, step = call.first, call["size"], call["step"]
    if not x.dim():
        raise Unmapped
    axis = call["dimension"] % x.dim()
    count = (x.shape[axis] - size) // step + 1
    windows = np.arange(count)[:, None] * step + np.arange(size)
    places = call.value(torch.from_numpy(windows))
    gathered = call.add(Gather(axis=axis), call.value(x), places, step="windows")
    order = [i for i in range(x.dim() + 1) if i != axis + 1]
    return call.add(Transpose(permutation=(*order, axis + 1)), gathered)


# More functions of one and of two ----------------------------------------------------------

_UNARIES = {
    **{name: name for name in ("ceil", "round", "sign", "sin", "cos", "tan", "sinh", "cosh")},
    **{name: name for name in ("asin", "acos", "atan")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan")},
    "sgn": "sign",
}


@maps(*_UNARIES)
def _(call: Call) -> str:
    if call.arguments.get("decimals") or not call.first.dtype.is_floating_point:
        raise Unmapped
    return call.add(Unary(kind=_UNARIES[call.name]))


@maps("log2", "log10", "log1p", "expm1")
def _(call: Call) -> str:
    x = call.first
    if not x.dtype.is_floating_point:
        raise Unmapped
    if call.name == "log1p":
        more = call.add(Elementwise(), call.value(x), _number(call, 1.0, x.dtype), step="add")
        return call.add(Unary(kind="log"), more)
    if call.name == "expm1":
        power = call.add(Unary(kind="exp"), step="exp")
        return call.add(Elementwise(kind="sub"), power, _number(call, 1.0, x.dtype))
    natural = call.add(Unary(kind="log"), step="log")
    factor = 1 / math.log(2 if call.name == "log2" else 10)
    return call.add(Elementwise(kind="mul"), natural, _number(call, factor, x.dtype))


@maps("remainder", "fmod")
def _(call: Call) -> str:
    left, right = call["self"], call["other"]
    tensor = left if isinstance(left, torch.Tensor) else right
    if tensor.dtype != call.outputs[0].dtype:
        raise Unmapped
    kind = "mod" if call.name == "remainder" else "fmod"
    values = [_number(call, operand, tensor.dtype) for operand in (left, right)]
    return call.add(Elementwise(kind=kind), *values)
