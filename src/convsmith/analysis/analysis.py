"""Everything about a network in one table: costs, memory and receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convsmith.analysis import views
from convsmith.analysis.field import Field, fields
from convsmith.analysis.ledger import Row, Total, kind, ledger, totals
from convsmith.analysis.memory import Memory, memory, value_bytes
from convsmith.analysis.views import View
from convsmith.errors import UsageError
from convsmith.graph import Graph, Shape
from convsmith.graph.collecting import collector_at_rest
from convsmith.results import Result

__all__ = ["Analysis", "OutputValue", "Unsupported", "analyze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputValue:
    """What the caller receives."""

    shape: Shape | None
    rf: Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A node whose costs are not known, and which totals therefore leave out."""

    name: str
    op: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis(Result):
    """What a network costs and sees; prints as a table.

    >>> from convsmith.graph import parse
    >>> analysis = analyze(parse("1@28 > conv 1 3 nobias > conv 1 3 nobias"))
    >>> [row.macs for row in analysis.rows], analysis.total.macs
    ([6084, 5184], 11268)
    """

    source: str
    inputs: Mapping[str, Shape]
    rows: tuple[Row, ...]
    total: Total
    outputs: Mapping[str, OutputValue]
    unsupported: tuple[Unsupported, ...]
    memory: Memory
    convention: str = "exact"

    def by_layer(self) -> View:
        """Sums up nothing: one group for every node, with its share of the network."""
        return self._view("layer", views.by_layer(self.rows))

    def by_module(self, depth: int | None = None) -> View:
        """Sums up by module, each before the modules in it; shared tensors count once in each.

        Args:
            depth: How deep modules may lie; deeper ones belong to the one that they are in.

        Raises:
            UsageError: If the depth is less than 1.

        >>> from convsmith.graph import parse
        >>> [group.name for group in analyze(parse("3@8 > conv 4 3 > relu")).by_module().groups]
        ['conv1', 'relu1']
        """
        return self._view("module", views.by_module(self.rows, depth), depth)

    def by_operator(self) -> View:
        """Sums up by operator, in the notation's words; the one with most operations first.

        >>> from convsmith.graph import parse
        >>> view = analyze(parse("3@8 > conv 4 3 > relu > conv 4 3 > relu")).by_operator()
        >>> [(group.name, group.layers, group.macs) for group in view.groups]
        [('conv', 2, 6192), ('relu', 2, 0)]
        """
        return self._view("operator", views.by_operator(self.rows))

    def _view(
        self, by: views.Grouping, groups: tuple[views.Group, ...], depth: int | None = None
    ) -> View:
        return View(
            source=self.source,
            convention=self.convention,
            by=by,
            depth=depth,
            groups=groups,
            total=self.total,
            unsupported=tuple(item.name for item in self.unsupported),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the analysis as JSON-ready data, schema ``convsmith.analysis/1``.

        A row's ``reason`` says why it is free or unsupported (else it is empty),
        ``alive_bytes`` what all values take that are alive while it runs,
        ``arithmetic_intensity`` how many operations it has per byte that it moves (weights, values
        read and written), or ``null``; ``module`` is the dotted path of its module. ``memory`` is
        the moment of the peak: the node ``at`` which it is, and the values ``alive`` then, largest
        first; ``complete`` is false where shapes are not known and bytes are lower bounds.
        """
        return {
            "schema": "convsmith.analysis/1",
            "source": self.source,
            "convention": self.convention,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "rows": [row.to_dict() for row in self.rows],
            "total": self.total.to_dict(),
            "outputs": {
                name: {"shape": value.shape and list(value.shape), "rf": value.rf.to_dict()}
                for name, value in self.outputs.items()
            },
            "unsupported": [{"name": item.name, "op": item.op} for item in self.unsupported],
            "memory": self.memory.to_dict(),
        }


def analyze(graph: Graph, convention: str = "exact") -> Analysis:
    """Counts the cost of every node, and finds what it sees of the input.

    Args:
        graph: A network, as ``convsmith.load`` returns it; it needs no weights.
        convention: ``exact``, or the tool or paper whose way of counting is wanted.

    Raises:
        UsageError: If it is no graph, or there is no such convention.
        ShapeError: If its sizes do not fit.

    >>> from convsmith.graph import parse
    >>> analyze(parse("3@224 > conv 64 7/2 p3")).total.macs
    118013952
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"analyze needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.analyze(convsmith.load(source))",
        )
    with collector_at_rest():
        analysis = _analysis(graph)
    if convention == "exact":
        return analysis
    from convsmith.analysis.conventions import apply  # its tables are for those who ask for them

    return apply(analysis, graph, convention)


def _analysis(graph: Graph) -> Analysis:
    sight = fields(graph)
    sizes = value_bytes(graph)
    stored = memory(graph, sizes)
    rows = ledger(graph, sight, sizes, stored.curve)
    return Analysis(
        source=graph.source,
        inputs={value.name: value.shape for value in graph.inputs},
        rows=rows,
        total=totals(rows, stored.peak_bytes),
        outputs={
            output.name: OutputValue(shape=graph.shapes[output.value], rf=sight[output.value])
            for output in graph.outputs
        },
        unsupported=tuple(
            Unsupported(name=row.name, op=kind(graph.by_name[row.name]))
            for row in rows
            if row.status == "unsupported"
        ),
        memory=stored,
    )
