"""The mapping table, first part: layers, which have windows, weights or statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from convsmith.graph import Constant
from convsmith.graph.operators import (
    AdaptivePool,
    Conv,
    Elementwise,
    GlobalPool,
    Linear,
    MatMul,
    Norm,
    Operator,
    Padding,
    Pool,
    Reshape,
    Transpose,
)
from convsmith.sources.torch.call import Call, Unmapped, maps
from convsmith.sources.torch.memory import numpy_name

__all__: list[str] = []


def _sizes(given: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One size per axis; torch lets a single one stand for all."""
    sizes = (given,) if isinstance(given, int) else tuple(given)
    return sizes * rank if len(sizes) == 1 else sizes


def _both_sides(padding: Sequence[int]) -> Padding:
    return tuple((p, p) for p in padding)


def _over_images(call: Call, op: Operator, rank: int, *weights: torch.Tensor) -> str:
    """Adds a layer over ``(N, C, *spatial)``; torch also takes one image without batch."""
    x = call.first
    if x.dim() == rank + 2:
        return call.add(op, x, parameters=weights)
    image = call.add(Reshape(shape=(1, *x.shape)), x, step="batch")
    made = call.add(op, image, parameters=weights)
    return call.add(Reshape(shape=call.shape), made, step="unbatch")


# Convolutions ------------------------------------------------------------------------------


def _weights(call: Call) -> list[torch.Tensor]:
    bias = call["bias"]
    return [call["weight"]] if bias is None else [call["weight"], bias]


@maps("conv1d", "conv2d", "conv3d")
def _(call: Call) -> str:
    weight, padding = call["weight"], call["padding"]
    rank = weight.dim() - 2
    return _over_images(
        call,
        Conv(
            channels=weight.shape[0],
            kernel=tuple(weight.shape[2:]),
            stride=_sizes(call["stride"], rank),
            padding=_both_sides((0,) * rank if isinstance(padding, str) else _sizes(padding, rank)),
            same="upper" if padding == "same" else None,
            dilation=_sizes(call["dilation"], rank),
            groups=call["groups"],
            bias=call["bias"] is not None,
        ),
        rank,
        *_weights(call),
    )


