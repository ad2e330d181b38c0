"""torchinfo 1.8.0: every parameter is used once per output position, or once per image.

It looks at modules only. Parameters of convolutions are multiplied by the positions of the
output (wrong for transposed ones), all others by the first axis of the output alone; biases
and the scale and shift of normalizations count like weights. A shared weight counts once in
every module that has it.
"""

from __future__ import annotations

from collections.abc import Iterator

from convsmith.analysis.conventions.call import Call, Part, Rules, modules
from convsmith.analysis.conventions.products import positions
from convsmith.graph import Graph
from convsmith.graph.operators import Activation, Conv, DeformConv, Norm

__all__ = ["RULES", "parameters"]


def _parameters_times_positions(call: Call) -> Iterator[Part]:
    weight, bias = call.size("weight"), call.size("bias")
    if not weight:
        return
    if isinstance(call.op, Conv | DeformConv):
        times = positions(call)
        yield Part(reason="products", amount=weight * times, why="transposed")
    else:
        times = call.output[0] if call.output else 1
        if isinstance(call.op, Norm):
            yield Part(reason="norm-params", amount=(weight + bias) * times)
            return
        if isinstance(call.op, Activation):
            yield Part(reason="slopes", amount=weight * times)
            return
        yield Part(reason="products", amount=weight * times, why="first-axis")
    if bias:
        yield Part(reason="bias", amount=bias * times)


RULES: Rules = {"*": modules(_parameters_times_positions)}


def parameters(graph: Graph) -> int | None:
    """Its total of parameters; ``None`` where it would find the exact one.

    A module inside which nothing else is called counts all its parameters; one around others
    what its distinct parameters are more than theirs, or nothing if they are fewer.
    """
    own: dict[str, set[str]] = {}
    for node in graph.nodes:
        if not node.provenance.origin.startswith("aten."):
            return None
        learnable = {name for name in node.parameters if graph.constants[name].learnable}
        learnable |= {
            name
            for name in node.inputs
            if name in graph.constants and graph.constants[name].learnable
        }
        own.setdefault(node.provenance.path, set()).update(learnable)
    inside: dict[str, set[str]] = {"": set()}
    for path, names in own.items():
        for container in _around(path):
            inside.setdefault(container, set()).update(names)
    total = 0
    below: dict[str, int] = {}
    for path in sorted(inside, key=_depth, reverse=True):
        more = sum(graph.constants[name].size for name in inside[path]) - below.get(path, 0)
        for container in _around(path):
            below[container] = below.get(container, 0) + more
        total += max(more, 0)
    return total


def _around(path: str) -> Iterator[str]:
    """The path, and those of all containers around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0
