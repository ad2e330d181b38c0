"""One layer as the forms see it: convolution, transposed convolution or linear, all alike.

Every such layer multiplies the same matrix with what stands in a window::

    y[p] = W x[p] + b            x[p]: the unfolded window of output position p

per group of channels. For a transposed convolution the window lies over the input with zeros put
between its elements, and the kernel is turned round; a linear layer has a window without axes.
So statistics, fits and forms are written once, over ``W`` of shape
``(groups, C_out / groups, C_in / groups, *kernel)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.graph import Graph, Node
from convsmith.graph.fragment import ConvStep
from convsmith.graph.operators import Conv, Linear
from convsmith.graph.shape import Shape, infer_shapes

__all__ = ["Kernels", "LayerOp", "Site", "cost", "flushed"]

Array = npt.NDArray[Any]
LayerOp = Conv | Linear

Kernels = tuple[Array, ...]
"""One array per layer of a chain, ``(groups, C_out, C_in, *kernel)`` per group, as in a site."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A layer that a form can replace.

    Attributes:
        name: Its name.
        op: The operator.
        x: The shape of its input.
        stored: The trained weights, in the layout of the operator.
        bias: ``(C_out,)`` in float64; zeros without one.
        learnable: Whether its weights count as parameters.
    """

    name: str
    op: LayerOp
    x: Shape
    stored: Array
    bias: Array
    learnable: bool = True

    @classmethod
    def of(cls, net: Graph, node: Node) -> Site:
        """Takes a layer out of a network with weights."""
        op = node.op
        assert isinstance(op, Conv | Linear)
        constant = net.parameter(node, "weight")
        bias = np.zeros(op.channels)
        if op.bias:
            bias = np.asarray(net.parameter(node, "bias").data, dtype=np.float64)
        return cls(
            name=node.name,
            op=op,
            x=net.shape(node.inputs[0]),
            stored=np.asarray(constant.data),
            bias=bias,
            learnable=constant.learnable,
        )

    @cached_property
    def weight(self) -> Array:
        """``(groups, C_out / groups, C_in / groups, *kernel)`` in float64; made when asked for."""
        return _opened(self.op, self.stored)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the trained weights."""
        return self.stored.dtype

    @property
    def groups(self) -> int:
        """Independent groups of channels."""
        return 1 if isinstance(self.op, Linear) else self.op.groups

    @property
    def outs(self) -> int:
        """Output channels of one group."""
        return self.op.channels // self.groups

    @property
    def ins(self) -> int:
        """Input channels of one group."""
        turned = isinstance(self.op, Conv) and self.op.transposed
        return int(self.stored.shape[0] // self.groups if turned else self.stored.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Window sizes; empty for a linear layer."""
        return () if isinstance(self.op, Linear) else self.op.kernel

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights of one group: ``(C_out, C_in, *kernel)``."""
        return (self.outs, self.ins, *self.kernel)

    @property
    def width(self) -> int:
        """Numbers in the window of one group."""
        return math.prod(self.shape[1:])

    @property
    def depthwise(self) -> bool:
        """Whether every group has a single input channel."""
        return self.ins == 1 and self.groups > 1

    @property
    def cost(self) -> tuple[int, int]:
        """Multiply-accumulates and parameters of the layer as it is."""
        return cost((self.op,), self.x, learnable=self.learnable)

    @property
    def obstacle(self) -> str:
        """Why no form can replace this layer; empty when some may."""
        op = self.op
        if isinstance(op, Conv) and op.rounding != "floor":
            return "it rounds its output size up"
        return ""

    def part(
        self, channels: int, axes: Sequence[int] = (), *, groups: int = 1, last: bool = False
    ) -> LayerOp:
        """A layer that carries the window along some axes, and one element of the others.

        Stride, dilation and padding go with their axes; a layer without any is pointwise.

        Args:
            channels: Output channels of one group of this site.
            axes: Which axes of the window.
            groups: Groups inside one group of this site.
            last: Whether it carries the bias.
        """
        op = self.op
        if isinstance(op, Linear):
            return Linear(features=channels, bias=last)
        taken = set(axes)

        def along(values: Sequence[Any], otherwise: Any) -> tuple[Any, ...]:
            return tuple(v if i in taken else otherwise for i, v in enumerate(values))

        extra = along(op.output_padding, 0)
        return replace(
            op,
            channels=channels * self.groups,
            kernel=along(op.kernel, 1),
            stride=along(op.stride, 1),
            padding=along(op.padding, (0, 0)),
            dilation=along(op.dilation, 1),
            groups=groups * self.groups,
            bias=last,
            transposed=op.transposed and bool(taken),
            output_padding=extra if any(extra) else (),
            same=op.same if taken else None,
        )

    def steps(
        self, ops: Sequence[LayerOp], kernels: Sequence[Array], bias: Array
    ) -> tuple[ConvStep, ...]:
        """A chain with its weights in the layout of its operators; the last carries the bias.

        Numbers that would be denormal become zero: they slow CPUs down by far.

        Args:
            ops: The operators, from :meth:`part` or like them.
            kernels: ``(groups, C_out, C_in, *kernel)`` for each.
            bias: ``(C_out,)``.
        """
        made = []
        for index, (op, kernel) in enumerate(zip(ops, kernels, strict=True)):
            last = index == len(ops) - 1
            made.append(
                ConvStep(
                    op=op,
                    weight=flushed(_closed(op, kernel), self.dtype),
                    bias=flushed(bias, self.dtype) if last else None,
                )
            )
        return tuple(made)


def cost(ops: Sequence[LayerOp], x: Shape, *, learnable: bool = True) -> tuple[int, int]:
    """Multiply-accumulates and parameters of layers that follow each other, exactly.

    >>> cost([Linear(features=4)], (1, 3))
    (12, 16)
    """
    macs = params = 0
    for op in ops:
        y = infer_shapes(op, x)[0]
        assert y is not None
        if isinstance(op, Linear):
            outs, per_output = op.features, x[-1]
            macs += math.prod(y) * per_output
            weights = outs * x[-1]
        else:
            outs = op.channels
            weights = outs * x[1] // op.groups * math.prod(op.kernel)
            grid = x if op.transposed else y
            macs += grid[0] * math.prod(grid[2:]) * weights
        params += weights + (outs if op.bias else 0)
        x = y
    return macs, params if learnable else 0


def flushed(values: Array, dtype: npt.DTypeLike) -> Array:
    """Values in a type, with zeros instead of what would be denormal in it."""
    kind = np.dtype(dtype)
    smallest = np.finfo(kind).tiny if np.issubdtype(kind, np.floating) else 0
    return np.ascontiguousarray(np.where(np.abs(values) < smallest, 0, values).astype(kind))


def _opened(op: LayerOp, stored: Array) -> Array:
    """Stored weights as ``(groups, C_out, C_in, *kernel)`` of one group."""
    weight = stored.astype(np.float64)
    if isinstance(op, Linear):
        return weight[None]
    if not op.transposed:
        return weight.reshape(op.groups, -1, *weight.shape[1:])
    axes = tuple(range(2, weight.ndim))
    turned = np.flip(weight, axes).reshape(op.groups, -1, *weight.shape[1:])
    return np.ascontiguousarray(turned.swapaxes(1, 2))


def _closed(op: LayerOp, kernel: Array) -> Array:
    """The way back: what an operator stores."""
    if isinstance(op, Linear):
        matrix: Array = kernel[0]
        return matrix
    weight = kernel.reshape(op.groups, -1, *kernel.shape[2:])
    if op.transposed:
        weight = np.flip(weight, tuple(range(3, weight.ndim))).swapaxes(1, 2)
    return np.ascontiguousarray(weight).reshape(-1, *weight.shape[2:])
