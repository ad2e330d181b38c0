"""Puts together what a page shows of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from convsmith.analysis import Analysis, analyze
from convsmith.analysis.explaining import Explanation, explain
from convsmith.analysis.field import fields
from convsmith.errors import UsageError
from convsmith.graph import Graph
from convsmith.graph.collecting import collector_at_rest
from convsmith.portrait.modules import Modules, modules
from convsmith.portrait.picture import Picture
from convsmith.portrait.views import LayerView, views
from convsmith.results import Result

if TYPE_CHECKING:
    from convsmith.rewrite import Plan
    from convsmith.runtime.bench_results import Bench

__all__ = ["EffectiveMap", "Portrait", "file_digest", "portrait"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EffectiveMap:
    """How much every pixel contributes to one unit, as measured.

    Attributes:
        layer: The layer.
        position: The unit along its image axes.
        contributions: Per pixel of the input, not negative.
        images: What it was measured on, in words.
    """

    layer: str
    position: tuple[int, ...]
    contributions: npt.NDArray[np.floating]
    images: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Portrait(Result):
    """Everything that the page of a network shows.

    Attributes:
        analysis: What every layer costs and sees.
        explanation: The formulas of every layer.
        edges: ``(source, target)`` by the places of the layers in the analysis; inputs of the
            network have the places -1, -2, ... in their order.
        outputs: Per output of the network, the place of the layer that makes it.
        modules: The boxes that layers lie in.
        replaces: Per layer, the layer of the original network that it stands for after a rewrite.
        before: The analysis of the original, where this network was made of it by a rewrite.
        input: The input that fields are seen on; empty if none has image axes.
        views: By layer, what its units see of that input.
        picture: What to draw fields on.
        bench: Times of its convolutions.
        plan: What a rewrite would put in the place of its layers; with ``before``: what it did.
        effective: Measured effective fields.
        digest: The SHA-256 of the file, or of the printed structure.
        digested: Which of the two.
        command: What made it.
    """

    analysis: Analysis
    explanation: Explanation
    edges: tuple[tuple[int, int], ...]
    outputs: Mapping[str, int]
    modules: Modules
    replaces: tuple[str, ...] = ()
    before: Analysis | None = None
    input: str = ""
    views: Mapping[str, LayerView] = field(default_factory=dict)
    picture: Picture | None = None
    bench: Bench | None = None
    plan: Plan | None = None
    effective: tuple[EffectiveMap, ...] = ()
    digest: str = ""
    digested: str = "structure"
    command: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """What the network was read from."""
        return self.analysis.source

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON-ready data, schema ``convsmith.portrait/1``; without pictures."""
        return {
            "schema": "convsmith.portrait/1",
            "analysis": self.analysis.to_dict(),
            "explanation": self.explanation.to_dict(),
            "edges": [list(edge) for edge in self.edges],
            "outputs": dict(self.outputs),
            "modules": [
                {"name": module.name, "parent": module.parent, "stage": module.is_stage}
                for module in self.modules.modules
            ],
            "parents": list(self.modules.parents),
            "replaces": list(self.replaces),
            "before": self.before and self.before.to_dict(),
            "bench": self.bench and self.bench.to_dict(),
            "plan": self.plan and self.plan.to_dict(),
            "digest": self.digest,
            "digested": self.digested,
            "command": list(self.command),
        }


def portrait(
    graph: Graph,
    *,
    picture: Picture | None = None,
    bench: Bench | None = None,
    plan: Plan | None = None,
    before: Analysis | None = None,
    effective: Sequence[EffectiveMap] = (),
    digest: str = "",
    command: Sequence[str] = (),
) -> Portrait:
    """Looks at a network from all sides.

    Args:
        graph: The network; it needs no weights.
        picture: What to draw fields on; a drawing without it.
        bench: Times of its convolutions.
        plan: What a rewrite would put in the place of its layers; with ``before``: what it did.
        before: The analysis of the original, if this network was made of it by a rewrite.
        effective: Measured effective fields.
        digest: The SHA-256 of its file; without it, its structure is digested.
        command: What to say that it was made with.

    Raises:
        UsageError: If it is no graph, or a result names layers that it does not have.
        ShapeError: If its sizes do not fit.

    >>> from convsmith.graph import parse
    >>> found = portrait(parse("3@32 > conv 8 3 p1 > relu"))
    >>> found.edges, found.views["conv1"].axes[0].at(0, 32)
    (((-1, 0), (0, 1)), (0, 1))
    """
    if not isinstance(graph, Graph):
        raise UsageError(
            f"portrait needs a network, not {type(graph).__name__}",
            remedy="read it first: convsmith.load(source)",
        )
    _check_names(graph, bench, plan, before)
    with collector_at_rest():
        analysis = analyze(graph)
        paths = _paths(graph, analysis)
        rows = zip(analysis.rows, paths, strict=True)
        analysis = replace(analysis, rows=tuple(replace(row, module=path) for row, path in rows))
        explanation = explain(graph)
        made = {value.name: -1 - place for place, value in enumerate(graph.inputs)}
        for place, node in enumerate(graph.nodes):
            made.update((value, place) for value in node.outputs)
        edges = tuple(
            dict.fromkeys(
                (made[used], place)
                for place, node in enumerate(graph.nodes)
                for used in node.inputs
                if used in made
            )
        )
        name = next((value.name for value in graph.inputs if len(value.shape) > 2), "")
        shapes = [graph.shapes[node.name] for node in graph.nodes]
        return Portrait(
            analysis=analysis,
            explanation=explanation,
            edges=edges,
            outputs={output.name: made.get(output.value, -1) for output in graph.outputs},
            modules=modules(
                [row.name for row in analysis.rows],
                paths,
                [edge for edge in edges if edge[0] >= 0],
                [None if shape is None else shape[2:] for shape in shapes],
            ),
            replaces=tuple(node.provenance.replaces for node in graph.nodes),
            before=before,
            input=name,
            views=views(graph, name, fields(graph, name)) if name else {},
            picture=picture,
            bench=bench,
            plan=plan,
            effective=tuple(effective),
            digest=digest or hashlib.sha256(str(graph).encode()).hexdigest(),
            digested="file" if digest else "structure",
            command=tuple(command),
        )


def file_digest(source: str) -> str:
    """The SHA-256 of the ``.onnx`` file that a network is read from; empty if it is in none."""
    path = Path(source.strip())
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paths(graph: Graph, analysis: Analysis) -> list[str]:
    """The module of every layer; layers that stand for one of the original's are in its box."""
    paths = [row.module for row in analysis.rows]
    chains: dict[str, list[int]] = {}
    for place, node in enumerate(graph.nodes):
        if node.provenance.replaces:
            chains.setdefault(node.provenance.replaces, []).append(place)
    for name, places in chains.items():
        if len(places) > 1:
            names = {graph.nodes[place].name: place for place in places}
            box = paths[names.get(name, places[-1])]
            for step, place in enumerate(places, 1):
                paths[place] = f"{box}.{step}"
    return paths


def _check_names(
    graph: Graph, bench: Bench | None, plan: Plan | None, before: Analysis | None
) -> None:
    """Results of another network would be shown at none of its layers."""
    known = {*graph.by_name, *(row.name for row in (before.rows if before else ()))}
    for what, names in (
        ("bench", [name for layer in bench.layers for name in layer.names] if bench else []),
        ("plan", [choice.layer for choice in plan.choices] if plan else []),
    ):
        if names and known.isdisjoint(names):
            raise UsageError(
                f"the {what} is of another network: it has no layer {names[0]!r}",
                remedy=f"give the {what} of this network",
            )
