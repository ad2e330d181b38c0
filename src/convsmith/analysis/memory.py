"""Memory: the bytes of every value, and which values live while each node runs.

The model, which holds for every network alike:

* Nodes run one at a time, in their order. A value lives from the node that makes it to the last
  node that uses it; an output lives to the end. Inputs live from the start, and are dropped after
  their last use like everything else.
* While a node runs, all that it reads and all that it makes exist at once: no operator is taken
  to work in place, because whether it may is up to the framework.
* Views are stored once. The elements of a reshape, a flatten or an identity (dropout at inference)
  are those of its input, in the same row-major order: it moves no byte, reads and writes nothing,
  and its value lives in the storage of its input, which lives on as long as either is used. Slices
  and splits are stored, although a framework can hand out some of them as views.
* Workspace inside an operator (the columns of im2col) and weights are not activations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import (
    Elementwise,
    Flatten,
    Identity,
    Operator,
    Reshape,
    Where,
)
from convsmith.graph.types import result_types

__all__ = ["Memory", "Stored", "is_view", "memory", "tensor_bytes", "value_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One value that is alive at the moment of the peak.

    Attributes:
        name: The value; of several views of one storage, the one that was made first.
        bytes: What it takes.
        shape: Its shape.
    """

    name: str
    bytes: int
    shape: Shape

    def to_dict(self) -> dict[str, Any]:
        """Returns the value as JSON-ready data."""
        return {"name": self.name, "bytes": self.bytes, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the activations of a network take, node by node.

    Attributes:
        peak_bytes: The most bytes that are alive at one time.
        at: The node that runs then; empty if that is before the first one.
        alive: What is alive then, largest first.
        curve: Bytes alive while each node runs, in the order of the nodes.
        complete: Whether the sizes of all values are known; if not, the bytes are lower bounds.
    """

    peak_bytes: int
    at: str
    alive: tuple[Stored, ...]
    curve: tuple[int, ...]
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """Returns the moment of the peak as JSON-ready data; the curve is in the rows."""
        return {
            "peak_bytes": self.peak_bytes,
            "at": self.at,
            "alive": [value.to_dict() for value in self.alive],
            "complete": self.complete,
        }


def memory(graph: Graph, sizes: Mapping[str, int] | None = None) -> Memory:
    """Finds the bytes that are alive while each node runs, and what they are at their peak.

    Args:
        graph: The network.
        sizes: The bytes of its values, if they are known already: :func:`value_bytes`.

    >>> from convsmith.graph import parse
    >>> found = memory(parse("1@4 > conv 2 1 > conv 8 1 > conv 4 1"))
    >>> found.peak_bytes, found.at, [(value.name, value.bytes) for value in found.alive]
    (768, 'conv3', [('conv2', 512), ('conv3', 256)])
    >>> found.curve
    (192, 640, 768)
    """
    sizes = value_bytes(graph) if sizes is None else sizes
    storage = _storages(graph)
    born = {value.name: -1 for value in graph.inputs}
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        made = node.outputs
        for value in made:
            if value not in storage:
                born[value] = index
        for value in (*node.inputs, *made):
            last[storage.get(value, value)] = index
    kept = {storage.get(output.value, output.value) for output in graph.outputs}
    forever = len(graph.nodes)
    ends = {value: forever if value in kept else last.get(value, forever) for value in born}

    change = [0] * (forever + 2)  # bytes born at a node, less those that died with the one before
    for value, first in born.items():
        change[first + 1] += sizes[value]
        change[ends[value] + 2 if ends[value] < forever else -1] -= sizes[value]
    inputs, *curve = accumulate(change[: forever + 1])
    peak = max([inputs, *curve])
    moment = -1 if inputs == peak else curve.index(peak)
    living = [
        Stored(name=value, bytes=sizes[value], shape=graph.shape(value))
        for value, first in born.items()
        if sizes[value] and first <= moment <= ends[value]
    ]
    return Memory(
        peak_bytes=peak,
        at=graph.nodes[moment].name if moment >= 0 else "",
        alive=tuple(sorted(living, key=lambda value: -value.bytes)),
        curve=tuple(curve),
        complete=all(shape is not None for shape in graph.shapes.values()),
    )


def is_view(op: Operator) -> bool:
    """Whether an operator's value is its input's elements under another shape or name.

    >>> from convsmith.graph.operators import Flatten, Transpose
    >>> is_view(Flatten()), is_view(Transpose(permutation=(1, 0)))
    (True, False)
    """
    if type(op) not in _VIEWS:
        return False
    return not isinstance(op, Identity) or op.kind != "cast"  # another type is another tensor


# Operator classes are final, so that their type decides.
_VIEWS = frozenset((Reshape, Flatten, Identity))
_COMBINE = frozenset((Elementwise, Where))


def _storages(graph: Graph) -> dict[str, str]:
    """For every view: the value, or the constant, in whose storage it lives."""
    storage: dict[str, str] = {}
    for node in graph.nodes:
        if is_view(node.op):
            storage[node.name] = storage.get(node.inputs[0], node.inputs[0])
    return storage


def tensor_bytes(shape: Shape, dtype: str) -> int:
    """Bytes of a tensor, elements smaller than a byte packed.

    >>> tensor_bytes((3, 4), "float16"), tensor_bytes((3,), "int4")
    (24, 2)
    """
    return -(-math.prod(shape) * _bits(dtype) // 8)


@cache
def _bits(dtype: str) -> int:
    """The digits of a type's name are its bits."""
    bits = re.search(r"\d+", dtype)
    return int(bits.group()) if bits else 8


def value_bytes(graph: Graph) -> dict[str, int]:
    """Returns the bytes of every value; 0 where its shape is not known.

    Types follow :func:`convsmith.graph.types.result_types`.
    """
    types = {value.name: value.dtype for value in graph.inputs}
    sizes = {value.name: tensor_bytes(value.shape, value.dtype) for value in graph.inputs}
    shapes = graph.shapes
    for node in graph.nodes:
        for made, dtype in zip(node.outputs, _types(graph, node, types), strict=True):
            shape = shapes[made]
            types[made] = dtype
            sizes[made] = 0 if shape is None else tensor_bytes(shape, dtype)
    return sizes


def _types(graph: Graph, node: Node, types: Mapping[str, str]) -> tuple[str, ...]:
    """The types of what a node makes; a constant takes on the type of what it is combined with."""
    if type(node.op) in _COMBINE:
        combined = node.inputs[1:] if isinstance(node.op, Where) else node.inputs
        given = next((types[used] for used in combined if used in types), None)
        if given is not None:
            return result_types(node.op, [types.get(used, given) for used in node.inputs])
    constants = graph.constants
    kinds = [types[v] if v in types else constants[v].dtype for v in node.inputs]
    return result_types(node.op, kinds)
