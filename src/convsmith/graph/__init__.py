"""A network as data: operators, graphs, shapes and the notation."""

from __future__ import annotations

from convsmith.graph.graph import (
    Constant,
    Graph,
    GraphBuilder,
    Input,
    Node,
    Output,
    Provenance,
)
from convsmith.graph.parsing import parse
from convsmith.graph.printing import operator_text, shape_text
from convsmith.graph.shape import Shape

__all__ = [
    "Constant",
    "Graph",
    "GraphBuilder",
    "Input",
    "Node",
    "Output",
    "Provenance",
    "Shape",
    "operator_text",
    "parse",
    "shape_text",
]
