"""A network as data: inputs, nodes in execution order, outputs and constants.

Everything is immutable. A change makes a new graph that shares the rest.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from convsmith.errors import ConvsmithError, GraphError, ShapeError
from convsmith.graph.operators import (
    Activation,
    Operator,
    Unsupported,
    arity,
    results,
    roles,
)
from convsmith.graph.rules import Rules
from convsmith.graph.shape import Shape, infer_shapes, parameter_shapes
from convsmith.graph.slots import filled_directly
from convsmith.results import Displayed

__all__ = ["Constant", "Graph", "GraphBuilder", "Input", "Node", "Output", "Provenance"]

Array = npt.NDArray[np.generic]


@cache
def _type_name(dtype: np.dtype[np.generic]) -> str:
    """NumPy's name of an element type, which it puts together every time it is asked."""
    return dtype.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A value that the caller supplies."""

    name: str
    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A value that the caller receives, under its public name."""

    name: str
    value: str


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A tensor that belongs to the network; ``data`` may be absent (shapes alone).

    Attributes:
        shape: Its sizes.
        dtype: NumPy's name of its element type.
        learnable: Whether it counts as parameters.
        data: The elements; not part of equality.
    """

    shape: Shape
    dtype: str = "float32"
    learnable: bool = True
    data: Array | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, data: Array, *, learnable: bool = True) -> Constant:
        """Wraps an array without copying it."""
        return cls(shape=data.shape, dtype=_type_name(data.dtype), learnable=learnable, data=data)

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a node came from.

    Attributes:
        path: The module path or the name of the node in its file.
        origin: The operator's name there (``Conv``, ``aten.convolution``).
        replaces: After a rewrite: the name of the layer that this node stands in for.
    """

    path: str = ""
    origin: str = ""
    replaces: str = ""


