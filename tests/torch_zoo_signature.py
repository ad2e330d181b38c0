"""Whether two graphs are the same network, whatever their values are called."""

from __future__ import annotations

from hashlib import sha256

from convsmith.graph import Graph, Node
from convsmith.graph.operators import Identity, Slice

__all__ = ["signature"]


def signature(graph: Graph) -> tuple[str, ...]:
    """A digest for each output: of all that leads to it, with every setting and in every order.

    Names do not count, nor do layers that do nothing (dropout), nor whether several axes are
    sliced at once or in turn.
    """
    digests = {value.name: f"input {value.shape} {value.dtype}" for value in graph.inputs}
    for name, constant in graph.constants.items():
        digests[name] = f"constant {constant.shape} {constant.learnable}"
    for node in graph.nodes:
        if isinstance(node.op, Identity):
            digests[node.name] = digests[node.inputs[0]]
            continue
        for index, made in enumerate(node.outputs):
            digests[made] = _digest(node, index, digests)
    return tuple(digests[output.value] for output in graph.outputs)


def _digest(node: Node, index: int, digests: dict[str, str]) -> str:
    used = [digests[name] for name in (*node.inputs, *node.parameters)]
    if not isinstance(node.op, Slice):
        return sha256(repr((node.op, index, used)).encode()).hexdigest()
    (digest,) = used
    for part in node.op.ranges:
        digest = sha256(repr((Slice, part, digest)).encode()).hexdigest()
    return digest
