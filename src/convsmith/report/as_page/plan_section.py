"""A plan in the page of a network: before and after, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convsmith.report import measures, wording
from convsmith.report.measures import LayerChange
from convsmith.report.pages import Bar, Card, Cell, Heading, Line, number, typeset
from convsmith.rewrite import Plan

__all__ = ["plan_section"]

_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="form"),
    Heading(heading="what stands for it"),
    Heading(heading="MACs before", numeric=True, title="multiply-accumulates"),
    Heading(heading="after", numeric=True),
    Heading(heading="ratio", numeric=True),
    Heading(heading="error as fitted", numeric=True, title="root of squared error over variance"),
)


def plan_section(plan: Plan) -> Mapping[str, Any]:
    """What the section shows."""
    lines = measures.layers(plan, {})
    return {
        "budget": measures.budget(plan),
        "columns": _COLUMNS,
        "rows": [_change(line) for line in lines],
        "chart": _chart(lines),
        "total": _total(lines),
    }


def _change(line: LayerChange) -> Line:
    ratio = line.before / line.after if line.after else 0.0
    return Line(
        cells=(
            Cell(text=line.name),
            Cell(text=line.form),
            Cell(text=line.text, kind="notation"),
            number(wording.exact(line.before), line.before),
            number(wording.exact(line.after), line.after),
            number(typeset(line.ratio), ratio),
            number("" if line.kept else measures.percent(line.fit), line.fit),
        ),
        kind="kept" if line.kept else "",
    )


def _chart(changes: Sequence[LayerChange]) -> list[Bar]:
    largest = max((max(line.before, line.after) for line in changes), default=0) or 1
    return [
        Bar(
            name=line.name,
            before=round(100 * line.before / largest, 3),
            after=round(100 * line.after / largest, 3),
            text=f"{wording.short(line.before)}, kept"
            if line.kept
            else f"{wording.short(line.before)} → {wording.short(line.after)}",
        )
        for line in changes
    ]


def _total(changes: Sequence[LayerChange]) -> Card | None:
    before, after = sum(line.before for line in changes), sum(line.after for line in changes)
    if not before:
        return None
    return Card(
        value=typeset(wording.change(before, after)),
        label="multiply-accumulates of these layers",
        detail=f"{wording.short(before)} → {wording.short(after)};"
        f" {sum(not line.kept for line in changes)} of {len(changes)} layers replaced",
        kind="good" if after < before else "",
    )
