"""The mapping table, fifth part: windows as columns, samples between pixels, contractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from convsmith.graph.contraction import explicit, read_equation
from convsmith.graph.operators import (
    DeformConv,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Fold,
    GridSample,
    MatMul,
    Norm,
    Operator,
    Reshape,
    Softmax,
    SpaceToDepth,
    Transpose,
    Unfold,
    Unpool,
    Where,
)
from convsmith.sources.torch.call import Call, Unmapped, maps

__all__: list[str] = []


def _window(call: Call, kernel: Sequence[int]) -> dict[str, Any]:
    return {
        "kernel": tuple(kernel),
        "stride": tuple(call["stride"]),
        "padding": tuple((p, p) for p in call["padding"]),
        "dilation": tuple(call["dilation"]),
    }


@maps("im2col")
def _(call: Call) -> str:
    x = call.first
    if x.dim() != 4:
        raise Unmapped
    columns = call.add(Unfold(**_window(call, call["kernel_size"])), step="unfold")
    return call.add(Reshape(shape=(-1 if x.shape[0] else 0, *call.shape[1:])), columns)


@maps("col2im")
def _(call: Call) -> str:
    x = call.first
    if x.dim() != 3:
        raise Unmapped
    op = Fold(size=tuple(call["output_size"]), **_window(call, call["kernel_size"]))
    positions = tuple(
        (size + 2 * low - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, (low, _), dilation in zip(
            op.size, op.kernel, op.stride, op.padding, op.dilation, strict=True
        )
    )
    columns = call.add(Reshape(shape=(*x.shape[:2], *positions)), step="columns")
    return call.add(op, columns)


@maps("max_unpool2d", "max_unpool3d")
def _(call: Call) -> str:
    x = call["self"]
    size = tuple(call["output_size"])
    if x.dim() != len(size) + 2:
        raise Unmapped
    return call.add(Unpool(size=size), x, call["indices"])


@maps("pixel_shuffle", "pixel_unshuffle")
def _(call: Call) -> str:
    x = call.first
    if call.name == "pixel_shuffle":
        op: Operator = DepthToSpace(block=(call["upscale_factor"],) * 2)
    else:
        op = SpaceToDepth(block=(call["downscale_factor"],) * 2)
    if x.dim() == 4:
        return call.add(op, x)
    batch = call.add(Reshape(shape=(-1, *x.shape[-3:])), x, step="batch")
    return call.add(Reshape(shape=call.shape), call.add(op, batch, step="shuffle"))


@maps("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def _(call: Call) -> str:
    modes: tuple[Literal["linear", "nearest", "cubic"], ...] = ("linear", "nearest", "cubic")
    beyond: tuple[Literal["zeros", "border", "reflection"], ...] = ("zeros", "border", "reflection")
    op = GridSample(
        mode=modes[call["interpolation_mode"]],
        beyond=beyond[call["padding_mode"]],
        aligned=bool(call["align_corners"]),
    )
    return call.add(op, call["input"], call["grid"])


@maps("affine_grid_generator")
def _(call: Call) -> str:
    """The corners of the image, with a 1 behind, times the transposed matrix."""
    theta, sizes = call["theta"], tuple(call["size"])
    lines = []
    for size in sizes[2:]:
        steps = torch.linspace(-1, 1, size, dtype=theta.dtype, device="cpu")
        lines.append(steps if call["align_corners"] or size == 0 else steps * (size - 1) / size)
    if any(size == 1 for size in sizes[2:]):
        lines = [torch.zeros_like(s) if len(s) == 1 else s for s in lines]
    grid = torch.meshgrid(*lines, indexing="ij")
    points = torch.stack([*reversed(grid), torch.ones_like(grid[0])], -1).reshape(
        1, -1, len(grid) + 1
    )
    turned = call.add(Transpose(permutation=(0, 2, 1)), theta, step="transpose")
    product = call.add(MatMul(), call.value(points), turned, step="matmul")
    return call.add(Reshape(shape=call.shape), product)


@maps("deform_conv2d")
def _(call: Call) -> str:
    """``torchvision::deform_conv2d``, which has its numbers one by one."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    numbers = {
        name: (call[f"{name}_h"], call[f"{name}_w"]) for name in ("stride", "pad", "dilation")
    }
    op = DeformConv(
        channels=weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        stride=numbers["stride"],
        padding=tuple((p, p) for p in numbers["pad"]),
        dilation=numbers["dilation"],
        groups=call["groups"],
        offset_groups=call["offset_groups"],
    )
    inputs = [x, call["offset"], *([call["mask"]] if call["use_mask"] else [])]
    return call.add(op, *inputs, parameters=[weight, bias])


