"""The mapping table, second part: functions of single elements, reductions, interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import torch

from convsmith.graph.operators import (
    Activation,
    Cast,
    Elementwise,
    Identity,
    Reduce,
    Resize,
    Softmax,
    Split,
    Unary,
)
from convsmith.sources.torch.call import Call, Unmapped, maps
from convsmith.sources.torch.memory import numpy_name

__all__: list[str] = []


# One element at a time ---------------------------------------------------------------------

_PLAIN = (
    "relu", "relu6", "selu", "sigmoid", "tanh", "silu", "hardswish", "softsign", "mish",
)  # fmt: skip
_UNARIES = ("abs", "exp", "log", "sqrt", "rsqrt", "neg", "reciprocal", "square", "erf", "floor")


@maps(*_PLAIN)
def _(call: Call) -> str:
    return call.add(Activation(kind=call.name))


@maps(*_UNARIES)
def _(call: Call) -> str:
    return call.add(Unary(kind=call.name))


@maps("leaky_relu")
def _(call: Call) -> str:
    return call.add(Activation(kind="leakyrelu", alpha=float(call["negative_slope"])))


@maps("rrelu")
def _(call: Call) -> str:
    slope = (float(call["lower"]) + float(call["upper"])) / 2  # as at inference
    return call.add(Activation(kind="leakyrelu", alpha=slope))


@maps("prelu")
def _(call: Call) -> str:
    return call.add(Activation(kind="prelu"), parameters=[call["weight"]])


@maps("elu")
def _(call: Call) -> str:
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise Unmapped
    return call.add(Activation(kind="elu", alpha=float(call["alpha"])))


@maps("celu")
def _(call: Call) -> str:
    return call.add(Activation(kind="celu", alpha=float(call["alpha"])))


@maps("gelu")
def _(call: Call) -> str:
    return call.add(Activation(kind="gelutanh" if call["approximate"] == "tanh" else "gelu"))


@maps("hardsigmoid")
def _(call: Call) -> str:
    return call.add(Activation(kind="hardsigmoid", alpha=1 / 6, beta=0.5))


@maps("softplus")
def _(call: Call) -> str:
    beta = call["beta"]
    if beta == 1:
        return call.add(Activation(kind="softplus"))
    scaled = call.add(Elementwise(kind="mul"), call.first, call.value(beta, "beta"), step="mul")
    soft = call.add(Activation(kind="softplus"), scaled, step="softplus")
    return call.add(Elementwise(kind="div"), soft, call.value(beta, "beta"))


@maps("log_sigmoid")
def _(call: Call) -> str:
    return call.add(Unary(kind="log"), call.add(Activation(kind="sigmoid"), step="sigmoid"))


@maps("hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
def _(call: Call) -> str:
    low = call.arguments.get("min_val", call.arguments.get("min"))
    high = call.arguments.get("max_val", call.arguments.get("max"))
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        value = call.value(call.first)
        for kind, bound in (("maximum", low), ("minimum", high)):
            if bound is not None:
                value = call.add(Elementwise(kind=kind), value, call.value(bound))
        return value
    if (low, high) == (0, 6):
        return call.add(Activation(kind="relu6"))
    return call.add(
        Activation(
            kind="clip",
            low=None if low is None else float(low),
            high=None if high is None else float(high),
        )
    )


@maps("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _(call: Call) -> str:
    return call.add(Identity(kind="dropout"))


@maps("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def _(call: Call) -> str:
    x = call.first
    return call.add(Softmax(axis=call["dim"] % max(x.dim(), 1), log="log" in call.name))


@maps("glu")
def _(call: Call) -> str:
    x = call.first
    axis = call["dim"] % x.dim()
    half = x.shape[axis] // 2
    value, gate = call.add_all(Split(sizes=(half, half), axis=axis), step="split")
    opened = call.add(Activation(kind="sigmoid"), gate, step="sigmoid")
    return call.add(Elementwise(kind="mul"), value, opened)


# Two values --------------------------------------------------------------------------------


def _combine(call: Call, kind: str, left: Any, right: Any) -> str:
    return call.add(Elementwise(kind=kind), _promoted(call, left), _promoted(call, right))


def _promoted(call: Call, operand: Any) -> str:
    """A value in the type of the result: torch turns whole numbers into what they meet."""
    value = call.value(operand)
    if not isinstance(operand, torch.Tensor) or not call.outputs:
        return value
    before, after = operand.dtype, call.outputs[0].dtype
    if before == after or before.is_floating_point or after.is_complex:
        return value
    op = Identity(kind="cast") if after.is_floating_point else Cast(dtype=numpy_name(after))
    return call.add(op, value, step="cast")


_KINDS = {
    "add": "add", "sub": "sub", "subtract": "sub", "rsub": "sub", "mul": "mul", "multiply": "mul",
    "div": "div", "divide": "div", "true_divide": "div", "maximum": "maximum",
    "minimum": "minimum",
}  # fmt: skip


@maps("floor_divide")
def _(call: Call) -> str:
    left, right = call.value(call["self"]), call.value(call["other"])
    quotient = call.add(Elementwise(kind="div"), left, right, step="div")
    return call.add(Unary(kind="floor"), quotient)


@maps(*_KINDS)
def _(call: Call) -> str:
    rounding = call.arguments.get("rounding_mode")
    if rounding is not None:
        if rounding != "floor" or not call.outputs[0].is_floating_point():
            raise Unmapped
        values = call.value(call["self"]), call.value(call["other"])
        return call.add(Unary(kind="floor"), call.add(Elementwise(kind="div"), *values, step="div"))
    left, right, alpha = call["self"], call["other"], call.arguments.get("alpha", 1)
    if call.name == "rsub":
        left, right = right, left
        if alpha != 1:
            raise Unmapped
    elif alpha != 1:
        if isinstance(right, torch.Tensor):
            factor = call.value(alpha, "alpha")
            scaled = call.add(Elementwise(kind="mul"), call.value(right), factor, step="alpha")
            return call.add(Elementwise(kind=_KINDS[call.name]), call.value(left), scaled)
        right = right * alpha
    return _combine(call, _KINDS[call.name], left, right)


@maps("pow")
def _(call: Call) -> str:
    base, exponent = call["self"], call["exponent"]
    named = {2: "square", 0.5: "sqrt", -1: "reciprocal", -0.5: "rsqrt"}
    if isinstance(exponent, int | float) and exponent in named:
        return call.add(Unary(kind=named[exponent]), base)
    return _combine(call, "pow", base, exponent)


@maps("addcmul", "addcdiv")
def _(call: Call) -> str:
    if call["value"] != 1:
        raise Unmapped
    kind = "mul" if call.name == "addcmul" else "div"
    product = call.add(Elementwise(kind=kind), call["tensor1"], call["tensor2"], step=kind)
    return call.add(Elementwise(), call["self"], product)


@maps("lerp")
def _(call: Call) -> str:
    start, end = call.value(call["self"]), call.value(call["end"])
    way = call.add(Elementwise(kind="sub"), end, start, step="sub")
    part = call.add(Elementwise(kind="mul"), way, call.value(call["weight"]), step="mul")
    return call.add(Elementwise(), start, part)


# Reductions --------------------------------------------------------------------------------


def _reduce(call: Call, kind: str) -> str:
    rank = call.first.dim()
    given = call.arguments.get("dim")
    if isinstance(given, int):
        given = [given]
    axes = tuple(sorted(axis % rank for axis in given)) if given else tuple(range(rank))
    if not rank:
        return call.value(call.first)
    return call.add(Reduce(kind=kind, axes=axes, keep=bool(call.arguments.get("keepdim", False))))


@maps("mean", "sum", "prod")
def _(call: Call) -> str:
    return _reduce(call, call.name)


@maps("amax", "amin", "max", "min")
def _(call: Call) -> str:
    if "other" in call.arguments:
        kind = {"max": "maximum", "min": "minimum"}[call.name]
        return _combine(call, kind, call["self"], call["other"])
    return _reduce(call, call.name.removeprefix("a"))


@maps("linalg_vector_norm", "norm")
def _(call: Call) -> str:
    order = call.arguments.get("ord", call.arguments.get("p"))
    kinds = {1: "l1norm", 2: "l2norm", None: "l2norm"}
    if order not in kinds:
        raise Unmapped
    return _reduce(call, kinds[order])


# Interpolation -----------------------------------------------------------------------------

_Mode = Literal["nearest", "linear", "cubic"]
_MODES: dict[str, _Mode] = {
    **{f"upsample_nearest{n}d": "nearest" for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": "nearest" for n in (1, 2, 3)},
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "linear",
    "upsample_trilinear3d": "linear",
    "upsample_bicubic2d": "cubic",
}


@maps(*_MODES)
def _(call: Call) -> str:
    x, mode = call.first, _MODES[call.name]
    if min(call.shape) == 0:
        raise Unmapped
    words: dict[str, Any] = {}
    if "exact" in call.name:
        words = {"alignment": "half_pixel", "rounding": "round_prefer_ceil"}
    elif mode != "nearest":
        words = {"alignment": "align_corners" if call["align_corners"] else "half_pixel"}
    inside, outside = tuple(x.shape[2:]), call.shape[2:]
    for read in (_as_written, Fraction):
        scale = tuple(map(read, _scales(call)))
        sizes = tuple(math.floor(s * f) for s, f in zip(inside, scale, strict=False))
        if scale and sizes == outside:
            if "exact" not in call.name:
                scale = tuple(map(partial(_as_computed, mode), inside, outside, scale))
            return call.add(Resize(scale=scale, mode=mode, **words))
    return call.add(Resize(size=outside, mode=mode, **words))


def _as_computed(mode: _Mode, inside: int, outside: int, scale: Fraction) -> Fraction:
    """The factor that torch's kernels really use: sizes that stay or double have short cuts."""
    if mode != "cubic" and outside == inside:
        return Fraction(1)
    return Fraction(2) if mode == "nearest" and outside == 2 * inside else scale


_as_written: Callable[[float], Fraction] = lambda scale: Fraction(repr(scale))  # noqa: E731


def _scales(call: Call) -> tuple[float, ...]:
    """The factors that the caller gave; empty when a size was given."""
    if call.overload == "vec":
        return tuple(call["scale_factors"] or ())
    given = [value for name, value in call.arguments.items() if name.startswith("scales")]
    return tuple(given) if all(value is not None for value in given) else ()
