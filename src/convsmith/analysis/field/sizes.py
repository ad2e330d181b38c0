"""The smallest input that a network can take."""

from __future__ import annotations

from dataclasses import dataclass, replace

from convsmith.analysis.field.axis import Axis
from convsmith.analysis.field.fields import image_input
from convsmith.analysis.field.propagation import propagate
from convsmith.errors import ConvsmithError, GraphError, UsageError
from convsmith.graph import Graph, Output, Shape

__all__ = ["SmallestInput", "smallest_input"]

_SCANNED = 2048
"""Up to this size every one is tried, because sizes that fit may have others between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallestInput:
    """The smallest sizes of the image axes for which a layer exists.

    Attributes:
        layer: The layer; empty: all of them.
        size: Per image axis.
        limited_by: Per image axis: what is wrong with an input one pixel smaller; empty when it
            is the field that would not fit, or when the input cannot be smaller at all.
    """

    layer: str
    size: tuple[int, ...]
    limited_by: tuple[str, ...]


def smallest_input(
    graph: Graph,
    layer: str | None = None,
    input: str | None = None,  # noqa: A002
    *,
    unclipped: bool = False,
) -> SmallestInput:
    """Returns the smallest input for which a layer has an output.

    Axis by axis, while the others keep the size that the graph has. A classifier whose last
    layer is made for one size has no choice; ask for the layer before it.

    Args:
        graph: The network.
        layer: The name of a value; without it, every layer must exist.
        input: The input; without it, the first with image axes.
        unclipped: Whether one output of the layer must see its whole (local) field inside of
            the input, too.

    Raises:
        GraphError: If there is no such layer or input.
        UsageError: If the field of the layer is not known, or no size is large enough.

    >>> from convsmith.graph import parse
    >>> graph = parse("3@224 > conv 8 7/2 > maxpool 3/2 > conv 8 3")
    >>> smallest_input(graph).size, smallest_input(graph, "conv2", unclipped=True).size
    ((19, 19), (19, 19))
    >>> smallest_input(parse("3@224 > conv 8 7/2 p3 > maxpool 3/2 p1")).size
    (1, 1)
    """
    name = image_input(graph, input)
    if layer is not None and layer not in graph.shapes:
        raise GraphError(f"the network has no value {layer!r}")
    if unclipped and layer is None:
        if not graph.outputs:
            raise GraphError("the network has no output", remedy="name a layer")
        layer = graph.outputs[0].value
    part = graph if layer is None else _up_to(graph, layer)
    found: list[int] = []
    limits: list[str] = []
    for axis in range(len(graph.shape(name)) - 2):
        size, limit = _smallest(part, name, axis)
        if unclipped and layer is not None:
            fits = _smallest_around(part, name, axis, layer, size)
            size, limit = (fits, "") if fits > size else (size, limit)
        found.append(size)
        limits.append(limit)
    return SmallestInput(layer=layer or "", size=tuple(found), limited_by=tuple(limits))


def _up_to(graph: Graph, layer: str) -> Graph:
    """The part of a network that a value depends on."""
    needed = {layer}
    nodes = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            nodes.append(node)
    outputs = (Output(name=layer, value=layer),)
    return replace(graph, nodes=tuple(reversed(nodes)), outputs=outputs, origin=None)


def _sized(graph: Graph, name: str, axis: int, size: int) -> Graph:
    shape = list(graph.shape(name))
    shape[axis + 2] = size
    return graph.with_inputs({name: tuple(shape)})


def _problem(graph: Graph, name: str, axis: int, size: int) -> str:
    """What is wrong with a size; empty if nothing is."""
    try:
        shapes = _sized(graph, name, axis, size).shapes
    except ConvsmithError as error:
        return str(error)
    for node in graph.nodes:
        for made in node.outputs:
            shape = shapes[made]
            if shape is not None and 0 in shape:
                return f"{node.name}: nothing is left of its input"
    return ""


def _smallest(graph: Graph, name: str, axis: int) -> tuple[int, str]:
    now = graph.shape(name)[axis + 2]
    limit = ""
    for size in range(1, min(now, _SCANNED) + 1):
        problem = _problem(graph, name, axis, size)
        if not problem:
            return size, limit
        limit = problem
    low, high = _SCANNED, now  # `low` does not fit, `high` does
    while high - low > 1:
        middle = (low + high) // 2
        problem = _problem(graph, name, axis, middle)
        low, high = (middle, high) if problem else (low, middle)
        limit = problem or limit
    return high, limit


def _smallest_around(graph: Graph, name: str, axis: int, layer: str, smallest: int) -> int:
    """The smallest size for which some output of a layer sees nothing but the input."""
    line = _line(graph, name, axis, layer)
    size = max(smallest, line.size)
    longest = 4 * size + 4 * abs(line.step) + 64
    while size <= longest:
        if not _problem(graph, name, axis, size):
            made = _sized(graph, name, axis, size)
            if _fits(_line(made, name, axis, layer), made.shape(layer), axis, size):
                return size
        size += 1
    raise UsageError(
        f"no output sees its whole field in an input of up to {longest} pixels", place=layer
    )


def _line(graph: Graph, name: str, axis: int, layer: str) -> Axis:
    state = propagate(graph, name, [Axis()] * (len(graph.shape(name)) - 2)).get(layer)
    if state is None or state.unknown or state.tracks[axis].unbounded:
        reason = state.reason if state is not None else "it does not depend on the input"
        raise UsageError(f"its field is not known: {reason}", place=layer)
    return state.tracks[axis].where


def _fits(line: Axis, shape: Shape, axis: int, size: int) -> bool:
    count = shape[axis + 2] if axis + 2 < len(shape) else 1
    for phase, interval in enumerate(line.phases[:count]):
        if interval is None:
            continue
        first, last = interval
        turns = max(0, -(first // line.step)) if line.step > 0 else 0
        position = phase + turns * len(line.phases)
        moved = turns * line.step
        if position < count and first + moved >= 0 and last + moved < size:
            return True
    return False
