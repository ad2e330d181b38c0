"""Operators with weights: convolutions, products and normalizations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from convsmith.graph.operators.base import Operator, Padding, Rounding, Same
from convsmith.graph.slots import filled_directly

__all__ = ["Conv", "DeformConv", "Einsum", "Linear", "LocalResponseNorm", "MatMul", "Norm"]


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Operator):
    """A convolution (cross-correlation), 1-D to 3-D, grouped, dilated or transposed.

    Attributes:
        channels: Output channels.
        kernel: Window size per spatial axis.
        stride: Step per spatial axis; of the output grid when ``transposed``.
        padding: Zeros before and behind per spatial axis; ignored when ``same`` is set.
        same: SAME padding: the output has ``ceil(input / stride)`` elements.
        dilation: Distance between the taps per spatial axis.
        groups: Independent groups of channels.
        bias: Whether a bias is added.
        rounding: How the last, incomplete window counts.
        transposed: Weight layout is then ``(C_in, C_out / groups, *kernel)``.
        output_padding: Extra elements behind, transposed only.
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    same: Same | None = None
    dilation: tuple[int, ...]
    groups: int = 1
    bias: bool = True
    rounding: Rounding = "floor"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeformConv(Operator):
    """A deformable convolution: every tap of every window looks where a second input says.

    Inputs are the image, the offsets ``(N, offset_groups * taps * axes, *outputs)`` (per tap, how
    far it is moved along each axis, outermost first) and, optionally, a factor for every tap
    ``(N, offset_groups * taps, *outputs)``. Between pixels the image is interpolated linearly,
    outside of it it is zero. Dai et al., "Deformable convolutional networks" (2017), equation 2;
    with factors Zhu et al., "Deformable ConvNets v2" (2019), equation 1.

    Attributes:
        channels: Output channels.
        kernel: Window size per spatial axis.
        stride: Step per spatial axis.
        padding: Zeros before and behind per spatial axis.
        dilation: Distance between the taps per spatial axis, before they are moved.
        groups: Independent groups of channels.
        offset_groups: Groups of input channels that are moved in the same way.
        bias: Whether a bias is added.
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    groups: int = 1
    offset_groups: int = 1
    bias: bool = True
    same: ClassVar[Same | None] = None
    rounding: ClassVar[Rounding] = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Operator):
    """``y = x W^T + b`` over the last axis; weight ``(features, in)``."""

    features: int
    bias: bool = True

    @property
    def channels(self) -> int:
        """Its features, by the name that a convolution has for them."""
        return self.features


@dataclass(frozen=True, slots=True, kw_only=True)
class MatMul(Operator):
    """The matrix product of two values, batched over leading axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Einsum(Operator):
    """A sum of products over named axes, as ``numpy.einsum`` writes it.

    ``equation`` is explicit and has one letter per axis: ``"bchw,dc->bdhw"``. Several operands
    are contracted from the left to the right, two at a time.
    """

    equation: str


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Operator):
    """Normalization, as at inference.

    Attributes:
        kind: ``batch`` uses stored statistics (per channel: an affine map); the others
            use the statistics of their input. ``rms`` is ``layer`` without a mean and a shift.
        groups: For ``group``: groups of channels.
        axes: For ``layer`` and ``rms``: how many trailing axes are normalized over.
        epsilon: Added to the variance, or to the mean square.
        affine: Whether a learned scale and shift follow.
    """

    kind: Literal["batch", "instance", "group", "layer", "rms"]
    groups: int = 1
    axes: int = 1
    epsilon: float = 1e-5
    affine: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResponseNorm(Operator):
    """Across-channel normalization of AlexNet: ``x / (k + alpha / size * sum(x^2))^beta``.

    ``lean`` says where a window of even size, which has no middle, has its odd channel: behind
    (``upper``, ONNX) or before (``lower``, PyTorch).
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    lean: Same = "upper"
