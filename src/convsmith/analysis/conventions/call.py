"""One call of an operator, as a counting tool meets it, and what the tool makes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from convsmith.graph import Graph, Node, Shape
from convsmith.graph.operators import (
    Activation,
    AdaptivePool,
    Concat,
    Conv,
    Elementwise,
    GlobalPool,
    Identity,
    Linear,
    LocalResponseNorm,
    MatMul,
    Norm,
    Operator,
    Pool,
    Reduce,
    Resize,
    Softmax,
    roles,
)

__all__ = [
    "INTERPOLATIONS",
    "Call",
    "Measure",
    "Part",
    "Rule",
    "Rules",
    "functional",
    "modules",
    "per_element",
]

Measure = Literal["mult", "add", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that a tool counts for one call.

    Attributes:
        reason: A key of :data:`convsmith.analysis.conventions.reasons.REASONS`; ``products``
            are the multiply-accumulates proper.
        amount: How much is counted; negative where something is taken off again.
        per: How much that is per element, where the rule is of this kind.
        measure: What it is counted as.
        why: For products that differ from the exact ones: the reason.
    """

    reason: str
    amount: int
    per: int | None = None
    measure: Measure = "mult"
    why: str = "no-rule"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One node, with what tools look at: which torch function it is, and how it was called.

    Attributes:
        graph: The network.
        node: The node.
        inputs: The shapes of its inputs, as the tool has them.
        output: The shape of its first output, as the tool has it.
        exact: Its exact multiply-accumulates.
        adds: Its exact additions.
    """

    graph: Graph
    node: Node
    inputs: tuple[Shape, ...]
    output: Shape
    exact: int
    adds: int

    @property
    def op(self) -> Operator:
        """The operator."""
        return self.node.op

    @cached_property
    def function(self) -> str:
        """The name of torch's function that computes it: ``conv2d``, ``batch_norm``, ...

        A network that was not read from a torch module is taken for one in which every
        operator is the function that torch has for it.
        """
        origin = self.node.provenance.origin
        if origin.startswith("aten."):
            name = origin.removeprefix("aten.").lstrip("_")
            return name.removesuffix("_with_indices")
        return _torch_function(self.op, len(self.output) - 2)

    @cached_property
    def module(self) -> bool:
        """Whether it is what a module of ``torch.nn`` does, not a function called in a forward.

        In a network that was not read from a torch module, every layer is taken for a module,
        as it would be written there.
        """
        origin, path = self.node.provenance.origin, self.node.provenance.path
        if not origin.startswith("aten."):
            return True
        if not path:  # the network itself is one layer
            plain = re.sub(r"[\W_]", "", self.function)
            return bool(self.graph.source) and self.graph.source.lower().startswith(plain)
        return re.fullmatch(rf"{re.escape(path)}(_\d+)?", self.node.name) is not None

    @property
    def outputs(self) -> int:
        """Elements of the output."""
        return math.prod(self.output)

    @property
    def elements(self) -> int:
        """Elements of the first input."""
        return math.prod(self.inputs[0]) if self.inputs else 0

    @property
    def affine(self) -> bool:
        """Whether a normalization has a learned scale and shift."""
        return isinstance(self.op, Norm) and self.op.affine

    def size(self, role: str) -> int:
        """Elements of a parameter tensor; 0 without it."""
        names = dict(zip(roles(self.op), self.node.parameters, strict=True))
        return self.graph.constants[names[role]].size if role in names else 0


Rule = Callable[[Call], Iterable[Part]]
Rules = Mapping[str, Rule]
"""By torch function; what has no rule is not counted."""


def modules(rule: Rule) -> Rule:
    """The rule, for modules only: a function called in a forward is not seen."""
    return lambda call: rule(call) if call.module else ()


def functional(rule: Rule) -> Rule:
    """The rule, for functions only."""
    return lambda call: () if call.module else rule(call)


def per_element(
    reason: str,
    per: int,
    *,
    of: Literal["outputs", "elements"] = "outputs",
    plain: int | None = None,
) -> Rule:
    """So much for every element of the output (or of the first input).

    Args:
        reason: What is counted.
        per: How much.
        of: Elements of what.
        plain: How much without a learned scale and shift.
    """

    def rule(call: Call) -> tuple[Part, ...]:
        each = per if plain is None or call.affine else plain
        return (Part(reason=reason, amount=each * getattr(call, of), per=each),)

    return rule


# The functions that torch has for operators ---------------------------------------

_ACTIVATIONS = {
    "leakyrelu": "leaky_relu",
    "relu6": "hardtanh",
    "clip": "hardtanh",
    "gelutanh": "gelu",
}
_POOLS = {"max": "max_pool", "average": "avg_pool"}
_INTERPOLATIONS = {
    ("nearest", 1): "upsample_nearest1d",
    ("nearest", 2): "upsample_nearest2d",
    ("nearest", 3): "upsample_nearest3d",
    ("linear", 1): "upsample_linear1d",
    ("linear", 2): "upsample_bilinear2d",
    ("linear", 3): "upsample_trilinear3d",
    ("cubic", 2): "upsample_bicubic2d",
}
INTERPOLATIONS = tuple(_INTERPOLATIONS.values())
"""Every function that torch has for a resize."""


def _torch_function(op: Operator, rank: int) -> str:
    match op:
        case Conv(transposed=transposed):
            return f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
        case Pool(kind=kind):
            return f"{_POOLS[kind]}{rank}d"
        case GlobalPool(kind=kind) | AdaptivePool(kind=kind):
            return f"adaptive_{_POOLS[kind]}{rank}d"
        case Norm(kind=kind):
            return f"{kind}_norm"
        case LocalResponseNorm():
            return "local_response_norm"
        case Activation(kind=kind):
            return _ACTIVATIONS.get(kind, kind)
        case Linear():
            return "linear"
        case MatMul():
            return "matmul"
        case Elementwise(kind=kind) | Reduce(kind=kind):
            return kind
        case Resize(mode=mode):
            return _INTERPOLATIONS.get((mode, rank), "interpolate")
        case Softmax(log=log):
            return "log_softmax" if log else "softmax"
        case Concat():
            return "cat"
        case Identity(kind=kind):
            return kind
    return getattr(op, "kind", type(op).__name__.lower()) or "unknown"
