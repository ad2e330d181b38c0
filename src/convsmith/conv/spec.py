"""The problem: one convolution, said completely.

    y[n, k, o] = activation( bias[k] + residual[n, k, o]
                             + sum over c, t of  w[k, c, t] * x[n, g(k) + c, o * stride - before +
                             t * dilation] )

``o`` and ``t`` run over the spatial axes of output and kernel, ``c`` over the channels of one
group, and x is 0 outside (cross-correlation, as every framework has it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from convsmith.errors import ShapeError, UsageError

__all__ = ["ACTIVATIONS", "LAYOUTS", "Activation", "ConvSpec", "Layout"]

Layout = Literal["channels_first", "channels_last"]
Activation = Literal["none", "relu", "relu6", "silu", "hardswish"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

_LARGEST = 2**40  # elements of one tensor: beyond any memory, within 64-bit byte offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvSpec:
    """One convolution: sizes, steps, layout, and what is fused behind it.

    Attributes:
        size: Spatial sizes of the input: (L,), (H, W) or (D, H, W).
        channels: Input channels C.
        filters: Output channels K.
        kernel: Spatial sizes of the kernel.
        stride: Per axis.
        dilation: Per axis.
        padding: Zeros (before, after) per axis. Never negative.
        groups: C and K are multiples of it.
        batch: N. Plans do not depend on it; predictions of time do.
        layout: ``channels_first`` (N, C, *size) or ``channels_last`` (N, *size, C), input and
            output.
        bias: Whether one number per filter is added.
        residual: Whether a tensor of the output's shape is added before the activation.
        activation: What is applied last.

    Raises:
        UsageError: For values that no convolution has.
        ShapeError: For sizes that do not fit together.

    >>> spec = ConvSpec(
    ...     size=(56, 56), channels=64, filters=64, kernel=(3, 3), padding=((1, 1), (1, 1))
    ... )
    >>> spec.output, spec.macs
    ((56, 56), 115605504)
    """

    size: tuple[int, ...]
    channels: int
    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1
    batch: int = 1
    layout: Layout = "channels_first"
    bias: bool = True
    residual: bool = False
    activation: Activation = "none"

    def __post_init__(self) -> None:
        rank = len(self.size)
        for name, default in (("stride", 1), ("dilation", 1)):
            if getattr(self, name) == ():
                object.__setattr__(self, name, (default,) * rank)
        if self.padding == ():
            object.__setattr__(self, "padding", ((0, 0),) * rank)
        self._check(rank)

    def _check(self, rank: int) -> None:
        if not 1 <= rank <= 3:
            raise UsageError(
                f"a convolution has 1 to 3 spatial axes, not {rank}",
                remedy="give the spatial sizes alone, without batch and channels",
            )
        for name in ("kernel", "stride", "dilation", "padding"):
            if len(getattr(self, name)) != rank:
                raise UsageError(
                    f"{name} {getattr(self, name)} has {len(getattr(self, name))} entries "
                    f"for {rank} spatial axes",
                    remedy="give one per axis",
                )
        positive = {
            "channels": (self.channels,),
            "filters": (self.filters,),
            "groups": (self.groups,),
            "kernel": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
        }
        for name, values in positive.items():
            if min(values) < 1:
                raise UsageError(f"{name} is {min(values)}", remedy="it has to be 1 or more")
        not_negative = (self.batch, *self.size, *(p for pair in self.padding for p in pair))
        if min(not_negative) < 0:
            raise UsageError(
                f"a size or padding is {min(not_negative)}",
                remedy="they have to be 0 or more; cut the input to pad by less than 0",
            )
        if self.channels % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"{self.channels} channels and {self.filters} filters cannot be split "
                f"into {self.groups} groups",
                remedy="choose groups that divide both",
            )
        if self.layout not in LAYOUTS:
            raise UsageError(
                f"there is no layout {self.layout!r}", remedy=f"choose one of {', '.join(LAYOUTS)}"
            )
        if self.activation not in ACTIVATIONS:
            raise UsageError(
                f"there is no activation {self.activation!r}",
                remedy=f"choose one of {', '.join(ACTIVATIONS)}",
            )
        for axis, (size, padded, reach) in enumerate(
            zip(self.size, self.padded, self.reach, strict=True)
        ):
            if padded < reach:
                raise ShapeError(
                    f"kernel {_times(self.kernel)} with dilation {_times(self.dilation)} reaches "
                    f"over {reach} elements of spatial axis {axis}, which has {size} and "
                    f"{padded - size} of padding",
                    remedy="pad more or use a smaller kernel",
                )
        elements = (
            self.batch * self.channels * math.prod(self.padded),
            self.batch * self.filters * math.prod(self.output),
            self.filters * (self.channels // self.groups) * math.prod(self.kernel),
        )
        if max(elements) > _LARGEST:
            raise ShapeError(
                f"a tensor of {max(elements):,} elements is more than any memory holds",
                remedy="choose smaller sizes",
            )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial sizes of the input with its padding."""
        return tuple(n + a + b for n, (a, b) in zip(self.size, self.padding, strict=True))

    @property
    def reach(self) -> tuple[int, ...]:
        """Input elements from the first to the last tap, per axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(
            (p - r) // s + 1 for p, r, s in zip(self.padded, self.reach, self.stride, strict=True)
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self._shape(self.channels, self.size)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of y, and of a residual."""
        return self._shape(self.filters, self.output)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of w: (K, C / groups, *kernel), in both layouts."""
        return (self.filters, self.channels // self.groups, *self.kernel)

    def _shape(self, channels: int, size: tuple[int, ...]) -> tuple[int, ...]:
        if self.layout == "channels_first":
            return (self.batch, channels, *size)
        return (self.batch, *size, channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulate pairs of the direct algorithm, padding included."""
        outputs = self.batch * self.filters * math.prod(self.output)
        return outputs * (self.channels // self.groups) * math.prod(self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether every input channel is convolved by itself."""
        return self.groups == self.channels

    def with_batch(self, batch: int) -> ConvSpec:
        """Returns the same convolution of another number of images."""
        return self if batch == self.batch else replace(self, batch=batch)

    def __str__(self) -> str:
        """The spec in the notation, with what the notation does not say behind it."""
        pads = ",".join(str(a) for pair in zip(*self.padding, strict=True) for a in pair)
        same = len({p for pair in self.padding for p in pair}) == 1
        pad = "" if not any(map(any, self.padding)) else f" p{self.padding[0][0] if same else pads}"
        parts = [
            f"{self.batch}x" if self.batch != 1 else "",
            f"{self.channels}@{_times(self.size)} > conv {self.filters} {_times(self.kernel)}",
            f"/{_times(self.stride)}" if set(self.stride) != {1} else "",
            pad,
            f" d{_times(self.dilation)}" if set(self.dilation) != {1} else "",
            f" g{self.groups}" if self.groups != 1 else "",
            "" if self.bias else " nobias",
            " + -" if self.residual else "",
            f" > {self.activation}" if self.activation != "none" else "",
            " channels_last" if self.layout == "channels_last" else "",
        ]
        return "".join(parts)


def _times(numbers: tuple[int, ...]) -> str:
    return (
        str(numbers[0])
        if len(set(numbers)) == 1 and len(numbers) > 1
        else "x".join(map(str, numbers))
    )
