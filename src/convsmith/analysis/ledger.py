"""The ledger: one row for every node, with its exact costs and why it has them.

Every row is *counted*, *free* by decision, or *unsupported*; the last two say why. A tensor that
several nodes share is in the row of each, and once in every sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convsmith.analysis.cost import UNSUPPORTED, Cost, Status, cost
from convsmith.analysis.field import Field
from convsmith.analysis.memory import is_view, tensor_bytes
from convsmith.analysis.modules import module_path
from convsmith.graph import Constant, Graph, Node, Shape, operator_text
from convsmith.graph import operators as operator_classes
from convsmith.graph.rules import Rules
from convsmith.graph.slots import filled_directly

__all__ = [
    "Row",
    "Tensor",
    "Total",
    "intensity",
    "kind",
    "ledger",
    "parameters",
    "totals",
    "weight_bytes",
]


@filled_directly
@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A constant that a node uses.

    Attributes:
        name: Its name; the same name is the same tensor.
        params: Its learnable scalars; 0 for stored statistics and other constants.
        bytes: What it takes.
    """

    name: str
    params: int
    bytes: int


@filled_directly
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
        read_bytes: Bytes of the values it reads, each once; 0 for a view
            (:mod:`convsmith.analysis.memory`).
        write_bytes: Bytes of the values it makes; 0 for a view.
        status: ``counted``, ``free`` or ``unsupported``.
        rf: The receptive field of its (first) output.
        reason: Why it is free or unsupported; empty if it is counted.
        module: The dotted path of the module it belongs to: the view by module puts it there.
        alive_bytes: Bytes of all values that are alive while it runs.
        tensors: The constants it uses.
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
    reason: str = ""
    module: str = ""
    alive_bytes: int = 0
    tensors: tuple[Tensor, ...] = ()

    @property
    def flops(self) -> int:
        """All operations: ``mults + adds + others``."""
        return self.mults + self.adds + self.others

    @property
    def moved_bytes(self) -> int:
        """Bytes between the processor and its memory: weights, what is read, what is written."""
        return self.weight_bytes + self.read_bytes + self.write_bytes

    @property
    def arithmetic_intensity(self) -> float | None:
        """Operations per byte, :func:`intensity`; ``None`` where it cannot be known."""
        return None if self.status == "unsupported" else intensity(self.flops, self.moved_bytes)

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
            "alive_bytes": self.alive_bytes,
            "arithmetic_intensity": self.arithmetic_intensity,
            "module": self.module,
            "status": self.status,
            "reason": self.reason,
            "rf": self.rf.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over a network; shared tensors count once.

    ``peak_activation_bytes`` is the most that values alive at one time take, when the nodes run
    in their order and every value is dropped after its last use (:mod:`convsmith.analysis.memory`).
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


def intensity(flops: int, moved_bytes: int) -> float | None:
    """Arithmetic intensity: operations per byte that has to be moved for them.

    Every value is taken to be read from and written to memory once per node that uses it, and
    every weight (also all of an embedding's table) read once: what an unfused layer moves when
    nothing is in the cache (operational intensity of Williams, Waterman & Patterson 2009,
    "Roofline").

    Returns:
        ``flops / moved_bytes``; ``None`` if no bytes are moved.

    >>> intensity(1000, 250), intensity(0, 0)
    (4.0, None)
    """
    return flops / moved_bytes if moved_bytes else None


def ledger(
    graph: Graph, sight: Mapping[str, Field], sizes: Mapping[str, int], alive: Iterable[int]
) -> tuple[Row, ...]:
    """Makes a row for every node.

    Args:
        graph: The network.
        sight: The receptive field of every value.
        sizes: The bytes of every value.
        alive: Per node, the bytes that are alive while it runs.
    """
    tensors = {name: _tensor(name, constant) for name, constant in graph.constants.items()}
    shapes = graph.shapes
    return tuple(
        [
            _row(node, shapes, sight, sizes, tensors, bytes_alive)
            for node, bytes_alive in zip(graph.nodes, alive, strict=True)
        ]
    )