@maps("scaled_dot_product_attention")
def _(call: Call) -> str:
    """``softmax(q k^T s + mask) v``, with the scale on the query."""
    query, key, value = (call[name] for name in ("query", "key", "value"))
    mask, rank = call["attn_mask"], query.dim()
    scale = call["scale"]
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise Unmapped
    heads = query.shape[-3] if call["enable_gqa"] else 0
    scaled = call.add(Elementwise(kind="mul"), query, call.value(scale, "scale"), step="scale")
    order = (*range(key.dim() - 2), key.dim() - 1, key.dim() - 2)
    turned = call.add(Transpose(permutation=order), _repeated(call, key, heads), step="transpose")
    scores = call.add(MatMul(), scaled, turned, step="scores")
    outside = torch.tensor(-math.inf, dtype=query.dtype, device="cpu")
    if call["is_causal"]:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device="cpu").tril()
        scores = call.add(Where(), call.value(causal), scores, call.value(outside), step="where")
    if mask is not None and mask.dtype == torch.bool:
        scores = call.add(Where(), call.value(mask), scores, call.value(outside), step="where")
    elif mask is not None:
        scores = call.add(Elementwise(), scores, call.value(mask), step="add")
    weights = call.add(Softmax(axis=rank - 1), scores, step="softmax")
    return call.add(MatMul(), weights, _repeated(call, value, heads))


def _repeated(call: Call, x: torch.Tensor, heads: int) -> str:
    """Keys or values that several heads of the query share, one for each of them."""
    if not heads or x.shape[-3] == heads:
        return call.value(x)
    *lead, groups, length, width = x.shape
    apart = call.add(Reshape(shape=(*lead, groups, 1, length, width)), x, step="unsqueeze")
    wide = Expand(shape=(*lead, groups, heads // groups, length, width))
    joined = Reshape(shape=(*lead, heads, length, width))
    return call.add(joined, call.add(wide, apart, step="expand"), step="repeat")


@maps("einsum")
def _(call: Call) -> str:
    tensors = list(call["tensors"])
    try:
        equation = explicit(call["equation"], [t.dim() for t in tensors])
    except ValueError:
        raise Unmapped from None
    terms, result = read_equation(equation)
    largest: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, size in zip(term, tensor.shape, strict=True):
            largest[letter] = max(largest.get(letter, size), size)
    values, written = [], []
    for term, tensor in zip(terms, tensors, strict=True):
        real = [s == largest[c] for c, s in zip(term, tensor.shape, strict=True)]
        value = call.value(tensor)
        if not all(real):  # torch repeats an axis of size 1
            kept = tuple(s for s, keep in zip(tensor.shape, real, strict=True) if keep)
            value = call.add(Reshape(shape=kept), value, step="squeeze")
        values.append(value)
        written.append("".join(c for c, keep in zip(term, real, strict=True) if keep))
    return call.add(Einsum(equation=f"{','.join(written)}->{result}"), *values)


@maps("rms_norm")
def _(call: Call) -> str:
    x, shape, weight = call["input"], call["normalized_shape"], call["weight"]
    epsilon = call["eps"]
    if epsilon is None:
        epsilon = torch.finfo(x.dtype).eps
    op = Norm(kind="rms", axes=len(shape), epsilon=epsilon, affine=weight is not None)
    return call.add(op, x, parameters=[] if weight is None else [weight])
