"""The table of layers: convolutions, pools, normalizations and matrix products."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from convsmith.graph import Shape
from convsmith.graph.operators import (
    Conv,
    Elementwise,
    GlobalPool,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Padding,
    Pool,
    Same,
    Transpose,
)
from convsmith.graph.shape import effective_kernel
from convsmith.sources.onnx.calls import Call, Inexpressible, Row, Step, Weight, check_makeable

__all__ = ["LAYERS", "kernel_of", "pads_of", "per_axis", "positive"]


def positive(call: Call, name: str) -> int:
    """An attribute that is a number of groups, 1 unless it is given."""
    groups = call.integer(name, 1)
    if groups < 1:
        raise ValueError(f"{name} {groups}")
    return groups


def per_axis(call: Call, name: str, rank: int) -> Shape:
    """An attribute with one number per spatial axis, all 1 unless it is given."""
    values = call.integers(name) or (1,) * rank
    if len(values) != rank or min(values) < 1:
        raise ValueError(f"{name} {values} does not suit {rank} spatial axes")
    return values


def pads_of(call: Call, rank: int) -> tuple[Padding, Same | None]:
    """The padding of windows, as numbers or as a rule."""
    rule = call.text("auto_pad", "NOTSET")
    zeros: Padding = ((0, 0),) * rank
    match rule:
        case "SAME_UPPER":
            return zeros, "upper"
        case "SAME_LOWER":
            return zeros, "lower"
        case "VALID":
            return zeros, None
        case "NOTSET":
            pads = call.integers("pads") or (0,) * (2 * rank)
            if len(pads) != 2 * rank:
                raise ValueError(f"pads {pads} does not suit {rank} spatial axes")
            if min(pads) < 0:
                raise Inexpressible("negative padding")
            return tuple(zip(pads[:rank], pads[rank:], strict=True)), None
    raise ValueError(f"auto_pad {rule!r} is not known")


def kernel_of(call: Call, weight: Shape) -> Shape:
    """The window of a convolution, as its weight has it."""
    kernel = weight[2:]
    if not 1 <= len(kernel) <= 3:
        raise Inexpressible(f"a convolution over {len(kernel)} axes")
    if min(kernel) < 1 or call.integers("kernel_shape") not in (None, (), kernel):
        raise ValueError(f"kernel_shape does not suit a weight of shape {weight}")
    return kernel


def _weights(call: Call, features: int) -> tuple[Weight, ...]:
    weight = call.weight(1)
    if not call.has(2):
        return (weight,)
    bias = call.weight(2)
    if bias.data.shape != (features,):
        raise ValueError(f"a bias of shape {bias.data.shape} for {features} channels")
    return (weight, bias)


def _conv(call: Call) -> Step:
    shape = call.data(1).shape
    kernel = kernel_of(call, shape)
    padding, same = pads_of(call, len(kernel))
    op = Conv(
        channels=shape[0],
        kernel=kernel,
        stride=per_axis(call, "strides", len(kernel)),
        padding=padding,
        same=same,
        dilation=per_axis(call, "dilations", len(kernel)),
        groups=positive(call, "group"),
        bias=call.has(2),
    )
    return Step(op, (0,), _weights(call, op.channels))


def _conv_transpose(call: Call) -> Step:
    shape = call.data(1).shape
    kernel = kernel_of(call, shape)
    rank, groups = len(kernel), positive(call, "group")
    op = Conv(
        channels=shape[1] * groups,
        kernel=kernel,
        stride=per_axis(call, "strides", rank),
        padding=((0, 0),) * rank,
        dilation=per_axis(call, "dilations", rank),
        groups=groups,
        bias=call.has(2),
        transposed=True,
    )
    extra = call.integers("output_padding") or (0,) * rank
    if len(extra) != rank or min(extra) < 0:
        raise ValueError(f"output_padding {extra} does not suit {rank} spatial axes")
    padding, same = pads_of(call, rank)
    wanted = call.integers("output_shape")
    if same is not None or wanted:
        spatial = call.shape(0)[2:]
        if len(spatial) != rank:
            raise ValueError(f"an input with {len(spatial)} spatial axes, the kernel has {rank}")
        target = wanted[-rank:] if wanted else tuple(
            size * step for size, step in zip(spatial, op.stride, strict=True)
        )  # fmt: skip
        if len(target) != rank:
            raise ValueError(f"output_shape {target} does not suit {rank} spatial axes")
        padding, extra = _crop(op, spatial, extra, target, same, explicit=bool(wanted))
    output_padding = extra if any(extra) else ()
    return Step(
        replace(op, padding=padding, output_padding=output_padding),
        (0,),
        _weights(call, op.channels),
    )


def _crop(
    op: Conv, spatial: Shape, extra: Shape, target: Shape, same: Same | None, *, explicit: bool
) -> tuple[Padding, Shape]:
    """The padding of a transposed convolution that makes the wanted size (ConvTranspose-11).

    Only SAME_UPPER puts the odd element behind. What is missing without any padding is added
    behind when the size was given explicitly; SAME leaves it missing.
    """
    padding, more = [], []
    for size, kernel, stride, dilation, add, want in zip(
        spatial, op.kernel, op.stride, op.dilation, extra, target, strict=True
    ):
        total = (size - 1) * stride + effective_kernel(kernel, dilation) + add - want
        small, large = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
        padding.append((small, large) if same == "upper" else (large, small))
        more.append(add + max(-total, 0) if explicit else add)
    return tuple(padding), tuple(more)


def _pool(kind: Literal["max", "average"]) -> Row:
    def row(call: Call) -> Step:
        kernel = call.integers("kernel_shape") or ()
        if not kernel or min(kernel) < 1:
            raise ValueError(f"kernel_shape {kernel}")
        if len(kernel) > 3:
            raise Inexpressible(f"pooling over {len(kernel)} axes")
        padding, same = pads_of(call, len(kernel))
        op = Pool(
            kind=kind,
            kernel=kernel,
            stride=per_axis(call, "strides", len(kernel)),
            padding=padding,
            same=same,
            dilation=per_axis(call, "dilations", len(kernel)),
            rounding="ceil" if call.integer("ceil_mode", 0) else "floor",
            count_padding=kind == "max" or bool(call.integer("count_include_pad", 0)),
        )
        if kind == "average" or len(call.entry.outputs) < 2 or not call.entry.outputs[1]:
            return Step(op)
        if call.integer("storage_order", 0):
            raise Inexpressible("indices that count columns first")
        shape = call.shape(0)
        check_makeable(math.prod(shape[:2]))
        planes = np.arange(math.prod(shape[:2]), dtype=np.int64) * math.prod(shape[2:])
        shift = planes.reshape(*shape[:2], *(1 for _ in shape[2:]))
        return Step(replace(op, indices=True), shift=shift if planes.size > 1 else None)

    return row


def _global_pool(kind: Literal["max", "average"]) -> Row:
    op = GlobalPool(kind=kind)
    return lambda call: Step(op)


def _batch_norm(call: Call) -> Step:
    if call.integer("training_mode", 0) or not call.integer("spatial", 1):
        raise Inexpressible("batch normalization as in training, or not per channel")
    scale, shift = call.weight(1), call.weight(2)
    mean, variance = call.weight(3, learnable=False), call.weight(4, learnable=False)
    op = Norm(kind="batch", epsilon=call.number("epsilon", 1e-5))
    return Step(op, (0,), (scale, shift, mean, variance))


def _instance_norm(call: Call) -> Step:
    op = Norm(kind="instance", epsilon=call.number("epsilon", 1e-5))
    return Step(op, (0,), (call.weight(1), call.weight(2)))


def _group_norm(call: Call) -> Step:
    groups = call.integer("num_groups", 0)
    if groups < 1:
        raise ValueError(f"{groups} groups")
    weights = [call.weight(1), call.weight(2)]
    if call.opset < 21:  # one scale per group, not per channel
        each = call.shape(0)[1] // groups
        check_makeable(each * max(weight.data.size for weight in weights))
        weights = [replace(w, data=np.repeat(w.data, each), form=f"x{each}") for w in weights]
    op = Norm(kind="group", groups=groups, epsilon=call.number("epsilon", 1e-5))
    return Step(op, (0,), tuple(weights))


def _layer_norm(call: Call) -> Step:
    shape = call.shape(0)
    axis = call.axis(call.integer("axis", -1))
    weight = call.weight(1)
    if weight.data.shape != shape[axis:]:
        raise Inexpressible("a scale that is broadcast")
    zeros = np.zeros(shape[axis:], weight.data.dtype)
    bias = (
        call.weight(2) if call.has(2) else Weight(data=zeros, dtype=weight.dtype, learnable=False)
    )
    if bias.data.shape != shape[axis:]:
        raise Inexpressible("a shift that is broadcast")
    op = Norm(kind="layer", axes=len(shape) - axis, epsilon=call.number("epsilon", 1e-5))
    return Step(op, (0,), (weight, bias))


def _local_response_norm(call: Call) -> Step:
    size = call.integer("size", 0)
    if size < 1:
        raise ValueError(f"size {size}")
    op = LocalResponseNorm(
        size=size,
        alpha=call.number("alpha", 1e-4),
        beta=call.number("beta", 0.75),
        k=call.number("bias", 1.0),
    )
    return Step(op)


def _gemm(call: Call) -> Step:
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    flip_a, flip_b = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))
    swap = Transpose(permutation=(1, 0))
    left: int | Step = Step(swap, (0,)) if flip_a else 0
    if call.known[1] is not None:
        matrix = call.weight(1)
        if matrix.data.ndim != 2:
            raise ValueError(f"a matrix of shape {matrix.data.shape}")
        matrix = (matrix if flip_b else matrix.transposed()).scaled(alpha)
        features = matrix.data.shape[0]
        if not call.has(2):
            return Step(Linear(features=features, bias=False), (left,), (matrix,))
        bias = _row(call, features)
        if bias is not None:
            return Step(Linear(features=features), (left,), (matrix, bias.scaled(beta)))
        if beta == 1:
            product = Step(Linear(features=features, bias=False), (left,), (matrix,))
            return Step(Elementwise(kind="add"), (product, 2))
    if alpha != 1 or (call.has(2) and beta != 1):
        raise Inexpressible("a scaled product of values")
    product = Step(MatMul(), (left, Step(swap, (1,)) if flip_b else 1))
    return Step(Elementwise(kind="add"), (product, 2)) if call.has(2) else product


def _row(call: Call, features: int) -> Weight | None:
    """The third input of Gemm as one number per column, if it is that."""
    if call.known[2] is None:
        return None
    bias = call.weight(2)
    shape = bias.data.shape
    if shape == (features,):
        return bias
    if math.prod(shape) not in (1, features) or any(size != 1 for size in shape[:-1]):
        return None
    data = np.broadcast_to(bias.data.reshape(-1), (features,)).copy()
    return replace(bias, data=data, form="row")


def _matmul(call: Call) -> Step:
    if call.known[1] is None or call.data(1).ndim != 2 or call.known[0] is not None:
        return Step(MatMul(), (0, 1))
    weight = call.weight(1).transposed()
    return Step(Linear(features=weight.data.shape[0], bias=False), (0,), (weight,))


LAYERS: dict[str, Row] = {
    "AveragePool": _pool("average"),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _pool("max"),
}