@maps("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _(call: Call) -> str:
    return _transposed(call)


@maps("convolution", "_convolution")
def _(call: Call) -> str:
    if call["transposed"]:
        return _transposed(call)
    weight = call["weight"]
    rank = weight.dim() - 2
    return _over_images(
        call,
        Conv(
            channels=weight.shape[0],
            kernel=tuple(weight.shape[2:]),
            stride=_sizes(call["stride"], rank),
            padding=_both_sides(_sizes(call["padding"], rank)),
            dilation=_sizes(call["dilation"], rank),
            groups=call["groups"],
            bias=call["bias"] is not None,
        ),
        rank,
        *_weights(call),
    )


def _transposed(call: Call) -> str:
    weight, groups = call["weight"], call["groups"]
    rank = weight.dim() - 2
    extra = _sizes(call["output_padding"], rank)
    return _over_images(
        call,
        Conv(
            channels=weight.shape[1] * groups,
            kernel=tuple(weight.shape[2:]),
            stride=_sizes(call["stride"], rank),
            padding=_both_sides(_sizes(call["padding"], rank)),
            dilation=_sizes(call["dilation"], rank),
            groups=groups,
            bias=call["bias"] is not None,
            transposed=True,
            output_padding=extra if any(extra) else (),
        ),
        rank,
        *_weights(call),
    )


# Pooling -----------------------------------------------------------------------------------

_RANKS = {"1d": 1, "2d": 2, "3d": 3}


def _rank(call: Call) -> int:
    return next(rank for word, rank in _RANKS.items() if word in call.name)


@maps(
    *(f"max_pool{n}d" for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
)
def _(call: Call) -> str | tuple[str, ...]:
    rank = _rank(call)
    kernel = _sizes(call["kernel_size"], rank)
    op = Pool(
        kind="max",
        kernel=kernel,
        stride=_sizes(call["stride"] or kernel, rank),
        padding=_both_sides(_sizes(call["padding"], rank)),
        dilation=_sizes(call["dilation"], rank),
        rounding="ceil" if call["ceil_mode"] else "floor",
    )
    if "indices" in call.name and call.first.dim() == rank + 2:
        return call.add_all(replace(op, indices=True))
    return _over_images(call, op, rank)


@maps("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _(call: Call) -> str:
    if call.arguments.get("divisor_override") is not None:
        raise Unmapped
    rank = _rank(call)
    kernel = _sizes(call["kernel_size"], rank)
    return _over_images(
        call,
        Pool(
            kind="average",
            kernel=kernel,
            stride=_sizes(call["stride"] or kernel, rank),
            padding=_both_sides(_sizes(call["padding"], rank)),
            dilation=(1,) * rank,
            rounding="ceil" if call["ceil_mode"] else "floor",
            count_padding=call["count_include_pad"],
        ),
        rank,
    )


@maps(
    *(f"adaptive_max_pool{n}d" for n in (1, 2, 3)),
    *(f"adaptive_avg_pool{n}d" for n in (1, 2, 3)),
    *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
)
def _(call: Call) -> str:
    rank = _rank(call)
    size = _sizes(call["output_size"], rank)
    kind: Literal["max", "average"] = "max" if "max" in call.name else "average"
    op = GlobalPool(kind=kind) if set(size) == {1} else AdaptivePool(kind=kind, size=size)
    return _over_images(call, op, rank)


# Normalization -----------------------------------------------------------------------------


def _affine(call: Call, shape: Sequence[int]) -> list[torch.Tensor | Constant]:
    """Scale and shift; where torch has only one of them, the other does nothing."""
    weight, bias = call["weight"], call["bias"]
    if weight is None and bias is None:
        return []
    dtype = numpy_name(call.first.dtype)
    return [
        Constant.of(np.ones(tuple(shape), dtype), learnable=False) if weight is None else weight,
        Constant.of(np.zeros(tuple(shape), dtype), learnable=False) if bias is None else bias,
    ]


@maps("batch_norm", "instance_norm")
def _(call: Call) -> str:
    x = call.first
    stored = not call.arguments.get("training", call.arguments.get("use_input_stats"))
    affine = _affine(call, x.shape[1:2])
    if stored:
        statistics = [call["running_mean"], call["running_var"]]
        op = Norm(kind="batch", epsilon=call["eps"], affine=bool(affine))
        return call.add(op, x, parameters=[*affine, *statistics])
    if call.name == "batch_norm" and x.shape[0] > 1:
        raise Unmapped  # statistics over the batch: no inference
    return call.add(
        Norm(kind="instance", epsilon=call["eps"], affine=bool(affine)), x, parameters=affine
    )


@maps("group_norm")
def _(call: Call) -> str:
    x = call.first
    affine = _affine(call, x.shape[1:2])
    op = Norm(kind="group", groups=call["num_groups"], epsilon=call["eps"], affine=bool(affine))
    return call.add(op, x, parameters=affine)


@maps("layer_norm")
def _(call: Call) -> str:
    shape = call["normalized_shape"]
    affine = _affine(call, shape)
    op = Norm(kind="layer", axes=len(shape), epsilon=call["eps"], affine=bool(affine))
    return call.add(op, parameters=affine)


# Matrices ----------------------------------------------------------------------------------


@maps("linear")
def _(call: Call) -> str:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    recorder = call.recorder
    computed = [t for t in (weight, bias) if t is not None and recorder.value_of(t) is not None]
    if weight.dim() == 2 and not computed:
        weights = [weight] if bias is None else [weight, bias]
        op = Linear(features=weight.shape[0], bias=bias is not None)
        return call.add(op, x, parameters=weights)
    if weight.dim() != 2:
        raise Unmapped
    turned = call.add(Transpose(permutation=(1, 0)), weight, step="transpose")
    product = call.add(MatMul(), x, turned)
    return product if bias is None else call.add(Elementwise(), product, bias, step="bias")


@maps("matmul", "mm", "bmm", "mv", "dot")
def _(call: Call) -> str:
    return call.add(MatMul(), *call.tensors())


@maps("addmm", "baddbmm", "addmv")
def _(call: Call) -> str:
    added, left, right = call.tensors()
    product = call.add(MatMul(), left, right)
    if call["alpha"] != 1:
        product = call.add(
            Elementwise(kind="mul"), product, call.value(call["alpha"], "alpha"), step="alpha"
        )
    if call["beta"] == 0:
        return product
    summand = call.value(added)
    if call["beta"] != 1:
        summand = call.add(
            Elementwise(kind="mul"), summand, call.value(call["beta"], "beta"), step="beta"
        )
    return call.add(Elementwise(), product, summand, step="add")
