"""What stands for every layer, before and after: the bars and the table of two pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convsmith.analysis import Analysis
from convsmith.report import measures, wording
from convsmith.report.as_data.portrait import merged
from convsmith.report.measures import LayerChange
from convsmith.report.pages import Bar, Card, Cell, Heading, Line, number, typeset
from convsmith.rewrite import Plan

__all__ = ["changes", "plan_section"]

_COLUMNS = (
    Heading(heading="layer"),
    Heading(heading="what it was"),
    Heading(heading="form"),
    Heading(heading="what stands for it"),
    Heading(heading="MACs before", numeric=True, title="multiply-accumulates"),
    Heading(heading="after", numeric=True),
    Heading(heading="ratio", numeric=True),
)
_TIMES = (
    Heading(heading="ms", numeric=True, title="milliseconds in convsmith, the layer alone"),
    Heading(heading="after", numeric=True),
)
_ERROR = Heading(heading="error", numeric=True)
_AS_FITTED = Heading(
    heading="error as fitted", numeric=True, title="root of squared error over variance"
)


def changes(lines: Sequence[LayerChange], plan: Plan, original: Analysis) -> Mapping[str, Any]:
    """What both sections show of the layers: bars, columns, rows and their sum.

    Args:
        lines: What became of every layer.
        plan: What was decided.
        original: The network as it was.
    """
    was = {row.name: row.text for row in original.rows}
    for into, layers in merged(plan).items():
        was[into] = " > ".join(was[layer] for layer in layers if layer in was)
    timed = any(line.times for line in lines)
    measured = any(line.error is not None for line in lines)
    return {
        "chart": _chart(lines),
        "columns": (*_COLUMNS, *(_TIMES if timed else ()), _ERROR if measured else _AS_FITTED),
        "rows": [_line(line, was.get(line.name, ""), timed) for line in lines],
        "total": _total(lines, timed),
    }


def plan_section(plan: Plan, original: Analysis) -> Mapping[str, Any]:
    """What the section of a plan shows."""
    lines = measures.layers(plan, {})
    return {"budget": measures.budget(plan), "card": _card(lines), **changes(lines, plan, original)}


def _chart(lines: Sequence[LayerChange]) -> list[Bar]:
    largest = max((max(line.before, line.after) for line in lines), default=0) or 1
    return [
        Bar(
            name=line.name,
            before=round(100 * line.before / largest, 3),
            after=round(100 * line.after / largest, 3),
            text=f"{wording.short(line.before)}, kept"
            if line.kept
            else f"{wording.short(line.before)} → {wording.short(line.after)}",
        )
        for line in lines
    ]


def _line(line: LayerChange, was: str, timed: bool) -> Line:
    ratio = line.before / line.after if line.after else 0.0
    error = line.fit if line.error is None else line.error
    times = [
        number(measures.milliseconds(value) if line.times else "", value)
        for value in line.times or (0.0, 0.0)
    ]
    return Line(
        cells=(
            Cell(text=line.name),
            Cell(text=was, kind="notation"),
            Cell(text=line.form),
            Cell(text=line.text, kind="notation"),
            number(wording.exact(line.before), line.before),
            number(wording.exact(line.after), line.after),
            number(typeset(line.ratio), ratio),
            *(times if timed else ()),
            number("" if line.kept else measures.percent(error), error),
        ),
        kind="kept" if line.kept else "",
    )


def _total(lines: Sequence[LayerChange], timed: bool) -> Line:
    before, after = sum(line.before for line in lines), sum(line.after for line in lines)
    times = [
        number(measures.milliseconds(sum(line.times[side] for line in lines if line.times)), 0)
        for side in (0, 1)
    ]
    return Line(
        cells=(
            Cell(text="these layers"),
            *(Cell(text="") for _ in range(3)),
            number(wording.exact(before), before),
            number(wording.exact(after), after),
            number(f"{before / after:.2f}×" if after else "", 0),
            *(times if timed else ()),
            Cell(text=""),
        )
    )


def _card(lines: Sequence[LayerChange]) -> Card | None:
    """What the plan comes to."""
    before, after = sum(line.before for line in lines), sum(line.after for line in lines)
    if not before:
        return None
    return Card(
        value=typeset(wording.change(before, after)),
        label="multiply-accumulates of these layers",
        detail=f"{wording.short(before)} → {wording.short(after)};"
        f" {sum(not line.kept for line in lines)} of {len(lines)} layers replaced",
        kind="good" if after < before else "",
    )
