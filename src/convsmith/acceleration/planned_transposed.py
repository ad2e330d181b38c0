"""A torch module that runs a planned transposed convolution where a plain one stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everyone calls it
from torch import Tensor

from convsmith.acceleration.planning import Planned, activated
from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.conv.spec import Activation
from convsmith.conv.transposed import PreparedTransposed, TransposedSpec, plan_transposed

__all__ = ["PlannedConvTranspose"]

_PLAIN = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class PlannedConvTranspose(Planned):
    """A transposed convolution with an activation fused, for inference.

    Weights are packed when an input of a size first comes, and again when they have changed. Where
    gradients are recorded, under ``torch.compile`` and ``torch.export``, for types other than
    float32 and for a wished ``output_size`` it is torch's own operator.

    Args:
        weight: (C, K / groups, *kernel).
        bias: (K,), or nothing.
        stride: Per axis.
        padding: What is cut off on both sides, per axis.
        output_padding: Outputs added behind, per axis.
        dilation: Per axis.
        groups: Groups of channels.
        activation: What is applied last.
        algorithm: ``auto``, ``exact`` or a name.
        tolerance: As in :func:`convsmith.conv2d`.
        tune: Whether to measure the candidates for a size that this machine has not measured.

    >>> layer = PlannedConvTranspose(torch.ones(1, 1, 2, 2), None, stride=(2, 2))
    >>> layer(torch.ones(1, 1, 1, 2))[0, 0].tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Sequence[int] = (),
        padding: Sequence[int] = (),
        output_padding: Sequence[int] = (),
        dilation: Sequence[int] = (),
        groups: int = 1,
        activation: Activation = "none",
        algorithm: str = "auto",
        tolerance: float = DEFAULT_TOLERANCE,
        tune: bool = False,
    ) -> None:
        super().__init__(
            weight, bias, in_channels=weight.shape[0], activation=activation,
            algorithm=algorithm, tolerance=tolerance, tune=tune,
        )  # fmt: skip
        rank = weight.dim() - 2
        self.out_channels = weight.shape[1] * groups
        self.stride = tuple(stride) or (1,) * rank
        self.padding = tuple(padding) or (0,) * rank
        self.output_padding = tuple(output_padding) or (0,) * rank
        self.dilation = tuple(dilation) or (1,) * rank
        self.groups = groups

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Convolves (N, C, *size), or one image (C, *size)."""
        if output_size is not None or torch.compiler.is_compiling() or not self._plain(x):
            return self._by_torch(x, output_size)
        last = not x.is_contiguous()
        prepared = self._ready(x)
        spec = prepared.plan.spec
        rank = spec.rank
        given = x.detach()
        out = x.new_empty((x.shape[0], *spec.output_shape[1:]))
        if last:
            given = given.permute(0, *range(2, rank + 2), 1)
        prepared(given.numpy(), out.detach().numpy())
        return out.permute(0, rank + 1, *range(1, rank + 1)) if last else out

    def extra_repr(self) -> str:
        """Returns what it is, for ``print(module)``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, "
            f"output_padding={self.output_padding}, dilation={self.dilation}, "
            f"groups={self.groups}, activation={self.activation}"
        )

    def _by_torch(self, x: Tensor, output_size: Sequence[int] | None) -> Tensor:
        more = self.output_padding
        if output_size is not None:
            sizes = list(output_size)[-len(self.stride) :]
            least = [
                (n - 1) * s - 2 * p + d * (k - 1) + 1
                for n, s, p, d, k in zip(
                    x.shape[-len(self.stride) :], self.stride, self.padding, self.dilation,
                    self.kernel_size, strict=True,
                )
            ]  # fmt: skip
            more = tuple(size - small for size, small in zip(sizes, least, strict=True))
        made: Tensor = _PLAIN[len(self.stride)](
            x, self.weight, self.bias, self.stride, self.padding, more, self.groups, self.dilation
        )
        return activated(self.activation, made)

    def _plain(self, x: Tensor) -> bool:
        return x.numel() > 0 and super()._plain(x)

    def _ready(self, x: Tensor) -> PreparedTransposed:
        def pack(weight: Any, bias: Any) -> PreparedTransposed:
            spec = TransposedSpec(
                batch=x.shape[0],
                size=tuple(x.shape[2:]),
                channels=x.shape[1],
                filters=self.out_channels,
                kernel=self.kernel_size,
                stride=self.stride,
                dilation=self.dilation,
                padding=tuple((p, p) for p in self.padding),
                output_padding=self.output_padding,
                groups=self.groups,
                layout="channels_first" if x.is_contiguous() else "channels_last",
                bias=bias is not None,
                activation=self.activation,
            )
            made = plan_transposed(
                spec, algorithm=self.algorithm, tolerance=self.tolerance, tune=self.tune,
                cold=self.cold,
            )  # fmt: skip
            return made.prepare(weight, bias)

        prepared: PreparedTransposed = self._packed((x.shape[1:], x.is_contiguous()), pack)
        return prepared
