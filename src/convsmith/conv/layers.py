"""The convolutions of a network as specs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from convsmith.conv.fusing import fusions
from convsmith.conv.spec import ConvSpec, Layout
from convsmith.graph import Graph
from convsmith.graph import operators as operator_classes
from convsmith.graph.shape import resolve_padding

__all__ = ["ConvLayer", "convolutions", "spec_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvLayer:
    """One convolution of a network.

    Attributes:
        name: The node.
        spec: What it computes; a batch normalization and an activation that follow it alone are
            fused. A residual is not part of it.
    """

    name: str
    spec: ConvSpec


def convolutions(graph: Graph, *, layout: Layout = "channels_first") -> tuple[ConvLayer, ...]:
    """Returns the convolutions of a network, in its order; transposed ones are left out.

    Args:
        graph: The network; it needs no weights.
        layout: How the images would lie in memory.

    >>> from convsmith.graph import parse
    >>> [str(layer.spec) for layer in convolutions(parse("3@32 > conv 8 3 p1 > relu"))]
    ['3@32 > conv 8 3 p1 > relu']
    """
    found = []
    for fusion in fusions(graph).values():
        node = fusion.node
        if not isinstance(node.op, operator_classes.Conv) or node.op.transposed:
            continue
        shape = graph.shapes[node.inputs[0]]
        if shape is None:
            continue
        spec = spec_of(node.op, shape, layout=layout)
        if fusion.norm is not None:
            spec = replace(spec, bias=True)
        if fusion.add is None:
            spec = replace(spec, activation=fusion.activation)
        found.append(ConvLayer(name=node.name, spec=spec))
    return tuple(found)


def spec_of(
    op: operator_classes.Conv, shape: tuple[int, ...], *, layout: Layout = "channels_first"
) -> ConvSpec:
    """Returns the spec of a convolution for an input of shape (N, C, *size)."""
    return ConvSpec(
        batch=shape[0],
        size=shape[2:],
        channels=shape[1],
        filters=op.channels,
        kernel=op.kernel,
        stride=op.stride,
        dilation=op.dilation,
        padding=resolve_padding(op, shape[2:]),
        groups=op.groups,
        layout=layout,
        bias=op.bias,
    )
