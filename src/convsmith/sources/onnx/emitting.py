"""The table of exports: the ONNX nodes that every operator becomes."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np

from convsmith.errors import SourceError
from convsmith.graph import operator_text
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    Expand,
    Flatten,
    GlobalPool,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Split,
    Transpose,
    Unary,
)
from convsmith.graph.shape import effective_kernel, infer_shapes, resolve_padding
from convsmith.sources.onnx.jobs import Job
from convsmith.sources.onnx.opening import NEWEST_OPSET
from convsmith.sources.onnx.tensors import element_type_code

__all__ = ["emit"]


@singledispatch
def emit(op: Operator, job: Job) -> None:
    """Adds the ONNX nodes of one operator.

    Raises:
        SourceError: If ONNX cannot express it; the message has no place yet.
    """
    raise SourceError(
        f"{operator_text(op)!r} cannot be written as ONNX",
        remedy="replace this layer, or keep the file that it was read from",
    )


def _pads(op: Conv | Pool, job: Job) -> dict[str, Any]:
    """``auto_pad`` where that says it all, else numbers."""
    if op.same is not None and set(op.dilation) == {1}:
        return {"auto_pad": f"SAME_{op.same.upper()}"}
    spatial = job.shape()[2:]
    padding = op.padding if isinstance(op, Conv) and op.transposed else resolve_padding(op, spatial)
    if isinstance(op, Conv) and op.rounding == "ceil" and not op.transposed and op.same is None:
        made = infer_shapes(op, job.shape())[0]
        assert made is not None
        padding = tuple(
            (low, max(high, (count - 1) * stride + effective_kernel(kernel, dilation) - size - low))
            for (low, high), count, stride, kernel, dilation, size in zip(
                padding, made[2:], op.stride, op.kernel, op.dilation, spatial, strict=True
            )
        )
    return {"pads": [*(low for low, _ in padding), *(high for _, high in padding)]}


@emit.register
def _(op: Conv, job: Job) -> None:
    extra: dict[str, Any] = {}
    if any(op.output_padding):
        extra["output_padding"] = op.output_padding
    job.finish(
        "ConvTranspose" if op.transposed else "Conv",
        job.inputs[0],
        *job.parameters,
        kernel_shape=op.kernel,
        strides=op.stride,
        dilations=op.dilation,
        group=op.groups,
        **_pads(op, job),
        **extra,
    )


@emit.register
def _(op: Pool, job: Job) -> None:
    dilated, ceil = set(op.dilation) != {1}, op.rounding == "ceil"
    common = {"kernel_shape": op.kernel, "strides": op.stride, **_pads(op, job)}
    if ceil:
        common["ceil_mode"] = 1
    if dilated:
        common["dilations"] = op.dilation
    since = 10 if ceil or dilated else 7
    if ceil and _leaves_out_windows(op, job):
        since = 22  # from here on ONNX agrees that no window starts behind the input
    if op.kind == "max":
        _max_pool(op, job, since, common)
        return
    # Before opset 19 runtimes disagree about what an average divides by where ceil adds windows.
    since = max(19, since) if ceil or dilated else since
    counted = int(op.count_padding)
    job.finish("AveragePool", job.inputs[0], since=since, count_include_pad=counted, **common)


def _max_pool(op: Pool, job: Job, since: int, common: dict[str, Any]) -> None:
    """ONNX's indices count through the whole tensor; ours through each plane."""
    shape = job.shape()
    if not op.indices or math.prod(shape[:2]) == 1:
        job.finish("MaxPool", job.inputs[0], since=since, **common)
        return
    places = job.writer.fresh(f"{job.node.name}.places")
    made = (job.outputs[0], places)
    name = job.node.name
    job.writer.node("MaxPool", [job.inputs[0]], made, name=name, since=since, **common)
    planes = np.arange(math.prod(shape[:2]), dtype=np.int64) * math.prod(shape[2:])
    starts = planes.reshape(*shape[:2], *(1 for _ in shape[2:]))
    shift = job.writer.tensor(f"{name}.planes", starts, "int64")
    job.writer.node("Sub", [places, shift], [job.outputs[1]], name=f"{name}.sub", since=7)


