"""The textbook recursions for a chain of windows, forwards and backwards.

Forwards, from the input on (Araujo, Norris & Sim, 2019, equation 2, solved from the other end)::

    size += (kernel - 1) * dilation * jump;  jump *= stride

Backwards, from the last layer down: ``size = (size - 1) * stride + dilation * (kernel - 1) + 1``.
Both must find the same field for the whole chain; :mod:`convsmith.analysis.field` finds it for
every graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convsmith.errors import GraphError
from convsmith.graph import Graph
from convsmith.graph.operators import Activation, Conv, Identity, Norm, Pool

__all__ = ["Window", "backward", "chain", "forward"]


@dataclass(frozen=True, slots=True)
class Window:
    """One sliding window along one axis."""

    kernel: int
    stride: int = 1
    dilation: int = 1


def forward(windows: Sequence[Window]) -> tuple[int, ...]:
    """Returns how many pixels the output of each layer sees.

    >>> forward([Window(5, 2), Window(3), Window(3)])
    (5, 9, 13)
    """
    sizes = []
    size = jump = 1
    for window in windows:
        size += (window.kernel - 1) * window.dilation * jump
        jump *= window.stride
        sizes.append(size)
    return tuple(sizes)


def backward(windows: Sequence[Window]) -> tuple[int, ...]:
    """Returns how much the last output sees of the input of each layer, the last layer first.

    >>> backward([Window(5, 2), Window(3), Window(3)])
    (3, 5, 13)
    """
    sizes = []
    size = 1
    for window in reversed(windows):
        size = (size - 1) * window.stride + window.dilation * (window.kernel - 1) + 1
        sizes.append(size)
    return tuple(sizes)


def chain(graph: Graph, axis: int = 0) -> tuple[Window, ...]:
    """Returns the windows of a network without branches, along one image axis.

    Raises:
        GraphError: If it has branches, or a layer that is no window.

    >>> from convsmith.graph import parse
    >>> chain(parse("3@32 > conv 8 3/2 p1 > relu"))
    (Window(kernel=3, stride=2, dilation=1),)
    """
    windows = []
    before = graph.inputs[0].name if graph.inputs else ""
    for node in graph.nodes:
        if node.inputs != (before,):
            raise GraphError("the network has branches", place=node.name)
        before = node.name
        match node.op:
            case Conv(transposed=False) | Pool():
                op = node.op
                windows.append(Window(op.kernel[axis], op.stride[axis], op.dilation[axis]))
            case Activation() | Identity() | Norm(kind="batch"):
                pass
            case _:
                raise GraphError(f"{type(node.op).__name__} is no window", place=node.name)
    return tuple(windows)
