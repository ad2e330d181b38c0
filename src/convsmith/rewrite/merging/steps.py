"""What merging does to a network, one step at a time: planned, and done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convsmith.graph import Node, Shape
from convsmith.graph.operators import Conv, Linear

__all__ = ["Merge", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Layers that became one.

    Attributes:
        kind: The rule: one of :data:`convsmith.rewrite.merging.RULES`.
        layers: The names that they had.
        into: The name of the layer that does their work; of the value, if none is left.
        macs_before: Their multiply-accumulates.
        macs_after: Those of the one layer.
        params_before: Their learnable scalars.
        params_after: Those of the one layer.
        note: What else to know; often empty.
    """

    kind: str
    layers: tuple[str, ...]
    into: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the step as JSON-ready data."""
        return {
            "kind": self.kind,
            "layers": list(self.layers),
            "into": self.into,
            "macs_before": self.macs_before,
            "macs_after": self.macs_after,
            "params_before": self.params_before,
            "params_after": self.params_after,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One merge, before it is done.

    Attributes:
        kind: The rule.
        layers: All nodes that take part, in order.
        removed: Those of them that go.
        into: The node that becomes the merged layer; ``None``: nothing stands for them.
        op: The merged layer's operator.
        source: The value that it reads.
        value: The value that it makes from now on, under its own name; consumers follow.
        shape: The shape of that value, if it has another one now.
        drop: The sum or concatenation that loses an operand, and which one; with a single
            operand left it goes, too.
        note: What else to know.
    """

    kind: str
    layers: tuple[Node, ...]
    removed: tuple[Node, ...]
    into: Node | None
    op: Conv | Linear | None = None
    source: str = ""
    value: str = ""
    shape: Shape | None = None
    drop: tuple[Node, int] | None = None
    note: str = ""