def _row(
    node: Node,
    shapes: Mapping[str, Shape | None],
    sight: Mapping[str, Field],
    sizes: Mapping[str, int],
    tensors: Mapping[str, Tensor],
    alive: int,
) -> Row:
    op, made = node.op, node.outputs
    constants = dict.fromkeys(node.parameters + node.inputs)
    used = tuple([tensors[name] for name in constants if name in tensors])
    values = [value for value in node.inputs if value not in tensors]
    count, reason = _cost(node, shapes)
    params = stored = read = written = 0
    for tensor in used:
        params += tensor.params
        stored += tensor.bytes
    if not is_view(op):
        for value in dict.fromkeys(values):
            read += sizes[value]
        for value in made:
            written += sizes[value]
    return Row(
        name=node.name,
        op=type(op).__name__,
        text=_TEXTS[type(op)](op),
        inputs=tuple([shapes[value] for value in values]),
        outputs=tuple([shapes[value] for value in made]),
        params=params,
        macs=count.macs,
        mults=count.mults,
        adds=count.adds,
        others=count.others,
        weight_bytes=stored,
        read_bytes=read,
        write_bytes=written,
        status=count.status,
        rf=sight[node.name],
        reason=reason,
        module=module_path(node),
        alive_bytes=alive,
        tensors=used,
    )


def _tensor(name: str, constant: Constant) -> Tensor:
    return Tensor(
        name=name,
        params=constant.size if constant.learnable else 0,
        bytes=tensor_bytes(constant.shape, constant.dtype),
    )


def parameters(tensors: Iterable[Tensor]) -> int:
    """Learnable scalars of tensors, each tensor once however often it is there."""
    return sum(tensor.params for tensor in dict.fromkeys(tensors))


def weight_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each tensor once however often it is there."""
    return sum(tensor.bytes for tensor in dict.fromkeys(tensors))


_COSTS = Rules(cost.dispatch)
_TEXTS = Rules(operator_text.dispatch)


def _cost(node: Node, shapes: Mapping[str, Shape | None]) -> tuple[Cost, str]:
    """What a node costs, and why that is nothing or not known."""
    op = node.op
    inputs = tuple([s for used in node.inputs if (s := shapes[used]) is not None])
    output = shapes[node.name]
    if isinstance(op, operator_classes.Unsupported):
        return UNSUPPORTED, f"convsmith does not know {op.kind}"
    if output is None or len(inputs) < len(node.inputs):
        return UNSUPPORTED, "the shape of what it reads is not known"
    count = _COSTS[type(op)](op, inputs, output)
    if count.status == "counted":
        return count, ""
    if count.status == "free":
        return count, _why_free(node)
    return count, f"no rule says what {operator_text(op)} costs"


def _why_free(node: Node) -> str:
    if is_view(node.op):
        return "a view: the same elements under another shape or name"
    return "it computes nothing: it copies elements to other places"


def totals(rows: Sequence[Row], peak_activation_bytes: int) -> Total:
    """Sums up rows; a tensor that several of them use counts once."""
    tensors = {tensor.name: tensor for row in rows for tensor in row.tensors}.values()
    return Total(
        params=sum(tensor.params for tensor in tensors),
        macs=sum(row.macs for row in rows),
        mults=sum(row.mults for row in rows),
        adds=sum(row.adds for row in rows),
        others=sum(row.others for row in rows),
        weight_bytes=sum(tensor.bytes for tensor in tensors),
        peak_activation_bytes=peak_activation_bytes,
    )


def kind(node: Node) -> str:
    """What a node's operator is called in the source that it was read from, if it is unknown."""
    if isinstance(node.op, operator_classes.Unsupported):
        return node.op.kind
    return type(node.op).__name__
