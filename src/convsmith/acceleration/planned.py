"""A torch module that runs a planned convolution where a plain one stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from convsmith.acceleration.operator import conv
from convsmith.acceleration.planning import Planned, activated
from convsmith.conv.choice import DEFAULT_TOLERANCE, plan
from convsmith.conv.plan import ConvPlan, Prepared
from convsmith.conv.spec import Activation, ConvSpec

__all__ = ["PlannedConv"]


class PlannedConv(Planned):
    """A convolution with what follows it fused, for inference.

    Weights are packed when an input of a size first comes, and again when they have changed: as
    torch counts changes, so not through ``.data`` or a shared NumPy array. Where gradients are
    recorded, under ``torch.compile`` and ``torch.export``, and for types other than float32 it is
    the operator ``convsmith::conv``.

    Args:
        weight: (K, C / groups, *kernel).
        bias: (K,), or nothing.
        stride: Per axis.
        padding: (before, after) per axis.
        dilation: Per axis.
        groups: Groups of channels.
        activation: What is applied last, where no residual is given.
        algorithm: ``auto``, ``exact`` or a name.
        tolerance: As in :func:`convsmith.conv2d`.
        tune: Whether to measure the candidates for a size that this machine has not measured.

    >>> layer = PlannedConv(torch.ones(1, 1, 3, 3), None, padding=((1, 1), (1, 1)))
    >>> layer(torch.ones(1, 1, 3, 3))[0, 0, 1].tolist()
    [6.0, 9.0, 6.0]
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Sequence[int] = (),
        padding: Sequence[tuple[int, int]] = (),
        dilation: Sequence[int] = (),
        groups: int = 1,
        activation: Activation = "none",
        algorithm: str = "auto",
        tolerance: float = DEFAULT_TOLERANCE,
        tune: bool = False,
    ) -> None:
        super().__init__(
            weight, bias, in_channels=weight.shape[1] * groups, activation=activation,
            algorithm=algorithm, tolerance=tolerance, tune=tune,
        )  # fmt: skip
        rank = weight.dim() - 2
        self.out_channels = weight.shape[0]
        self.stride = tuple(stride) or (1,) * rank
        self.padding = tuple(padding) or ((0, 0),) * rank
        self.dilation = tuple(dilation) or (1,) * rank
        self.groups = groups
        self.residual_activation: Activation = "none"

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolves (N, C, *size), or one image (C, *size).

        Args:
            x: The input.
            residual: Added before ``residual_activation``, which then takes the place of
                ``activation``.
        """
        if residual is not None:
            return self._with_residual(x, residual)
        if x.dim() == self.weight.dim() - 1:
            one: Tensor = self.forward(x.unsqueeze(0))
            return one.squeeze(0)
        if torch.compiler.is_compiling() or not self._plain(x):
            return self._operator(x, None, self.activation)
        ready = self._ready(x)
        out = x.new_empty((x.shape[0], *ready.shape))
        ready.prepared.run_addresses(x.data_ptr(), out.data_ptr(), 0, x.shape[0])
        return out if ready.order is None else out.permute(ready.order)

    def _operator(self, x: Tensor, residual: Tensor | None, activation: Activation) -> Tensor:
        made: Tensor = conv(
            x,
            self.weight,
            self.bias,
            residual,
            list(self.stride),
            [side for pair in self.padding for side in pair],
            list(self.dilation),
            self.groups,
            activation,
            self.algorithm,
            self.tolerance,
        )
        return made

    def _with_residual(self, x: Tensor, residual: Tensor) -> Tensor:
        activation = self.residual_activation
        plain = not torch.compiler.is_compiling() and self._plain(x) and self._alike(x, residual)
        if plain:
            ready = self._ready(x, residual=True)
            shape = (x.shape[0], *ready.shape)
            order = ready.order
            whole = shape if order is None else tuple(shape[axis] for axis in order)
            if tuple(residual.shape) == whole:
                out = x.new_empty(shape)
                ready.prepared.run_addresses(
                    x.data_ptr(), out.data_ptr(), residual.data_ptr(), x.shape[0]
                )
                return out if order is None else out.permute(order)
        # Whatever else it is, it is a convolution, a sum and an activation.
        batched = x.dim() == self.weight.dim()
        y = self._operator(x if batched else x.unsqueeze(0), None, "none")
        return activated(activation, (y if batched else y.squeeze(0)) + residual)

    def _alike(self, x: Tensor, residual: Tensor) -> bool:
        """Whether a residual is a tensor of the same kind that lies in the same way."""
        if type(residual) is not Tensor or residual.dtype != torch.float32:
            return False
        if residual.device.type != "cpu" or residual.dim() != x.dim():
            return False
        if torch.is_grad_enabled() and residual.requires_grad:
            return False
        if x.is_contiguous():
            return residual.is_contiguous()
        return residual.permute(0, *range(2, x.dim()), 1).is_contiguous()

    def plan_for(self, x: Tensor) -> ConvPlan:
        """Returns how an input is convolved."""
        return self._ready(x).prepared.plan

    def spec(self, x: Tensor) -> ConvSpec:
        """Returns the problem for an input.

        Raises:
            ShapeError: If the input does not fit.
        """
        return ConvSpec(
            batch=x.shape[0],
            size=tuple(x.shape[2:]),
            channels=x.shape[1],
            filters=self.weight.shape[0],
            kernel=tuple(self.weight.shape[2:]),
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
            layout="channels_first" if x.is_contiguous() else "channels_last",
            bias=self.bias is not None,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        """Returns what it is, for ``print(module)``."""
        filters, per, *kernel = self.weight.shape
        return (
            f"{per * self.groups}, {filters}, kernel_size={tuple(kernel)}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"activation={self.activation}"
        )

    def _ready(self, x: Tensor, *, residual: bool = False) -> _Ready:
        def pack(weight: Any, bias: Any) -> _Ready:
            spec = self.spec(x)
            if residual:
                spec = replace(spec, residual=True, activation=self.residual_activation)
            made = plan(
                spec, algorithm=self.algorithm, tolerance=self.tolerance, tune=self.tune,
                cold=self.cold,
            )  # fmt: skip
            order = None
            if spec.layout == "channels_last":
                order = (0, x.dim() - 1, *range(1, x.dim() - 1))
            prepared = made.prepare(weight, bias)
            return _Ready(prepared=prepared, shape=spec.output_shape[1:], order=order)

        key = (x.shape[1:], x.is_contiguous(), residual, self.residual_activation)
        ready: _Ready = self._packed(key, pack)
        return ready


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What an input of one size needs.

    Attributes:
        prepared: The convolution with its weights.
        shape: Of the output in memory, without the batch.
        order: Axes of the memory as torch counts them, if they are not in order.
    """

    prepared: Prepared
    shape: tuple[int, ...]
    order: tuple[int, ...] | None
