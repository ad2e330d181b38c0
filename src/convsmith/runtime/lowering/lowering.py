"""The lowering of a whole network: what every row of the table works with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convsmith.conv.choice import DEFAULT_TOLERANCE
from convsmith.conv.fusing import Fusion, fusions
from convsmith.conv.measuring import outgrows_caches
from convsmith.conv.plan import Prepared, aligned
from convsmith.conv.spec import ConvSpec, Layout
from convsmith.errors import ConvsmithError, DataError
from convsmith.graph import Graph, Node, Shape, operator_text
from convsmith.graph.evaluate import apply, node_arguments
from convsmith.graph.operators import Operator
from convsmith.graph.types import result_types
from convsmith.parallel import one_blas_thread
from convsmith.results import Progress
from convsmith.runtime.kernels.kernel import Kernel, address
from convsmith.runtime.kernels.maps import Instruction, Map
from convsmith.runtime.steps import Address, Phase, Step, Storage, Tensor, Word

__all__ = ["Lowered", "Lowering", "Options", "PreparedKey", "lower", "lower_graph"]

Array = NDArray[Any]
PreparedKey = tuple[str, str, ConvSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a network is compiled.

    Attributes:
        tolerance: The largest error of one convolution, as in :func:`convsmith.conv2d`.
        algorithm: ``auto``, ``exact`` or a name, for every convolution that takes it.
        tune: Whether to measure what this machine has not measured.
        layout: How images lie inside.
        progress: Called convolution by convolution.
    """

    tolerance: float = DEFAULT_TOLERANCE
    algorithm: str = "auto"
    tune: bool = False
    layout: Layout = "channels_first"
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A network for inputs of certain sizes, as steps.

    Attributes:
        graph: The network at these sizes.
        layout: How images lie inside.
        steps: In order.
        inputs: By name, the tensors that the caller's arrays are; others stay arrays.
        outputs: By public name, the tensor to return, or the name of a value that is none.
        held: Arrays of values that depend on no input, by name.
    """

    graph: Graph
    layout: Layout
    steps: tuple[Step, ...]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor | str]
    held: dict[str, Array]


@dataclass(slots=True, eq=False)
class _Expression:
    """An elementwise step whose kernel is written when nothing more joins it."""

    step: Step
    out: Tensor
    operands: list[tuple[Tensor, tuple[int, ...]]]
    body: list[Instruction]
    nodes: list[Node] = field(default_factory=list)


@singledispatch
def lower(op: Operator, low: Lowering, node: Node) -> bool:
    """Adds the steps of a node; returns whether it did.

    The table's default declines everything.
    """
    return False


def lower_graph(
    graph: Graph, options: Options, prepared: dict[PreparedKey, Prepared] | None = None
) -> Lowered:
    """Lowers a network.

    Args:
        graph: With weights, at the sizes of its inputs.
        options: How.
        prepared: Convolutions with packed weights that are there already; new ones are added.

    Raises:
        DataError: If a weight is absent.
        UnsupportedOperatorError: If an operator cannot be computed.
    """
    low = Lowering(graph, options, {} if prepared is None else prepared)
    with one_blas_thread():  # weights are packed by many small products
        for index, node in enumerate(graph.nodes):
            if options.progress is not None:
                options.progress(f"compiling, {options.layout}", index, len(graph.nodes))
            try:
                low.add(node)
            except ConvsmithError as error:
                raise error.at(node.name) from None
        return low.finished()


class Lowering:
    """A network while it is lowered."""

    def __init__(
        self, graph: Graph, options: Options, prepared: dict[PreparedKey, Prepared]
    ) -> None:
        self.graph, self.options, self.prepared = graph, options, prepared
        self.last = options.layout == "channels_last"
        self.cold = outgrows_caches(sum(4 * weight.size for weight in graph.constants.values()))
        self.steps: list[Step] = []
        self.tensors: dict[str, Tensor] = {}
        self.types: dict[str, str] = {}
        self.folded: dict[str, Array] = {}  # values that do not depend on any input
        self.inputs: dict[str, Tensor] = {}
        self._converted: dict[tuple[str, bool], Tensor] = {}
        self._expressions: dict[str, _Expression] = {}
        self._fusions = fusions(graph)
        self._pending: dict[str, Fusion] = {}  # fused nodes that wait for their last one
        self._returned = {output.value for output in graph.outputs}
        for index, value in enumerate(graph.inputs):
            self.types[value.name] = value.dtype
            size = math.prod(value.shape)
            if value.dtype == "float32" and size:
                storage = Storage(size, "input", index)
                tensor = Tensor(shape=value.shape, last=False, storage=storage)
                self.tensors[value.name] = self.inputs[value.name] = tensor

    # Nodes ----------------------------------------------------------------------------

    def add(self, node: Node) -> None:
        """Adds what a node becomes."""
        self._note_types(node)
        fusion = self._pending.pop(node.name, None)
        if fusion is not None:
            if node.name == fusion.output:
                self._lower_fusion(fusion)
            return
        if all(used in self.folded or used in self.graph.constants for used in node.inputs):
            self._fold(node)
            return
        fusion = self._fusions.get(node.name)
        if fusion is not None and self.compilable(node):
            if len(fusion.nodes) == 1:
                self._lower_fusion(fusion)
            else:
                self._pending.update({part.name: fusion for part in fusion.nodes[1:]})
            return
        known = all(self.graph.shapes[made] is not None for made in node.outputs)
        if known and self.compilable(node) and lower(node.op, self, node):
            return
        self.compute_in_numpy(node)

    def _lower_fusion(self, fusion: Fusion) -> None:
        if lower(fusion.node.op, self, fusion.node):
            return
        for node in fusion.nodes:  # one by one, as if nothing had been found
            if node is fusion.node or not lower(node.op, self, node):
                self.compute_in_numpy(node)

    def fusion(self, node: Node) -> Fusion:
        """Returns what is fused into a convolution or linear layer."""
        return self._fusions[node.name]

    def compilable(self, node: Node) -> bool:
        """Whether all that a node reads and makes is float32, and none of it empty."""
        for used in node.inputs:
            constant = self.constant(used)
            if constant is not None:
                if constant.dtype.kind not in "fiub" or not constant.size:
                    return False
            elif used not in self.tensors:
                return False
        shapes = [self.graph.shapes[made] for made in node.outputs]
        return all(
            shape is not None and math.prod(shape) and self.types[made] == "float32"
            for made, shape in zip(node.outputs, shapes, strict=True)
        )

    def _note_types(self, node: Node) -> None:
        given = [self.types[used] for used in node.inputs if used in self.types]
        default = given[0] if given else "float32"
        kinds = [self._type(used, default) for used in node.inputs]
        self.types.update(zip(node.outputs, result_types(node.op, kinds), strict=True))

    def _type(self, used: str, default: str) -> str:
        if used in self.types:
            return self.types[used]
        dtype = self.graph.constants[used].dtype
        return default if "float" in dtype and "float" in default else dtype

    # Values ---------------------------------------------------------------------------

    def constant(self, name: str) -> Array | None:
        """Returns the array of a value that depends on no input, or nothing.

        Raises:
            DataError: If it is a constant without data.
        """
        if name in self.folded:
            return self.folded[name]
        constant = self.graph.constants.get(name)
        if constant is None:
            return None
        if constant.data is None:
            raise DataError(
                f"its tensor {name!r} has no weights, only a shape", remedy="load a trained network"
            )
        return constant.data

    def parameters(self, node: Node) -> list[Array]:
        """Returns the constants of a node, in the order of ``roles(op)``."""
        found = [self.constant(name) for name in node.parameters]
        return [array for array in found if array is not None]

    def shape(self, value: str) -> Shape:
        """Returns the shape of a value."""
        return self.graph.shape(value)

    def readers(self, value: str) -> int:
        """Returns how many nodes read a value; the caller counts as one."""
        return len(self.graph.consumers.get(value, ())) + (value in self._returned)

    def make(self, value: str, *, last: bool = False) -> Tensor:
        """Makes the tensor of a value, in memory of its own."""
        shape = self.shape(value)
        tensor = Tensor(
            shape=shape, last=last and len(shape) > 2, storage=Storage(math.prod(shape))
        )
        self.tensors[value] = tensor
        return tensor

    def alias(self, value: str, tensor: Tensor) -> None:
        """Lets a value be memory that is there already."""
        self.tensors[value] = tensor

    def hold(self, array: Array) -> Storage:
        """Returns a storage of constant elements."""
        data = aligned(max(array.size, 1))
        data[: array.size] = array.ravel()
        return Storage(array.size, "constant", data=data)

    def tensor(self, value: str) -> Tensor:
        """Returns a value as a tensor, however it lies; constants too."""
        found = self.tensors.get(value)
        if found is None:
            array = self.constant(value)
            assert array is not None
            storage = self.hold(np.asarray(array, np.float32))
            found = self.tensors[value] = Tensor(shape=array.shape, last=False, storage=storage)
        return found

    def dense(self, value: str, *, last: bool) -> Tensor:
        """Returns a value in a layout, after a change of layout where that is needed."""
        tensor = self.tensor(value)
        last = last and len(tensor.shape) > 2
        if tensor.last == last:
            return tensor
        if tensor.shape[1] == 1 or math.prod(tensor.shape[2:]) == 1:
            return replace(tensor, last=last)  # the same memory in both layouts
        found = self._converted.get((value, last))
        if found is None:
            found = Tensor(shape=tensor.shape, last=last, storage=Storage(tensor.elements))
            name = f"{value} ({'last' if last else 'first'})"
            self.copy(name, tensor.shape, [(found, found.strides, tensor, tensor.strides)])
            self.steps[-1].text = "change of layout"
            self._converted[value, last] = found
        return found

    # Steps ----------------------------------------------------------------------------

    def describe(self, node: Node) -> str:
        """Returns an operator for people."""
        return operator_text(node.op)

    def kernel(
        self,
        node: Node,
        kernel: Kernel,
        out: Tensor,
        words: Sequence[Word],
        *,
        algorithm: str,
        keeps: tuple[Any, ...] = (),
    ) -> None:
        """Adds a step of one kernel; its first argument is the output."""
        phase = Phase(function=address(kernel), items=kernel.items, words=(out.address, *words))
        self.step(node, [phase], algorithm=algorithm, out=out, keeps=keeps)

    def step(
        self,
        node: Node,
        phases: Sequence[Phase],
        *,
        algorithm: str,
        out: Tensor,
        **more: Any,
    ) -> Step:
        """Adds a step of several phases."""
        made = Step(
            name=node.name,
            nodes=(node.name,),
            text=self.describe(node),
            algorithm=algorithm,
            layout=layout_of(out),
            phases=tuple(phases),
            **more,
        )
        self.steps.append(made)
        return made

    def copy(
        self,
        name: str,
        sizes: Sequence[int],
        parts: Sequence[tuple[Tensor, Sequence[int], Tensor, Sequence[int]]],
        node: Node | None = None,
    ) -> None:
        """Adds a step that copies boxes: all of ``sizes``, given (to, strides, from, strides)."""
        phases = [
            copy_phase(sizes, to, to_strides, source, strides)
            for to, to_strides, source, strides in parts
        ]
        self.steps.append(
            Step(
                name=name,
                nodes=() if node is None else (node.name,),
                text="" if node is None else self.describe(node),
                algorithm="copy",
                layout=layout_of(parts[0][0]),
                phases=tuple(phases),
            )
        )

    def map(
        self,
        node: Node,
        operands: Sequence[str],
        body: Sequence[Instruction],
        *,
        held: Sequence[tuple[Array, int]] = (),
    ) -> None:
        """Adds a function of elements, together with the one before it where that is possible.

        Args:
            node: What it is.
            operands: Values, with broadcasting.
            body: The function; registers count operands, then ``held``, then instructions.
            held: Further operands: constants, and along which axis of the output they lie.
        """
        shape = self.shape(node.name)
        tensors = [self.tensor(value) for value in operands]
        full = [t.last for t in tensors if t.shape == shape and t.storage.kind != "constant"]
        last = (self.last if len(set(full)) > 1 else full[0]) if full else self.last
        last = last and len(shape) > 2
        expression = _Expression(
            step=Step(name=node.name), out=self.make(node.name, last=last), operands=[], body=[]
        )
        registers: dict[int, int] = {}
        joined = {
            value: self._expressions[value]
            for value in dict.fromkeys(operands)
            if value in self._expressions
            and self._expressions[value].out.shape == shape
            and self._expressions[value].out.last == last
            and self.readers(value) == 1
        }
        # First all operands, then all instructions: registers are numbered in that order.
        count = sum(len(e.operands) for e in joined.values()) + len(held)
        count += sum(value not in joined for value in operands)
        results: dict[str, int] = {}
        for value, before in joined.items():
            base = len(expression.operands)
            start = count + len(expression.body)
            moved = len(before.operands)

            def renumbered(
                register: int, base: int = base, start: int = start, moved: int = moved
            ) -> int:
                return base + register if register < moved else start + register - moved

            expression.operands += before.operands
            expression.body += [
                replace(one, registers=tuple(map(renumbered, one.registers))) for one in before.body
            ]
            expression.nodes += before.nodes
            results[value] = start + len(before.body) - 1
            self.steps.remove(before.step)
            del self.tensors[value], self._expressions[value]
        for place, value in enumerate(operands):
            if value in results:
                registers[place] = results[value]
                continue
            registers[place] = len(expression.operands)
            tensor = self.tensor(value)
            if tensor.shape == shape and tensor.last != last:
                tensor = self.dense(value, last=last)
            expression.operands.append((tensor, _broadcast(tensor, shape)))
        for place, (array, axis) in enumerate(held):
            registers[len(operands) + place] = len(expression.operands)
            flat = np.asarray(array, np.float32).ravel()
            tensor = Tensor(shape=flat.shape, last=False, storage=self.hold(flat))
            strides = [0] * len(shape)
            strides[axis] = 1 if flat.size > 1 else 0
            expression.operands.append((tensor, tuple(strides)))
        given = len(operands) + len(held)
        first = count + len(expression.body) - given
        for one in body:
            moved_registers = tuple(registers[r] if r < given else first + r for r in one.registers)
            expression.body.append(replace(one, registers=moved_registers))
        assert len(expression.operands) == count
        expression.nodes.append(node)
        step = expression.step
        step.nodes = tuple(part.name for part in expression.nodes)
        step.text = " > ".join(self.describe(part) for part in expression.nodes)
        step.algorithm, step.layout = "map", layout_of(expression.out)
        self.steps.append(step)
        self._expressions[node.name] = expression

    def compute_in_numpy(self, node: Node) -> None:
        """Adds a step that computes a node by its definition."""
        uses = {used: self.tensors[used] for used in node.inputs if used in self.tensors}
        given = {used: self.folded[used] for used in node.inputs if used in self.folded}
        makes: dict[str, Tensor] = {}
        others = [used for used in node.inputs if used not in uses and used not in given]
        for made in node.outputs:
            size = self.graph.shapes[made]
            if size is not None and math.prod(size) > 0 and self.types[made] == "float32":
                makes[made] = self.make(made)
            else:
                others.append(made)
        graph = self.graph

        def call(values: dict[str, Array]) -> dict[str, Array]:
            try:
                arguments, parameters = node_arguments(graph, node, {**given, **values})
                results = apply(node.op, arguments, parameters)
            except ConvsmithError as error:
                raise error.at(node.name) from None
            return dict(zip(node.outputs, results, strict=True))

        for name in (*node.parameters, *node.inputs):
            self.constant(name)  # its weights are there, or it says so now
        self.steps.append(
            Step(
                name=node.name,
                nodes=(node.name,),
                text=self.describe(node),
                algorithm="numpy",
                call=call,
                uses=uses,
                makes=makes,
                others=tuple(others),
            )
        )

    def _fold(self, node: Node) -> None:
        arguments, parameters = node_arguments(self.graph, node, self.folded)
        results = apply(node.op, arguments, parameters)
        self.folded.update(zip(node.outputs, results, strict=True))

    # The end --------------------------------------------------------------------------

    def finished(self) -> Lowered:
        """Writes the kernels that waited, and finds what is returned."""
        outputs: dict[str, Tensor | str] = {}
        held = dict(self.folded)
        for index, output in enumerate(self.graph.outputs):
            value = output.value
            constant = None if value in self.tensors else self.constant(value)
            if constant is not None:
                held[value] = constant
            if value not in self.tensors:
                outputs[output.name] = value
                continue
            tensor = self.dense(value, last=False)
            storage = tensor.storage
            whole = tensor.offset == 0 and storage.elements == tensor.elements
            if storage.kind == "arena" and storage.inside is None and whole:
                storage.kind, storage.index = "output", index
            else:
                made = Tensor(
                    shape=tensor.shape, last=False,
                    storage=Storage(tensor.elements, "output", index),
                )  # fmt: skip
                parts = [(made, made.strides, tensor, tensor.strides)]
                self.copy(f"{output.name} (output)", tensor.shape, parts)
                tensor = made
            outputs[output.name] = tensor
        for expression in self._expressions.values():
            out = expression.out
            kernel = Map.of(
                out.shape, out.strides, [s for _, s in expression.operands], expression.body
            )
            words = (out.address, *(tensor.address for tensor, _ in expression.operands))
            expression.step.phases = (
                Phase(function=address(kernel), items=kernel.items, words=words),
            )
        return Lowered(
            graph=self.graph,
            layout=self.options.layout,
            steps=tuple(self.steps),
            inputs=self.inputs,
            outputs=outputs,
            held=held,
        )


def layout_of(tensor: Tensor) -> str:
    """Returns how a tensor lies, or nothing if there is just one way."""
    if len(tensor.shape) < 3:
        return ""
    return "channels_last" if tensor.last else "channels_first"


def copy_phase(
    sizes: Sequence[int],
    to: Tensor,
    to_strides: Sequence[int],
    source: Tensor,
    strides: Sequence[int],
    *,
    to_offset: int = 0,
    offset: int = 0,
) -> Phase:
    """Returns the phase that copies a box from one tensor into another."""
    kernel = Map.of(sizes, to_strides, [strides])
    words = (
        Address(storage=to.storage, offset=to.offset + to_offset),
        Address(storage=source.storage, offset=source.offset + offset),
    )
    return Phase(function=address(kernel), items=kernel.items, words=words)


def _broadcast(tensor: Tensor, shape: Shape) -> tuple[int, ...]:
    """The strides of a tensor along the axes of the shape that it is broadcast to."""
    own = tensor.strides
    steps = [0 if size == 1 else step for size, step in zip(tensor.shape, own, strict=True)]
    return (*(0,) * (len(shape) - len(steps)), *steps)
