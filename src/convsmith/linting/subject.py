"""What rules ask about a network, found out once: its structure, shapes, fields and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Analysis, Field, Row, analyze, fields
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import (
    Activation,
    Cast,
    Conv,
    Identity,
    Linear,
    LocalResponseNorm,
    Norm,
    Operator,
    Pool,
    Unary,
    roles,
)
from convsmith.graph.shape import effective_kernel, resolve_padding
from convsmith.linting.ranges import Range, ranges

__all__ = ["Subject", "Window", "is_elementwise", "times"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One axis of a sliding window at the size that it really runs on."""

    axis: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int
    size: int
    count: int

    @property
    def extent(self) -> int:
        """From the first to the last tap, both included."""
        return effective_kernel(self.kernel, self.dilation)

    @property
    def last_read(self) -> int:
        """The last position that the last window reaches; beyond the input: in the padding."""
        return (self.count - 1) * self.stride - self.low + self.extent - 1

    def reads(self, output: int) -> Iterator[int]:
        """The positions that the taps of one output stand on, padding included."""
        start = output * self.stride - self.low
        return iter(range(start, start + self.extent, self.dilation))

    def is_blind(self, output: int) -> bool:
        """Whether no tap of one output stands on the input."""
        start = output * self.stride - self.low
        first = max(-(start // self.dilation), 0) if start < 0 else 0
        at = start + first * self.dilation
        return first >= self.kernel or at >= self.size


class Subject:
    """A network under examination."""

    def __init__(
        self,
        graph: Graph,
        *,
        object_size: tuple[int, ...] = (),
        anchors: Mapping[str, int] | None = None,
    ) -> None:
        self.graph = graph
        self.object_size = object_size
        self.anchors = dict(anchors or {})

    @cached_property
    def sight(self) -> Mapping[str, Field]:
        """The receptive field of every value."""
        return fields(self.graph)

    @cached_property
    def analysis(self) -> Analysis:
        """Costs, layer by layer."""
        return analyze(self.graph)

    @cached_property
    def rows(self) -> Mapping[str, Row]:
        """The costs of every layer by its name."""
        return {row.name: row for row in self.analysis.rows}

    @cached_property
    def ranges(self) -> Mapping[str, Range]:
        """The least and the greatest number that every value can hold."""
        return ranges(self.graph)

    @cached_property
    def results(self) -> frozenset[str]:
        """The values that the caller receives."""
        return frozenset(output.value for output in self.graph.outputs)

    @property
    def has_weights(self) -> bool:
        """Whether there are numbers to look at."""
        return any(constant.data is not None for constant in self.graph.constants.values())

    def shape(self, value: str) -> Shape | None:
        """The shape of a value, if it is known."""
        return self.graph.shapes[value]

    def values(self, node: Node) -> tuple[str, ...]:
        """The inputs of a node that are no constants."""
        return tuple(used for used in node.inputs if used not in self.graph.constants)

    def before(self, node: Node) -> Node | None:
        """The node that makes the only value which a node reads."""
        values = self.values(node)
        return self.graph.producers.get(values[0]) if len(values) == 1 else None

    def only_user(self, node: Node) -> Node | None:
        """The node that alone reads what a node makes; ``None`` if the caller receives it too."""
        if len(node.outputs) > 1 or node.name in self.results:
            return None
        users = self.graph.consumers.get(node.name, ())
        return users[0] if len(users) == 1 else None

    def back_through_elementwise(self, node: Node, *, norms: bool = True) -> Node | None:
        """The first node before this one that does not work element by element.

        Stops at a value that more than one node reads.
        """
        at = self.before(node)
        while at is not None and is_elementwise(at.op, norms=norms):
            if self.only_user(at) is None:
                return None
            at = self.before(at)
        return at if at is not None and self.only_user(at) is not None else None

    def windows(self, node: Node) -> tuple[Window, ...]:
        """The axes of a convolution's or a pooling's window; none if it is transposed."""
        op = node.op
        if not isinstance(op, Conv | Pool) or (isinstance(op, Conv) and op.transposed):
            return ()
        x, y = self.shape(node.inputs[0]), self.shape(node.name)
        if x is None or y is None:
            return ()
        padding = resolve_padding(op, x[2:])
        return tuple(
            Window(
                axis=axis,
                kernel=op.kernel[axis],
                stride=op.stride[axis],
                dilation=op.dilation[axis],
                low=padding[axis][0],
                high=padding[axis][1],
                size=x[axis + 2],
                count=y[axis + 2],
            )
            for axis in range(len(op.kernel))
        )

    def all_windows(self) -> Iterator[tuple[Node, tuple[Window, ...]]]:
        """Every node that slides a window, and its axes."""
        for node in self.graph.nodes:
            windows = self.windows(node)
            if windows:
                yield node, windows

    def array(self, node: Node, role: str) -> Array | None:
        """The numbers of a parameter as float64; ``None`` if they are absent."""
        if role not in roles(node.op):
            return None
        data = self.graph.parameter(node, role).data
        return None if data is None else np.asarray(data, dtype=np.float64)

    def filters(self, node: Node) -> Array | None:
        """The weight of a convolution or a linear layer, one row a channel; else ``None``."""
        weight = self.array(node, "weight") if isinstance(node.op, Conv | Linear) else None
        if weight is None or not isinstance(node.op, Conv) or not node.op.transposed:
            return None if weight is None else weight.reshape(len(weight), -1)
        groups, (inside, outside, *kernel) = node.op.groups, weight.shape
        taps = math.prod(kernel)
        parted = weight.reshape(groups, inside // groups, outside, taps)
        return parted.transpose(0, 2, 1, 3).reshape(groups * outside, -1)

    def parameters(self) -> Iterator[tuple[Node, str, Array]]:
        """Every parameter whose numbers are there, with the first layer and role that use it."""
        seen: set[str] = set()
        for node in self.graph.nodes:
            for role, name in zip(roles(node.op), node.parameters, strict=True):
                data = self.graph.constants[name].data
                if name not in seen and data is not None:
                    seen.add(name)
                    yield node, role, data


def is_elementwise(op: Operator, *, norms: bool = True) -> bool:
    """Whether an operator takes one value and keeps every position and channel where it is."""
    if isinstance(op, Norm):
        return norms and op.kind == "batch"
    return isinstance(op, Activation | Unary | Identity | Cast | LocalResponseNorm)


def times(sizes: tuple[int, ...]) -> str:
    """Sizes in a message.

    >>> times((3, 5))
    '3x5'
    """
    return "x".join(map(str, sizes))
