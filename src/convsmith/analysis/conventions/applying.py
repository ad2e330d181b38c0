"""An analysis in the numbers of another tool."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from convsmith.analysis.conventions.convention import Convention, find_convention
from convsmith.analysis.conventions.counting import Counted, count

if TYPE_CHECKING:
    from convsmith.analysis.analysis import Analysis
    from convsmith.analysis.ledger import Row
    from convsmith.graph import Graph

__all__ = ["apply"]


def apply(analysis: Analysis, graph: Graph, convention: str) -> Analysis:
    """Returns an exact analysis with the counts of a tool or paper in its rows and totals.

    ``macs`` and ``mults`` are what the tool counts as multiply-accumulates. Where it gives
    nothing else, ``adds`` are as many; a tool that gives operations has them in ``flops``.
    Bytes and receptive fields stay.

    Args:
        analysis: The exact analysis.
        graph: The network that it is of.
        convention: The name, as :func:`find_convention` takes it.

    Raises:
        UsageError: If there is no such convention.
    """
    rule = find_convention(convention)
    if rule is None:
        return analysis
    counted = count(graph, rule)
    rows = tuple(_row(row, counted[row.name], rule) for row in analysis.rows)
    params = rule.parameters(graph) if rule.parameters is not None else None
    total = replace(
        analysis.total,
        params=analysis.total.params if params is None else params,
        macs=sum(row.macs for row in rows),
        mults=sum(row.mults for row in rows),
        adds=sum(row.adds for row in rows),
        others=sum(row.others for row in rows),
    )
    return replace(analysis, convention=rule.name, rows=rows, total=total)


def _row(row: Row, counted: Counted, rule: Convention) -> Row:
    macs, adds, others = counted.macs, counted.of("add"), counted.of("other")
    if rule.reports == "macs" and not adds:
        adds = macs
    counts = replace(row, macs=macs, mults=macs, adds=adds, others=others)
    if counts.flops:
        return replace(counts, status="counted", reason="")
    if row.status == "counted":
        return replace(counts, status="free", reason=f"{rule.tool} does not count it")
    return counts
