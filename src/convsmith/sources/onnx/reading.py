"""Reads an ONNX file as a graph: node by node, through the tables of operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, helper

from convsmith.errors import ConvsmithError, SourceError
from convsmith.graph import Constant, Graph, GraphBuilder, Provenance, Shape
from convsmith.graph.collecting import collector_at_rest
from convsmith.graph.operators import Elementwise, Unsupported, results, roles
from convsmith.graph.types import result_types
from convsmith.sources.onnx.calls import Call, Entry, Inexpressible, Known, Row, Step
from convsmith.sources.onnx.folding import VIEWS, fold, has_rule
from convsmith.sources.onnx.inputs import resolve_inputs
from convsmith.sources.onnx.layers import LAYERS
from convsmith.sources.onnx.layout import LAYOUT
from convsmith.sources.onnx.opening import check_names, open_model, opset_of, skim_model
from convsmith.sources.onnx.origin import OnnxOrigin
from convsmith.sources.onnx.places import PLACES
from convsmith.sources.onnx.pointwise import POINTWISE
from convsmith.sources.onnx.sampling import SAMPLING
from convsmith.sources.onnx.tensors import Array, element_type, read_tensor
from convsmith.sources.onnx.unknown import UnknownShapes

__all__ = ["read_onnx"]

_ROWS: dict[str, Row] = {**LAYERS, **POINTWISE, **LAYOUT, **PLACES, **SAMPLING}
_STANDARD = ("", "ai.onnx")

# What a table row meets in a node that contradicts itself.
_MALFORMED = (ValueError, TypeError, IndexError, KeyError, ArithmeticError)


def read_onnx(
    path: str | PathLike[str],
    *,
    shapes: Mapping[str, Shape] | Shape | None = None,
    weights: bool = True,
) -> Graph:
    """Reads an ONNX file, opsets 7 to the newest that the onnx package knows.

    Every node of the file becomes a node of the graph with the same name. What cannot be
    expressed is kept as ``Unsupported`` under its own name; what is constant under the given
    sizes is evaluated. Constants are named ``node.role``, or as in the file when several nodes
    share them. ``bfloat16`` weights are read as ``float32`` elements that keep the name of
    their type.

    Args:
        path: The file.
        shapes: Input shapes by name, or one shape for the one input with dynamic sizes. A
            dynamic batch size alone becomes 1.
        weights: Whether to read the weights; without them, the graph can be analysed, but neither
            be run nor written.

    Raises:
        SourceError: If the file cannot be read, is not ONNX, is damaged, or leaves sizes open.
        ShapeError: If sizes do not fit; the message names the file and the node.

    >>> import tempfile
    >>> from onnx.parser import parse_model
    >>> text = "net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }"
    >>> model = parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx.save(model, Path(folder, "net.onnx"))
    ...     print(read_onnx(Path(folder, "net.onnx")))
    x : 3@8x8
    y = relu (x)
    return y
    """
    path = Path(path)
    skipped: Mapping[int, int] | None = None
    if weights:
        model = open_model(path)
    else:
        model, skipped = skim_model(path)
    try:
        with collector_at_rest():
            return _Reading(model, path, shapes, skipped).graph()
    except ConvsmithError as error:
        raise error.at(str(path)) from None


class _Reading:
    """One reading of one file; the tensors of the file are told apart from our values by name."""

    def __init__(
        self,
        model: onnx.ModelProto,
        path: Path,
        shapes: Mapping[str, Shape] | Shape | None,
        skipped: Mapping[int, int] | None = None,
    ) -> None:
        self.model, self.path, self.skipped = model, path, skipped
        self.opset = opset_of(model)
        self.builder = GraphBuilder()
        self.known: dict[str, Known] = {}
        self.values: dict[str, str] = {}
        self.dtypes: dict[str, str] = {}
        self.constants: dict[tuple[str, str], str] = {}
        self.places: dict[str, int] = {}
        self.entries = [Entry.of(node) for node in model.graph.node]
        self.uses = Counter(
            [name for entry in self.entries for name in (*entry.inputs, *entry.captured)]
        )
        own = [(e.name, e.kind, e.domain, *e.outputs, *e.attributes) for e in self.entries]
        check_names(map(type, chain(self.uses, *own)))
        self.wanted = {*self.uses, *(output.name for output in model.graph.output)}

        initialized = {tensor.name for tensor in model.graph.initializer}
        inputs = resolve_inputs(
            [value for value in model.graph.input if value.name not in initialized], shapes
        )
        for value in inputs:
            self.values[value.name] = self.builder.input(value.name, value.shape, value.dtype)
            self.dtypes[value.name] = value.dtype
        self.taken = set(self.values)
        self.names = self._plan_names()
        folder, left_out = path.parent, skipped or {}
        for index, tensor in enumerate(model.graph.initializer):
            data, dtype = read_tensor(tensor, folder, left_out.get(index))
            name = tensor.name
            self.known[name] = Known.stored(data, dtype, name)
        self.unknown = UnknownShapes(model, inputs)

    def graph(self) -> Graph:
        for index in range(len(self.entries)):
            self._read_node(index)
        outputs = []
        for output in self.model.graph.output:
            if output.name not in self.values and output.name not in self.known:
                raise SourceError(f"output {output.name!r} is not made by any node")
            outputs.append((output.name, self._value(output.name)))
        source = str(self.path)
        graph = self.builder.build(*outputs, source=source)
        if self.skipped is not None:
            return graph
        tensors = {value: tensor for tensor, value in self.values.items()}
        origin = OnnxOrigin(
            model=self.model,
            raw=_take_raw(self.model),
            folder=self.path.parent,
            graph=graph,
            tensors=tensors,
            places=self.places,
        )
        return graph.with_origin(origin)

    # Names --------------------------------------------------------------------------

    def _plan_names(self) -> list[str]:
        """A name for every node: its own if that is unique, else that of its first output."""
        count = Counter([entry.name for entry in self.entries])
        names = []
        for entry in self.entries:
            if entry.name and count[entry.name] == 1:
                name = self._unique(entry.name)
            else:
                name = self._unique(next(filter(None, entry.outputs), entry.kind))
            if len(entry.outputs) > 1:
                self.taken.update(f"{name}:{i}" for i in range(1, len(entry.outputs)))
            names.append(name)
        return names

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            number += 1
            candidate = f"{name}_{number}"
        self.taken.add(candidate)
        return candidate

    # Nodes --------------------------------------------------------------------------

    def _read_node(self, index: int) -> None:
        entry, name = self.entries[index], self.names[index]
        for used in (*entry.inputs, *entry.captured):
            if used and used not in self.values and used not in self.known:
                raise SourceError(f"its input {used!r} is not known yet", place=name)
        try:
            call = self._call(entry)
            if entry.domain in _STANDARD and self._fold(call):
                return
            step = self._step(call)
            outputs = self._add(step, call, name, index)
        except ConvsmithError as error:
            if not error.place.startswith(name):
                error.at(name)
            raise
        except _MALFORMED as error:
            raise SourceError(
                f"this {entry.kind} is malformed: {error}",
                place=name,
                remedy="check the file with onnx.checker",
            ) from None
        types = _types_made(call, step)
        for tensor, value, dtype in zip(entry.outputs, outputs, types, strict=False):
            if tensor in self.values or tensor in self.known:
                raise SourceError(f"tensor {tensor!r} is made twice", place=name)
            if tensor:
                self.values[tensor] = value
                self.dtypes[tensor] = dtype

    def _call(self, entry: Entry) -> Call:
        shapes: list[Shape | None] = []
        knowns: list[Known | None] = []
        dtypes: list[str] = []
        for name in entry.inputs:
            known = self.known.get(name)
            knowns.append(known)
            if known is not None:
                shapes.append(None if known.data is None else known.data.shape)
                dtypes.append(known.dtype)
            else:
                shapes.append(self.builder.shapes[self.values[name]] if name else None)
                dtypes.append(self.dtypes.get(name, ""))
        return Call(entry=entry, opset=self.opset, shapes=shapes, known=knowns, dtypes=dtypes)

    def _fold(self, call: Call) -> bool:
        """Evaluates a node that is constant; returns whether it was."""
        entry = call.entry
        output = entry.outputs[0] if entry.outputs else ""
        if entry.kind == "Constant":
            known = self._constant_node(entry.proto)
        elif not has_rule(entry.kind):
            return False
        else:
            data = fold(call)
            if data is None:
                return False
            before = call.known[0] if call.known else None
            learnable = (
                entry.kind in VIEWS and before is not None and before.learnable
            ) and data.dtype.kind == "f"
            keeps_type = (
                before is not None
                and before.data is not None
                and (data.dtype == before.data.dtype and entry.kind != "Cast")
            )
            dtype = before.dtype if before is not None and keeps_type else data.dtype.name
            same = entry.kind == "Identity" and before is not None
            stored = before.initializer if same and before is not None else ""
            known = Known(data=data, dtype=dtype, initializer=stored, learnable=learnable)
        if not output or output in self.values or output in self.known:
            raise SourceError(f"tensor {output!r} is made twice")
        self.known[output] = known
        return True

    def _constant_node(self, node: onnx.NodeProto) -> Known:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                data, dtype = read_tensor(attribute.t, self.path.parent)
                return Known.stored(data, dtype)
            if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                floats = np.array(helper.get_attribute_value(attribute), np.float32)
                return Known.stored(floats, "float32")
            if attribute.type in (AttributeProto.INT, AttributeProto.INTS):
                integers = np.array(helper.get_attribute_value(attribute), np.int64)
                return Known.stored(integers, "int64")
            if attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
                return Known.stored(None, "string")
        raise SourceError("this Constant has no value that can be read")

    def _step(self, call: Call) -> Step:
        """Looks the node up in the tables; what they do not express is unsupported."""
        entry = call.entry
        row = _ROWS.get(entry.kind) if entry.domain in _STANDARD else None
        if row is not None:
            try:
                step = row(call)
            except Inexpressible:
                return self._unsupported(call)
            if not any(name in self.wanted for name in entry.outputs[results(step.op) :] if name):
                return step
        return self._unsupported(call)

    def _unsupported(self, call: Call) -> Step:
        entry = call.entry
        kind = entry.kind if entry.domain in _STANDARD else f"{entry.domain}::{entry.kind}"
        used = tuple(index for index in range(call.count) if call.has(index))
        return Step(Unsupported(kind=kind, shapes=self.unknown.shapes(call)), used)

    def _add(self, step: Step, call: Call, name: str, place: int) -> tuple[str, ...]:
        """Puts a step, and the steps before it, into the graph."""
        entry = call.entry
        provenance = Provenance(path=entry.name or name, origin=entry.kind)
        return self._add_step(step, call, name, place, provenance, {})

    def _add_step(
        self,
        step: Step,
        call: Call,
        name: str,
        place: int,
        provenance: Provenance,
        done: dict[int, str],
    ) -> tuple[str, ...]:
        """Puts a step into the graph, after those before it that are not ``done`` yet."""
        entry = call.entry
        inputs = []
        for used in step.inputs:
            if isinstance(used, int):
                inputs.append(self._value(entry.inputs[used]))
            elif isinstance(used, Step):
                if id(used) not in done:
                    before = self._unique(f"{name}.0")
                    done[id(used)] = self._add_step(used, call, before, place, provenance, done)[0]
                inputs.append(done[id(used)])
            else:
                inputs.append(self._number(used, f"{name}.operand", call.dtypes[0]))
        if isinstance(step.op, Unsupported):
            inputs += [self._value(used) for used in entry.captured]
        parameters = self._parameters(step, name)
        self.places[name] = place
        made = self.builder.add_all(
            step.op, *inputs, name=name, parameters=parameters, provenance=provenance
        )
        if step.shift is None:
            return made
        shift = self._number(step.shift, f"{name}.operand", "int64")
        last = self._unique(f"{name}.add")
        self.places[last] = place
        op = Elementwise(kind="add")
        return *made[:-1], self.builder.add(op, made[-1], shift, name=last, provenance=provenance)

    # Constants ----------------------------------------------------------------------

    def _number(self, data: Array, name: str, dtype: str) -> str:
        """A constant that is not in the file; real numbers take the type of what they meet."""
        if data.dtype.kind != "f" or dtype in ("", "bfloat16"):
            dtype = dtype if data.dtype.kind == "f" and dtype else data.dtype.name
        else:
            data = data.astype(dtype)
        constant = Constant(shape=data.shape, dtype=dtype, learnable=False, data=self._kept(data))
        return self.builder.constant(self._unique(name), constant)

    def _value(self, tensor: str) -> str:
        """Our name of a tensor; a known one becomes a constant when it is first used."""
        value = self.values.get(tensor)
        if value is None:
            known = self.known[tensor]
            shape = known.data.shape if known.data is not None else ()
            constant = Constant(
                shape=shape,
                dtype=known.dtype,
                learnable=known.learnable,
                data=self._kept(known.data),
            )
            value = self.values[tensor] = self.builder.constant(self._unique(tensor), constant)
        return value

    def _kept(self, data: Array | None) -> Array | None:
        """The elements of a constant, unless the graph is to have none."""
        return data if self.skipped is None else None

    def _parameters(self, step: Step, name: str) -> list[str]:
        made: list[str] = []
        kept = self.skipped is None
        for weight, role in zip(step.weights, roles(step.op), strict=True):
            tensor, data = weight.tensor, weight.data
            key = (tensor, weight.form)
            stored = self.constants.get(key) if tensor else None
            if stored is None:
                constant = Constant(
                    shape=data.shape,
                    dtype=weight.dtype,
                    learnable=weight.learnable,
                    data=data if kept else None,
                )
                wanted = tensor if self.uses.get(tensor, 0) > 1 else f"{name}.{role}"
                stored = self.builder.constant(self._unique(wanted), constant)
                self.constants[key] = stored
            made.append(stored)
        return made


def _types_made(call: Call, step: Step) -> tuple[str, ...]:
    """The element types of what a node makes."""
    if isinstance(step.op, Unsupported):
        return ("",) * len(step.op.shapes)
    if call.entry.kind == "Cast":
        return (element_type(call.integer("to", onnx.TensorProto.UNDEFINED)),)
    return result_types(step.op, _input_types(call, step))


def _input_types(call: Call, step: Step) -> list[str]:
    return [
        call.dtypes[used]
        if isinstance(used, int)
        else _input_types(call, used)[0]
        if isinstance(used, Step)
        else used.dtype.name
        for used in step.inputs
    ] or [""]


def _take_raw(model: onnx.ModelProto) -> dict[str, bytes]:
    """Moves the bytes of the initializers out of the model; the arrays have their own."""
    raw = {}
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data"):
            raw[tensor.name] = tensor.raw_data
            tensor.ClearField("raw_data")
    return raw
