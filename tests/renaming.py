"""Networks under names that nobody would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convsmith.graph import Graph, Provenance

__all__ = ["renamed"]


def renamed(graph: Graph, names: Sequence[str], replaces: Sequence[str] = ("",) * 4) -> Graph:
    """Returns the same network under other names, whatever they are.

    Args:
        graph: A network without layers of several outputs.
        names: The new names of its layers, in their order.
        replaces: Which layer each stands for after a rewrite; empty: none.
    """
    new = dict(zip((node.name for node in graph.nodes), names, strict=True))
    nodes = [
        replace(
            node,
            name=new[node.name],
            inputs=tuple(new.get(name, name) for name in node.inputs),
            provenance=Provenance(replaces=origin),
        )
        for node, origin in zip(graph.nodes, replaces, strict=False)
    ]
    outputs = [replace(end, value=new[end.value]) for end in graph.outputs]
    return replace(graph, nodes=tuple(nodes), outputs=tuple(outputs))
