"""Everything about a network in one table: costs, memory and receptive fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from convsmith.analysis.cost import UNSUPPORTED, Cost, Status, cost
from convsmith.analysis.field import Field, fields
from convsmith.errors import UsageError
from convsmith.graph import Graph, Node, Shape, operator_text
from convsmith.graph import operators as operator_classes
from convsmith.results import Result

__all__ = ["Analysis", "OutputValue", "Row", "Total", "Unsupported", "analyze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one node costs and sees.

    Attributes:
        name: The node.
        op: The class of its operator.
        text: The operator in the notation.
        inputs: Shapes of the values it reads, constants left out; ``None`` if unknown.
        outputs: Shapes of the values it makes.
        params: Distinct learnable scalars it uses.
        macs: Multiply-accumulate pairs, bias excluded.
        mults: Multiplications.
        adds: Additions.
        others: Comparisons, divisions, exponentials, roots.
        weight_bytes: Bytes of all its constants, stored statistics included.
        read_bytes: Bytes of the values it reads.
        write_bytes: Bytes of the values it makes, as if each were stored.
        status: ``counted``, ``free`` or ``unsupported``.
        rf: The receptive field of its (first) output.
    """

    name: str
    op: str
    text: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    params: int
    macs: int
    mults: int
    adds: int
    others: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int
    status: Status
    rf: Field

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON-ready data."""
        return {
            "name": self.name,
            "op": self.op,
            "text": self.text,
            "inputs": [shape and list(shape) for shape in self.inputs],
            "outputs": [shape and list(shape) for shape in self.outputs],
            "params": self.params,
            "macs": self.macs,
            "mults": self.mults,
            "adds": self.adds,
            "others": self.others,
            "flops": self.flops,
            "weight_bytes": self.weight_bytes,
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "status": self.status,
            "rf": self.rf.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over a network; shared tensors count once.

    ``peak_activation_bytes`` is the most that values alive at one time take, when the nodes run
    in their order and every value is dropped after its last use.
    """

    params: int
    macs: int
    mults: int
    adds: int
    others: int
    weight_bytes: int
    peak_activation_bytes: int

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others

    def to_dict(self) -> dict[str, int]:
        """Returns the sums as JSON-ready data."""
        return {
            "params": self.params,
            "macs": self.macs,
            "mults": self.mults,
            "adds": self.adds,
            "others": self.others,
            "flops": self.flops,
            "weight_bytes": self.weight_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputValue:
    """What the caller receives."""

    shape: Shape | None
    rf: Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A node whose costs are not known, and which totals therefore leave out."""

    name: str
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(Result):
    """What a network costs and sees; prints as a table.

    >>> from convsmith.graph import parse
    >>> analysis = analyze(parse("1@28 > conv 1 3 nobias > conv 1 3 nobias"))
    >>> [row.macs for row in analysis.rows], analysis.total.macs
    ([6084, 5184], 11268)
    """

    source: str
    inputs: Mapping[str, Shape]
    rows: tuple[Row, ...]
    total: Total
    outputs: Mapping[str, OutputValue]
    unsupported: tuple[Unsupported, ...]
    convention: str = "exact"

    def to_dict(self) -> dict[str, Any]:
        """Returns the analysis as JSON-ready data, schema ``convsmith.analysis/1``."""
        return {
            "schema": "convsmith.analysis/1",
            "source": self.source,
            "convention": self.convention,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "rows": [row.to_dict() for row in self.rows],
            "total": self.total.to_dict(),
            "outputs": {
                name: {"shape": value.shape and list(value.shape), "rf": value.rf.to_dict()}
                for name, value in self.outputs.items()
            },
            "unsupported": [{"name": item.name, "op": item.op} for item in self.unsupported],
        }


def analyze(graph: Graph) -> Analysis:
    """Counts the exact cost of every node, and finds what it sees of the input.

    Args:
        graph: A network, as ``convsmith.load`` returns it; it needs no weights.

    Raises:
        UsageError: If it is no graph.
        ShapeError: If its sizes do not fit.

    >>> from convsmith.graph import parse
    >>> analyze(parse("3@224 > conv 64 7/2 p3")).total.macs
    118013952
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"analyze needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.analyze(convsmith.load(source))",
        )
    sight = fields(graph)
    sizes = _value_bytes(graph)
    rows = tuple(_row(graph, node, sight, sizes) for node in graph.nodes)
    used = {name for node in graph.nodes for name in _constants(graph, node)}
    return Analysis(
        source=graph.source,
        inputs={value.name: value.shape for value in graph.inputs},
        rows=rows,
        total=Total(
            params=_parameters(graph, used),
            macs=sum(row.macs for row in rows),
            mults=sum(row.mults for row in rows),
            adds=sum(row.adds for row in rows),
            others=sum(row.others for row in rows),
            weight_bytes=_constant_bytes(graph, used),
            peak_activation_bytes=_peak(graph, sizes),
        ),
        outputs={
            output.name: OutputValue(shape=graph.shapes[output.value], rf=sight[output.value])
            for output in graph.outputs
        },
        unsupported=tuple(
            Unsupported(name=row.name, op=_kind(graph.by_name[row.name]))
            for row in rows
            if row.status == "unsupported"
        ),
    )


