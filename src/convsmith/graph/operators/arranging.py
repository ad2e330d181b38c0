"""Operators that move, repeat or leave out elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from convsmith.graph.operators.base import Operator, Padding

__all__ = [
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Flip",
    "Gather",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Transpose",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat(Operator):
    """Values joined along one axis."""

    axis: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(Operator):
    """One value cut into ``len(sizes)`` along one axis."""

    sizes: tuple[int, ...]
    axis: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Operator):
    """A strided rectangle: ``ranges`` holds ``(axis, start, stop, step)``.

    Starts are non-negative, steps positive; a stop of ``None`` is the end of the axis.
    """

    ranges: tuple[tuple[int, int, int | None, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip(Operator):
    """Axes turned round: the last element comes first."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather(Operator):
    """Elements of the first input at the places along an axis that the second input holds.

    Every place stands for a whole slice, and the axis is replaced by the axes of the second
    input (``numpy.take``; the look-up of an embedding). With ``along``, every place stands for
    one element (``numpy.take_along_axis``), and the second input may be the smaller one. Negative
    places count from the end.
    """

    axis: int = 0
    along: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad(Operator):
    """Elements put before and behind every axis (negative: cut away)."""

    padding: Padding
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant"
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape(Operator):
    """The same elements in another shape; one entry may be -1."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten(Operator):
    """All axes from ``axis`` to ``last`` (inclusive) joined into one."""

    axis: int = 1
    last: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose(Operator):
    """Axes in another order."""

    permutation: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand(Operator):
    """Axes of size 1 repeated to the given shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthToSpace(Operator):
    """Channels laid out as blocks of pixels (pixel shuffle): ``(N, C / blocks, *(size * block))``.

    ``order``: the channels of one output channel lie together (``crd``, PyTorch), or those of
    one place in the block (``dcr``, the default of ONNX).
    """

    block: tuple[int, ...]
    order: Literal["crd", "dcr"] = "crd"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceToDepth(Operator):
    """Blocks of pixels laid out as channels, the inverse of ``DepthToSpace``."""

    block: tuple[int, ...]
    order: Literal["crd", "dcr"] = "crd"
