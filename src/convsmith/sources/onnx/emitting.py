"""The table of exports: the ONNX nodes that every operator becomes."""

from __future__ import annotations

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
        job.finish("MaxPool", job.inputs[0], since=since, **common)
        return
    # Before opset 19 runtimes disagree about what an average divides by where ceil adds windows.
    since = max(19, since) if ceil or dilated else since
    counted = int(op.count_padding)
    job.finish("AveragePool", job.inputs[0], since=since, count_include_pad=counted, **common)


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
        raise SourceError(
            f"adaptive pooling of {spatial} to {wanted} has windows of several sizes,"
            " which ONNX cannot express",
            remedy="use an input size that is a multiple of the output size",
        )
    window = [have // want for have, want in zip(spatial, wanted, strict=True)]
    kind = "MaxPool" if op.kind == "max" else "AveragePool"
    job.finish(kind, job.inputs[0], since=7, kernel_shape=window, strides=window)


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
    kind, since, extra = {
        "batch": ("BatchNormalization", 9, {}),
        "instance": ("InstanceNormalization", 6, {}),
        "group": ("GroupNormalization", 21, {"num_groups": op.groups}),
        "layer": ("LayerNormalization", 17, {"axis": -op.axes}),
    }[op.kind]
    job.finish(kind, job.inputs[0], *weights, since=since, epsilon=op.epsilon, **extra)


@emit.register
def _(op: LocalResponseNorm, job: Job) -> None:
    if op.size % 2 == 0:
        raise SourceError("ONNX centres a window without a middle differently")
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
        case _:
            job.finish(op.kind.capitalize(), x, since=9 if op.kind == "erf" else 1)


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
}


@emit.register
def _(op: Elementwise, job: Job) -> None:
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
}


@emit.register
def _(op: Reduce, job: Job) -> None:
    axes = job.integers("axes", op.axes)
    since = 20 if job.kind == "bool" else 18
    job.finish(_REDUCTIONS[op.kind], job.inputs[0], axes, since=since, keepdims=int(op.keep))


@emit.register
def _(op: Identity, job: Job) -> None:
    match op.kind:
        case "cast":
            job.finish("Cast", job.inputs[0], since=9, to=element_type_code(job.dtype))
        case "dropout":
            job.finish("Dropout", job.inputs[0], since=12)
        case _:
            job.finish("Identity", job.inputs[0])
