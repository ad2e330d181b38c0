"""The table of values in torch: what every operator computes, so that it can be trained.

The twin of :mod:`convsmith.graph.compute`, which it is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import singledispatch

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.errors import UnsupportedOperatorError
from convsmith.graph.interpolation import taps
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Cast,
    Concat,
    Conv,
    Cumulate,
    DepthToSpace,
    Einsum,
    Elementwise,
    Expand,
    Flatten,
    Flip,
    Gather,
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
    SpaceToDepth,
    Split,
    Transpose,
    Unary,
    Unfold,
    Where,
)
from convsmith.graph.shape import effective_kernel, infer_shapes, resolve_padding

__all__ = ["calculate", "check_supported"]


@singledispatch
def calculate(op: Operator, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
    """Computes one operator of its inputs and its parameters, with gradients.

    Raises:
        UnsupportedOperatorError: If there is no rule for it.
    """
    kind = getattr(op, "kind", None)
    name = f"{type(op).__name__} {kind!r}" if kind else type(op).__name__
    raise UnsupportedOperatorError(
        f"operator {name} cannot be trained",
        remedy="distill the torch module instead, with convsmith.apply(plan, module)",
    )


def check_supported(op: Operator) -> None:
    """Checks that there is a rule for an operator.

    Raises:
        UnsupportedOperatorError: If there is none.
    """
    known = calculate.dispatch(type(op)) is not calculate.dispatch(Operator)
    match op:
        case Pool(indices=True):
            known = False
        case Activation(kind=kind):
            known = kind in _PARAMETRIC or kind in _ACTIVATIONS
        case Unary(kind=kind):
            known = kind in _UNARIES
        case Reduce(kind=kind):
            known = kind in _REDUCTIONS
    if not known:
        calculate.dispatch(Operator)(op)


def _column(parameter: Tensor, x: Tensor) -> Tensor:
    """A tensor of one element per channel, so that it broadcasts over ``(N, C, *spatial)``."""
    return parameter.reshape(-1, *(1,) * (x.ndim - 2))


def _outputs(op: Operator, x: Tensor) -> tuple[int, ...]:
    made = infer_shapes(op, tuple(x.shape))[0]
    assert made is not None
    return made


# Windows -----------------------------------------------------------------------------------


def _covered(op: Conv | Pool | Unfold, x: Tensor) -> list[int]:
    """How far the windows of ``op`` reach along every axis, padding before included."""
    return [
        (out - 1) * stride + effective_kernel(kernel, dilation)
        for out, kernel, stride, dilation in zip(
            _outputs(op, x)[2:], op.kernel, op.stride, op.dilation, strict=True
        )
    ]


def _extended(x: Tensor, before: Sequence[int], sizes: Sequence[int], fill: float = 0.0) -> Tensor:
    """Spatial axes with so much put before, and then made this long."""
    sides: list[int] = []
    for have, low, want in zip(x.shape[2:], before, sizes, strict=True):
        sides = [low, max(want - have - low, 0), *sides]  # torch names the innermost axis first
    x = F.pad(x, sides, value=fill) if any(sides) else x
    for axis, want in enumerate(sizes, start=2):
        x = x.narrow(axis, 0, want)
    return x


def _padded(op: Conv | Pool | Unfold, x: Tensor, fill: float = 0.0) -> Tensor:
    """What the windows of ``op`` cover, exactly: nothing that no window reaches is left."""
    before = [low for low, _ in resolve_padding(op, tuple(x.shape[2:]))]
    return _extended(x, before, _covered(op, x), fill)


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@calculate.register
def _(op: Conv, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    if op.transposed:
        return _transposed(op, x, weight, *bias)
    padding: tuple[int, ...] = tuple(low for low, high in op.padding if low == high)
    if len(padding) < len(op.padding) or op.same is not None or op.rounding == "ceil":
        x, padding = _padded(op, x), (0,) * len(op.kernel)
    convolve = _CONVOLUTIONS[len(op.kernel)]
    return convolve(x, weight, *bias or (None,), op.stride, padding, op.dilation, op.groups)


def _transposed(op: Conv, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    """The whole of it, then a crop: torch takes no padding that differs between the sides."""
    transposed = _TRANSPOSED[len(op.kernel)]
    zeros = (0,) * len(op.kernel)
    full = transposed(x, weight, None, op.stride, zeros, zeros, op.groups, op.dilation)
    crop: list[slice] = []
    for axis, ((low, _), want) in enumerate(zip(op.padding, _outputs(op, x)[2:], strict=True), 2):
        short = low + want - full.shape[axis]
        if short > 0:
            full = F.pad(full, [0, 0] * (full.ndim - 1 - axis) + [0, short])
        crop.append(slice(low, low + want))
    y = full[(slice(None), slice(None), *crop)]
    return y + _column(bias[0], y) if bias else y


@calculate.register
def _(op: Pool, x: Tensor) -> Tensor:
    rank = len(op.kernel)
    if op.kind == "max":
        view = _windows(op, _padded(op, x, -math.inf))
        return view.amax(tuple(range(-rank, 0)))
    total = _windows(op, _padded(op, x)).sum(tuple(range(-rank, 0)))
    # How many elements each window divides by: padding counts or not, what ceil adds never.
    padding = resolve_padding(op, tuple(x.shape[2:]))
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    before = [low for low, _ in padding]
    if op.count_padding:
        whole = [size + sum(pair) for size, pair in zip(x.shape[2:], padding, strict=True)]
        counted, before = _extended(counted, before, whole, 1.0), [0] * rank
    counted = _extended(counted, before, _covered(op, x))
    return total / _windows(op, counted).sum(tuple(range(-rank, 0)))


def _windows(op: Pool | Unfold, padded: Tensor) -> Tensor:
    """A view of every window: ``(N, C, *outputs, *kernel)``."""
    rank = len(op.kernel)
    view = padded
    for axis, (kernel, stride, dilation) in enumerate(
        zip(op.kernel, op.stride, op.dilation, strict=True), start=2
    ):
        view = view.unfold(axis, effective_kernel(kernel, dilation), stride)[..., ::dilation]
    assert view.ndim == 2 + 2 * rank
    return view


@calculate.register
def _(op: Unfold, x: Tensor) -> Tensor:
    rank = len(op.kernel)
    view = _windows(op, _padded(op, x))
    outputs = view.shape[2 : 2 + rank]
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return view.permute(order).reshape(x.shape[0], -1, *outputs)


@calculate.register
def _(op: GlobalPool, x: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    return x.amax(axes, keepdim=True) if op.kind == "max" else x.mean(axes, keepdim=True)


@calculate.register
def _(op: AdaptivePool, x: Tensor) -> Tensor:
    """Window i covers [floor(i n / m), ceil((i + 1) n / m))."""
    for axis, want in enumerate(op.size, start=2):
        size = x.shape[axis]
        if want:
            parts = [
                x.narrow(axis, i * size // want, -(-(i + 1) * size // want) - i * size // want)
                for i in range(want)
            ]
            reduced = [
                p.amax(axis, keepdim=True) if op.kind == "max" else p.mean(axis, keepdim=True)
                for p in parts
            ]
            x = torch.cat(reduced, axis)
    return x


# Normalizations and products ---------------------------------------------------------------


@calculate.register
def _(op: Norm, x: Tensor, *parameters: Tensor) -> Tensor:
    scale = parameters[0] if op.affine else None
    shift = parameters[1] if op.affine and op.kind != "rms" else None
    match op.kind:
        case "batch":
            mean, variance = parameters[-2:]
            return F.batch_norm(x, mean, variance, scale, shift, False, 0.0, op.epsilon)
        case "rms":
            axes = tuple(range(x.ndim - op.axes, x.ndim))
            y = x / torch.sqrt(x.square().mean(axes, keepdim=True) + op.epsilon)
            return y if scale is None else y * scale
        case "layer":
            return F.layer_norm(x, x.shape[x.ndim - op.axes :], scale, shift, op.epsilon)
    groups = op.groups if op.kind == "group" else x.shape[1]
    split = x.reshape(x.shape[0], groups, -1)
    y = F.layer_norm(split, split.shape[2:], eps=op.epsilon).reshape(x.shape)
    if scale is None or shift is None:
        return y
    return y * _column(scale, x) + _column(shift, x)


@calculate.register
def _(op: LocalResponseNorm, x: Tensor) -> Tensor:
    before = (op.size - 1) // 2 if op.lean == "upper" else op.size // 2
    sides = [0, 0] * (x.ndim - 2) + [before, op.size - 1 - before]
    squares = F.pad(x.square(), sides)
    total = sum(
        (squares[:, i : i + x.shape[1]] for i in range(1, op.size)), squares[:, : x.shape[1]]
    )
    return x / (op.k + op.alpha / op.size * total) ** op.beta


@calculate.register
def _(_op: Linear, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    return F.linear(x, weight, *bias)


@calculate.register
def _(_op: MatMul, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@calculate.register
def _(op: Einsum, *operands: Tensor) -> Tensor:
    return torch.einsum(op.equation, *operands)


# Element by element ------------------------------------------------------------------------

_PARAMETRIC = frozenset(("leakyrelu", "prelu", "elu", "celu", "hardsigmoid", "clip"))

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelutanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": F.softsign,
    "mish": lambda x: x * torch.tanh(torch.logaddexp(x, torch.zeros_like(x))),
    "selu": F.selu,
}


@calculate.register
def _(op: Activation, x: Tensor, *slope: Tensor) -> Tensor:
    alpha = op.alpha
    match op.kind:
        case "leakyrelu":
            return F.leaky_relu(x, 0.01 if alpha is None else alpha)
        case "prelu":
            return torch.where(x >= 0, x, x * _column(slope[0], x))
        case "elu":
            return F.elu(x, 1.0 if alpha is None else alpha)
        case "celu":
            return F.celu(x, 1.0 if alpha is None else alpha)
        case "hardsigmoid":
            offset = 0.5 if op.beta is None else op.beta
            return (x * (1 / 6 if alpha is None else alpha) + offset).clamp(0, 1)
        case "clip":
            x = x if op.low is None else x.clamp(min=op.low)
            return x if op.high is None else x.clamp(max=op.high)
    return _ACTIVATIONS[op.kind](x)


_UNARIES: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in ("abs", "erf", "exp", "log", "sqrt", "rsqrt", "neg")},
    **{name: getattr(torch, name) for name in ("reciprocal", "square", "floor", "ceil", "round")},
    **{name: getattr(torch, name) for name in ("sign", "sin", "cos", "tan", "asin", "acos")},
    **{name: getattr(torch, name) for name in ("atan", "sinh", "cosh")},
    "not": torch.logical_not,
}


@calculate.register
def _(op: Unary, x: Tensor) -> Tensor:
    return _UNARIES[op.kind](x)


_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: getattr(torch, name) for name in ("add", "sub", "mul", "div", "maximum", "minimum")},
    **{name: getattr(torch, name) for name in ("pow", "fmod", "less", "greater")},
    "mod": torch.remainder,
    "equal": torch.eq,
    "notequal": torch.ne,
    "lessequal": torch.le,
    "greaterequal": torch.ge,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}


@calculate.register
def _(op: Elementwise, first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = _ELEMENTWISE[op.kind](first, other)
    return first


@calculate.register
def _(_op: Where, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition.bool(), one, other)


@calculate.register
def _(op: Cast, x: Tensor) -> Tensor:
    kind: torch.dtype = getattr(torch, op.dtype)
    return x.to(kind)


@calculate.register
def _(op: Identity, x: Tensor) -> Tensor:
    return x.to(torch.get_default_dtype()) if op.kind == "cast" and not x.is_floating_point() else x


@calculate.register
def _(op: Softmax, x: Tensor) -> Tensor:
    return x.log_softmax(op.axis) if op.log else x.softmax(op.axis)


_REDUCTIONS: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "prod": lambda x, axes, keep: _one_by_one(torch.prod, x, axes, keep),
    "l1norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "l2norm": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "logsumexp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "argmax": lambda x, axes, keep: _place(torch.argmax, x, axes, keep),
    "argmin": lambda x, axes, keep: _place(torch.argmin, x, axes, keep),
}


def _one_by_one(
    reduce: Callable[..., Tensor], x: Tensor, axes: tuple[int, ...], keep: bool
) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = reduce(x, axis, keepdim=keep)
    return x


def _place(reduce: Callable[..., Tensor], x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    inner = sorted(axis % x.ndim for axis in axes)
    outer = [axis for axis in range(x.ndim) if axis not in inner]
    found = reduce(x.permute(*outer, *inner).flatten(len(outer)), -1)
    for axis in inner if keep else ():
        found = found.unsqueeze(axis)
    return found


@calculate.register
def _(op: Reduce, x: Tensor) -> Tensor:
    if not op.axes and op.kind not in ("argmax", "argmin"):
        return x.abs() if op.kind in ("l1norm", "l2norm") else x
    return _REDUCTIONS[op.kind](x, op.axes, op.keep)


@calculate.register
def _(op: Cumulate, x: Tensor) -> Tensor:
    x = x.flip(op.axis) if op.reverse else x
    y = x.cumsum(op.axis) if op.kind == "sum" else x.cumprod(op.axis)
    if op.exclusive:
        first = torch.full_like(y.narrow(op.axis, 0, 1), 0 if op.kind == "sum" else 1)
        y = torch.cat([first, y.narrow(op.axis, 0, y.shape[op.axis] - 1)], op.axis)
    return y.flip(op.axis) if op.reverse else y


# Moving elements ---------------------------------------------------------------------------


@calculate.register
def _(op: Concat, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, op.axis)


@calculate.register
def _(op: Split, x: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.split(x, list(op.sizes), op.axis))


@calculate.register
def _(op: Slice, x: Tensor) -> Tensor:
    cut = [slice(None)] * x.ndim
    for axis, start, stop, step in op.ranges:
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@calculate.register
def _(op: Pad, x: Tensor) -> Tensor:
    if op.mode == "constant":
        sides = [side for pair in reversed(op.padding) for side in pair]
        return F.pad(x, sides, value=op.value)
    for axis, (low, high) in enumerate(op.padding):
        if low or high:
            places = _places_beyond(x.shape[axis], low, high, op.mode)
            x = x.index_select(axis, torch.tensor(places, device=x.device))
    return x


def _places_beyond(size: int, low: int, high: int, mode: str) -> list[int]:
    """Which element stands at every place of a padded axis, cut first where it is negative."""
    first, last = max(0, -low), size - 1 - max(0, -high)
    span = last - first + 1
    places = []
    for place in range(-max(low, 0), span + max(high, 0)):
        if mode == "edge":
            inside = min(max(place, 0), span - 1)
        elif mode == "wrap" or span == 1:
            inside = place % span
        else:
            inside = place % (2 * span - 2)
            inside = min(inside, 2 * span - 2 - inside)
        places.append(first + inside)
    return places


@calculate.register
def _(op: Reshape, x: Tensor) -> Tensor:
    return x.reshape(op.shape)


@calculate.register
def _(op: Flatten, x: Tensor) -> Tensor:
    return x.reshape(_outputs(op, x))


@calculate.register
def _(op: Transpose, x: Tensor) -> Tensor:
    return x.permute(op.permutation)


@calculate.register
def _(op: Expand, x: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(tuple(x.shape), op.shape))


@calculate.register
def _(op: Flip, x: Tensor) -> Tensor:
    return x.flip(op.axes)


@calculate.register
def _(op: Gather, x: Tensor, places: Tensor) -> Tensor:
    axis, size = op.axis % x.ndim, x.shape[op.axis]
    places = places.long() % max(size, 1)
    if op.along:
        return x.gather(axis, places)
    made = x.index_select(axis, places.reshape(-1))
    return made.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


@calculate.register
def _(op: DepthToSpace, x: Tensor) -> Tensor:
    rank, spatial = len(op.block), tuple(x.shape[2:])
    blocks = range(2, 2 + rank) if op.order == "crd" else range(1, 1 + rank)
    channels = 1 if op.order == "crd" else 1 + rank
    inner = x.shape[1] // math.prod(op.block)
    apart = (inner, *op.block) if op.order == "crd" else (*op.block, inner)
    order = (0, channels, *(axis for i, b in enumerate(blocks) for axis in (2 + rank + i, b)))
    sizes = (size * block for size, block in zip(spatial, op.block, strict=True))
    turned = x.reshape(x.shape[0], *apart, *spatial).permute(order)
    return turned.reshape(x.shape[0], inner, *sizes)


@calculate.register
def _(op: SpaceToDepth, x: Tensor) -> Tensor:
    rank = len(op.block)
    outer = [size // block for size, block in zip(x.shape[2:], op.block, strict=True)]
    split = [part for pair in zip(outer, op.block, strict=True) for part in pair]
    places, blocks = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    channels = (1, *blocks) if op.order == "crd" else (*blocks, 1)
    turned = x.reshape(*x.shape[:2], *split).permute(0, *channels, *places)
    return turned.reshape(x.shape[0], x.shape[1] * math.prod(op.block), *outer)


@calculate.register
def _(op: Resize, x: Tensor) -> Tensor:
    """Along one axis at a time, as a product with the weights of every output."""
    for axis, (before, after) in enumerate(zip(x.shape[2:], _outputs(op, x)[2:], strict=True)):
        if before == after and (op.alignment == "align_corners" or not op.scale):
            continue  # every output lies on its own input
        matrix = torch.zeros((after, before), dtype=x.dtype)
        for output in range(after):
            for index, weight in taps(op, output, before, after, axis):
                matrix[output, index] += weight
        if op.mode == "nearest":
            x = x.index_select(axis + 2, matrix.argmax(1).to(x.device))
        else:
            product = torch.matmul(x.movedim(axis + 2, -1), matrix.T.to(x.device))
            x = product.movedim(-1, axis + 2)
    return x
