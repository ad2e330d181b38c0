"""What can be computed on the way out of a convolution, found in a network.

    conv (or linear) > batch norm > + residual > activation

Each part may be missing. A part is fused only if nobody else reads what comes before it, so that no
value is lost. The batch normalization becomes part of the weights, exactly but for one rounding
(:mod:`convsmith.graph.affine`); residual and activation happen in registers, before the output is
stored (:mod:`convsmith.conv.output`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convsmith.conv.spec import Activation
from convsmith.graph import Graph, Node
from convsmith.graph import operators as operator_classes

__all__ = ["Fusion", "fusions", "kind_of"]

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu6": "relu6",
    "silu": "silu",
    "hardswish": "hardswish",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """A convolution or a linear layer, and what is fused into it.

    Attributes:
        node: The convolution or linear layer itself.
        norm: The batch normalization behind it.
        add: The addition behind that.
        residual: The other value of the addition; empty without one.
        last: The activation behind that.
        activation: Its kind.
    """

    node: Node
    norm: Node | None = None
    add: Node | None = None
    residual: str = ""
    last: Node | None = None
    activation: Activation = "none"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in order."""
        parts = (self.node, self.norm, self.add, self.last)
        return tuple(part for part in parts if part is not None)

    @property
    def output(self) -> str:
        """The value that is made in the end."""
        return self.nodes[-1].name


def kind_of(node: Node) -> Activation:
    """Returns the activation that a convolution can fuse, or ``none``.

    >>> from convsmith.graph import parse
    >>> [kind_of(node) for node in parse("1@4 > relu > sigmoid > silu").nodes]
    ['relu', 'none', 'silu']
    """
    match node.op:
        case operator_classes.Activation(kind="clip", low=low, high=None) if low == 0:
            return "relu"
        case operator_classes.Activation(kind="clip", low=low, high=high) if (low, high) == (0, 6):
            return "relu6"
        case operator_classes.Activation(kind=kind):
            return _ACTIVATIONS.get(kind, "none")
    return "none"


def fusions(graph: Graph) -> Mapping[str, Fusion]:
    """Returns, by its name, every convolution and linear layer with what can be fused into it.

    Where two of them could take the same addition, the later one does. Transposed convolutions
    take no residual.

    >>> from convsmith.graph import parse
    >>> net = parse("4@8 > ( conv 4 3 p1 > bn + - ) > relu")
    >>> [fusion.output for fusion in fusions(net).values()]
    ['relu1']
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for used in node.inputs:
            readers.setdefault(used, []).append(node)
    returned = {output.value for output in graph.outputs}
    shapes = graph.shapes
    taken: set[str] = set()

    def behind(node: Node) -> Node | None:
        """The one reader of a node's value, if it has just one."""
        found = readers.get(node.name, [])
        return found[0] if len(found) == 1 and node.name not in returned else None

    made: dict[str, Fusion] = {}
    for node in reversed(graph.nodes):
        op = node.op
        if not isinstance(op, operator_classes.Conv | operator_classes.Linear):
            continue
        shape = shapes[node.name]
        if shape is None:
            continue
        norm = add = last = None
        residual = ""
        # A normalization works on axis 1; that is the layer's axis of features if it is the last.
        channels = isinstance(op, operator_classes.Conv) or len(shape) == 2
        follower = behind(node)
        match follower:
            case Node(op=operator_classes.Norm(kind="batch")) if channels:
                norm = follower
                follower = behind(norm)
        plain = not (isinstance(op, operator_classes.Conv) and op.transposed)
        match follower:
            case Node(op=operator_classes.Elementwise(kind="add"), inputs=(a, b)) if plain:
                residual = b if a == (norm or node).name else a
                fits = residual not in graph.constants and shapes[residual] == shape
                if fits and follower.name not in taken:
                    add = follower
                    taken.add(add.name)
                    follower = behind(add)
                else:
                    residual, follower = "", None
        activation: Activation = "none"
        if follower is not None:
            activation = kind_of(follower)
            last = follower if activation != "none" else None
        made[node.name] = Fusion(
            node=node, norm=norm, add=add, residual=residual, last=last, activation=activation
        )
    return dict(reversed(made.items()))
