"""Operators over sliding windows that have no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from convsmith.graph.operators.base import Operator, Padding, Rounding, Same

__all__ = ["AdaptivePool", "Fold", "GlobalPool", "Pool", "Unfold", "Unpool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(Operator):
    """Max or average pooling over windows.

    With ``rounding="ceil"`` the last window may be incomplete, but starts inside the input or
    the padding before it (Caffe, PyTorch). ``count_padding``: an average divides by the whole
    window, padding included (but never by what ``ceil`` adds behind the padding). ``indices``: a
    maximum comes with a second output, its place in the flattened plane of its channel.
    """

    kind: Literal["max", "average"]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    same: Same | None = None
    dilation: tuple[int, ...]
    rounding: Rounding = "floor"
    count_padding: bool = True
    indices: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalPool(Operator):
    """Max or average over all spatial axes, kept with size 1."""

    kind: Literal["max", "average"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePool(Operator):
    """Max or average pooling to a given output size; ``0`` keeps the input's size."""

    kind: Literal["max", "average"]
    size: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpool(Operator):
    """Puts every element where a second input says, into a plane of zeros of the given size.

    The second input is that of ``Pool`` with ``indices``: places in the flattened plane.
    """

    size: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfold(Operator):
    """Every window as a column of channels (im2col): ``(N, C * taps, *outputs)``.

    The taps of one channel lie together, outermost axis first. A convolution is the product of
    its weight matrix and this.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    same: ClassVar[Same | None] = None
    rounding: ClassVar[Rounding] = "floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold(Operator):
    """Adds up windows into an image of the given size (col2im), the transpose of ``Unfold``.

    Takes ``(N, C * taps, *outputs)``, where ``outputs`` is what ``Unfold`` makes of ``size``.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Padding
    dilation: tuple[int, ...]
    same: ClassVar[Same | None] = None
    rounding: ClassVar[Rounding] = "floor"
