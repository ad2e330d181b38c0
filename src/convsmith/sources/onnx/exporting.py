"""Writes a graph from scratch: every node through the table of exports."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Constant, Graph, Node
from convsmith.graph.operators import Identity
from convsmith.graph.types import result_types
from convsmith.sources.onnx import emitting_places, emitting_sampling  # fill the table
from convsmith.sources.onnx.emitting import emit
from convsmith.sources.onnx.jobs import Job, Writer
from convsmith.sources.onnx.storing import Elements
from convsmith.sources.onnx.tensors import FLOATING, Array, element_type_code

__all__ = ["elements_of", "export"]

_ = emitting_places, emitting_sampling

_OPSET = 18


def export(graph: Graph) -> tuple[onnx.ModelProto, dict[str, Elements]]:
    """Makes a model of a graph, at opset 18 or the oldest later one that expresses it.

    Returns:
        The model, whose initializers have no elements yet, and their elements by name.

    Raises:
        SourceError: If weights are missing or ONNX cannot express an operator.
    """
    return _Export(graph).model()


def elements_of(name: str, constant: Constant) -> Array:
    """Returns the elements of a constant.

    Raises:
        SourceError: If it has none.
    """
    if constant.data is None:
        raise SourceError(
            f"{name!r} has no weights, only shapes",
            remedy="load the network from a file or a module that has its weights",
        )
    return constant.data


class _Export:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inputs = {value.name for value in graph.inputs}
        self.writer = Writer({*self.inputs, *(output.name for output in graph.outputs)})
        self.tensors = {name: name for name in self.inputs}
        self.types = {value.name: value.dtype for value in graph.inputs}
        self.dtype = self._weights_type()
        for output in graph.outputs:
            if output.value in graph.producers and output.value not in self.tensors:
                self.tensors[output.value] = output.name

    def _weights_type(self) -> str:
        """The floating type of the network: that of its weights, else of its inputs."""
        used = [name for node in self.graph.nodes for name in node.parameters]
        types = [self.graph.constants[name].dtype for name in (*used, *self.graph.constants)]
        types += [value.dtype for value in self.graph.inputs]
        return next((dtype for dtype in types if dtype in FLOATING), "float32")

    def model(self) -> tuple[onnx.ModelProto, dict[str, Elements]]:
        for node in self.graph.nodes:
            try:
                self._emit(node)
            except ConvsmithError as error:
                raise error.at(node.name) from None
        for output in self.graph.outputs:
            made = self._tensor(output.value)
            if made != output.name:
                self.writer.node("Identity", [made], [output.name], name=output.name)
        used = {name for node in self.writer.nodes for name in node.input}
        graph = helper.make_graph(
            self.writer.nodes,
            Path(self.graph.source).stem or "network",
            [
                helper.make_tensor_value_info(v.name, element_type_code(v.dtype), v.shape)
                for v in self.graph.inputs
            ],
            [
                helper.make_tensor_value_info(
                    output.name,
                    element_type_code(self.types[output.value]),
                    self.graph.shapes[output.value],
                )
                for output in self.graph.outputs
            ],
        )
        graph.initializer.extend(header for header in self.writer.headers if header.name in used)
        opset = max(_OPSET, self.writer.opset)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=helper.find_min_ir_version_for(imports),
            producer_name="convsmith",
        )
        return model, {name: held for name, held in self.writer.elements.items() if name in used}

    def _emit(self, node: Node) -> None:
        for value in node.outputs:
            if value not in self.tensors:
                self.tensors[value] = self.writer.fresh(value)
        inputs = tuple(self._tensor(value) for value in node.inputs)
        parameters = tuple(self._tensor(name) for name in node.parameters)
        cast = isinstance(node.op, Identity) and node.op.kind == "cast"
        kind = self.dtype if cast else self.types[node.inputs[0]]
        made = (kind,) if cast else result_types(node.op, [self.types[v] for v in node.inputs])
        types = {self.types[value] for value in (*node.inputs, *node.parameters)} & set(FLOATING)
        if len(types) > 1:
            raise SourceError(
                f"it mixes {' and '.join(sorted(types))}",
                remedy="give the whole network one element type",
            )
        self.types.update(zip(node.outputs, made, strict=True))
        emit(
            node.op,
            Job(
                writer=self.writer,
                graph=self.graph,
                node=node,
                inputs=inputs,
                parameters=parameters,
                outputs=tuple(self.tensors[value] for value in node.outputs),
                dtype=self.dtype if cast or kind not in FLOATING else kind,
                kind=self.types[node.inputs[0]],
            ),
        )

    def _tensor(self, value: str) -> str:
        """The tensor of a value; a constant is written when it is first used."""
        if value not in self.tensors:
            constant = self.graph.constants[value]
            self.types[value] = constant.dtype
            data = elements_of(value, constant)
            self.tensors[value] = self.writer.tensor(value, data, constant.dtype)
        return self.tensors[value]
