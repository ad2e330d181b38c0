"""What has no table of its own, as one: networks, compiled networks, and all that a page shows."""

from __future__ import annotations

from convsmith.errors import ConvsmithError
from convsmith.graph import Graph, Node, operator_text
from convsmith.portrait import Portrait
from convsmith.report import wording
from convsmith.report.as_data.lint import escaped
from convsmith.report.rendering import markdown
from convsmith.runtime.program import Program

__all__: list[str] = []


@markdown.register
def _(result: Graph) -> str:
    """One line a node, its inputs and what it makes."""
    learnable = (c.size for c in result.constants.values() if c.learnable)
    inputs = ", ".join(f"{value.name} {wording.shape(value.shape)}" for value in result.inputs)
    outputs = ", ".join(value.name for value in result.outputs)
    source = escaped(" ".join(result.source.split())) or "network"
    counts = f"{len(result.nodes):,} nodes, {sum(learnable):,} parameters"
    lines = [
        f"**{source}**: {counts}; input {escaped(inputs)}; output {escaped(outputs)}",
        "",
        "| layer | operator | inputs | output |",
        "|:--|:--|:--|:--|",
    ]
    lines += [_line(result, node) for node in result.nodes]
    return "\n".join(lines)


def _line(graph: Graph, node: Node) -> str:
    try:
        shapes = ", ".join(wording.shape(graph.shapes[name]) for name in node.outputs)
    except ConvsmithError:  # sizes that do not fit are no reason not to show it
        shapes = "?"
    cells = (node.name, operator_text(node.op), ", ".join(node.inputs), shapes)
    return f"| {' | '.join(map(escaped, cells))} |"


@markdown.register
def _(result: Program) -> str:
    """Its steps."""
    return markdown(result.describe())


@markdown.register
def _(result: Portrait) -> str:
    """What every layer costs and sees."""
    return markdown(result.analysis)
