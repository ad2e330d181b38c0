"""Where in a network the field outgrows the input.

Richter, Byttner, Krumnack, Wiedenroth, Schallner & Shenk, "(Input) Size Matters for CNN
Classifiers" (2021), and Richter et al., "Should You Go Deeper?" (2021): a layer whose input sees
more than the image cannot bring together anything new. The first such layer is the border layer;
where there are several paths, the one that sees least decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convsmith.analysis.field.axis import Axis
from convsmith.analysis.field.fields import Field
from convsmith.analysis.field.propagation import propagate
from convsmith.graph import Graph, Shape
from convsmith.graph.operators import Conv, DeformConv, Pool

__all__ = ["Coverage", "coverage", "unproductive_layers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Which layers are the first whose field is as large as the input.

    Attributes:
        axes: Per image axis: the first layer whose local field is as long as the axis.
        local: The first layer whose local field is as large as the input along all axes.
        everywhere: The first layer that sees the whole input at once, through a gate or a
            global pooling.
    """

    axes: tuple[str | None, ...]
    local: str | None
    everywhere: str | None


def coverage(graph: Graph, fields: Mapping[str, Field], image: Shape) -> Coverage:
    """Returns the layers where the field first covers the input.

    Args:
        graph: The network.
        fields: The field of every value.
        image: The sizes of the image axes of the input.

    >>> from convsmith.analysis.field import fields
    >>> from convsmith.graph import parse
    >>> graph = parse("1@8 > conv 1 5 p2 > conv 1 5 p2 > gap")
    >>> found = coverage(graph, fields(graph), (8, 8))
    >>> found.local, found.everywhere
    ('conv2', 'gap1')
    """
    axes: list[str | None] = [None] * len(image)
    local = everywhere = None
    for node in graph.nodes:
        field = fields.get(node.name)
        if field is None or field.status == "unknown":
            continue
        if everywhere is None and field.everywhere and all(field.everywhere):
            everywhere = node.name
        if field.status == "global":
            continue
        covered = [
            line is not None and line.size >= extent
            for line, extent in zip(field.axes, image, strict=True)
        ]
        for axis, done in enumerate(covered):
            if done and axes[axis] is None:
                axes[axis] = node.name
        if local is None and all(covered):
            local = node.name
    return Coverage(axes=tuple(axes), local=local, everywhere=everywhere)


def unproductive_layers(graph: Graph, input: str) -> tuple[str, ...]:  # noqa: A002
    """Returns the windows whose input sees more than the image already; the first is the border.

    Counted along the path that sees least, so that a residual connection keeps layers
    productive. A window of one element brings nothing together and is never listed.

    >>> from convsmith.graph import parse
    >>> unproductive_layers(parse("1@8 > conv 1 5 p2 > conv 1 5 p2 > conv 1 3 p1 > conv 1 1"), "x")
    ('conv3',)
    """
    image = graph.shape(input)[2:]
    states = propagate(graph, input, [Axis()] * len(image), narrowest=True)
    found = []
    for node in graph.nodes:
        if not isinstance(node.op, Conv | Pool | DeformConv):
            continue
        state = states.get(node.inputs[0])
        if state is None or state.unknown:
            continue
        windows = [
            (track.where.size, extent)
            for track, extent in zip(state.tracks, image, strict=True)
            if track.axis is not None
            and 2 <= track.axis < 2 + len(node.op.kernel)
            and node.op.kernel[track.axis - 2] > 1
            and not track.where.is_constant
        ]
        if windows and all(size > extent for size, extent in windows):
            found.append(node.name)
    return tuple(found)