_UNKNOWN = Provenance()


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator applied to values.

    Attributes:
        name: Unique in its graph; also the name of its first output.
        op: What it does.
        inputs: Names of values: inputs, outputs of earlier nodes, or constants.
        parameters: Names of its constants, in the order of ``roles(op)``.
        provenance: Where it came from; not part of equality.
    """

    name: str
    op: Operator
    inputs: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    provenance: Provenance = field(default=_UNKNOWN, compare=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values it makes: its own, then ``name:1``, ``name:2``, ..."""
        count = results(self.op)
        if count == 1:
            return (self.name,)
        return (self.name, *(f"{self.name}:{i}" for i in range(1, count)))

    def output(self, index: int) -> str:
        """The name of one of the values it makes."""
        return f"{self.name}:{index}" if index else self.name


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph(Displayed):
    """A network. Build one with :class:`GraphBuilder` or ``convsmith.load``.

    ``str(graph)`` is the listing of :mod:`convsmith.graph.printing` and parses back to an
    equal graph. Two graphs are equal when their structure is; weights do not take part.

    Attributes:
        inputs: What the caller supplies.
        nodes: In an order in which every node follows what it uses.
        outputs: What the caller receives.
        constants: Weights and other tensors by name.
        source: What it was read from, for messages and reports.
        origin: A handle that the source which read the graph needs to write it back.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    source: str = ""
    origin: object | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        constants = dict(self.constants)
        object.__setattr__(self, "constants", MappingProxyType(constants))
        known = set(constants)
        for value in self.inputs:
            _define(known, value.name)
        names: set[str] = set()
        for node in self.nodes:
            if node.name in names:
                raise GraphError("two nodes have this name", place=node.name)
            names.add(node.name)
            for used in node.inputs:
                if used not in known:
                    raise GraphError(f"input {used!r} is not known yet", place=node.name)
            for used, role in zip(node.parameters, roles(node.op), strict=True):
                if used not in constants:
                    raise GraphError(f"its {role} {used!r} is missing", place=node.name)
            for made in node.outputs:
                if made in known:
                    raise GraphError("two values have this name", place=made)
                known.add(made)
        _check_outputs(self.outputs, known)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return (self.inputs, self.nodes, self.outputs, dict(self.constants)) == (
            other.inputs,
            other.nodes,
            other.outputs,
            dict(other.constants),
        )

    def __hash__(self) -> int:
        return hash((self.inputs, self.nodes, self.outputs))

    def with_origin(self, origin: object) -> Graph:
        """The same network with another handle of its source; nothing is checked again."""
        return _checked(**{**self.__dict__, "origin": origin})

    def __str__(self) -> str:
        from convsmith.graph.printing import listing

        return listing(self)

    @cached_property
    def shapes(self) -> Mapping[str, Shape | None]:
        """The shape of every value and constant; ``None`` where it cannot be known.

        Raises:
            ShapeError: If sizes do not fit, with the name of the node.
        """
        shapes: dict[str, Shape | None] = {n: c.shape for n, c in self.constants.items()}
        shapes.update((value.name, value.shape) for value in self.inputs)
        for node in self.nodes:
            known = [shapes[used] for used in node.inputs]
            shapes.update(zip(node.outputs, apply_operator(node.op, known, node.name), strict=True))
            _check_parameters(node, known, self.constants)
        return MappingProxyType(shapes)

    def shape(self, value: str) -> Shape:
        """The shape of one value.

        Raises:
            ShapeError: If it cannot be known, because of an unsupported operator before it.
        """
        shape = self.shapes[value]
        if shape is None:
            raise ShapeError("its shape is not known", place=value)
        return shape

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """The nodes by name."""
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that makes each value."""
        return MappingProxyType({value: node for node in self.nodes for value in node.outputs})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """The nodes that use each value."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                users.setdefault(value, []).append(node)
        return MappingProxyType({value: tuple(nodes) for value, nodes in users.items()})

    def parameter(self, node: Node, role: str) -> Constant:
        """The constant that a node has in a role (``weight``, ``bias``, ...)."""
        return self.constants[node.parameters[roles(node.op).index(role)]]

    def with_inputs(self, shapes: Mapping[str, Shape]) -> Graph:
        """The same network for inputs of other sizes; returns ``self`` when nothing changes."""
        unknown = set(shapes) - {value.name for value in self.inputs}
        if unknown:
            have = ", ".join(value.name for value in self.inputs)
            raise GraphError(f"no input named {sorted(unknown)[0]!r}", remedy=f"it has {have}")
        if all(shapes.get(value.name, value.shape) == value.shape for value in self.inputs):
            return self
        inputs = tuple(replace(v, shape=shapes.get(v.name, v.shape)) for v in self.inputs)
        return replace(self, inputs=inputs)


def _checked(**attributes: object) -> Graph:
    """A graph of attributes, found ones included, that need not be checked."""
    graph = object.__new__(Graph)
    graph.__dict__.update(attributes)
    return graph


def _check_outputs(outputs: Iterable[Output], known: Container[str]) -> None:
    public: set[str] = set()
    for output in outputs:
        _define(public, output.name)
        if output.value not in known:
            raise GraphError(f"output {output.value!r} is not made by any node")


def _define(known: set[str], name: str) -> None:
    if name in known:
        raise GraphError("two values have this name", place=name)
    known.add(name)


_SHAPES = Rules(infer_shapes.dispatch)

_LONGEST = 2**63 - 1
"""Sizes that grow with every layer would take all time and memory as numbers alone."""


def apply_operator(op: Operator, inputs: list[Shape | None], name: str) -> tuple[Shape | None, ...]:
    """Applies the shape table; what follows an unknown shape is unknown.

    Raises:
        ShapeError: If the inputs are too many, too few or do not fit, or an axis would be
            longer than a tensor can be; names the node.
    """
    least, most = arity(op)
    if not least <= len(inputs) <= (len(inputs) if most is None else most):
        wanted = f"{least}" if most is not None else f"at least {least}"
        raise ShapeError(
            f"{type(op).__name__} takes {wanted} input{'s' if least > 1 else ''},"
            f" not {len(inputs)}",
            place=name,
        )
    if isinstance(op, Unsupported):
        return op.shapes
    known = inputs if None not in inputs else [shape for shape in inputs if shape is not None]
    if len(known) < len(inputs):
        return (None,) * results(op)
    try:
        made = _SHAPES[type(op)](op, *known)
    except ConvsmithError as error:
        raise error.at(name) from None
    for shape in made:
        if shape and max(shape) > _LONGEST:
            raise ShapeError(
                "an axis would have more than 2^63 - 1 elements",
                place=name,
                remedy="use smaller sizes: no tensor can be longer",
            )
    return made


def _check_parameters(
    node: Node, inputs: list[Shape | None], constants: Mapping[str, Constant]
) -> None:
    names = roles(node.op)
    if not names and not node.parameters:
        return
    for name, role in zip(node.parameters, names, strict=True):
        if name not in constants:
            raise GraphError(f"its {role} {name!r} is missing", place=node.name)
    known = [shape for shape in inputs if shape is not None]
    if len(known) < len(inputs):
        return
    wanted = parameter_shapes(node.op, *known)
    for name, want, role in zip(node.parameters, wanted, names, strict=True):
        have = constants[name].shape
        if have == want:
            continue
        shared_slope = role == "weight" and have == (1,) and isinstance(node.op, Activation)
        if not shared_slope:
            raise ShapeError(
                f"its {role} has shape {have}, the layer needs {want}",
                place=node.name,
                remedy="check the number of input channels",
            )


class GraphBuilder:
    """Puts a graph together node by node, checking sizes as it goes.

    >>> from convsmith.graph.operators import Linear
    >>> builder = GraphBuilder()
    >>> x = builder.input("x", (1, 4))
    >>> y = builder.add(Linear(features=2), x, name="fc")
    >>> builder.build(y).shape("fc")
    (1, 2)
    """

    def __init__(self) -> None:
        self.shapes: dict[str, Shape | None] = {}
        self._inputs: list[Input] = []
        self._nodes: list[Node] = []
        self._constants: dict[str, Constant] = {}
        self._names: set[str] = set()

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """Adds an input and returns its name."""
        self._take(name)
        self._inputs.append(Input(name=name, shape=shape, dtype=dtype))
        self.shapes[name] = shape
        return name

    def constant(self, name: str, constant: Constant) -> str:
        """Adds a constant and returns its name."""
        self._take(name)
        self._constants[name] = constant
        self.shapes[name] = constant.shape
        return name

    def has_constant(self, name: str) -> bool:
        """Whether there is a constant with this name already."""
        return name in self._constants

    def add(
        self,
        op: Operator,
        *inputs: str,
        name: str,
        parameters: Iterable[str] | None = None,
        provenance: Provenance | None = None,
    ) -> str:
        """Adds a node and returns the name of its (first) output.

        Args:
            op: What it does.
            *inputs: Names of the values it uses.
            name: Its name, which must be new.
            parameters: Names of constants by role; without it, constants without data named
                ``name.role`` are made.
            provenance: Where it came from.

        Raises:
            ShapeError: If the sizes do not fit; the message names the node.
        """
        return self.add_all(op, *inputs, name=name, parameters=parameters, provenance=provenance)[0]

    def add_all(
        self,
        op: Operator,
        *inputs: str,
        name: str,
        parameters: Iterable[str] | None = None,
        provenance: Provenance | None = None,
    ) -> tuple[str, ...]:
        """Like :meth:`add`, for operators with several outputs: returns all their names."""
        sizes = self.shapes
        known = []
        for used in inputs:
            if used not in sizes:
                raise GraphError(f"input {used!r} is not known yet", place=name)
            known.append(sizes[used])
        shapes = apply_operator(op, known, name)
        if parameters is None:
            parameters = self._make_parameters(op, known, name)
        node = Node(
            name=name,
            op=op,
            inputs=inputs,
            parameters=tuple(parameters),
            provenance=provenance or _UNKNOWN,
        )
        _check_parameters(node, known, self._constants)
        outputs = node.outputs
        for made, shape in zip(outputs, shapes, strict=True):
            self._take(made)
            sizes[made] = shape
        self._nodes.append(node)
        return outputs

    def _make_parameters(
        self, op: Operator, inputs: list[Shape | None], name: str
    ) -> Iterator[str]:
        names = roles(op)
        if not names:
            return
        known = [shape for shape in inputs if shape is not None]
        if len(known) < len(inputs):
            raise ShapeError("its input has no known shape", place=name)
        for role, shape in zip(names, parameter_shapes(op, *known), strict=True):
            learnable = role not in ("mean", "variance")
            yield self.constant(f"{name}.{role}", Constant(shape=shape, learnable=learnable))

    def build(
        self, *outputs: str | tuple[str, str], source: str = "", origin: object | None = None
    ) -> Graph:
        """Makes the graph; an output is the name of a value, or ``(public name, value)``.

        Raises:
            GraphError: If an output is not known.
        """
        pairs = [(o, o) if isinstance(o, str) else o for o in outputs]
        public = tuple(Output(name=name, value=value) for name, value in pairs)
        _check_outputs(public, self.shapes)
        # What was checked node by node need not be checked, or found, again.
        shapes = {name: self.shapes[name] for name in self._constants}
        shapes.update(self.shapes)
        return _checked(
            inputs=tuple(self._inputs),
            nodes=tuple(self._nodes),
            outputs=public,
            constants=MappingProxyType(dict(self._constants)),
            source=source,
            origin=origin,
            shapes=MappingProxyType(shapes),
        )

    def _take(self, name: str) -> None:
        if name in self._names:
            raise GraphError("two values have this name", place=name)
        self._names.add(name)
