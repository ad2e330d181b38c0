"""A network without the names that it was given: for reports that leave the house."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convsmith.analysis.modules import module_path, parts
from convsmith.graph import Constant, Graph, Node
from convsmith.graph.graph import Output
from convsmith.graph.operators import Unsupported, roles

if TYPE_CHECKING:
    from convsmith.rewrite import Plan
    from convsmith.runtime.bench_results import Bench, BenchLayer

__all__ = ["Redaction", "redacted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """A network under other names.

    Attributes:
        graph: The network; its structure and its numbers are the same.
        names: The new name of every node, by its old one.
    """

    graph: Graph
    names: Mapping[str, str]

    def layer(self, name: str) -> str:
        """The new name of a layer that a result names."""
        return self.names.get(name, "another layer")

    def plan(self, plan: Plan) -> Plan:
        """A plan for the network under its new names; without its weights."""
        return replace(
            plan,
            source=self.graph.source,
            advice=(),
            choices=tuple(
                replace(choice, layer=self.layer(choice.layer), chain=()) for choice in plan.choices
            ),
        )

    def bench(self, bench: Bench) -> Bench:
        """A bench of the network under its new names."""

        def renamed(layer: BenchLayer) -> BenchLayer:
            names = tuple(self.layer(name) for name in layer.names)
            return replace(layer, name=self.layer(layer.name), names=names)

        return replace(
            bench,
            source=self.graph.source,
            layers=tuple(map(renamed, bench.layers)),
            left_out=tuple((self.layer(name), reason) for name, reason in bench.left_out),
        )


def redacted(graph: Graph) -> Redaction:
    r"""Gives every input, layer, module, weight and output another name: a word and a number.

    Modules keep their nesting. What an unknown operator is called goes too, and so do the source
    and the places where nodes came from.

    >>> from convsmith.graph import parse
    >>> found = redacted(parse("secret : 3@8x8\nplan.b = conv 8 3 (secret)\nreturn out = plan.b"))
    >>> print(found.graph)
    input1 : 3@8x8
    module1.conv1 = conv 8 3 (input1)
    return output1 = module1.conv1
    """
    values = {value.name: f"input{i}" for i, value in enumerate(graph.inputs, 1)}
    inputs = tuple(replace(value, name=values[value.name]) for value in graph.inputs)
    constants: dict[str, Constant] = {}
    nodes = []
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    modules: dict[tuple[str, ...], str] = {}

    def constant(name: str, new: str) -> str:
        if name not in values:
            values[name] = new
            constants[new] = graph.constants[name]
        return values[name]

    for node in graph.nodes:
        word = type(node.op).__name__.lower()
        counts[word] += 1
        *outer, _ = parts(module_path(node))
        above = [_module(modules, tuple(outer[:depth])) for depth in range(1, len(outer) + 1)]
        new = ".".join((*above, f"{word}{counts[word]}"))
        names[node.name] = new
        used = [
            constant(name, f"{new}.constant{place}") if name in graph.constants else values[name]
            for place, name in enumerate(node.inputs)
        ]
        own = [
            constant(name, f"{new}.{role}")
            for name, role in zip(node.parameters, roles(node.op), strict=True)
        ]
        op = replace(node.op, kind="unsupported") if isinstance(node.op, Unsupported) else node.op
        made = Node(name=new, op=op, inputs=tuple(used), parameters=tuple(own))
        values.update(zip(node.outputs, made.outputs, strict=True))
        nodes.append(made)
    return Redaction(
        graph=Graph(
            inputs=inputs,
            nodes=tuple(nodes),
            outputs=tuple(
                Output(name=f"output{i}", value=values[output.value])
                if output.value in values
                else Output(name=f"output{i}", value=constant(output.value, f"constant{i}"))
                for i, output in enumerate(graph.outputs, 1)
            ),
            constants=constants,
            source="network",
        ),
        names=names,
    )


def _module(modules: dict[tuple[str, ...], str], path: tuple[str, ...]) -> str:
    return modules.setdefault(path, f"module{len(modules) + 1}")
