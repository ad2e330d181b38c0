"""The convolutions of a network as specs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from convsmith.conv.spec import Activation, ConvSpec, Layout
from convsmith.graph import Graph, Node
from convsmith.graph import operators as operator_classes
from convsmith.graph.shape import resolve_padding

__all__ = ["ConvLayer", "convolutions", "spec_of"]

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "hardswish": "hardswish",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvLayer:
    """One convolution of a network.

    Attributes:
        name: The node.
        spec: What it computes; the activation that follows it alone is fused.
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
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for used in node.inputs:
            readers.setdefault(used, []).append(node)
    returned = {output.value for output in graph.outputs}
    found = []
    for node in graph.nodes:
        if not isinstance(node.op, operator_classes.Conv) or node.op.transposed:
            continue
        shape = graph.shapes[node.inputs[0]]
        if shape is None:
            continue
        spec = spec_of(node.op, shape, layout=layout)
        following = readers.get(node.name, [])
        if len(following) == 1 and node.name not in returned:
            match following[0].op:
                case operator_classes.Activation(kind=kind) if kind in _ACTIVATIONS:
                    spec = replace(spec, activation=_ACTIVATIONS[kind])
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
