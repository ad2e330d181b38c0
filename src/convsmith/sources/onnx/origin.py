"""What is kept of an ONNX file so that it can be written back with little changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import AttributeProto

from convsmith.graph import Graph

__all__ = ["OnnxOrigin", "captured_names", "subgraphs"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxOrigin:
    """The file that a graph was read from.

    Attributes:
        model: The model, without the bytes in ``raw``; its local functions are inlined.
        raw: The bytes of initializers that hold them in the file itself, by name.
        folder: Where its external data lies.
        graph: The graph as it was read.
        tensors: The ONNX tensor that each value of the graph is.
        places: For every node of the graph: the index of the ONNX node that it came from.
    """

    model: onnx.ModelProto = field(repr=False)
    raw: Mapping[str, bytes] = field(repr=False)
    folder: Path
    graph: Graph = field(repr=False)
    tensors: Mapping[str, str] = field(repr=False)
    places: Mapping[str, int] = field(repr=False)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs inside a node (the branches of ``If``, the body of ``Loop``)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Returns the tensors that the graphs inside a node take from around it."""
    names: dict[str, None] = {}
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            for name in (*inner.input, *captured_names(inner)):
                if name and name not in own:
                    names.setdefault(name)
            own.update(inner.output)
        names.update((out.name, None) for out in graph.output if out.name not in own)
    return tuple(names)
