"""Counts a network as a tool counts it, and accounts for the difference to the exact count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convsmith.analysis.conventions.call import Call, Part
from convsmith.analysis.conventions.convention import Convention
from convsmith.analysis.conventions.reasons import reason_text
from convsmith.analysis.cost import Cost, cost
from convsmith.errors import ConvsmithError
from convsmith.graph import Graph, Node, Shape
from convsmith.graph.shape import infer_shapes

__all__ = ["Account", "Counted", "Term", "account", "count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a tool counts for one node.

    Attributes:
        name: The node.
        exact: Its exact multiply-accumulates.
        parts: What the tool counts, part by part.
        why: Why products are missing, where they are.
    """

    name: str
    exact: int
    parts: tuple[Part, ...]
    why: str

    def of(self, measure: str) -> int:
        """The sum of what is counted as ``mult``, ``add`` or ``other``."""
        return sum(part.amount for part in self.parts if part.measure == measure)

    @property
    def macs(self) -> int:
        """Multiply-accumulates: what is counted as a multiplication."""
        return self.of("mult")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term of a difference.

    Attributes:
        reason: Its key in :data:`convsmith.analysis.conventions.reasons.REASONS`.
        per: How much it is per element, where it is of this kind.
        amount: What it adds to the exact count, or takes away.
        layers: The layers it comes from, with their share, the largest first.
    """

    reason: str
    per: int | None
    amount: int
    layers: tuple[tuple[str, int], ...]

    def text(self, lang: str = "en") -> str:
        """The reason in words."""
        return reason_text(self.reason, self.per, lang)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The way from the exact multiply-accumulates to what a tool gives, term by term.

    ``exact + sum(term.amount for term in terms) == counted``.

    Attributes:
        convention: Its name.
        tool: The tool and its version.
        reports: What ``counted`` is: ``macs`` or ``flops``.
        exact: The exact multiply-accumulates.
        counted: The tool's number.
        terms: What makes the difference, the largest first.
        exact_params: Distinct learnable scalars.
        params: The tool's number of them.
    """

    convention: str
    tool: str
    reports: str
    exact: int
    counted: int
    terms: tuple[Term, ...]
    exact_params: int
    params: int

    def to_dict(self, lang: str = "en") -> dict[str, Any]:
        """Returns the account as JSON-ready data."""
        return {
            "convention": self.convention,
            "tool": self.tool,
            "reports": self.reports,
            "exact_macs": self.exact,
            "counted": self.counted,
            "difference": self.counted - self.exact,
            "terms": [
                {
                    "reason": term.reason,
                    "text": term.text(lang),
                    "amount": term.amount,
                    "layers": [{"name": name, "amount": amount} for name, amount in term.layers],
                }
                for term in self.terms
            ],
            "exact_params": self.exact_params,
            "params": self.params,
        }


def count(graph: Graph, convention: Convention) -> Mapping[str, Counted]:
    """Returns what a tool counts, by node.

    Args:
        graph: The network.
        convention: How to count.
    """
    shapes = dict(graph.shapes)
    if convention.size_of is not None:
        shapes = _sizes(graph, convention)
    return {node.name: _counted(graph, node, shapes, convention) for node in graph.nodes}


def _sizes(graph: Graph, convention: Convention) -> dict[str, Shape | None]:
    """The shapes that the tool works with, which it may have computed differently."""
    shapes = dict(graph.shapes)
    assert convention.size_of is not None
    for node in graph.nodes:
        inputs = [shapes[used] for used in node.inputs]
        known = tuple(shape for shape in inputs if shape is not None)
        if len(known) < len(inputs):
            continue
        made = convention.size_of(node.op, known)
        try:
            found = (made,) if made is not None else infer_shapes(node.op, *known)
        except (
            ConvsmithError
        ):  # its sizes do not fit together any more: from here on the right ones
            continue
        shapes.update(zip(node.outputs, found, strict=False))
    return shapes


def _counted(
    graph: Graph, node: Node, shapes: Mapping[str, Shape | None], convention: Convention
) -> Counted:
    exact = _exact(graph, node)
    output = shapes[node.name]
    inputs = tuple(s for used in node.inputs if (s := shapes[used]) is not None)
    if output is None or len(inputs) < len(node.inputs):
        return Counted(name=node.name, exact=exact.macs, parts=(), why="no-rule")
    call = Call(
        graph=graph, node=node, inputs=inputs, output=output, exact=exact.macs, adds=exact.adds
    )
    return Counted(
        name=node.name,
        exact=exact.macs,
        parts=tuple(part for part in convention.parts(call) if part.amount or _is_product(part)),
        why=convention.why_missing(call),
    )


def _exact(graph: Graph, node: Node) -> Cost:
    output = graph.shapes[node.name]
    inputs = tuple(s for used in node.inputs if (s := graph.shapes[used]) is not None)
    if output is None or len(inputs) < len(node.inputs):
        return Cost()
    return cost(node.op, inputs, output)


def _is_product(part: Part) -> bool:
    return part.reason == "products"


def account(graph: Graph, convention: Convention) -> Account:
    """Accounts for the difference between a tool's number and the exact one.

    >>> from convsmith.analysis.conventions import find_convention
    >>> from convsmith.graph import parse
    >>> found = account(parse("3@32 > conv 8 3/2 p1"), find_convention("torchinfo"))
    >>> found.exact, [(term.amount, term.text()) for term in found.terms], found.counted
    (55296, [(2048, 'biases counted as multiply-accumulates')], 57344)
    """
    rows = count(graph, convention)
    shares: dict[tuple[str, int | None], dict[str, int]] = {}

    def add(reason: str, per: int | None, name: str, amount: int) -> None:
        if amount:
            layers = shares.setdefault((reason, per), {})
            layers[name] = layers.get(name, 0) + amount

    for row in rows.values():
        parts = headline(row, convention)
        products = [part for part in parts if _is_product(part)]
        counted = sum(part.amount for part in products)
        why = products[0].why if products else row.why
        add(why, None, row.name, counted - row.exact)
        for part in parts:
            if not _is_product(part):
                add(part.reason, part.per, row.name, part.amount)
    terms = [
        Term(
            reason=reason,
            per=per,
            amount=sum(layers.values()),
            layers=tuple(sorted(layers.items(), key=lambda item: -abs(item[1]))),
        )
        for (reason, per), layers in shares.items()
    ]
    exact_params = _distinct(graph)
    other = convention.parameters(graph) if convention.parameters is not None else None
    return Account(
        convention=convention.name,
        tool=convention.tool,
        reports=convention.reports,
        exact=sum(row.exact for row in rows.values()),
        counted=total(rows, convention),
        terms=tuple(sorted(terms, key=lambda term: -abs(term.amount))),
        exact_params=exact_params,
        params=exact_params if other is None else other,
    )


def headline(row: Counted, convention: Convention) -> tuple[Part, ...]:
    """The parts that go into the number which the tool gives."""
    if convention.reports == "flops":
        return row.parts
    return tuple(part for part in row.parts if part.measure == "mult")


def total(rows: Mapping[str, Counted], convention: Convention) -> int:
    """The number which the tool gives."""
    return sum(part.amount for row in rows.values() for part in headline(row, convention))


def _distinct(graph: Graph) -> int:
    used = {name for node in graph.nodes for name in (*node.parameters, *node.inputs)}
    return sum(
        graph.constants[name].size
        for name in used
        if name in graph.constants and graph.constants[name].learnable
    )