def _leaves_out_windows(op: Pool, job: Job) -> bool:
    """Whether rounding up alone would give a window that starts behind the input."""
    made = infer_shapes(op, job.shape())[0]
    assert made is not None
    padding = resolve_padding(op, job.shape()[2:])
    return any(
        count * stride + effective_kernel(kernel, dilation) < size + low + high + stride
        for size, count, (low, high), stride, kernel, dilation in zip(
            job.shape()[2:], made[2:], padding, op.stride, op.kernel, op.dilation, strict=True
        )
    )


@emit.register
def _(op: GlobalPool, job: Job) -> None:
    job.finish("GlobalMaxPool" if op.kind == "max" else "GlobalAveragePool", job.inputs[0])


@emit.register
def _(op: AdaptivePool, job: Job) -> None:
    spatial = job.shape()[2:]
    wanted = tuple(want or have for want, have in zip(op.size, spatial, strict=True))
    if set(wanted) == {1}:
        job.finish("GlobalMaxPool" if op.kind == "max" else "GlobalAveragePool", job.inputs[0])
        return
    if any(have % want for have, want in zip(spatial, wanted, strict=True)):
        _uneven_pool(op, job, wanted)
        return
    window = [have // want for have, want in zip(spatial, wanted, strict=True)]
    kind = "MaxPool" if op.kind == "max" else "AveragePool"
    job.finish(kind, job.inputs[0], since=7, kernel_shape=window, strides=window)


def _uneven_pool(op: AdaptivePool, job: Job, wanted: tuple[int, ...]) -> None:
    """Windows of several sizes, axis by axis: averages as products, maxima one by one."""
    x, shape = job.inputs[0], job.shape()
    for axis, (size, count) in enumerate(zip(shape[2:], wanted, strict=True), start=2):
        windows = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        if op.kind == "average":
            matrix = np.zeros((count, size))
            for row, (start, stop) in zip(matrix, windows, strict=True):
                row[start:stop] = 1 / (stop - start)
            letters = "abcde"[: len(shape)]
            equation = f"{letters},z{letters[axis]}->{letters.replace(letters[axis], 'z')}"
            weights = job.floats("shares", matrix, job.kind)
            x = job.step("Einsum", x, weights, since=12, equation=equation)
            continue
        along = job.integers("along", [axis])
        parts = []
        for start, stop in windows:
            ends = job.integers("start", [start]), job.integers("stop", [stop])
            piece = job.step("Slice", x, *ends, along, since=10)
            parts.append(job.step("ReduceMax", piece, along, since=18, keepdims=1))
        x = job.step("Concat", *parts, axis=axis)
    job.finish("Identity", x)


@emit.register
def _(op: Norm, job: Job) -> None:
    weights = job.parameters
    if not op.affine:
        shape = job.shape()
        size = shape[len(shape) - op.axes :] if op.kind == "layer" else (shape[1],)
        weights = (
            job.floats("weight", np.ones(size, np.float32)),
            job.floats("bias", np.zeros(size, np.float32)),
            *job.parameters,
        )
    if op.kind == "rms":
        _rms_norm(op, job)
        return
    kind, since, extra = {
        "batch": ("BatchNormalization", 9, {}),
        "instance": ("InstanceNormalization", 6, {}),
        "group": ("GroupNormalization", 21, {"num_groups": op.groups}),
        "layer": ("LayerNormalization", 17, {"axis": -op.axes}),
    }[op.kind]
    job.finish(kind, job.inputs[0], *weights, since=since, epsilon=op.epsilon, **extra)


def _rms_norm(op: Norm, job: Job) -> None:
    """Step by step: runtimes have no operator for it before opset 23."""
    x, rank = job.inputs[0], len(job.shape())
    axes = job.integers("axes", range(rank - op.axes, rank))
    mean = job.step("ReduceMean", job.step("Mul", x, x, since=7), axes, since=18, keepdims=1)
    epsilon = job.floats("epsilon", np.array(op.epsilon, np.float64), job.kind)
    root = job.step("Sqrt", job.step("Add", mean, epsilon, since=7))
    if op.affine:
        job.finish("Mul", job.step("Div", x, root, since=7), job.parameters[0], since=7)
    else:
        job.finish("Div", x, root, since=7)


def _even_lrn(op: LocalResponseNorm, job: Job) -> None:
    """As pooling over channels: runtimes want a window with a middle."""
    x, shape = job.inputs[0], job.shape()
    before = op.size // 2 if op.lean == "lower" else op.size // 2 - 1
    flat = job.integers("flat", (shape[0], 1, shape[1], math.prod(shape[2:])))
    squares = job.step("Reshape", job.step("Mul", x, x, since=7), flat, since=5)
    pads = (before, 0, op.size - 1 - before, 0)
    mean = job.step(
        "AveragePool", squares, since=7, kernel_shape=(op.size, 1), pads=pads, count_include_pad=1
    )
    mean = job.step("Reshape", mean, job.integers("shape", shape), since=5, name="mean")
    numbers = {"alpha": op.alpha, "k": op.k, "beta": op.beta}
    alpha, k, beta = (
        job.floats(name, np.array(number, np.float64), job.kind) for name, number in numbers.items()
    )
    base = job.step("Add", job.step("Mul", mean, alpha, since=7, name="scaled"), k, since=7)
    job.finish("Div", x, job.step("Pow", base, beta, since=7), since=7)


@emit.register
def _(op: LocalResponseNorm, job: Job) -> None:
    if op.size % 2 == 0:
        _even_lrn(op, job)
        return
    job.finish("LRN", job.inputs[0], size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)


_SIMPLE = {
    "gelu": ("Gelu", 20),
    "gelutanh": ("Gelu", 20),
    "hardswish": ("HardSwish", 14),
    "mish": ("Mish", 18),
    "relu": ("Relu", 1),
    "selu": ("Selu", 1),
    "sigmoid": ("Sigmoid", 1),
    "softplus": ("Softplus", 1),
    "softsign": ("Softsign", 1),
    "tanh": ("Tanh", 1),
}


@emit.register
def _(op: Activation, job: Job) -> None:
    x = job.inputs[0]
    match op.kind:
        case "relu6":
            _clip(job, 0.0, 6.0)
        case "clip":
            _clip(job, op.low, op.high)
        case "silu":
            job.finish("Mul", x, job.step("Sigmoid", x), since=7)
        case "prelu":
            _prelu(job)
        case "gelutanh":
            job.finish("Gelu", x, since=20, approximate="tanh")
        case "leakyrelu" | "elu" | "celu":
            kind = {"leakyrelu": "LeakyRelu", "elu": "Elu", "celu": "Celu"}[op.kind]
            since = 6 if op.kind != "celu" else 12 if job.kind == "float32" else NEWEST_OPSET
            job.finish(kind, x, since=since, alpha=op.alpha)
        case "hardsigmoid":
            alpha = 1 / 6 if op.alpha is None else op.alpha  # the default of ONNX is another
            beta = 0.5 if op.beta is None else op.beta
            job.finish("HardSigmoid", x, since=6, alpha=alpha, beta=beta)
        case _:
            kind, since = _SIMPLE[op.kind]
            job.finish(kind, x, since=since)


def _clip(job: Job, low: float | None, high: float | None) -> None:
    bounds = [
        "" if value is None else job.floats(name, np.array(value, np.float64), job.kind)
        for name, value in (("low", low), ("high", high))
    ]
    job.finish("Clip", job.inputs[0], *(bounds if high is not None else bounds[:1]), since=11)


def _prelu(job: Job) -> None:
    slope = job.values("weight")
    rank = len(job.shape())
    if slope.size > 1 and rank > 2:
        shape = (slope.size, *(1 for _ in range(rank - 2)))
        job.finish("PRelu", job.inputs[0], job.floats("weight", slope.reshape(shape)), since=9)
    else:
        job.finish("PRelu", job.inputs[0], job.tensor_of("weight"), since=9)


@emit.register
def _(op: Unary, job: Job) -> None:
    x = job.inputs[0]
    match op.kind:
        case "square":
            job.finish("Mul", x, x, since=7)
        case "rsqrt":
            job.finish("Reciprocal", job.step("Sqrt", x))
        case "round" | "sinh" | "cosh":
            job.finish(op.kind.capitalize(), x, since=11 if op.kind == "round" else 9)
        case "sign" | "erf":
            job.finish(op.kind.capitalize(), x, since=9)
        case "sin" | "cos" | "tan" | "asin" | "acos" | "atan":
            job.finish(op.kind.capitalize(), x, since=7)
        case _:
            job.finish(op.kind.capitalize(), x)


@emit.register
def _(op: Softmax, job: Job) -> None:
    kind = "LogSoftmax" if op.log else "Softmax"
    job.finish(kind, job.inputs[0], since=13, axis=op.axis)


@emit.register
def _(op: Linear, job: Job) -> None:
    x, rank = job.inputs[0], len(job.shape())
    if rank == 2 and op.bias:
        job.finish("Gemm", x, *job.parameters, since=7, transB=1)
        return
    if rank == 2:
        job.finish("Gemm", x, *job.parameters, since=11, transB=1)
        return
    turned = job.floats("weight", job.values("weight").T)
    if op.bias:
        job.finish("Add", job.step("MatMul", x, turned), job.tensor_of("bias"), since=7)
    else:
        job.finish("MatMul", x, turned)


@emit.register
def _(op: MatMul, job: Job) -> None:
    job.finish("MatMul", *job.inputs)


_ELEMENTWISE = {
    "add": ("Add", 7),
    "sub": ("Sub", 7),
    "mul": ("Mul", 7),
    "div": ("Div", 7),
    "pow": ("Pow", 7),
    "maximum": ("Max", 8),
    "minimum": ("Min", 8),
    "equal": ("Equal", 11),
    "less": ("Less", 9),
    "lessequal": ("LessOrEqual", 12),
    "greater": ("Greater", 9),
    "greaterequal": ("GreaterOrEqual", 12),
    "and": ("And", 7),
    "or": ("Or", 7),
    "xor": ("Xor", 7),
}


@emit.register
def _(op: Elementwise, job: Job) -> None:
    if op.kind == "notequal":
        job.finish("Not", job.step("Equal", *job.inputs, since=11))
        return
    if op.kind in ("mod", "fmod"):
        _modulo(op, job)
        return
    kind, since = _ELEMENTWISE[op.kind]
    if kind in ("Max", "Min"):
        job.finish(kind, *job.inputs, since=since)
    elif kind == "Add" and len(job.inputs) > 2:
        job.finish("Sum", *job.inputs, since=8)
    else:
        first, *rest, last = job.inputs
        for value in rest:
            first = job.step(kind, first, value, since=since)
        job.finish(kind, first, last, since=since)


def _modulo(op: Elementwise, job: Job) -> None:
    """ONNX has the sign of the divisor for whole numbers only."""
    a, b = job.inputs
    if op.kind == "fmod" or "int" in job.kind:
        job.finish("Mod", a, b, since=10, fmod=int(op.kind == "fmod"))
        return
    rest = job.step("Mod", a, b, since=10, fmod=1)
    zero = job.floats("zero", np.zeros(()), job.kind)
    below = job.step("Less", rest, zero, since=9), job.step("Less", b, zero, since=9)
    turned = job.step("Xor", *below, since=7)
    some = job.step("Not", job.step("Equal", rest, zero, since=11))
    added = job.step("Add", rest, b, since=7)
    job.finish("Where", job.step("And", turned, some, since=7), added, rest, since=9)


@emit.register
def _(op: Concat, job: Job) -> None:
    job.finish("Concat", *job.inputs, since=11, axis=op.axis)


@emit.register
def _(op: Split, job: Job) -> None:
    job.finish("Split", job.inputs[0], job.integers("sizes", op.sizes), since=13, axis=op.axis)


@emit.register
def _(op: Slice, job: Job) -> None:
    to_the_end = 2**63 - 1
    ends = [to_the_end if stop is None else stop for _, _, stop, _ in op.ranges]
    job.finish(
        "Slice",
        job.inputs[0],
        job.integers("starts", (start for _, start, _, _ in op.ranges)),
        job.integers("ends", ends),
        job.integers("axes", (axis for axis, _, _, _ in op.ranges)),
        job.integers("steps", (step for _, _, _, step in op.ranges)),
        since=10,
    )


@emit.register
def _(op: Pad, job: Job) -> None:
    pads = job.integers("pads", (*(a for a, _ in op.padding), *(b for _, b in op.padding)))
    value = [job.floats("value", np.array(op.value, np.float64), job.kind)] if op.value else []
    since = 19 if op.mode == "wrap" else 11
    job.finish("Pad", job.inputs[0], pads, *value, since=since, mode=op.mode)


@emit.register
def _(op: Reshape, job: Job) -> None:
    zero = {"allowzero": 1} if 0 in op.shape else {}
    shape = job.integers("shape", op.shape)
    job.finish("Reshape", job.inputs[0], shape, since=14 if zero else 5, **zero)


@emit.register
def _(op: Flatten, job: Job) -> None:
    shape = job.shape()
    if op.axis == 1 and op.last in (-1, len(shape) - 1) and len(shape) > 1:
        job.finish("Flatten", job.inputs[0], since=9, axis=1)
        return
    made = infer_shapes(op, shape)[0]
    assert made is not None
    job.finish("Reshape", job.inputs[0], job.integers("shape", made), since=5)


@emit.register
def _(op: Transpose, job: Job) -> None:
    job.finish("Transpose", job.inputs[0], perm=op.permutation)


@emit.register
def _(op: Expand, job: Job) -> None:
    job.finish("Expand", job.inputs[0], job.integers("shape", op.shape), since=8)


@emit.register
def _(op: Resize, job: Job) -> None:
    how: dict[str, Any] = {
        "mode": op.mode,
        "coordinate_transformation_mode": op.alignment,
        "nearest_mode": op.rounding if op.mode == "nearest" else None,
    }
    if op.size:
        sizes = job.integers("sizes", (*job.shape()[:2], *op.size))
        job.finish("Resize", job.inputs[0], "", "", sizes, since=13, **how)
        return
    factors = np.array([1.0, 1.0, *map(float, op.scale)], np.float32)
    scales = job.floats("scales", factors, "float32")
    job.finish("Resize", job.inputs[0], "", scales, since=13, **how)


_REDUCTIONS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "l1norm": "ReduceL1",
    "l2norm": "ReduceL2",
    "logsumexp": "ReduceLogSumExp",
}


