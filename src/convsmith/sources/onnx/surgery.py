"""Changes an ONNX model in place: what a graph still has in common with its file stays as it was.

A node of the graph is *kept* when its operator and its constants are those that were read; its
ONNX node is then copied, with other inputs where the layers before it have changed. A new node
is written through the table of exports. The last of the new nodes that replace a layer makes
the tensor that the layer made, so that everything behind it stays the same.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import onnx

from convsmith.errors import ConvsmithError
from convsmith.graph import Constant, Graph, Node
from convsmith.graph.operators import (
    Activation,
    Concat,
    Conv,
    Elementwise,
    GlobalPool,
    Identity,
    Linear,
    MatMul,
    Norm,
    Operator,
    Pool,
    Unary,
)
from convsmith.sources.onnx.emitting import emit
from convsmith.sources.onnx.exporting import elements_of
from convsmith.sources.onnx.inputs import resolve_inputs
from convsmith.sources.onnx.jobs import Job, Writer
from convsmith.sources.onnx.opening import opset_of
from convsmith.sources.onnx.origin import OnnxOrigin, captured_names, subgraphs
from convsmith.sources.onnx.storing import Elements
from convsmith.sources.onnx.tensors import FLOATING, read_tensor

__all__ = ["operate"]


class _Unfit(Exception):  # noqa: N818 - a verdict: write the graph from scratch instead
    """The graph has changed in a way that surgery cannot follow."""


def operate(graph: Graph, origin: OnnxOrigin) -> tuple[onnx.ModelProto, dict[str, Elements]] | None:
    """Returns the changed model and the elements of its initializers.

    Returns ``None`` when the changes are of another kind than surgery can do.

    Raises:
        SourceError: If a new layer has no weights.
    """
    try:
        return _Surgery(graph, origin).model()
    except _Unfit:
        return None


def _flexible(op: Operator) -> bool:
    """Whether the ONNX form of a new node is the same for inputs of every size."""
    match op:
        case Conv(same=same, dilation=dilation) | Pool(same=same, dilation=dilation):
            return (same is None or set(dilation) == {1}) and op.rounding == "floor"
        case Identity(kind=kind):
            return kind != "cast"
    return isinstance(
        op, Activation | Concat | Elementwise | GlobalPool | Linear | MatMul | Norm | Unary
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Item:
    """A node for the new model, and where it wants to stand."""

    proto: onnx.NodeProto
    key: tuple[int, int]

    @property
    def uses(self) -> Iterable[str]:
        return (name for name in (*self.proto.input, *captured_names(self.proto)) if name)


class _Surgery:
    def __init__(self, graph: Graph, origin: OnnxOrigin) -> None:
        self.graph, self.origin, self.before = graph, origin, origin.graph
        self._check_interface()
        self.kept = self._kept_places()
        self.new = [n for n in graph.nodes if origin.places.get(n.name) not in self.kept]
        protos = origin.model.graph.node
        made = set(origin.places.values())
        self.folded = [i for i in range(len(protos)) if i not in made]
        taken = {value.name for value in origin.model.graph.input}
        taken |= {name for node in protos for name in node.output}
        for index in (*self.kept, *self.folded):
            taken.update(protos[index].input)
            taken.update(captured_names(protos[index]))
            for inner in subgraphs(protos[index]):
                taken.update(name for node in inner.node for name in node.output)
        self.writer = Writer(taken)
        self.tensors = {value.name: value.name for value in graph.inputs}
        self.extra: list[_Item] = []

    # What is the same -----------------------------------------------------------------

    def _check_interface(self) -> None:
        def interface(graph: Graph) -> list[object]:
            return [*((v.name, v.dtype) for v in graph.inputs), *(o.name for o in graph.outputs)]

        if interface(self.graph) != interface(self.before):
            raise _Unfit
        sizes = {value.name: value.shape for value in self.graph.inputs}
        declared = [value for value in self.origin.model.graph.input if value.name in sizes]
        try:
            resolve_inputs(declared, sizes)
            self.shapes = self.before.with_inputs(sizes).shapes
        except ConvsmithError:
            raise _Unfit from None

    def _kept_places(self) -> set[int]:
        """The ONNX nodes all of whose nodes are in the graph as they were read."""
        changed = set()
        for before in self.before.nodes:
            place = self.origin.places[before.name]
            now = self.graph.by_name.get(before.name)
            if now is None or not self._same(before, now):
                changed.add(place)
        return set(self.origin.places.values()) - changed

    def _same(self, before: Node, now: Node) -> bool:
        return (
            before.op == now.op
            and len(before.inputs) == len(now.inputs)
            and all(
                self._same_constant(a, b)
                for a, b in zip(before.parameters, now.parameters, strict=True)
            )
            and all(
                a == b
                for a, b in zip(before.inputs, now.inputs, strict=True)
                if self._internal(a) or self._internal(b)
            )
        )

    def _same_constant(self, before: str, now: str) -> bool:
        return _same_data(self.before.constants[before], self.graph.constants[now])

    def _internal(self, value: str) -> bool:
        """Whether a value lies inside one ONNX node, where no tensor has it."""
        known = value in self.before.producers or value in self.before.constants
        return known and value not in self.origin.tensors

    # Tensors --------------------------------------------------------------------------

    def _name_outputs(self) -> None:
        """Gives the tensors of the file to the values that stand for them."""
        tensors, before = self.origin.tensors, self.before
        for node in self.graph.nodes:
            if self.origin.places.get(node.name) in self.kept:
                self.tensors.update((v, tensors[v]) for v in node.outputs if v in tensors)
        new = {value for node in self.new for value in node.outputs}
        claimed = set(self.tensors.values())
        free = {v: t for v, t in tensors.items() if v in before.producers and t not in claimed}
        public = {output.name for output in before.outputs}
        for output in self.graph.outputs:
            if output.value in new - set(self.tensors) and output.name not in claimed:
                self.tensors[output.value] = output.name
        for node in reversed(self.new):
            replaced = node.provenance.replaces or node.name
            tensor = free.pop(replaced, None)
            if tensor is None or tensor in public or node.name in self.tensors:
                continue
            if self.graph.shapes[node.name] == self.shapes[replaced]:
                self.tensors[node.name] = tensor
        for node in self.new:
            for value in node.outputs:
                if value not in self.tensors:
                    self.tensors[value] = self.writer.fresh(value)

    def _tensor(self, value: str, dtype: str = "") -> str:
        """The tensor of a value; a constant that the file does not have is written."""
        if value not in self.tensors:
            constant = self.graph.constants.get(value)
            if constant is None:  # inside an ONNX node that was kept
                raise _Unfit
            before = self.before.constants.get(value)
            if before and value in self.origin.tensors and _same_data(before, constant):
                self.tensors[value] = self.origin.tensors[value]
            else:
                floating = constant.dtype in FLOATING and dtype in FLOATING
                self.tensors[value] = self.writer.tensor(
                    value, elements_of(value, constant), dtype if floating else constant.dtype
                )
        return self.tensors[value]

    # Nodes ----------------------------------------------------------------------------

    def _copy(self, node: Node) -> _Item:
        """The ONNX node of a node that was kept, with the inputs that it has now."""
        index = self.origin.places[node.name]
        proto = onnx.NodeProto()
        proto.CopyFrom(self.origin.model.graph.node[index])
        renamed: dict[str, str] = {}
        before = self.before.by_name[node.name]
        for old, now in zip(before.inputs, node.inputs, strict=True):
            if self._internal(old):
                continue
            was, tensor = self.origin.tensors[old], self._tensor(now)
            if renamed.setdefault(was, tensor) != tensor:
                raise _Unfit
        renamed = {was: tensor for was, tensor in renamed.items() if was != tensor}
        if set(renamed) & set(captured_names(proto)):
            raise _Unfit
        for position, name in enumerate(proto.input):
            proto.input[position] = renamed.get(name, name)
        return _Item(proto=proto, key=(index, 0))

    def _emit(self, node: Node) -> list[_Item]:
        if not _flexible(node.op):
            raise _Unfit
        replaced = node.provenance.replaces or node.name
        dtype = self._dtype(replaced)
        start = len(self.writer.nodes)
        inputs = tuple(self._tensor(value) for value in node.inputs)
        job = Job(
            writer=self.writer,
            graph=self.graph,
            node=node,
            inputs=inputs,
            parameters=tuple(self._tensor(name, dtype) for name in node.parameters),
            outputs=tuple(self.tensors[value] for value in node.outputs),
            dtype=dtype,
            kind=dtype,
        )
        try:
            emit(node.op, job)
        except ConvsmithError as error:
            raise error.at(node.name) from None
        place = self.origin.places.get(replaced, len(self.origin.model.graph.node))
        made = self.writer.nodes[start:]
        return [_Item(proto=proto, key=(place, start + i + 1)) for i, proto in enumerate(made)]

    def _dtype(self, replaced: str) -> str:
        """The type of the weights of the layer that is replaced, else of the network."""
        layer = self.before.by_name.get(replaced)
        used = layer.parameters if layer else ()
        names = (*used, *(name for node in self.before.nodes for name in node.parameters))
        types = (self.before.constants[name].dtype for name in names)
        return next((dtype for dtype in types if dtype in FLOATING), "float32")

    def model(self) -> tuple[onnx.ModelProto, dict[str, Elements]]:
        self._name_outputs()
        items: list[_Item] = []
        seen: set[int] = set()
        new = {node.name for node in self.new}
        for node in self.graph.nodes:
            if node.name in new:
                items += self._emit(node)
                continue
            item = self._copy(node)
            if item.key[0] in seen:  # one ONNX node that is several of ours
                first = next(i for i in items if i.key == item.key)
                items[items.index(first)] = _merged(first, item, self.origin)
            else:
                seen.add(item.key[0])
                items.append(item)
        for output in self.graph.outputs:
            tensor = self._tensor(output.value)
            if tensor != output.name:
                self.writer.node("Identity", [tensor], [output.name], name=output.name)
                last = len(self.origin.model.graph.node) + 1
                items.append(_Item(proto=self.writer.nodes[-1], key=(last, len(items))))
        if self.writer.opset > opset_of(self.origin.model):
            raise _Unfit
        return self._assemble(_in_order(self._with_folded(items), self._given()))

    # The whole ------------------------------------------------------------------------

    def _given(self) -> set[str]:
        graph = self.origin.model.graph
        stored = {tensor.name for tensor in (*graph.initializer, *self.writer.headers)}
        return stored | {value.name for value in graph.input}

    def _with_folded(self, items: list[_Item]) -> list[_Item]:
        """Adds the nodes that were evaluated while reading and that others still need."""
        producers = {
            name: index
            for index in self.folded
            for name in self.origin.model.graph.node[index].output
        }
        open_names = [name for item in items for name in item.uses]
        open_names += [output.name for output in self.graph.outputs]
        added: set[int] = set()
        while open_names:
            index = producers.get(open_names.pop())
            if index is None or index in added:
                continue
            added.add(index)
            item = _Item(proto=self.origin.model.graph.node[index], key=(index, 0))
            items.append(item)
            open_names.extend(item.uses)
        return items

    def _assemble(self, items: list[_Item]) -> tuple[onnx.ModelProto, dict[str, Elements]]:
        used = {name for item in items for name in item.uses}
        used |= {output.name for output in self.graph.outputs}
        made = {name for item in items for name in item.proto.output}
        model = onnx.ModelProto()
        model.CopyFrom(self.origin.model)
        graph = model.graph
        initialized = {tensor.name for tensor in graph.initializer}
        elements: dict[str, Elements] = {}
        stored = []
        fresh = {header.name for header in self.writer.headers}
        for tensor in graph.initializer:
            if tensor.name not in used or tensor.name in fresh:
                continue
            stored.append(tensor)
            if tensor.name in self.origin.raw:
                elements[tensor.name] = Elements(data=self.origin.raw[tensor.name])
            elif tensor.data_location == onnx.TensorProto.EXTERNAL:
                data, dtype = read_tensor(tensor, self.origin.folder)
                if data is not None:
                    elements[tensor.name] = Elements(data=data, dtype=dtype)
                del tensor.external_data[:]
                tensor.data_location = onnx.TensorProto.DEFAULT
        stored += [header for header in self.writer.headers if header.name in used]
        elements |= {name: e for name, e in self.writer.elements.items() if name in used}
        inputs = [v for v in graph.input if v.name not in initialized or v.name in used]
        infos = [value for value in graph.value_info if value.name in made]
        _replace(graph.node, [item.proto for item in items])
        _replace(graph.initializer, stored)
        _replace(graph.input, inputs)
        _replace(graph.value_info, infos)
        return model, elements


def _same_data(before: Constant, now: Constant) -> bool:
    return before == now and before.data is now.data


def _merged(first: _Item, second: _Item, origin: OnnxOrigin) -> _Item:
    """One ONNX node from two of its nodes: each has renamed some of the inputs."""
    original = origin.model.graph.node[first.key[0]].input
    for position, was in enumerate(original):
        names = {first.proto.input[position], second.proto.input[position]} - {was}
        if len(names) > 1:
            raise _Unfit
        if names:
            first.proto.input[position] = names.pop()
    return first


def _in_order(items: list[_Item], given: set[str]) -> list[_Item]:
    """Sorts the nodes so that each follows what it uses, otherwise as they want to stand."""
    makers = {name: index for index, item in enumerate(items) for name in item.proto.output if name}
    waiting: list[set[int]] = []
    users: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        needs = set()
        for name in item.uses:
            if name in makers:
                needs.add(makers[name])
            elif name not in given:
                raise _Unfit
        waiting.append(needs)
        for need in needs:
            users.setdefault(need, []).append(index)
    ready = [(items[i].key, i) for i, needs in enumerate(waiting) if not needs]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, index = heapq.heappop(ready)
        ordered.append(items[index])
        for user in users.get(index, ()):
            waiting[user].discard(index)
            if not waiting[user]:
                heapq.heappush(ready, (items[user].key, user))
    if len(ordered) < len(items):
        raise _Unfit
    return ordered


def _replace(field: Any, values: Iterable[Any]) -> None:
    """Sets a repeated field of messages; the values may be some of its own."""
    copies = [copy.deepcopy(value) for value in values]
    del field[:]
    field.extend(copies)
