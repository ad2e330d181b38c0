"""What the table of exports works with: a writer of nodes, and one job per node of a graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from convsmith.errors import SourceError
from convsmith.graph import Constant, Graph, Node, Shape
from convsmith.graph.operators import roles
from convsmith.sources.onnx.storing import Elements
from convsmith.sources.onnx.tensors import Array, element_type_code

__all__ = ["Job", "Writer"]


class Writer:
    """Collects ONNX nodes and the tensors that they need.

    Args:
        taken: Names that tensors may not have.

    Attributes:
        nodes: The nodes so far.
        headers: The initializers so far, without elements.
        elements: Their elements.
        opset: The oldest opset that has all of the nodes.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.headers: list[onnx.TensorProto] = []
        self.elements: dict[str, Elements] = {}
        self.opset = 0
        self._taken = set(taken)
        self._node_names: set[str] = set()

    def fresh(self, name: str) -> str:
        """Returns a name for a tensor that no other has, and takes it."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate

    def node(
        self,
        kind: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        *,
        name: str,
        since: int = 1,
        **attributes: Any,
    ) -> None:
        """Adds a node; ``since`` is the first opset that has it in this form."""
        self.opset = max(self.opset, since)
        number, unique = 1, name
        while unique in self._node_names:
            number += 1
            unique = f"{name}_{number}"
        self._node_names.add(unique)
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), unique, **given))

    def tensor(self, name: str, data: Array, dtype: str) -> str:
        """Adds an initializer and returns the name that it gets."""
        name = self.fresh(name)
        self.headers.append(
            TensorProto(name=name, data_type=element_type_code(dtype), dims=data.shape)
        )
        self.elements[name] = Elements(data=data, dtype=dtype)
        return name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One node of a graph to be written.

    Attributes:
        writer: Where to.
        graph: The graph.
        node: The node.
        inputs: The tensors that its inputs are.
        parameters: The tensors that its parameters are.
        outputs: The tensors that its outputs become.
        dtype: The element type that its weights are written as.
        kind: The element type of its first input.
    """

    writer: Writer
    graph: Graph
    node: Node
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: str
    kind: str

    def shape(self, index: int = 0) -> Shape:
        """The shape of an input."""
        return self.graph.shape(self.node.inputs[index])

    def parameter(self, role: str) -> Constant:
        """The constant in a role."""
        return self.graph.parameter(self.node, role)

    def values(self, role: str) -> Array:
        """The elements in a role."""
        data = self.parameter(role).data
        if data is None:
            raise SourceError(f"its {role} has no elements")
        return data

    def tensor_of(self, role: str) -> str:
        """The tensor in a role."""
        return self.parameters[roles(self.node.op).index(role)]

    def step(
        self, kind: str, *inputs: str, since: int = 1, name: str = "", **attributes: Any
    ) -> str:
        """Adds a node before the last one; returns the name of what it makes."""
        made = self.writer.fresh(f"{self.node.name}.{name or kind.lower()}")
        self.writer.node(kind, inputs, [made], name=made, since=since, **attributes)
        return made

    def finish(self, kind: str, *inputs: str, since: int = 1, **attributes: Any) -> None:
        """Adds the node that makes the outputs; it has the name of the node in the graph."""
        self.writer.node(kind, inputs, self.outputs, name=self.node.name, since=since, **attributes)

    def integers(self, name: str, values: Iterable[int]) -> str:
        """A list of integers as a tensor."""
        data = np.array(list(values), np.int64)
        return self.writer.tensor(f"{self.node.name}.{name}", data, "int64")

    def floats(self, name: str, data: Array, dtype: str = "") -> str:
        """Real numbers as a tensor, of the type of the weights unless told otherwise."""
        return self.writer.tensor(f"{self.node.name}.{name}", data, dtype or self.dtype)