@emit.register
def _(op: Reduce, job: Job) -> None:
    if op.kind in ("argmax", "argmin"):
        _place(op, job)
        return
    axes = job.integers("axes", op.axes)
    since = 20 if job.kind == "bool" else 18
    job.finish(_REDUCTIONS[op.kind], job.inputs[0], axes, since=since, keepdims=int(op.keep))


def _place(op: Reduce, job: Job) -> None:
    """ArgMax along one axis; over several, these are first moved to the end and joined."""
    kind = "ArgMax" if op.kind == "argmax" else "ArgMin"
    shape, x = job.shape(), job.inputs[0]
    inner = sorted(axis % len(shape) for axis in op.axes)
    if len(inner) == 1:
        job.finish(kind, x, since=13, axis=inner[0], keepdims=int(op.keep))
        return
    outer = [axis for axis in range(len(shape)) if axis not in inner]
    moved = job.step("Transpose", x, perm=(*outer, *inner))
    joined = job.integers("joined", (*(shape[axis] for axis in outer), -1))
    flat = job.step("Reshape", moved, joined, since=5)
    found = job.step(kind, flat, since=13, axis=len(outer), keepdims=0)
    made = infer_shapes(op, shape)[0]
    assert made is not None
    job.finish("Reshape", found, job.integers("shape", made), since=5)


@emit.register
def _(op: Identity, job: Job) -> None:
    match op.kind:
        case "cast":
            job.finish("Cast", job.inputs[0], since=9, to=element_type_code(job.dtype))
        case "dropout":
            job.finish("Dropout", job.inputs[0], since=12)
        case _:
            job.finish("Identity", job.inputs[0])
