"""The table of windows as columns, samples between pixels, and contractions."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from convsmith.graph.contraction import explicit
from convsmith.graph.operators import (
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Fold,
    GridSample,
    MatMul,
    Norm,
    Pool,
    Reduce,
    Reshape,
    Softmax,
    SpaceToDepth,
    Unary,
    Unpool,
    Where,
)
from convsmith.sources.onnx.calls import Call, Inexpressible, Row, Step
from convsmith.sources.onnx.layers import kernel_of, pads_of, per_axis, positive

__all__ = ["SAMPLING"]


def _deform_conv(call: Call) -> Step:
    shape = call.data(1).shape
    kernel = kernel_of(call, shape)
    padding, _ = pads_of(call, len(kernel))
    op = DeformConv(
        channels=shape[0],
        kernel=kernel,
        stride=per_axis(call, "strides", len(kernel)),
        padding=padding,
        dilation=per_axis(call, "dilations", len(kernel)),
        groups=positive(call, "group"),
        offset_groups=positive(call, "offset_group"),
        bias=call.has(3),
    )
    weights = (call.weight(1), call.weight(3)) if op.bias else (call.weight(1),)
    return Step(op, (0, 2, 4) if call.has(4) else (0, 2), weights)


def _block(call: Call) -> tuple[int, int]:
    block = call.integer("blocksize", 0)
    if block < 1 or call.rank() != 4:
        raise ValueError(f"blocksize {block} of {call.rank()} axes")
    return block, block


def _depth_to_space(call: Call) -> Step:
    mode = call.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"mode {mode!r}")
    return Step(DepthToSpace(block=_block(call), order="dcr" if mode == "DCR" else "crd"))


def _space_to_depth(call: Call) -> Step:
    order: Literal["dcr", "crd"] = "crd" if call.text("mode", "DCR") == "CRD" else "dcr"
    return Step(SpaceToDepth(block=_block(call), order=order))


_MODES: dict[str, Literal["nearest", "linear", "cubic"]] = {
    "nearest": "nearest",
    "bilinear": "linear",
    "linear": "linear",
    "bicubic": "cubic",
    "cubic": "cubic",
}


def _grid_sample(call: Call) -> Step:
    mode, beyond = call.text("mode", "linear"), call.text("padding_mode", "zeros")
    if mode not in _MODES or beyond not in ("zeros", "border", "reflection"):
        raise ValueError(f"mode {mode!r}, padding_mode {beyond!r}")
    op = GridSample(
        mode=_MODES[mode],
        beyond=beyond,  # type: ignore[arg-type]  # checked above
        aligned=bool(call.integer("align_corners", 0)),
    )
    return Step(op, (0, 1))


def _col2im(call: Call) -> Step:
    size, kernel = call.data_ints(1), call.data_ints(2)
    rank = len(size)
    if len(kernel) != rank or min((*size, *kernel), default=0) < 1:
        raise ValueError(f"blocks {kernel} of an image {size}")
    padding, _ = pads_of(call, rank)
    op = Fold(
        size=size,
        kernel=kernel,
        stride=per_axis(call, "strides", rank),
        padding=padding,
        dilation=per_axis(call, "dilations", rank),
    )
    positions = tuple(
        (size + low + high - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, (low, high), dilation in zip(
            op.size, op.kernel, op.stride, op.padding, op.dilation, strict=True
        )
    )
    shape = (*call.shape(0)[:2], *positions)
    return Step(op, (Step(Reshape(shape=shape)),))


def _einsum(call: Call) -> Step:
    ranks = [call.rank(index) for index in range(call.count)]
    equation = explicit(call.text("equation", ""), ranks)
    return Step(Einsum(equation=equation), tuple(range(call.count)))


def _max_unpool(call: Call) -> Step:
    """Indices count through the whole tensor; ours count through each plane."""
    kernel = call.integers("kernel_shape") or ()
    strides = per_axis(call, "strides", len(kernel))
    pads, _ = pads_of(call, len(kernel))
    spatial = call.shape(0)[2:]
    size = tuple(
        (n - 1) * s - low - high + k
        for n, k, s, (low, high) in zip(spatial, kernel, strides, pads, strict=True)
    )
    if call.has(2) and call.data_ints(2)[-len(size) :] != size:
        raise Inexpressible("unpooling to another size than windows that touch make")
    plane = np.array(math.prod(size), np.int64)
    return Step(Unpool(size=size), (0, Step(Elementwise(kind="mod"), (1, plane))))


def _norm_pool(call: Call) -> Step:
    """The p-norm over windows: the p-th root of window sums of ``|x|^p``."""
    kernel = call.integers("kernel_shape") or ()
    if not kernel or min(kernel) < 1:
        raise ValueError(f"kernel_shape {kernel}")
    padding, same = pads_of(call, len(kernel))
    op = Pool(
        kind="average",
        kernel=kernel,
        stride=per_axis(call, "strides", len(kernel)),
        padding=padding,
        same=same,
        dilation=per_axis(call, "dilations", len(kernel)),
        rounding="ceil" if call.integer("ceil_mode", 0) else "floor",
    )
    if op.rounding == "ceil":
        raise Inexpressible("a norm over incomplete windows")
    power = call.integer("p", 2)
    mean = Step(op, (_power(power),))
    count = np.array(math.prod(kernel), np.float32)
    return _root(power, Step(Elementwise(kind="mul"), (mean, count)))


def _global_norm_pool(call: Call) -> Step:
    power = call.integer("p", 2)
    axes = tuple(range(2, call.rank()))
    return _root(power, Step(Reduce(kind="sum", axes=axes, keep=True), (_power(power),)))


def _power(power: int) -> Step:
    if power < 1:
        raise ValueError(f"p {power}")
    if power == 2:
        return Step(Unary(kind="square"))
    size = Step(Unary(kind="abs"))
    exponent = np.array(power, np.float32)
    return size if power == 1 else Step(Elementwise(kind="pow"), (size, exponent))


def _root(power: int, total: Step) -> Step:
    if power == 1:
        return total
    if power == 2:
        return Step(Unary(kind="sqrt"), (total,))
    return Step(Elementwise(kind="pow"), (total, np.array(1 / power, np.float32)))


def _rms_norm(call: Call) -> Step:
    shape, weight = call.shape(0), call.weight(1)
    axis = call.axis(call.integer("axis", -1))
    if weight.data.shape != shape[axis:]:
        raise Inexpressible("a scale that is broadcast")
    op = Norm(kind="rms", axes=len(shape) - axis, epsilon=call.number("epsilon", 1e-5))
    return Step(op, (0,), (weight,))


def _attention(call: Call) -> Step:
    """``Attention`` of separate heads (4-D), without cache, masks of lengths or soft caps."""
    if any(call.has(i) for i in (4, 5, 6)) or call.number("softcap", 0.0):
        raise Inexpressible("attention with a cache or a soft cap")
    if {attribute.name for attribute in call.proto.attribute} - _KNOWN_OF_ATTENTION:
        raise Inexpressible("attention with other options")
    if call.rank() != 4 or call.rank(1) != 4 or call.integer("qk_matmul_output_mode", 0):
        raise Inexpressible("attention over joined heads")
    q, k = call.shape(0), call.shape(1)
    if q[1] != k[1]:
        raise Inexpressible("attention of several queries a key")
    root = np.array(math.sqrt(call.number("scale", 1 / math.sqrt(q[-1]))), np.float32)
    left = Step(Elementwise(kind="mul"), (0, root))
    right = Step(Elementwise(kind="mul"), (1, root))
    scores = Step(Einsum(equation="bhqd,bhkd->bhqk"), (left, right))
    mask = np.ones((q[2], k[2]), bool)
    if call.integer("is_causal", 0):
        mask = np.tril(mask)
    if call.has(3) and call.dtypes[3] == "bool":
        mask = np.logical_and(mask, call.data(3))
        if not mask.any(-1).all():
            raise Inexpressible("a query that may look nowhere")
    elif call.has(3):
        scores = Step(Elementwise(), (scores, 3))
    if not mask.all():
        scores = Step(Where(), (mask, scores, np.array(-np.inf, np.float32)))
    return Step(MatMul(), (Step(Softmax(axis=-1), (scores,)), 2))


_KNOWN_OF_ATTENTION = {"is_causal", "scale", "softcap", "qk_matmul_output_mode"}

SAMPLING: dict[str, Row] = {
    "Attention": _attention,
    "Col2Im": _col2im,
    "DeformConv": _deform_conv,
    "DepthToSpace": _depth_to_space,
    "Einsum": _einsum,
    "GlobalLpPool": _global_norm_pool,
    "GridSample": _grid_sample,
    "LpPool": _norm_pool,
    "MaxUnpool": _max_unpool,
    "RMSNormalization": _rms_norm,
    "SpaceToDepth": _space_to_depth,
}
