"""Convolution as a torch operator: ``torch.ops.convsmith.conv``.

A pure function of its tensors, with a fake implementation and a backward, so it works under
``torch.export``, ``torch.compile`` and autograd. float32 runs compiled, other types through the
reference, in their own precision. The backward is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.conv.calling import conv1d, conv2d, conv3d
from convsmith.errors import ShapeError

__all__ = ["conv"]

_RUN: dict[int, Callable[..., Tensor]] = {1: conv1d, 2: conv2d, 3: conv3d}


def _pairs(padding: list[int]) -> list[tuple[int, int]]:
    return list(zip(padding[::2], padding[1::2], strict=True))


def _channels_last(x: Tensor) -> bool:
    last = (0, *range(2, x.dim()), 1)
    return not x.is_contiguous() and x.permute(last).is_contiguous()


@torch.library.custom_op("convsmith::conv", mutates_args=(), device_types="cpu")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
    algorithm: str,
    tolerance: float,
) -> Tensor:
    """Convolves, adds bias and residual, applies an activation.

    Args:
        x: (N, C, *size), contiguous or channels last; the result is laid out alike.
        weight: (K, C / groups, *kernel).
        bias: (K,), or nothing.
        residual: Of the output's shape, or nothing.
        stride: Per axis.
        padding: Zeros before and after each axis: before, after, before, after, ...
        dilation: Per axis.
        groups: Groups of channels.
        activation: ``none``, ``relu``, ``relu6``, ``silu`` or ``hardswish``.
        algorithm: ``auto``, ``exact`` or a name.
        tolerance: As in :func:`convsmith.conv2d`.
    """
    kind = x.dtype
    tensors = (None if t is None else t.detach() for t in (x, weight, bias, residual))
    if kind in (torch.bfloat16, torch.float16):  # in float32, rounded once
        tensors = (None if t is None else t.float() for t in tensors)
    x, weight, bias, residual = tensors  # type: ignore[assignment]
    if x.dim() - 2 not in _RUN:
        raise ShapeError(
            f"an input of shape {tuple(x.shape)} has {x.dim()} axes, not 3 to 5",
            place="convsmith::conv",
            remedy="pass (N, C, *size)",
        )
    made = _RUN[x.dim() - 2](
        x,
        weight,
        bias,
        residual=residual,
        stride=stride,
        padding=_pairs(padding),
        dilation=dilation,
        groups=groups,
        activation=activation,
        algorithm=algorithm,
        tolerance=tolerance,
    )
    return made.to(kind)


@conv.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: list[int],
    padding: list[int], dilation: list[int], groups: int, activation: str, algorithm: str,
    tolerance: float,
) -> Tensor:  # fmt: skip
    size = [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, (before, after), d, k, s in zip(
            x.shape[2:], _pairs(padding), dilation, weight.shape[2:], stride, strict=True
        )
    ]
    shape = (x.shape[0], weight.shape[0], *size)
    if not _channels_last(x):
        return x.new_empty(shape)
    made = x.new_empty((shape[0], *size, shape[1]))
    return made.permute(0, x.dim() - 1, *range(1, x.dim() - 1))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, residual, *rest = inputs
    ctx.save_for_backward(x, weight, bias, residual, output)
    ctx.rest = rest


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, residual, output = ctx.saved_tensors
    stride, padding, dilation, groups, activation, algorithm, tolerance = ctx.rest
    if activation in ("silu", "hardswish"):
        before = torch.ops.convsmith.conv(
            x, weight, bias, residual, stride, padding, dilation, groups, "none", algorithm,
            tolerance,
        )  # fmt: skip
    else:
        before = output
    gradient = _through(activation, before, gradient)
    rank = x.dim() - 2
    sides = [side for pair in reversed(_pairs(padding)) for side in pair]
    padded = F.pad(x, sides) if any(padding) else x
    wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
    to_x, to_weight, _ = torch.ops.aten.convolution_backward(
        gradient, padded, weight, None, stride, [0] * rank, dilation, False, [0] * rank, groups,
        wanted,
    )  # fmt: skip
    if to_x is not None and any(padding):
        to_x = F.pad(to_x, [-side for side in sides])
    to_bias = None
    if bias is not None and ctx.needs_input_grad[2]:
        to_bias = gradient.sum((0, *range(2, gradient.dim())))
    to_residual = gradient if residual is not None and ctx.needs_input_grad[3] else None
    return (to_x, to_weight, to_bias, to_residual, *[None] * 7)


def _through(activation: str, x: Tensor, gradient: Tensor) -> Tensor:
    """Returns the gradient before an activation; ``x`` is its input, or for clips its output."""
    match activation:
        case "relu":
            return gradient * (x > 0)
        case "relu6":
            return gradient * ((x > 0) & (x < 6))
        case "silu":
            s = torch.sigmoid(x)
            return gradient * (s * (1 + x * (1 - s)))
        case "hardswish":
            ramp = (x > -3) & (x < 3)
            return gradient * torch.where(ramp, x / 3 + 0.5, (x >= 3).to(x.dtype))
    return gradient


conv.register_autograd(cast("Any", _backward), setup_context=cast("Any", _remember))