def _kind(node: Node) -> str:
    if isinstance(node.op, operator_classes.Unsupported):
        return node.op.kind
    return type(node.op).__name__


def _row(graph: Graph, node: Node, sight: Mapping[str, Field], sizes: Mapping[str, int]) -> Row:
    constants = _constants(graph, node)
    values = [used for used in node.inputs if used not in graph.constants]
    count = _cost(graph, node)
    return Row(
        name=node.name,
        op=type(node.op).__name__,
        text=operator_text(node.op),
        inputs=tuple(graph.shapes[value] for value in values),
        outputs=tuple(graph.shapes[value] for value in node.outputs),
        params=_parameters(graph, constants),
        macs=count.macs,
        mults=count.mults,
        adds=count.adds,
        others=count.others,
        weight_bytes=_constant_bytes(graph, constants),
        read_bytes=sum(sizes[value] for value in dict.fromkeys(values)),
        write_bytes=sum(sizes[value] for value in node.outputs),
        status=count.status,
        rf=sight[node.name],
    )


def _cost(graph: Graph, node: Node) -> Cost:
    inputs = tuple(s for used in node.inputs if (s := graph.shapes[used]) is not None)
    output = graph.shapes[node.name]
    if output is None or len(inputs) < len(node.inputs):
        return UNSUPPORTED
    return cost(node.op, inputs, output)


def _constants(graph: Graph, node: Node) -> set[str]:
    """All constants of a node, its parameters and those among its inputs."""
    return {*node.parameters, *(used for used in node.inputs if used in graph.constants)}


def _parameters(graph: Graph, names: Iterable[str]) -> int:
    return sum(c.size for name in names if (c := graph.constants[name]).learnable)


def _constant_bytes(graph: Graph, names: Iterable[str]) -> int:
    return sum(_bytes(graph.constants[n].shape, graph.constants[n].dtype) for n in names)


# Memory ---------------------------------------------------------------------------


def _bytes(shape: Shape, dtype: str) -> int:
    """Bytes of a tensor; the digits of a type's name are its bits."""
    bits = re.search(r"\d+", dtype)
    return -(-math.prod(shape) * (int(bits.group()) if bits else 8) // 8)


def _value_bytes(graph: Graph) -> dict[str, int]:
    """Bytes of every value; a node's outputs have the type of its first input.

    A value whose shape is not known has 0. A cast from integers makes float32.
    """
    types = {value.name: value.dtype for value in graph.inputs}
    sizes = {value.name: _bytes(value.shape, value.dtype) for value in graph.inputs}
    for node in graph.nodes:
        dtype = next((types[used] for used in node.inputs if used in types), "float32")
        match node.op:
            case operator_classes.Identity(kind="cast") if "float" not in dtype:
                dtype = "float32"
        for made in node.outputs:
            shape = graph.shapes[made]
            types[made] = dtype
            sizes[made] = 0 if shape is None else _bytes(shape, dtype)
    return sizes


def _peak(graph: Graph, sizes: Mapping[str, int]) -> int:
    """The most bytes alive at one time, when nodes run in order."""
    kept = {output.value for output in graph.outputs}
    last = {used: node.name for node in graph.nodes for used in node.inputs}
    alive = sum(sizes[value.name] for value in graph.inputs)
    peak = alive
    for node in graph.nodes:
        alive += sum(sizes[made] for made in node.outputs)
        peak = max(peak, alive)
        done = {*node.inputs, *node.outputs} - kept
        alive -= sum(sizes[v] for v in done if v in sizes and last.get(v, node.name) == node.name)
    return peak
